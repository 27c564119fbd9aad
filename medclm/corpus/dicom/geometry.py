"""Where a frame lies in the patient, and from one frame's pixels to another's or to points of the patient.

Coordinates are LPS millimetres of one frame of reference. Pixel (0, 0) has its centre at `origin`; in pixel coordinates, where
pixel i covers [i, i + 1), that point is (0.5, 0.5). Must not know files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medclm.corpus.dicom.orientation import from_cosines
from medclm.corpus.dicom.view import FrameView

_SAME_PX = 0.05
"""Greatest distance of the corners of two grids that count as one, in pixels."""
_PARALLEL = 0.999
"""Least cosine between the normals of planes that count as parallel (2.6 degrees)."""
_HALF = 0.5
"""Millimetres that a frame reaches to either side, where no thickness is stated."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Plane:
    """A frame's grid in the patient."""

    origin: Vector
    column_direction: Vector
    """Unit vector of +x."""
    row_direction: Vector
    """Unit vector of +y."""
    spacing: tuple[float, float]
    """Millimetres between rows, between columns."""
    shape: tuple[int, int]
    """Rows, columns."""
    thickness: float | None = None
    """Millimetres to the next frame, or of this one; None = not stated."""

    @property
    def half(self) -> float:
        """Millimetres that the frame reaches to either side."""
        return _HALF if self.thickness is None else self.thickness / 2

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector."""
        return np.cross(self.column_direction, self.row_direction)

    @property
    def height(self) -> float:
        """Position along the normal, mm."""
        return float(self.normal @ np.asarray(self.origin))

    def parallel_to(self, other: Plane) -> bool:
        return bool(abs(float(self.normal @ other.normal)) >= _PARALLEL)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points -> (N,) millimetres from the plane, signed."""
        return np.asarray((points - np.asarray(self.origin)) @ self.normal)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points -> (N, 2) x and y of their feet in the plane, in pixel coordinates."""
        offset = points - np.asarray(self.origin)
        x = offset @ np.asarray(self.column_direction) / self.spacing[1]
        y = offset @ np.asarray(self.row_direction) / self.spacing[0]
        return np.stack([x, y], axis=1) + 0.5

    def points(self, xy: np.ndarray) -> np.ndarray:
        """(N, 2) pixel coordinates -> (N, 3) points."""
        steps = (xy - 0.5) * np.array([self.spacing[1], self.spacing[0]])
        return np.asarray(
            np.asarray(self.origin)
            + steps[:, :1] * np.asarray(self.column_direction)
            + steps[:, 1:] * np.asarray(self.row_direction)
        )

    def corners(self) -> np.ndarray:
        """(4, 3) centres of the corner pixels."""
        rows, columns = self.shape
        return self.points(np.array([[0.5, 0.5], [columns - 0.5, 0.5], [0.5, rows - 0.5], [columns - 0.5, rows - 0.5]]))


def read_plane(view: FrameView) -> Plane | None:
    """The plane of a frame; None where the header does not say all of it."""
    origin = view.numbers("ImagePositionPatient", 3)
    cosines = view.numbers("ImageOrientationPatient", 6)
    spacing = view.numbers("PixelSpacing", 2)
    rows, columns = view.number("Rows"), view.number("Columns")
    if origin is None or cosines is None or spacing is None or rows is None or columns is None:
        return None
    if from_cosines(cosines).plane is None or min(spacing) <= 0:
        return None
    stated = [view.number(keyword) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    thickness = next((abs(one) for one in stated if one), None)
    return Plane(
        _vector(origin),
        _vector(cosines[:3]),
        _vector(cosines[3:]),
        (spacing[0], spacing[1]),
        (int(rows), int(columns)),
        thickness,
    )


def same_grid(first: Plane, second: Plane) -> bool:
    """Whether both have their pixels in the same places."""
    if first.shape != second.shape or not first.parallel_to(second):
        return False
    apart = np.linalg.norm(first.corners() - second.corners(), axis=1).max()
    return bool(apart <= max(_SAME_PX * min(*first.spacing, *second.spacing), 1e-3))


def in_slice(plane: Plane, points: np.ndarray) -> bool:
    """Whether all (N, 3) points lie within the thickness of a frame."""
    return bool(np.abs(plane.distance(points)).max() <= plane.half + 1e-3)


def onto_grid(labels: np.ndarray, source: Plane, target: Plane) -> np.ndarray:
    """(H, W) values on the grid of `source` -> on that of `target`, nearest pixel, 0 where there is none."""
    rows, columns = target.shape
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    found = np.floor(source.pixels(target.points(np.stack([x.ravel(), y.ravel()], axis=1))) + 1e-6).astype(np.int64)
    inside = (found >= 0).all(axis=1) & (found[:, 0] < labels.shape[1]) & (found[:, 1] < labels.shape[0])
    out = np.zeros(rows * columns, labels.dtype)
    out[inside] = labels[found[inside, 1], found[inside, 0]]
    return out.reshape(rows, columns)


def _vector(numbers: Sequence[float]) -> Vector:
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
