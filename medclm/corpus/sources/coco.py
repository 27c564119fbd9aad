"""Detection datasets in COCO's JSON format.

    source = CocoSource(Path("boxes_coco.json"), Path("images"), SourceOptions(name="brats", modality="MR"))
    image = source.read(0)

The file is read once, leniently where its meaning is clear; what belongs to no image stands in `source.rejects`. Every image
entry counts in `len(source)`, also a faulty one, so that each can be named when it is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.sources.coco_file import (
    class_names,
    declared_size,
    has_id,
    identity,
    image_faults,
    read_tables,
    repeated_ids,
)
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
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.options import SourceOptions, organ_template
from medclm.corpus.sources.segmentation import decode_segmentation
from medclm.corpus.sources.spool import Spool
from medclm.types import Box

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SLACK = 1.0
"""Pixels that a box may pass the border by rounding before it counts as evidence of another format."""


class CocoSource(PictureSource):
    """A COCO file and its pictures (contract.Source)."""

    def __init__(self, annotation_file: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the annotation file.

        Raises:
            ValueError: the file is missing, not JSON or not COCO, or an option names a field or class that it does not have;
                names the file and the cure.
        """
        super().__init__(options, annotation_file.parent)
        self._file = annotation_file
        if not image_root.is_dir():
            raise ValueError(f"{image_root}: no such folder: give the folder of the pictures (--image-root)")
        self._images = Folder(image_root)
        tables = read_tables(annotation_file)
        self._entries: Sequence[Any] = tables["images"]
        self._annotations: Sequence[Any] = tables["annotations"]
        self._classes = class_names(annotation_file, tables["categories"])
        self._faults = image_faults(self._entries, self._images)
        self._repeated = repeated_ids(self._annotations)
        self._of_image = self._group()
        self._check_options()
        self._is_xyxy = options.box_format == "auto" and self._file_looks_like_xyxy()
        self._entries, self._annotations = Spool(self._entries), Spool(self._annotations)

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """The picture of entry `index` of the file's `images`.

        Raises:
            RejectedImage: image_entry_unreadable, duplicate_image_id, duplicate_image_file, path_outside_root, image_missing or
                image_name_ambiguous.
        """
        if fault := self._faults.get(index):
            raise RejectedImage(*fault)
        entry = self._entries[index]
        return self._images.find(entry["file_name"]), declared_size(entry)

    def facts(self, index: int) -> Facts:
        """Raises RejectedImage, split_unknown."""
        entry = self._entries[index]
        name = entry["file_name"]
        return Facts(
            index=f"images[{index}]",
            key=name,
            patient=_text(entry, self._options.patient_field),
            technique=_text(entry, self._options.technique_field),
            official_split=_split(entry, self._options.split_field),
            fields={**entry, "stem": PurePosixPath(name.replace("\\", "/")).stem},
            scope_open=index not in self._faults,
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        patient = _text(self._entries[index], self._options.patient_field)
        return [self._stated(number, size, patient) for number in self._of_image[index]]

    def count(self, index: int) -> int:
        return len(self._of_image[index])

    def _stated(self, number: int, size: tuple[int, int], patient: str | None) -> Stated:
        annotation = self._annotations[number]
        stated = Stated(number, self._classes.get(identity(annotation.get("category_id"))))
        try:
            if stated.class_source is None:
                raise RefusedAnnotation(
                    "category_unknown",
                    f"category_id {shown(annotation.get('category_id'))} is not among the categories: add it",
                )
            if number in self._repeated:
                raise RefusedAnnotation("duplicate_annotation_id", "an earlier annotation has the same id: give each its own")
            if annotation.get("iscrowd") not in (None, 0, False, "0"):
                raise RefusedAnnotation(
                    "crowd", "iscrowd: a region of uncounted objects has no single box: annotate them one by one"
                )
            mask = decode_segmentation(annotation.get("segmentation"), size)
            box_px = self._box(annotation.get("bbox"), mask, size)
        except RefusedAnnotation as refusal:
            return refused(stated, refusal)
        return Stated(number, stated.class_source, box_px, mask, self._lesion_3d(annotation, patient))

    def _box(self, value: object, mask: np.ndarray | None, size: tuple[int, int]) -> Box:
        """The stated box, or the mask's own where none is stated."""
        if value in (None, [], ""):
            if mask is None:
                raise RefusedAnnotation("box_missing", "neither bbox nor segmentation: give one of them")
            return _box_of(mask)
        numbers = four_numbers(value)
        if self._options.box_format == "auto" and (self._is_xyxy or _looks_like_xyxy(numbers, size)):
            raise RefusedAnnotation(
                "box_looks_like_xyxy",
                f"{shown(list(numbers))} passes the border as corner and size, or stands in a file where others do, and fits as two "
                "corners: give --box-format xyxy if it is that, --box-format xywh if it is not",
            )
        x, y, right, bottom = numbers
        stated = Box(x, y, x + right, y + bottom) if self._options.box_format != "xyxy" else Box(x, y, right, bottom)
        box_px = judge_box(stated, size)
        if mask is not None and not mask[_cells(box_px)].any():
            raise RefusedAnnotation("mask_outside_box", f"no pixel of the segmentation lies in the box {shown(list(numbers))}")
        return box_px

    def _lesion_3d(self, annotation: Mapping[str, Any], patient: str | None) -> str | None:
        lesion = _text(annotation, self._options.lesion_3d_field)
        # sources count lesions per patient: "1" of one patient is not "1" of another
        return lesion if lesion is None or patient is None else f"{patient}/{lesion}"

    def _group(self) -> list[list[int]]:
        """For each image entry its annotations by number; the rest goes to `rejects`."""
        places = {identity(entry["id"]): place for place, entry in reversed(list(enumerate(self._entries))) if has_id(entry)}
        groups: list[list[int]] = [[] for _ in self._entries]
        rejects = []
        for number, annotation in enumerate(self._annotations):
            if not isinstance(annotation, dict):
                rejects.append(
                    Reject(f"annotations[{number}]", "annotation_unreadable", "not an object with image_id and bbox")
                )
                continue
            place = places.get(identity(annotation.get("image_id")))
            if place is None:
                detail = "its image_id is not among the images: add the entry"
                rejects.append(Reject(f"annotations[{number}]", "image_entry_missing", detail))
            else:
                groups[place].append(number)
        self.rejects = tuple(rejects)
        return groups

    def _check_options(self) -> None:
        """A mistyped field or class would otherwise end in leaking splits or in false "No" answers, without a word."""
        options = self._options
        entries = _fields(self._entries)
        for option in ("patient_field", "technique_field", "split_field"):
            self._known(option, getattr(options, option), entries, "a field of the image entries")
        if options.lesion_3d_field is not None:
            self._known("lesion_3d_field", options.lesion_3d_field, _fields(self._annotations), "a field of the annotations")
        for spec in options.organs:
            for field in re.findall(r"\{(\w+)\}", organ_template(spec)[1]):
                self._known(f"organ {spec}", field, entries | {"stem", "organ"}, "a field of the image entries")
        classes = {options.canonical(name) for name in self._classes.values()}
        for name in options.exhaustive:
            self._known("exhaustive", name, classes, "a category")
        for name in options.visible_on:
            self._known("visible_on", name, classes, "a category")

    def _known(self, option: str, value: str | None, known: set[str], what: str) -> None:
        if value is None or value in known or not self._entries:
            return
        close = difflib.get_close_matches(value, sorted(known), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known)) or 'none'}"
        raise ValueError(f"{self._file}: {option}: {value} is not {what}: {hint}")

    def _file_looks_like_xyxy(self) -> bool:
        """Whether some boxes fit as two corners only and none speaks against it: then no box of the file can be trusted."""
        found = False
        for size, numbers in self._readable_boxes():
            x, y, right, bottom = numbers
            if 0 < right <= x or 0 < bottom <= y:
                return False
            found = found or _looks_like_xyxy(numbers, size)
        return found

    def _readable_boxes(self) -> Iterator[tuple[tuple[int, int], tuple[float, float, float, float]]]:
        for entry, numbers in zip(self._entries, self._of_image, strict=True):
            size = declared_size(entry)
            if size is None:
                continue
            for number in numbers:
                try:
                    yield size, four_numbers(self._annotations[number].get("bbox"))
                except RefusedAnnotation:
                    continue


def _fields(entries: Sequence[Any]) -> set[str]:
    return {str(key) for entry in entries if isinstance(entry, dict) for key in entry}


def _text(entry: Mapping[str, Any], field: str | None) -> str | None:
    value = entry.get(field) if field is not None else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:  # a missing cell becomes NaN
        return None
    return identity(value) or None


def _split(entry: Mapping[str, Any], field: str | None) -> str | None:
    stated = _text(entry, field)
    if stated is None:
        return None
    if stated.lower() not in _SPLITS:
        raise RejectedImage("split_unknown", f"field {field} is none of {', '.join(_SPLITS)}: correct it")
    return _SPLITS[stated.lower()]


def _looks_like_xyxy(numbers: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    x, y, right, bottom = numbers
    width, height = size[0] + _SLACK, size[1] + _SLACK
    passes_border = x + right > width or y + bottom > height
    return passes_border and 0 <= x < right <= width and 0 <= y < bottom <= height


def _box_of(mask: np.ndarray) -> Box:
    """The tightest box around a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _cells(box_px: Box) -> tuple[slice, slice]:
    """The pixels that a box touches."""
    return slice(int(box_px.y0), int(np.ceil(box_px.y1))), slice(int(box_px.x0), int(np.ceil(box_px.x1)))
