"""SLAKE (Liu et al. 2021, arXiv 2102.09542): 642 CT, MR and X-ray images, 14,028 questions in English and Chinese.

The published split is by image, in three files: train.json, validate.json (`validation.json` on the hubs), test.json. Both languages
are read and each example says its own. `base_type` kvqa marks questions that need knowledge beside the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.layouts.fields import fields_of, kind_of_category, picture_name
from eval.layouts.layout import Layout, Questions, answer_type_of, rows_of, text_of

_EXPECTED = "a list of questions with img_name, question, answer, q_lang and qid"
_SPLITS = ("test", "validate", "validation", "train")
_GROUPS = ("modality", "location", "base_type")


def _files(data: Path) -> dict[str, Path]:
    if data.is_file():
        return {data.stem if data.stem in _SPLITS else "test": data}
    return {split: path for split in _SPLITS if (path := data / f"{split}.json").is_file()}


def _recognises(data: Path) -> bool:
    return any({"img_name", "q_lang"} <= fields_of(file) for file in _files(data).values())


def _read(data: Path, split: str) -> Questions:
    file = _files(data)[split]
    found, seen = Questions(), dict[str, int]()
    for number, row in rows_of(file, _EXPECTED):
        example = _example(file, number, row)
        if example is None:
            found.left_out["no answer"] += 1
            continue
        if example.id in seen:
            raise ValueError(f"{file}:{number}: qid {example.id} stands in row {seen[example.id]} too: remove one of them")
        seen[example.id] = number
        found.examples.append(example)
    return found


def _example(file: Path, number: int, row: Mapping[str, Any]) -> Example | None:
    answer = text_of(file, number, row, "answer", required=False)
    if not answer:
        return None
    picture = picture_name(file, number, text_of(file, number, row, "img_name"))
    groups = {name: text_of(file, number, row, name, required=False) for name in _GROUPS}
    return Example(
        id=text_of(file, number, row, "qid"),
        patient=text_of(file, number, row, "img_id", required=False) or picture,
        question_kind=kind_of_category(text_of(file, number, row, "content_type", required=False), answer),
        answer_type=answer_type_of(answer, text_of(file, number, row, "answer_type", required=False)),
        question=text_of(file, number, row, "question"),
        picture=picture,
        answers=(answer,),
        language=text_of(file, number, row, "q_lang").lower(),
        groups={name: value for name, value in groups.items() if value},
    )


LAYOUT = Layout(
    name="slake",
    about="SLAKE: questions about radiology images, in English and Chinese (med-vqa.com/slake)",
    expects="test.json, validate.json, train.json with img_name, question, answer, q_lang, and the folder imgs",
    recognises=_recognises,
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [_files(data)[split]],
    images="imgs",
)
