"""Draws one lesion as a small patch. The class is told by shape, edge and brightness alone, in any organ and look:

nodule         bright, evenly filled, smooth disc
cyst           disc of opposite brightness with a thin rim
mass           bright star: several tapering spicules around a dark (necrotic) centre
calcification  cluster of three or four very bright (T2: dark) separate grains
contusion      mottled cloud, bright and dark patches in turn, without an edge

Knows nothing of organs, looks or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]
BoolMap = NDArray[np.bool_]


@dataclass(frozen=True)
class Patch:
    """A lesion on a (side, side) window of odd side, centred."""

    core: FloatMap
    """Up to 1, how much of `Contrast.core` is added; negative in a necrotic centre."""
    rim: FloatMap
    """0..1, how much of `Contrast.rim` is added."""
    mask: BoolMap

    @property
    def half(self) -> int:
        """Pixels from the central one to the window's edge."""
        return int(self.mask.shape[0]) // 2


def draw_lesion(lesion_class: str, side_px: float, rng: np.random.Generator) -> Patch:
    """A lesion whose longest extent is about `side_px` pixels.

    Raises:
        ValueError: unknown class.
    """
    radius = side_px / 2
    half = int(np.ceil(radius)) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    none = np.zeros_like(x)
    match lesion_class:
        case "nodule":
            core = _inside(radius - _stretched(x, y, rng))
            return Patch(core=core, rim=none, mask=core > 0.5)
        case "cyst":
            depth = radius - _stretched(x, y, rng)
            thickness = max(0.15 * radius, 1.0)
            disc = _inside(depth)
            core = _inside(depth - thickness)
            return Patch(core=core, rim=disc - core, mask=disc > 0.5)
        case "mass":
            star = _inside(_star_depth(x, y, radius, rng))
            necrosis = _inside(np.float32(0.3 * radius) - np.hypot(x, y))
            return Patch(core=star - 1.6 * necrosis, rim=none, mask=star > 0.5)
        case "calcification":
            core = _inside(_grain_depth(x, y, radius, rng))
            return Patch(core=core, rim=none, mask=core > 0.5)
        case "contusion":
            cloud, mottle = _cloud(x, y, radius, rng)
            return Patch(core=cloud * mottle, rim=none, mask=cloud > 0.25)
    raise ValueError(f"unknown lesion class {lesion_class!r}")


def _inside(depth_px: FloatMap) -> FloatMap:
    """Coverage 0..1 from the depth below the surface: an edge one pixel wide."""
    coverage: FloatMap = np.clip(depth_px + 0.5, 0.0, 1.0).astype(np.float32)
    return coverage


def _stretched(x: FloatMap, y: FloatMap, rng: np.random.Generator) -> FloatMap:
    """Distance to the centre, up to 12 % larger across a random axis."""
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.12)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    return np.hypot(along, across * np.float32(stretch))


def _star_depth(x: FloatMap, y: FloatMap, radius: float, rng: np.random.Generator) -> FloatMap:
    spicules = int(rng.integers(5, 8))
    phase = rng.uniform(0, 2 * np.pi)
    wave = 0.5 + 0.5 * np.cos(spicules * np.arctan2(y, x) + np.float32(phase))
    return (np.float32(radius) * (0.5 + 0.5 * wave * wave) - np.hypot(x, y)).astype(np.float32)


def _grain_depth(x: FloatMap, y: FloatMap, radius: float, rng: np.random.Generator) -> FloatMap:
    grains = int(rng.integers(3, 5))
    grain = radius * (0.40 if grains == 3 else 0.35)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(grains) + rng.uniform(-0.08, 0.08, grains)) / grains
    depth = np.full_like(x, -np.inf)
    for angle in angles:
        distance = np.hypot(x - np.float32(np.cos(angle) * (radius - grain)), y - np.float32(np.sin(angle) * (radius - grain)))
        depth = np.maximum(depth, np.float32(grain) - distance)
    return depth


def _cloud(x: FloatMap, y: FloatMap, radius: float, rng: np.random.Generator) -> tuple[FloatMap, FloatMap]:
    """Density 0..1, fading towards the edge, and the mottling that it carries, from -1 to 1.7."""
    phase = rng.uniform(0, 2 * np.pi, 4)
    angle = np.arctan2(y, x)
    reach = radius * (0.92 + 0.05 * np.cos(2 * angle + phase[0]) + 0.05 * np.cos(3 * angle + phase[1]))
    fade = np.clip((reach - np.hypot(x, y)) / (0.45 * reach) + 0.05, 0.0, 1.0)
    step = 2 * np.pi / (0.7 * radius)
    mottle = 0.35 + 1.35 * np.cos(step * x + phase[2]) * np.cos(step * y + phase[3])
    return (fade * fade * (3 - 2 * fade)).astype(np.float32), mottle.astype(np.float32)
