"""What a picture is recognised by: an exact hash, a 256-bit hash that proposes, and a correlation at 128 px that decides.

Stands here because splitting and comparing corpora both ask it. Works on uint8 arrays; must not know of files, corpora or
patients, nor how pairs are searched (near_duplicates.py). A hash alone is not enough: films of different patients agree in most bits of a short hash, so
the hash only proposes and the correlation decides (benchmarks/near_duplicates.py measures both).

Two pictures of one exposure stay near-duplicates after a new compression, a resize, a linear change of brightness and
contrast, and a crop of a few per cent; mirrored, inverted or turned copies do not. Flat pictures match nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

SAME_CORRELATION = 0.98
SIDE = 128
"""Pixels of the thumbnails that are correlated."""
_HASH_SIDE, _DCT_SIDE = 16, 64
_FLAT_STD = 1.0
"""Standard deviation in grey levels of 128-px thumbnails below which a picture shows nothing that could be compared."""
_WORTH_ALIGNING = 0.5
_SMALL_SIDE, _WORTH_REFINING = 32, 0.975
"""Measured: 4 steps at 32 px bring every altered copy of those films to 0.982 and more."""
_LEAST_OVERLAP = 0.8


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of one picture: 48 bytes."""

    exact: bytes
    """16 bytes of BLAKE2b over size and pixels; a colour picture of equal channels hashes like the grey one."""
    bits: np.ndarray
    """(4,) uint64: the signs of 256 low cosine frequencies about their median."""
    flat: bool
    """Too uniform to be compared."""

    def to_hex(self) -> str:
        """As text; `from_hex` gives it back."""
        return (self.exact + self.bits.astype("<u8").tobytes() + bytes([self.flat])).hex()

    @classmethod
    def from_hex(cls, text: str) -> Fingerprint:
        stored = bytes.fromhex(text)
        return cls(stored[:16], np.frombuffer(stored[16:48], "<u8").astype(np.uint64), bool(stored[48]))


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of N pictures as arrays."""

    exact: np.ndarray
    """(N, 2) uint64."""
    bits: np.ndarray
    """(N, 4) uint64."""
    flat: np.ndarray
    """(N,) bool."""

    @classmethod
    def stack(cls, prints: Iterable[Fingerprint]) -> Fingerprints:
        every = list(prints)
        exact = np.frombuffer(b"".join(one.exact for one in every), np.uint64).reshape(-1, 2)
        bits = np.array([one.bits for one in every], np.uint64).reshape(-1, 4)
        return cls(exact, bits, np.array([one.flat for one in every], bool))

    def __len__(self) -> int:
        return len(self.flat)

    def take(self, rows: np.ndarray) -> Fingerprints:
        return Fingerprints(self.exact[rows], self.bits[rows], self.flat[rows])


def fingerprint(pixels: np.ndarray) -> Fingerprint:
    """The fingerprint of a picture.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.

    Raises:
        ValueError: another shape or type.
    """
    plain = _grey_if_equal(_checked(pixels))
    digest = hashlib.blake2b(repr(plain.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(plain).data)
    grey = _content(_luminance(plain))
    return Fingerprint(digest.digest(), _cosine_bits(grey), bool(_resized(grey, SIDE).std() < _FLAT_STD))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 -> (128, 128) float32 grey values, averaged over areas, whatever the picture's shape."""
    return _resized(_content(_luminance(_grey_if_equal(_checked(pixels)))), SIDE)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two thumbnails, -1..1; 0 where one is flat."""
    a, b = first - first.mean(dtype=np.float64), second - second.mean(dtype=np.float64)
    if min(a.std(), b.std()) < _FLAT_STD:
        return 0.0
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def aligned_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of two thumbnails after the best shift and scale along each axis, -1..1.

    A crop of 2 % moves edges by more than a pixel, which alone takes the plain correlation of most films below 0.98. The
    fit starts on thumbnails of 32 px; pairs that do not come near there are not fitted at 128 px, and pairs whose plain
    correlation is below 0.5 or already 0.98 not at all.
    """
    plain = correlation(first, second)
    if plain >= SAME_CORRELATION or plain < _WORTH_ALIGNING:
        return plain
    small, warp = _fitted(_quarter(first), _quarter(second), np.array([1.0, 0.0, 1.0, 0.0]), steps=4)
    if small < _WORTH_REFINING:
        return plain
    return max(plain, _fitted(first, second, warp * np.array([1, SIDE / _SMALL_SIDE] * 2), steps=8)[0])


def _fitted(first: np.ndarray, second: np.ndarray, warp: np.ndarray, *, steps: int) -> tuple[float, np.ndarray]:
    """The best correlation met while `second` is fitted to `first`, both (S, S), and its warp.

    Gauss and Newton's steps on the difference of the two (Lucas and Kanade 1981), where gain and offset are solved for with
    the warp. `warp` is scale and shift in pixels along y, then along x, about the centre. The overlap must hold 80 %.
    """
    side = len(first)
    ramp = np.arange(side, dtype=np.float64) - (side - 1) / 2
    best, best_warp = -1.0, warp
    for _ in range(steps):
        rows, rows_in = _sampling(warp[0] * ramp + warp[1])
        columns, columns_in = _sampling(warp[2] * ramp + warp[3])
        if rows_in.mean() * columns_in.mean() < _LEAST_OVERLAP:
            break
        moved = (rows @ second @ columns.T)[rows_in][:, columns_in]
        target = first[rows_in][:, columns_in]
        found = correlation(target, moved)
        if found > best:
            best, best_warp = found, warp
        if found >= SAME_CORRELATION and side == SIDE:
            break
        slope_y, slope_x = np.gradient(moved)
        y, x = ramp[rows_in][:, None], ramp[columns_in][None, :]
        system = np.stack([slope_y * y, slope_y, slope_x * x, slope_x, moved, np.ones_like(moved)]).reshape(6, -1)
        solved = np.linalg.lstsq(system @ system.T, system @ target.ravel(), rcond=None)[0]
        if solved[4] <= 0:
            break
        warp = warp + np.clip(solved[:4] / solved[4], *np.outer([-1, 1], [0.03, 2, 0.03, 2]))
    return best, best_warp


def _quarter(thumb: np.ndarray) -> np.ndarray:
    """(128, 128) -> (32, 32) means."""
    step = SIDE // _SMALL_SIDE
    return np.asarray(thumb.reshape(_SMALL_SIDE, step, _SMALL_SIDE, step).mean(axis=(1, 3)))


def same_exposure(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two thumbnails show one exposure: aligned correlation of at least 0.98."""
    return aligned_correlation(first, second) >= SAME_CORRELATION


def _checked(pixels: np.ndarray) -> np.ndarray:
    shape_fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not shape_fits or not pixels.size:
        raise ValueError(f"pixels of {pixels.dtype} {pixels.shape}: give uint8 (H, W) or (H, W, 3)")
    return pixels


def _grey_if_equal(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels
    grey = pixels[..., 0]
    return grey if (grey == pixels[..., 1]).all() and (grey == pixels[..., 2]).all() else pixels


def _luminance(plain: np.ndarray) -> np.ndarray:
    """(H, W) uint8: ITU-R BT.601 luma of colours, as Pillow computes it."""
    return plain if plain.ndim == 2 else np.asarray(Image.fromarray(np.ascontiguousarray(plain)).convert("L"))


def _content(grey: np.ndarray) -> np.ndarray:
    """(H, W) without a border of one value, so that a picture matches its copy padded to a square.

    A row or column belongs to the border while 99 % of it lie within 4 % of the picture's range about the value of the
    upper left corner. A picture that would lose everything stays whole.
    """
    tolerance = 0.04 * (int(grey.max()) - int(grey.min()))
    away = np.abs(grey.astype(np.int16) - int(grey[0, 0])) > tolerance
    rows, columns = np.flatnonzero(away.mean(axis=1) > 0.01), np.flatnonzero(away.mean(axis=0) > 0.01)
    if not len(rows) or not len(columns):
        return grey
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resized(grey: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(grey)).convert("F")
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)


def _cosine_bits(grey: np.ndarray) -> np.ndarray:
    """(4,) uint64: signs of the 16 x 16 lowest coefficients of the two-dimensional DCT-II about their median.

    The mean, which brightness changes, and the overall gain, which contrast changes, do not move a sign: the constant term
    is left out of the median.
    """
    basis = _cosines()
    low = (basis @ _resized(grey, _DCT_SIDE).astype(np.float64) @ basis.T).ravel()
    return np.packbits(low > np.median(low[1:])).view(np.uint64)


@functools.cache
def _cosines() -> np.ndarray:
    """(16, 64): rows of the DCT-II, cos(pi / 64 * (n + 1/2) * k)."""
    n, k = np.arange(_DCT_SIDE), np.arange(_HASH_SIDE)
    return np.asarray(np.cos(np.pi / _DCT_SIDE * (n[None, :] + 0.5) * k[:, None]))


def _sampling(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred coordinates (S,) -> linear interpolation as an (S, S) matrix, and which coordinates lie inside."""
    side = len(places)
    at = places + (side - 1) / 2
    inside = (at >= 0) & (at <= side - 1)
    low = np.clip(np.floor(at).astype(int), 0, side - 2)
    share = np.clip(at - low, 0, 1)
    matrix = np.zeros((side, side))
    matrix[np.arange(side), low] = 1 - share
    matrix[np.arange(side), low + 1] = share
    return matrix, inside
