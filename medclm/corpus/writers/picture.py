"""The picture that a language model may look at: the stored pixels, made smaller where they are large, box drawn for Easy.

Only pixels: re-encoded, so that no metadata of a file can travel. Knows drafts; nothing of servers.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from medclm.corpus.contract import Draft, LinkedImage
from medclm.corpus.pixels import encode_png

LONGEST = 1024
"""Pixels; most models see no more."""
_RED = (255, 0, 0)


def picture_of(draft: Draft, linked: LinkedImage) -> bytes:
    """PNG of at most `LONGEST` px a side; the target is outlined in red if the draft offers Easy."""
    pixels = linked.image.pixels
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(pixels).convert("RGB")
    picture = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
    if draft.easy is not None and draft.annotations:
        box = linked.annotations[draft.annotations[0]].source.box_px.scaled(size[0] / width, size[1] / height)
        left, top = (min(int(edge), most - 1) for edge, most in zip((box.x0, box.y0), size, strict=True))
        right, bottom = (
            max(low, min(round(edge), most) - 1) for edge, most, low in zip((box.x1, box.y1), size, (left, top), strict=True)
        )
        ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=_RED, width=max(1, max(size) // 250))
    return encode_png(np.asarray(picture))
