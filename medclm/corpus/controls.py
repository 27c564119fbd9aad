"""Control boxes: lesion-free tissue of a lesion's size, so that a drawn box does not always mean "yes" (region negatives).

The mirrored site is tried first, then the same organ, then the rest of the body. A class has controls only where every
lesion of it is known. Knows boxes and masks; what is said of a control is for anatomy.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medclm.corpus.contract import LinkedAnnotation, SourceImage
from medclm.corpus.locations import body
from medclm.corpus.regions import OrganMask, Region, Window, window_of
from medclm.draws import generator
from medclm.types import Box

INSIDE = 0.9
"""Share of a control box on tissue; less where the lesion's own box has less."""
MARGIN = 0.02
"""Distance kept from every lesion, as a share of the image's shorter side."""


def find_controls(
    image: SourceImage,
    organs: Sequence[OrganMask],
    lesions: Sequence[LinkedAnnotation],
    regions: Sequence[Region],
    scope: Sequence[str],
    mirror: tuple[int, float],
    seed: int,
) -> Iterator[tuple[str, Box]]:
    """One (class, box in pixels) for each class in scope that has a lesion here and a free site of its size.

    Args:
        organs: their union is the body, else what the picture shows.
        regions: of each lesion.
        mirror: image axis (0 = x) and pixel coordinate of the mirror line.
        seed: of the choice of lesion and site.
    """
    wanted = sorted({lesion.source.lesion_class for lesion in lesions} & set(scope))
    if not wanted:
        return
    tissue = _Tissue(image.pixels, organs)
    free = _Sites(image, regions, tissue)
    for lesion_class in wanted:
        draw = generator(seed, f"control {image.key} {lesion_class}")
        of_class = [i for i, lesion in enumerate(lesions) if lesion.source.lesion_class == lesion_class]
        chosen = of_class[int(draw.integers(len(of_class)))]
        shares = [organ.share_of(regions[chosen]) for organ in organs]
        host = organs[int(np.argmax(shares))] if shares and max(shares) > 0 else None
        box_px = free.choose(lesions[chosen].source.box_px, host, mirror, draw)
        if box_px is not None:
            yield lesion_class, box_px


_FINEST = 256
"""Sites along the shorter side of a picture that are looked at."""


class _Tissue:
    """Where the body is; looked at in small windows as long as that is enough."""

    def __init__(self, pixels: np.ndarray, organs: Sequence[OrganMask]) -> None:
        self._organs = organs
        self._outline = body(pixels) if not organs else None
        self._shape = pixels.shape[:2]

    def within(self, window: Window) -> np.ndarray:
        """The body in a window."""
        if self._outline is not None:
            return self._outline[window.slices]
        inside = np.zeros((window.bottom - window.top, window.right - window.left), bool)
        for organ in self._organs:
            common = organ.region.window.common(window)
            if common is not None:
                inside[common.moved(-window.top, -window.left).slices] |= organ.closed.mask[common.slices]
        return inside

    def whole(self) -> Region | None:
        """All of it; None = nothing."""
        mask = self.within(Window(0, self._shape[0], 0, self._shape[1]))
        return Region(mask) if mask.any() else None


class _Sites:
    """Where a box of a given size meets no lesion: one site by looking at it, all of them at once by integral images."""

    def __init__(self, image: SourceImage, regions: Sequence[Region], tissue: _Tissue) -> None:
        self._shape = image.pixels.shape[:2]
        self._tissue = tissue
        margin = round(MARGIN * min(self._shape))
        boxes = [window_of(annotation.box_px) for annotation in image.annotations]
        self._occupied = [window.grown(margin, self._shape) for window in (*boxes, *(region.window for region in regions))]

    def choose(self, lesion: Box, host: OrganMask | None, mirror: tuple[int, float], draw: np.random.Generator) -> Box | None:
        """A free box of the lesion's size: mirrored, else in `host`, else on tissue; None = there is no room."""
        height, width = max(1, int(np.ceil(lesion.height))), max(1, int(np.ceil(lesion.width)))
        if height > self._shape[0] or width > self._shape[1]:
            return None
        own = window_of(lesion)
        axis, line = mirror
        x = int(np.floor(2 * line - lesion.x1)) if axis == 0 else int(lesion.x0)
        y = int(np.floor(2 * line - lesion.y1)) if axis == 1 else int(lesion.y0)
        corner: tuple[int, int] | None = (y, x)
        if not self._is_free(Window(y, y + height, x, x + width), own):
            corner = self._any(host.closed, own, (height, width), draw) if host is not None else None
            if corner is None:
                corner = self._any(self._tissue.whole(), own, (height, width), draw)
        return Box(float(corner[1]), float(corner[0]), corner[1] + lesion.width, corner[0] + lesion.height) if corner else None

    def _is_free(self, site: Window, own: Window) -> bool:
        if site.common(Window(0, self._shape[0], 0, self._shape[1])) != site:
            return False
        if any(site.common(lesion) is not None for lesion in self._occupied):
            return False
        return bool(self._tissue.within(site).mean() >= _least(self._tissue.within(own)))

    def _any(
        self, place: Region | None, own: Window, size: tuple[int, int], draw: np.random.Generator
    ) -> tuple[int, int] | None:
        """(y, x) of the top-left corner of one of the free sites in a place, all equally likely."""
        if place is None:
            return None
        height, width = size
        reach = Window(place.window.top - height + 1, place.window.bottom, place.window.left - width + 1, place.window.right)
        corners = reach.common(Window(0, self._shape[0] - height + 1, 0, self._shape[1] - width + 1))
        if corners is None:
            return None
        slices = Window(corners.top, corners.bottom + height - 1, corners.left, corners.right + width - 1).slices
        free = np.zeros((corners.bottom - corners.top, corners.right - corners.left), bool)
        step = max(1, min(self._shape) // _FINEST)  # of a large picture every site would be looked at for little
        free[::step, ::step] = _shares(place.mask[slices], height, width, step) >= _least(place.mask[own.slices])
        for lesion in self._occupied:  # corners of boxes that would meet it
            met = Window(lesion.top - height + 1, lesion.bottom, lesion.left - width + 1, lesion.right).common(corners)
            if met is not None:
                free[met.moved(-corners.top, -corners.left).slices] = False
        found = np.flatnonzero(free)
        if not len(found):
            return None
        y, x = divmod(int(found[draw.integers(len(found))]), free.shape[1])
        return corners.top + y, corners.left + x


def _least(own: np.ndarray) -> float:
    """A control need not sit deeper in the body than the lesion: that would tell them apart."""
    return min(INSIDE, max(0.25, float(own.mean())))


def _shares(mask: np.ndarray, height: int, width: int, step: int) -> np.ndarray:
    """Share of each `height` x `width` window that is set, for windows at every `step`-th row and column."""
    rows = np.cumsum(np.pad(mask, ((1, 0), (0, 0))), axis=0, dtype=np.int32)
    sums = np.cumsum(np.pad(rows[height::step] - rows[:-height:step], ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    return np.asarray((sums[:, width::step] - sums[:, :-width:step]) / (height * width))
