"""What a policy is, and how its chances become stages: pure functions of (state, observation) and (state, positions).

A policy gives probabilities; one counter-based uniform per global position turns them into stages, so that a decision
depends on nothing but the state, the seed and the position. States are frozen dataclasses that read as JSON.

    state = policy.initial()
    state = policy.observe(state, observation)
    stages, wanted = decide(policy, state, batch, progress=0.3, seed=0)

The policies themselves are the files of `medclm/curriculum/policies/`, found by name (registry.py); formulas: docs/curriculum.md.
Imports no torch.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from medclm.config import CurriculumSection
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

    def report(self, state: State, progress: float) -> dict[str, float]:
        """Numbers worth plotting at `progress` 0..1: ramp, Hard budget, median gap, ..."""
        ...

    def domain_report(self, state: State) -> dict[str, np.ndarray]:
        """Name -> (domains,) float64 worth plotting per domain, NaN where unknown."""
        ...

    def to_json(self, state: State) -> dict[str, Any]: ...

    def from_json(self, tree: dict[str, Any]) -> State: ...


class StatelessPolicy:
    """What policies that look at no loss have in common: their state is None. They add `probabilities` and `report`."""

    name: str

    def initial(self) -> None:
        return None

    def observe(self, state: None, observation: Observation) -> None:
        return None

    def domain_report(self, state: None) -> dict[str, np.ndarray]:
        return {}

    def to_json(self, state: None) -> dict[str, Any]:
        return {}

    def from_json(self, tree: dict[str, Any]) -> None:
        return None


class Maker(Protocol):
    """What a policy's file gives under its name in `POLICIES`."""

    def __call__(self, section: CurriculumSection, *, domains: int, total_steps: int) -> Policy[Any]:
        """The policy for a run of `total_steps` over `domains` domains."""
        ...


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


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
