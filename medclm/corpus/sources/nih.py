"""NIH ChestX-ray14: BBox_List_2017.csv, with Data_Entry_2017.csv as --image-labels and test_list.txt as --split-list.

Habits:
- The box list's header is `Image Index,Finding Label,Bbox [x,y,w,h],,,`: a name with commas in it, then three nameless columns.
- Boxes are for pictures of 1024 x 1024; a picture of another size is refused.
- `Infiltrate` of the box list is `Infiltration` of Data_Entry; `Effusion` is pleural.
- A name is PATIENT_FOLLOWUP.png. The test list is by patient; what it does not name is train.
- The labels of Data_Entry were mined from reports, so they say what is present, and a class that is not named is not assessed.
  Only `No Finding` says that none of the 14 classes is there. The box list alone says nothing of what is absent.
- The pixel spacing of Data_Entry is that of the detector, not of the patient: it is not kept.
"""

from __future__ import annotations

import re
from pathlib import Path

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.detection import Facts, RefusedAnnotation, Stated, four_numbers, judge_box
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.official import read_names
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.row_source import RowSource
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.vocabulary import NO_FINDING, check_declared, of_dataset, person
from medclm.types import Box

CLASSES = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
"""The 14 classes of Data_Entry, as written."""
SIDE_PX = 1024
ALIASES = {"effusion": "pleural effusion"}
"""What a chest radiograph's `Effusion` is."""
_NAME = re.compile(r"(\d{8})_(\d{3})")


def nih_origin(name: str) -> tuple[str, str, int] | None:
    """(origin, patient of origin, follow-up) of a picture by its name in the collection; None where it is not of that form."""
    match = _NAME.fullmatch(name.rpartition("/")[2].partition(".")[0])
    return (f"nih:{match.group()}", f"nih:{match.group(1)}", int(match.group(2))) if match else None


class NihSource(RowSource):
    """The box list and its pictures, and where Data_Entry is given, its pictures without boxes (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the tables.

        Raises:
            ValueError: a table or list is missing or not of this layout, or a declared class is none of the 14.
        """
        options = of_dataset(options, modality="DX", plane="frontal", aliases=ALIASES)
        boxes = read_table(annotations, ("Image Index", "Finding Label", "x", "y", "w", "h"), mend_header=_with_box_columns)
        super().__init__(boxes, "Image Index", image_root, options)
        check_declared(annotations, options, (*CLASSES, *(row["Finding Label"] for row in boxes.rows)))
        self._scope = tuple(options.canonical(name) for name in CLASSES)
        self._entries = _entries(options.image_labels) if options.image_labels else {}
        self._test = read_names(options.split_list) if options.split_list else None
        for entry in self._entries.values():
            self._add(entry["Image Index"])

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: nothing_to_ask (mined labels alone), path_outside_root, image_missing, image_name_ambiguous."""
        if not self._of(index) and NO_FINDING not in self._labels(index):
            raise RejectedImage("nothing_to_ask", "labels mined from a report, and no box: neither place nor absence is known")
        return self._pictures.find(self._names[index]), (SIDE_PX, SIDE_PX)

    def facts(self, index: int) -> Facts:
        name = self._names[index]
        entry = self._entries.get(loosely(name))
        origin = nih_origin(name)
        labels = self._labels(index)
        clear = labels.get(NO_FINDING) == "present"
        return Facts(
            index=f"images[{index}]",
            key=name,
            patient=origin[1].removeprefix("nih:") if origin else None,
            order_in_patient=origin[2] if origin else None,
            official_split=None if self._test is None else "test" if loosely(name) in self._test else "train",
            fields={"stem": name.rpartition("/")[2].rpartition(".")[0], "file_name": name},
            scope=self._scope if clear else (),
            image_labels={**labels, **(dict.fromkeys(self._scope, "absent") if clear else {})},
            view=entry["View Position"].upper() or None if entry else None,
            attributes=person(entry["Patient Gender"], entry["Patient Age"]) if entry else {},
            origin=origin[0] if origin else None,
            origin_patient=origin[1] if origin else None,
        )

    def is_lesion(self, row: Row) -> bool:
        return True

    def class_of(self, row: Row) -> str | None:
        return row["Finding Label"] or None

    def lesion(self, row: Row, size: tuple[int, int]) -> Stated:
        if self.class_of(row) is None:
            raise RefusedAnnotation("class_missing", f"line {row.line} has no Finding Label: fill it in")
        x, y, width, height = four_numbers([row["x"], row["y"], row["w"], row["h"]])
        return Stated(row.number, self.class_of(row), judge_box(Box(x, y, x + width, y + height), size))

    def _labels(self, index: int) -> dict[str, str]:
        """What Data_Entry says of the whole picture; a picture that it calls free of findings and that has a box is in doubt."""
        entry = self._entries.get(loosely(self._names[index]))
        if entry is None:
            return {}
        named = [self._options.canonical(name) for name in entry["Finding Labels"].split("|") if name.strip()]
        if NO_FINDING in named and (len(named) > 1 or self._of(index)):
            return {NO_FINDING: "uncertain", **dict.fromkeys(named, "uncertain")}
        return dict.fromkeys(named, "present")


def _with_box_columns(header: list[str]) -> list[str]:
    """The header with the four box columns named."""
    if "".join(header[2:]).replace(",", "") == "Bbox [xywh]":
        return [*header[:2], "x", "y", "w", "h"]
    return header


def _entries(file: Path) -> dict[str, Row]:
    """Picture name, as `loosely` compares it -> its row of Data_Entry."""
    columns = ("Patient Age", "Patient Gender", "View Position")
    table = read_table(file, ("Image Index", "Finding Labels"), columns)
    return {loosely(name): row for name, row in table.one_per("Image Index").items()}
