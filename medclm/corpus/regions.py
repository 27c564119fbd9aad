"""Masks as regions: window, area, counts along the axes, overlap and distance, each computed once and only where pixels are.

Here so that an image of 512 x 512 with thirty organs costs little: everything looks at the windows in which regions meet. Knows
masks and names of organs; nothing of patients, directions or classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from medclm.corpus.box_masks import is_box
from medclm.corpus.closing import close_mask
from medclm.types import Box


class Window(NamedTuple):
    """Rows and columns from the first to one past the last."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, shape: tuple[int, ...]) -> Window:
        """Wider by `margin` pixels on every side, within an image of `shape`."""
        return Window(
            max(self.top - margin, 0),
            min(self.bottom + margin, shape[0]),
            max(self.left - margin, 0),
            min(self.right + margin, shape[1]),
        )

    def moved(self, down: int, right: int) -> Window:
        return Window(self.top + down, self.bottom + down, self.left + right, self.right + right)

    def common(self, other: Window) -> Window | None:
        """What two windows share; None = nothing."""
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        left, right = max(self.left, other.left), min(self.right, other.right)
        return Window(top, bottom, left, right) if top < bottom and left < right else None


@dataclass(frozen=True, eq=False)
class Region:
    """A set of pixels of an image, not empty."""

    mask: np.ndarray
    """(H, W) bool."""

    @cached_property
    def window(self) -> Window:
        rows = np.flatnonzero(self.mask.any(axis=1))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(self.mask[top:bottom].any(axis=0))
        return Window(top, bottom, int(columns[0]), int(columns[-1]) + 1)

    @property
    def inside(self) -> np.ndarray:
        """The mask within its window."""
        return self.mask[self.window.slices]

    @cached_property
    def area(self) -> int:
        return int(np.count_nonzero(self.inside))

    @cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        return np.count_nonzero(self.inside, axis=0), np.count_nonzero(self.inside, axis=1)

    def extent(self, image_axis: int) -> tuple[int, int]:
        """First and one past the last pixel along x (0) or y (1)."""
        window = self.window
        return (window.left, window.right) if image_axis == 0 else (window.top, window.bottom)

    def counts(self, image_axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres along x (0) or y (1), pixel i covering [i, i + 1], and how many pixels of the region each holds."""
        low, high = self.extent(image_axis)
        return np.arange(low, high) + 0.5, self._counts[image_axis]

    def centre(self, image_axis: int) -> float:
        """Mean coordinate of its pixels along x (0) or y (1)."""
        at, counts = self.counts(image_axis)
        return float(at @ counts / self.area)


@dataclass(frozen=True, eq=False)
class OrganMask:
    """An organ of the picture, its name already read."""

    name: str
    side: str | None
    mask: np.ndarray
    """(H, W), any non-zero is inside; not empty."""
    closing: int = 0
    """Radius in pixels of `closed`."""

    @property
    def is_box(self) -> bool:
        """Made of a stated box: says which organ and which side, not where the organ ends."""
        return is_box(self.mask)

    @cached_property
    def region(self) -> Region:
        """As the source gave it."""
        return Region(self.mask if self.mask.dtype == bool else self.mask != 0)

    @cached_property
    def closed(self) -> Region:
        """Closed and hole-filled, within the same window; a box as it is."""
        if self.is_box or not self.closing:
            return self.region
        slices = self.region.window.slices
        out = np.zeros(self.mask.shape, bool)
        out[slices] = close_mask(self.region.mask[slices], self.closing)
        return Region(out)

    def share_of(self, region: Region) -> float:
        """Share of the region within the closed organ, 0..1; closes nothing where they cannot meet."""
        if self.region.window.common(region.window) is None:
            return 0.0
        return share(region, self.closed)


def share(region: Region, other: Region) -> float:
    """|region & other| / |region|, 0..1."""
    common = region.window.common(other.window)
    if common is None:
        return 0.0
    return float(np.count_nonzero(region.mask[common.slices] & other.mask[common.slices])) / region.area


def gap(window: Window, other: Region) -> float:
    """Least distance in pixels between the pixels of a window and those of a region; 0 where they meet."""
    rows, columns = other.window.slices
    below = _beyond(np.arange(rows.start, rows.stop), window.top, window.bottom - 1)
    beside = _beyond(np.arange(columns.start, columns.stop), window.left, window.right - 1)
    squares = below[:, None] ** 2 + beside[None, :] ** 2
    return float(np.sqrt(squares[other.inside].min()))


def least_gap(window: Window, other: Window) -> float:
    """The gap of two windows: no region in `other` is nearer."""
    below = max(other.top - (window.bottom - 1), window.top - (other.bottom - 1), 0)
    beside = max(other.left - (window.right - 1), window.left - (other.right - 1), 0)
    return float(np.hypot(below, beside))


def _beyond(at: np.ndarray, first: int, last: int) -> np.ndarray:
    return np.asarray(at - np.clip(at, first, last))


def window_of(box_px: Box) -> Window:
    """Every pixel that a box touches."""
    return Window(int(box_px.y0), int(np.ceil(box_px.y1)), int(box_px.x0), int(np.ceil(box_px.x1)))


def box_region(box_px: Box, shape: tuple[int, ...]) -> Region:
    """The pixels of a box, at least one."""
    x0, y0, x1, y1 = box_px
    mask = np.zeros(shape[:2], bool)
    left, top = min(int(x0), shape[1] - 1), min(int(y0), shape[0] - 1)
    mask[top : max(top + 1, round(y1)), left : max(left + 1, round(x1))] = True
    return Region(mask)
