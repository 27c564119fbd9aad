"""Baselines whose shares never change: `mixture`, `easy_only`, `medium_only`, `hard_only`. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medclm.config import CurriculumSection
from medclm.curriculum.policy import Maker, StatelessPolicy
from medclm.types import Stage


class FixedPolicy(StatelessPolicy):
    """The same shares from the first step to the last: `mixture`, `easy_only`, `medium_only`, `hard_only`."""

    def __init__(self, name: str, shares: Sequence[float]) -> None:
        self.name, self.shares = name, np.asarray(shares, dtype=np.float64)

    def probabilities(self, state: None, domains: np.ndarray, progress: float) -> np.ndarray:
        return np.tile(self.shares, (len(domains), 1))

    def report(self, state: None, progress: float) -> dict[str, float]:
        return {"hard_budget": float(self.shares[Stage.HARD])}


def _mixture(section: CurriculumSection, *, domains: int, total_steps: int) -> FixedPolicy:
    return FixedPolicy("mixture", section.mixture)


def _only(stage: Stage) -> Maker:
    shares = np.eye(3)[stage]
    name = f"{stage.key}_only"
    return lambda section, *, domains, total_steps: FixedPolicy(name, shares)


POLICIES = {"mixture": _mixture, **{f"{stage.key}_only": _only(stage) for stage in Stage}}
