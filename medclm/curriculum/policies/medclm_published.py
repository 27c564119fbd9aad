"""The published curriculum formula as it is, for comparison only. Pure; imports no torch.

Known faults, kept on purpose and pinned by a test: the gap has the opposite sign of its purpose, so with Medium 10 % above
Easy its share stays 0.0025; Hard waits for a median gap of 0.6 that never comes; the averages hold 0.9 of the NEW value and
start at 1e-3 whatever the loss. Source: the published MedCLM code (numbers only).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medclm.config import CurriculumSection
from medclm.curriculum.averages import step_means
from medclm.curriculum.policy import sigmoid, stage_chances
from medclm.types import Observation, Stage

EASY_ONLY_EPOCHS, RAMP_EPOCHS, HARD_FROM_EPOCH = 4, 10, 19
NEW_WEIGHT, DOMAIN_START, GLOBAL_START = 0.9, 1e-3, 1e-4
GAP_CENTRE, GAP_WIDTH = 0.5, 0.1
HARD_GAP, HARD_STEP, HARD_MAX, SHRINK = 0.6, 0.05, 0.3, 0.9
PLATEAU, PLATEAU_EPOCHS, WORSENING = 0.01, 5, 0.05


@dataclass(frozen=True)
class PublishedState:
    average: np.ndarray
    """(domains, 3) float64, started at 1e-3."""
    overall: float
    """Average over everything, started at 1e-4."""
    overall_before: float
    """`overall` at the end of the last epoch."""
    epoch: int
    flat_epochs: int
    hard: float


class PublishedPolicy:
    """`medclm_published`: decisions once an epoch, an epoch being 1 / `epochs` of the run."""

    name = "medclm_published"

    def __init__(self, *, domains: int, epochs: int) -> None:
        self.domains, self.epochs = domains, epochs

    def initial(self) -> PublishedState:
        start = np.full((self.domains, 3), DOMAIN_START)
        return PublishedState(start, overall=GLOBAL_START, overall_before=GLOBAL_START, epoch=0, flat_epochs=0, hard=0.0)

    def observe(self, state: PublishedState, observation: Observation) -> PublishedState:
        epoch = int(observation.progress * self.epochs)
        if epoch > state.epoch:
            state = self._close_epoch(state, epoch)
        means, seen = step_means(observation, domains=self.domains)
        average = np.where(seen, NEW_WEIGHT * means + (1 - NEW_WEIGHT) * state.average, state.average)
        average = np.maximum(average, np.finfo(np.float64).tiny)  # hundreds of losses of 0 would else divide by 0
        mean = float(observation.losses.astype(np.float64).mean())
        return replace(state, average=average, overall=NEW_WEIGHT * mean + (1 - NEW_WEIGHT) * state.overall)

    def _close_epoch(self, state: PublishedState, epoch: int) -> PublishedState:
        change = (state.overall - state.overall_before) / state.overall_before
        flat = state.flat_epochs + 1 if abs(change) <= PLATEAU else 0
        hard = state.hard
        if epoch >= HARD_FROM_EPOCH and flat >= PLATEAU_EPOCHS and float(np.median(self.gaps(state))) >= HARD_GAP:
            hard = min(HARD_MAX, hard + HARD_STEP)
        elif change >= WORSENING:
            hard *= SHRINK
        return replace(state, overall_before=state.overall, epoch=epoch, flat_epochs=flat, hard=hard)

    def gaps(self, state: PublishedState) -> np.ndarray:
        """(domains,) float64: (m_easy - m_medium) / m_easy."""
        easy = state.average[:, Stage.EASY]
        return np.asarray((easy - state.average[:, Stage.MEDIUM]) / easy)

    def probabilities(self, state: PublishedState, domains: np.ndarray, progress: float) -> np.ndarray:
        epoch = progress * self.epochs
        ramp = float(np.clip((epoch - EASY_ONLY_EPOCHS) / RAMP_EPOCHS, 0, 1))
        medium = ramp * sigmoid((self.gaps(state) - GAP_CENTRE) / GAP_WIDTH)
        return stage_chances(medium[domains], state.hard if epoch >= HARD_FROM_EPOCH else 0.0)

    def report(self, state: PublishedState, progress: float) -> dict[str, float]:
        return {"hard_budget": state.hard, "median_gap": float(np.median(self.gaps(state)))}

    def domain_report(self, state: PublishedState) -> dict[str, np.ndarray]:
        return {"easy": state.average[:, Stage.EASY], "medium": state.average[:, Stage.MEDIUM], "gap": self.gaps(state)}

    def to_json(self, state: PublishedState) -> dict[str, Any]:
        return {**asdict(state), "average": state.average.tolist()}

    def from_json(self, tree: dict[str, Any]) -> PublishedState:
        return PublishedState(**{**tree, "average": np.asarray(tree["average"], float)})


def _make(section: CurriculumSection, *, domains: int, total_steps: int) -> PublishedPolicy:
    return PublishedPolicy(domains=domains, epochs=section.published_epochs)


POLICIES = {"medclm_published": _make}
