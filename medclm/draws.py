"""Counter-based randomness: every draw is named by (seed, purpose, position), never by when or where it happens.

A sample's box colour, a window's shuffle or an initial weight is thus the same on any rank, in any thread, after a resume
and in any order of calls. Imports numpy alone; knows nothing of what is drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """A fresh generator whose stream depends on the arguments only; different arguments give unrelated streams.

    Args:
        seed: the run's or build's seed.
        purpose: what is drawn, e.g. `order.window`; two uses share a stream only if they share the name.
        position: where, e.g. epoch and window, or a sample's global position.

    The 128-bit Philox key is the BLAKE2b hash of the arguments, so it is the same on every machine and Python version.
    """
    name = repr((int(seed), str(purpose), *(int(number) for number in position)))
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def uniforms(seed: int, purpose: str, positions: np.ndarray) -> np.ndarray:
    """One uniform number per position, vectorised: for whole global batches, where a generator each would be slow.

    Args:
        positions: (n,) integers, not negative.

    Returns:
        (n,) float64 in [0, 1); element i depends on (seed, purpose, positions[i]) only. A keyed SplitMix64 (Steele, Lea and
        Flood 2014): the position is spread by the golden-ratio constant, added to the key and mixed.
    """
    key = generator(seed, purpose).integers(0, 2**64, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        z = np.asarray(positions).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
