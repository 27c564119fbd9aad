"""A lesion stated as a point and a diameter -> the voxels of a sphere. Knows grids and millimetres; no files."""

from __future__ import annotations

import numpy as np

from medclm.corpus.volumes.labels import Component
from medclm.corpus.volumes.volume import Grid


def sphere(grid: Grid, centre_mm: tuple[float, float, float], diameter_mm: float) -> Component | None:
    """Voxels whose centre lies in the sphere, at least the one nearest to its centre.

    Args:
        grid: with a known orientation.
        centre_mm: patient position, LPS.
        diameter_mm: above 0.

    Returns:
        None where the centre lies outside the volume.
    """
    assert grid.affine is not None, "positions need a grid that knows where it is"
    to_voxel = np.linalg.inv(grid.affine)
    centre = (to_voxel @ np.array([*centre_mm, 1.0]))[:3]
    if not all(-0.5 <= at <= size - 0.5 for at, size in zip(centre, grid.shape, strict=True)):
        return None
    radius = diameter_mm / 2
    reach = np.linalg.norm(to_voxel[:3, :3], axis=1) * radius  # of a ball along each axis, whatever the axes' angles
    low = [max(0, int(np.ceil(at - far))) for at, far in zip(centre, reach, strict=True)]
    high = [min(size, int(np.floor(at + far)) + 1) for at, far, size in zip(centre, reach, grid.shape, strict=True)]
    nearest = [min(max(round(float(at)), 0), size - 1) for at, size in zip(centre, grid.shape, strict=True)]
    low = [min(one, at) for one, at in zip(low, nearest, strict=True)]
    high = [max(one, at + 1) for one, at in zip(high, nearest, strict=True)]
    steps = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1) - centre
    inside = np.linalg.norm(steps @ grid.affine[:3, :3].T, axis=-1) <= radius
    inside[tuple(at - first for at, first in zip(nearest, low, strict=True))] = True
    return Component(tuple(slice(a, b) for a, b in zip(low, high, strict=True)), inside)
