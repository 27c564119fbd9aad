"""`learning_progress`: each domain is shown the stages on which its loss is moving. Pure; imports no torch.

A bandit on absolute learning progress: Graves et al. 2017 (arXiv 1704.03003: reward is the decrease of the loss), Portelas et
al. 2019 (arXiv 1910.07224: its absolute value, so that forgetting draws attention too; sampling in proportion to it, beside a
share of plain exploration). The measure of progress is ours. Per cell, a domain at a stage, with a < b the decays of a fast
and a slow bias-corrected average F_n and S_n after n observations of the cell:

    slope      s = (S_n - F_n) / (age_b(n) - age_a(n)),  age_d(n) = d / (1 - d) - n d^n / (1 - d^n)
    its error  e = sqrt(w(n) V) / (age_b(n) - age_a(n)), w(n) = c(a, a) - 2 c(a, b) + c(b, b)
               c(x, y) = (1 - x)(1 - y)(1 - (xy)^n) / ((1 - xy)(1 - x^n)(1 - y^n))
    progress   p = min(1, max(0, |s| - noise e) / m0)
    chance     explore + (1 - 3 explore) (p_stage + tiny) / sum over the stages of (p + tiny)

- age_d(n) is the mean age, in observations, of what an average of decay d holds: on a straight line F and S differ by exactly
  slope times the difference of their ages, at any n. So a young cell is judged on the same scale as an old one.
- w(n) is the variance of S_n - F_n for noise of unit variance: the squared difference of their weights, summed. V is the
  average squared distance of a new mean from F. A cell that only flickers has |s| about e and so next to no progress; without
  this the noisiest stage would win for ever.
- m0 is the cell's average when it reached min_observations, fixed from then on. Stages with losses of another size compare,
  and a mastered cell fades: dividing by its present loss would go on rewarding the way from 0.001 to 0.0001.
- A cell that is not known yet is given the mean progress of its stage over the domains that know it, 0 where none does: a
  domain that appears in mid-run begins as the others are, and a stage no record offers stays at its exploration share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medclm.config import CurriculumSection, LearningProgressSection
from medclm.curriculum.averages import Averages, nullable, step_means
from medclm.types import Observation, Stage

TINY = 1e-6
"""Progress per observation, in units of m0, below which stages share alike: no division by zero, no verdict on rounding."""


@dataclass(frozen=True)
class ProgressState:
    fast: Averages
    slow: Averages
    scatter: Averages
    """V: squared distance of a step's mean from the fast average before it; counts one less than `fast`."""
    start: np.ndarray
    """(domains, 3) float64 m0: the slow average when the cell reached min_observations; NaN before."""


class LearningProgressPolicy:
    """See the page's head; all arrays are (domains, 3), float64."""

    name = "learning_progress"

    def __init__(self, section: LearningProgressSection, *, domains: int) -> None:
        self.section, self.domains = section, domains

    def initial(self) -> ProgressState:
        return ProgressState(
            fast=Averages.unseen(self.domains, self.section.fast),
            slow=Averages.unseen(self.domains, self.section.slow),
            scatter=Averages.unseen(self.domains, self.section.fast),
            start=np.full((self.domains, 3), np.nan),
        )

    def observe(self, state: ProgressState, observation: Observation) -> ProgressState:
        means, seen = step_means(observation, domains=self.domains)
        slow = state.slow.blended(means, seen)
        reached = np.isnan(state.start) & (slow.count >= self.section.min_observations)
        distance = np.where(state.fast.count > 0, means - state.fast.value, 0.0)
        return ProgressState(
            fast=state.fast.blended(means, seen),
            slow=slow,
            scatter=state.scatter.blended(distance**2, seen & (state.fast.count > 0)),
            start=np.where(reached, slow.value, state.start),
        )

    def progress(self, state: ProgressState) -> np.ndarray:
        """(domains, 3) float64 p, 0..1, in fractions of m0 per observation; NaN where not known yet."""
        fast, slow, least = state.fast, state.slow, self.section.min_observations
        count = np.maximum(fast.count, least)  # below, both ages meet at 0; such cells are NaN by `start`
        ages = mean_age(slow.decay, count) - mean_age(fast.decay, count)
        slope = (slow.value - fast.value) / ages
        error = np.sqrt(difference_variance(fast.decay, slow.decay, count) * state.scatter.value) / ages
        moving = np.maximum(0.0, np.abs(slope) - self.section.noise * error)
        return np.asarray(np.minimum(1.0, moving / np.maximum(state.start, 1e-6)))

    def probabilities(self, state: ProgressState, domains: np.ndarray, progress: float) -> np.ndarray:
        own = self.progress(state)
        wish = np.where(np.isnan(own), _stage_means(own), own) + TINY
        explore = self.section.explore
        chances = explore + (1 - 3 * explore) * wish / wish.sum(axis=1, keepdims=True)
        return np.asarray(chances[domains])

    def report(self, state: ProgressState, progress: float) -> dict[str, float]:
        means = _stage_means(self.progress(state))
        return {f"progress_{stage.key}": float(means[stage]) for stage in Stage}

    def domain_report(self, state: ProgressState) -> dict[str, np.ndarray]:
        progress = self.progress(state)
        return {f"progress_{stage.key}": progress[:, stage] for stage in Stage}

    def to_json(self, state: ProgressState) -> dict[str, Any]:
        averages = {"fast": state.fast.to_json(), "slow": state.slow.to_json(), "scatter": state.scatter.to_json()}
        return {**averages, "start": nullable(state.start)}

    def from_json(self, tree: dict[str, Any]) -> ProgressState:
        return ProgressState(
            fast=Averages.from_json(tree["fast"]),
            slow=Averages.from_json(tree["slow"]),
            scatter=Averages.from_json(tree["scatter"]),
            start=np.asarray(tree["start"], dtype=float),
        )


def mean_age(decay: float, count: np.ndarray) -> np.ndarray:
    """Mean age in observations, the newest being 0, of what a bias-corrected average holds after `count` >= 1 of them."""
    kept = decay**count
    return np.asarray(decay / (1 - decay) - count * kept / (1 - kept))


def difference_variance(fast: float, slow: float, count: np.ndarray) -> np.ndarray:
    """Variance of the difference of two bias-corrected averages of the same `count` independent values of unit variance."""

    def overlap(x: float, y: float) -> np.ndarray:
        return np.asarray((1 - x) * (1 - y) * (1 - (x * y) ** count) / ((1 - x * y) * (1 - x**count) * (1 - y**count)))

    return np.asarray(np.maximum(0.0, overlap(fast, fast) - 2 * overlap(fast, slow) + overlap(slow, slow)))


def _stage_means(progress: np.ndarray) -> np.ndarray:
    """(3,) float64: the mean over the domains that know a stage, 0 where none does."""
    known = ~np.isnan(progress)
    return np.asarray(np.where(known, progress, 0.0).sum(axis=0) / np.maximum(1, known.sum(axis=0)))


def _make(section: CurriculumSection, *, domains: int, total_steps: int) -> LearningProgressPolicy:
    return LearningProgressPolicy(section.learning_progress, domains=domains)


POLICIES = {"learning_progress": _make}
