"""CVAT for images 1.1: one XML file with the shapes of every picture.

Habits:
- `box` is two corners, `polygon` is `x,y;x,y;...`, `mask` is runs of its own rectangle, row by row, the first run outside.
- A rotated box is refused by name, since its upright hull is another box; so are lines, points, ellipses, cuboids and skeletons.
- `outside="1"` means that the object has left the picture, and is refused; `occluded` means that something lies before it, which
  changes nothing here. A `tag` is a label of the whole picture.
- `subset` is the official split, where it is train, validation or test. --lesion-3d-field names an attribute of shapes.
- CVAT for video keeps tracks instead; export such a task as CVAT for images.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.coco_file import declared_size
from medclm.corpus.sources.detection import (
    Facts,
    PictureSource,
    RefusedAnnotation,
    Stated,
    four_numbers,
    judge_box,
    refused,
)
from medclm.corpus.sources.files import Folder, loosely
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.shapes import mask_extent, polygon_box
from medclm.corpus.sources.vocabulary import check_declared
from medclm.corpus.sources.xml_file import read_xml
from medclm.types import Box

_SHAPES = ("box", "polygon", "mask", "polyline", "points", "ellipse", "cuboid", "skeleton")
_CORNERS = ("xtl", "ytl", "xbr", "ybr")


class CvatSource(PictureSource):
    """A CVAT file and its pictures (contract.Source)."""

    def __init__(self, annotation_file: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the file.

        Raises:
            ValueError: missing, not XML, not CVAT for images, or an option names a class or attribute that it does not have.
        """
        super().__init__(options, annotation_file.parent)
        if not image_root.is_dir():
            raise ValueError(f"{image_root}: no such folder: give the folder of the pictures (--image-root)")
        self._images = Folder(image_root)
        root = read_xml(annotation_file, "annotations")
        if root.find("track") is not None:
            raise ValueError(f"{annotation_file}: CVAT for video (tracks): export the task as CVAT for images 1.1")
        self._entries = root.findall("image")
        if not self._entries:
            raise ValueError(f"{annotation_file}: no <image>: export the task as CVAT for images 1.1")
        self._check(annotation_file, root)
        self._first: dict[str, int] = {}
        for place, entry in enumerate(self._entries):
            self._first.setdefault(loosely(entry.get("name", "")), place)
        self._repeated = {
            self._first[loosely(entry.get("name", ""))]
            for place, entry in enumerate(self._entries)
            if self._first[loosely(entry.get("name", ""))] != place
        }

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: duplicate_image_file, path_outside_root, image_missing, image_name_ambiguous."""
        entry = self._entries[index]
        name = entry.get("name", "")
        first = self._first[loosely(name)]
        if first != index and name:
            raise RejectedImage("duplicate_image_file", f"images[{first}] is the same file: merge the two entries")
        return self._images.find(name), declared_size(dict(entry.attrib))

    def facts(self, index: int) -> Facts:
        entry = self._entries[index]
        name = entry.get("name", "")
        tags = {self._options.canonical(tag.get("label", "")) for tag in entry.findall("tag")} - {""}
        return Facts(
            index=f"images[{index}]",
            key=name,
            official_split=split_of(entry.get("subset", "")),
            fields={"stem": name.rpartition("/")[2].rpartition(".")[0], "file_name": name},
            scope_open=index not in self._repeated,
            image_labels=dict.fromkeys(sorted(tags), "present"),
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        return [self._stated(number, shape, size) for number, shape in enumerate(self._shapes(index))]

    def count(self, index: int) -> int:
        return len(self._shapes(index))

    def _shapes(self, index: int) -> list[Element]:
        return [one for one in self._entries[index] if one.tag in _SHAPES]

    def _stated(self, number: int, shape: Element, size: tuple[int, int]) -> Stated:
        class_source = shape.get("label", "").strip() or None
        try:
            if class_source is None:
                raise RefusedAnnotation("class_missing", "the shape has no label: give one")
            box_px, mask = _drawn(shape, size)
        except RefusedAnnotation as refusal:
            return refused(Stated(number, class_source), refusal)
        return Stated(number, class_source, box_px, mask, self._lesion_3d(shape))

    def _lesion_3d(self, shape: Element) -> str | None:
        field = self._options.lesion_3d_field
        values = [(one.text or "").strip() for one in shape.findall("attribute") if one.get("name") == field]
        return next((value for value in values if value), None)

    def _check(self, file: Path, root: Element) -> None:
        """A mistyped class or attribute would end in false "No" answers or in leaking lesions, without a word."""
        shapes = [one for entry in self._entries for one in entry if one.tag in (*_SHAPES, "tag")]
        named = [(label.findtext("name") or "").strip() for label in root.iterfind("meta//labels/label")]
        check_declared(file, self._options, {*named, *(one.get("label", "") for one in shapes)} - {""})
        field = self._options.lesion_3d_field
        if field is not None and not any(one.get("name") == field for shape in shapes for one in shape.findall("attribute")):
            raise ValueError(f"{file}: --lesion-3d-field {field}: no shape has this attribute: correct it or leave it out")


def _drawn(shape: Element, size: tuple[int, int]) -> tuple[Box, np.ndarray | None]:
    """Box and mask of a shape in a picture of `size` (width, height)."""
    if shape.get("outside") == "1":
        raise RefusedAnnotation("outside", "marked as outside: the object is not in this picture")
    if shape.tag not in ("box", "polygon", "mask"):
        raise RefusedAnnotation("shape_unsupported", f"a {shape.tag} has no region: draw a box, a polygon or a mask")
    if shape.get("rotation", "0").strip() not in ("", "0", "0.0", "0.00"):
        raise RefusedAnnotation(
            "box_rotated", "a rotated shape: draw it as a polygon, since its upright hull is another region"
        )
    if shape.tag == "box":
        return judge_box(Box(*four_numbers([shape.get(name, "") for name in _CORNERS])), size), None
    if shape.tag == "polygon":
        return polygon_box(_points(shape.get("points", "")), size)
    mask = _mask(shape, size)
    return mask_extent(mask), mask


def _points(text: str) -> list[tuple[float, float]]:
    try:
        pairs = [tuple(float(number) for number in point.split(",")) for point in text.split(";") if point.strip()]
    except ValueError:
        raise RefusedAnnotation("mask_unreadable", "a point is not `x,y`: redraw the polygon") from None
    if any(len(pair) != 2 for pair in pairs):
        raise RefusedAnnotation("mask_unreadable", "a point is not `x,y`: redraw the polygon")
    return [(pair[0], pair[1]) for pair in pairs]


def _mask(shape: Element, size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool from the runs of the mask's own rectangle."""
    left, top, wide, high = (_whole(shape.get(name, "")) for name in ("left", "top", "width", "height"))
    if wide < 1 or high < 1 or left < 0 or top < 0 or left + wide > size[0] or top + high > size[1]:
        detail = f"a mask of {wide} x {high} at {left}, {top} is not in a picture of {size[0]} x {size[1]}: export it again"
        raise RefusedAnnotation("mask_size", detail)
    runs = [_whole(run) for run in shape.get("rle", "").split(",")]
    if min(runs) < 0 or sum(runs) != wide * high:
        raise RefusedAnnotation("mask_unreadable", f"runs of {sum(runs)} pixels for a mask of {wide} x {high}: export it again")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(high, wide)
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top : top + high, left : left + wide] = inside
    return mask


def _whole(text: str) -> int:
    plain = text.strip()
    digits = plain.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 12:
        raise RefusedAnnotation("mask_unreadable", "a number of the mask is not whole: export it again")
    return int(plain)
