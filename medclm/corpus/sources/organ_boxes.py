"""Organs that a dataset states as boxes: a COCO file, a JSON or CSV table, or a field of the image entry.

Layouts (JSON by its keys, CSV by its header):
    COCO                       images, annotations, categories; the category is the organ
    {"a.png": {"lung left": [x, y, ...]}}   the whole dataset, by file name or stem
    {"lung left": [x, y, ...]}              one image, or a field of its entry
    image,organ,x,y,...        CSV of the whole dataset; without `image` of one image; .tsv with tabs

A box becomes a mask that is marked as a box (box_masks.py). Must not know lesions or anatomy.
"""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medclm.corpus.box_masks import box_mask
from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.classes import organ_name
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.tables import read_text
from medclm.types import Box

MIN_INSIDE = 0.5
"""A box with at least this share of its area inside the picture is clipped to it; with less it is refused."""


@dataclass
class StatedBoxes:
    """The organ boxes of one image, as written."""

    boxes: list[tuple[str, object]] = field(default_factory=list)
    """(organ, four numbers)."""
    size: tuple[int, int] | None = None
    """(width, height) that they are for."""


_Table = Mapping[str, StatedBoxes]
"""Image name and stem, as case-blind systems compare them -> its boxes; the key "" holds those of a file of one image."""


def stated_boxes(content: object, fields: Mapping[str, Any]) -> StatedBoxes:
    """The boxes of one image in a table, or in a field of its entry.

    Args:
        content: a path, or what a field holds.
        fields: name the image: `file_name` and `stem`.

    Raises:
        RejectedImage: organ_boxes_unreadable, organ_boxes_missing (none for this image), organ_boxes_ambiguous.
    """
    table = _read(content) if isinstance(content, Path) else _from_json(content)
    if "" in table:
        return table[""]
    names = [str(fields[key]) for key in ("file_name", "stem") if isinstance(fields.get(key), (str, int))]
    for name in names:
        found = table.get(loosely(name.replace("\\", "/")))
        if found is not None:
            if found.size == _AMBIGUOUS:
                raise RejectedImage("organ_boxes_ambiguous", "several images of the table have this stem: write full names")
            return found
    raise RejectedImage("organ_boxes_missing", "the table has no organ box of this image: add it or leave it as it is")


def organ_box_mask(value: object, form: str, size: tuple[int, int], made_for: tuple[int, int] | None = None) -> np.ndarray:
    """A stated box as a marked mask of an image of `size` (width, height).

    Args:
        value: four numbers.
        form: xywh or xyxy.
        made_for: (width, height) that the box was drawn on, where stated.

    Raises:
        RejectedImage: organ_box_unreadable, organ_box_zero_area, organ_box_outside, organ_box_size.
    """
    if made_for is not None and made_for != size:
        raise RejectedImage(
            "organ_box_size", f"made for {made_for[0]} x {made_for[1]}, the image is {size[0]} x {size[1]}: redo it"
        )
    try:
        numbers = [float(each) for each in value] if isinstance(value, (list, tuple)) else []
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise RejectedImage("organ_box_unreadable", "not four finite numbers: correct the box")
    x, y, right, bottom = numbers
    stated = Box(x, y, x + right, y + bottom) if form == "xywh" else Box(x, y, right, bottom)
    if stated.width <= 0 or stated.height <= 0:
        raise RejectedImage("organ_box_zero_area", f"{stated.width:g} wide and {stated.height:g} high: check xywh or xyxy")
    inside = Box(max(stated.x0, 0.0), max(stated.y0, 0.0), min(stated.x1, float(size[0])), min(stated.y1, float(size[1])))
    if inside.width <= 0 or inside.height <= 0 or inside.area < MIN_INSIDE * stated.area:
        raise RejectedImage("organ_box_outside", f"lies mostly outside {size[0]} x {size[1]}: check xywh or xyxy and the image")
    return box_mask(inside, size)


_AMBIGUOUS = (-1, -1)


@functools.lru_cache(maxsize=64)
def _read(path: Path) -> _Table:
    try:
        text = read_text(path)
        if path.suffix.casefold() == ".json":
            return _from_json(json.loads(text))
        if path.suffix.casefold() in (".csv", ".tsv"):
            return _from_cells(text, "\t" if path.suffix.casefold() == ".tsv" else ",")
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise RejectedImage("organ_boxes_unreadable", f"not a file of boxes ({type(error).__name__}): correct it") from error
    raise RejectedImage("organ_boxes_unreadable", "give a .json, .csv or .tsv file")


def _from_json(content: object) -> _Table:
    if not isinstance(content, dict):
        raise RejectedImage("organ_boxes_unreadable", "not an object of organs or images: see the layouts of --organ boxes")
    if {"images", "annotations", "categories"} <= content.keys():
        return _indexed(_coco(content))
    if content and all(isinstance(value, dict) for value in content.values()):
        return _indexed((str(name), StatedBoxes(list(boxes.items()))) for name, boxes in content.items())
    return {"": StatedBoxes([(str(organ), box) for organ, box in content.items()])}


def _coco(content: Mapping[str, Any]) -> Iterator[tuple[str, StatedBoxes]]:
    try:
        organs = {each["id"]: str(each["name"]) for each in content["categories"]}
        boxes: dict[Any, list[tuple[str, object]]] = {}
        for each in content["annotations"]:
            boxes.setdefault(each["image_id"], []).append((organs[each["category_id"]], each.get("bbox")))
        for each in content["images"]:
            size = (each["width"], each["height"]) if {"width", "height"} <= each.keys() else None
            if each["id"] in boxes:
                yield str(each["file_name"]), StatedBoxes(boxes[each["id"]], size)
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectedImage("organ_boxes_unreadable", f"not COCO ({type(error).__name__}): correct the file") from error


def _from_cells(text: str, delimiter: str) -> _Table:
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True))
    header = [cell.strip().casefold() for cell in rows[0]] if rows else []
    image = next((at for at, name in enumerate(header) if name in ("image", "file", "file_name", "filename", "stem")), None)
    if "organ" not in header or len(header) != 5 + (image is not None):
        raise RejectedImage("organ_boxes_unreadable", "line 1: give a header of image,organ and four columns of numbers")
    organ = header.index("organ")
    found: dict[str, StatedBoxes] = {}
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise RejectedImage(
                "organ_boxes_unreadable", f"line {number}: {len(cells)} cells under {len(header)} columns: correct it"
            )
        name = cells[image].strip() if image is not None else ""
        numbers = [cell for at, cell in enumerate(cells) if at not in (organ, image)]
        found.setdefault(name, StatedBoxes()).boxes.append((cells[organ], numbers))
    return found if image is None else _indexed(iter(found.items()))


def _indexed(images: Iterator[tuple[str, StatedBoxes]]) -> _Table:
    """By full name, and by stem where it is that of one image."""
    by_name: dict[str, StatedBoxes] = {}
    by_stem: dict[str, StatedBoxes] = {}
    for name, boxes in images:
        full = loosely(name.replace("\\", "/"))
        by_name[full] = boxes
        stem = full.rpartition("/")[2]
        stem = stem.rpartition(".")[0] or stem
        by_stem[stem] = StatedBoxes(size=_AMBIGUOUS) if stem in by_stem else boxes
    return {**by_stem, **by_name}


def organs_of(stated: StatedBoxes) -> Iterator[tuple[str, object]]:
    """(organ name, four numbers) of each box; a box without an organ's name is left to its own reject."""
    for name, box in stated.boxes:
        yield organ_name(name) or "unnamed", box
