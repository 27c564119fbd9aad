"""Pictures stored no larger than a model looks at them: read and judged as they came, shrunk once before they are written.

Everything that is said of a picture (organs, places, sizes) was found on its full pixels. What is stored is the part of the model's
padded square (`ImageFrame.place`) that shows the picture, in whole pixels: placed again in a square of that side it is the same
square, to the bit, with the boxes at the same places. Knows no files and no rows.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from medclm.corpus.contract import LinkedAnnotation, LinkedImage
from medclm.data.frame import ImageFrame
from medclm.types import Box

_BLUR = 0.5
"""Pixels beyond a border that the filter makes more than black, less half a pixel to the centre."""


def within(linked: LinkedImage, longest_side: int | None) -> LinkedImage:
    """The image as it is stored: its own, or pixels, boxes, masks and millimetres per pixel shrunk together, never enlarged.

    At a border towards the padding, up to two pixels of it that the filter has blurred are stored too; boxes are fractions of what
    is stored. `original_size` says from what it was shrunk.
    """
    image = linked.image
    height, width = image.pixels.shape[:2]
    if longest_side is None or max(width, height) <= longest_side:
        return linked
    frame = ImageFrame(width, height, side=longest_side, fit="pad")
    shown = shown_part(frame)
    scale = max(width, height) / longest_side
    spacing = image.spacing_mm
    return replace(
        linked,
        image=replace(
            image,
            pixels=np.asarray(frame.place(Image.fromarray(np.ascontiguousarray(image.pixels))).crop(shown)),
            original_size=image.original_size or (width, height),
            spacing_mm=None if spacing is None else (spacing[0] * scale, spacing[1] * scale),
        ),
        annotations=tuple(_annotation(one, frame, shown) for one in linked.annotations),
    )


def shown_part(frame: ImageFrame) -> tuple[int, int, int, int]:
    """Whole pixels (left, upper, right, lower) of the padded square that show the image, as far from each border as from its opposite.

    The bicubic filter lets a little of the image into pixels whose centre lies less than one pixel beyond its border.
    """
    corner = frame.to_square_px(Box(0, 0, 1, 1))
    left, upper = (max(0, math.floor(edge - _BLUR)) for edge in (corner.x0, corner.y0))
    return left, upper, frame.side - left, frame.side - upper


def _annotation(linked: LinkedAnnotation, frame: ImageFrame, shown: tuple[int, int, int, int]) -> LinkedAnnotation:
    source = linked.source
    box = frame.to_square_px(source.box_px.scaled(1 / frame.width, 1 / frame.height))
    box = Box(box.x0 - shown[0], box.y0 - shown[1], box.x1 - shown[0], box.y1 - shown[1])
    mask = None if source.mask is None else _mask(source.mask, frame, shown)
    return replace(linked, source=replace(source, box_px=box, mask=mask))


def _mask(mask_hw: np.ndarray, frame: ImageFrame, shown: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels that are covered by half or more; of a mask that covers none so far, those that it covers most."""
    square = frame.pad(Image.fromarray(mask_hw.astype(np.uint8) * 255))
    covered = np.asarray(square.resize((frame.side, frame.side), Image.Resampling.BOX).crop(shown))
    return np.asarray(covered >= min(128, max(1, covered.max())))
