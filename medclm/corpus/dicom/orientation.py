"""Patient directions of a picture's columns and rows, and the name of its plane, from what a header says of them.

Directions are written as in DICOM: the patient's direction of +x, a backslash, that of +y (letters L R A P H F). Must not know
files or modalities' codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

OBLIQUE_DEGREES = 30.0
"""A column or row further than this from its patient axis makes the picture oblique: no plane of the patient has its name, and
no word of direction is said. Tilted gantries and most tilted head scans stay below."""

_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""By patient axis of LPS coordinates (PS3.3 C.7.6.2.1.1): letter of the positive and of the negative direction."""
_AXIS = {letter: axis for axis, pair in enumerate(_LETTERS) for letter in pair}
_PLANES = {frozenset({0, 1}): "axial", frozenset({0, 2}): "coronal", frozenset({1, 2}): "sagittal"}
_PROJECTIONS = {"coronal": "frontal", "sagittal": "lateral"}
_AXES_OF = {"frontal": {0, 2}, "lateral": {1, 2}}


class Orientation(NamedTuple):
    """What may be said; None = unknown."""

    plane: str | None = None
    directions: str | None = None


def from_cosines(cosines: Sequence[float]) -> Orientation:
    """Plane and directions by ImageOrientationPatient.

    Args:
        cosines: six numbers: the unit vector of +x (along a row), then that of +y (down a column), in LPS.

    Returns:
        `oblique` without directions beyond OBLIQUE_DEGREES; nothing where the vectors are not of length 1 or not at a right
        angle (within 1 %), since then they cannot be directions.
    """
    vectors = tuple(cosines[:3]), tuple(cosines[3:6])
    along = sum(a * b for a, b in zip(*vectors, strict=True))
    if not all(abs(math.hypot(*vector) - 1) <= 0.01 for vector in vectors) or abs(along) > 0.01:
        return Orientation()
    axes = [_dominant(vector) for vector in vectors]
    least = min(abs(vector[axis]) for vector, axis in zip(vectors, axes, strict=True))
    if least < math.cos(math.radians(OBLIQUE_DEGREES)):
        return Orientation("oblique")
    letters = [_LETTERS[axis][vector[axis] < 0] for vector, axis in zip(vectors, axes, strict=True)]
    return Orientation(_PLANES[frozenset(axes)], "\\".join(letters))


def _dominant(vector: Sequence[float]) -> int:
    return max(range(3), key=lambda axis: abs(vector[axis]))


def from_letters(values: Sequence[str]) -> Orientation:
    """Plane and directions by PatientOrientation, e.g. ("L", "F") or ("LA", "F"); the first letter of each counts for the plane.

    Letters of animals (LE, D, V, CR, ...) and two directions along one axis give nothing.
    """
    if len(values) != 2 or not all(re.fullmatch("[LRAPHF]{1,3}", value) for value in values):
        return Orientation()
    axes = frozenset(_AXIS[value[0]] for value in values)
    if len(axes) != 2 or any(len({_AXIS[letter] for letter in value}) != len(value) for value in values):
        return Orientation()
    return Orientation(_PLANES[axes], "\\".join(values))


def of_projection(plane: str | None, found: Orientation) -> Orientation:
    """The orientation of a picture that sums along the ray.

    Args:
        plane: by its view; None = the view is not known, and then directions alone do not make it frontal or lateral.
        found: by its directions; where they contradict the view, neither is trusted for a direction.
    """
    if plane is None or found.directions is None:
        return Orientation(plane, found.directions)
    axes = {_AXIS[part[0]] for part in found.directions.split("\\")}
    return Orientation(plane, found.directions if axes == _AXES_OF.get(plane) else None)


def as_projection(found: Orientation) -> Orientation:
    """A localizer, whose direction cosines are exact: coronal is frontal there, sagittal lateral."""
    return Orientation(_PROJECTIONS.get(found.plane or "", found.plane), found.directions)
