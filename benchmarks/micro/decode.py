"""Decoders of stored pictures: `python benchmarks/micro/decode.py`.

Grey levels are those of the model's square, against the same made of the fully decoded picture: a JPEG may be decoded to an
eighth, a quarter or half of its size for less, by averaging in the frequency domain, which changes pixels.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.micro.stored import KINDS, SIDE, arguments, encoded
from benchmarks.timing import report, take_turns
from medclm.data.frame import ImageFrame


def by_pillow(data: bytes, mode: str, draft: int | None, _: int = 0) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        if draft:
            picture.draft(mode, (draft, draft))
        return picture.convert(mode)


def by_simplejpeg(data: bytes, _: int = 0) -> Image.Image:
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0])


def square(picture: Image.Image) -> np.ndarray:
    frame = ImageFrame(*picture.size, side=SIDE, fit="pad")
    return np.asarray(frame.place(picture).convert("L"), np.float32)


def main() -> None:
    chosen = arguments(__doc__, "decode")
    rows = []
    for kind in KINDS:
        data = encoded(kind)
        decoders: dict[str, Callable[[int], Image.Image]] = {
            "PIL, grey kept": partial(by_pillow, data, "L", None),
            "PIL, to RGB": partial(by_pillow, data, "RGB", None),
        }
        if kind.format == "JPEG":
            decoders["PIL, draft of 3 x the side"] = partial(by_pillow, data, "L", 3 * SIDE)
            decoders["PIL, draft of the side"] = partial(by_pillow, data, "L", SIDE)
            try:
                import simplejpeg  # noqa: F401

                decoders["simplejpeg"] = partial(by_simplejpeg, data)
            except ImportError:
                print("simplejpeg: not run: not installed (benchmarks/requirements.txt)")
        true = square(decoders["PIL, grey kept"](0))
        times = take_turns(decoders, turns=chosen.turns, seconds=chosen.seconds)
        for name, decode in decoders.items():
            off = np.abs(square(decode(0)) - true)
            rows.append(
                {
                    "stored": kind.name,
                    "KB": len(data) / 1024,
                    "decoder": name,
                    "cpu ms": times[name].cpu_ms,
                    "grey levels off, mean": float(off.mean()),
                    "most": float(off.max()),
                }
            )
    report("decoding", rows, chosen.out)


if __name__ == "__main__":
    main()
