"""How a stored image becomes the model's square, and how boxes go there, into text, and back.

One `ImageFrame` serves the drawn box, the written box and the inverse, so the three cannot disagree. Unit boxes are
fractions of the stored image; square pixels are pixels of the model's S x S picture. Nothing is ever cropped or flipped.
Knows nothing of records, questions or models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from medclm.config import BoxTextSection
from medclm.types import Box

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+))"
_QUADRUPLE = re.compile(r"\[\s*" + r"\s*,\s*".join([_NUMBER] * 4) + r"\s*\]")


@dataclass(frozen=True)
class ImageFrame:
    """The way of one stored image into the square."""

    width: int
    """Of the stored image, in pixels."""
    height: int
    """Of the stored image, in pixels."""
    side: int
    """S, side of the model's square in pixels."""
    fit: Literal["pad", "stretch"]
    """pad: centred on a black square, then resized; stretch: both sides resized to S."""

    def place(self, image: Image.Image) -> Image.Image:
        """The (S, S) picture of an RGB or grey image of `width` x `height` pixels, in its mode; low-pass filtered when it shrinks.

        Raises:
            ValueError: the picture has another size than the frame was made for.
        """
        if image.size != (self.width, self.height):
            raise ValueError(f"image is {image.size[0]} x {image.size[1]} pixels, its row says {self.width} x {self.height}")
        if self.fit == "pad":
            image = self.pad(image)
        if image.size == (self.side, self.side):
            return image
        # Large scans are first averaged over whole pixels, down to three times the side: half the time, half a grey level off.
        return image.resize((self.side, self.side), Image.Resampling.BICUBIC, reducing_gap=3.0)

    def pad(self, image: Image.Image) -> Image.Image:
        """The image of `width` x `height` pixels centred on a black square."""
        if self.width == self.height:
            return image
        left, top, longest = self._padding()
        square = Image.new(image.mode, (longest, longest))
        square.paste(image, (left, top))
        return square

    def to_square_px(self, box_unit: Box) -> Box:
        """A unit box of the stored image in pixels of the square."""
        scale_x, scale_y, left, top = self._affine()
        return Box(
            box_unit.x0 * scale_x + left, box_unit.y0 * scale_y + top, box_unit.x1 * scale_x + left, box_unit.y1 * scale_y + top
        )

    def from_square_px(self, box_px: Box) -> Box:
        """The inverse of `to_square_px`; beyond 0..1 where the box reaches into the padding."""
        scale_x, scale_y, left, top = self._affine()
        return Box(
            (box_px.x0 - left) / scale_x, (box_px.y0 - top) / scale_y, (box_px.x1 - left) / scale_x, (box_px.y1 - top) / scale_y
        )

    def write(self, box_unit: Box, section: BoxTextSection) -> str:
        """A box as the model reads and writes it, such as `[0.123, 0.456, 0.789, 0.900]`, clipped to the section's frame."""
        largest_x, largest_y = self._largest(section)
        if section.frame == "padded":
            box_unit = self.to_square_px(box_unit).scaled(1 / self.side, 1 / self.side)
        numbers = box_unit.scaled(largest_x, largest_y)
        largest = (largest_x, largest_y, largest_x, largest_y)
        return "[" + ", ".join(f"{_clip(n, most):.{section.digits}f}" for n, most in zip(numbers, largest, strict=True)) + "]"

    def parse(self, numbers: Sequence[float], section: BoxTextSection) -> Box | None:
        """The unit box of the stored image that four written numbers mean, clipped to the image; None if they mean none.

        None: not four finite numbers, corners out of order, no area within the image, or a number more than half a frame
        outside, which is another unit or a list of something else and would clip to a box nobody wrote.
        """
        if len(numbers) != 4 or not all(math.isfinite(n) for n in numbers):
            return None
        largest_x, largest_y = self._largest(section)
        box = Box(*numbers).scaled(1 / largest_x, 1 / largest_y)
        if box.x0 >= box.x1 or box.y0 >= box.y1 or min(box) < -0.5 or max(box) > 1.5:
            return None
        if section.frame == "padded":
            box = self.from_square_px(box.scaled(self.side, self.side))
        clipped = Box(*(_clip(n, 1.0) for n in box))
        return clipped if clipped.area > 0 else None

    def find_boxes(self, text: str, section: BoxTextSection) -> list[Box]:
        """Every bracketed quadruple of a text that is a box, in order of appearance, as unit boxes of the stored image."""
        return [box for box, _ in self.find_written(text, section)]

    def find_written(self, text: str, section: BoxTextSection) -> list[tuple[Box, slice]]:
        """`find_boxes`, each with the characters of the text that write it."""
        found = []
        for match in _QUADRUPLE.finditer(text):
            box = self.parse([float(n) for n in match.groups()], section)
            if box is not None:
                found.append((box, slice(*match.span())))
        return found

    def _padding(self) -> tuple[int, int, int]:
        """Columns left of and rows above the image in its padded square, and that square's side; in stored pixels."""
        longest = max(self.width, self.height)
        return (longest - self.width) // 2, (longest - self.height) // 2, longest

    def _affine(self) -> tuple[float, float, float, float]:
        """Square pixels per unit in x and y, and where the image's corner lies in the square."""
        if self.fit == "stretch":
            return self.side, self.side, 0.0, 0.0
        left, top, longest = self._padding()
        scale = self.side / longest
        return self.width * scale, self.height * scale, left * scale, top * scale

    def _largest(self, section: BoxTextSection) -> tuple[float, float]:
        """The written numbers of the frame's right and lower border."""
        if section.scale != "px":
            return float(section.scale), float(section.scale)
        if section.frame == "padded":
            return self.side, self.side
        if section.frame == "original":
            return self.width, self.height
        scale_x, scale_y, _, _ = self._affine()
        return scale_x, scale_y


def _clip(number: float, largest: float) -> float:
    return min(max(0.0, number), largest)
