"""Do probabilities mean what they say: calibration error, Brier score, log loss, temperature, and when to abstain.

Two inputs serve both uses: `probability` (n,) in 0..1 with `outcome` (n,) 0 or 1, where the outcome is either "the finding
is there" or "the answer was right". Calibration error with fixed bin edges, Brier score and log loss are formulas of means of
per-example values, so `intervals.bootstrap_ci95` gives their intervals; what needs ranks (risk-coverage) is a plain function
of arrays. Knows nothing of files or models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures searched; a best one outside is as good as 0 or infinite."""


def _checked(probability: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probability, outcome = np.asarray(probability, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    for row in np.flatnonzero(~((probability >= 0) & (probability <= 1)))[:1]:
        raise ValueError(f"probability in row {row} is {probability[row]}: between 0 and 1; logits go through `probabilities`")
    _check_outcome(probability, outcome)
    return probability, outcome


def _check_outcome(numbers: np.ndarray, outcome: np.ndarray) -> None:
    if numbers.ndim != 1 or numbers.shape != outcome.shape or not len(numbers):
        raise ValueError(
            f"shapes {numbers.shape} and {outcome.shape}: give one number and one outcome for each of n > 0 examples"
        )
    for row in np.flatnonzero((outcome != 0) & (outcome != 1))[:1]:
        raise ValueError(f"outcome in row {row} is {outcome[row]}: it must be 0 or 1; leave unassessed examples out")


def equal_width_edges(bins: int) -> np.ndarray:
    """(bins + 1,) edges of bins of equal width over 0..1, as Guo et al. 2017 (15 of them) and Naeini et al. 2015 use."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass_edges(probability: np.ndarray, bins: int) -> np.ndarray:
    """(at most bins + 1,) edges of bins with equally many examples (Nguyen and O'Connor 2015); equal values share a bin, so
    with many of them there are fewer bins."""
    ordered = np.sort(np.asarray(probability, dtype=np.float64))
    inner = ordered[[len(ordered) * k // bins for k in range(1, bins)]]
    return np.unique([0.0, *inner, 1.0])


def _bin_of(probability: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n,) int64: an inner edge belongs to the bin above, 1 to the last."""
    return np.searchsorted(edges[1:-1], probability, side="right")


class Reliability(NamedTuple):
    """Table of K bins, for a figure; means of an empty bin are NaN."""

    edges: np.ndarray
    """(K + 1,)"""
    examples: np.ndarray
    """(K,) how many."""
    mean_probability: np.ndarray
    observed: np.ndarray
    """(K,) share of outcomes that are 1."""


def reliability(probability: np.ndarray, outcome: np.ndarray, edges: np.ndarray) -> Reliability:
    """What was said and what came true, by bin of `equal_width_edges` or `equal_mass_edges`."""
    probability, outcome = _checked(probability, outcome)
    member, bins = _bin_of(probability, edges), len(edges) - 1
    count = np.bincount(member, minlength=bins)
    sums = [np.bincount(member, weights=values, minlength=bins) for values in (probability, outcome)]
    means = [np.divide(each, count, out=np.full(bins, np.nan), where=count > 0) for each in sums]
    return Reliability(edges, count, *means)


def calibration_columns(probability: np.ndarray, outcome: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, K) outcome - probability in the column of the example's bin, 0 in the others: `calibration_error` is a formula of
    their means. Bins of an interval are those of all examples, not drawn anew."""
    probability, outcome = _checked(probability, outcome)
    return np.where(_bin_of(probability, edges)[:, None] == np.arange(len(edges) - 1), (outcome - probability)[:, None], 0.0)


def calibration_error(means: np.ndarray) -> np.ndarray:
    """(..., K) means of `calibration_columns` -> (...) expected calibration error in 0..1: sum over bins of share of examples
    times |observed - said| (Naeini et al. 2015). Say the kind and number of bins with it.

    Even a perfectly calibrated model has more than 0 on few examples, and resamples of them have more still.
    """
    return np.asarray(np.abs(means).sum(axis=-1))


def expected_calibration_error(probability: np.ndarray, outcome: np.ndarray, edges: np.ndarray) -> float:
    """`calibration_error` of all examples, in bins of `equal_width_edges` or `equal_mass_edges`."""
    return float(calibration_error(calibration_columns(probability, outcome, edges).mean(axis=0)))


def squared_errors(probability: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """(n,) whose mean is the Brier score (Brier 1950, one class), 0 = perfect, 0.25 = always 0.5."""
    probability, outcome = _checked(probability, outcome)
    return np.asarray((probability - outcome) ** 2)


def log_losses(probability: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """(n,) negative log likelihood in nats; infinite where a certainty was wrong, nothing is clipped."""
    probability, outcome = _checked(probability, outcome)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(np.where(outcome == 1, probability, 1.0 - probability)))


class Brier(NamedTuple):
    """score = reliability - resolution + uncertainty + within_bins."""

    score: float
    reliability: float
    """Weighted mean square of observed - said over bins: 0 is calibrated."""
    resolution: float
    """Variance of what is observed between bins: more is better."""
    uncertainty: float
    """Variance of the outcome, the score of always saying its mean."""
    within_bins: float
    """What bins hide: variance of the probabilities in them minus twice their covariance with the outcome; 0 where a bin
    holds one probability."""


def brier(probability: np.ndarray, outcome: np.ndarray, edges: np.ndarray) -> Brier:
    """Brier score and its decomposition (Murphy 1973), exact for any bins (Stephenson, Coelho and Jolliffe 2008)."""
    table = reliability(probability, outcome, edges)
    probability, outcome = _checked(probability, outcome)
    used = table.examples > 0
    share, said, observed = table.examples[used] / len(outcome), table.mean_probability[used], table.observed[used]
    member, base = _bin_of(probability, edges), outcome.mean()
    spread, miss = probability - table.mean_probability[member], outcome - table.observed[member]
    return Brier(
        score=float(squared_errors(probability, outcome).mean()),
        reliability=float((share * (said - observed) ** 2).sum()),
        resolution=float((share * (observed - base) ** 2).sum()),
        uncertainty=float(base * (1 - base)),
        within_bins=float((spread * (spread - 2 * miss)).mean()),
    )


def _classes(logits: np.ndarray) -> np.ndarray:
    """(n, C) float64; (n,) logits of yes become two classes, no = 0."""
    logits = np.asarray(logits, dtype=np.float64)
    return np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(logits / temperature): (n, C) -> (n, C); (n,) logits of "yes" -> (n,) probabilities of it."""
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: it must be positive")
    shares = softmax(_classes(logits) / temperature, axis=1)
    return np.asarray(shares[:, 1] if np.ndim(logits) == 1 else shares)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of least negative log likelihood (Guo et al. 2017); fit on one set, apply on another.

    The likelihood is convex in 1 / temperature, so its slope, the sum of (mean logit expected - logit of the truth), has one
    zero.

    Args:
        logits: (n, C) of classes, or (n,) of "yes" against "no" (logit of its probability).
        truth: (n,) index of the true class.

    Raises:
        ValueError: no finite temperature is best: every example is right, so certainty is; or the logits say nothing of
            the truth, so indifference is.
    """
    scores, truth = _classes(logits), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not np.isin(truth, range(scores.shape[1])).all():
        raise ValueError(f"logits {scores.shape} and truth {truth.shape}: give (n, C) and (n,) class indices below C")
    if not len(truth) or not np.isfinite(scores).all():
        raise ValueError("logits are none or not all finite: give the model's logits, not logarithms of rounded shares")
    scores = scores - scores[np.arange(len(truth)), truth.astype(np.int64)][:, None]  # the slope is then an expectation alone

    def slope(log_temperature: float) -> float:
        return float((softmax(scores / np.exp(log_temperature), axis=1) * scores).sum())

    low, high = np.log(COLDEST), np.log(HOTTEST)
    if not slope(high) < 0:
        raise ValueError(f"no temperature up to {HOTTEST:g} is best: these logits do not favour the truth, fit another model")
    if not slope(low) > 0:
        raise ValueError(f"no temperature from {COLDEST:g} is best: every truth has the highest logit, fit on more examples")
    return float(np.exp(brentq(slope, low, high, xtol=1e-12)))


def class_log_losses(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(n,) negative log likelihood in nats of the true class, from logits as in `fit_temperature`."""
    logs = log_softmax(_classes(logits) / temperature, axis=1)
    return np.asarray(-logs[np.arange(len(logs)), np.asarray(truth).astype(np.int64)])


class RiskCoverage(NamedTuple):
    """Row i - 1 answers the i most confident of n examples and abstains from the others."""

    coverage: np.ndarray
    """(n,) i / n."""
    risk: np.ndarray
    """(n,) share of wrong answers among the answered; among equal confidences the mean over all orders."""
    confidence: np.ndarray
    """(n,) of the i-th example."""


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> RiskCoverage:
    """Selective risk at each coverage (El-Yaniv and Wiener 2010).

    Args:
        confidence: (n,) on any monotone scale. Equal values give no order, and none is taken from the order of the examples:
            inside such a run errors are spread evenly.
        right: (n,) 0 or 1.
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    _check_outcome(confidence, right)
    if np.isnan(confidence).any():
        raise ValueError(f"confidence in row {np.flatnonzero(np.isnan(confidence))[0]} is NaN: every answer needs one")
    levels, level, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(level, weights=1 - right, minlength=len(levels))
    errors, answered = np.cumsum(np.repeat(wrong / sizes, sizes)), np.arange(1, len(right) + 1)
    return RiskCoverage(answered / len(right), errors / answered, -np.repeat(levels, sizes))


def area_under_risk_coverage(confidence: np.ndarray, right: np.ndarray) -> float:
    """AURC (Geifman and El-Yaniv 2017): mean risk over the coverages 1/n..1, in 0..1, less is better. Confidence that is
    equal everywhere has the error rate."""
    return float(risk_coverage(confidence, right).risk.mean())


def accuracy_at_coverage(confidence: np.ndarray, right: np.ndarray, coverage: float) -> float:
    """Share right among the most confident ceil(coverage * n) examples, equal confidences as in `risk_coverage`."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage {coverage}: give a share above 0, up to 1")
    curve = risk_coverage(confidence, right)
    return float(1 - curve.risk[np.ceil(round(coverage * len(curve.risk), 9)).astype(int) - 1])
