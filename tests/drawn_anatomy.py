"""Small drawn anatomy for tests of linking: discs for organs, lesions cut from them, and images made of both."""

from __future__ import annotations

import dataclasses

import numpy as np

from medclm.corpus.contract import LinkedImage, SourceAnnotation, SourceImage
from medclm.types import Box

SIZE = 96
Y, X = np.mgrid[:SIZE, :SIZE] + 0.5


def disc(x: float, y: float, a: float, b: float | None = None) -> np.ndarray:
    return ((X - x) / a) ** 2 + ((Y - y) / (b or a)) ** 2 < 1


def lesion(mask: np.ndarray, name: str = "cyst", number: int = 0, *, with_mask: bool = True) -> SourceAnnotation:
    ys, xs = np.nonzero(mask)
    box = Box(float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
    return SourceAnnotation(f"annotations[{number}]", name, name, box, mask if with_mask else None)


def image(*lesions: SourceAnnotation, **changes) -> SourceImage:
    given = {
        "index": "images[0]",
        "key": "a",
        "pixels": np.full((SIZE, SIZE), 90, np.uint8),
        "source": "test",
        "licence": "none",
        "shareable": True,
        "annotations": lesions,
        "modality": "CT",
        "plane": "axial",
        "patient_directions": "L\\P",
    }
    return SourceImage(**given | changes)


BODY = disc(48, 48, 45, 40)
ABDOMEN = {
    "liver": disc(28, 42, 20, 22),
    "spleen": disc(78, 46, 10, 16),
    "kidney right": disc(30, 72, 9),
    "kidney left": disc(66, 72, 9),
}
CHEST = {
    "lung right": disc(26, 44, 17, 34),
    "lung left": disc(70, 44, 17, 34) & ~disc(57, 58, 20, 16),
    "heart": disc(57, 58, 20, 16),
}


def host(linked: LinkedImage, number: int = 0) -> tuple[str | None, str]:
    """Organ and relation of one annotation."""
    return linked.annotations[number].organ, linked.annotations[number].organ_relation


def turned(made: SourceImage, flip_x: bool, flip_y: bool, swap: bool) -> SourceImage:
    """The same patient written in another orientation: pixels, masks, boxes and directions change together."""
    opposite = dict(zip("LRAPHF", "RLPAFH", strict=True))

    def move(array: np.ndarray) -> np.ndarray:
        array = array.T if swap else array
        return np.ascontiguousarray(array[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    x, y = made.patient_directions.split("\\")
    x, y = (y, x) if swap else (x, y)
    directions = f"{opposite[x] if flip_x else x}\\{opposite[y] if flip_y else y}"
    lesions = tuple(lesion(move(each.mask), each.lesion_class, number) for number, each in enumerate(made.annotations))
    organs = {name: move(mask) for name, mask in made.organs.items()}
    return dataclasses.replace(
        made, pixels=move(made.pixels), annotations=lesions, organs=organs, patient_directions=directions
    )
