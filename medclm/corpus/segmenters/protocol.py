"""What a segmenter offers, and what its adapters share: the message where a package is missing, and the way to a square."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from medclm.corpus.contract import SourceImage


class LabelVolume(NamedTuple):
    """Organs of a volume."""

    values: np.ndarray
    """(X, Y, Z) whole numbers, in the voxels of the input."""
    class_map: Mapping[int, str]
    """Value -> organ name (lower case, side last); 0 is none."""


class AnatomySegmenter(Protocol):
    """Finds organs by itself. Slow: whoever calls it keeps the results."""

    name: str
    works_on: str
    """pictures or volumes: which of the two methods does not refuse."""

    def suits(self, image: SourceImage) -> bool:
        """Whether it was made for this modality and plane."""
        ...

    def segment(self, image: SourceImage) -> Mapping[str, np.ndarray]:
        """Organ name (lower case, side last) -> (H, W) bool of `image.pixels`.

        Raises:
            ValueError: it works on volumes alone.
        """
        ...

    def segment_volume(self, values: np.ndarray, affine: np.ndarray) -> LabelVolume:
        """Organs of a volume.

        Args:
            values: (X, Y, Z) float, HU for CT.
            affine: (4, 4) from voxel index to millimetres, RAS as in NIfTI.

        Raises:
            ValueError: it works on pictures alone.
        """
        ...


def need(module: str, *, package: str, licence: str) -> ModuleType:
    """The module of an optional package.

    Raises:
        ValueError: it is not installed, or not a version that can be imported here.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = f"{module} needs {error.name}" if error.name and error.name != module.split(".")[0] else "it is not installed"
        raise ValueError(
            f"segmenter {package}: {missing}: run `pip install {package}` and read its licence first ({licence})"
        ) from error


@dataclass(frozen=True)
class Square:
    """A picture laid into a black square of `side` pixels, aspect kept, and the way back for masks."""

    side: int
    shape: tuple[int, int]
    """(H, W) of the picture."""

    @property
    def _inner(self) -> tuple[int, int]:
        longest = max(self.shape)
        return max(1, round(self.shape[0] * self.side / longest)), max(1, round(self.shape[1] * self.side / longest))

    def lay(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, 3) uint8 -> (side, side) uint8, grey, the picture at the top left."""
        height, width = self._inner
        grey = Image.fromarray(pixels).convert("L").resize((width, height), Image.Resampling.BILINEAR)
        out = np.zeros((self.side, self.side), np.uint8)
        out[:height, :width] = np.asarray(grey)
        return out

    def back(self, mask: np.ndarray) -> np.ndarray:
        """(side, side) bool -> (H, W) bool."""
        height, width = self._inner
        inner = Image.fromarray(mask[:height, :width].astype(np.uint8))
        out: np.ndarray = np.asarray(inner.resize((self.shape[1], self.shape[0]), Image.Resampling.NEAREST)) != 0
        return out


def is_frontal_film(image: SourceImage) -> bool:
    """Whether it may be given to a segmenter of frontal chest radiographs."""
    return image.modality in ("DX", "CR", "XR") and image.plane == "frontal"
