"""What a curriculum did over time, in at most about 200 points: shares of the stages, averages, gaps, the Hard budget.

A `Turn` is one global batch as its decision saw it and as it went. A replayed log (log.py) and a simulated learner
(simulation.py) both give turns, and the same `CourseMaker` makes a `Course` of either; pictures.py draws it.
Pure; imports no torch.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclm.curriculum.averages import stage_sums
from medclm.curriculum.policy import GlobalBatch, Policy

POINTS = 200
"""Most points of a course, however long the run."""


class Fate(enum.IntEnum):
    """What became of a decided batch; the integer is written to the log."""

    IN_FLIGHT = 0
    """Not consumed yet, or the run ended before."""
    APPLIED = 1
    SKIPPED = 2
    """Consumed, but its step was not finite: no update, and the policy never saw its losses."""


@dataclass(frozen=True)
class Turn:
    """One global batch: on what its stages were decided, and what came of it."""

    batch_index: int
    step: int
    """Updates applied before this batch was consumed."""
    progress: float
    """Fraction of the planned run, 0..1, that the decision was told."""
    state: Any
    """The policy's state that the decision rests on."""
    batch: GlobalBatch
    wanted: np.ndarray
    """(G,) uint8 of `Stage`, as drawn."""
    decided: np.ndarray
    """(G,) uint8, what is decided here: `wanted` where the record offers it."""
    given: np.ndarray
    """(G,) uint8, what the run really gave; differs from `decided` only where a log and the policy disagree."""
    losses: np.ndarray
    """(G,) float16; meaningful if applied."""
    fate: Fate


@dataclass(frozen=True)
class Mark:
    """The Hard budget grew or shrank."""

    step: int
    before: float
    after: float


@dataclass(frozen=True)
class Course:
    """A run in P points; only applied batches are counted in it, unless said otherwise. D domains."""

    policy: str
    total_steps: int
    """Planned updates."""
    domains: list[str]
    steps: np.ndarray
    """(P,) int64, step of the last batch in each point."""
    samples: np.ndarray
    """(P, D, 3) int64, samples given at each stage."""
    loss_sums: np.ndarray
    """(P, D, 3) float64, sums of their losses."""
    fallbacks: np.ndarray
    """(P,) int64, samples whose record did not offer the wanted stage."""
    skipped: np.ndarray
    """(P,) int64, batches without an update."""
    report: dict[str, np.ndarray]
    """What the policy reports, name -> (P,) float64, NaN where unknown."""
    domain_report: dict[str, np.ndarray]
    """The same per domain, name -> (P, D) float64."""
    marks: list[Mark]

    def shares(self, domain: int | None = None) -> np.ndarray:
        """(P, 3) share of each stage, of one domain or of all; NaN in points without samples."""
        samples_P3 = self.samples.sum(axis=1) if domain is None else self.samples[:, domain]
        return _ratio(samples_P3, samples_P3.sum(axis=1, keepdims=True))

    def total_shares(self) -> np.ndarray:
        """(3,) share of each stage in the whole run."""
        samples_3 = self.samples.sum(axis=(0, 1))
        return _ratio(samples_3, samples_3.sum(keepdims=True))

    def losses(self) -> np.ndarray:
        """(P, 3) mean sample loss of each stage, NaN where the stage was not given."""
        return _ratio(self.loss_sums.sum(axis=1), self.samples.sum(axis=1))

    def averages(self) -> dict[str, np.ndarray]:
        """Loss of each stage per domain, (P, D): the policy's moving averages, or the points' means where it keeps none."""
        names = ("easy", "medium", "hard")
        if names[0] in self.domain_report:
            return {name: self.domain_report[name] for name in names if name in self.domain_report}
        means = _ratio(self.loss_sums, self.samples)
        return {name: means[:, :, stage] for stage, name in enumerate(names)}

    def largest_domains(self, most: int) -> np.ndarray:
        """Indices of the domains with the most samples, descending."""
        return np.argsort(-self.samples.sum(axis=(0, 2)), kind="stable")[:most]


class CourseMaker:
    """Adds up turns, in order, to a course."""

    def __init__(
        self, policy: Policy[Any], *, domains: Sequence[str], total_steps: int, batches: int, points: int = POINTS
    ) -> None:
        """`batches` is the number of turns to come; they are spread evenly over the points."""
        self._policy, self._domains, self._total_steps, self._batches = policy, list(domains), total_steps, batches
        size = min(points, batches)
        self._samples = np.zeros((size, len(domains), 3), np.int64)
        self._loss_sums = np.zeros((size, len(domains), 3))
        self._steps, self._fallbacks, self._skipped = (np.zeros(size, np.int64) for _ in range(3))
        self._last: list[tuple[Any, float]] = [(None, 0.0)] * size
        """The last state and progress of each point: states are frozen, so keeping them costs nothing until they are asked."""
        self._added = 0
        self._marks: list[Mark] = []
        self._hard: float | None = None
        self._state: Any = None

    def add(self, turn: Turn) -> None:
        """The next turn; one in flight is only counted as passed."""
        point = self._added * len(self._steps) // self._batches
        self._added += 1
        self._steps[point], self._last[point] = turn.step, (turn.state, turn.progress)
        self._mark(turn)
        self._skipped[point] += turn.fate == Fate.SKIPPED
        if turn.fate != Fate.APPLIED:
            return
        sums_D3, counts_D3 = stage_sums(turn.batch.domains, turn.given, turn.losses, len(self._domains))
        self._loss_sums[point] += sums_D3
        self._samples[point] += counts_D3
        self._fallbacks[point] += int((turn.given != turn.wanted).sum())

    def _mark(self, turn: Turn) -> None:
        """Note a changed Hard budget; a state that is the very same object was not changed by anything."""
        if turn.state is self._state and self._hard is not None:
            return
        self._state = turn.state
        hard = self._policy.report(turn.state, turn.progress).get("hard_budget", 0.0)
        if self._hard is not None and hard != self._hard:
            self._marks.append(Mark(turn.step, self._hard, hard))
        self._hard = hard

    def course(self) -> Course:
        """The course of all turns added.

        Raises:
            ValueError: fewer turns than announced, or none: there is nothing to show.
        """
        if not self._added or self._added != self._batches:
            raise ValueError(f"a course of {self._batches} batches needs as many turns; {self._added} were added")
        reports = [self._policy.report(state, progress) for state, progress in self._last]
        domain_reports = [self._policy.domain_report(state) for state, _ in self._last]
        unknown = np.full(len(self._domains), np.nan)
        return Course(
            policy=self._policy.name,
            total_steps=self._total_steps,
            domains=self._domains,
            steps=self._steps,
            samples=self._samples,
            loss_sums=self._loss_sums,
            fallbacks=self._fallbacks,
            skipped=self._skipped,
            report={name: np.array([report.get(name, np.nan) for report in reports]) for name in _names(reports)},
            domain_report={
                name: np.stack([report.get(name, unknown) for report in domain_reports]) for name in _names(domain_reports)
            },
            marks=self._marks,
        )


def _names(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Every name in any of the reports, in the order of first appearance."""
    return list(dict.fromkeys(name for report in reports for name in report))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """`over / under` in float64, NaN where `under` is 0."""
    return np.asarray(np.divide(over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=under > 0))
