"""PadChest-GR (Castro et al. 2024, arXiv 2411.05085): sentences of chest reports, each finding with the boxes of a radiologist.

Read from grounded_reports_*.json; boxes are two corners in shares of the picture, of the first reader (`boxes`; those of a
second one are not joined to them). Asked is where the finding of an English sentence lies; the same sentences in Spanish would
ask twice for the same boxes. master_table.csv gives split, patient, sex and age; without it everything is the split `all` and
each study a patient. The pictures have 16 bits: give --window.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.layouts.chest_parts import ALL, SPLITS, groups_of, once, only, unit_box
from eval.layouts.fields import fields_of, picture_name
from eval.layouts.layout import Layout, Questions, kind_of, rows_of, text_of
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.tables import Row, read_table

_EXPECTED = "a list of studies with StudyID, ImageID and findings"
_TABLE = "master_table.csv"


def _file(data: Path) -> Path | None:
    return data if data.is_file() else only(data, "grounded_reports*.json")


def _recognises(data: Path) -> bool:
    file = _file(data)
    return file is not None and fields_of(file).issuperset(("StudyID", "sentence_en", "findings"))


def _needed(data: Path) -> Path:
    file = _file(data)
    if file is None:
        raise ValueError(f"{data}: expected {LAYOUT.expects}")
    return file


def _table(data: Path) -> Path | None:
    file = (data if data.is_dir() else data.parent) / _TABLE
    return file if file.is_file() else None


def _studies(file: Path) -> dict[str, Row]:
    """Study -> its first row; the table has one for each sentence."""
    found: dict[str, Row] = {}
    for row in read_table(file, ("StudyID", "split"), ("PatientID", "PatientSex_DICOM", "PatientAge")).rows:
        if not row["StudyID"] or split_of(row["split"]) is None:
            stated = f"StudyID {row['StudyID'][:40]!r}, split {row['split'][:20]!r}"
            raise ValueError(f"{file}:{row.line}: {stated}: expected a study in train, validation or test")
        first = found.setdefault(row["StudyID"], row)
        if (first["split"], first["PatientID"]) != (row["split"], row["PatientID"]):
            raise ValueError(
                f"{file}:{row.line}: line {first.line} gives the study another split or patient: correct one of them"
            )
    return found


def _read(data: Path, split: str) -> Questions:
    file, table = _needed(data), _table(data)
    studies = _studies(table) if table else None
    found, seen = Questions(), dict[str, int]()
    for number, row in rows_of(file, _EXPECTED):
        study = once(seen, file, number, text_of(file, number, row, "StudyID"))
        known = None if studies is None else studies.get(study)
        if studies is not None and known is None:
            found.left_out[f"study not in {_TABLE}"] += 1
            continue
        if known is not None and split_of(known["split"]) != split:
            continue
        _add_study(found, file, number, row, study, known)
    return found


def _add_study(found: Questions, file: Path, number: int, row: Mapping[str, Any], study: str, known: Row | None) -> None:
    """The examples of one study; `known` is its row of the table."""
    person = {} if known is None else {"sex": known["PatientSex_DICOM"], "age": known["PatientAge"]}
    patient = study if known is None else known["PatientID"] or study
    picture = picture_name(file, number, text_of(file, number, row, "ImageID"))
    for place, finding in enumerate(_findings(file, number, row), start=1):
        boxes = _boxes(f"{file}:{number}: findings[{place}]", finding)
        sentence = text_of(file, number, finding, "sentence_en", required=False)
        reason = boxes if isinstance(boxes, str) else "" if sentence else "no English sentence"
        if reason:
            found.left_out[reason] += 1
            continue
        found.examples.append(
            Example(
                id=f"{study}:{place}",
                patient=patient,
                question_kind="where",
                answer_type="open",
                question=f'Where is the finding described as "{sentence.rstrip(" .")}"?',
                picture=picture,
                boxes_unit=boxes,
                boxes_known=True,
                groups=groups_of(**person, finding=_labels(file, number, finding)),
            )
        )


def _findings(file: Path, number: int, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    findings = row.get("findings")
    if not isinstance(findings, list) or not all(isinstance(one, dict) for one in findings):
        raise ValueError(
            f"{file}:{number}: findings is {kind_of(findings)}: expected a list of objects with sentence_en and boxes"
        )
    return findings


def _boxes(where: str, finding: Mapping[str, Any]) -> Any:
    """The boxes of a sentence, or why nothing is asked about it."""
    abnormal, stated = finding.get("abnormal"), finding.get("boxes")
    if not isinstance(abnormal, bool):
        raise ValueError(f"{where}: abnormal is {kind_of(abnormal)}: expected true or false")
    if not abnormal:
        return "sentence without abnormality"
    if not isinstance(stated, list) and stated is not None:
        raise ValueError(f"{where}: boxes is {kind_of(stated)}: expected a list of [x0, y0, x1, y1]")
    boxes = [unit_box(where, one, (1, 1)) for one in stated or ()]
    faults = [box for box in boxes if isinstance(box, str)]
    return faults[0] if faults else tuple(dict.fromkeys(boxes)) or "abnormal sentence without a box"


def _labels(file: Path, number: int, finding: Mapping[str, Any]) -> str:
    labels = finding.get("labels") or []
    if not isinstance(labels, list):
        raise ValueError(f"{file}:{number}: labels is {kind_of(labels)}: expected a list of names")
    return ", ".join(sorted(text_of(file, number, {"labels": label}, "labels") for label in labels))


LAYOUT = Layout(
    name="padchest_gr",
    about="PadChest-GR: sentences of chest reports with boxes (bimcv.cipf.es/bimcv-projects/padchest-gr)",
    expects=f"grounded_reports_20240819.json, {_TABLE} (without it: split all), and the folder of the pictures",
    recognises=_recognises,
    splits=lambda data: SPLITS if _table(data) else (ALL,),
    read=_read,
    files=lambda data, split: [_needed(data), *([table] if (table := _table(data)) else [])],
)
