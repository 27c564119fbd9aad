"""What a suite is: what it asks about each example, a judge of what was said, and metrics over the judged examples.

A floor is the same metric of the same examples when an image-free guess answers them, so a score and its floor are always
comparable. Knows nothing of models, generation, files or report pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eval.example import Ask, Example, Said, Terms, Values
from eval.pool import Pool
from medclm.data.render import with_instruction
from medclm.metrics.intervals import Formula, bootstrap_ci95, bootstrap_rows_ci95, estimate, first_column

ANSWER = "answer"
"""Name of the plain question, asked of the picture as stored: shared by the suites that need no other."""

FEWEST_IN_GROUP = 10
"""A subgroup with fewer examples is counted and not scored."""

Statistic = Callable[[np.ndarray], float]
"""(n, K) values of n examples -> score; for what is no formula of means, such as the area under a curve."""

Interval = Callable[[np.ndarray, Sequence[str], int], tuple[float, float] | None]
"""(n, K) values, n patients, seed -> 95 % interval of a statistic, where one is known that is faster than scoring every resample."""


@dataclass(frozen=True)
class Metric:
    """A score: a formula of the means of per-example values, or a statistic of the whole table of them."""

    name: str
    columns: tuple[str, ...]
    formula: Formula = first_column
    has_floor: bool = True
    statistic: Statistic | None = None
    """Takes the place of `formula`."""
    interval: Interval | None = None

    def of(self, values: np.ndarray) -> float | None:
        """The score of (n, K) values; None where it is undefined."""
        value = self.statistic(values) if self.statistic else estimate(values, self.formula)
        return float(value) if np.isfinite(value) else None

    def ci95(self, values: np.ndarray, patients: Sequence[str], *, seed: int) -> tuple[float, float] | None:
        """Interval over patients."""
        if self.interval:
            return self.interval(values, patients, seed)
        if self.statistic:
            return bootstrap_rows_ci95(values, patients, statistic=self.statistic, seed=seed)
        return bootstrap_ci95(values, patients, formula=self.formula, seed=seed)


@dataclass(frozen=True)
class Score:
    """A metric of a suite."""

    value: float | None
    """None where no example has it."""
    ci95: tuple[float, float] | None
    """Over patients; None with fewer than two."""
    floor: float | None
    n: int
    """Examples that enter."""

    def as_json(self) -> dict[str, Any]:
        ci95 = None if self.ci95 is None else list(self.ci95)
        return {"value": self.value, "ci95": ci95, "floor": self.floor, "n": self.n}


class Suite(Protocol):
    """One kind of judgement over a pool; made from it and from the terms of asking."""

    name: str
    examples: list[Example]
    left_out: dict[str, int]
    """Examples of the pool that this suite does not ask, by reason."""
    headline: tuple[str, ...]
    """Metrics that stand for the suite: shown by subgroup."""
    not_run: dict[str, str]
    """Scores that the last `judge` could not take, and what they need."""

    def metrics(self) -> list[Metric]: ...

    def asks(self, example: Example) -> Sequence[Ask]:
        """What is asked about an example."""
        ...

    def guess(self, example: Example) -> Said | None:
        """The image-free replies, or None where training holds nothing to guess from."""
        ...

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        """The values of each example; what compares examples with each other is taken over the given ones."""
        ...


def plain_ask(example: Example, terms: Terms) -> Ask:
    """The example's own question about the picture as stored."""
    return Ask(ANSWER, with_instruction(example.question, terms.instruction))


def plain(*names: str, has_floor: bool = True) -> list[Metric]:
    """Metrics that are the mean of the values of their own name."""
    return [Metric(name, (name,), has_floor=has_floor) for name in names]


def table(rows: Sequence[Values], columns: Sequence[str]) -> np.ndarray:
    """(n, K) float64, NaN where a row lacks a column."""
    return np.array([[row.get(column, np.nan) for column in columns] for row in rows], dtype=np.float64).reshape(
        len(rows), len(columns)
    )


def summarise(suite: Suite, judged: Sequence[Values], *, seed: int) -> dict[str, Score]:
    """Every score of a suite; `judged` are the values of `suite.examples`, in order."""
    patients = [example.patient for example in suite.examples]
    guessed = _guessed(suite)
    scores = {}
    for metric in suite.metrics():
        values = table(judged, metric.columns)
        floor = metric.of(table(guessed, metric.columns)) if metric.has_floor else None
        value = metric.of(values)
        ci95 = None if value is None else metric.ci95(values, patients, seed=seed)
        scores[metric.name] = Score(value=value, ci95=ci95, floor=floor, n=int(np.isfinite(values).any(axis=1).sum()))
    return scores


def _guessed(suite: Suite) -> list[Values]:
    """The values of the guesses; empty where there is no guess."""
    guesses = [suite.guess(example) for example in suite.examples]
    made = [(at, guess) for at, guess in enumerate(guesses) if guess is not None]
    values: list[Values] = [{} for _ in guesses]
    judged = suite.judge([suite.examples[at] for at, _ in made], [guess for _, guess in made]) if made else []
    for (at, _), found in zip(made, judged, strict=True):
        values[at] = found
    return values


def breakdown(suite: Suite, judged: Sequence[Values], *, seed: int) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Headline scores by subgroup: dimension -> group -> score name -> as `Score.as_json`, without floor.

    A dimension in which all examples are in one group is left out; a group below `FEWEST_IN_GROUP` examples has its number and
    no value.
    """
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for at, example in enumerate(suite.examples):
        for dimension, group in subgroups(example).items():
            members[dimension][group].append(at)
    chosen = [metric for metric in suite.metrics() if metric.name in suite.headline]
    return {
        dimension: {
            group: {metric.name: _group_score(metric, suite, judged, rows, seed) for metric in chosen}
            for group, rows in sorted(groups.items())
        }
        for dimension, groups in sorted(members.items())
        if len(groups) > 1
    }


def _group_score(metric: Metric, suite: Suite, judged: Sequence[Values], rows: list[int], seed: int) -> dict[str, Any]:
    values = table([judged[at] for at in rows], metric.columns)
    number = int(np.isfinite(values).any(axis=1).sum())
    enough = number >= FEWEST_IN_GROUP
    value = metric.of(values) if enough else None
    patients = [suite.examples[at].patient for at in rows]
    ci95 = metric.ci95(values, patients, seed=seed) if value is not None else None
    return Score(value=value, ci95=ci95, floor=None, n=number).as_json()


def subgroups(example: Example) -> Mapping[str, str]:
    """Every dimension an example can be grouped by."""
    named = {"domain": example.domain, "question kind": example.question_kind, "language": example.language}
    return {name: value for name, value in named.items() if value} | dict(example.groups)


__all__ = ["ANSWER", "Metric", "Pool", "Score", "Suite", "breakdown", "plain", "plain_ask", "subgroups", "summarise", "table"]
