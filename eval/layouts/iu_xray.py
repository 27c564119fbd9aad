"""Indiana University chest radiographs with reports (Demner-Fushman et al. 2016, doi 10.1093/jamia/ocv080), in three forms:

- annotation.json with the split of Chen et al. 2020 (arXiv 2010.16056, "R2Gen"): train, val, test; its report is the findings;
- indiana_reports.csv and indiana_projections.csv (Kaggle);
- Open-i's XML, in a folder ecgen-radiology or the folder itself.

The collection itself has no split, so the last two have `all` alone. Each report is of another patient. Where nothing says
which picture is frontal, the first is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.layouts.chest_parts import ALL, SPLITS, add_report, groups_of, once, only
from eval.layouts.fields import fields_of, head_of, picture_name
from eval.layouts.layout import Layout, Questions, kind_of, rows_of, text_of
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.picture_files import walk_files
from medclm.corpus.sources.reports import open_reports
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.xml_file import read_xml

_JSON = "annotation.json"
_REPORTS, _PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_EXPECTED = "a list of reports with id, report and image_path"


def _annotation(data: Path) -> Path | None:
    """The file of the first form."""
    file = data if data.is_file() else data / _JSON
    return file if file.is_file() else None


def _tables(data: Path) -> bool:
    return (data / _REPORTS).is_file() and (data / _PROJECTIONS).is_file()


def _xml(data: Path) -> Path:
    """The folder of the third form."""
    folder = data / "ecgen-radiology"
    return folder if folder.is_dir() else data


def _recognises(data: Path) -> bool:
    file = _annotation(data)
    if file is not None:
        fields = fields_of(file)  # R2Gen's file of MIMIC-CXR has the same form, and subjects
        fits = fields.issuperset(("image_path", "report")) and "subject_id" not in fields
        return fits and file.suffix.lower() == ".json"
    first = only(_xml(data), "*.xml")
    return _tables(data) or (first is not None and "<eCitation" in head_of(first))


def _splits(data: Path) -> tuple[str, ...]:
    file = _annotation(data)
    if file is None:
        return (ALL,)
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise ValueError(f"{file}: expected an object with train, val and test, found {kind_of(tree)}")
    return tuple(split for split in SPLITS if split in tree)


def _read(data: Path, split: str) -> Questions:
    file = _annotation(data)
    if file is not None:
        return _from_json(file, split)
    return _from_tables(data / _REPORTS, data / _PROJECTIONS) if _tables(data) else _from_xml(_xml(data))


def _from_json(file: Path, split: str) -> Questions:
    found, seen = Questions(), dict[str, int]()
    for number, row in rows_of(file, _EXPECTED, at=split):
        stated = text_of(file, number, row, "split", required=False)
        if stated and split_of(stated) != split:
            raise ValueError(f"{file}:{number}: a report of {split} with split {stated[:20]!r}: put it in one of them")
        name = once(seen, file, number, text_of(file, number, row, "id"))
        report = text_of(file, number, row, "report", required=False)
        picture = picture_name(file, number, _first_path(file, number, row))
        add_report(found, study=name, patient=name, picture=picture, findings=report, impression="", groups={})
    return found


def _first_path(file: Path, number: int, row: Mapping[str, Any]) -> str:
    paths = row.get("image_path")
    if not isinstance(paths, list) or not paths or not isinstance(paths[0], str):
        raise ValueError(f"{file}:{number}: image_path is {kind_of(paths)}: give a list of file names")
    return text_of(file, number, {"image_path": paths[0]}, "image_path")


def _from_tables(reports: Path, projections: Path) -> Questions:
    pictures: dict[str, Row] = {}
    for row in read_table(projections, ("uid", "filename", "projection")).rows:
        if row["projection"] not in ("Frontal", "Lateral"):
            raise ValueError(f"{projections}:{row.line}: projection {row['projection'][:20]!r}: expected Frontal or Lateral")
        first = pictures.setdefault(row["uid"], row)
        if first["projection"] == "Lateral" and row["projection"] == "Frontal":
            pictures[row["uid"]] = row
    found = Questions()
    for uid, row in read_table(reports, ("uid", "findings", "impression")).one_per("uid").items():
        shown = pictures.get(uid)
        add_report(
            found,
            study=uid,
            patient=uid,
            picture=picture_name(projections, shown.line, shown["filename"]) if shown else "",
            findings=row["findings"],
            impression=row["impression"],
            groups=groups_of(plane=shown["projection"].lower() if shown else ""),
        )
    return found


def _from_xml(folder: Path) -> Questions:
    reports = open_reports(folder)
    if reports.rejects:
        for file in _xml_files(folder):
            read_xml(file, "eCitation")  # raises, with the name of the file
    found, seen = Questions(), dict[str, int]()
    for number, report in enumerate(reports.reports, start=1):
        if report.sections is None:
            found.left_out["not XML"] += 1
            continue
        add_report(
            found,
            study=once(seen, folder, number, report.study),
            patient=report.study,
            picture=picture_name(folder, number, report.images[0]) if report.images else "",
            findings=report.sections.get("findings", ""),
            impression=report.sections.get("impression", ""),
            groups={},
        )
    return found


def _xml_files(folder: Path) -> list[Path]:
    return walk_files(folder, (".xml",))


def _files(data: Path, split: str) -> list[Path]:
    file = _annotation(data)
    if file is not None:
        return [file]
    return [data / _REPORTS, data / _PROJECTIONS] if _tables(data) else _xml_files(_xml(data))


LAYOUT = Layout(
    name="iu_xray",
    about="IU X-ray: chest radiographs with reports (openi.nlm.nih.gov), also as R2Gen's or Kaggle's files",
    expects=f"{_JSON} (R2Gen, with its splits), or {_REPORTS} and {_PROJECTIONS}, or ecgen-radiology/*.xml (both: split all)",
    recognises=_recognises,
    splits=_splits,
    read=_read,
    files=_files,
)
