"""Drawn shapes -> masks and boxes: polygons of any format, and the tightest box around a mask. Must not know files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medclm.corpus.sources.detection import RefusedAnnotation, judge_box
from medclm.corpus.sources.segmentation import decode_segmentation
from medclm.types import Box

Point = tuple[float, float]


def polygon_box(points: Sequence[Point], size: tuple[int, int]) -> tuple[Box, np.ndarray]:
    """A polygon in pixels -> its extent, judged, and its mask (height, width) bool.

    Args:
        points: x and y of its corners.
        size: (width, height) of the picture.

    Raises:
        RefusedAnnotation: mask_unreadable (under three points, not finite, far outside), mask_empty, or a reason of
            `judge_box`.
    """
    if len(points) < 3:
        raise RefusedAnnotation("mask_unreadable", f"a polygon of {len(points)} points: give at least three")
    if not all(math.isfinite(number) for point in points for number in point):
        raise RefusedAnnotation("mask_unreadable", "a polygon with a point that is not finite: redraw it")
    columns, rows = [x for x, _ in points], [y for _, y in points]
    box_px = judge_box(Box(min(columns), min(rows), max(columns), max(rows)), size)
    mask = decode_segmentation([[number for point in points for number in point]], size)
    assert mask is not None
    return box_px, mask


def mask_extent(mask: np.ndarray) -> Box:
    """The tightest box around a mask (height, width) bool.

    Raises:
        RefusedAnnotation: mask_empty.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        raise RefusedAnnotation("mask_empty", "the mask covers no pixel: remove or redraw it")
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
