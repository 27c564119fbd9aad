"""Boxes by class as questions: ChestX-Det, VinDr-CXR (test: a consensus) and RSNA Pneumonia, as they are published.

    ChestX_Det_train.json, ChestX_Det_test.json           Lian et al. 2021, arXiv 2104.10326
    annotations_train.csv, annotations_test.csv           Nguyen et al. 2022, arXiv 2012.15029
    stage_2_train_labels.csv (its only split is train)    Shih et al. 2019, doi 10.1148/ryai.2019180041

What they state is read and judged by medclm/corpus/sources, so an evaluation and a corpus never differ on what is there. Each
class with boxes in a picture is one example with all of them; each class that was looked for and is absent is a question of
presence that is answered by `No`. A class of which not every box is known is not asked about. Tables of whole pictures
(image_labels_*.csv, stage_2_detailed_class_info.csv) are read where they lie beside.

VinDr-CXR's boxes are in pixels of the original picture, whose size its tables do not state: add the columns width and height.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.example import Example
from eval.layouts.chest_parts import SPLITS, groups_of, side_of
from eval.layouts.fields import fields_of
from eval.layouts.layout import Layout, Questions, text_of
from medclm.corpus.contract import RejectedImage, SourceAnnotation, SourceImage
from medclm.corpus.sources.files import Folder, loosely
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.corpus.sources.tables import read_table
from medclm.corpus.sources.vocabulary import of_dataset
from medclm.types import Box

_SIDE_PX = 1024
"""Of the frame of ChestX-Det's and RSNA's boxes."""
_FAULTS = ("box_unreadable", "box_not_finite", "class_missing", "box_missing", "box_of_no_finding", "mask_unreadable")
"""Refusals that make a file faulty; the others are what annotators do, and are counted."""


class _Kind(NamedTuple):
    """How one file of annotations is read."""

    source: str
    """Name in medclm/corpus/sources/registry.py."""
    split: str
    image_labels: str = ""
    """Table of whole pictures that may lie beside it."""


_FIELDS = {
    "chestx_det": ("file_name", "syms", "boxes"),
    "vindr": ("image_id", "class_name", "x_min"),
    "rsna": ("patientId", "Target"),
}
"""By which its file is recognised."""
_FILES = {
    "ChestX_Det_test.json": _Kind("chestx_det", "test"),
    "ChestX_Det_train.json": _Kind("chestx_det", "train"),
    "annotations_test.csv": _Kind("vindr", "test", "image_labels_test.csv"),
    "annotations_train.csv": _Kind("vindr", "train", "image_labels_train.csv"),
    "stage_2_train_labels.csv": _Kind("rsna", "train", "stage_2_detailed_class_info.csv"),
}


def _files(data: Path) -> dict[str, Path]:
    """Split -> its file; nothing where several benchmarks lie together."""
    held = [data] if data.is_file() else [data / name for name in _FILES]
    found = [file for file in held if file.name in _FILES and file.is_file()]
    if len({_FILES[file.name].source for file in found}) != 1:
        return {}
    by_split = {_FILES[file.name].split: file for file in found}
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _recognises(data: Path) -> bool:
    return any(fields_of(file).issuperset(_FIELDS[_FILES[file.name].source]) for file in _files(data).values())


def _beside(file: Path) -> Path | None:
    name = _FILES[file.name].image_labels
    return file.parent / name if name and (file.parent / name).is_file() else None


def _read(data: Path, split: str) -> Questions:
    file = _files(data)[split]
    found = Questions()
    for image, refused in _images(file, found):
        boxes = defaultdict(list)
        for annotation in image.annotations:
            boxes[annotation.lesion_class].append(annotation)
        for lesion_class, reason in refused.items():
            found.left_out[reason] += 1
            boxes.pop(lesion_class, None)
        for lesion_class, lesions in boxes.items():
            if lesion_class in image.label_scope:
                found.examples.append(_present(image, lesion_class, lesions))
            else:
                found.left_out["not every box of the class is known"] += 1
        absent = [name for name in image.label_scope if image.image_labels.get(name) == "absent"]
        found.examples += [_absent(image, name) for name in absent]
    return found


def _present(image: SourceImage, lesion_class: str, lesions: list[SourceAnnotation]) -> Example:
    from medclm.corpus.rationale import LISTED

    height, width = image.pixels.shape[:2]
    boxes = tuple(Box(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in (one.box_px for one in lesions))
    return Example(
        **_common(image, lesion_class),
        question_kind="where",
        answer_type="open",
        question=f"Where is the {lesion_class}?",
        boxes_unit=boxes,
        lists_boxes=len(boxes) <= LISTED,
    )


def _absent(image: SourceImage, lesion_class: str) -> Example:
    from medclm.corpus.rationale import one

    return Example(
        **_common(image, lesion_class),
        question_kind="presence",
        answer_type="closed",
        question=f"Is there {one(lesion_class)} in this image?",
        answers=("No",),
        lists_boxes=False,
    )


def _common(image: SourceImage, lesion_class: str) -> dict[str, Any]:
    return {
        "id": f"{image.key}:{lesion_class}",
        "patient": image.patient or image.key,
        "picture": image.key,
        "domain": f"{lesion_class} / {image.modality}",
        "boxes_known": True,
        "groups": groups_of(view=image.view or ""),
    }


def _images(file: Path, found: Questions) -> Iterator[tuple[SourceImage, dict[str, str]]]:
    """What the source says of each picture, with empty pixels, and the classes of which it refused a box, with the reason.

    Raises:
        ValueError: an entry, a box or a table that the source cannot read.
    """
    from medclm.corpus.pixels import ExifTransform  # the readers of pictures are loaded where something is read
    from medclm.corpus.sources.detection import Opened, PictureSource, assemble
    from medclm.corpus.sources.nih import ALIASES

    kind = _FILES[file.name]
    declared = SourceOptions(name=kind.source, image_labels=_beside(file))
    options = of_dataset(declared, modality="DX", plane="frontal", aliases=ALIASES)
    source = open_source(kind.source, file, file.parent, options)
    assert isinstance(source, PictureSource)
    if source.rejects:
        raise ValueError(f"{file}: {source.rejects[0].detail}")
    sizes = _stated_sizes(file) if kind.source == "vindr" else None
    for index in range(len(source)):
        where = f"{file}: picture {index + 1}"
        try:
            _check_entry(source, index)
            facts = source.facts(index)
        except RejectedImage as error:
            raise ValueError(f"{where}: {error.detail}") from error
        size = (_SIDE_PX, _SIDE_PX) if sizes is None else sizes.get(loosely(facts.key))
        if size is None:
            found.left_out["size of the picture not stated"] += 1
            continue
        stated = [replace(one, mask=None) for one in source.stated(index, size)]  # judged with their boxes, and large
        for text in (facts.key, *(one.class_source for one in stated if one.class_source)):
            text_of(file, index + 1, {"name": text}, "name")  # refuses what could not be written down again
        refused = _refused(where, stated, options)
        empty = np.broadcast_to(np.uint8(0), (size[1], size[0]))
        opened = Opened(empty, ExifTransform(1, size))
        yield assemble(opened, stated, facts, options, Folder(file.parent)), refused


def _refused(where: str, stated: Sequence[Any], options: SourceOptions) -> dict[str, str]:
    """Class -> why a box of it cannot count; raises ValueError where the file itself is at fault."""
    found = {}
    for one in stated:
        if one.refusal is not None:
            if one.refusal.reason in _FAULTS or one.class_source is None:
                raise ValueError(f"{where}: annotation {one.number + 1}: {one.refusal.detail}")
            found[options.canonical(one.class_source)] = one.refusal.reason.replace("_", " ")
    return found


def _check_entry(source: Any, index: int) -> None:
    """Raises RejectedImage for an entry at fault; that its picture is not here is no fault of the entry."""
    try:
        source.picture(index)
    except RejectedImage as error:
        if error.reason not in ("image_missing", "image_name_ambiguous"):
            raise


def _stated_sizes(file: Path) -> dict[str, tuple[int, int]]:
    """Picture, as `loosely` compares its name -> (width, height), where the table states them."""
    found: dict[str, tuple[int, int]] = {}
    for row in read_table(file, ("image_id",), ("width", "height")).rows:
        if row["width"] or row["height"]:
            sides = [side_of(f"{file}:{row.line}", name, row[name]) for name in ("width", "height")]
            size = sides[0], sides[1]
            if found.setdefault(loosely(row["image_id"]), size) != size:
                raise ValueError(f"{file}:{row.line}: another size than in the rows before: correct one of them")
    return found


LAYOUT = Layout(
    name="detection",
    about="boxes by class: ChestX-Det, VinDr-CXR, RSNA Pneumonia",
    expects=f"one of {', '.join(_FILES)} (VinDr-CXR with columns width and height), and the pictures",
    recognises=_recognises,
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [path for path in (_files(data)[split], _beside(_files(data)[split])) if path],
)
