"""MS-CXR (Boecking et al. 2022, arXiv 2204.09817): phrases of MIMIC-CXR reports with the boxes that radiologists gave them.

Read from MS_CXR_Local_Alignment_*.csv, else from the JSON of that name (COCO). Rows of one picture and one phrase are one
example with several boxes. Version 1.1 has a column split; without it everything is the split `all`. Pictures are MIMIC-CXR's:
give the folder that holds `files` with --images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.layouts.chest_parts import ALL, SPLITS, only, side_of, unit_box
from eval.layouts.fields import fields_of, picture_name
from eval.layouts.layout import Layout, Questions, rows_of, text_of
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.tables import read_table
from medclm.types import Box

_COLUMNS = ("dicom_id", "category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height")
_NAME = "MS_CXR_Local_Alignment"


@dataclass(frozen=True)
class _Boxed:
    """One row: a phrase and one of its boxes."""

    number: int
    dicom: str
    picture: str
    phrase: str
    category: str
    numbers: object
    """Corner, width and height in pixels, as written."""
    size: tuple[int, int]
    split: str


@dataclass
class _Phrase:
    """One phrase of one picture."""

    first: _Boxed
    boxes: list[Box] = field(default_factory=list)
    categories: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def _file(data: Path) -> Path | None:
    return data if data.is_file() else only(data, f"{_NAME}*.csv") or only(data, f"{_NAME}*.json")


def _recognises(data: Path) -> bool:
    file = _file(data)
    if file is None or file.suffix.lower() == ".json":
        return file is not None and file.name.startswith(_NAME)
    return fields_of(file).issuperset(_COLUMNS)


def _needed(data: Path) -> Path:
    file = _file(data)
    if file is None:
        raise ValueError(f"{data}: expected {LAYOUT.expects}")
    return file


def _rows(file: Path) -> Iterator[_Boxed]:
    return _json_rows(file) if file.suffix.lower() == ".json" else _table_rows(file)


def _table_rows(file: Path) -> Iterator[_Boxed]:
    for row in read_table(file, _COLUMNS, ("path", "split")).rows:
        where = f"{file}:{row.line}"
        for name in ("dicom_id", "category_name", "label_text"):
            if not row[name]:
                raise ValueError(f"{where}: {name} is empty: fill it in")
        if row["split"] and split_of(row["split"]) is None:
            raise ValueError(f"{where}: split {row['split'][:20]!r}: expected train, val or test")
        yield _Boxed(
            number=row.line,
            dicom=row["dicom_id"],
            picture=picture_name(file, row.line, row["path"] or row["dicom_id"]),
            phrase=row["label_text"],
            category=row["category_name"],
            numbers=[row[name] for name in ("x", "y", "w", "h")],
            size=(side_of(where, "image_width", row["image_width"]), side_of(where, "image_height", row["image_height"])),
            split=split_of(row["split"]) or ALL,
        )


def _json_rows(file: Path) -> Iterator[_Boxed]:
    images = _by_id(file, "images")
    categories = _by_id(file, "categories")
    for number, row in rows_of(file, "boxes with image_id, category_id, label_text and bbox", at="annotations"):
        where = f"{file}:{number}"
        image = _named(where, row, "image_id", images)
        category = _named(where, row, "category_id", categories)
        name = text_of(file, number, image, "file_name")
        sides = [side_of(where, side, image.get(side, row.get(side))) for side in ("width", "height")]
        yield _Boxed(
            number=number,
            dicom=Path(name).stem,
            picture=picture_name(file, number, text_of(file, number, image, "path", required=False) or name),
            phrase=text_of(file, number, row, "label_text"),
            category=text_of(file, number, category, "name"),
            numbers=row.get("bbox"),
            size=(sides[0], sides[1]),
            split=ALL,
        )


def _by_id(file: Path, at: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for number, row in rows_of(file, f"{at} with an id", at=at):
        key = text_of(file, number, row, "id")
        if key in found:
            raise ValueError(f"{file}:{number}: id {key[:40]} stands twice under {at}: remove one")
        found[key] = row
    return found


def _named(where: str, row: Mapping[str, Any], name: str, known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    key = str(row.get(name))
    if key not in known:
        raise ValueError(f"{where}: {name} {key[:40]!r} is not in the file: correct it")
    return known[key]


def _splits(data: Path) -> tuple[str, ...]:
    stated = {row.split for row in _rows(_needed(data))}
    return tuple(split for split in (*SPLITS, ALL) if split in stated)


def _read(data: Path, split: str) -> Questions:
    file = _needed(data)
    phrases: dict[tuple[str, str], _Phrase] = {}
    for row in _rows(file):
        if row.split != split:
            continue
        phrase = phrases.setdefault((row.dicom, row.phrase), _Phrase(row))
        phrase.categories.add(row.category)
        box = unit_box(f"{file}:{row.number}", row.numbers, row.size, sized=True)
        if isinstance(box, str):
            phrase.faults.append(box)
        elif box not in phrase.boxes:  # one row for each category that it belongs to
            phrase.boxes.append(box)
    found, numbers = Questions(), dict[str, int]()
    for phrase in phrases.values():
        dicom = phrase.first.dicom
        numbers[dicom] = numbers.get(dicom, 0) + 1
        if phrase.faults:  # its other boxes alone would be half a truth
            found.left_out[phrase.faults[0]] += 1
            continue
        found.examples.append(_example(phrase, f"{dicom}:{numbers[dicom]}"))
    return found


def _example(phrase: _Phrase, name: str) -> Example:
    first = phrase.first
    patient = re.search(r"(?:\A|/)(p\d{8})/", first.picture)
    return Example(
        id=name,
        patient=patient.group(1) if patient else first.dicom,
        question_kind="where",
        answer_type="open",
        question=f'Where is the finding described as "{first.phrase.rstrip(" .")}"?',
        picture=first.picture,
        boxes_unit=tuple(phrase.boxes),
        boxes_known=True,
        groups={"category": ", ".join(sorted(phrase.categories))},
    )


LAYOUT = Layout(
    name="ms_cxr",
    about="MS-CXR: phrases of MIMIC-CXR reports with boxes (physionet.org/content/ms-cxr)",
    expects="MS_CXR_Local_Alignment_v1.0.0.csv or .json (split all), or v1.1.0.csv with a split; pictures of MIMIC-CXR-JPG",
    recognises=_recognises,
    splits=_splits,
    read=_read,
    files=lambda data, split: [_needed(data)],
)
