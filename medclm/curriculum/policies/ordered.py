"""One stage after the other: `sequential` (Easy, Medium, Hard) and `reverse` (Hard, Medium, Easy). Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medclm.config import CurriculumSection
from medclm.curriculum.policy import StatelessPolicy
from medclm.types import Stage


class OrderedPolicy(StatelessPolicy):
    """Every stage has its share of the run in one piece; hard switches; no loss is looked at.

    `reverse` gives each stage the share that `sequential` gives it: the two runs see the same mixture and differ in its order.
    """

    def __init__(self, name: str, shares: Sequence[float], order: Sequence[Stage]) -> None:
        """`shares` (3,) of Easy, Medium, Hard; a stage without a share is left out."""
        self.name, self.order = name, [stage for stage in order if shares[stage] > 0]
        self.switches = np.cumsum([shares[stage] for stage in self.order])[:-1]
        """Progress at which the second, third stage of `order` begins."""

    def probabilities(self, state: None, domains: np.ndarray, progress: float) -> np.ndarray:
        stage = self.order[int(np.searchsorted(self.switches, progress, side="right"))]
        return np.tile(np.eye(3)[stage], (len(domains), 1))

    def report(self, state: None, progress: float) -> dict[str, float]:
        return {}


def _sequential(section: CurriculumSection, *, domains: int, total_steps: int) -> OrderedPolicy:
    return OrderedPolicy("sequential", section.sequential, order=list(Stage))


def _reverse(section: CurriculumSection, *, domains: int, total_steps: int) -> OrderedPolicy:
    return OrderedPolicy("reverse", section.sequential, order=list(Stage)[::-1])


POLICIES = {"sequential": _sequential, "reverse": _reverse}
