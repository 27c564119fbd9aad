"""The small pictures that an evaluation keeps for its page: pixels alone, nothing drawn on them. Knows nothing of HTML."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from eval.pages.cases import Case

PICTURES = "pictures"
LONGEST = 640
"""Long side of a kept picture in pixels."""
MOST_BYTES = 70_000
"""Of a kept picture: as text in a page a third more, so that 60 of them stay under 6 MB whatever they show."""


def save_pictures(cases: Sequence[Case], folder: Path, open_picture: Callable[[str], Image.Image]) -> list[Case]:
    """The same cases; those on a page get a small picture without anything drawn, in FOLDER/pictures.

    A file is named after what it holds: cases of one image share it, two evaluations of the same images agree on its name, and no
    id of a patient or a study is in it.

    Args:
        open_picture: case id -> the picture as stored.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    found = []
    for case in cases:
        name = None
        if case.chosen:
            data = small_jpeg(open_picture(case.id))
            name = f"{hashlib.blake2b(data, digest_size=10).hexdigest()}.jpg"
            (folder / PICTURES / name).write_bytes(data)
        found.append(replace(case, picture=name))
    return found


def small_jpeg(image: Image.Image) -> bytes:
    """JPEG of the pixels alone, never enlarged: EXIF, comments, text and colour profiles stay behind.

    Returns:
        at most `MOST_BYTES` bytes, by quality first and then by size; grey where all channels are equal.
    """
    pixels = np.asarray(image.convert("RGB"))
    grey = bool((pixels[..., :1] == pixels).all())
    bare = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if grey else pixels)  # made anew: no `info` to carry over
    bare.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    while True:
        for quality in (90, 80, 65, 50):
            stream = io.BytesIO()
            bare.save(stream, "JPEG", quality=quality, optimize=True)
            if stream.tell() <= MOST_BYTES:
                return stream.getvalue()
        bare = bare.resize((max(1, bare.width * 3 // 4), max(1, bare.height * 3 // 4)), Image.Resampling.LANCZOS)
