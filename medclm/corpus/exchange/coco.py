"""COCO: images, annotations and categories of a corpus, for detectors and for a rebuild with other questions.

Lesions only: a control box marks tissue without a finding. Boxes are [x, y, width, height] in pixels with all their digits,
masks COCO's compressed run lengths. Keys beyond the format carry what it has no place for, ids hashed as stored; null =
unknown. It carries no questions, so it comes back by a build, not by an import:

    corpus.py build --source coco --annotations DIR/coco.json --image-root DIR/images --patient-field patient \\
        --split-field split --technique-field technique --lesion-3d-field lesion_3d --modality CODE --out NEW
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from medclm.corpus.exchange.exporting import ExportOptions, Pictures, licence_lines, wanted_splits
from medclm.corpus.report import NOTICE
from medclm.data.manifest import write_json
from medclm.data.shards import Corpus
from medclm.types import Box

FILE = "coco.json"
_IMAGE = ("width", "height", "patient", "study", "series", "modality", "technique", "plane", "patient_directions", "source")
_KEPT = ("class_source", "organ", "organ_relation", "agreement", "lesion_3d")
_ANNOTATION = ("image_row", "lesion_class", "box_xyxy_unit", "box_role", "mask_rle", *_KEPT)
UNKNOWN_CLASS = "unknown"


def export_coco(corpus: Corpus, options: ExportOptions) -> Counter[str]:
    """Write `FILE` and the pictures; counts of images, annotations and categories, and of what has no box.

    Every image of the wanted splits is there, also one without lesions. Pictures with a drawn box are not data.

    Raises:
        ValueError: something is in the way, or there is no record; names it and the cure.
    """
    splits = wanted_splits(corpus, options)
    split_of = _splits(corpus, splits)
    pictures = Pictures(corpus, options)
    rows = sorted(split_of)
    licences = sorted({corpus.row("images", row, ["licence"])["licence"] or "unknown" for row in rows})
    images = [_image(corpus, row, split_of[row], licences, pictures) for row in rows]
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    lesions = [lesion for lesion in _lesions(corpus) if lesion["image_row"] in split_of]
    boxed = [lesion for lesion in lesions if lesion["box_xyxy_unit"] is not None]
    names = sorted({lesion["lesion_class"] or UNKNOWN_CLASS for lesion in boxed})
    without_box = Counter({"lesions without a box, left out": len(lesions) - len(boxed)})
    write_json(
        options.out / FILE,
        {
            "info": {"description": NOTICE, "licence": licence_lines(corpus)},
            "licenses": [{"id": number, "name": name} for number, name in enumerate(licences, start=1)],
            "images": images,
            "annotations": [_annotation(lesion, names, sizes[lesion["image_row"]]) for lesion in boxed],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        },
    )
    return Counter(images=len(images), annotations=len(boxed), categories=len(names)) + without_box


def _splits(corpus: Corpus, splits: Sequence[str]) -> dict[int, str]:
    """Image row -> split, of the records' own pictures and their Hard partners'."""
    found: dict[int, str] = {}
    for split in splits:
        for batch in corpus.scan("records", ["image_row", "hard_image_row"], split=split):
            for own, partner in zip(*batch.to_pydict().values(), strict=True):
                found.update({row: split for row in (own, partner) if row >= 0})
    return found


def _image(corpus: Corpus, row: int, split: str, licences: Sequence[str], pictures: Pictures) -> dict[str, Any]:
    stored = corpus.row("images", row, [*_IMAGE, "licence"])
    licence = stored.pop("licence") or "unknown"
    name = Path(pictures.plain(row)).name
    return {"id": row, "file_name": name, "license": licences.index(licence) + 1, "split": split, **stored}


def _lesions(corpus: Corpus) -> Iterator[Mapping[str, Any]]:
    number = 0
    for batch in corpus.scan("annotations", _ANNOTATION):
        for lesion in batch.to_pylist():
            if lesion["box_role"] != "control":
                yield {**lesion, "id": number}
            number += 1


def _annotation(lesion: Mapping[str, Any], names: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
    box = Box(*lesion["box_xyxy_unit"]).scaled(*size)
    mask = json.loads(lesion["mask_rle"]) if lesion["mask_rle"] else None
    return {
        "id": lesion["id"],
        "image_id": lesion["image_row"],
        "category_id": names.index(lesion["lesion_class"] or UNKNOWN_CLASS) + 1,
        "bbox": [box.x0, box.y0, box.width, box.height],
        "area": float(coco_mask.area(mask)) if mask else box.area,
        "iscrowd": 0,
        "segmentation": mask or [],
        **{name: lesion[name] for name in _KEPT},
    }
