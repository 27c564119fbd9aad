"""RSNA Pneumonia Detection Challenge: stage_2_train_labels.csv, with stage_2_detailed_class_info.csv as --image-labels.

Habits:
- Columns patientId,x,y,width,height,Target; `Target` means evidence of pneumonia, one row a box, empty numbers where it is 0.
  The class is therefore pneumonia: `Lung Opacity` of the detailed table would be untrue in its negative, since many pictures
  of `No Lung Opacity / Not Normal` show masses or effusions.
- Every picture has a row, so pneumonia is settled on all of them. "No finding" is known only for `Normal`: 57 % of the pictures
  without boxes are abnormal.
- patientId names the picture (PATIENTID.dcm), not the patient, who is unknown. A column `nih_image` (the name in NIH's
  collection, from the challenge's mapping) may be added to either table and gives the origin.
- Boxes are for pictures of 1024 x 1024.
"""

from __future__ import annotations

from pathlib import Path

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.detection import Facts, RefusedAnnotation, Stated, four_numbers, judge_box, shown
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.nih import SIDE_PX, nih_origin
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.row_source import RowSource
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.vocabulary import NO_FINDING, check_declared, of_dataset
from medclm.types import Box

CLASS = "Pneumonia"
_CLASSES = {"Normal": "present", "No Lung Opacity / Not Normal": "absent", "Lung Opacity": "absent"}
"""Class of the detailed table -> what it says of "no finding"."""


class RsnaSource(RowSource):
    """The label table and its pictures (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the tables.

        Raises:
            ValueError: a table is missing or not of this layout, or a declared class is another than pneumonia.
        """
        options = of_dataset(options, modality="DX", plane="frontal")
        table = read_table(annotations, ("patientId", "x", "y", "width", "height", "Target"), ("nih_image",))
        super().__init__(table, "patientId", image_root, options)
        check_declared(annotations, options, (CLASS,))
        self._classes, self._origins = _detailed(options.image_labels) if options.image_labels else ({}, {})

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: target_unreadable, path_outside_root, image_missing, image_name_ambiguous."""
        for row in self._of(index):
            if row["Target"] not in ("0", "1"):
                raise RejectedImage("target_unreadable", f"Target {shown(row['Target'])} in line {row.line}: give 0 or 1")
        return self._pictures.find_stem(self._names[index]), (SIDE_PX, SIDE_PX)

    def facts(self, index: int) -> Facts:
        name = self._names[index]
        rows = self._of(index)
        targets = {row["Target"] for row in rows}
        classes = self._classes.get(loosely(name), frozenset())
        agrees = len(targets) == 1 and all((one == "Lung Opacity") == (targets == {"1"}) for one in classes)
        stated = {_CLASSES.get(one, "uncertain") for one in classes}
        labels = {NO_FINDING: stated.pop() if len(stated) == 1 and agrees else "uncertain"} if classes else {}
        lesion_class = self._options.canonical(CLASS)
        origins = {row["nih_image"] for row in rows} | self._origins.get(loosely(name), set())
        origin = nih_origin(next(iter(origins - {""}), "")) if len(origins - {""}) == 1 else None
        return Facts(
            index=f"images[{index}]",
            key=name,
            fields={"stem": name, "file_name": name},
            scope=(lesion_class,),
            scope_open=agrees,
            image_labels=labels if agrees else {**labels, lesion_class: "uncertain"},
            origin=origin[0] if origin else None,
            origin_patient=origin[1] if origin else None,
        )

    def is_lesion(self, row: Row) -> bool:
        return row["Target"] == "1"

    def class_of(self, row: Row) -> str | None:
        return CLASS

    def lesion(self, row: Row, size: tuple[int, int]) -> Stated:
        numbers = [row["x"], row["y"], row["width"], row["height"]]
        if not any(numbers):
            raise RefusedAnnotation("box_missing", f"line {row.line} has Target 1 and no box: fill it in")
        x, y, width, height = four_numbers(numbers)
        return Stated(row.number, CLASS, judge_box(Box(x, y, x + width, y + height), size))


def _detailed(file: Path) -> tuple[dict[str, frozenset[str]], dict[str, set[str]]]:
    """Picture -> classes of its rows, and picture -> names in NIH's collection; one row stands there for each box.

    Raises:
        ValueError: not of this layout, or a class that the table does not have.
    """
    table = read_table(file, ("patientId", "class"), ("nih_image",))
    classes: dict[str, set[str]] = {}
    origins: dict[str, set[str]] = {}
    for row in table.rows:
        if row["class"] not in _CLASSES:
            raise ValueError(f"{file}:{row.line}: class {row['class'][:40]!r}: expected one of {', '.join(_CLASSES)}")
        classes.setdefault(loosely(row["patientId"]), set()).add(row["class"])
        if row["nih_image"]:
            origins.setdefault(loosely(row["patientId"]), set()).add(row["nih_image"])
    return {name: frozenset(found) for name, found in classes.items()}, origins
