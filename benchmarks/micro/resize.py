"""From a decoded picture to the model's square: `python benchmarks/micro/resize.py`. Grey levels against the plain bicubic filter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.micro.stored import KINDS, SIDE, arguments, grey
from benchmarks.timing import report, take_turns
from medclm.data.frame import ImageFrame


def padded(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    square = Image.new(picture.mode, (max(width, height),) * 2)
    square.paste(picture, ((max(width, height) - width) // 2, (max(width, height) - height) // 2))
    return square


def bicubic(picture: Image.Image, gap: float | None, _: int = 0) -> Image.Image:
    return padded(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=gap)


def area(picture: Image.Image, _: int = 0) -> Image.Image:
    return padded(picture).resize((SIDE, SIDE), Image.Resampling.BOX)


def whole_pixels(picture: Image.Image, _: int = 0) -> Image.Image:
    """Averaged over as many whole pixels as the side allows, the rest bicubic."""
    square = padded(picture)
    return square.reduce(max(1, square.width // SIDE)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def by_torch(picture: Image.Image, dtype: torch.dtype, _: int = 0) -> Image.Image:
    pixels = torch.from_numpy(np.array(padded(picture)))[None, None].to(dtype)
    out = torch.nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True)
    return Image.fromarray(out[0, 0].round().clamp(0, 255).to(torch.uint8).numpy())


def main() -> None:
    chosen = arguments(__doc__, "resize")
    torch.set_num_threads(1)
    rows = []
    for kind in KINDS:
        picture = Image.fromarray(grey(kind.width, kind.height))
        colour = picture.convert("RGB")
        ways: dict[str, Callable[[int], Image.Image]] = {
            "ImageFrame.place, grey": lambda _, one=picture: ImageFrame(*one.size, side=SIDE, fit="pad").place(one),
            "the same of RGB": lambda _, one=colour: ImageFrame(*one.size, side=SIDE, fit="pad").place(one),
            "bicubic": partial(bicubic, picture, None),
            "bicubic, reducing_gap 2": partial(bicubic, picture, 2.0),
            "whole pixels, then bicubic": partial(whole_pixels, picture),
            "box filter": partial(area, picture),
            "torch, uint8": partial(by_torch, picture, torch.uint8),
            "torch, float32": partial(by_torch, picture, torch.float32),
        }
        true = np.asarray(bicubic(picture, None), np.float32)
        times = take_turns(ways, turns=chosen.turns, seconds=chosen.seconds)
        for name, way in ways.items():
            off = np.abs(np.asarray(way(0).convert("L"), np.float32) - true)
            line = {"stored": kind.name, "way": name, "cpu ms": times[name].cpu_ms}
            rows.append(line | {"grey levels off, mean": float(off.mean()), "most": float(off.max())})
    report(f"resizing to {SIDE} px", rows, chosen.out)


if __name__ == "__main__":
    main()
