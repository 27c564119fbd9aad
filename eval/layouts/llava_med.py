"""LLaVA-Med (Li et al. 2023, arXiv 2306.00890; github.com/microsoft/LLaVA-Med): its own questions, and benchmarks in its form.

- JSON Lines of questions: {question_id, image, text, gpt4_answer or answer, type, domain}. Its 50-picture set has answers by a
  language model from the caption: they are a reference for comparison, not a truth.
- A JSON list of conversations: {id, image, conversations: [{from: human, value}, {from: gpt, value}], answer_type}, as VQA-RAD, SLAKE
  and PathVQA are converted; each turn is a question of its own. Older files spell `conversatons`.
`<image>` marks are removed. The split is in the file's name; without one it is `test`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.layouts.fields import LINES, fields_of, one_each, picture_name, tables_in
from eval.layouts.layout import Layout, Questions, answer_type_of, kind_of, rows_of, text_of

_SPLITS = ("test", "val", "train")
_TALKS = ("conversations", "conversatons")
_KINDS = {"detail_description": "describe", "detail": "describe"}
_EXPECTED = "questions with image and text, or with image and conversations"


def _fits(file: Path) -> bool:
    fields = fields_of(file)
    talks = "image" in fields and not fields.isdisjoint(_TALKS)
    return talks or (file.suffix.lower() in LINES and {"question_id", "image", "text"} <= fields)


def _files(data: Path) -> dict[str, Path]:
    """Raises ValueError for two files of one split."""
    every = [path for path in tables_in(data) if path.suffix.lower() in (".json", *LINES)]
    found: dict[str, Path] = {}
    for path in [path for path in every if _fits(path)] or every:
        first = found.setdefault(_split_of(path), path)
        if first is not path:
            raise ValueError(f"{data}: {first.name} and {path.name} are both of split {_split_of(path)}: give one of them")
    return {split: found[split] for split in _SPLITS if split in found}


def _split_of(path: Path) -> str:
    return next((split for split in ("train", "val") if split in path.stem.lower().replace("eval", "")), "test")


def _read(data: Path, split: str) -> Questions:
    file, found = _files(data)[split], Questions()
    for number, row in rows_of(file, _EXPECTED):
        talk = next((row[name] for name in _TALKS if name in row), None)
        turns = [_asked(file, number, row)] if talk is None else list(_turns(file, number, talk))
        for question, answer in turns:
            if not question:
                raise ValueError(f"{file}:{number}: a question of nothing but its image mark: write one or remove the row")
            if row.get("image") is None or not answer:
                found.left_out["no picture" if answer else "no answer"] += 1
                continue
            found.examples.append(_example(file, number, row, question, answer))
    found.examples = one_each(found.examples)
    return found


def _asked(file: Path, number: int, row: Mapping[str, Any]) -> tuple[str, str]:
    answer = text_of(file, number, row, "answer", "gpt4_answer", required=False)
    return _unmarked(text_of(file, number, row, "text")), answer


def _turns(file: Path, number: int, talk: Any) -> Iterator[tuple[str, str]]:
    """(question, answer) of each exchange."""
    if not isinstance(talk, list) or not talk:
        raise ValueError(f"{file}:{number}: conversations is {kind_of(talk)}: expected a list of turns, human and gpt in turn")
    for place, turn in enumerate(talk):
        speaker = ("human", "gpt")[place % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), (str, int, float)):
            raise ValueError(f"{file}:{number}: turn {place + 1} is {str(turn)[:80]}: expected from {speaker} and a value")
    values = [text_of(file, number, turn, "value", required=False) for turn in talk]
    for place in range(0, len(values), 2):
        yield _unmarked(values[place]), values[place + 1] if place + 1 < len(values) else ""


def _unmarked(text: str) -> str:
    return re.sub(r"\s*<image>\s*", " ", text).strip()


def _example(file: Path, number: int, row: Mapping[str, Any], question: str, answer: str) -> Example:
    picture = picture_name(file, number, text_of(file, number, row, "image"))
    kind = text_of(file, number, row, "type", required=False).lower()
    pair = text_of(file, number, row, "pair_id", required=False)
    return Example(
        id=text_of(file, number, row, "question_id", "id", required=False) or f"row{number}",
        patient=pair.split("_")[0] or picture,  # the article of the figure
        question_kind=_KINDS.get(kind, kind or "other"),
        answer_type=answer_type_of(answer, text_of(file, number, row, "answer_type", required=False)),
        question=question,
        picture=picture,
        answers=(answer,),
        domain=_domain(file, number, row.get("domain")),
    )


def _domain(file: Path, number: int, stated: Any) -> str:
    """`{"mri": true, "gross": false}` -> `mri`."""
    if stated is None or isinstance(stated, str):
        return stated or ""
    if not isinstance(stated, dict):
        raise ValueError(f"{file}:{number}: domain is {kind_of(stated)}: expected its names, each true or false")
    return " and ".join(name for name, there in stated.items() if there is True)


def _folder(data: Path, split: str) -> Path:
    base = data if data.is_dir() else data.parent
    return next((base / name for name in ("images", "imgs") if (base / name).is_dir()), base)


LAYOUT = Layout(
    name="llava_med",
    about="LLaVA-Med's question files and conversations (github.com/microsoft/LLaVA-Med)",
    expects="JSON Lines with question_id, image, text, answer, or a JSON list with id, image, conversations; and the folder images",
    recognises=lambda data: any(_fits(path) for path in tables_in(data)),
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [_files(data)[split]],
    folder=_folder,
)
