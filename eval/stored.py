"""Predictions that somebody else made, as a respondent: so that other people's models are judged by the same suites.

    {"id": "synpic123", "answer": "yes"}                                    one line a question, JSON Lines, a JSON list or CSV
    {"id": "r00018", "text": "Reasoning: ... Answer: a mass", "boxes": [[0.1, 0.2, 0.5, 0.6]]}

`answer` is taken whole; `text` is a completion, and what follows its last `Answer:` counts. `boxes` are fractions of the stored image
(x0, y0, x1, y1), with `box_scores` where there are any; without them the boxes that the text writes are read. `option_scores` are the
log-likelihoods of the options of a choice; `ask` names a question of a suite that asks several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.example import Example, Reply, Square
from eval.layouts.layout import kind_of, rows_of
from eval.pictures import Pictures
from eval.respondent import Asked
from eval.suite import ANSWER
from medclm.config import BoxTextSection
from medclm.corpus.sources.tables import read_table
from medclm.data.manifest import sha256_file
from medclm.types import Box

_IDS = ("id", "question_id", "qid", "example_id")
_EXPECTED = "one prediction a row, with id and answer or text"
STORED_SQUARE = Square(side=336, patch_size=14, fit="pad")
"""Sizes are told in the patches of ViP-LLaVA, whoever made the predictions."""


@dataclass
class Stored:
    """A file of predictions for the examples of one evaluation.

    Args:
        undrawn: ids that a limit may have left out: passed over.

    Raises:
        ValueError: no such file, another form, an id that is not asked, an id twice, values that are no numbers; names file and row.
    """

    file: Path
    examples: Sequence[Example]
    square: Square = STORED_SQUARE
    box_text: BoxTextSection = field(default_factory=BoxTextSection)
    undrawn: Set[str] = frozenset()

    def __post_init__(self) -> None:
        self.settings: dict[str, Any] = {"predictions": sha256_file(self.file) if self.file.is_file() else ""}
        known = {example.id for example in self.examples}
        self._replies: dict[str, Reply] = {}
        for number, row in _rows(self.file):
            name = _id(self.file, number, row)
            if name not in known and name in self.undrawn:
                continue
            if name not in known:
                raise ValueError(
                    f"{self.file}:{number}: id {name!r} is not among the {len(known)} questions, whose first is "
                    f"{self.examples[0].id!r}: are these of another set?"
                )
            key = f"{name}#{_text(self.file, number, row, 'ask') or ANSWER}"
            if key in self._replies:
                raise ValueError(f"{self.file}:{number}: id {name!r} stands twice: remove one")
            self._replies[key] = _reply(self.file, number, row)
        if not self._replies:
            raise ValueError(f"{self.file}: no predictions: expected {_EXPECTED}")
        answered = {key.rpartition("#")[0] for key in self._replies}
        self.missing = sum(example.id not in answered for example in self.examples)
        """Questions that the file does not answer: judged as said nothing."""

    def replies(
        self, asked: Sequence[Asked], pictures: Pictures | None, progress: Callable[[int], None]
    ) -> Iterator[tuple[Asked, Reply]]:
        """See `Respondent.replies`; a question without a prediction has an empty reply."""
        for one in asked:
            progress(1)
            yield one, self._replies.get(one.id, Reply())


def _rows(file: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if file.suffix.lower() not in (".csv", ".tsv"):
        return rows_of(file, _EXPECTED)
    for name in _IDS:
        try:
            table = read_table(file, [name], ["ask", "text", "answer"])
        except ValueError as error:
            if f"no column {name}" not in str(error):
                raise
            if name == _IDS[-1]:
                raise ValueError(str(error).replace(f"no column {name}", f"no column {' or '.join(_IDS)}")) from error
            continue
        return [(row.line, {key: row[key] for key in (name, "ask", "text", "answer") if row[key]}) for row in table.rows]
    raise AssertionError("the last name either reads or raises")


def _id(file: Path, number: int, row: Mapping[str, Any]) -> str:
    for name in _IDS:
        if name in row:
            if isinstance(row[name], bool) or not isinstance(row[name], str | int):
                raise ValueError(f"{file}:{number}: {name} is {kind_of(row[name])}: expected the id of a question")
            return str(row[name])
    raise ValueError(f"{file}:{number}: no id: expected {_EXPECTED}")


def _text(file: Path, number: int, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{file}:{number}: {name} is {kind_of(value)}: expected text")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{file}:{number}: {name} holds half a character (\\ud800 to \\udfff): correct it")
    return value


def _reply(file: Path, number: int, row: Mapping[str, Any]) -> Reply:
    text, answer = _text(file, number, row, "text"), _text(file, number, row, "answer")
    options = _numbers(file, number, row.get("option_scores"), "option_scores")
    if not (text or answer or options or "text" in row or "answer" in row or "boxes" in row):
        raise ValueError(f"{file}:{number}: neither answer nor text: expected {_EXPECTED}")
    if answer:
        text = f"{text}\n\nAnswer: {answer}".strip()
    boxes = row.get("boxes")
    found = None if boxes is None else tuple(_box(file, number, box) for box in _listed(file, number, boxes, "boxes"))
    scores = _numbers(file, number, row.get("box_scores"), "box_scores")
    if scores and len(scores) != len(found or ()):
        raise ValueError(f"{file}:{number}: {len(scores)} box_scores for {len(found or ())} boxes: give one for each")
    lengths = (1,) * len(options)
    return Reply(text=text, option_scores=options, option_tokens=lengths, box_scores=scores, boxes_unit=found)


def _listed(file: Path, number: int, value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{file}:{number}: {name} is {kind_of(value)}: expected a list")
    return value


def _numbers(file: Path, number: int, value: Any, name: str) -> tuple[float, ...]:
    if value is None:
        return ()
    found = _listed(file, number, value, name)
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one):
            raise ValueError(f"{file}:{number}: {name} holds {one!r}: expected numbers")
    return tuple(float(one) for one in found)


def _box(file: Path, number: int, value: Any) -> Box:
    numbers = _numbers(file, number, value, "a box")
    if len(numbers) != 4 or not all(0 <= one <= 1 for one in numbers) or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise ValueError(f"{file}:{number}: box {value}: expected [x0, y0, x1, y1] as fractions 0..1 with x0 < x1 and y0 < y1")
    return Box(*numbers)
