"""CheXpert (Irvin et al. 2019, arXiv 1901.07031): chest radiographs with 14 observations each.

The split is the file: train.csv (labels from reports: blank = not mentioned, -1 = uncertain), valid.csv (three radiologists)
and test.csv or test_labels.csv (five; without Sex and Age). A path begins with the folder's own name, CheXpert-v1.0 or
CheXpert-v1.0-small, which is left out here.
"""

from __future__ import annotations

import re
from pathlib import Path

from eval.example import Example
from eval.layouts.chest_parts import ALL, SPLITS, groups_of, once
from eval.layouts.fields import fields_of, picture_name
from eval.layouts.layout import Layout, Questions
from medclm.corpus.sources.tables import Row, read_table

OBSERVATIONS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)
"""Columns, in the order of the file; MIMIC-CXR's table has the same in another one."""
_NAMES = {
    "test": ("test.csv", "test_labels.csv"),
    "val": ("valid.csv", "valid_labels.csv"),
    "train": ("train.csv",),
}


def labels_of(file: Path, row: Row) -> dict[str, float]:
    """Observation -> 1 present, 0 absent, -1 uncertain, without those that the row leaves blank.

    Raises:
        ValueError: another value; names file and line.
    """
    found = {}
    for name in OBSERVATIONS:
        if row[name]:
            if row[name].removesuffix(".0") not in ("1", "0", "-1"):
                raise ValueError(f"{file}:{row.line}: {name} is {row[name][:20]!r}: give 1, 0, -1 or nothing")
            found[name] = float(row[name])
    return found


def _files(data: Path) -> dict[str, Path]:
    """Split -> its table."""
    if data.is_file():
        return {next((split for split, names in _NAMES.items() if data.name in names), ALL): data}
    tables = {split: [data / name for name in _NAMES[split] if (data / name).is_file()] for split in SPLITS}
    return {split: found[0] for split, found in tables.items() if found}


def _recognises(data: Path) -> bool:
    return any(fields_of(file).issuperset(("Path", "Enlarged Cardiomediastinum")) for file in _files(data).values())


def _read(data: Path, split: str) -> Questions:
    file = _files(data)[split]
    table = read_table(file, ("Path", *OBSERVATIONS), ("Sex", "Age", "Frontal/Lateral", "AP/PA"))
    found, seen = Questions(), dict[str, int]()
    for row in table.rows:
        path = picture_name(file, row.line, row["Path"])
        picture = once(seen, file, row.line, re.sub(r"\ACheXpert-v1\.0[^/]*/+", "", path))
        labels = labels_of(file, row)
        if not labels:
            found.left_out["no labels"] += 1
            continue
        patient = re.search(r"patient\d+", picture)
        plane = row["Frontal/Lateral"].lower()
        found.examples.append(
            Example(
                id=picture,
                patient=patient.group() if patient else picture,
                question_kind="labels",
                answer_type="closed",
                question="",
                picture=picture,
                labels=labels,
                groups=groups_of(sex=row["Sex"], age=row["Age"], plane=plane, view=row["AP/PA"].upper()),
            )
        )
    return found


LAYOUT = Layout(
    name="chexpert",
    about="CheXpert: chest radiographs with 14 labelled observations (stanfordmlgroup.github.io/competitions/chexpert)",
    expects="valid.csv, train.csv, test.csv or test_labels.csv with Path and the 14 observations, and the folders of pictures",
    recognises=_recognises,
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [_files(data)[split]],
)
