"""Pictures stored no larger than a model looks at them: read and judged as they came, shrunk once before they are written.

Everything that is said of a picture (organs, places, sizes) was found on its full pixels. A square picture is shrunk as
`ImageFrame.place` would shrink it, to the bit. Knows no files and no rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from medclm.corpus.contract import LinkedAnnotation, LinkedImage
from medclm.data.frame import shrink


def stored_size(size: tuple[int, int], longest_side: int | None) -> tuple[int, int]:
    """(width, height) in which a picture is stored: its own, or shrunk so that the longer one is `longest_side`; never enlarged."""
    if longest_side is None or max(size) <= longest_side:
        return size
    width, height = (max(1, round(side * longest_side / max(size))) for side in size)
    return width, height


def within(linked: LinkedImage, longest_side: int | None) -> LinkedImage:
    """The image as it is stored: pixels, boxes, masks and millimetres per pixel shrunk together; `original_size` says from what."""
    image = linked.image
    height, width = image.pixels.shape[:2]
    size = stored_size((width, height), longest_side)
    if size == (width, height):
        return linked
    scale_x, scale_y = size[0] / width, size[1] / height
    spacing = image.spacing_mm
    return replace(
        linked,
        image=replace(
            image,
            pixels=np.asarray(shrink(Image.fromarray(np.ascontiguousarray(image.pixels)), size)),
            original_size=image.original_size or (width, height),
            spacing_mm=None if spacing is None else (spacing[0] / scale_y, spacing[1] / scale_x),
        ),
        annotations=tuple(_annotation(one, size, scale_x, scale_y) for one in linked.annotations),
    )


def _annotation(linked: LinkedAnnotation, size: tuple[int, int], scale_x: float, scale_y: float) -> LinkedAnnotation:
    source = linked.source
    mask = None if source.mask is None else _mask(source.mask, size)
    return replace(linked, source=replace(source, box_px=source.box_px.scaled(scale_x, scale_y), mask=mask))


def _mask(mask_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels that are covered by half or more; of a mask that covers none so far, those that it covers most."""
    covered = np.asarray(Image.fromarray(mask_hw.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX))
    return np.asarray(covered >= min(128, max(1, covered.max())))
