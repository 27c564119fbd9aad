"""Scores of labelled reports: F1, exact agreement, invented and missed findings, wrong sides, unsupported words of change.

Works on the labels of rule14, or of any labeller that fills the same 14 observations. What can be added up over reports is
given as columns with one row a report, so that intervals.py resamples the same numbers; formulas take their means. Knows
nothing of models or files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from medclm.metrics.rule14 import Labels, Status, as_arrays, label, read_text
from medclm.metrics.rule14_phrases import OBSERVATIONS

FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
"""The observations that published chest X-ray work reports most often."""
THIRTEEN = tuple(name for name in OBSERVATIONS if name != "No Finding")
"""What can be found: without `No Finding`, which any text without a finding has, so that saying `normal` earns it."""
SETS = {"14": OBSERVATIONS, "13": THIRTEEN, "5": FIVE}
UNCERTAIN_AS = {"positive": True, "negative": False}
"""Both readings of `uncertain`; a score is always given with the one it was taken by."""

_FINDINGS = np.array([name != "No Finding" for name in OBSERVATIONS])


def positive(status: np.ndarray, uncertain: bool) -> np.ndarray:
    """Statuses of any shape -> bool: present, and uncertain where `uncertain` says that it counts."""
    return np.asarray(status >= (Status.UNCERTAIN if uncertain else Status.PRESENT))


def confusion(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N, K) bool each -> (N, 3 * K) float64: true positives of the K observations, then false positives, false negatives."""
    cells = [predicted & reference, predicted & ~reference, ~predicted & reference]
    return np.concatenate(cells, axis=1).astype(np.float64)


def _cells(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true, false, missed = np.split(table, 3, axis=-1)
    return true, false, missed


def _f1(true: np.ndarray, false: np.ndarray, missed: np.ndarray) -> np.ndarray:
    whole = 2 * true + false + missed
    return np.asarray(np.divide(2 * true, whole, out=np.full_like(whole, np.nan), where=whole > 0))


def f1_each(table: np.ndarray) -> np.ndarray:
    """(..., 3 * K) sums or means of `confusion` -> (..., K) F1 in 0..1; NaN for an observation that neither side has."""
    return _f1(*_cells(table))


def f1_micro(table: np.ndarray) -> np.ndarray:
    """(..., 3 * K) -> (...): F1 of all cells together; NaN where there is no positive at all."""
    return _f1(*(cell.sum(axis=-1) for cell in _cells(table)))


def f1_macro(table: np.ndarray) -> np.ndarray:
    """(..., 3 * K) -> (...): mean F1 of the observations that prediction or reference has; NaN where there is none."""
    each = f1_each(table)
    known = np.isfinite(each)
    total, count = np.where(known, each, 0.0).sum(axis=-1), known.sum(axis=-1)
    return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def support(table: np.ndarray) -> np.ndarray:
    """(N, 3 * K) `confusion` -> (K,) reports whose reference is positive."""
    true, _, missed = _cells(table)
    return np.asarray((true + missed).sum(axis=0))


def columns(names: str, uncertain: str) -> tuple[str, ...]:
    """Names under which `compare` gives the columns of `confusion`: `columns("5", "positive")`, in its order."""
    return tuple(f"{cell} {name} uncertain={uncertain}" for cell in ("tp", "fp", "fn") for name in SETS[names])


def cohen_kappa(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> float:
    """Agreement beyond chance of two raters over N items of any categories (Cohen 1960): (observed - chance) / (1 - chance).

    NaN where both always give the same one category, so that chance alone agrees wholly, and for no items.
    """
    one, two = np.asarray(first), np.asarray(second)
    categories = np.union1d(one, two)[:, None]
    if one.size == 0:
        return float("nan")
    chance = float(((one == categories).mean(axis=1) * (two == categories).mean(axis=1)).sum())
    return float("nan") if chance == 1.0 else (float(np.mean(one == two)) - chance) / (1.0 - chance)


def kappa_columns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) bool each -> (N, 3) float64 whose means are all that the kappa of two yes/no raters needs."""
    return np.stack([first & second, first, second], axis=1).astype(np.float64)


def kappa_of_means(means: np.ndarray) -> np.ndarray:
    """(..., 3) means of `kappa_columns` -> (...) Cohen's kappa; NaN where both raters always say the same."""
    both, one, two = means[..., 0], means[..., 1], means[..., 2]
    chance = one * two + (1 - one) * (1 - two)
    observed = 1 - one - two + 2 * both
    return np.asarray(np.divide(observed - chance, 1 - chance, out=np.full_like(chance, np.nan), where=chance < 1))


RATES = ("hallucinated_findings", "omitted_findings", "side_errors", "unsupported_change")
"""Values of `compare` and `judge` whose mean is a rate per report."""
SIDE_COLUMNS = ("side_errors", "sides_compared")


def side_error_share(means: np.ndarray) -> np.ndarray:
    """(..., 2) means of `SIDE_COLUMNS` -> (...): wrong sides among found findings with a side in both texts."""
    wrong, compared = means[..., 0], means[..., 1]
    return np.asarray(np.divide(wrong, compared, out=np.full_like(wrong, np.nan), where=compared > 0))


def compare(said: Labels, truth: Labels) -> dict[str, float]:
    """Values of one report by its predicted and reference labels, each under the name of the mean it enters.

    - `columns(...)`: the cells of F1, for both readings of uncertain;
    - `exact uncertain=...`: all 14 observations agree (1 or 0);
    - `hallucinated_findings`: said to be present, in the reference neither present nor uncertain; `omitted_findings`: the
      reverse; both counts over the 13 findings (`No Finding` is none);
    - `sides_compared`: findings positive in both with a side in both; `side_errors`: those whose sides differ, half right
      (left for bilateral) being wrong.
    """
    (predicted, reference), (predicted_side, reference_side) = as_arrays([said, truth])
    values: dict[str, float] = {}
    for mode, uncertain in UNCERTAIN_AS.items():
        first, second = positive(predicted, uncertain), positive(reference, uncertain)
        values |= dict(zip(columns("14", mode), confusion(first[None], second[None])[0].tolist(), strict=True))
        values[f"exact uncertain={mode}"] = float((first == second).all())
    possible, true = positive(predicted, True), positive(reference, True)
    sided = possible & true & (predicted_side > 0) & (reference_side > 0)
    return values | {
        "hallucinated_findings": float((positive(predicted, False) & ~true & _FINDINGS).sum()),
        "omitted_findings": float((positive(reference, False) & ~possible & _FINDINGS).sum()),
        "sides_compared": float(sided.sum()),
        "side_errors": float((sided & (predicted_side != reference_side)).sum()),
    }


_CHANGE = re.compile(
    r"\b(?:new|newly|unchanged|stable|worsen\w*|worse|improv\w*|progress(?:ed|ing|ion)?|resolv\w+|redemonstrat\w+|"
    r"(?:no|without|interval)\s+(?:\w+\s+)?change|not\s+(?:\w+\s+)?changed|interval(?:ly)?|again|persist\w*|"
    r"(?:has|have)\s+(?:increased|decreased)|(?:increased|decreased)\s+(?:in\s+size|since|compared|from)|re-?accumulat\w+)\b",
    re.IGNORECASE,
)
_COMPARISON = re.compile(
    r"\b(?:compar(?:ed|ison|ing)|since\s+the|(?:prior|previous|earlier)\s+(?:\w+\s+)?(?:exam\w*|stud\w+|films?|radiographs?|"
    r"images?|x-?rays?|ct|chest)|(?:from|to|with)\s+(?:the\s+)?(?:prior|previous)|previously|formerly)\b",
    re.IGNORECASE,
)


def compares(text: str) -> bool:
    """Whether the read sections of a report speak of change, or of an earlier study."""
    read = read_text(text)
    return bool(_CHANGE.search(read) or _COMPARISON.search(read))


def unsupported_change(prediction: str, reference: str) -> bool:
    """Whether a report speaks of change (`new`, `unchanged`, `stable`, `worsened`, ...) though its reference compares nothing."""
    return bool(_CHANGE.search(read_text(prediction))) and not compares(reference)


def judge(prediction: str, reference: str) -> dict[str, float]:
    """`compare` of both texts' rule14 labels, and `unsupported_change`."""
    values = compare(label(prediction), label(reference))
    return values | {"unsupported_change": float(unsupported_change(prediction, reference))}
