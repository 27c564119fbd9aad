"""BLEU (Papineni et al. 2002) over normalised tokens, as additive counts: corpus BLEU is a formula of their sums.

Because the counts add up, an interval over patients resamples the same numbers. Knows nothing of files or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDER = 4


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def counts(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(2 * ORDER + 2,) float64: clipped matches and totals of n = 1..4, prediction length, closest reference length.

    A tie between reference lengths takes the shorter, as in the original.
    """
    matches, totals = [], []
    for n in range(1, ORDER + 1):
        said = _grams(prediction, n)
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= _grams(reference, n)
        matches.append((said & allowed).total())
        totals.append(said.total())
    closest = min((abs(len(reference) - len(prediction)), len(reference)) for reference in references)[1]
    return np.array([*matches, *totals, len(prediction), closest], dtype=np.float64)


def bleu(table: np.ndarray, n: int) -> np.ndarray:
    """BLEU-n in 0..1 of summed `counts`, (..., 2 * ORDER + 2) -> (...), unsmoothed: 0 where any order has no match."""
    matches, totals = table[..., :n], table[..., ORDER : ORDER + n]
    said, reference = table[..., -2], table[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(totals > 0, matches / totals, 0.0)
        geometric = np.exp(np.log(precision).mean(axis=-1))
        brevity = np.where(said > 0, np.exp(np.minimum(0.0, 1.0 - reference / said)), 0.0)
    return np.asarray(np.nan_to_num(geometric * brevity, nan=0.0))


def corpus_bleu(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], n: int) -> float:
    """BLEU-n of the whole corpus: counts are summed before the formula."""
    return float(
        bleu(np.sum([counts(said, allowed) for said, allowed in zip(predictions, references, strict=True)], axis=0), n)
    )


def mean_sample_bleu(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], n: int) -> float:
    """Mean of each sample's own unsmoothed BLEU-n: usually lower than `corpus_bleu`, never comparable with it."""
    each = [float(bleu(counts(said, allowed), n)) for said, allowed in zip(predictions, references, strict=True)]
    return float(np.mean(each))
