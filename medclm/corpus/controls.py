"""Control boxes: lesion-free tissue of a lesion's size, so that a drawn box does not always mean "yes" (region negatives).

The mirrored site is tried first, then the same organ, then the rest of the body. A class has controls only where every
lesion of it is known. Knows boxes and masks; what is said of a control is for anatomy.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medclm.corpus.contract import LinkedAnnotation, SourceImage
from medclm.corpus.locations import body
from medclm.draws import generator
from medclm.types import Box

INSIDE = 0.9
"""Share of a control box on tissue; less where the lesion's own box has less."""
MARGIN = 0.02
"""Distance kept from every lesion, as a share of the image's shorter side."""


def find_controls(
    image: SourceImage,
    organs: Sequence[np.ndarray],
    lesions: Sequence[LinkedAnnotation],
    regions: Sequence[np.ndarray],
    scope: Sequence[str],
    mirror: tuple[int, float],
    seed: int,
) -> Iterator[tuple[str, Box]]:
    """One (class, box in pixels) for each class in scope that has a lesion here and a free site of its size.

    Args:
        organs: (H, W) bool each; their union is the body, else what the picture shows.
        regions: (H, W) bool of each lesion.
        mirror: image axis (0 = x) and pixel coordinate of the mirror line.
        seed: of the choice of lesion and site.
    """
    wanted = sorted({lesion.source.lesion_class for lesion in lesions} & set(scope))
    if not wanted:
        return
    tissue = np.logical_or.reduce(organs) if len(organs) else body(image.pixels)
    free = _Sites(image, regions)
    for lesion_class in wanted:
        draw = generator(seed, f"control {image.key} {lesion_class}")
        of_class = [i for i, lesion in enumerate(lesions) if lesion.source.lesion_class == lesion_class]
        chosen = of_class[int(draw.integers(len(of_class)))]
        host = max(organs, key=lambda mask: int(np.count_nonzero(mask & regions[chosen])), default=tissue)
        box_px = free.choose(lesions[chosen].source.box_px, host, tissue, mirror, draw)
        if box_px is not None:
            yield lesion_class, box_px


class _Sites:
    """Where a box of a given size meets no lesion, for all top-left corners at once by integral images."""

    def __init__(self, image: SourceImage, regions: Sequence[np.ndarray]) -> None:
        self._height, self._width = image.pixels.shape[:2]
        self._occupied = np.zeros((self._height, self._width), bool)
        margin = round(MARGIN * min(self._height, self._width))
        boxes = [annotation.box_px for annotation in image.annotations]
        for region in regions:
            rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
            boxes.append(Box(float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0))
        for x0, y0, x1, y1 in boxes:
            self._occupied[
                max(0, int(y0) - margin) : int(np.ceil(y1)) + margin, max(0, int(x0) - margin) : int(np.ceil(x1)) + margin
            ] = True

    def choose(
        self, lesion: Box, host: np.ndarray, tissue: np.ndarray, mirror: tuple[int, float], draw: np.random.Generator
    ) -> Box | None:
        """A free box of the lesion's size: mirrored, else in `host`, else in `tissue`; None = there is no room."""
        height, width = max(1, int(np.ceil(lesion.height))), max(1, int(np.ceil(lesion.width)))
        if height > self._height or width > self._width:
            return None
        empty = _shares(self._occupied, height, width) == 0
        axis, line = mirror
        x = int(np.floor(2 * line - lesion.x1)) if axis == 0 else int(lesion.x0)
        y = int(np.floor(2 * line - lesion.y1)) if axis == 1 else int(lesion.y0)
        on_tissue = empty & (_shares(tissue, height, width) >= self._least(tissue, lesion))
        if 0 <= y < empty.shape[0] and 0 <= x < empty.shape[1] and on_tissue[y, x]:
            return Box(float(x), float(y), x + lesion.width, y + lesion.height)
        for sites in (empty & (_shares(host, height, width) >= self._least(host, lesion)), on_tissue):
            corners = np.flatnonzero(sites)
            if len(corners):
                y, x = divmod(int(corners[draw.integers(len(corners))]), sites.shape[1])
                return Box(float(x), float(y), x + lesion.width, y + lesion.height)
        return None

    def _least(self, mask: np.ndarray, lesion: Box) -> float:
        """A control need not sit deeper in the body than the lesion: that would tell them apart."""
        own = mask[int(lesion.y0) : int(np.ceil(lesion.y1)), int(lesion.x0) : int(np.ceil(lesion.x1))]
        return min(INSIDE, max(0.25, float(own.mean())))


def _shares(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H - height + 1, W - width + 1) share of each `height` x `width` window that is set."""
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    counts = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return np.asarray(counts / (height * width))
