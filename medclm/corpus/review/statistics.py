"""How well readers agree, how often a fact is wrong, and whether a corpus may be accepted. Pure; knows no files or pages.

A sample that several readers judged counts with the gravest of their verdicts: wrong if any of them says so. `unanswerable`
is a fault of the question, not a wrong fact; such samples are counted apart and leave the rate's denominator, which can only
widen its interval. Intervals take samples as independent, which several samples of one patient are not quite.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medclm.corpus.review.verdicts import UNANSWERABLE, WRONG, gravest

LIMIT = 0.02
"""A corpus is accepted when the upper end of the 95 % interval of wrong facts is at most this."""
_Z = 1.959963984540054
"""97.5 % point of the standard normal distribution."""


@dataclass(frozen=True)
class Judged:
    """A record at a stage with what each reader last said of it."""

    record_id: str
    stage: str
    domain: str
    writer: str
    verdicts: Mapping[str, str]
    """Reader -> verdict."""

    @property
    def verdict(self) -> str:
        """The one that counts."""
        return gravest(self.verdicts.values())


@dataclass(frozen=True)
class Rate:
    """Share of samples with a wrong fact."""

    name: str
    n: int
    """Samples that could be judged: `unanswerable` ones are not among them."""
    wrong: int
    unanswerable: int

    @property
    def value(self) -> float | None:
        return self.wrong / self.n if self.n else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Wilson's interval; None without samples."""
        return wilson95(self.wrong, self.n) if self.n else None


@dataclass(frozen=True)
class Agreement:
    """Two readers on the samples that both judged."""

    readers: tuple[str, str]
    n: int
    equal: int
    """Samples with the same verdict of five."""
    kappa: float | None
    """Cohen's, over the five verdicts; None where it is undefined (see `cohen_kappa`)."""


@dataclass(frozen=True)
class Review:
    """Everything that is known of a review."""

    readers: tuple[str, ...]
    n: int
    """Samples with at least one verdict."""
    counts: Mapping[str, int]
    """Verdict that counts -> samples."""
    overall: Rate
    domains: tuple[Rate, ...]
    writers: tuple[Rate, ...]
    agreements: tuple[Agreement, ...]
    """One for each pair of readers."""
    disagreements: tuple[Judged, ...]

    @property
    def kappa(self) -> float | None:
        """That of two readers; of more, the lowest of any pair. None where no pair has one."""
        return min((pair.kappa for pair in self.agreements if pair.kappa is not None), default=None)

    @property
    def accepted(self) -> bool:
        interval = self.overall.ci95
        return interval is not None and interval[1] <= LIMIT


def wilson95(wrong: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion without continuity correction (Wilson 1927), n >= 1."""
    share, spread = wrong / n, _Z * _Z / n
    middle = share + spread / 2
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4)
    low, high = ((middle + sign * half) / (1 + spread) for sign in (-1, 1))
    # the formula's ends at 0 and n are exact; rounding alone would leave 1e-18
    return (0.0 if wrong == 0 else low), (1.0 if wrong == n else high)


def samples_needed(wrong: int, limit: float = LIMIT) -> int:
    """Least number of judged samples whose upper bound is at most `limit` when `wrong` of them are wrong."""
    high = max(wrong, 1)
    while wilson95(wrong, high)[1] > limit:
        high *= 2
    low = max(high // 2, wrong, 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wilson95(wrong, middle)[1] <= limit else (middle + 1, high)
    return low


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa (1960) of two readers' verdicts on the same samples, -1..1.

    None without samples, and where both gave one and the same verdict throughout: agreement by chance is then certain and
    kappa is 0 / 0.
    """
    n = len(first)
    left, right = Counter(first), Counter(second)
    by_chance = sum(left[verdict] * right[verdict] for verdict in left)
    if n == 0 or by_chance == n * n:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = by_chance / (n * n)
    return (observed - chance) / (1 - chance)


def assess(judged: Sequence[Judged]) -> Review:
    """The whole review of samples that have at least one verdict each."""
    readers = tuple(sorted({reader for one in judged for reader in one.verdicts}))
    return Review(
        readers=readers,
        n=len(judged),
        counts=Counter(one.verdict for one in judged),
        overall=_rate("all", judged),
        domains=_grouped(judged, lambda one: one.domain),
        writers=_grouped(judged, lambda one: one.writer),
        agreements=tuple(_agreement(pair, judged) for pair in itertools.combinations(readers, 2)),
        disagreements=tuple(one for one in judged if len(set(one.verdicts.values())) > 1),
    )


def _rate(name: str, judged: Sequence[Judged]) -> Rate:
    verdicts = Counter(one.verdict for one in judged)
    unanswerable = verdicts[UNANSWERABLE]
    wrong = sum(verdicts[verdict] for verdict in WRONG)
    return Rate(name=name, n=len(judged) - unanswerable, wrong=wrong, unanswerable=unanswerable)


def _grouped(judged: Sequence[Judged], key: Callable[[Judged], str]) -> tuple[Rate, ...]:
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(key(one), []).append(one)
    return tuple(_rate(name, groups[name]) for name in sorted(groups))


def _agreement(readers: tuple[str, str], judged: Sequence[Judged]) -> Agreement:
    both = [one.verdicts for one in judged if all(reader in one.verdicts for reader in readers)]
    first, second = ([verdicts[reader] for verdicts in both] for reader in readers)
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    return Agreement(readers=readers, n=len(both), equal=equal, kappa=cohen_kappa(first, second))
