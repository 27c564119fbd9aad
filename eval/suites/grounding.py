"""Suite `grounding`: are the boxes right, and are they the reason for a right answer. Scores as in medclm/metrics/boxes.py.

Asked are the records whose reference writes boxes, and those whose image has no lesion of the asked class, where every box
is a false positive. The headline `answer_and_box` needs both halves to be right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.example import Ask, Example, Prediction, Said, Terms, Values
from eval.pool import Pool
from eval.suite import ANSWER, Metric, plain, plain_ask
from eval.suites.ranked_boxes import ROW, RankedBoxes, distinct
from eval.suites.vqa import Answers
from medclm.metrics import boxes
from medclm.metrics.floors import MedianBox
from medclm.metrics.parsing import alternatives
from medclm.types import Box

THRESHOLDS = (0.3, 0.5, 0.7)
BOX_RIGHT = 0.5
BOX_WRONG = 0.1
"""A right answer whose boxes reach less IoU than this is right for the wrong reason."""


class GroundingSuite:
    """Every example that asks for lesion boxes or has none to find."""

    name = "grounding"
    headline = ("answer_and_box", "mean_iou", "right_for_wrong_reason")

    def __init__(self, pool: Pool, terms: Terms) -> None:
        self.not_run: dict[str, str] = {}
        reasons = Counter(reason for one in pool.asked if (reason := _unasked(one)))
        self.examples = [one for one in pool.asked if not _unasked(one)]
        self.left_out = pool.left_out | dict(reasons)
        self._terms, self._pictures = terms, pool.pictures
        self._ranked = RankedBoxes()
        self._answers = Answers(pool)
        self._median = MedianBox((one.question, box) for one in pool.train if not _unasked(one) for box in one.boxes_unit)

    def metrics(self) -> list[Metric]:
        accuracies = [f"acc@{threshold}" for threshold in THRESHOLDS]
        strata = [f"mean_iou_{stratum}_patches" for stratum in boxes.STRATA]
        return [
            *plain("answer_and_box", "mean_iou", *accuracies, "centre", "union_precision", "union_recall", "union_iou"),
            *plain("right_for_wrong_reason", "reason_format_rate", "false_positive_rate", "boxes_on_empty", has_floor=False),
            *plain(*strata),
            *self._ranked.metrics(),
        ]

    def asks(self, example: Example) -> Sequence[Ask]:
        return [plain_ask(example, self._terms)]

    def guess(self, example: Example) -> Said | None:
        box = self._median.guess(example.question)
        return None if box is None else {ANSWER: Prediction(answer=self._answers.guess(example), boxes_unit=(box,))}

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        predictions = [one[ANSWER] for one in said]
        values = [self._judge(example, one) for example, one in zip(examples, predictions, strict=True)]
        if not (why := self._ranked.take(examples, predictions)):
            return [found | {ROW: float(row)} for row, found in enumerate(values)]
        self.not_run = {metric.name: why for metric in self._ranked.metrics()}
        return values

    def _judge(self, example: Example, prediction: Prediction) -> Values:
        said = boxes.as_array(prediction.boxes_unit)
        if not example.boxes_unit:
            return {"false_positive_rate": float(len(said) > 0), "boxes_on_empty": float(len(said))}
        lesions = distinct(example.boxes_unit)
        truth = boxes.as_array(lesions)
        iou = boxes.mean_iou(said, truth)
        overlap = boxes.union_overlap(said, truth)
        values = {
            "mean_iou": iou,
            **{f"acc@{threshold}": boxes.accuracy_at(said, truth, threshold) for threshold in THRESHOLDS},
            "centre": boxes.centre_hit(said, truth),
            "union_precision": overlap.precision,
            "union_recall": overlap.recall,
            "union_iou": overlap.iou,
            "reason_format_rate": float(prediction.boxes_in_rationale > 0 and prediction.answer is not None),
        }
        right = self._answers.judge(example, prediction.answer).get("right") if alternatives(example.answers) else None
        if right is not None:
            values["answer_and_box"] = float(bool(right) and iou >= BOX_RIGHT)
            values["right_for_wrong_reason"] = float(bool(right) and iou < BOX_WRONG)
        return values | _by_size(boxes.matched_iou(said, truth).tolist(), self._strata(example, lesions))

    def _strata(self, example: Example, lesions: Sequence[Box]) -> tuple[str, ...]:
        """Size stratum of each true box, in patches of the model; empty where no picture tells how large the boxes are shown."""
        if self._pictures is None:
            return ()
        square = self._terms.square
        frame = square.frame(self._pictures.size(example.picture))
        shown = [frame.to_square_px(box) for box in lesions]
        return tuple(boxes.size_stratum(min(box.width, box.height) / square.patch_size) for box in shown)


def _unasked(example: Example) -> str:
    """Why an example has no place here, or nothing."""
    if not example.boxes_known:
        return "boxes not known"
    if example.boxes_unit and not example.lists_boxes:
        return "more lesions than a text lists"
    if example.lists_boxes and not example.boxes_unit:
        return "boxes of no lesion"
    return ""


def _by_size(ious: list[float], strata: tuple[str, ...]) -> Values:
    """Mean IoU of the true boxes of each size; spurious boxes have no true size and do not enter here."""
    values = {}
    for stratum in set(strata):
        inside = [iou for iou, name in zip(ious, strata, strict=True) if name == stratum]
        values[f"mean_iou_{stratum}_patches"] = sum(inside) / len(inside)
    return values
