"""MIMIC-CXR (Johnson et al. 2019, doi 10.1038/s41597-019-0322-0): chest radiographs with free-text reports.

The split is mimic-cxr-2.0.0-split.csv, by patient. A report is files/p10/p10000032/s50414267.txt; its findings and impression
are what stands under these headings, so a report in one paragraph has none and is counted. One picture of a study is shown: PA
before AP before other views, by mimic-cxr-2.0.0-metadata.csv where it is there. mimic-cxr-2.0.0-chexpert.csv gives labels, and
patients.csv of MIMIC-IV the sex. Each table may be .gz.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eval.layouts.chest_parts import SPLITS, add_report, groups_of, only
from eval.layouts.chexpert import OBSERVATIONS, labels_of
from eval.layouts.layout import Layout, Questions
from eval.pool import drawn
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.report_text import split_sections
from medclm.corpus.sources.tables import Row, read_table, read_text

_FRONTAL = ("PA", "AP")
"""Views that are shown first, in this order."""


class _Study(NamedTuple):
    study: str
    subject: str
    folder: str
    """`p10/p10000032`, below the folder of the reports and that of the pictures."""
    rows: list[Row]
    """One for each picture, in order of the split table."""


def _table(data: Path, name: str) -> Path | None:
    return only(data, f"mimic-cxr-*-{name}.csv") or only(data, f"mimic-cxr-*-{name}.csv.gz")


def _needed(data: Path) -> Path:
    table = _table(data, "split")
    if table is None:
        raise ValueError(f"{data}: expected {LAYOUT.expects}")
    return table


def _studies(file: Path, split: str) -> list[_Study]:
    """The studies of a split, in order of the table."""
    found: dict[str, _Study] = {}
    stated: dict[str, tuple[str, str, int]] = {}
    for row in read_table(file, ("dicom_id", "study_id", "subject_id", "split")).one_per("dicom_id").values():
        study, subject, word = row["study_id"], row["subject_id"], row["split"]
        if not study.isdecimal() or not subject.isdecimal():
            raise ValueError(f"{file}:{row.line}: study_id {study[:20]!r}, subject_id {subject[:20]!r}: give two numbers")
        if not re.fullmatch(r"[\w-]+", row["dicom_id"]):
            raise ValueError(
                f"{file}:{row.line}: dicom_id {row['dicom_id'][:80]!r}: give a name of letters, digits and hyphens"
            )
        if split_of(word) is None:
            raise ValueError(f"{file}:{row.line}: split {word[:20]!r}: expected train, validate or test")
        *first, line = stated.setdefault(study, (subject, word, row.line))
        if first != [subject, word]:
            raise ValueError(
                f"{file}:{row.line}: line {line} gives study {study} another patient or split: correct one of them"
            )
        if split_of(word) == split:
            folder = f"p{subject[:2]}/p{subject}"
            found.setdefault(study, _Study(study, subject, folder, [])).rows.append(row)
    return list(found.values())


def _report(data: Path, study: _Study) -> Path:
    """Where the report of a study lies; the reports' archive unpacks beside or over the pictures."""
    apart = data / "mimic-cxr-reports" / "files"
    return (apart if apart.is_dir() else data / "files") / study.folder / f"s{study.study}.txt"


def _cells(file: Path | None, key: str, column: str) -> dict[str, str]:
    """Key -> cell of one column; {} without a table."""
    return {} if file is None else {name: row[column] for name, row in read_table(file, (key, column)).one_per(key).items()}


def _labels(file: Path | None) -> Mapping[str, dict[str, float]]:
    """Study -> observations."""
    if file is None:
        return {}
    rows = read_table(file, ("study_id", *OBSERVATIONS)).one_per("study_id")
    return {study: labels_of(file, row) for study, row in rows.items()}


def _read(data: Path, split: str) -> Questions:
    return _questions(data, _studies(_needed(data), split))


def _read_some(data: Path, split: str, most: int) -> Questions:
    studies = _studies(_needed(data), split)
    return _questions(data, [studies[at] for at in drawn(len(studies), most)])


def _questions(data: Path, studies: list[_Study]) -> Questions:
    views = _cells(_table(data, "metadata"), "dicom_id", "ViewPosition")
    sexes = _cells(_patients(data), "subject_id", "gender")
    labels = _labels(_table(data, "chexpert"))
    found = Questions()
    for study in studies:
        report = _report(data, study)
        if not report.is_file():
            found.left_out["report missing"] += 1
            continue
        sections = split_sections(read_text(report))
        shown = min(study.rows, key=lambda row: _rank(views.get(row["dicom_id"], "")))
        add_report(
            found,
            study=f"s{study.study}",
            patient=f"p{study.subject}",
            picture=f"files/{study.folder}/s{study.study}/{shown['dicom_id']}.jpg",
            findings=sections.get("findings", ""),
            impression=sections.get("impression", ""),
            groups=groups_of(sex=sexes.get(study.subject, ""), view=views.get(shown["dicom_id"], "").upper()),
            labels=labels.get(study.study),
        )
    return found


def _rank(view: str) -> int:
    return _FRONTAL.index(view.upper()) if view.upper() in _FRONTAL else len(_FRONTAL)


def _patients(data: Path) -> Path | None:
    return only(data, "patients.csv") or only(data, "patients.csv.gz")


def _files(data: Path, split: str) -> list[Path]:
    tables = [_needed(data), _table(data, "metadata"), _table(data, "chexpert"), _patients(data)]
    reports = [_report(data, study) for study in _studies(_needed(data), split)]
    return [table for table in tables if table is not None] + [report for report in reports if report.is_file()]


LAYOUT = Layout(
    name="mimic_cxr",
    about="MIMIC-CXR: chest radiographs with free-text reports (physionet.org/content/mimic-cxr, mimic-cxr-jpg)",
    expects="mimic-cxr-2.0.0-split.csv, reports files/p10/p10000032/s50414267.txt and pictures files/.../DICOM_ID.jpg",
    recognises=lambda data: _table(data, "split") is not None,
    splits=lambda data: SPLITS,
    read=_read,
    read_some=_read_some,
    files=_files,
)
