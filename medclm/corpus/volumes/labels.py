"""Label maps of two or three axes: values to named classes, and the separate lesions of a class.

A lesion is a component that hangs together over faces, edges and corners (26 neighbours in space, 8 in a picture): thin
parts stay one lesion. Values of one name are one class. Knows arrays and names; no files, no patient axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medclm.corpus.contract import RejectedImage

MOST_VALUES = 1000
"""More distinct values make it an image, not a label map."""
_LARGEST = 2**31


@dataclass(frozen=True)
class LabelMap:
    """A label map whose values are named."""

    codes: np.ndarray
    """uint16 of any shape: 0 = background, c = class `classes[c - 1]`."""
    classes: tuple[str | None, ...]
    """As written; None = values without a name, one entry for each value."""
    values: tuple[int, ...]
    """The first value of each class."""
    places: tuple[tuple[slice, ...] | None, ...]
    """Where each class is; None = nowhere."""


@dataclass(frozen=True)
class Component:
    """One connected lesion in the array it was found in."""

    place: tuple[slice, ...]
    """Its bounding box."""
    inside: np.ndarray
    """Bool, of that box."""

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.inside))

    def areas(self, axis: int, count: int) -> np.ndarray:
        """(count,) elements in each slice along an axis."""
        areas = np.zeros(count, np.int64)
        others = tuple(one for one in range(self.inside.ndim) if one != axis)
        areas[self.place[axis]] = self.inside.sum(axis=others)
        return areas


def name_labels(values: np.ndarray, names: Mapping[int, str], *, everything: str | None = None) -> LabelMap:
    """Values as stored -> named classes.

    Args:
        values: of any numeric dtype, whole numbers; 0 is background.
        names: value -> class as written; a name for 0 is ignored.
        everything: name of every value but 0, instead of `names` (a mask).

    Raises:
        RejectedImage: label_map_not_whole, label_map_values (too many to be labels).
    """
    values = values.view(np.uint8) if values.dtype == bool else values
    found = _distinct(values)
    classes: list[str | None] = []
    first: list[int] = []
    code_of: dict[int, int] = {}
    for value in found:
        name = everything if everything is not None else names.get(value)
        if name is not None and name in classes:
            code_of[value] = classes.index(name) + 1
            continue
        classes.append(name)
        first.append(value)
        code_of[value] = len(classes)
    codes = _coded(values, code_of)
    places = ndimage.find_objects(codes, len(classes)) if classes else []
    return LabelMap(codes, tuple(classes), tuple(first), tuple(places))


def components(labels: LabelMap, number: int) -> list[Component]:
    """The separate lesions of class `number`, in order of their first element."""
    place = labels.places[number]
    if place is None:
        return []
    inside = labels.codes[place] == number + 1
    numbered, _ = ndimage.label(inside, np.ones((3,) * inside.ndim, bool))
    found = []
    for at, box in enumerate(ndimage.find_objects(numbered)):
        where = tuple(
            slice(outer.start + inner.start, outer.start + inner.stop) for outer, inner in zip(place, box, strict=True)
        )
        found.append(Component(where, numbered[box] == at + 1))
    return found


def _slabs(values: np.ndarray) -> Iterable[np.ndarray]:
    """Slices along the last axis, so that no temporary is as large as the volume."""
    return (values[..., at] for at in range(values.shape[-1]))


def _distinct(values: np.ndarray) -> list[int]:
    """The values other than 0, ascending."""
    found: set[int] = set()
    for slab in _slabs(values):
        distinct = np.unique(slab)
        if not np.isfinite(distinct).all() or (distinct != np.round(distinct)).any():
            raise RejectedImage("label_map_not_whole", "a label map with values that are not whole numbers: give the labels")
        if distinct.max() > _LARGEST or distinct.min() < -_LARGEST:
            raise RejectedImage(
                "label_map_values", f"values {distinct.min():g} to {distinct.max():g} are no labels: give the labels"
            )
        found.update(int(value) for value in distinct)
        if len(found) > MOST_VALUES:
            raise RejectedImage(
                "label_map_values", f"more than {MOST_VALUES} different values: this is an image, give its label map"
            )
    return sorted(found - {0})


def _coded(values: np.ndarray, code_of: Mapping[int, int]) -> np.ndarray:
    codes = np.zeros(values.shape, np.uint16)
    if not code_of:
        return codes
    known = np.array(list(code_of))  # ascending
    of_known = np.array([code_of[int(value)] for value in known], np.uint16)
    low, high = int(known[0]), int(known[-1])
    table = np.zeros(high - low + 2, np.uint16) if high - low < 1 << 16 else None
    if table is not None:
        table[known - low] = of_known
    for at, slab in enumerate(_slabs(values)):
        if table is not None:
            whole = slab.astype(np.int64)
            codes[..., at] = np.where((whole >= low) & (whole <= high), table[np.clip(whole - low, 0, high - low)], 0)
        else:
            places = np.clip(np.searchsorted(known, slab), 0, len(known) - 1)
            codes[..., at] = np.where(known[places] == slab, of_known[places], 0)
    return codes
