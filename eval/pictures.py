"""Where the pictures of questions lie, and what can be done to one before it is shown. Knows nothing of questions or models."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw, ImageFilter, ImageOps, ImageStat

from eval.example import PictureKey, Square, View
from medclm.corpus.contract import RejectedImage
from medclm.corpus.pixels import read_picture
from medclm.corpus.sources.files import Folder
from medclm.data.draw import COLOURS, Style, draw_prompt
from medclm.data.manifest import sha256_file
from medclm.data.schema import MANIFEST
from medclm.data.shards import Corpus
from medclm.types import Box

GREY = (128, 128, 128)


class Pictures(Protocol):
    """RGB pictures by key; thread-safe."""

    def open(self, key: PictureKey) -> Image.Image:
        """The picture, upright.

        Raises:
            ValueError: there is none, or it cannot be shown; names it and the cure.
        """
        ...

    def size(self, key: PictureKey) -> tuple[int, int]:
        """(width, height) in pixels, without decoding it where the store knows."""
        ...

    def identity(self) -> str:
        """Changes when the pictures or what is known of them change."""
        ...


class CorpusPictures:
    """The pictures of our shards, by image row."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def open(self, key: PictureKey) -> Image.Image:
        return self._corpus.picture(int(key))

    def size(self, key: PictureKey) -> tuple[int, int]:
        row = self._corpus.row("images", int(key), ["width", "height"])
        return int(row["width"]), int(row["height"])

    def identity(self) -> str:
        return sha256_file(self._corpus.folder / MANIFEST)


class FolderPictures:
    """Picture files below a folder, by relative path.

    Args:
        root: nothing outside it is ever opened, whatever a key says.
        window: (centre, width) for grey pictures of 16 bits; None refuses them.
        noted: what belongs to the identity beside the names: the annotation files.
    """

    def __init__(self, root: Path, *, window: tuple[float, float] | None = None, noted: Sequence[Path] = ()) -> None:
        self._folder, self._window, self._noted = Folder(root), window, tuple(noted)
        self._size = functools.lru_cache(maxsize=None)(self._read_size)

    def open(self, key: PictureKey) -> Image.Image:
        try:
            path = self._folder.find(str(key))
            return Image.fromarray(read_picture(path, sixteen_bit=self._window).pixels).convert("RGB")
        except RejectedImage as error:
            cure = ": give --window CENTRE WIDTH" if error.reason == "image_16_bit" else ""
            raise ValueError(f"picture {key}: {error.reason}: {error.detail}{cure}") from error

    def size(self, key: PictureKey) -> tuple[int, int]:
        return self._size(key)

    def _read_size(self, key: PictureKey) -> tuple[int, int]:
        return self.open(key).size

    def identity(self) -> str:
        digest = hashlib.sha256()
        for path in self._noted:
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
        return digest.hexdigest()


class GivenPictures:
    """Pictures in memory, by name: for what is asked once and kept nowhere."""

    def __init__(self, pictures: Mapping[str, Image.Image]) -> None:
        self._pictures = pictures

    def open(self, key: PictureKey) -> Image.Image:
        return self._pictures[str(key)].convert("RGB")

    def size(self, key: PictureKey) -> tuple[int, int]:
        return self._pictures[str(key)].size

    def identity(self) -> str:
        return ""


def shown(view: View, key: PictureKey, pictures: Pictures, square: Square) -> Image.Image:
    """The model's (S, S) RGB picture of an example under a view."""
    image = pictures.open(view.key(key))
    if view.kind == "blank":
        image = Image.new("RGB", image.size, GREY)
    elif view.kind == "mirrored":
        image = ImageOps.mirror(image)
    elif view.kind == "occluded":
        image = occluded(image, view.boxes_unit)
    frame = square.frame(image.size)
    placed = frame.place(image)
    if view.kind == "boxed":
        style = Style(colour_name=view.colour, rgb=dict(COLOURS)[view.colour], alpha=255, line=3.0)
        for box in view.boxes_unit:
            placed = draw_prompt(placed, frame.to_square_px(box), style)
    return placed


def occluded(image: Image.Image, boxes_unit: Sequence[Box]) -> Image.Image:
    """A copy in which each box, a tenth wider on every side, is painted with the mean colour of a ring around it, soft at the rim.

    A hard patch of one colour would itself be something to see; the ring is as wide as half the box.
    """
    covered = image.copy()
    for box in boxes_unit:
        x0, y0, x1, y1 = box.scaled(*image.size)
        wide, high = x1 - x0, y1 - y0
        inner = _grown(x0, y0, x1, y1, 0.1 * wide, 0.1 * high, image.size)
        outer = _grown(x0, y0, x1, y1, 0.6 * wide, 0.6 * high, image.size)
        ring = Image.new("L", image.size)
        draw = ImageDraw.Draw(ring)
        draw.rectangle(outer, fill=255)
        draw.rectangle(inner, fill=0)
        inside = Image.new("L", image.size)
        ImageDraw.Draw(inside).rectangle(inner, fill=255)
        colour = ImageStat.Stat(image, ring if ring.getbbox() else None).mean
        soft = inside.filter(ImageFilter.GaussianBlur(max(0.5, 0.05 * min(wide, high))))
        covered.paste(tuple(round(value) for value in colour), (0, 0), mask=soft)
    return covered


def _grown(
    x0: float, y0: float, x1: float, y1: float, by_x: float, by_y: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    left, top = max(0, round(x0 - by_x)), max(0, round(y0 - by_y))
    right, bottom = min(size[0] - 1, round(x1 + by_x)), min(size[1] - 1, round(y1 + by_y))
    return left, top, max(left, right), max(top, bottom)
