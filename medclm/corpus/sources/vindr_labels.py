"""VinDr-CXR's labels of whole pictures: one row for each reader, one column of 0 and 1 for each finding or diagnosis.

Must not know boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.tables import Row, read_table

LOCAL_LABELS = (
    *("Aortic enlargement", "Atelectasis", "Cardiomegaly", "Calcification", "Clavicle fracture", "Consolidation", "Edema"),
    *("Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung cavity", "Lung cyst", "Lung Opacity", "Mediastinal shift"),
    *("Nodule/Mass", "Pulmonary fibrosis", "Pneumothorax", "Pleural thickening", "Pleural effusion", "Rib fracture"),
)
"""Findings that readers box, without `Other lesion`."""
DIAGNOSES = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "No finding")
"""What they say of the whole picture alone, without `Other diseases`."""


@dataclass(frozen=True)
class ReaderLabels:
    """What the readers of one picture say of the whole of it."""

    readers: int
    labels: Mapping[str, str]
    """Canonical class -> present, absent, or uncertain where they differ."""


def read_image_labels(file: Path, options: SourceOptions) -> dict[str, ReaderLabels]:
    """Picture, as `loosely` compares its id -> the labels of its readers.

    Raises:
        ValueError: not of this layout, or a cell that is neither 0 nor 1.
    """
    table = read_table(file, ("image_id", "No finding"), ("rad_id", *DIAGNOSES, *LOCAL_LABELS))
    columns = [name for name in (*DIAGNOSES, *LOCAL_LABELS) if name in table.columns]
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(loosely(row["image_id"]), []).append(row)
    return {name: _labels(file, found, columns, options) for name, found in rows.items()}


def _labels(file: Path, rows: list[Row], columns: list[str], options: SourceOptions) -> ReaderLabels:
    labels = {}
    for column in columns:
        said = set()
        for row in rows:
            value = row[column].removesuffix(".0")
            if value not in ("0", "1"):
                raise ValueError(f"{file}:{row.line}: {column} is {value[:20]!r}: give 0 or 1")
            said.add(value)
        labels[options.canonical(column)] = "uncertain" if len(said) > 1 else "present" if said == {"1"} else "absent"
    return ReaderLabels(len({row["rad_id"] for row in rows}), labels)
