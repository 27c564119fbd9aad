"""ChestX-Det: ChestX_Det_train.json or ChestX_Det_test.json, a list of {file_name, syms, boxes, polygons}.

Habits:
- Boxes are two corners in pixels of a picture of 1024 x 1024; syms, boxes and polygons of one place belong together. A polygon
  is one ring of [x, y], and becomes the mask; its box is the stated one.
- Three radiologists looked for 13 classes on every picture, so these are settled; an empty list means that none of the 13 is
  there. It does not mean "no finding", which nobody said.
- `Nodule` is in doubt where `Diffuse Nodule` is present. `Effusion` is pleural.
- The pictures are NIH's under numbers of their own, so neither origin nor patient is known: compare with NIH by content.
- The official split is that of the two files, by their own names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.detection import (
    Facts,
    PictureSource,
    RefusedAnnotation,
    Stated,
    four_numbers,
    judge_box,
    refused,
    shown,
)
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.nih import ALIASES, SIDE_PX
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.picture_files import PictureFiles
from medclm.corpus.sources.shapes import polygon_box
from medclm.corpus.sources.vocabulary import check_declared, in_doubt, of_dataset
from medclm.types import Box

CLASSES = (
    *("Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "Diffuse Nodule", "Effusion", "Emphysema"),
    *("Fibrosis", "Fracture", "Mass", "Nodule", "Pleural Thickening", "Pneumothorax"),
)
_SPLITS = {"chestx_det_train.json": "train", "chestx_det_test.json": "test"}
_LISTS = ("syms", "boxes", "polygons")


class ChestXDetSource(PictureSource):
    """One of the two files and its pictures (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the file.

        Raises:
            ValueError: it is missing or not of this layout, or a declared class is none of the 13.
        """
        options = of_dataset(options, modality="DX", plane="frontal", aliases=ALIASES)
        super().__init__(options, annotations.parent)
        self._pictures = PictureFiles(image_root)
        entries = read_json(annotations)
        if not isinstance(entries, list) or not any(isinstance(entry, dict) and "syms" in entry for entry in entries):
            raise ValueError(f"{annotations}: not ChestX-Det: expected a list of objects with file_name, {', '.join(_LISTS)}")
        self._entries: list[Any] = entries
        check_declared(annotations, options, CLASSES)
        self._scope = tuple(options.canonical(name) for name in CLASSES)
        self._split = _SPLITS.get(annotations.name.lower())
        self._first: dict[str, int] = {}
        for place, entry in enumerate(entries):
            if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
                self._first.setdefault(loosely(entry["file_name"]), place)

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: image_entry_unreadable, duplicate_image_file, path_outside_root, image_missing,
        image_name_ambiguous."""
        return self._pictures.find(self._entry(index)["file_name"]), (SIDE_PX, SIDE_PX)

    def facts(self, index: int) -> Facts:
        entry = self._entry(index)
        name = entry["file_name"]
        present = {self._options.canonical(found) for found in entry["syms"] if isinstance(found, str)}
        return Facts(
            index=f"images[{index}]",
            key=name,
            official_split=self._split,
            fields={"stem": name.rpartition("/")[2].rpartition(".")[0], "file_name": name},
            scope=self._scope,
            image_labels=in_doubt(self._scope, present),
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        entry = self._entry(index)
        triples = zip(*(entry[name] for name in _LISTS), strict=True)
        return [_stated(number, sym, box, polygon, size) for number, (sym, box, polygon) in enumerate(triples)]

    def count(self, index: int) -> int:
        entry = self._entries[index]
        boxes = entry.get("boxes") if isinstance(entry, dict) else None
        return len(boxes) if isinstance(boxes, list) else 0

    def _entry(self, index: int) -> dict[str, Any]:
        """The entry, if its parts fit together; raises RejectedImage."""
        entry = self._entries[index]
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise RejectedImage("image_entry_unreadable", f"expected an object with file_name and {', '.join(_LISTS)}")
        lists = [entry.get(name) for name in _LISTS]
        if not all(isinstance(one, list) for one in lists) or len({len(one) for one in lists if isinstance(one, list)}) != 1:
            counts = ", ".join(str(len(one)) if isinstance(one, list) else "no list" for one in lists)
            raise RejectedImage("image_entry_unreadable", f"syms, boxes and polygons are {counts}: give lists of one length")
        first = self._first[loosely(entry["file_name"])]
        if first != index:
            raise RejectedImage("duplicate_image_file", f"images[{first}] is the same file: merge the two entries")
        return entry


def _stated(number: int, sym: object, box: object, polygon: object, size: tuple[int, int]) -> Stated:
    class_source = sym if isinstance(sym, str) and sym.strip() else None
    try:
        if class_source is None:
            raise RefusedAnnotation("class_missing", f"a class of type {type(sym).__name__}: give its name")
        box_px = judge_box(Box(*four_numbers(box)), size)
        mask = None
        if polygon not in (None, []):
            _, mask = polygon_box(_points(polygon), size)
            if not mask[int(box_px.y0) : int(box_px.y1) + 1, int(box_px.x0) : int(box_px.x1) + 1].any():
                raise RefusedAnnotation("mask_outside_box", f"no pixel of the polygon lies in the box {shown(list(box_px))}")
    except RefusedAnnotation as refusal:
        return refused(Stated(number, class_source), refusal)
    return Stated(number, class_source, box_px, mask)


def _points(polygon: object) -> list[tuple[float, float]]:
    if not isinstance(polygon, list):
        raise RefusedAnnotation("mask_unreadable", f"a polygon of type {type(polygon).__name__}: give a list of [x, y]")
    points = []
    for point in polygon:
        fits = isinstance(point, list) and len(point) == 2
        if not fits or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in point):
            raise RefusedAnnotation("mask_unreadable", "a point of the polygon is not [x, y]: redraw it")
        points.append((_number(point[0]), _number(point[1])))
    return points


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # whole numbers of JSON have no limit
        return float("inf")
