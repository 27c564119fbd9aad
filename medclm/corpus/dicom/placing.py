"""Which pictures of a folder a mask belongs to: by the reference it makes, else by its place in the patient.

Knows uids and planes; nothing of files, masks or classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medclm.corpus.dicom.geometry import Plane
from medclm.corpus.dicom.segmentation import Reference

_FLAT = 0.5
"""Greatest distance in mm between points of a contour along the normal of the picture it was drawn on."""


@dataclass(frozen=True)
class Placed:
    """One picture."""

    uid: str
    frame: int
    frames: int
    series: str | None
    frame_of_reference: str | None
    plane: Plane | None


@dataclass(frozen=True)
class _Stack:
    """Parallel pictures of one series."""

    normal: np.ndarray
    heights: np.ndarray
    """(N,) mm along the normal."""
    halves: np.ndarray
    """(N,) half the thickness of each, mm."""
    pictures: np.ndarray
    """(N,) their numbers."""


class Placing:
    """The pictures of a folder, found by reference or place."""

    def __init__(self, pictures: Sequence[Placed]) -> None:
        self._by_uid: dict[str, dict[int, int]] = {}
        stacks: dict[tuple[str, str | None, tuple[float, ...]], list[int]] = {}
        for number, one in enumerate(pictures):
            self._by_uid.setdefault(one.uid, {})[one.frame] = number
            if one.plane is not None and one.frame_of_reference is not None:
                turned = tuple(float(part) for part in np.round(one.plane.normal, 2) + 0.0)
                stacks.setdefault((one.frame_of_reference, one.series, turned), []).append(number)
        self._stacks: dict[str, list[_Stack]] = {}
        for (place, _, _), numbers in stacks.items():
            planes = [plane for number in numbers if (plane := pictures[number].plane) is not None]
            normal = planes[0].normal
            heights = np.array([float(normal @ np.asarray(plane.origin)) for plane in planes])
            halves = np.array([plane.half for plane in planes])
            self._stacks.setdefault(place, []).append(_Stack(normal, heights, halves, np.array(numbers)))

    def find(self, references: Iterable[Reference], points: np.ndarray | None, frame_of_reference: str | None) -> list[int]:
        """Numbers of the pictures that a mask belongs to; empty where none is here.

        Args:
            references: what it refers to. One reference decides; several, or one to a file of several frames without saying
                which, leave it to the place, if there is one.
            points: (N, 3) LPS points of its plane, or None.
            frame_of_reference: that the points are in.
        """
        stated = list(references)
        exact = [number for uid, frame in stated if (number := self._exact(uid, frame)) is not None]
        if len(stated) == 1 and exact:
            return exact
        if points is not None and frame_of_reference is not None:
            placed = self._near(points, frame_of_reference)
            if placed and exact and set(placed) & set(exact):
                return sorted(set(placed) & set(exact))
            if placed and not exact:
                return placed
        return sorted(set(exact))

    def _exact(self, uid: str, frame: int | None) -> int | None:
        frames = self._by_uid.get(uid, {})
        if frame is None:
            return next(iter(frames.values())) if len(frames) == 1 else None
        return frames.get(frame)

    def _near(self, points: np.ndarray, frame_of_reference: str) -> list[int]:
        """Of each series the picture whose slice holds all the points."""
        found = []
        for stack in self._stacks.get(frame_of_reference, ()):
            heights = points @ stack.normal
            if heights.max() - heights.min() > _FLAT:
                continue
            apart = np.abs(stack.heights - heights.mean())
            nearest = int(np.argmin(apart))
            if apart[nearest] <= stack.halves[nearest] + 1e-3:
                found.append(int(stack.pictures[nearest]))
        return sorted(found)
