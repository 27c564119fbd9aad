"""Pairs and groups of near-duplicates among many pictures, by their fingerprints, in memory that does not grow with them.

Every pair of 256-bit hashes is compared, in blocks; what the hashes propose is decided on thumbnails made when needed.
Must not know of files, corpora or splits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medclm.corpus.fingerprints import Fingerprints, same_exposure, thumbnail

SHORTLIST_BITS = 64
"""Pairs whose 256-bit hashes differ in at most this many bits are looked at. Measured on 150 chest films
(benchmarks/near_duplicates.py): copies recompressed, resized or relit differ in up to 34 bits, 149 of 150 copies cropped by 2 % or
padded lie within 64; of 10,335 pairs of different patients none does, 1 lies within 72 and 10 within 80."""
_BLOCK = (256, 8192)
_THUMBNAILS_KEPT = 1024

Pixels = Callable[[int], np.ndarray]
"""Number of a picture -> its uint8 pixels, (H, W) or (H, W, 3)."""


def equal_pairs(first: Fingerprints, second: Fingerprints | None = None) -> np.ndarray:
    """(K, 2) int64 pairs (row of first, row of second) with equal pixels, sorted; without `second` pairs i < j of the first."""
    other = first if second is None else second
    places: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(~other.flat):
        places.setdefault(other.exact[row].tobytes(), []).append(int(row))
    found = [
        (int(row), place)
        for row in np.flatnonzero(~first.flat)
        for place in places.get(first.exact[row].tobytes(), ())
        if second is not None or row < place
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def shortlist(
    first: Fingerprints, second: Fingerprints | None = None, *, most_bits: int = SHORTLIST_BITS
) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs whose hashes differ in at most `most_bits` bits, flat pictures left out; memory stays at some 40 MB.

    Yields:
        How many rows of `first` were looked at, for a progress bar, and their (K, 2) int64 pairs (row of first, row of
        second), maybe none; without `second` pairs i < j of the first.
    """
    other = first if second is None else second
    for top in range(0, len(first), _BLOCK[0]):
        ours = first.bits[top : top + _BLOCK[0]]
        found = [np.empty((0, 2), np.int64)]
        for left in range(0 if second is not None else top // _BLOCK[1] * _BLOCK[1], len(other), _BLOCK[1]):
            near = _distances(ours, other.bits[left : left + _BLOCK[1]]) <= most_bits
            near &= ~first.flat[top : top + _BLOCK[0], None] & ~other.flat[None, left : left + _BLOCK[1]]
            pairs = np.argwhere(near) + np.array([top, left])
            found.append(pairs if second is not None else pairs[pairs[:, 0] < pairs[:, 1]])
        yield len(ours), np.concatenate(found)


def confirmed(pairs: np.ndarray, first: Thumbnails, second: Thumbnails) -> np.ndarray:
    """The (K, 2) pairs of a shortlist that show one exposure."""
    kept = [same_exposure(first(int(i)), second(int(j))) for i, j in pairs]
    return np.asarray(pairs[np.array(kept, bool)])


class Thumbnails:
    """Thumbnails of numbered pictures, made when asked for; the last thousand or so are kept (64 MB)."""

    def __init__(self, pixels: Pixels) -> None:
        self._make = functools.lru_cache(_THUMBNAILS_KEPT)(lambda number: thumbnail(pixels(number)))

    def __call__(self, number: int) -> np.ndarray:
        return self._make(number)


def near_duplicate_groups(prints: Fingerprints, pixels: Pixels, owner: Sequence[int] | None = None) -> list[np.ndarray]:
    """Pictures that show one exposure, as groups of two and more.

    Args:
        prints: of N pictures.
        pixels: decodes a picture again; asked only for those on the shortlist, so that memory does not grow with N.
        owner: patient of each picture as a number; pairs of one patient are not looked at, since a patient is in one split
            anyway. None compares all.

    Returns:
        Sorted int64 arrays of picture numbers, ordered by their first; a picture is in at most one. Groups are connected
        components: a - b and b - c put a and c together.
    """
    owners = None if owner is None else np.asarray(owner)
    thumbnails = Thumbnails(pixels)
    root = np.arange(len(prints))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = int(root[number])
        return number

    def join(pairs: np.ndarray) -> None:
        for i, j in pairs:
            a, b = find(int(i)), find(int(j))
            root[max(a, b)] = min(a, b)

    def others(pairs: np.ndarray) -> np.ndarray:
        return pairs if owners is None else pairs[owners[pairs[:, 0]] != owners[pairs[:, 1]]]

    join(others(equal_pairs(prints)))
    for _, pairs in shortlist(prints):
        joined = np.array([find(int(i)) == find(int(j)) for i, j in pairs], bool)
        join(confirmed(others(pairs[~joined]), thumbnails, thumbnails))
    return _groups(np.array([find(number) for number in range(len(prints))], np.int64))


def _groups(roots: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(roots, kind="stable")
    cuts = np.flatnonzero(np.diff(roots[order])) + 1
    return [group for group in np.split(order, cuts) if len(group) > 1]


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(A, 4) and (B, 4) uint64 -> (A, B) uint16 differing bits."""
    counts = np.zeros((len(first), len(second)), np.uint16)
    for word in range(first.shape[1]):
        counts += np.bitwise_count(first[:, None, word] ^ second[None, :, word])
    return counts
