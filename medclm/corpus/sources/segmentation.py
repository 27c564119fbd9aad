"""COCO segmentations (polygons, run lengths plain or compressed) -> masks. Must not know boxes or files.

Everything is checked before pycocotools sees it: its C code trusts the numbers it is given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from medclm.corpus.sources.detection import RefusedAnnotation


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray | None:
    """The mask of a COCO `segmentation` field as (height, width) bool; None where the field is empty.

    Args:
        segmentation: list of polygons [x0, y0, x1, y1, ...] in pixels, or {"size": [h, w], "counts": list or text}.
        size: (width, height) of the annotations' frame.

    Raises:
        RefusedAnnotation: mask_unreadable, mask_size (run lengths of another picture), mask_empty.
    """
    if segmentation is None or segmentation == [] or segmentation == {}:
        return None
    if isinstance(segmentation, dict):
        mask = _from_run_lengths(segmentation, size)
    elif isinstance(segmentation, list):
        mask = _from_polygons(segmentation, size)
    else:
        raise RefusedAnnotation(
            "mask_unreadable", f"a segmentation of type {type(segmentation).__name__}: give polygons or RLE"
        )
    if not mask.any():
        raise RefusedAnnotation("mask_empty", "the segmentation covers no pixel: remove or redraw it")
    return mask


def _from_polygons(polygons: list[Any], size: tuple[int, int]) -> np.ndarray:
    width, height = size
    if not isinstance(polygons[0], list):  # one polygon without its outer brackets
        polygons = [polygons]
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise RefusedAnnotation("mask_unreadable", "a polygon needs x and y of at least three points")
        if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in polygon):
            raise RefusedAnnotation("mask_unreadable", "a polygon holds something that is not a number")
        # a point far outside would make the rasteriser walk, and allocate, all the way there
        far = not all(-width <= x <= 2 * width for x in polygon[::2]) or not all(
            -height <= y <= 2 * height for y in polygon[1::2]
        )
        if far or not all(math.isfinite(number) for number in polygon):
            raise RefusedAnnotation(
                "mask_unreadable", f"a polygon leaves the picture of {width} x {height} by more than its size"
            )
    runs = coco_mask.frPyObjects([[float(number) for number in polygon] for polygon in polygons], height, width)
    decoded: np.ndarray = coco_mask.decode(coco_mask.merge(runs)) != 0
    return decoded


def _from_run_lengths(runs: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    width, height = size
    if runs.get("size") != [height, width]:
        raise RefusedAnnotation("mask_size", f"run lengths for another picture than one of {width} x {height}: redo them")
    counts = runs.get("counts")
    lengths = _lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise RefusedAnnotation("mask_unreadable", "run lengths are whole numbers from 0 up, or their compressed text")
    if sum(lengths) != width * height:
        raise RefusedAnnotation("mask_unreadable", f"run lengths add up to {sum(lengths)}, not to {width} x {height}")
    inside = np.arange(len(lengths)) % 2 == 1  # runs alternate, the first is outside; pixels go down the columns
    return np.ascontiguousarray(np.repeat(inside, lengths).reshape(width, height).T)


def _lengths(text: str) -> list[int]:
    """COCO's compressed counts: 5-bit groups, least first, with a continuation and a sign bit; from the third on as differences
    to the count two before (pycocotools, maskApi.c, rleFrString)."""
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 30:
            raise RefusedAnnotation("mask_unreadable", "the compressed run lengths hold a letter that cannot stand there")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise RefusedAnnotation("mask_unreadable", "the compressed run lengths end in the middle of a number")
    return lengths
