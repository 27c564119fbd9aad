"""How a peer writes boxes into text, and back: one small transform each way for every format with coordinates in its texts.

A stored text names the k-th box as `<box:k>`; peers want numbers, each in a frame of its own. The arithmetic of padding and
rounding is data/frame.py's, so a box is written for a peer exactly as it is written for our own training. Knows nothing of
records, files or stages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medclm.config import BoxTextSection
from medclm.corpus.sources.detection import RefusedAnnotation, judge_box
from medclm.data.frame import ImageFrame
from medclm.types import Box

Size = tuple[int, int]
"""(width, height) in pixels."""

_PLACEHOLDER = re.compile(r"<box:(\d+)>")
_NUMBER = r"-?(?:\d*\.\d+|\d+\.?)(?:[eE][-+]?\d+)?"
_LITERAL = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
_SAME = 0.6
"""Two boxes are one when no number differs by more than this many steps of the coarser one's last digit."""
_BEYOND = 1.01
"""A number larger than this many frames is in another unit."""


def _as_stored(size: Size) -> Size:
    return size


@dataclass(frozen=True)
class BoxText:
    """The box rule of one peer."""

    name: str
    """How --box-text and exported entries call it."""
    section: BoxTextSection
    """Frame `padded` (the picture centred in a square) or `original`, scale and digits."""
    seen: Callable[[Size], Size] = _as_stored
    """Stored size -> size of the picture whose pixels are counted; matters for scale px alone."""

    def with_digits(self, digits: int | None) -> BoxText:
        """The same rule with other decimals; None = its own."""
        return self if digits is None else replace(self, section=self.section.model_copy(update={"digits": digits}))

    def write(self, box_unit: Box, size: Size) -> str:
        """`[x0, y0, x1, y1]` of a unit box of a stored picture. A side too short for the digits is written one step long."""
        frame = ImageFrame(*self.seen(size), side=1, fit="pad")
        return frame.write(_at_least(box_unit, self.step(size, self.section.digits)), self.section)

    def read(self, numbers: Sequence[float], size: Size) -> Box:
        """The unit box of the stored picture that four written numbers mean; as they say, not clipped."""
        largest = self._largest(size)
        box = Box(*numbers).scaled(1 / largest[0], 1 / largest[1])
        return ImageFrame(*size, side=1, fit="pad").from_square_px(box) if self.section.frame == "padded" else box

    def judged(self, numbers: Sequence[float], size: Size) -> Box:
        """`read`, clipped to the picture.

        Raises:
            RefusedAnnotation: box_not_unit (another unit or frame), or a reason of `judge_box`.
        """
        across, down = self._largest(size)
        if max(numbers[0], numbers[2]) > _BEYOND * across or max(numbers[1], numbers[3]) > _BEYOND * down:
            raise RefusedAnnotation(
                "box_not_unit", f"{list(numbers)}: coordinates here go from 0 to {across:g} across and to {down:g} down"
            )
        return judge_box(self.read(numbers, size), (1, 1))

    def step(self, size: Size, digits: int) -> tuple[float, float]:
        """What one unit of the last written digit is, across and down, as shares of the stored picture."""
        across, down = self._largest(size)
        if self.section.frame == "padded":
            across, down = across * size[0] / max(size), down * size[1] / max(size)
        return 10.0**-digits / across, 10.0**-digits / down

    def _largest(self, size: Size) -> tuple[float, float]:
        """The numbers of the frame's right and lower border."""
        if self.section.scale != "px":
            return float(self.section.scale), float(self.section.scale)
        width, height = self.seen(size)
        return float(width), float(height)


def fill(text: str, boxes_unit: Sequence[Box | None], written: Callable[[Box], str]) -> str:
    """A stored text with every `<box:k>` replaced by what `written` makes of the k-th box.

    Raises:
        ValueError: `k` has no box.
    """

    def one(match: re.Match[str]) -> str:
        k = int(match[1])
        box = boxes_unit[k] if k < len(boxes_unit) else None
        if box is None:
            raise ValueError(f"a text names {match[0]}, the record has {len(boxes_unit)} annotation(s) there: build it again")
        return written(box)

    return _PLACEHOLDER.sub(one, text)


def in_order(text: str) -> list[int]:
    """Numbers of the boxes that a stored text names, as they appear."""
    return [int(k) for k in _PLACEHOLDER.findall(text)]


def states_box(text: str) -> bool:
    """Whether a text holds coordinates."""
    return _LITERAL.search(text) is not None


def place(text: str, boxes_unit: list[Box], rule: BoxText, size: Size) -> str:
    """A text with coordinates as `<box:k>`; boxes that are not known yet are judged and appended to `boxes_unit`.

    Raises:
        RefusedAnnotation: see `BoxText.judged`.
    """

    def one(match: re.Match[str]) -> str:
        numbers = [float(number) for number in match.groups()]
        box = rule.read(numbers, size)
        across, down = rule.step(size, _digits(match))
        for k, known in enumerate(boxes_unit):
            near = zip(box, known, (across, down, across, down), strict=True)
            if all(abs(stated - other) <= _SAME * step for stated, other, step in near):
                return f"<box:{k}>"
        boxes_unit.append(rule.judged(numbers, size))
        return f"<box:{len(boxes_unit) - 1}>"

    return _LITERAL.sub(one, text)


def _digits(match: re.Match[str]) -> int:
    """Decimals of the coarsest of the numbers that have any; a number without may be a whole one of more."""
    return min((len(number.partition(".")[2]) for number in match.groups() if "." in number), default=0)


def _at_least(box: Box, step: tuple[float, float]) -> Box:
    """The box with both sides a little over one step, so that rounding leaves it an area; within the picture."""
    x0, x1 = _stretched(box.x0, box.x1, step[0])
    y0, y1 = _stretched(box.y0, box.y1, step[1])
    return Box(x0, y0, x1, y1)


def _stretched(low: float, high: float, step: float) -> tuple[float, float]:
    wanted = 1.001 * step
    if high - low >= wanted:
        return low, high
    low = min(max((low + high - wanted) / 2, 0.0), max(1.0 - wanted, 0.0))
    return low, low + wanted


def smart_resize(size: Size) -> Size:
    """The size at which Qwen2-VL and Qwen2.5-VL see a picture in LLaMA-Factory with its default settings.

    LLaMA-Factory (src/llamafactory/data/mm_plugin.py) first brings the picture to 32 * 32 ... 768 * 768 pixels and no side
    below 28; the models' processor (transformers, image_processing_qwen2_vl.py) then rounds each side to a multiple of 28 and
    keeps at least 56 * 56 pixels; its upper limit is not reached after the first step. Pictures over 200 times as long as
    wide are not modelled.
    """
    width, height = size
    for pixels, outside in ((768 * 768, width * height > 768 * 768), (32 * 32, width * height < 32 * 32)):
        if outside:
            factor = math.sqrt(pixels / (width * height))
            width, height = int(width * factor), int(height * factor)
    width, height = max(width, 28), max(height, 28)
    across, down = round(width / 28) * 28, round(height / 28) * 28
    if across * down < 56 * 56:
        factor = math.sqrt(56 * 56 / (width * height))
        across, down = math.ceil(width * factor / 28) * 28, math.ceil(height * factor / 28) * 28
    return across, down


UNIT = BoxText("unit", BoxTextSection(frame="original", scale="1", digits=4))
"""Shares of the stored picture: the published JSON."""
PIXELS = BoxText("pixels", BoxTextSection(frame="original", scale="px", digits=2))
"""Pixels of the stored picture."""
PADDED = BoxText("padded", BoxTextSection(frame="padded", scale="1", digits=3))
"""Shares of the picture padded to a square, centred: LLaVA-1.5 (its own data has 2 digits; github.com/haotian-liu/LLaVA
issues 606 and 623: boxes are of the picture after expand2square) and what our own training writes."""
THOUSANDTHS = BoxText("thousandths", BoxTextSection(frame="original", scale="1000", digits=0))
"""0 to 1000 over the stored picture: Qwen2-VL, Qwen3-VL, InternVL (ms-swift, Custom-dataset.md)."""
QWEN_2_5 = BoxText("qwen2.5-vl", BoxTextSection(frame="original", scale="px", digits=0), smart_resize)
"""Whole pixels of the picture as the model sees it (github.com/QwenLM/Qwen3-VL issue 721: resize first, then absolute
coordinates). LLaMA-Factory resizes the picture and leaves the text as it is, so the text is written for that size."""
RULES = {rule.name: rule for rule in (UNIT, PIXELS, PADDED, THOUSANDTHS, QWEN_2_5)}
