"""`medclm`: the published intent, mended. Pure; imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medclm.config import CurriculumSection, MedclmSection
from medclm.curriculum.averages import Averages, nullable
from medclm.curriculum.policy import sigmoid, stage_chances
from medclm.types import Observation, Stage


@dataclass(frozen=True)
class MedclmState:
    averages: Averages
    easy_start: np.ndarray
    """(domains,) float64 m0: the Easy average when the domain reached min_observations; NaN before."""
    hard: float
    """Hard budget h."""
    steps: int
    """Applied steps observed."""
    window_values: np.ndarray
    """(domains, 2) float64: the Easy and Medium averages at the end of the last window, NaN where unseen then."""
    flat_windows: int
    """Windows in a row whose average hardly changed."""


class MedclmPolicy:
    """The published intent, mended: Medium comes in as the Easy-Medium gap closes, Hard at a plateau.

    gap_d = (m_medium - m_easy) / m0_d, with m0_d fixed early: dividing by the current Easy average would explode as Easy is
    mastered, and the policy would never leave Easy.
    """

    name = "medclm"

    def __init__(self, section: MedclmSection, *, domains: int, total_steps: int) -> None:
        self.section, self.domains = section, domains
        self.window = max(50, -(-total_steps // 100))

    def initial(self) -> MedclmState:
        return MedclmState(
            averages=Averages.unseen(self.domains, self.section.decay),
            easy_start=np.full(self.domains, np.nan),
            hard=0.0,
            steps=0,
            window_values=np.full((self.domains, 2), np.nan),
            flat_windows=0,
        )

    def observe(self, state: MedclmState, observation: Observation) -> MedclmState:
        averages = state.averages.updated(observation)
        reached = np.isnan(state.easy_start) & (averages.count[:, Stage.EASY] >= self.section.min_observations)
        easy_start = np.where(reached, averages.value[:, Stage.EASY], state.easy_start)
        state = replace(state, averages=averages, easy_start=easy_start, steps=state.steps + 1)
        if state.steps % self.window == 0:
            state = self._close_window(state, observation.progress)
        return state

    def _close_window(self, state: MedclmState, progress: float) -> MedclmState:
        """One decision about the Hard budget.

        G is compared over the cells seen at both ends: a domain that comes late would move it by its mere presence.
        """
        section = self.section
        values = np.where(self._seen(state), state.averages.value, np.nan)[:, : Stage.HARD]
        common = np.isfinite(values) & np.isfinite(state.window_values)
        if not common.any():  # the first window
            return replace(state, window_values=values)
        before = float(state.window_values[common].mean())
        change = (float(values[common].mean()) - before) / max(before, 1e-12)
        flat = state.flat_windows + 1 if abs(change) <= section.plateau else 0
        hard, gap = state.hard, self.median_gap(state)
        if progress >= section.hard_from and flat >= section.plateau_windows and gap <= section.hard_gap:
            hard = min(section.hard_max, hard + section.hard_step)
        elif change >= section.worsening:
            hard *= section.shrink
        return replace(state, hard=hard, window_values=values, flat_windows=flat)

    def _seen(self, state: MedclmState) -> np.ndarray:
        return state.averages.count >= self.section.min_observations

    def gaps(self, state: MedclmState) -> np.ndarray:
        """(domains,) float64 relative gaps, NaN where Easy or Medium is unseen."""
        seen, value = self._seen(state), state.averages.value
        known = seen[:, Stage.EASY] & seen[:, Stage.MEDIUM] & ~np.isnan(state.easy_start)
        gap = (value[:, Stage.MEDIUM] - value[:, Stage.EASY]) / np.maximum(state.easy_start, 1e-6)
        return np.where(known, gap, np.nan)

    def median_gap(self, state: MedclmState) -> float:
        gaps = self.gaps(state)
        return float(np.median(gaps[~np.isnan(gaps)])) if (~np.isnan(gaps)).any() else float("nan")

    def ramp(self, progress: float) -> float:
        """How far Medium is let in, 0..1."""
        return float(np.clip((progress - self.section.easy_only_until) / self.section.ramp, 0, 1))

    def hard_share(self, state: MedclmState, progress: float) -> float:
        """Share of Hard: the budget, once its time has come."""
        return state.hard if progress >= self.section.hard_from else 0.0

    def probabilities(self, state: MedclmState, domains: np.ndarray, progress: float) -> np.ndarray:
        section, ramp = self.section, self.ramp(progress)
        wish = ramp * sigmoid((section.gap_centre - self.gaps(state)) / section.gap_width)
        floor = section.explore if ramp > 0 else 0.0
        medium = np.fmax(floor, wish)[domains]  # fmax: an unseen gap (NaN) leaves the exploration floor
        return stage_chances(medium, self.hard_share(state, progress))

    def report(self, state: MedclmState, progress: float) -> dict[str, float]:
        known = state.window_values[np.isfinite(state.window_values)]
        return {
            "ramp": self.ramp(progress),
            "hard_budget": state.hard,
            "hard_share": self.hard_share(state, progress),
            "median_gap": self.median_gap(state),
            "flat_windows": float(state.flat_windows),
            "window_average": float(known.mean()) if len(known) else float("nan"),
        }

    def domain_report(self, state: MedclmState) -> dict[str, np.ndarray]:
        value = state.averages.value
        return {
            "easy": value[:, Stage.EASY],
            "medium": value[:, Stage.MEDIUM],
            "hard": value[:, Stage.HARD],
            "gap": self.gaps(state),
        }

    def to_json(self, state: MedclmState) -> dict[str, Any]:
        return {
            **asdict(state),
            "averages": state.averages.to_json(),
            "easy_start": nullable(state.easy_start),
            "window_values": nullable(state.window_values),
        }

    def from_json(self, tree: dict[str, Any]) -> MedclmState:
        return MedclmState(
            averages=Averages.from_json(tree["averages"]),
            easy_start=np.asarray(tree["easy_start"], dtype=float),
            hard=tree["hard"],
            steps=tree["steps"],
            window_values=np.asarray(tree["window_values"], dtype=float),
            flat_windows=tree["flat_windows"],
        )


def _make(section: CurriculumSection, *, domains: int, total_steps: int) -> MedclmPolicy:
    return MedclmPolicy(section.medclm, domains=domains, total_steps=total_steps)


POLICIES = {"medclm": _make}
