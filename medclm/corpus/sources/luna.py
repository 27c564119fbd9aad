"""LUNA16: chest CT (.mhd) with nodules as centre and diameter in annotations.csv (seriesuid, coordX, coordY, coordZ, diameter_mm).

Positions are patient LPS in millimetres; a nodule is a sphere there, which gives mask and box on every slice it crosses. A
volume without a row has no nodule that three of four readers saw at 3 mm or more: a negative once --exhaustive says so. Files
lie in any subfolder and are named by series; candidates files are not annotations. A column `readers` (how many of the four
readers of LIDC marked the nodule) becomes the agreement. Must not know slices or voxels.
"""

from __future__ import annotations

import math
from pathlib import Path

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.sources.detection import RefusedAnnotation, shown
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.picture_files import walk_files
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.vocabulary import check_declared, of_dataset
from medclm.corpus.volumes.cases import stem_of
from medclm.corpus.volumes.files import ENDINGS, open_volume
from medclm.corpus.volumes.slices import Lesion, Marks, Scan, SliceSource
from medclm.corpus.volumes.spheres import sphere

CLASS = "lung nodule"
READERS = 4
"""Radiologists who read every scan of LIDC (Med Phys 2011;38:915)."""
_LARGEST_MM = 300.0
_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")


class LunaSource(SliceSource):
    """annotations.csv and the folder of the volumes (contract.Source), by series name."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the table and the headers of the volumes.

        Raises:
            ValueError: a missing folder, a table without these columns, a declared class other than CLASS, or no picture.
        """
        options = of_dataset(options, modality="CT")
        check_declared(annotations, options, (CLASS,))
        super().__init__(options, annotations.parent, least_voxels=1)
        if not image_root.is_dir():
            raise ValueError(f"{image_root}: no such folder: give the folder of the volumes (--image-root)")
        self._files: dict[str, list[Path]] = {}
        for path in walk_files(image_root, ENDINGS):
            self._files.setdefault(stem_of(path, path.parent, ENDINGS), []).append(path)
        self._series = sorted(self._files)
        self._rows: dict[str, list[Row]] = {}
        rejects = []
        for row in read_table(annotations, _COLUMNS, ("readers",)).rows:
            if row["seriesuid"] in self._files:
                self._rows.setdefault(row["seriesuid"], []).append(row)
            else:
                rejects.append(Reject(f"rows[{row.number}]", "image_missing", f"line {row.line}: no volume of this series"))
        self.make_index(len(self._series), rejects, image_root)

    def scan(self, case: int) -> Scan:
        """The volume of a series.

        Raises:
            RejectedImage: image_name_ambiguous, orientation_unknown, or a reason of its reader.
        """
        series = self._series[case]
        paths = self._files[series]
        if len(paths) > 1:
            raise RejectedImage(
                "image_name_ambiguous", f"{len(paths)} files have the name of this series: keep the volume alone"
            )
        file = open_volume(paths[0])
        if file.grid.affine is None:
            raise RejectedImage("orientation_unknown", "positions in millimetres need a volume that says where it lies")
        return Scan(file, series, series, {"stem": series, "folder": paths[0].parent.name})

    def marks(self, case: int, scan: Scan) -> Marks:
        """The spheres of its rows."""
        lesions, rejects = [], []
        for row in self._rows.get(self._series[case], ()):
            try:
                lesions.append(_lesion(row, scan))
            except RefusedAnnotation as refusal:
                rejects.append(Reject(f"rows[{row.number}]", refusal.reason, f"line {row.line}: {refusal.detail}"))
        return Marks(lesions, rejects=rejects, complete=not rejects)


def _lesion(row: Row, scan: Scan) -> Lesion:
    x, y, z, diameter = (_number(row, column) for column in _COLUMNS[1:])
    if not 0 < diameter <= _LARGEST_MM:
        raise RefusedAnnotation("diameter_unreadable", f"a diameter of {diameter:g} mm: correct it")
    found = sphere(scan.file.grid, (x, y, z), diameter)
    if found is None:
        raise RefusedAnnotation("centre_outside", f"({x:g}, {y:g}, {z:g}) mm lies outside the volume: check its series")
    return Lesion(found, CLASS, f"row {row.number}", _agreement(row["readers"]))


def _number(row: Row, column: str) -> float:
    try:
        number = float(row[column])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        reason = "diameter_unreadable" if column == "diameter_mm" else "coordinate_unreadable"
        raise RefusedAnnotation(reason, f"{column} is {shown(row[column])}: give a number in mm")
    return number


def _agreement(cell: str) -> float | None:
    if not cell:
        return None
    if cell not in map(str, range(1, READERS + 1)):
        raise RefusedAnnotation("agreement_unreadable", f"readers is {shown(cell)}: give 1 to {READERS}, or nothing")
    return int(cell) / READERS
