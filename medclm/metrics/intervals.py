"""Uncertainty over patients: bootstrap intervals of any formula of means, and a paired test of two runs.

Images of one patient are not independent, so patients are what is resampled. A score is a formula of means of per-example
values; a value that does not apply to an example is NaN and enters no mean. Knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medclm.draws import generator

FEWEST_PATIENTS = 6
"""Below this no p-value is given: sign flips of 5 patients cannot reach p < 0.05 (2 / 2^5 = 0.0625)."""

_BLOCK = 4_000_000
"""Numbers drawn at once, over all patients: memory stays flat for many of them."""

Formula = Callable[[np.ndarray], np.ndarray]
"""(..., K) means of K columns -> (...) score."""


@dataclass(frozen=True)
class Paired:
    """Two runs on the same examples."""

    difference: float
    """Mean of first minus second."""
    ci95: tuple[float, float] | None
    p_value: float | None
    """Two-sided; None where there are too few patients."""
    patients: int
    note: str
    """Why there is no p-value, else empty."""


def first_column(means: np.ndarray) -> np.ndarray:
    """The formula of a plain mean."""
    return np.asarray(means[..., 0])


def _by_patient(values: np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, K) with NaN -> sums (P, K) and counts (P, K) per patient."""
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    known = np.isfinite(values)
    sums, counts = np.zeros((2, int(owner.max()) + 1, values.shape[1]))
    np.add.at(sums, owner, np.where(known, values, 0.0))
    np.add.at(counts, owner, known.astype(np.float64))
    return sums, counts


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))


def estimate(values: np.ndarray, formula: Formula = first_column) -> float:
    """The score of all examples: `formula` of the column means of (n, K) `values`; NaN where a needed column is empty."""
    known = np.isfinite(values)
    return float(formula(_means(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))))


def bootstrap_ci95(
    values: np.ndarray, patients: Sequence[str], *, formula: Formula = first_column, seed: int = 0, resamples: int = 2000
) -> tuple[float, float] | None:
    """95 % percentile interval over patients drawn with replacement.

    Args:
        values: (n, K) float64, NaN where a value does not apply.
        patients: n ids.
        formula: score of the K means.
        seed: names the draws; equal input gives an equal interval.
        resamples: number of resampled patient sets.

    Returns:
        (low, high), or None with fewer than two patients, where no spread can be known. Resamples in which the score is
        undefined (no positive drawn, say) are left out.
    """
    applicable = np.isfinite(values).any(axis=1)
    if not applicable.any():
        return None
    sums, counts = _by_patient(
        values[applicable], [patient for patient, keep in zip(patients, applicable, strict=True) if keep]
    )
    number = len(sums)
    if number < 2:
        return None
    draws = generator(seed, "metrics.bootstrap")
    share = np.full(number, 1.0 / number)
    block = max(1, _BLOCK // number)
    scores = []
    for start in range(0, resamples, block):
        weights = draws.multinomial(number, share, size=min(block, resamples - start)).astype(np.float64)
        scores.append(formula(_means(weights @ sums, weights @ counts)))
    defined = np.concatenate(scores)
    defined = defined[np.isfinite(defined)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def bootstrap_rows_ci95(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float, float] | None:
    """`bootstrap_ci95` of a score that is no formula of means: the rows of the drawn patients are scored anew each time.

    Args:
        values: (n, K) float64.
        statistic: score of (m, K) rows; NaN where it is undefined, which leaves that resample out.
    """
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    order = np.argsort(owner, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(owner))[:-1])
    draws = generator(seed, "metrics.bootstrap_rows")
    scores = np.array(
        [
            statistic(values[np.concatenate([rows_of[at] for at in draws.integers(len(names), size=len(names))])])
            for _ in range(resamples)
        ]
    )
    defined = scores[np.isfinite(scores)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def paired_test(
    first: np.ndarray, second: np.ndarray, patients: Sequence[str], *, seed: int = 0, flips: int = 10_000
) -> Paired:
    """Sign-flip test over patients of mean(first - second), both (n,) on the same examples in the same order.

    Every patient's summed difference keeps or changes its sign with equal chance under the null hypothesis; all 2^P sign
    patterns are enumerated up to 12 patients, else `flips` are drawn and p = (1 + hits) / (1 + flips). Examples that one of
    the two has no value for (NaN) do not enter, nor do patients without any other.

    Raises:
        ValueError: no example has a value in both.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    known = np.isfinite(difference)
    if not known.any():
        raise ValueError(f"{len(difference)} examples, none with a value in both: compare a score that both have")
    difference, patients = difference[known], [patient for patient, keep in zip(patients, known, strict=True) if keep]
    sums, counts = _by_patient(difference[:, None], patients)
    per_patient, number = sums[:, 0], len(sums)
    mean = float(per_patient.sum() / counts.sum())
    interval = bootstrap_ci95(difference[:, None], patients, seed=seed)
    if number < FEWEST_PATIENTS:
        note = f"{number} patients: no p-value below {FEWEST_PATIENTS} patients, descriptive only"
        return Paired(difference=mean, ci95=interval, p_value=None, patients=number, note=note)
    if number <= 12:
        bits = np.arange(2**number)[:, None] >> np.arange(number)
        p_value = _as_far(1.0 - 2.0 * (bits & 1), per_patient) / 2**number
    else:
        draws, block = generator(seed, "metrics.sign_flip"), max(1, _BLOCK // number)
        sizes = [min(block, flips - start) for start in range(0, flips, block)]
        hits = sum(_as_far(np.where(draws.random((size, number)) < 0.5, -1.0, 1.0), per_patient) for size in sizes)
        p_value = (1 + hits) / (1 + flips)
    return Paired(difference=mean, ci95=interval, p_value=p_value, patients=number, note="")


def _as_far(signs: np.ndarray, per_patient: np.ndarray) -> int:
    """How many of the (F, P) sign patterns bring the sum of (P,) differences as far from 0 as it is, rounding allowed for."""
    rounding = 1e-12 * max(1.0, float(np.abs(per_patient).sum()))
    return int((np.abs(signs @ per_patient) >= abs(per_patient.sum()) - rounding).sum())
