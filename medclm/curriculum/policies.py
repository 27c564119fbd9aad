"""Who gets which stage: pure functions of (state, observation) and (state, positions). Imports no torch.

A policy gives probabilities; one counter-based uniform per global position turns them into stages, so that a decision
depends on nothing but the state, the seed and the position. States are frozen dataclasses that read as JSON.

    state = policy.initial()
    state = policy.observe(state, observation)
    stages, wanted = decide(policy, state, batch, progress=0.3, seed=0)

Formulas: docs/curriculum.md; the published ones and their faults are kept in `published.py` for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from medclm.config import MedclmSection
from medclm.curriculum.averages import Averages
from medclm.curriculum.stages import resolve_stages
from medclm.draws import uniforms
from medclm.types import Observation, Stage

State = TypeVar("State")


class Policy(Protocol, Generic[State]):
    """The contract of a policy; `State` is its own frozen dataclass."""

    name: str

    def initial(self) -> State:
        """The state before anything was seen."""
        ...

    def observe(self, state: State, observation: Observation) -> State:
        """The state after one applied step. Skipped steps never arrive here."""
        ...

    def probabilities(self, state: State, domains: np.ndarray, progress: float) -> np.ndarray:
        """(G, 3) float64, rows sum to 1: the chance of each stage for samples of `domains` (G,) at `progress` 0..1."""
        ...

    def report(self, state: State) -> dict[str, float]:
        """Numbers worth plotting: Hard budget, median gap, ..."""
        ...

    def domain_report(self, state: State) -> dict[str, np.ndarray]:
        """Name -> (domains,) float64 worth plotting per domain, NaN where unknown."""
        ...

    def to_json(self, state: State) -> dict[str, Any]: ...

    def from_json(self, tree: dict[str, Any]) -> State: ...


class GlobalBatch(Protocol):
    """What a decision may know of the samples of one global batch (data/stream.py makes it)."""

    @property
    def positions(self) -> np.ndarray:
        """(G,) int64 global positions; the only source of randomness beside the seed."""
        ...

    @property
    def domains(self) -> np.ndarray:
        """(G,) int64."""
        ...

    @property
    def offered(self) -> np.ndarray:
        """(G, 3) bool, the stages that each record offers."""
        ...


def decide(
    policy: Policy[State], state: State, batch: GlobalBatch, *, progress: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stages of one global batch, at `progress` (0..1) of the planned run.

    Returns:
        (G,) uint8 stages given, and (G,) uint8 stages wanted (they differ where a record does not offer the wanted one).
    """
    chances = policy.probabilities(state, batch.domains, progress)
    draw = uniforms(seed, "stage", batch.positions)
    # Hard first, then Medium, else Easy: the order of the published draw.
    hard, medium = chances[:, Stage.HARD], chances[:, Stage.HARD] + chances[:, Stage.MEDIUM]
    wanted = np.where(draw < hard, Stage.HARD, np.where(draw < medium, Stage.MEDIUM, Stage.EASY)).astype(np.uint8)
    return resolve_stages(wanted, batch.offered), wanted


def stage_chances(medium: np.ndarray, hard: float) -> np.ndarray:
    """(G, 3) chances from Medium's share among the not-Hard, (G,), and the Hard budget."""
    return np.stack([(1 - hard) * (1 - medium), (1 - hard) * medium, np.full(len(medium), hard)], axis=1)


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


@dataclass(frozen=True)
class MedclmState:
    averages: Averages
    easy_start: np.ndarray
    """(domains,) float64 m0: the Easy average when the domain reached min_observations; NaN before."""
    hard: float
    """Hard budget h."""
    steps: int
    """Applied steps observed."""
    window_average: float
    """G at the end of the last window; NaN before the first."""
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
            window_average=float("nan"),
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
        """One decision about the Hard budget."""
        section = self.section
        seen = self._seen(state)[:, : Stage.HARD]
        if not seen.any():
            return state
        average = float(state.averages.value[:, : Stage.HARD][seen].mean())
        change = (average - state.window_average) / max(state.window_average, 1e-12)  # NaN in the first window: no decision
        flat = state.flat_windows + 1 if abs(change) <= section.plateau else 0
        hard, gap = state.hard, self.median_gap(state)
        if progress >= section.hard_from and flat >= section.plateau_windows and gap <= section.hard_gap:
            hard = min(section.hard_max, hard + section.hard_step)
        elif change >= section.worsening:
            hard *= section.shrink
        return replace(state, hard=hard, window_average=average, flat_windows=flat)

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

    def probabilities(self, state: MedclmState, domains: np.ndarray, progress: float) -> np.ndarray:
        section = self.section
        ramp = float(np.clip((progress - section.easy_only_until) / section.ramp, 0, 1))
        wish = ramp * sigmoid((section.gap_centre - self.gaps(state)) / section.gap_width)
        floor = section.explore if ramp > 0 else 0.0
        medium = np.fmax(floor, wish)[domains]  # fmax: an unseen gap (NaN) leaves the exploration floor
        return stage_chances(medium, state.hard if progress >= section.hard_from else 0.0)

    def report(self, state: MedclmState) -> dict[str, float]:
        return {"hard_budget": state.hard, "median_gap": self.median_gap(state), "flat_windows": float(state.flat_windows)}

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
            "easy_start": [none_if_nan(value) for value in state.easy_start.tolist()],
            "window_average": none_if_nan(state.window_average),
        }

    def from_json(self, tree: dict[str, Any]) -> MedclmState:
        return MedclmState(
            averages=Averages.from_json(tree["averages"]),
            easy_start=np.asarray(tree["easy_start"], dtype=float),
            hard=tree["hard"],
            steps=tree["steps"],
            window_average=float("nan") if tree["window_average"] is None else tree["window_average"],
            flat_windows=tree["flat_windows"],
        )


class FixedPolicy:
    """The same shares from the first step to the last: `mixture`, `easy_only`, `medium_only`, `hard_only`."""

    def __init__(self, name: str, shares: Sequence[float]) -> None:
        self.name, self.shares = name, np.asarray(shares, dtype=np.float64)

    def initial(self) -> None:
        return None

    def observe(self, state: None, observation: Observation) -> None:
        return None

    def probabilities(self, state: None, domains: np.ndarray, progress: float) -> np.ndarray:
        return np.tile(self.shares, (len(domains), 1))

    def report(self, state: None) -> dict[str, float]:
        return {"hard_budget": float(self.shares[Stage.HARD])}

    def domain_report(self, state: None) -> dict[str, np.ndarray]:
        return {}

    def to_json(self, state: None) -> dict[str, Any]:
        return {}

    def from_json(self, tree: dict[str, Any]) -> None:
        return None
