"""A picture a person can judge at a glance: true and predicted boxes on the image, question and answers below it.

Knows nothing of suites or models.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from medclm.types import Box

SMALLEST = 448
"""Shorter pictures are enlarged until their long side has this many pixels: a 64 px image cannot be read."""
LARGEST = 1024
TRUTH, MODEL = "#00c853", "#ff9100"
"""Green and orange: apart for most colour-blind eyes, and the model's line is dashed as well."""
_MARGIN = 10
_FONT_PX = 15


def overlay(
    image: Image.Image, *, truth_unit: Sequence[Box], predicted_unit: Sequence[Box], caption: Sequence[str]
) -> Image.Image:
    """An RGB picture of `image` with its boxes and, on white below, one paragraph per line of `caption` and a legend.

    Args:
        image: as stored, any size.
        truth_unit, predicted_unit: boxes in unit coordinates of `image`; solid green and dashed orange.
        caption: paragraphs, wrapped to the picture's width; cut after 600 characters each.
    """
    shown = _sized(image.convert("RGB"))
    draw = ImageDraw.Draw(shown)
    for box in truth_unit:
        draw.rectangle(_corners(box, shown.size), outline=TRUTH, width=3)
    for box in predicted_unit:
        _dashed(draw, _corners(box, shown.size), MODEL)
    font = ImageFont.load_default(size=_FONT_PX)
    width = max(shown.width, SMALLEST)  # a narrow picture still needs room for its words
    lines = [line for paragraph in caption for line in _wrapped(paragraph[:600], font, width - 2 * _MARGIN)]
    height = _FONT_PX + 5
    page = Image.new("RGB", (width, shown.height + 2 * _MARGIN + height * (len(lines) + 1)), "white")
    page.paste(shown, (0, 0))
    draw, top = ImageDraw.Draw(page), shown.height + _MARGIN
    legend = [(TRUTH, f"truth ({len(truth_unit)})")] if truth_unit else []
    left = _MARGIN
    for colour, words in [*legend, (MODEL, f"model ({len(predicted_unit)})")]:
        draw.rectangle((left, top + 4, left + 14, top + 14), outline=colour, width=3)
        draw.text((left + 20, top), words, fill="black", font=font)
        left += 34 + int(font.getlength(words)) + 10
    for number, line in enumerate(lines, start=1):
        draw.text((_MARGIN, top + number * height), line, fill="black", font=font)
    return page


def _sized(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    wanted = min(max(longest, SMALLEST), LARGEST)
    if wanted == longest:
        return image.copy()
    size = (max(1, round(image.width * wanted / longest)), max(1, round(image.height * wanted / longest)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _corners(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.scaled(size[0] - 1, size[1] - 1)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _dashed(draw: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], colour: str) -> None:
    x0, y0, x1, y1 = corners
    for start in range(int(x0), int(x1) + 1, 12):
        for y in (y0, y1):
            draw.line((start, y, min(start + 7, x1), y), fill=colour, width=3)
    for start in range(int(y0), int(y1) + 1, 12):
        for x in (x0, x1):
            draw.line((x, start, x, min(start + 7, y1)), fill=colour, width=3)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]
