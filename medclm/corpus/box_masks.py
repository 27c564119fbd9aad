"""Organs that a source states as boxes: rectangular masks that say so themselves.

A box tells which organ and which side, not where the organ ends, so nothing that needs an outline is said of it. The mark is
the array's type, since it has to survive turning, pickling and every hand it passes through.
"""

from __future__ import annotations

import numpy as np

from medclm.types import Box

_MARK = np.dtype(np.int8)
_INSIDE = -1


def box_mask(box_px: Box, size: tuple[int, int]) -> np.ndarray:
    """(height, width) int8 of a picture of `size` (width, height): -1 in the pixels that the box covers by half or more, at
    least one; any non-zero is inside, as in every organ mask."""
    width, height = size
    left, top = min(max(round(box_px.x0), 0), width - 1), min(max(round(box_px.y0), 0), height - 1)
    mask = np.zeros((height, width), _MARK)
    mask[top : max(top + 1, round(box_px.y1)), left : max(left + 1, round(box_px.x1))] = _INSIDE
    return mask


def is_box(mask: np.ndarray) -> bool:
    """Whether a mask was made by `box_mask`."""
    return mask.dtype == _MARK
