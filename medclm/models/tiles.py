"""How one square picture becomes the views that a vision tower of fixed size looks at: the whole alone, or also its quarters.

    "1"     the square of S px, as it is
    "1+4"   a square of 2S px: an overview at half the resolution, then its four quarters in reading order, S px each

A quarter shows everything twice as large as the overview does, so a lesion under one patch of the overview covers up to four
patches of its quarter. The quarters do not overlap: every pixel is paid for twice (once small, once whole) and not more. A lesion
that a seam cuts is whole in the overview, at the resolution that it would have without tiles, and its parts are still at twice that
in the quarters it touches. Knows nothing of prompts, tensors or networks.
"""

from __future__ import annotations

from PIL import Image

from medclm.config import Tiles

WHOLE: Tiles = "1"
COUNTS: dict[Tiles, int] = {WHOLE: 1, "1+4": 5}
"""Layout -> V, number of views."""
SCALES: dict[Tiles, int] = {WHOLE: 1, "1+4": 2}
"""Layout -> side of the square over side of a view."""


def views_of(square: Image.Image, tiles: Tiles) -> list[Image.Image]:
    """The V views of a square picture whose side is `SCALES[tiles]` times that of a view; the overview comes first.

    The overview is low-pass filtered (bicubic, as data/frame.py shrinks); the quarters are the square's own pixels.
    """
    if tiles == WHOLE:
        return [square]
    side = square.width // SCALES[tiles]
    corners = [(left, top) for top in range(0, square.height, side) for left in range(0, square.width, side)]
    overview = square.resize((side, side), Image.Resampling.BICUBIC)
    return [overview, *(square.crop((left, top, left + side, top + side)) for left, top in corners)]
