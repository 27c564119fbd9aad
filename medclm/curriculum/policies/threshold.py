"""`threshold`: the stage follows from how large the domain's loss still is. Pure; imports no torch.

    average > 2.0 -> Easy,  average > 1.5 -> Medium,  else Hard

Source: the other published version of the MedCLM schedule (numbers only), mended: there a domain's average began at infinity,
and since the start value never left it, the domain stayed Easy for ever. Here a domain is Easy until it was observed
`min_observations` times, then its average decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medclm.config import CurriculumSection, ThresholdSection
from medclm.curriculum.averages import Averages, domain_means
from medclm.types import Observation, Stage


class ThresholdPolicy:
    """One stage per domain at a time, by the average loss of all its samples; the state is that average, (domains,).

    The average mixes stages: a domain sent to Hard may rise above a threshold again and go back, which is meant.
    """

    name = "threshold"

    def __init__(self, section: ThresholdSection, *, domains: int) -> None:
        self.section, self.domains = section, domains

    def initial(self) -> Averages:
        return Averages.unseen_domains(self.domains, self.section.decay)

    def observe(self, state: Averages, observation: Observation) -> Averages:
        means, seen = domain_means(observation, domains=self.domains)
        return state.blended(means, seen)

    def probabilities(self, state: Averages, domains: np.ndarray, progress: float) -> np.ndarray:
        warm_up = progress < self.section.easy_only_until
        return np.eye(3)[np.where(warm_up, Stage.EASY, self.stages(state)[domains])]

    def stages(self, state: Averages) -> np.ndarray:
        """(domains,) int64 of `Stage`, after the warm-up."""
        section, average = self.section, state.value
        easy = (state.count < section.min_observations) | (average > section.easy_above)
        return np.where(easy, Stage.EASY, np.where(average > section.medium_above, Stage.MEDIUM, Stage.HARD))

    def report(self, state: Averages, progress: float) -> dict[str, float]:
        """Share of the domains at each stage, the warm-up aside."""
        shares = np.bincount(self.stages(state), minlength=3) / self.domains
        return {f"domains_{stage.key}": float(shares[stage]) for stage in Stage}

    def domain_report(self, state: Averages) -> dict[str, np.ndarray]:
        return {"average": state.value}

    def to_json(self, state: Averages) -> dict[str, Any]:
        return state.to_json()

    def from_json(self, tree: dict[str, Any]) -> Averages:
        return Averages.from_json(tree)


def _make(section: CurriculumSection, *, domains: int, total_steps: int) -> ThresholdPolicy:
    return ThresholdPolicy(section.threshold, domains=domains)


POLICIES = {"threshold": _make}
