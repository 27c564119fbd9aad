"""Suite `classification`: is a finding there, as a number. Scores are log-odds of yes against no, never hard labels.

Each label of an image is asked as a closed question of its own; a stored yes/no question is one label of its domain. Area under the
ROC curve and average precision come from the scores alone, thresholds are at even odds. Uncertain labels (-1 in CheXpert's files)
are left out of the headline and counted once as positive and once as negative beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from eval.example import Ask, Example, Prediction, Said, Terms, Values
from eval.pool import Pool
from eval.suite import Metric
from medclm.data.render import with_instruction
from medclm.metrics import calibration, classification
from medclm.metrics.intervals import bootstrap_rows_ci95
from medclm.metrics.parsing import alternatives, polarity

YES_NO = ("Yes", "No")
SPECIFICITY = 0.9
_EDGES = calibration.equal_width_edges(15)
_BINS = tuple(f"calibration_bin_{number}" for number in range(15))

Kind = Literal["auroc", "average_precision"]


class ClassificationSuite:
    """Every example with labels, or with a closed question whose answer is yes or no."""

    name = "classification"
    headline = ("auroc_macro", "average_precision_macro")

    def __init__(self, pool: Pool, terms: Terms) -> None:
        self.not_run: dict[str, str] = {}
        self.examples = [one for one in pool.asked if labels_of(one)]
        missing = len(pool.asked) - len(self.examples)
        self.left_out = pool.left_out | ({"no label and no yes or no": missing} if missing else {})
        shown = Counter((name, value) for one in self.examples for name, value in labels_of(one).items())
        self.labels = tuple(sorted({name for name, _ in shown}))
        self.ranked = tuple(name for name in self.labels if shown[name, 1.0] and shown[name, 0.0])
        """Labels with both classes: the only ones that have a rank score."""
        for name in sorted(set(self.labels) - set(self.ranked)):
            self.left_out |= {f"label {name}: only one class, no rank score": sum(shown[name, v] for v in (0.0, 1.0, -1.0))}
        trained = Counter((name, value) for one in pool.train for name, value in labels_of(one).items())
        self._prevalence = {
            name: (trained[name, 1.0] + 1) / (trained[name, 1.0] + trained[name, 0.0] + 2) for name in self.labels
        }

    def metrics(self) -> list[Metric]:
        macro = [
            Metric(
                f"{kind}_macro{suffix}",
                _columns(self.ranked),
                statistic=partial(_ranked, self.ranked, kind, policy),
                interval=partial(_interval, self.ranked, kind, policy),
            )
            for kind in ("auroc", "average_precision")
            for suffix, policy in (
                ("", "ignore"),
                ("_uncertain_positive", "as_positive"),
                ("_uncertain_negative", "as_negative"),
            )
        ]
        each = [
            Metric(
                f"auroc: {name}",
                _columns((name,)),
                statistic=partial(_ranked, (name,), "auroc", "ignore"),
                interval=partial(_interval, (name,), "auroc", "ignore"),
            )
            for name in self.ranked
        ]
        at_even_odds = [
            Metric("f1_micro", ("tp", "fp", "fn", "tn"), classification.f1),
            Metric("sensitivity", ("tp", "fp", "fn", "tn"), classification.sensitivity),
            Metric("specificity", ("tp", "fp", "fn", "tn"), classification.specificity),
        ]
        return [
            *macro[:1],
            *macro[3:4],
            *each,
            *macro[1:3],
            *macro[4:],
            Metric(
                "sensitivity_at_0.9_specificity_macro",
                _columns(self.ranked),
                statistic=partial(_sensitivity, self.ranked),
                interval=partial(_sensitivity_interval, self.ranked),
            ),
            *at_even_odds,
            Metric("calibration_error_15_bins", _BINS, calibration.calibration_error),
            Metric("brier", ("brier",)),
        ]

    def asks(self, example: Example) -> Sequence[Ask]:
        return [
            Ask(ask_name(name), with_instruction(question_of(example, name), "direct"), options=YES_NO)
            for name in labels_of(example)
        ]

    def guess(self, example: Example) -> Said | None:
        """The label's training prevalence, whatever the picture shows."""
        return {ask_name(name): Prediction(option_scores=_odds(self._prevalence[name])) for name in labels_of(example)}

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        return [self._judge(example, one) for example, one in zip(examples, said, strict=True)]

    def _judge(self, example: Example, said: Said) -> Values:
        values: Values = {}
        counts, bins, errors = np.zeros(4), np.zeros(len(_BINS)), []
        for name, truth in labels_of(example).items():
            scores = said[ask_name(name)].option_scores
            if len(scores) != 2:
                raise ValueError(f"{example.id}: {name} has no score: classification needs likelihoods, not texts")
            score = scores[0] - scores[1]
            values |= {f"score: {name}": score, f"truth: {name}": truth}
            if truth in (0.0, 1.0):
                probability = np.array([1 / (1 + np.exp(-np.clip(score, -500, 500)))])
                counts += _counted(score, truth)
                bins += calibration.calibration_columns(probability, np.array([truth]), _EDGES)[0]
                errors.append(float(calibration.squared_errors(probability, np.array([truth]))[0]))
        if errors:
            values |= dict(zip(("tp", "fp", "fn", "tn"), map(float, counts), strict=True))
            values |= dict(zip(_BINS, (float(one) / len(errors) for one in bins), strict=True))
            values["brier"] = sum(errors) / len(errors)
        return values


def labels_of(example: Example) -> dict[str, float]:
    """Label -> 1, 0 or -1 (uncertain)."""
    if example.labels:
        return dict(example.labels)
    if example.answer_type != "closed" or not example.answers:
        return {}
    truth = polarity(alternatives(example.answers)[0])
    return {} if truth is None else {example.domain or example.question_kind: float(truth)}


def question_of(example: Example, name: str) -> str:
    """What is asked about a label: the stored question, or a plain one."""
    return example.question or f"Is there {name[:1].lower()}{name[1:]}?"


def ask_name(label: str) -> str:
    return f"label: {label}"


def _counted(score: float, truth: float) -> np.ndarray:
    """(4,) true positive, false positive, false negative, true negative at even odds; a tie says no."""
    said = score > 0
    return np.array(
        [said and truth == 1, said and truth == 0, not said and truth == 1, not said and truth == 0], dtype=np.float64
    )


def _odds(probability: float) -> tuple[float, float]:
    return float(np.log(probability)), float(np.log(1 - probability))


def _columns(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{part}: {name}" for part in ("score", "truth") for name in labels)


def _split(values: np.ndarray, policy: classification.Policy) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2 L) -> scores and truth, (n, L) each."""
    half = values.shape[1] // 2
    return np.nan_to_num(values[:, :half]), classification.resolve_uncertain(values[:, half:], policy)


def _ranked(labels: tuple[str, ...], kind: Kind, policy: classification.Policy, values: np.ndarray) -> float:
    if not labels:
        return float("nan")
    return classification.rank_score(*_split(values, policy), labels, score=kind).macro


def _interval(
    labels: tuple[str, ...], kind: Kind, policy: classification.Policy, values: np.ndarray, patients: Sequence[str], seed: int
) -> tuple[float, float] | None:
    if not labels:
        return None
    found = classification.bootstrap(*_split(values, policy), labels, patients, score=kind, seed=seed)
    return found[classification.MACRO].ci95


def _sensitivity(labels: tuple[str, ...], values: np.ndarray) -> float:
    """Mean over labels of the sensitivity at `SPECIFICITY`."""
    if not labels:
        return float("nan")
    points = classification.sensitivity_at(*_split(values, "ignore"), labels, specificity=SPECIFICITY)
    return float(np.mean([point.sensitivity for point in points.values()])) if points else float("nan")


def _sensitivity_interval(
    labels: tuple[str, ...], values: np.ndarray, patients: Sequence[str], seed: int
) -> tuple[float, float] | None:
    """Over the labels of the whole set, as the intervals of the other means: a resample in which one lacks a class is left out."""
    truth = _split(values, "ignore")[1]
    whole = np.array([(column == 0).any() and (column == 1).any() for column in truth.T])

    def statistic(rows: np.ndarray) -> float:
        drawn = _split(rows, "ignore")[1][:, whole]
        both = (drawn == 0).any(axis=0) & (drawn == 1).any(axis=0)
        return _sensitivity(labels, rows) if both.all() else float("nan")

    return bootstrap_rows_ci95(values, patients, statistic=statistic, seed=seed)
