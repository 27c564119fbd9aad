"""The visual prompt: a coloured rectangle on the model's square that says "this region".

Style and size follow ViP-LLaVA's habit (arXiv 2312.00784): one of several named colours, half-transparent to opaque. The
colour's name also fills `{color}` in the stored question. Knows nothing of records or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from medclm.draws import generator
from medclm.types import Box

COLOURS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (255, 0, 0)),
    ("green", (0, 255, 0)),
    ("blue", (0, 0, 255)),
    ("yellow", (255, 255, 0)),
    ("orange", (255, 128, 0)),
    ("purple", (144, 0, 255)),
    ("cyan", (0, 255, 255)),
    ("magenta", (255, 0, 255)),
)


@dataclass(frozen=True)
class Style:
    colour_name: str
    rgb: tuple[int, int, int]
    alpha: int
    """1..255: opacity of the line."""
    line: float
    """Its width in pixels per 336 pixels of the square's side."""


def style_for(seed: int, position: int, *, line: float = 3.0, opacity: int = 96) -> Style:
    """The style of the sample at a global position: colour and opacity, from `opacity` to 255, are drawn."""
    draw = generator(seed, "visual_prompt", position)
    name, rgb = COLOURS[draw.integers(len(COLOURS))]
    return Style(colour_name=name, rgb=rgb, alpha=int(draw.integers(opacity, 256)), line=line)


def draw_prompt(image: Image.Image, box_px: Box, style: Style) -> Image.Image:
    """A copy of a square RGB picture with the box's outline on it.

    The line's outer edge is the box's edge. It is at least one pixel wide and otherwise never more than a quarter of the box's
    short side, so that a small lesion is not painted over.
    """
    side = image.width
    left, top = (min(max(round(edge), 0), side - 1) for edge in (box_px.x0, box_px.y0))
    right, bottom = max(left, min(round(box_px.x1), side) - 1), max(top, min(round(box_px.y1), side) - 1)
    width = max(1, min(round(style.line * side / 336), (min(right - left, bottom - top) + 1) // 4))
    line = Image.new("L", (right - left + 1, bottom - top + 1))  # opacity, of the box alone: pasting costs by area
    ImageDraw.Draw(line).rectangle((0, 0, right - left, bottom - top), outline=style.alpha, width=width)
    drawn = image.copy()
    drawn.paste(style.rgb, (left, top, right + 1, bottom + 1), mask=line)
    return drawn
