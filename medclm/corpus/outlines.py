"""Outlines of boxes on a whole stored picture, for people: the build report, the review and exports show the same.

What the model gets is drawn by data/draw.py on its own square; the rule of the line's width is the same. Knows no records.
"""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image, ImageDraw

from medclm.types import Box


def outlined(picture: Image.Image, boxes_unit: Iterable[Box], rgb: tuple[int, int, int]) -> Image.Image:
    """A copy of a picture with outlines whose outer edges are the boxes' edges."""
    drawn = picture.copy()
    for box in boxes_unit:
        left, top, right, bottom = box.scaled(*picture.size)
        corners = (round(left), round(top), max(round(left), round(right) - 1), max(round(top), round(bottom) - 1))
        width = max(1, min(round(3 * max(picture.size) / 336), round(min(right - left, bottom - top)) // 4))
        ImageDraw.Draw(drawn).rectangle(corners, outline=rgb, width=width)
    return drawn
