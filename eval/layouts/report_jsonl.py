"""Reports as JSON Lines, one object a line: the plain form for a collection of one's own.

    {"uid": "CXR1", "images": ["CXR1_1_IM-0001-3001"], "findings": "...", "impression": "..."}

Read besides: patient (default: the uid), sex, age, view, language. The first picture is shown, so the frontal one goes first. A
file named test, val or train is that split; any other name is the split `all`. Several files make one benchmark if each names a
split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.layouts.chest_parts import ALL, SPLITS, add_report, groups_of, once
from eval.layouts.fields import LINES, fields_of, picture_name, tables_in
from eval.layouts.layout import Layout, Questions, kind_of, rows_of, text_of
from medclm.corpus.sources.official import split_of

_EXPECTED = "an object with uid, images, findings and impression"


def _files(data: Path) -> dict[str, Path]:
    """Split -> its file; nothing where two files claim one split."""
    every = [file for file in tables_in(data) if file.suffix.lower() in LINES]
    reports = [file for file in every if _is_reports(file)] or every
    named = {split_of(file.stem) or ALL: file for file in reports}
    if len(named) != len(reports) or (ALL in named and len(named) > 1):
        return {}
    return {split: named[split] for split in (*SPLITS, ALL) if split in named}


def _is_reports(file: Path) -> bool:
    fields = fields_of(file)
    return "uid" in fields and not fields.isdisjoint(("findings", "impression"))


def _read(data: Path, split: str) -> Questions:
    file = _files(data)[split]
    found, seen = Questions(), dict[str, int]()
    for number, row in rows_of(file, _EXPECTED):
        uid = once(seen, file, number, text_of(file, number, row, "uid"))
        texts = {
            name: text_of(file, number, row, name, required=False)
            for name in ("findings", "impression", "patient", "sex", "age", "view", "language")
        }
        add_report(
            found,
            study=uid,
            patient=texts["patient"] or uid,
            picture=_picture(file, number, row),
            findings=texts["findings"],
            impression=texts["impression"],
            groups=groups_of(sex=texts["sex"], age=texts["age"], view=texts["view"]),
            language=texts["language"] or "en",
        )
    return found


def _picture(file: Path, number: int, row: Mapping[str, Any]) -> str:
    """The first picture of a row; empty where it has none, which is counted once pictures are sought."""
    images = row.get("images")
    if images is None:
        return ""
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"{file}:{number}: images is {kind_of(images)}: give a list of file names")
    return picture_name(file, number, text_of(file, number, {"images": images[0]}, "images")) if images else ""


LAYOUT = Layout(
    name="report_jsonl",
    about="a collection of reports of one's own, as JSON Lines",
    expects="JSON Lines with uid, images, findings, impression; test.jsonl, val.jsonl, train.jsonl, or one file (split all)",
    recognises=lambda data: any(_is_reports(file) for file in _files(data).values()),
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [_files(data)[split]],
)
