"""What the suites of one evaluation choose from: the examples of a split, training examples to guess from, and pictures.

This page makes it from our own shards; `eval/layouts/` makes it from the public benchmarks' files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.example import Example
from eval.pictures import CorpusPictures, Pictures
from medclm.data.shards import Corpus
from medclm.draws import generator
from medclm.metrics.parsing import alternatives, polarity
from medclm.types import Box

FLOOR_RECORDS = 20_000
"""At most this many training records are read for image-free guesses."""

_IMPORTED = "published"
"""Writer of records whose texts came from elsewhere, each with one box, whatever else of its class the image shows."""
_PLACES = {"organ": "organ", "side": "side", "part of the image": "image_position"}
"""Subgroup -> fact of a lesion."""
_ATTRIBUTES = ("sex", "age_decade", "manufacturer")


@dataclass(frozen=True)
class Pool:
    """The questions of one split of one benchmark."""

    name: str
    """Of the benchmark, as the results show it."""
    asked: list[Example]
    """Examples of the judged split, in their stored order."""
    train: list[Example]
    """Training examples to guess from, drawn; empty where there is no train split."""
    pictures: Pictures | None
    """None where the benchmark came without pictures: then only stored predictions can be judged."""
    identity: str
    """Changes when the questions or their truth change."""
    left_out: dict[str, int]
    """Records of the judged split that cannot be asked, by reason."""


def corpus_pool(corpus: Corpus, split: str) -> Pool:
    """Every record of `split` that is offered at Medium, and training records to guess from.

    Raises:
        ValueError: no such split, or it has no records.
    """
    total = corpus.count("records", split)
    if total == 0:
        raise ValueError(f"{corpus.folder}: split {split!r} has no records: choose another with --split or build one")
    reader = _Records(corpus)
    asked = [reader.example(record) for record in _offered(corpus, split, range(total))]
    train = [reader.example(record) for record in _offered(corpus, "train", drawn(corpus.count("records", "train")))]
    pictures = CorpusPictures(corpus)
    return Pool(
        name=corpus.folder.name,
        asked=asked,
        train=train,
        pictures=pictures,
        identity=pictures.identity(),
        left_out={"not offered at Medium": total - len(asked)} if total > len(asked) else {},
    )


def drawn(total: int, most: int = FLOOR_RECORDS) -> Sequence[int]:
    """Positions of at most `most` of so many training records, rising. They are drawn: the records of a picture follow
    each other in a fixed order, of which a stride could meet one class alone."""
    if total <= most:
        return range(total)
    positions = generator(0, "eval.floor").choice(total, most, replace=False)
    return [int(position) for position in np.sort(positions)]


_COLUMNS = [
    "record_id",
    "image_row",
    "annotation_rows",
    "question_kind",
    "writer",
    "domain",
    "language",
    "question_medium",
    "rationale_medium",
    "answer_medium",
    "answers_medium",
    "answer_type_medium",
    "question_easy",
    "answer_easy",
    "answer_type_easy",
]


def _offered(corpus: Corpus, split: str, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The records at these positions of a split that are offered at Medium."""
    kept, position = frozenset(positions), 0
    for batch in corpus.scan("records", _COLUMNS, split):
        for record in batch.to_pylist():
            if position in kept and record["question_medium"] and record["answer_medium"]:
                yield record
            position += 1


class _Records:
    """Stored records as examples."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._by_image: dict[int, list[tuple[str, Box]]] = defaultdict(list)
        for batch in corpus.scan("annotations", ["image_row", "lesion_class", "box_role", "box_xyxy_unit"]):
            for row in batch.to_pylist():
                if row["box_role"] == "lesion" and row["box_xyxy_unit"]:
                    self._by_image[row["image_row"]].append((row["lesion_class"], Box(*row["box_xyxy_unit"])))

    def example(self, record: dict[str, Any]) -> Example:
        if "<box:" in record["question_medium"]:
            raise ValueError(
                f"record {record['record_id']}: question_medium points at a box, but Medium draws and writes none: rebuild it"
            )
        columns = ["patient", "image_id", "modality", "plane", "view", "attributes"]
        image = self._corpus.row("images", record["image_row"], columns)
        rows = self._corpus.rows(
            "annotations", record["annotation_rows"], ["lesion_class", "box_role", "box_xyxy_unit", "facts"]
        )
        lesions = [row for row in rows if row["box_role"] == "lesion"]
        boxes, boxes_known = self._boxes(record, lesions)
        accepted = [record["answer_medium"], *(record["answers_medium"] or [])]
        return Example(
            id=record["record_id"],
            patient=image["patient"] or image["image_id"],
            question_kind=record["question_kind"],
            answer_type=record["answer_type_medium"] or "open",
            question=record["question_medium"],
            picture=record["image_row"],
            answers=tuple(alternatives(accepted)),
            boxes_unit=tuple(boxes),
            domain=record["domain"],
            boxes_known=boxes_known,
            lists_boxes="<box:" in (record["rationale_medium"] or ""),
            pointed=_pointed(record, boxes),
            language=record["language"] or "en",
            groups=_groups(image) | _places(lesions),
        )

    def _boxes(self, record: dict[str, Any], lesions: list[dict[str, Any]]) -> tuple[list[Box], bool]:
        """The true boxes of a question, and whether all of them are known.

        Our writers store with a record exactly the lesions that its Medium question is about: all of the asked class, or the
        one it singles out (`the largest`). An imported record has one box, and its image's others of that class count too.
        """
        own = [row["box_xyxy_unit"] for row in lesions]
        boxes = [Box(*box) for box in own if box]
        if record["writer"] == _IMPORTED:
            classes = {row["lesion_class"] for row in lesions}
            boxes = [box for lesion_class, box in self._by_image[record["image_row"]] if lesion_class in classes]
        return boxes, all(own)


def _pointed(record: dict[str, Any], boxes: list[Box]) -> str:
    """The Easy question where it is closed and says yes to the one lesion that is drawn."""
    closed = record["answer_type_easy"] == "closed" and polarity(record["answer_easy"] or "") is True
    return str(record["question_easy"]) if closed and len(boxes) == 1 and "<box:" not in record["question_easy"] else ""


def _groups(image: dict[str, Any]) -> dict[str, str]:
    """Subgroups of an image row, where known."""
    attributes = json.loads(image["attributes"]) if image["attributes"] else {}
    found = {name: image[name] for name in ("modality", "plane", "view")} | {name: attributes.get(name) for name in _ATTRIBUTES}
    return {name: str(value) for name, value in found.items() if value}


def _places(lesions: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Where the lesions of a question lie, by what is known of each: one word where all agree, else `several`."""
    facts, found = [json.loads(row["facts"] or "{}") for row in lesions], {}
    for name, fact in _PLACES.items():
        words = {str(one[fact]) for one in facts if one.get(fact)}
        if words:
            found[name] = words.pop() if len(words) == 1 else "several"
    return found
