"""Reports that belong to pictures: read from a folder or a table, and found again by picture or study.

    reports = open_reports(Path("ecgen-radiology"))
    reports.report_of("CXR1_1_IM-0001-3001.png")    -> {"findings": ..., "impression": ..., "language": "en"}

Layouts:
- a folder of Open-i XML (eCitation): pictures by parentImage, the study by uId;
- a folder of MIMIC texts (s50414267.txt, in folders of any depth): the study by the file's name; read when asked for;
- JSON Lines: one object a line with uid, images and the sections;
- CSV: a column image, study_id, study or uid, and the sections as columns.
XXXX and ___ mark removed identifiers and stay as they are; see report_text.is_whole. What still looks like an identifier is withheld
before anybody sees the text; see report_privacy.py. Must not know pictures or annotations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.report_privacy import Screened, screen_report
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.picture_files import SUFFIXES, walk_files
from medclm.corpus.sources.report_text import SECTIONS, section_of, split_sections, tidy
from medclm.corpus.sources.tables import read_table, read_text
from medclm.corpus.sources.xml_file import read_xml

_KEYS = ("image", "study_id", "study", "uid")
"""Columns that may name what a row's report belongs to; the first that is there counts."""


@dataclass(frozen=True)
class Report:
    """One report; its text, or the file that holds it."""

    study: str
    images: tuple[str, ...]
    """Names of its pictures, where the report itself says them."""
    sections: Mapping[str, str] | None
    """None = not read yet."""
    file: Path | None = None


class Reports:
    """Reports by picture and by study."""

    def __init__(self, reports: Sequence[Report], rejects: Sequence[Reject]) -> None:
        self.reports = tuple(reports)
        self.rejects = tuple(rejects)
        """Reports that could not be read; counted once per build."""
        self._found: dict[str, Report] = {}
        for report in reports:
            for name in (report.study, *report.images):
                self._found.setdefault(_plain(name), report)

    def report_of(self, key: str, study: str | None = None) -> Mapping[str, str]:
        """Sections of `screened_of`."""
        return self.screened_of(key, study).sections

    def screened_of(self, key: str, study: str | None = None) -> Screened:
        """The report of a picture as it may be stored: by its study where that is known, else by its file name; empty = none.

        Raises:
            RejectedImage: report_unreadable.
        """
        report = self.find(key, study)
        if report is None:
            return Screened({})
        ids = (name for name in (key, study, report.study, *report.images) if name is not None)
        return screen_report(self._sections(report), ids=[one for name in ids for one in (name, _plain(name))])

    def _sections(self, report: Report) -> Mapping[str, str]:
        if report.sections is not None:
            return report.sections
        assert report.file is not None
        try:
            return tidy(split_sections(read_text(report.file)), "en")
        except ValueError as error:
            raise RejectedImage("report_unreadable", "its report is not UTF-8 text that can be read: fetch it again") from error

    def study_of(self, key: str) -> str | None:
        """The study that the reports put a picture in; None = no report names it."""
        report = self.find(key)
        return None if report is None else report.study

    def find(self, key: str, study: str | None = None) -> Report | None:
        """The report itself."""
        for name in (study, key):
            if name and (report := self._found.get(_plain(name))) is not None:
                return report
        return None


def open_reports(path: Path) -> Reports:
    """The reports at `path`, by their layout.

    Raises:
        ValueError: there is no such file or folder, or it holds no reports of a known layout.
    """
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _from_lines(path)
    if ".csv" in path.name.lower():
        return _from_table(path)
    raise ValueError(f"{path}: no reports: give a folder of .xml or .txt files, a .jsonl or a .csv file (--reports)")


def _from_folder(folder: Path) -> Reports:
    reports: list[Report] = []
    rejects: list[Reject] = []
    files = walk_files(folder, (".xml", ".txt"))
    for number, file in enumerate(files):
        if file.suffix.lower() == ".txt":
            reports.append(Report(file.stem, (), None, file))
            continue
        try:
            reports.append(_open_i(read_xml(file, "eCitation"), file.stem))
        except ValueError:  # its words name the file
            rejects.append(Reject(f"reports[{number}]", "report_unreadable", "not a well-formed eCitation: fetch it again"))
    if not reports:
        raise ValueError(
            f"{folder}: no report among {len(files)} .xml and .txt files: give Open-i XML or MIMIC texts (--reports)"
        )
    return Reports(reports, rejects)


def _open_i(root: Element, stem: str) -> Report:
    sections: dict[str, str] = {}
    for one in root.iter("AbstractText"):
        name = section_of(one.get("Label", ""))
        text = "".join(one.itertext()).strip()
        if name is not None and text:
            sections[name] = f"{sections[name]} {text}" if name in sections else text
    study = root.find("uId")
    images = tuple(image.get("id", "") for image in root.iter("parentImage"))
    name = study.get("id", "") if study is not None else ""
    return Report(name or stem, tuple(image for image in images if image), tidy(sections, "en"))


def _from_lines(file: Path) -> Reports:
    reports = []
    for number, line in enumerate(read_text(file, "JSON Lines").splitlines(), 1):
        if not line.strip():
            continue
        try:
            one: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}:{number}: not JSON: give one object a line") from error
        study = one.get("uid") if isinstance(one, dict) else None
        images = one.get("images", []) if isinstance(one, dict) else None
        if not isinstance(study, str) or not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise ValueError(
                f"{file}:{number}: expected an object with uid, images (a list of names) and {', '.join(SECTIONS)}"
            )
        language = one.get("language")
        reports.append(Report(study, tuple(images), tidy(one, language if isinstance(language, str) else "en")))
    if not reports:
        raise ValueError(f"{file}: empty: give one report a line")
    return Reports(reports, ())


def _from_table(file: Path) -> Reports:
    table = read_table(file, (), (*_KEYS, *SECTIONS, "language"))
    key = next((name for name in _KEYS if name in table.columns), None)
    if key is None or not {"findings", "impression"} & table.columns:
        raise ValueError(f"{file}:1: needs one of the columns {', '.join(_KEYS)} and findings or impression: rename them")
    reports = []
    for name, row in table.one_per(key).items():
        sections = tidy({section: row[section] for section in SECTIONS}, row["language"] or None)
        reports.append(Report(name, (name,) if key == "image" else (), sections))
    return Reports(reports, ())


def _plain(name: str) -> str:
    """A name as pictures, studies and reports are compared: without folder, ending and the `s` of MIMIC's studies."""
    plain = loosely(name.strip().replace("\\", "/").rpartition("/")[2])
    for suffix in (*SUFFIXES, ".txt", ".xml"):
        plain = plain.removesuffix(suffix)
    return plain[1:] if plain[:1] == "s" and plain[1:].isdecimal() else plain
