"""Pictures as corpora store them, made up: smooth shapes under the noise of a detector, which is what decoders have to work for."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.timing import RESULTS
from medclm.corpus.pixels import encode_jpeg, encode_png

SIDE = 336
"""Of the model's square, in pixels."""


class Kind(NamedTuple):
    name: str
    width: int
    height: int
    format: str


KINDS = (
    Kind("512 x 512 PNG", 512, 512, "PNG"),
    Kind("1024 x 832 JPEG", 1024, 832, "JPEG"),
    Kind("2048 x 2500 JPEG", 2048, 2500, "JPEG"),
    Kind("2500 x 3000 PNG", 2500, 3000, "PNG"),
)


@functools.lru_cache
def grey(width: int, height: int) -> np.ndarray:
    """(H, W) uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 4, (height, width)).astype(np.float32)
    shapes = 120 + 60 * np.sin(9 * x / width) * np.cos(7 * y / height) + 30 * np.sin(90 * (x + y) / (width + height))
    return np.clip(shapes + noise, 0, 255).astype(np.uint8)


@functools.lru_cache
def encoded(kind: Kind) -> bytes:
    """As a build writes PNG, and an import keeps JPEG of quality 90."""
    pixels = grey(kind.width, kind.height)
    return encode_png(pixels) if kind.format == "PNG" else encode_jpeg(pixels, quality=90)


def arguments(description: str | None, name: str) -> argparse.Namespace:
    """--turns, --seconds, --out of a micro-benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="the median of which is taken")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each piece in a turn")
    parser.add_argument("--out", type=Path, default=RESULTS / "micro" / f"{name}.json")
    return parser.parse_args()
