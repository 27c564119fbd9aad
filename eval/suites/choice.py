"""Suite `choice`: which option does the model find likeliest. No text is written, so no parser stands between model and score.

Two readings of the same numbers: the sum of an option's token log-probabilities, which favours short options, and their mean, which
does not (both as in Gao et al., lm-evaluation-harness, 2021: acc and acc_norm, there per byte). The confidence of the pick is the
softmax of the sums over the options.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.example import Ask, Example, Prediction, Said, Terms, Values
from eval.pool import Pool
from eval.suite import Metric, plain
from medclm.data.render import with_instruction
from medclm.metrics import calibration
from medclm.metrics.floors import MajorityAnswer
from medclm.metrics.parsing import alternatives, normalise, options, true_option

OPTIONS = "options"
"""Name of the ask."""
_EDGES = calibration.equal_width_edges(15)
_BINS = tuple(f"calibration_bin_{number}" for number in range(15))


class ChoiceSuite:
    """Every example with options of which exactly one is right."""

    name = "choice"
    headline = ("choice_accuracy", "choice_accuracy_normalised")

    def __init__(self, pool: Pool, terms: Terms) -> None:
        self.not_run: dict[str, str] = {}
        asked = [one for one in pool.asked if truth_of(one) is not None]
        self.examples = asked
        missing = len(pool.asked) - len(asked)
        self.left_out = pool.left_out | ({"no options, or not one of them right": missing} if missing else {})
        self._majority = MajorityAnswer(
            (one.question_kind, one.question, accepted[0]) for one in pool.train if (accepted := alternatives(one.answers))
        )

    def metrics(self) -> list[Metric]:
        return [
            *plain("choice_accuracy", "choice_accuracy_normalised"),
            Metric("calibration_error_15_bins", _BINS, calibration.calibration_error, has_floor=False),
            Metric("risk_coverage_area", ("confidence", "picked"), statistic=_risk_coverage, has_floor=False),
        ]

    def asks(self, example: Example) -> Sequence[Ask]:
        listed = "" if options(example.question) else "\n" + " ".join(f"{letter}) {text}" for letter, text in lettered(example))
        return [Ask(OPTIONS, with_instruction(example.question + listed, "direct"), options=texts_of(example))]

    def guess(self, example: Example) -> Said | None:
        """The majority answer of training where it is an option, else no option more than another."""
        guessed = self._majority.guess(example.question_kind, example.question)
        found = [float(guessed is not None and normalise(text) == normalise(guessed)) for text in texts_of(example)]
        return {OPTIONS: Prediction(option_scores=tuple(found), option_tokens=(1,) * len(found))}

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        return [_judge(example, one[OPTIONS]) for example, one in zip(examples, said, strict=True)]


def texts_of(example: Example) -> tuple[str, ...]:
    """The options in the order of their letters, from the example or from its question."""
    return example.options or tuple(options(example.question).values())


def lettered(example: Example) -> list[tuple[str, str]]:
    return [(chr(ord("A") + at), text) for at, text in enumerate(texts_of(example))]


def truth_of(example: Example) -> int | None:
    """Place of the right option; None unless there are options and exactly one is right."""
    found = {true_option(answer, dict(lettered(example))) for answer in alternatives(example.answers)} - {None}
    [letter] = found if len(found) == 1 else [None]
    return None if letter is None else ord(letter) - ord("A")


def _judge(example: Example, prediction: Prediction) -> Values:
    truth = truth_of(example)
    assert truth is not None
    sums = np.array(prediction.option_scores, dtype=np.float64)
    if len(sums) != len(texts_of(example)):  # stored predictions without likelihoods
        return {"choice_accuracy": 0.0, "choice_accuracy_normalised": 0.0}
    likely = np.exp(sums - sums.max())
    confidence, picked = float(likely.max() / likely.sum()), float(int(sums.argmax()) == truth)
    errors = calibration.calibration_columns(np.array([confidence]), np.array([picked]), _EDGES)[0]
    return {
        "choice_accuracy": _credit(sums, truth),
        "choice_accuracy_normalised": _credit(sums / np.array(prediction.option_tokens), truth),
        "confidence": confidence,
        "picked": picked,
        **dict(zip(_BINS, map(float, errors), strict=True)),
    }


def _credit(scores: np.ndarray, truth: int) -> float:
    """1 for the right pick; options that tie share it, so that a constant score earns chance."""
    best = scores == scores.max()
    return float(best[truth] / best.sum())


def _risk_coverage(values: np.ndarray) -> float:
    known = values[np.isfinite(values).all(axis=1)]
    return calibration.area_under_risk_coverage(known[:, 0], known[:, 1]) if len(known) else float("nan")
