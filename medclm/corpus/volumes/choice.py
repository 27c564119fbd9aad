"""Which slices of a volume become pictures. Pure functions of areas and distances; knows no voxels and no names.

A lesion is shown on the slice of its largest area and on some more, 5 mm apart and in the central 80 % of its extent, since
its ends are hardly visible. Slices free of lesions are 10 mm from every one of them: an unmarked rim is no negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

APART_MM = 5.0
CENTRAL = 0.8
FREE_MM = 10.0
FREE_STEP_MM = 20.0
"""Least distance between two lesion-free slices of a volume: its neighbours look alike."""
LEAST_VOXELS = 8
"""A component of fewer voxels has no slice of its own; where it crosses another's it is shown like any other."""


def lesion_slices(areas: Sequence[int] | np.ndarray, step_mm: float | None, more: int) -> list[int]:
    """The slice of largest area, then up to `more` by falling area; ties go to the middle of the extent, then to the lower.

    Args:
        areas: of the lesion in every slice, at least one above 0.
        step_mm: between slices; None = not known, then there is only the largest.
    """
    found = np.flatnonzero(areas)
    low, high = int(found[0]), int(found[-1]) + 1
    middle = (low + high) / 2
    order = sorted((int(at) for at in found), key=lambda at: (-int(areas[at]), abs(at + 0.5 - middle), at))
    chosen = order[:1]
    if step_mm is None:
        return chosen
    for at in order[1:]:
        if len(chosen) > more:
            break
        central = abs(at + 0.5 - middle) <= CENTRAL * (high - low) / 2
        if central and all(abs(at - other) * step_mm >= APART_MM - 1e-6 for other in chosen):
            chosen.append(at)
    return chosen


def free_slices(crossed: Iterable[int], count: int, step_mm: float | None) -> list[int]:
    """Slices that are FREE_MM from every slice in `crossed` and FREE_STEP_MM from each other, ascending.

    Args:
        crossed: slices that hold any voxel of any lesion.
        count: slices of the volume.
        step_mm: between slices; None = not known, then there are none.
    """
    if step_mm is None:
        return []
    taken = np.array(sorted(set(crossed)), np.int64)
    chosen: list[int] = []
    for at in range(count):
        far = not len(taken) or np.abs(taken - at).min() * step_mm >= FREE_MM - 1e-6
        if far and (not chosen or (at - chosen[-1]) * step_mm >= FREE_STEP_MM - 1e-6):
            chosen.append(at)
    return chosen
