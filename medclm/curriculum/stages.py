"""The method as a table: what a sample is at each stage. Imports no torch.

Source: the MedCLM paper's figure of the three stages; the response instruction is ours (without it the stages contradict
each other on equal prompts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medclm.types import Stage


@dataclass(frozen=True)
class StageRule:
    """What a record looks like at one stage."""

    stage: Stage
    partner_image: bool
    """Another image of the same domain instead of the record's own."""
    box_drawn: bool
    """The lesion's box is drawn on the pixels."""
    rationale: bool
    """The target holds a chain of thought before its answer."""
    instruction: str
    """How the question ends: `reason` or `direct` (medclm/data/render.py has the words)."""


STAGE_RULES = {
    Stage.EASY: StageRule(stage=Stage.EASY, partner_image=False, box_drawn=True, rationale=True, instruction="reason"),
    Stage.MEDIUM: StageRule(stage=Stage.MEDIUM, partner_image=False, box_drawn=False, rationale=True, instruction="reason"),
    Stage.HARD: StageRule(stage=Stage.HARD, partner_image=True, box_drawn=False, rationale=False, instruction="direct"),
}

FALLBACK = (Stage.MEDIUM, Stage.EASY, Stage.HARD)
"""Where a sample goes, in this order, when its record does not offer the wanted stage."""


def resolve_stages(wanted: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """The stages that are really given.

    Args:
        wanted: (G,) uint8 of `Stage`.
        offered: (G, 3) bool, which stages each record offers; column = stage.

    Returns:
        (G,) uint8: `wanted` where offered, else the first offered stage of `FALLBACK`.

    Raises:
        ValueError: a record offers no stage at all (index named).
    """
    if not offered.any(axis=1).all():
        raise ValueError(f"sample {int(np.flatnonzero(~offered.any(axis=1))[0])} of the global batch offers no stage at all")
    order = np.asarray(FALLBACK, dtype=np.uint8)
    fallback = order[np.argmax(offered[:, order], axis=1)]
    kept = offered[np.arange(len(wanted)), wanted]
    return np.where(kept, wanted, fallback).astype(np.uint8)
