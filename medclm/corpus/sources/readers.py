"""Several readers of one picture: which of their boxes mean one lesion, and how many of them saw it.

Pure; knows boxes and numbers of readers, no classes and no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medclm.types import Box

MIN_IOU = 0.5
"""Boxes of two readers with at least this intersection over union mean one lesion."""


@dataclass(frozen=True)
class Marked:
    """One box of one reader, or several of different readers made one."""

    box_px: Box
    readers: frozenset[str]
    members: tuple[int, ...]
    """Places in the input, ascending."""


def fuse(boxes: Sequence[tuple[str, Box]]) -> list[Marked]:
    """The boxes of one class as lesions: again and again the two groups of different readers that overlap most become one, while
    their mean boxes reach `MIN_IOU`. Two boxes of one reader are two lesions, whatever they overlap.

    Args:
        boxes: (reader, box) in any order; the result depends on the order only where overlaps are equal.

    Returns:
        lesions in order of their first member; the box is the mean of its members' corners.
    """
    groups = [[place] for place in range(len(boxes))]
    while True:
        best, pair = 0.0, None
        for i in range(len(groups)):
            for k in range(i + 1, len(groups)):
                if _readers(boxes, groups[i]) & _readers(boxes, groups[k]):
                    continue
                overlap = iou(_mean(boxes, groups[i]), _mean(boxes, groups[k]))
                if overlap >= MIN_IOU and overlap > best:
                    best, pair = overlap, (i, k)
        if pair is None:
            break
        groups[pair[0]] = sorted(groups[pair[0]] + groups.pop(pair[1]))
    return [Marked(_mean(boxes, group), _readers(boxes, group), tuple(group)) for group in sorted(groups)]


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes of positive area, 0..1."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (one.area + other.area - width * height)


def _readers(boxes: Sequence[tuple[str, Box]], group: Sequence[int]) -> frozenset[str]:
    return frozenset(boxes[place][0] for place in group)


def _mean(boxes: Sequence[tuple[str, Box]], group: Sequence[int]) -> Box:
    corners = zip(*(boxes[place][1] for place in group), strict=True)
    x0, y0, x1, y1 = (sum(numbers) / len(group) for numbers in corners)
    return Box(x0, y0, x1, y1)
