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
    paired: Averages
    """(2,) Easy's and Medium's mean loss over the steps that had both."""
    read_at: float
    """Progress at which Easy's box was read; NaN before."""


class MedclmPolicy:
    """The published intent, mended: Easy until its box is read, Medium as the Easy-Medium gap closes, Hard at a plateau.

    gap_d = (m_medium - m_easy) / m0_d, with m0_d fixed early: dividing by the current Easy average would explode as Easy is
    mastered, and the policy would never leave Easy.

    The box is read when it helps: excess = (Medium - Easy) / Easy, of averages over the same steps. The averages per domain do not
    show it in time, as at its exploration share a domain's Medium is observed far less often than its Easy.
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
            paired=Averages(raw=np.zeros(2), count=np.zeros(2, dtype=np.int64), decay=self.section.read_decay),
            read_at=float("nan"),
        )

    def observe(self, state: MedclmState, observation: Observation) -> MedclmState:
        averages = state.averages.updated(observation)
        reached = np.isnan(state.easy_start) & (averages.count[:, Stage.EASY] >= self.section.min_observations)
        easy_start = np.where(reached, averages.value[:, Stage.EASY], state.easy_start)
        state = replace(state, averages=averages, easy_start=easy_start, steps=state.steps + 1)
        state = self._compare(state, observation)
        if state.steps % self.window == 0:
            state = self._close_window(state, observation.progress)
        return state

    def _compare(self, state: MedclmState, observation: Observation) -> MedclmState:
        """Easy against Medium in one step; when Easy's box is read, `read_at`."""
        count = np.bincount(observation.stages, minlength=3)[: Stage.HARD]
        if not count.all():
            return state
        total = np.bincount(observation.stages, weights=observation.losses.astype(np.float64), minlength=3)[: Stage.HARD]
        state = replace(state, paired=state.paired.blended(total / count, count > 0))
        known = state.paired.count[Stage.EASY] * (1 - self.section.read_decay) >= 1  # as many steps as the averages remember
        read = known and observation.progress >= self.section.easy_only_until and self.excess(state) >= self.section.read_gap
        return replace(state, read_at=observation.progress) if read and np.isnan(state.read_at) else state

    def excess(self, state: MedclmState) -> float:
        """Medium's loss above Easy's over the same steps, as a part of Easy's; NaN before the first."""
        easy, medium = state.paired.value
        return float((medium - easy) / np.maximum(easy, 1e-6))

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
        if self.hard_may_grow(state, progress) and flat >= section.plateau_windows and gap <= section.hard_gap:
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

    def ramp_begins(self, state: MedclmState) -> float:
        """Progress from which Medium is let in, as far as it is known yet."""
        return float(max(self.section.easy_only_until, np.fmin(state.read_at, self.section.easy_at_most)))

    def ramp(self, state: MedclmState, progress: float) -> float:
        """How far Medium is let in, 0..1."""
        return float(np.clip((progress - self.ramp_begins(state)) / self.section.ramp, 0, 1))

    def hard_may_grow(self, state: MedclmState, progress: float) -> bool:
        """Whether Hard's time has come; once it has, it stays."""
        return progress >= max(self.section.hard_from, self.ramp_begins(state) + self.section.ramp)

    def probabilities(self, state: MedclmState, domains: np.ndarray, progress: float) -> np.ndarray:
        section = self.section
        wish = self.ramp(state, progress) * sigmoid((section.gap_centre - self.gaps(state)) / section.gap_width)
        floor = section.explore if progress > section.easy_only_until else 0.0
        medium = np.fmax(floor, wish)[domains]  # fmax: an unseen gap (NaN) leaves the exploration floor
        return stage_chances(medium, state.hard)

    def report(self, state: MedclmState, progress: float) -> dict[str, float]:
        known = state.window_values[np.isfinite(state.window_values)]
        return {
            "excess": self.excess(state),
            "read_at": state.read_at,
            "ramp": self.ramp(state, progress),
            "hard_budget": state.hard,
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
            "paired": state.paired.to_json(),
            "read_at": None if np.isnan(state.read_at) else state.read_at,
        }

    def from_json(self, tree: dict[str, Any]) -> MedclmState:
        return MedclmState(
            averages=Averages.from_json(tree["averages"]),
            easy_start=np.asarray(tree["easy_start"], dtype=float),
            hard=tree["hard"],
            steps=tree["steps"],
            window_values=np.asarray(tree["window_values"], dtype=float),
            flat_windows=tree["flat_windows"],
            paired=Averages.from_json(tree["paired"]),
            read_at=float("nan") if tree["read_at"] is None else tree["read_at"],
        )


def _make(section: CurriculumSection, *, domains: int, total_steps: int) -> MedclmPolicy:
    return MedclmPolicy(section.medclm, domains=domains, total_steps=total_steps)


POLICIES = {"medclm": _make}
