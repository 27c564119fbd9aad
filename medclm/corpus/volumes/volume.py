"""A volume's voxels in the patient's own axes, whatever order its file has them in.

Here so that orientation is settled once: after `VolumeFile.read` axis 0 runs to the patient's left, axis 1 to posterior, axis
2 to the head (LPS, millimetres), and no later step knows how a file was stored. Only transposes and mirrored views: nothing
is resampled. Where a file does not say how it lies, its own order stays and `Grid.affine` is None: no patient word follows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.streams import read_bytes

MAX_VOXELS = 400_000_000
"""Largest volume that is read: 512 x 512 x 1500."""
OBLIQUE_DEGREES = 30.0
"""An axis further than this from its patient axis makes the volume oblique: its planes have no name and no words."""
_SAME_GRID = 0.25
"""Greatest distance of two grids' corners, as a share of the least spacing."""
_TO_LPS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume are."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    """Between voxels along each axis; None = not known."""
    affine: np.ndarray | None
    """(4, 4) float64: voxel index (centres) -> patient LPS in mm; None = orientation unknown."""

    @property
    def oblique(self) -> bool:
        """Whether an axis lies further than OBLIQUE_DEGREES from its patient axis (axes turned, see `Turn`)."""
        if self.affine is None:
            return False
        return bool(np.diag(_directions(self.affine)).min() < math.cos(math.radians(OBLIQUE_DEGREES)))

    def same_as(self, other: Grid) -> bool:
        """Whether both have their voxels in the same places; two of unknown orientation by shape and order alone."""
        if self.shape != other.shape or (self.affine is None) != (other.affine is None):
            return False
        if self.affine is None or other.affine is None:
            return True
        corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, n - 1) for n in self.shape))])
        apart = np.linalg.norm(corners @ (self.affine - other.affine).T, axis=1).max()
        least = np.linalg.norm(self.affine[:3, :3], axis=0).min()
        return bool(apart <= _SAME_GRID * least)


@dataclass(frozen=True)
class Turn:
    """From the stored order of axes to the patient's: patient axis p is stored axis `axes[p]`, mirrored where `flips[p]`."""

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def array(self, stored: np.ndarray) -> np.ndarray:
        """(X, Y, Z) as stored -> a view in patient axes."""
        mirrored = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        turned: np.ndarray = stored.transpose(self.axes)[mirrored]
        return turned


@dataclass(frozen=True)
class VolumeFile:
    """A file whose header has been read and judged; voxels on demand. Picklable."""

    path: Path
    """The file that holds the voxels."""
    grid: Grid
    """In patient axes."""
    turn: Turn
    stored_shape: tuple[int, int, int]
    dtype: np.dtype
    start: int = 0
    """Bytes of the file before the data."""
    skip: int = 0
    """Bytes of the decompressed data before the voxels."""
    compression: str | None = None
    scaling: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept from stored to physical values."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Label value -> name, where the file itself says."""

    @property
    def eight_bit(self) -> bool:
        """Whether `read` gives uint8."""
        return self.dtype == np.uint8 and self.scaling == (1.0, 0.0)

    def read(self) -> np.ndarray:
        """(X, Y, Z) in patient axes: as stored (native byte order), or float32 where values are scaled or of 64-bit floats.

        Raises:
            RejectedImage: volume_missing, volume_truncated, volume_unreadable.
        """
        count = math.prod(self.stored_shape) * self.dtype.itemsize
        raw = read_bytes(self.path, count, start=self.start, skip=self.skip, compression=self.compression)
        values = raw.view(self.dtype)
        slope, intercept = self.scaling
        if self.scaling != (1.0, 0.0):
            values = values.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        elif self.dtype.kind == "f" and self.dtype.itemsize == 8:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
        elif not self.dtype.isnative:
            values = values.astype(self.dtype.newbyteorder("="))
        return self.turn.array(values.reshape(self.stored_shape, order="F"))


def to_lps(affine: np.ndarray, space: str = "RAS") -> np.ndarray:
    """(4, 4) voxel -> patient of a three-letter space (the directions of +x, +y, +z) -> voxel -> LPS.

    The only place where one patient frame becomes another.
    """
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for column, letter in enumerate(space):
        row, sign = _TO_LPS[letter]
        change[row, column] = sign
    with np.errstate(invalid="ignore"):  # what is not finite is refused by `patient_axes`
        turned: np.ndarray = change @ affine
    return turned


def judged_shape(sizes: Sequence[int], max_voxels: int) -> tuple[int, int, int]:
    """Three sizes of a volume of any number of axes; further axes must have one element.

    Raises:
        RejectedImage: volume_shape, volume_4d, volume_too_large.
    """
    shown = " x ".join(str(size) for size in sizes[:8])
    if not 2 <= len(sizes) <= 16 or any(size < 1 for size in sizes):
        raise RejectedImage("volume_shape", f"sizes {shown}: give a volume of three axes")
    if any(size > 1 for size in sizes[3:]):
        raise RejectedImage("volume_4d", f"sizes {shown}: time or channels: give one volume of three axes")
    if math.prod(sizes) > max_voxels:
        raise RejectedImage("volume_too_large", f"the header claims {shown} voxels, more than {max_voxels}: crop it")
    width, height, *rest = sizes
    return width, height, (rest[0] if rest else 1)


def judged_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype, if it is whole numbers or floats of up to 64 bits; raises RejectedImage volume_dtype."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise RejectedImage("volume_dtype", "voxels are complex, colours or wider than 64 bits: give one number per voxel")
    return dtype


def patient_axes(
    shape: tuple[int, int, int], affine_lps: np.ndarray | None, spacing_mm: Sequence[float] | None
) -> tuple[Turn, Grid]:
    """How a stored volume is turned, and its grid afterwards.

    Args:
        shape: as stored.
        affine_lps: (4, 4) stored voxel index -> LPS; None = orientation unknown.
        spacing_mm: as stated, used where there is no affine.

    Raises:
        RejectedImage: affine_not_finite, affine_singular.
    """
    if affine_lps is None:
        known = spacing_mm is not None and all(math.isfinite(one) and one > 0 for one in spacing_mm)
        return Turn(), Grid(shape, (*map(float, spacing_mm),) if known and spacing_mm else None, None)  # type: ignore[arg-type]
    if not np.isfinite(affine_lps).all():
        raise RejectedImage("affine_not_finite", "orientation and position hold numbers that are not finite: write them anew")
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    if not (np.isfinite(spacing).all() and spacing.min() > 1e-6):
        raise RejectedImage("affine_singular", "an axis has no length: write orientation and spacing anew")
    directions = _directions(affine_lps)
    if abs(np.linalg.det(directions)) < 0.5:
        raise RejectedImage("affine_singular", "the axes are not independent: write orientation and spacing anew")
    axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(directions[p, a]) for p, a in enumerate(order)))
    flips = tuple(bool(directions[p, a] < 0) for p, a in enumerate(axes))
    turned = np.array(affine_lps[:, [*axes, 3]], np.float64)
    for p, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        if flip:
            turned[:3, 3] += affine_lps[:3, axis] * (shape[axis] - 1)
            turned[:3, p] *= -1
    new = tuple(shape[axis] for axis in axes), tuple(float(spacing[axis]) for axis in axes)
    return Turn(axes, flips), Grid(*new, turned)  # type: ignore[arg-type]


def _directions(affine: np.ndarray) -> np.ndarray:
    """(3, 3) unit vectors of the axes as columns."""
    columns = affine[:3, :3]
    unit: np.ndarray = columns / np.linalg.norm(columns, axis=0)
    return unit
