"""Which part of a stored picture is kept: all of it, the regions of an ultrasound picture, or what lies within blackened borders.

Pixels and masks are cut by the same object that moves the boxes. Must not know why a part is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medclm.types import Box

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the stored picture, half-open."""


@dataclass(frozen=True)
class Kept:
    """From the stored picture, which annotations are made on, to the picture that is kept."""

    stored_size: tuple[int, int]
    """(width, height)."""
    regions: tuple[Rectangle, ...]
    """What is shown; everything else is black. At least one, inside the picture."""
    crop: bool = False
    """Whether the picture ends with its regions."""

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Kept:
        return cls(size, ((0, 0, *size),))

    @property
    def _frame(self) -> Rectangle:
        """What of the stored picture the kept one covers."""
        return _around(self.regions) if self.crop else (0, 0, *self.stored_size)

    @property
    def visible_px(self) -> Box:
        """The rectangle around everything shown, in pixels of the kept picture."""
        left, top, _, _ = self._frame
        x0, y0, x1, y1 = _around(self.regions)
        return Box(x0 - left, y0 - top, x1 - left, y1 - top)

    def box(self, box_px: Box) -> Box:
        """A box of the stored picture in pixels of the kept one; not clipped."""
        left, top, _, _ = self._frame
        return Box(box_px.x0 - left, box_px.y0 - top, box_px.x1 - left, box_px.y1 - top)

    def array(self, stored: np.ndarray) -> np.ndarray:
        """(H, W, ...) pixels, mask or values -> those of the kept picture; what is not shown is 0, False or NaN."""
        left, top, right, bottom = self._frame
        shown = np.zeros(stored.shape[:2], bool)
        for x0, y0, x1, y1 in self.regions:
            shown[y0:y1, x0:x1] = True
        if shown.all():
            return stored
        out = np.array(stored[top:bottom, left:right])
        out[~shown[top:bottom, left:right]] = np.nan if stored.dtype.kind == "f" else 0
        return out


def _around(regions: Sequence[Rectangle]) -> Rectangle:
    lefts, tops, rights, bottoms = zip(*regions, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
