"""The layers of a phantom beside its lesions: anatomy from ellipses, texture and noise, development to 8 bits.

Anatomy is painted back to front on a shifted, scaled, turned and gently bent grid. Knows nothing of lesions or patients.
"""

from __future__ import annotations

import numpy as np

from medclm.corpus.phantom_anatomy import Ellipse, Look, Part
from medclm.corpus.phantom_lesions import BoolMap, FloatMap

_FAT_PLANE = 0.018
"""Width of the fat between neighbouring organs on sections, in anatomy units."""


def anatomy_grid(*, size: int, rng: np.random.Generator) -> tuple[FloatMap, FloatMap]:
    """Anatomy coordinates of every pixel: the body is shifted, scaled, turned and gently bent."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    shift_x, shift_y = rng.uniform(-0.09, 0.09, 2)
    scale_x, scale_y = rng.uniform(0.86, 1.06, 2)
    turn = np.deg2rad(rng.uniform(-8, 8))
    x, y = axis[None, :] - np.float32(shift_x), axis[:, None] - np.float32(shift_y)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    bend_x, bend_y = (0.035 * _slow_field(size=size, cells=3, rng=rng) for _ in range(2))
    return (cos * x + sin * y) / np.float32(scale_x) + bend_x, (cos * y - sin * x) / np.float32(scale_y) + bend_y


def _slow_field(*, size: int, cells: int, rng: np.random.Generator) -> FloatMap:
    """(size, size) smooth noise of about unit variance: a coarse normal grid, blended by a cosine. Elementwise only, since
    matrix products may round differently from thread to thread."""
    coarse = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    position = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(cells / size)
    low = np.minimum(position.astype(np.int64), cells - 1)
    blend = (0.5 - 0.5 * np.cos(np.pi * (position - low))).astype(np.float32)
    rows = coarse[low] * (1 - blend)[:, None] + coarse[low + 1] * blend[:, None]
    field: FloatMap = rows[:, low] * (1 - blend) + rows[:, low + 1] * blend
    return field


def _depth(part: Part, *, grid: tuple[FloatMap, FloatMap], rng: np.random.Generator) -> FloatMap:
    """About how deep each point lies within the part, in anatomy units, negative outside."""
    move, grow, turn = rng.uniform(-0.03, 0.03, 2), rng.uniform(0.93, 1.07, 2), rng.uniform(-5, 5)
    if part.name is None:
        move, grow, turn = 0 * move, np.ones(2), 0.0
    depth = np.full_like(grid[0], -np.inf)
    for ellipse in part.ellipses:
        at = _ellipse_depth(ellipse, grid=grid, move=move, grow=grow, turn=turn)
        depth = np.minimum(depth, -at) if ellipse.cut else np.maximum(depth, at)
    return depth


def _ellipse_depth(
    ellipse: Ellipse, *, grid: tuple[FloatMap, FloatMap], move: np.ndarray, grow: np.ndarray, turn: float
) -> FloatMap:
    a, b = ellipse.a * grow[0], ellipse.b * grow[1]
    angle = np.deg2rad(ellipse.tilt + turn)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = grid[0] - np.float32(ellipse.x + move[0]), grid[1] - np.float32(ellipse.y + move[1])
    u = x * np.float32(cos / a) + y * np.float32(sin / a)
    v = y * np.float32(cos / b) - x * np.float32(sin / b)
    u *= u
    v *= v
    if ellipse.boxy:
        u *= u
        v *= v
    # 1 - r^2 has slope about 2/a at the surface (1 - r^4: 4/a), so this is a distance near it.
    return (1 - u - v) * np.float32(min(a, b) / (4 if ellipse.boxy else 2))


def paint_anatomy(
    look: Look, *, grid: tuple[FloatMap, FloatMap], rng: np.random.Generator
) -> tuple[FloatMap, BoolMap, dict[str, BoolMap]]:
    """Grey levels without noise, the body's mask, and the organs' masks (disjoint: what lies in front wins)."""
    size = grid[0].shape[0]
    scene = np.full((size, size), look.levels["air"], dtype=np.float32)
    label = np.zeros((size, size), dtype=np.int8)
    sector = _sector(size) if look.sector else None
    body: BoolMap | None = None
    names: list[str] = []
    edge = np.float32(size / 3)  # an edge about 3 % of half the image wide
    for part in look.parts:
        depth = _depth(part, grid=grid, rng=rng)
        coverage = np.clip(depth * edge + 0.5, 0, 1) * np.float32(part.opacity)
        if body is None:
            body = (depth > 0) if sector is None else sector
        else:
            coverage *= body
        if part.name is not None and "belly" in look.levels:
            halo = np.clip((depth + _FAT_PLANE) * edge + 0.5, 0, 1) * body
            scene += (np.float32(look.levels["belly"]) - scene) * halo
        scene += (np.float32(look.levels[part.tissue]) - scene) * coverage
        if part.name is not None:
            names.append(part.name)
            label[(depth > 0) & body] = len(names)
        elif part.opacity == 1:
            label[depth > 0] = 0
    assert body is not None
    if sector is not None:
        scene *= sector
    return scene, body, {name: label == number for number, name in enumerate(names, start=1)}


def _sector(size: int) -> BoolMap:
    """An ultrasound fan: apex above the image, 50 degrees to each side."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = axis[None, :], axis[:, None] + np.float32(1.55)
    radius = np.hypot(x, y)
    fan: BoolMap = (np.abs(x) < np.float32(0.95) * y) & (radius > 0.62) & (radius < 2.48)
    return fan


def add_noise(scene: FloatMap, *, look: Look, body: BoolMap, rng: np.random.Generator) -> FloatMap:
    """Slow texture within the body and noise everywhere; ultrasound gets speckle, which grows with the echo."""
    size = scene.shape[0]
    texture = _slow_field(size=size, cells=9, rng=rng) * np.float32(look.texture)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    # Neighbours share some noise, as they do after reconstruction; x and y alike.
    grain[1:] += np.float32(0.5) * grain[:-1]
    grain[:, 1:] += np.float32(0.5) * grain[:, :-1]
    grain *= np.float32(look.noise / 1.25)
    if look.sector:
        return (scene + texture * body) * (1 + grain)
    return scene + texture * body + grain


def develop(scene: FloatMap, *, look: Look, body: BoolMap, rng: np.random.Generator) -> tuple[np.ndarray, FloatMap | None]:
    """The 8-bit picture and the physical values behind it."""
    gain, offset = rng.uniform(0.92, 1.08), rng.uniform(-0.02, 0.02)
    if look.window is not None:
        centre, width = look.window
        hu = np.maximum(scene, np.float32(-1024))
        return _eight_bit((hu - np.float32(centre - width / 2)) / np.float32(width)), hu
    pixels = _eight_bit(scene * np.float32(gain) + np.float32(offset))
    if look.modality != "MR":
        return pixels, None
    tissue = scene[body].astype(np.float64)
    return pixels, ((scene - tissue.mean()) / tissue.std()).astype(np.float32)


def _eight_bit(unit: FloatMap) -> np.ndarray:
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
