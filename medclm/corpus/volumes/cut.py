"""Slices of a volume as pictures: which axis is cut, how a slice lies in its picture, and what its patient directions are.

A slice is shown as radiologists hang it: axial L\\P (the patient's right is image-left, the spine below), coronal L\\F, sagittal
P\\F. Directions are those of the nearest patient axes; a volume that is turned further (`Grid.oblique`) has plane `oblique` and
no directions. Of a volume of unknown orientation the slices of its last stored axis are shown as stored.

Pixels become square: the coarser side of a slice is resized to the finer spacing, so that a coronal cut of 5 mm slices is not
squashed. Values linearly between pixel centres, masks by the nearest pixel, boxes by the exact factor. Sides that differ by
less than 5 % stay as they are; `spacing_mm` is true in either case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medclm.corpus.volumes.labels import Component
from medclm.corpus.volumes.volume import Grid
from medclm.types import Box

NEARLY_SQUARE = 1.05


@dataclass(frozen=True)
class _Hanging:
    normal: int
    """Patient axis that is cut (0 to the left, 1 to posterior, 2 to the head)."""
    x: int
    y: int
    mirror_y: bool
    """True where the picture's y runs against its patient axis."""
    directions: str | None


_HANGINGS = {
    "axial": _Hanging(2, 0, 1, False, "L\\P"),
    "coronal": _Hanging(1, 0, 2, True, "L\\F"),
    "sagittal": _Hanging(0, 1, 2, True, "P\\F"),
}
_AS_STORED = _Hanging(2, 0, 1, False, None)
PLANES = tuple(_HANGINGS)


@dataclass(frozen=True)
class Cut:
    """One way of cutting one volume; slices are numbered along the patient axis."""

    normal: int
    """Axis of the turned volume that is cut."""
    count: int
    """Slices."""
    size: tuple[int, int]
    """(width, height) of the pictures."""
    raw_size: tuple[int, int]
    """(width, height) of the slices before pixels are made square."""
    step_mm: float | None
    """Between neighbouring slices."""
    spacing_mm: tuple[float, float] | None
    """(row spacing, column spacing) of the pictures."""
    plane: str | None
    """axial, coronal, sagittal, oblique; None = unknown."""
    patient_directions: str | None
    x: int
    y: int
    mirror_y: bool

    def raw(self, volume: np.ndarray, at: int) -> np.ndarray:
        """Slice `at` of a (X, Y, Z) array in patient axes as (H, W), before pixels are made square."""
        index: list[slice | int] = [slice(None)] * 3
        index[self.normal] = at
        return self._upright(volume[tuple(index)])

    def _upright(self, plane: np.ndarray) -> np.ndarray:
        """A slice with its axes in the volume's order (x before y, always) -> (H, W)."""
        return plane.T[::-1] if self.mirror_y else plane.T

    def values(self, volume: np.ndarray, at: int) -> np.ndarray:
        """Slice `at` as (height, width) float32, interpolated linearly."""
        picture = self.raw(volume, at).astype(np.float32)
        return _linear(_linear(picture, self.size[1], 0), self.size[0], 1)

    def mask(self, raw: np.ndarray) -> np.ndarray:
        """A (H, W) mask or label slice as of `raw` -> (height, width), nearest pixel."""
        width, height = self.size
        rows, columns = (_nearest(n, new) for n, new in zip(raw.shape, (height, width), strict=True))
        return np.ascontiguousarray(raw[rows][:, columns])

    def crosses(self, component: Component, at: int) -> bool:
        """Whether slice `at` holds any of it: what hangs together leaves no slice out between its ends."""
        place = component.place[self.normal]
        return bool(place.start <= at < place.stop)

    def piece(self, component: Component, at: int) -> np.ndarray | None:
        """(H, W) bool of a component on slice `at`, as of `raw`; None where it does not cross it."""
        if not self.crosses(component, at):
            return None
        whole = np.zeros(self.raw_size, bool)
        inside = component.inside.take(at - component.place[self.normal].start, self.normal)
        whole[component.place[self.x], component.place[self.y]] = inside
        return self._upright(whole)

    def box(self, raw: np.ndarray) -> Box:
        """The box in pixels of the picture around a (H, W) mask as of `raw`, which is not empty."""
        rows, columns = np.flatnonzero(raw.any(axis=1)), np.flatnonzero(raw.any(axis=0))
        box_px = Box(float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0)
        return box_px.scaled(self.size[0] / self.raw_size[0], self.size[1] / self.raw_size[1])


def cut_for(grid: Grid, plane: str, *, declared: tuple[str | None, str | None] = (None, None)) -> Cut:
    """How a volume of that grid is cut.

    Args:
        plane: axial, coronal or sagittal, for a volume whose orientation is known.
        declared: plane and patient directions of the pictures by declaration, for one of unknown orientation.
    """
    known = grid.affine is not None
    hanging = _HANGINGS[plane] if known else _AS_STORED
    name, directions = (plane, hanging.directions) if known else declared
    if grid.oblique:
        name, directions = "oblique", None
    raw_size = grid.shape[hanging.x], grid.shape[hanging.y]
    size, spacing, step = raw_size, None, None
    if grid.spacing_mm is not None:
        step = grid.spacing_mm[hanging.normal]
        column, row = grid.spacing_mm[hanging.x], grid.spacing_mm[hanging.y]
        if max(column, row) > NEARLY_SQUARE * min(column, row):
            fine = min(column, row)
            size = max(1, round(raw_size[0] * column / fine)), max(1, round(raw_size[1] * row / fine))
        spacing = row * raw_size[1] / size[1], column * raw_size[0] / size[0]
    return Cut(
        normal=hanging.normal,
        count=grid.shape[hanging.normal],
        size=size,
        raw_size=raw_size,
        step_mm=step,
        spacing_mm=spacing,
        plane=name,
        patient_directions=directions,
        x=hanging.x,
        y=hanging.y,
        mirror_y=hanging.mirror_y,
    )


def _positions(count: int, new: int) -> np.ndarray:
    """(new,) centres of the new pixels in pixels of the old."""
    return (np.arange(new) + 0.5) * (count / new)


def _nearest(count: int, new: int) -> np.ndarray:
    return np.minimum(_positions(count, new).astype(np.int64), count - 1)


def _linear(picture: np.ndarray, new: int, axis: int) -> np.ndarray:
    count = picture.shape[axis]
    if new == count:
        return picture
    at = np.clip(_positions(count, new) - 0.5, 0, count - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, count - 1)
    share = np.expand_dims((at - low).astype(np.float32), 1 - axis)
    mixed: np.ndarray = picture.take(low, axis) * (1 - share) + picture.take(high, axis) * share
    return mixed
