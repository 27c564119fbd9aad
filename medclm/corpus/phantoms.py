"""Procedural medical pictures with lesions, organ masks and truth: the demo's data, and the tests' ground truth.

    phantom = draw_phantom(seed=0, index=7, size=128, small_lesions=False)

A phantom is a pure function of its arguments: draws are keyed by them, so any process may draw any picture in any
order and get the same bytes. Layers are painted back to front (anatomy, lesions, texture, noise), the acquisition is
mirrored for some patients, and a side marker is added last. Knows nothing of corpora: sources/phantoms.py tells those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medclm.corpus.phantom_anatomy import (
    CLASSES,
    FLOOR_SIDE,
    LESION_SIDES,
    LONGEST,
    LOOKS,
    SHORTEST,
    SIDE_LIMITS,
    SMALL_SIDES,
    Contrast,
    Look,
    organ_of,
    side_of,
)
from medclm.corpus.phantom_lesions import BoolMap, FloatMap, Patch, draw_lesion
from medclm.corpus.phantom_painting import add_noise, anatomy_grid, develop, paint_anatomy
from medclm.draws import generator
from medclm.types import Box

SMALLEST_SIZE = 64
"""Pixels a side under which shapes blur."""
_COUNT_WEIGHTS = (0.08, 0.80, 0.08, 0.04)
"""Share of images with 0, 1, 2, 3 lesions."""
_REPEAT_SHARE = 0.5
"""Share of second and third lesions that repeat the first one's class."""
_MIRRORED_SHARE = 0.15
_LEAST_INSIDE = 0.7
"""Share of a lesion's pixels that lie in its host organ."""
_REDRAWS = 16
_SPOTS = 16
"""Places tried for each drawing of a lesion; every redraw is smaller."""
_BLOCK = 6
"""Consecutive images that three patients share, with 1, 2 and 3 images in a drawn order."""
_LETTERS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1010", "1001"),
}


@dataclass(frozen=True)
class Patient:
    number: int
    image: int
    """0, 1 or 2: which of the patient's pictures this is."""
    sex: str
    age_decade: int
    mirrored: bool
    """Their pictures were taken mirrored: the patient's left lies image-left."""


@dataclass(frozen=True)
class Lesion:
    lesion_class: str
    organ_mask: str
    """Name of the host's mask, side included."""
    mask: BoolMap
    box_px: Box
    """Tight box of the mask."""

    @property
    def organ(self) -> str:
        """Host organ without its side."""
        return organ_of(self.organ_mask)

    @property
    def side(self) -> str | None:
        """`left` or `right` of a paired host, else None."""
        return side_of(self.organ_mask)


@dataclass(frozen=True)
class Phantom:
    look: Look
    patient: Patient
    pixels: np.ndarray
    """(size, size) uint8."""
    intensity: FloatMap | None
    """(size, size): HU for CT, z-scores of the body for MR, None elsewhere."""
    organs: dict[str, BoolMap]
    lesions: tuple[Lesion, ...]
    marker: str | None
    """Letter drawn at the border on the patient's side that it names."""

    @property
    def directions(self) -> str | None:
        """Patient directions of +x and +y in this picture."""
        plain = self.look.directions
        return plain if plain is None or not self.mirrored else f"R{plain[1:]}"

    @property
    def mirrored(self) -> bool:
        """Ultrasound has no patient directions and is never mirrored."""
        return self.patient.mirrored and self.look.directions is not None


def draw_phantom(
    *, seed: int, index: int, size: int, small_lesions: bool, lesion_sides: tuple[float, float] | None = None
) -> Phantom:
    """The phantom at a position.

    Args:
        seed: which endless series.
        index: position in it, from 0.
        size: image side in pixels, at least 64.
        small_lesions: lesions of 2-6 % of the image side instead of 12.5-34.5 %.
        lesion_sides: their longest side over the image side, drawn evenly between these two, instead of either.
    """
    patient = patient_of(seed=seed, index=index)
    rng = generator(seed, "phantom.scene", index)
    look = _choose_look(rng)
    grid = anatomy_grid(size=size, rng=rng)
    scene, body, organs = paint_anatomy(look, grid=grid, rng=rng)
    sides = lesion_sides or (SMALL_SIDES if small_lesions else None)
    placer = _Placer(look=look, organs=organs, body=body, sides=sides, rng=generator(seed, "phantom.lesions", index))
    scene, lesions = placer.place_all(scene)
    scene = add_noise(scene, look=look, body=body, rng=generator(seed, "phantom.noise", index))
    pixels, intensity = develop(scene, look=look, body=body, rng=rng)
    mirrored = patient.mirrored and look.directions is not None
    if mirrored:
        pixels, intensity = pixels[:, ::-1], None if intensity is None else intensity[:, ::-1]
        organs = {name: mask[:, ::-1] for name, mask in organs.items()}
        lesions = [(name, host, mask[:, ::-1]) for name, host, mask in lesions]
    pixels = np.ascontiguousarray(pixels)
    marker = _add_marker(pixels, look=look, mirrored=mirrored, rng=rng)
    return Phantom(
        look=look,
        patient=patient,
        pixels=pixels,
        intensity=None if intensity is None else np.ascontiguousarray(intensity),
        organs={name: np.ascontiguousarray(mask) for name, mask in organs.items()},
        lesions=tuple(Lesion(name, host, np.ascontiguousarray(mask), tight_box(mask)) for name, host, mask in lesions),
        marker=marker,
    )


def patient_of(*, seed: int, index: int) -> Patient:
    """Who is on the picture at `index`; six consecutive pictures show three patients, so no scan is needed."""
    block, offset = divmod(index, _BLOCK)
    counts = generator(seed, "phantom.block", block).permutation([1, 2, 3])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    position = int(np.searchsorted(starts, offset, side="right")) - 1
    number = 3 * block + position
    rng = generator(seed, "phantom.patient", number)
    return Patient(
        number=number,
        image=offset - int(starts[position]),
        sex="FM"[rng.integers(2)],
        age_decade=int(10 * rng.integers(2, 9)),
        mirrored=bool(rng.random() < _MIRRORED_SHARE),
    )


def tight_box(mask: BoolMap) -> Box:
    """Smallest pixel box around a mask, far edges exclusive."""
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))


def _choose_look(rng: np.random.Generator) -> Look:
    pictures = LOOKS[rng.integers(len(LOOKS))]
    return pictures[rng.integers(len(pictures))]


class _Placer:
    """Puts the lesions of one picture into its organs; `sides` None: each class has its own."""

    def __init__(
        self,
        *,
        look: Look,
        organs: dict[str, BoolMap],
        body: BoolMap,
        sides: tuple[float, float] | None,
        rng: np.random.Generator,
    ) -> None:
        self.look, self.organs, self.body, self.sides, self.rng = look, organs, body, sides, rng
        self.size = body.shape[0]
        self.taken = np.zeros_like(body)

    def place_all(self, scene: FloatMap) -> tuple[FloatMap, list[tuple[str, str, BoolMap]]]:
        """The scene with its lesions, and (class, host mask, lesion mask) of each."""
        lesions: list[tuple[str, str, BoolMap]] = []
        for lesion_class in self._choose_classes():
            host = self._choose_host()
            found = self._find_place(lesion_class, self.organs[host])
            if found is None:
                continue  # no room beside the lesions before it; a first lesion always finds room
            patch, row, column = found
            mask = np.zeros_like(self.taken)
            window = _window(patch, row, column)
            mask[window] = patch.mask
            self.taken[window] = True  # whole boxes stay apart, so that each can be told from its neighbour
            contrast = self.look.contrast[lesion_class]
            if contrast.behind:
                _change_echo_below(scene, mask, contrast)
            strength = np.float32(self.rng.uniform(0.85, 1.1))
            scene[window] += strength * (patch.core * np.float32(contrast.core) + patch.rim * np.float32(contrast.rim))
            lesions.append((lesion_class, host, mask))
        return scene, lesions

    def _choose_classes(self) -> list[str]:
        count = int(self.rng.choice(len(_COUNT_WEIGHTS), p=_COUNT_WEIGHTS))
        classes = [CLASSES[number] for number in self.rng.integers(len(CLASSES), size=count)]
        return [classes[0] if position and self.rng.random() < _REPEAT_SHARE else name for position, name in enumerate(classes)]

    def _choose_host(self) -> str:
        organs = list(self.look.host_weights)
        organ = organs[self.rng.choice(len(organs), p=list(self.look.host_weights.values()))]
        masks = [name for name in self.organs if organ_of(name) == organ]
        return masks[self.rng.integers(len(masks))]

    def _find_place(self, lesion_class: str, organ: BoolMap) -> tuple[Patch, int, int] | None:
        """A patch and its centre: drawn again a little smaller until it fits."""
        low, high = self.sides or LESION_SIDES[lesion_class]
        floor = low if self.sides else FLOOR_SIDE
        side = self.rng.uniform(low, high)
        spots = np.flatnonzero(organ & ~self.taken)
        for _ in range(_REDRAWS if spots.size else 0):
            patch = draw_lesion(lesion_class, side * self.size, self.rng)
            if self._right_size(patch):
                for spot in self.rng.choice(spots, size=_SPOTS):
                    row, column = divmod(int(spot), self.size)
                    if self._fits(patch, row, column, organ):
                        return patch, row, column
            side = max(0.9 * side, floor)
        return None

    def _right_size(self, patch: Patch) -> bool:
        if not patch.mask.any():
            return False
        low, high = SIDE_LIMITS if self.sides is None else (SHORTEST * self.sides[0], LONGEST * self.sides[1])
        box = tight_box(patch.mask)
        return bool(low * self.size <= min(box.width, box.height) and max(box.width, box.height) <= high * self.size)

    def _fits(self, patch: Patch, row: int, column: int, organ: BoolMap) -> bool:
        if min(row, column) < patch.half or max(row, column) + patch.half >= self.size:
            return False
        window = _window(patch, row, column)
        inside = np.count_nonzero(patch.mask & organ[window])
        blocked = patch.mask & (self.taken[window] | ~self.body[window])
        return bool(inside >= _LEAST_INSIDE * np.count_nonzero(patch.mask) and not blocked.any())


def _window(patch: Patch, row: int, column: int) -> tuple[slice, slice]:
    return slice(row - patch.half, row + patch.half + 1), slice(column - patch.half, column + patch.half + 1)


def _change_echo_below(scene: FloatMap, mask: BoolMap, contrast: Contrast) -> None:
    """Ultrasound behind stones fades (acoustic shadow), behind fluid it grows (enhancement); in place."""
    box = tight_box(mask)
    width = (box.width - 2) / 2
    x = np.arange(mask.shape[1], dtype=np.float32) + 0.5 - (box.x0 + box.x1) / 2
    across = np.clip((width - np.abs(x)) / 2, 0, 1)
    below = np.arange(mask.shape[0], dtype=np.float32)[:, None] - box.y1
    along = np.where(below >= 0, np.clip(1 - below / (0.45 * mask.shape[0]), 0, 1), 0)
    scene *= (1 + contrast.behind * across * along).astype(np.float32)


def _add_marker(pixels: np.ndarray, *, look: Look, mirrored: bool, rng: np.random.Generator) -> str | None:
    """Draws L or R in an upper corner, on the side that it names: always on mirrored pictures, on half of the radiographs."""
    letter = "LR"[rng.integers(2)]
    if not mirrored and (look.modality != "DX" or rng.random() < 0.5):
        return None
    size = pixels.shape[0]
    bitmap = np.array([[dot == "1" for dot in row] for row in _LETTERS[letter]])
    dot = max(size // 64, 1)
    bitmap = np.kron(bitmap, np.ones((dot, dot), dtype=bool))
    height, width = bitmap.shape
    margin = size // 40 + 1
    image_left = (letter == "R") != mirrored
    left = margin if image_left else size - margin - width
    pixels[margin : margin + height, left : left + width][bitmap] = 235
    return letter
