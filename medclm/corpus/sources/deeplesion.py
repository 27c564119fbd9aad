"""DeepLesion: DL_info.csv and the 16-bit PNG slices of Images_png.

Habits:
- `Bounding_boxes` is one string of two corners in pixels; a key slice has one row for each of its lesions.
- A stored value is HU + 32768. `000001_01_01_109.png` lies at 000001_01_01/109.png; the Key_slices pictures of the same names are
  8-bit, have the marks drawn in, and are refused.
- The window is that of the lesion's class where one is known, else the row's `DICOM_windows` (low, high).
- `Train_Val_Test` 1, 2, 3 is the official split. `Possibly_noisy` rows are dropped and counted.
- `Coarse_lesion_type` is known in val and test alone; -1 stays `lesion`. One or a few lesions were marked on a slice, never
  all, so nothing may be said to be absent.
- The patient is the name up to the first `_`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medclm.corpus.contract import Header, RejectedImage
from medclm.corpus.pixels import read_picture
from medclm.corpus.sources.detection import (
    Facts,
    RefusedAnnotation,
    Stated,
    four_numbers,
    judge_box,
    shown,
)
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.opened import Opened
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.row_source import RowSource
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.vocabulary import check_declared, of_dataset, person
from medclm.corpus.windows import Window
from medclm.types import Box

OFFSET = 32768
"""Stored value of 0 HU."""
TYPES = {
    "1": "bone lesion",
    "2": "abdominal lesion",
    "3": "mediastinal lesion",
    "4": "liver lesion",
    "5": "lung lesion",
    "6": "kidney lesion",
    "7": "soft tissue lesion",
    "8": "pelvic lesion",
    "-1": "lesion",
}
_SPLITS = {"1": "train", "2": "val", "3": "test"}
_COLUMNS = ("File_name", "Bounding_boxes", "Coarse_lesion_type", "Possibly_noisy", "DICOM_windows", "Train_Val_Test")
_MORE = ("Study_index", "Spacing_mm_px_", "Image_size", "Patient_gender", "Patient_age")


class DeepLesionSource(RowSource):
    """The table and its key slices (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the table.

        Raises:
            ValueError: it is missing or not of this layout, or a class is declared exhaustive.
        """
        options = of_dataset(options, modality="CT", plane="axial")
        super().__init__(read_table(annotations, _COLUMNS, _MORE), "File_name", image_root, options)
        if options.exhaustive:
            raise ValueError(f"{annotations}: --exhaustive {','.join(options.exhaustive)}: DeepLesion marks some lesions only")
        check_declared(annotations, options, TYPES.values())

    def opened(self, index: int, path: Path, declared_size: tuple[int, int] | None) -> Opened:
        header = Header(window=_row_window(self._of(index)[0]["DICOM_windows"]))
        return replace(open_hounsfield(path, declared_size, self._options), header=header)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: path_outside_root, image_missing, image_name_ambiguous."""
        folder, _, name = self._names[index].rpartition("_")
        return self._pictures.find(f"{folder}/{name}" if folder else name), _size(self._of(index)[0]["Image_size"])

    def facts(self, index: int) -> Facts:
        """Raises RejectedImage: split_unknown."""
        name, row = self._names[index], self._of(index)[0]
        split = _SPLITS.get(row["Train_Val_Test"]) or split_of(row["Train_Val_Test"])
        if split is None:
            raise RejectedImage("split_unknown", f"Train_Val_Test {shown(row['Train_Val_Test'])}: give 1, 2 or 3")
        return Facts(
            index=f"images[{index}]",
            key=name,
            patient=name.partition("_")[0] or None,
            study=row["Study_index"] or None,
            official_split=split,
            fields={"stem": name.rpartition(".")[0], "file_name": name},
            scope_open=False,
            spacing_mm=_spacing(row["Spacing_mm_px_"]),
            attributes=person(row["Patient_gender"], row["Patient_age"]),
        )

    def is_lesion(self, row: Row) -> bool:
        return True

    def class_of(self, row: Row) -> str | None:
        return TYPES.get(_whole(row["Coarse_lesion_type"]))

    def lesion(self, row: Row, size: tuple[int, int]) -> Stated:
        if _whole(row["Possibly_noisy"]) != "0":
            raise RefusedAnnotation(
                "possibly_noisy", f"Possibly_noisy {shown(row['Possibly_noisy'])}: the authors doubt this box"
            )
        if self.class_of(row) is None:
            kind = shown(row["Coarse_lesion_type"])
            raise RefusedAnnotation("class_unknown", f"Coarse_lesion_type {kind}: give 1 to 8, or -1 for unknown")
        return Stated(row.number, self.class_of(row), judge_box(Box(*four_numbers(row["Bounding_boxes"])), size))


def open_hounsfield(path: Path, declared_size: tuple[int, int] | None, options: SourceOptions) -> Opened:
    """A slice whose stored values are HU + OFFSET; its window is chosen once its lesions are known.

    Raises:
        RejectedImage: as `read_picture` does; not_hounsfield for 8 bits; size_mismatch.
    """
    picture = read_picture(path, max_pixels=options.max_pixels, sixteen_bit=(OFFSET, 2.0 * OFFSET))
    if not picture.windowed:
        raise RejectedImage("not_hounsfield", "8 bits hold no HU: give the 16-bit slices of Images_png, not the key slices")
    frame = picture.exif_transform.for_annotations(declared_size, options.box_frame)
    with Image.open(path, formats=("PNG", "TIFF")) as image:  # judged by read_picture above
        values = np.asarray(image).astype(np.float32) - OFFSET
    return Opened(None, frame, intensity=picture.exif_transform.array(values))


def _numbers(text: str) -> list[float]:
    """Numbers of a comma-separated cell; none where one of them is none."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return found if np.isfinite(found).all() else []


def _row_window(text: str) -> Window | None:
    """`low, high` -> (centre, width); None where it is no range that 16 bits can hold."""
    numbers = _numbers(text)
    if len(numbers) != 2 or not -OFFSET <= numbers[0] < numbers[1] <= OFFSET or numbers[1] - numbers[0] < 1:
        return None
    return (numbers[0] + numbers[1]) / 2, numbers[1] - numbers[0]


def _spacing(text: str) -> tuple[float, float] | None:
    """`x, y, z` in millimetres a pixel -> (row spacing, column spacing); None where it is no spacing of a CT."""
    numbers = _numbers(text)
    return (numbers[1], numbers[0]) if len(numbers) == 3 and 0.01 <= min(numbers[:2]) <= max(numbers[:2]) <= 10 else None


def _size(text: str) -> tuple[int, int] | None:
    """`512, 512` -> (width, height)."""
    numbers = _numbers(text)
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and min(numbers) >= 1 else None


def _whole(text: str) -> str:
    """`1.0` as `1`, which is how tables with gaps are written."""
    return text.removesuffix(".0")
