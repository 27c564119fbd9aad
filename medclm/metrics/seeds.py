"""Two recipes over several seeds: is the difference more than the luck of seeds and patients?

Seeds and held-out patients are crossed: every seed's model answers for the same patients. Both are random effects, so both
are resampled for the interval, and the test flips signs of whole seeds: runs, not patients, are what a recipe is repeated
over. Knows nothing of what the scores mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medclm.draws import generator

EXACT_SEEDS = 16
"""All 2^S sign patterns are enumerated, so more seeds than this are refused."""


@dataclass(frozen=True)
class SeedComparison:
    """First minus second recipe, paired by seed and patient."""

    difference: float
    """Mean over seeds of the mean over patients."""
    ci95: tuple[float, float] | None
    """Crossed bootstrap over seeds and patients; None with fewer than two of either."""
    p_value: float
    """Two-sided exact sign-flip test over seeds; never below 2 / 2^S."""
    by_seed: tuple[float, ...]
    """Difference of each seed."""


def compare_seeds(first: np.ndarray, second: np.ndarray, *, seed: int = 0, resamples: int = 4000) -> SeedComparison:
    """Compare two recipes trained with the same seeds and judged on the same patients.

    Args:
        first, second: (S seeds, P patients) float64 score of each patient; NaN where a patient has none, the same in both.
        seed: names the bootstrap's draws.
        resamples: number of bootstrap samples.

    The interval resamples S seeds and P patients, both with replacement, at once (a bootstrap of both ways of a crossed
    design; Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1: it errs to the wide side).

    Raises:
        ValueError: shapes differ, more than 16 seeds, patients that one recipe lacks, or a seed without any score.
    """
    if first.shape != second.shape or first.ndim != 2 or not 1 <= len(first) <= EXACT_SEEDS:
        raise ValueError(
            f"compare_seeds: shapes {first.shape} and {second.shape}: expected two (S, P), S at most {EXACT_SEEDS}"
        )
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        raise ValueError("compare_seeds: the two recipes were not judged on the same patients")
    difference_SP = first - second
    empty = np.flatnonzero(~np.isfinite(difference_SP).any(axis=1))
    if len(empty):
        raise ValueError(f"compare_seeds: seed number {int(empty[0])} has no scored patient: leave it out")
    by_seed = np.nanmean(difference_SP, axis=1)
    return SeedComparison(
        difference=float(by_seed.mean()),
        ci95=_crossed_interval(difference_SP, seed=seed, resamples=resamples),
        p_value=sign_flip(by_seed),
        by_seed=tuple(float(value) for value in by_seed),
    )


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided exact sign-flip test that (S,) paired differences are centred on 0: all 2^S sign patterns."""
    patterns = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences)) & 1
    totals = np.abs((1.0 - 2.0 * patterns) @ differences)
    return float((totals >= abs(differences.sum()) - 1e-12).mean())


def _crossed_interval(difference_SP: np.ndarray, *, seed: int, resamples: int) -> tuple[float, float] | None:
    seeds, patients = difference_SP.shape
    if seeds < 2 or patients < 2:
        return None
    draws = generator(seed, "metrics.crossed_bootstrap")
    of_seed = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(np.float64)
    of_patient = draws.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)
    known_SP = np.isfinite(difference_SP)
    totals = np.einsum("rs,rs->r", of_seed, of_patient @ np.where(known_SP, difference_SP, 0.0).T)
    counts = np.einsum("rs,rs->r", of_seed, of_patient @ known_SP.T.astype(np.float64))
    low, high = np.percentile(totals / counts, [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for testing all of them (Holm 1979, Scandinavian Journal of Statistics 6), in the given order."""
    order = np.argsort(p_values, kind="stable")
    adjusted, least = np.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return [float(value) for value in adjusted]
