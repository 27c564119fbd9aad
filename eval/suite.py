"""What a suite is: examples with their truth, a judge of one prediction, and metrics as formulas of means.

A floor is the same metric of the same examples when an image-free guess answers them, so a score and its floor are always
comparable. Reads corpora; knows nothing of models, generation or report files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from medclm.data.frame import ImageFrame
from medclm.data.shards import Corpus
from medclm.metrics.boxes import size_stratum
from medclm.metrics.intervals import Formula, bootstrap_ci95, estimate, first_column
from medclm.metrics.parsing import alternatives
from medclm.types import Box

FLOOR_RECORDS = 20_000
"""At most this many training records, evenly spread, are read for image-free guesses."""

_IMPORTED = "published"
"""Writer of records whose texts came from elsewhere, each with one box, whatever else of its class the image shows."""


class Square(NamedTuple):
    """The model's square picture, as far as judging needs it: boxes are counted by size in its patches."""

    side: int
    patch_size: int
    fit: Any
    """`pad` or `stretch`, as data.fit."""


@dataclass(frozen=True)
class Example:
    """A record asked at the Medium stage: about the whole image, no box drawn."""

    id: str
    patient: str
    question_kind: str
    answer_type: str
    question: str
    """Without its response instruction."""
    image_row: int
    width: int
    height: int
    """Of the stored image, in pixels."""
    answers: tuple[str, ...]
    """Accepted alternatives."""
    boxes_unit: tuple[Box, ...]
    """All lesions the question is about: of the asked class in the image, or the one that the question singles out."""
    strata: tuple[str, ...]
    """Size stratum of each box."""
    domain: str
    boxes_known: bool
    """False where a lesion it is about has no box, so that the true boxes are not known."""
    lists_boxes: bool
    """The reference rationale writes boxes: it does not for `no finding` and for crowds of lesions."""


@dataclass(frozen=True)
class Prediction:
    """What a completion, or a guess, says."""

    text: str
    answer: str | None
    """None = unparsed."""
    boxes_unit: tuple[Box, ...]
    """Distinct boxes of the whole completion, in order."""
    boxes_in_rationale: int = 0


Values = dict[str, float]
"""Per-example values by the name of the mean they enter; what does not apply is absent."""


@dataclass(frozen=True)
class Metric:
    """A score: a formula of the means of per-example values."""

    name: str
    columns: tuple[str, ...]
    formula: Formula = first_column
    has_floor: bool = True


@dataclass(frozen=True)
class Score:
    """A metric of a suite."""

    value: float | None
    """None where no example has it."""
    ci95: tuple[float, float] | None
    """Over patients; None with fewer than two."""
    floor: float | None
    n: int
    """Examples that enter."""

    def as_json(self) -> dict[str, Any]:
        ci95 = None if self.ci95 is None else list(self.ci95)
        return {"value": self.value, "ci95": ci95, "floor": self.floor, "n": self.n}


@dataclass(frozen=True)
class Pool:
    """What the suites of one evaluation choose from."""

    asked: list[Example]
    """Examples of the judged split, in row order."""
    train: list[Example]
    """Training examples to guess from, evenly spread; empty where there is no train split."""
    left_out: dict[str, int]
    """Records of the judged split that cannot be asked, by reason."""


class Suite(Protocol):
    """One kind of judgement over a pool; made from it."""

    name: str
    examples: list[Example]
    left_out: dict[str, int]
    """Records of the split that this suite does not ask, by reason."""

    def metrics(self) -> list[Metric]: ...

    def guess(self, example: Example) -> Prediction | None:
        """The image-free answer, or None where training holds nothing to guess from."""
        ...

    def judge(self, example: Example, prediction: Prediction) -> Values: ...


def plain(*names: str, has_floor: bool = True) -> list[Metric]:
    """Metrics that are the mean of the values of their own name."""
    return [Metric(name, (name,), has_floor=has_floor) for name in names]


def table(rows: Sequence[Values], columns: Sequence[str]) -> np.ndarray:
    """(n, K) float64, NaN where a row lacks a column."""
    return np.array([[row.get(column, np.nan) for column in columns] for row in rows], dtype=np.float64).reshape(
        -1, len(columns)
    )


def summarise(suite: Suite, judged: Sequence[Values], *, seed: int) -> dict[str, Score]:
    """Every score of a suite; `judged` are the values of `suite.examples`, in order."""
    patients = [example.patient for example in suite.examples]
    guesses = [(example, suite.guess(example)) for example in suite.examples]
    guessed = [suite.judge(example, guess) if guess else {} for example, guess in guesses]
    scores = {}
    for metric in suite.metrics():
        values = table(judged, metric.columns)
        floor = _known(estimate(table(guessed, metric.columns), metric.formula)) if metric.has_floor else None
        value = _known(estimate(values, metric.formula))
        ci95 = None if value is None else bootstrap_ci95(values, patients, formula=metric.formula, seed=seed)
        scores[metric.name] = Score(value=value, ci95=ci95, floor=floor, n=int(np.isfinite(values).any(axis=1).sum()))
    return scores


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


_COLUMNS = [
    "record_id",
    "image_row",
    "annotation_rows",
    "question_kind",
    "writer",
    "domain",
    "question_medium",
    "rationale_medium",
    "answer_medium",
    "answers_medium",
    "answer_type_medium",
]


def load_pool(corpus: Corpus, split: str, square: Square) -> Pool:
    """Every record of `split` that is offered at Medium, and training records to guess from.

    Raises:
        ValueError: no such split, or it has no records.
    """
    total = corpus.count("records", split)
    if total == 0:
        raise ValueError(f"{corpus.folder}: split {split!r} has no records: choose another with --split or build one")
    lesions = _Lesions(corpus)
    asked = [_example(corpus, record, lesions, square) for record in _offered(corpus, split, 1)]
    stride = max(1, -(-corpus.count("records", "train") // FLOOR_RECORDS))
    train = [_example(corpus, record, lesions, square) for record in _offered(corpus, "train", stride)]
    left_out = {"not offered at Medium": total - len(asked)} if total > len(asked) else {}
    return Pool(asked=asked, train=train, left_out=left_out)


def _offered(corpus: Corpus, split: str, stride: int) -> Iterator[dict[str, Any]]:
    """Every `stride`-th record of a split, if it is offered at Medium."""
    position = 0
    for batch in corpus.scan("records", _COLUMNS, split):
        for record in batch.to_pylist():
            if position % stride == 0 and record["question_medium"] and record["answer_medium"]:
                yield record
            position += 1


def _example(corpus: Corpus, record: dict[str, Any], lesions: _Lesions, square: Square) -> Example:
    if "<box:" in record["question_medium"]:
        raise ValueError(
            f"record {record['record_id']}: question_medium points at a box, but Medium draws and writes none: rebuild it"
        )
    image = corpus.row("images", record["image_row"], ["width", "height", "patient", "image_id"])
    boxes, boxes_known = lesions.asked(record)
    frame = ImageFrame(image["width"], image["height"], side=square.side, fit=square.fit)
    sides = [frame.to_square_px(box) for box in boxes]
    accepted = [record["answer_medium"], *(record["answers_medium"] or [])]
    return Example(
        id=record["record_id"],
        patient=image["patient"] or image["image_id"],
        question_kind=record["question_kind"],
        answer_type=record["answer_type_medium"] or "open",
        question=record["question_medium"],
        image_row=record["image_row"],
        width=image["width"],
        height=image["height"],
        answers=tuple(alternatives(accepted)),
        boxes_unit=tuple(boxes),
        strata=tuple(size_stratum(min(box.width, box.height) / square.patch_size) for box in sides),
        domain=record["domain"],
        boxes_known=boxes_known,
        lists_boxes="<box:" in (record["rationale_medium"] or ""),
    )


class _Lesions:
    """Lesion boxes of a corpus by image and class."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._by_image: dict[int, list[tuple[str, Box]]] = defaultdict(list)
        for batch in corpus.scan("annotations", ["image_row", "lesion_class", "box_role", "box_xyxy_unit"]):
            for row in batch.to_pylist():
                if row["box_role"] == "lesion" and row["box_xyxy_unit"]:
                    self._by_image[row["image_row"]].append((row["lesion_class"], Box(*row["box_xyxy_unit"])))

    def asked(self, record: dict[str, Any]) -> tuple[list[Box], bool]:
        """The true boxes of a question, and whether all of them are known.

        Our writers store with a record exactly the lesions that its Medium question is about: all of the asked class, or the
        one it singles out (`the largest`). An imported record has one box, and its image's others of that class count too.
        """
        rows = self._corpus.rows("annotations", record["annotation_rows"], ["lesion_class", "box_role", "box_xyxy_unit"])
        own = [row["box_xyxy_unit"] for row in rows if row["box_role"] == "lesion"]
        boxes = [Box(*box) for box in own if box]
        if record["writer"] == _IMPORTED:
            classes = {row["lesion_class"] for row in rows if row["box_role"] == "lesion"}
            boxes = [box for lesion_class, box in self._by_image[record["image_row"]] if lesion_class in classes]
        return boxes, all(own)
