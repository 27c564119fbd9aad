"""Your own questions: a JSON list, JSON Lines or a CSV table with image, question and answer.

    [{"image": "a.png", "question": "Is there a nodule?", "answer": "yes", "boxes": [[0.1, 0.2, 0.3, 0.4]]}]

Also, all optional: id, patient, split, answer_type (closed, open, choice), question_kind (or question_type: a published category),
options (a list, or `A) liver B) spleen`), language, and boxes: every lesion the question is about, as fractions of the picture
from its upper left corner; in a table as JSON text. An answer may be a list of accepted ones. `[]` says that there is no lesion.

The split is the field `split`, or the file's name where the folder has train, val and test; without either everything is `test`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.layouts import path_vqa
from eval.layouts.fields import LETTERS, TABLES, fields_of, kind_of_category, picture_name, tables_in, with_options
from eval.layouts.layout import Layout, Questions, answer_type_of, kind_of, rows_of, text_of
from medclm.corpus.sources.tables import read_table
from medclm.metrics.parsing import chosen, options
from medclm.types import Box

_NEEDED = ("image", "question", "answer")
_OPTIONAL = (
    *("id", "patient", "split", "answer_type", "question_kind", "question_type"),
    *("options", "language", "boxes"),
)
_EXPECTED = "a list of questions with image, question and answer"
_SPLITS = ("test", "val", "validation", "dev", "train")

_Rows = list[tuple[int, Mapping[str, Any]]]


def _files(data: Path) -> dict[str, Path]:
    """Split -> its file; "" where one file holds everything.

    Raises:
        ValueError: several files that no split is named by.
    """
    every = tables_in(data)
    found = [path for path in every if fields_of(path).issuperset(_NEEDED)] or every
    named = {path.stem.lower(): path for path in found if path.stem.lower() in _SPLITS}
    if len(found) > 1 and len(named) < len(found):
        listed = ", ".join(path.name for path in found[:8])
        raise ValueError(f"{data}: holds {listed}: give one of them, or name them test, val and train")
    return named or ({"": found[0]} if found else {})


def _recognises(data: Path) -> bool:
    """A benchmark with the same fields goes before."""
    fitting = [path for path in tables_in(data) if fields_of(path).issuperset(_NEEDED)]
    return bool(fitting) and not path_vqa.LAYOUT.recognises(data)


def _rows(file: Path) -> _Rows:
    if file.suffix.lower() in TABLES:
        table = read_table(file, _NEEDED, _OPTIONAL)
        return [(row.line, {name: row[name] for name in table.columns}) for row in table.rows]
    return rows_of(file, _EXPECTED)


def _splits(data: Path) -> tuple[str, ...]:
    files = _files(data)
    whole = files.get("")
    stated = {_split(whole, number, row) for number, row in _rows(whole)} if whole else set(files)
    return tuple(sorted(stated, key=lambda name: (name != "test", name == "train", name)))


def _split(file: Path, number: int, row: Mapping[str, Any]) -> str:
    return text_of(file, number, row, "split", required=False) or "test"


def _read(data: Path, split: str) -> Questions:
    files = _files(data)
    file = files.get(split) or files.get("")
    if file is None:
        raise ValueError(f"{data}: expected {_EXPECTED} in one file, or in test, val and train")
    found, seen = Questions(), dict[str, int]()
    for number, row in _rows(file):
        if "" in files and _split(file, number, row) != split:
            continue
        example = _example(file, number, row)
        if not example.answers:
            found.left_out["no answer"] += 1
            continue
        if example.id in seen:
            raise ValueError(f"{file}:{number}: id {example.id} stands in row {seen[example.id]} too: give each its own")
        seen[example.id] = number
        found.examples.append(example)
    return found


def _example(file: Path, number: int, row: Mapping[str, Any]) -> Example:
    picture = picture_name(file, number, text_of(file, number, row, "image"))
    question = text_of(file, number, row, "question")
    answers = _answers(file, number, row)
    choices = _options(file, number, row)
    if choices:
        answers = tuple(_option(file, number, answer, choices) for answer in answers)
    boxes = _boxes(file, number, row.get("boxes"))
    return Example(
        id=text_of(file, number, row, "id", required=False) or f"row{number}",
        patient=text_of(file, number, row, "patient", required=False) or picture,
        question_kind=_kind(file, number, row, answers),
        answer_type="choice" if choices else _answer_type(file, number, row, answers),
        question=with_options(question, choices) if choices and not options(question) else question,
        picture=picture,
        answers=answers,
        boxes_unit=boxes or (),
        boxes_known=boxes is not None,
        lists_boxes=boxes != (),
        options=choices,
        language=text_of(file, number, row, "language", required=False) or "en",
    )


def _answers(file: Path, number: int, row: Mapping[str, Any]) -> tuple[str, ...]:
    if "answer" not in row:
        raise ValueError(f"{file}:{number}: no answer; there is {', '.join(map(str, list(row)[:8])) or 'nothing'}")
    stated = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    texts = (text_of(file, number, {"answer": one}, "answer", required=False) for one in stated)
    return tuple(text for text in texts if text)


def _kind(file: Path, number: int, row: Mapping[str, Any], answers: tuple[str, ...]) -> str:
    own = text_of(file, number, row, "question_kind", required=False).lower()
    category = text_of(file, number, row, "question_type", required=False)
    return own or kind_of_category(category, answers[0] if answers else "")


def _answer_type(file: Path, number: int, row: Mapping[str, Any], answers: tuple[str, ...]) -> str:
    stated = text_of(file, number, row, "answer_type", required=False).lower()
    if stated == "choice":
        raise ValueError(f"{file}:{number}: answer_type choice without options: give them as a list")
    if stated not in ("", "closed", "open"):
        raise ValueError(f"{file}:{number}: answer_type {stated[:40]!r}: expected closed, open or choice")
    return answer_type_of(answers[0] if answers else "", stated)


def _options(file: Path, number: int, row: Mapping[str, Any]) -> tuple[str, ...]:
    stated = row.get("options")
    if stated is None or stated == "" or stated == []:
        return ()
    found: Any = stated
    if isinstance(stated, str):
        found = list(options(stated).values()) or _json(file, number, "options", stated)
    if not isinstance(found, list) or not 2 <= len(found) <= len(LETTERS):
        raise ValueError(f"{file}:{number}: options {str(stated)[:80]!r}: expected a list of 2 to {len(LETTERS)} texts")
    return tuple(text_of(file, number, {"options": one}, "options") for one in found)


def _option(file: Path, number: int, answer: str, choices: tuple[str, ...]) -> str:
    """The option that an answer names by its letter or its words."""
    letter = chosen(answer, dict(zip(LETTERS, choices, strict=False)))
    if letter is None:
        raise ValueError(
            f"{file}:{number}: answer {answer[:80]!r} is none of the options {', '.join(choices)[:200]}: correct it"
        )
    return choices[LETTERS.index(letter)]


def _boxes(file: Path, number: int, stated: Any) -> tuple[Box, ...] | None:
    """None where the row says nothing of boxes."""
    if stated is None or stated == "":
        return None
    found = _json(file, number, "boxes", stated) if isinstance(stated, str) else stated
    if not isinstance(found, list):
        raise ValueError(f"{file}:{number}: boxes is {kind_of(found)}: expected a list of [x0, y0, x1, y1]")
    return tuple(_box(file, number, one) for one in found)


def _box(file: Path, number: int, stated: Any) -> Box:
    numbers = isinstance(stated, list) and len(stated) == 4 and all(type(one) in (int, float) for one in stated)
    if numbers and all(math.isfinite(one) for one in stated):
        x0, y0, x1, y1 = stated
        if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
            return Box(float(x0), float(y0), float(x1), float(y1))
    raise ValueError(
        f"{file}:{number}: box {str(stated)[:80]}: expected [x0, y0, x1, y1] as fractions of the picture, 0 <= x0 < x1 <= 1 and "
        "0 <= y0 < y1 <= 1: divide by width and height"
    )


def _json(file: Path, number: int, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}:{number}: {name} {text[:80]!r} is not JSON: write it as a list") from error


def _annotations(data: Path, split: str) -> list[Path]:
    files = _files(data)
    return [path for path in (files.get(split) or files.get(""),) if path]


LAYOUT = Layout(
    name="plain",
    about="your own questions: JSON, JSON Lines or CSV with image, question, answer",
    expects="one JSON list, JSON Lines or CSV file with image, question and answer (or test, val and train), and the pictures beside it",
    recognises=_recognises,
    splits=_splits,
    read=_read,
    files=_annotations,
)
