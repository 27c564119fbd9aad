"""Pictures with reports and without boxes: Open-i, or MIMIC-CXR with its tables.

Habits:
- Open-i: --annotations is the folder of XML or the JSON Lines file; a report names its pictures. The patient is unknown, so all
  pictures of a report count as one patient of their own, which keeps frontal and lateral view in one split.
- MIMIC: --annotations is the folder of sNNN.txt; --image-labels is mimic-cxr-2.0.0-metadata.csv (dicom_id, subject_id,
  study_id, ViewPosition), --split-list is mimic-cxr-2.0.0-split.csv; each may be .gz.
- There are no boxes and no scope: what can be asked is for the writer to find, and pictures without a question are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.report_privacy import withheld_rejects
from medclm.corpus.sources.detection import Facts, PictureSource, Stated, require_deidentified
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.picture_files import PictureFiles
from medclm.corpus.sources.reports import open_reports
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.vocabulary import check_declared


@dataclass(frozen=True)
class _Item:
    name: str
    study: str
    patient: str
    view: str | None = None
    split: str | None = None


class ReportSource(PictureSource):
    """Pictures that reports or tables name (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the reports' index and the tables.

        Raises:
            ValueError: reports, tables or pictures are missing or not of a known layout, nothing names a picture, or the
                reports were not declared free of identifiers.
        """
        super().__init__(options, annotations if annotations.is_dir() else annotations.parent)
        require_deidentified(options)
        check_declared(annotations, options, ())
        self._pictures = PictureFiles(image_root)
        self._texts = open_reports(annotations)
        items, astray = self._from_tables()
        self._items = items or self._from_reports()
        self.rejects = (*self._texts.rejects, *astray)
        if not self._items:
            raise ValueError(f"{annotations}: the reports name no picture: give MIMIC's metadata table with --image-labels")

    def __len__(self) -> int:
        return len(self._items)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: report_missing, report_unreadable, path_outside_root, image_missing, image_name_ambiguous."""
        item = self._items[index]
        if not self._texts.report_of(item.name, item.study):
            raise RejectedImage("report_missing", "no report of its study has findings or an impression")
        return self._pictures.find_stem(item.name), None

    def facts(self, index: int) -> Facts:
        item = self._items[index]
        found = self._texts.screened_of(item.name, item.study)
        return Facts(
            index=f"images[{index}]",
            key=item.name,
            patient=item.patient,
            study=item.study,
            official_split=item.split,
            fields={"stem": item.name, "file_name": item.name},
            scope_open=False,
            view=item.view,
            report=found.sections,
            rejects=withheld_rejects(f"images[{index}]", found.withheld),
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        return []

    def count(self, index: int) -> int:
        return 0

    def _from_reports(self) -> list[_Item]:
        return [_Item(image, report.study, report.study) for report in self._texts.reports for image in report.images]

    def _from_tables(self) -> tuple[list[_Item], list[Reject]]:
        """One item for each picture of MIMIC's tables; the split table alone says enough, except for the view. Pictures that the
        official split leaves out would be drawn into train, so they are rejected."""
        metadata = _rows(self._options.image_labels, (), ("ViewPosition",))
        official = _rows(self._options.split_list, ("split",), ())
        detail = "in the metadata but not in the split table: add it there"
        astray = [
            Reject(f"rows[{row.number}]", "split_unknown", detail)
            for name, row in metadata.items()
            if official and name not in official
        ]
        items = [
            _Item(name, row["study_id"], row["subject_id"], row["ViewPosition"].upper() or None, _split(official.get(name)))
            for name, row in (metadata or official).items()
            if not official or name in official
        ]
        return items, astray


def _rows(file: Path | None, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Row]:
    """Picture -> its row of one of MIMIC's tables; {} without a file."""
    if file is None:
        return {}
    rows = read_table(file, ("dicom_id", "study_id", "subject_id", *required), optional).one_per("dicom_id")
    for row in rows.values():
        if not row["study_id"] or not row["subject_id"]:
            raise ValueError(f"{file}:{row.line}: study_id or subject_id is empty: fill it in")
        if required and split_of(row["split"]) is None:
            raise ValueError(f"{file}:{row.line}: split {row['split'][:20]!r}: expected train, validate or test")
    return rows


def _split(row: Row | None) -> str | None:
    return split_of(row["split"]) if row is not None else None
