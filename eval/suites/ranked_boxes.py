"""Scores of boxes with a confidence, for suite `grounding`: average precision and FROC over the model's own token probabilities.

A case is one question: its true boxes, and the boxes written for it, ranked by the mean log-probability of their tokens. They exist
only where every box of every reply has that score; boxes without one would have to be ranked by a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from eval.example import Example, Prediction
from eval.suite import Metric
from medclm.metrics import detection
from medclm.types import Box

SCORE = "mean_log_probability"
ROW = "ranked_row"
"""Column with the place of an example among the cases."""
THRESHOLDS = (0.3, 0.5)

Statistic = Callable[[np.ndarray], float]
"""(C,) multiplicity of each case -> score."""


class RankedBoxes:
    """The cases of one judgement, matched once."""

    def __init__(self) -> None:
        self._matched: detection.Matched | None = None

    def take(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """Match these; why it cannot be done, or nothing. What was matched before stays where these have no score."""
        if not examples:
            return "not run: no question"
        if any(one.boxes_unit for one in predictions) and not any(one.box_scores for one in predictions):
            return "not run: no box has a score"
        if any(len(one.box_scores) != len(one.boxes_unit) for one in predictions):
            return "not run: needs a score for every box"
        cases = [
            detection.Case(
                image=example.id,
                label=example.domain or "lesion",
                truth=distinct(example.boxes_unit),
                boxes=said.boxes_unit,
                scores={SCORE: said.box_scores},
            )
            for example, said in zip(examples, predictions, strict=True)
        ]
        self._matched = detection.match(cases, score=SCORE, thresholds=THRESHOLDS)
        return ""

    def metrics(self) -> list[Metric]:
        """AP (mean over domains) and mean FROC sensitivity at 1/8 to 8 false positives a question, at each threshold."""
        named: dict[str, Statistic] = {}
        for at, threshold in enumerate(THRESHOLDS):
            named[f"ap@{threshold}"] = partial(self._precision, at)
            named[f"froc@{threshold}"] = partial(self._froc, threshold)
        return [
            Metric(name, (ROW,), statistic=partial(self._of, score), interval=partial(self._interval, score), has_floor=False)
            for name, score in named.items()
        ]

    def _precision(self, at: int, weights: np.ndarray) -> float:
        assert self._matched is not None
        return float(detection.average_precision(self._matched, weights=weights).mean[at])

    def _froc(self, threshold: float, weights: np.ndarray) -> float:
        assert self._matched is not None
        return detection.froc(self._matched, threshold=threshold, weights=weights).mean

    def _of(self, score: Statistic, values: np.ndarray) -> float:
        rows = _rows(values)
        return score(self._weights(rows)) if self._matched is not None and len(rows) else float("nan")

    def _interval(self, score: Statistic, values: np.ndarray, patients: Sequence[str], seed: int) -> tuple[float, float] | None:
        rows = _rows(values)
        if self._matched is None or not len(rows):
            return None
        owners = [patient for patient, value in zip(patients, values[:, 0], strict=True) if np.isfinite(value)]
        return detection.bootstrap(lambda times: score(self._weights(rows, times)), owners, seed=seed, resamples=500)

    def _weights(self, rows: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
        assert self._matched is not None
        return np.bincount(rows, weights=times, minlength=len(self._matched.label)).astype(np.float64)


def distinct(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes, each once: a lesion that was annotated twice is one, as a box that is written twice is."""
    return tuple(dict.fromkeys(boxes))


def _rows(values: np.ndarray) -> np.ndarray:
    """(n, 1) -> (m,) int64: the cases meant."""
    return values[np.isfinite(values[:, 0]), 0].astype(np.int64)
