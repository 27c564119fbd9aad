"""Label maps: pictures whose pixel values are organs.

Split once into masks by a class map; values that the map does not know are told, not guessed. Slices of label volumes go the
same way (`split_labels`). Must not know lesions or anatomy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.pixels import MAX_PIXELS, read_values

LOSSY = (".jpg", ".jpeg")
_SHOWN = 8


def read_label_map(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W) integers, upright; a palette counts by index, any bit depth is fine.

    Raises:
        RejectedImage: organ_mask_lossy, organ_labels_mode (colours or fractions), or a reason of `read_picture`.
    """
    if path.suffix.lower() in LOSSY:
        raise RejectedImage("organ_mask_lossy", "JPEG changes the values of a label map: give it as PNG")
    values = read_values(path, max_pixels=max_pixels)
    if values.ndim != 2 or values.dtype.kind not in "iub":
        what = f"{values.shape[2]} channels" if values.ndim == 3 else f"values of type {values.dtype}"
        raise RejectedImage("organ_labels_mode", f"a picture with {what}: a label map has one channel of whole numbers")
    return values


def split_labels(labels: np.ndarray, class_map: Mapping[int, str]) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """(H, W) integers -> organ -> (H, W) bool, and the values above 0 that the class map does not know.

    Several values of one organ are joined; an organ without a pixel is left out.
    """
    organs: dict[str, np.ndarray] = {}
    unknown = []
    for value in np.unique(labels):
        number = int(value)
        if number == 0:
            continue
        organ = class_map.get(number)
        if organ is None:
            unknown.append(number)
        elif organ in organs:
            organs[organ] |= labels == value
        else:
            organs[organ] = labels == value
    return organs, tuple(unknown)


def unknown_values(values: tuple[int, ...]) -> RejectedImage:
    """Why some pixels of a label map became no organ."""
    shown = ", ".join(map(str, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")
    return RejectedImage("organ_label_unknown", f"values {shown} are not in the class map: add them or check which map it is")


def fit(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) mask or label map at the scale of an image of `size` (width, height), by nearest pixel.

    Raises:
        RejectedImage: organ_mask_size, where it differs by more than scale.
    """
    height, width = values.shape
    if (width, height) == size:
        return values
    # two roundings of half a pixel each are all that a change of scale may do to the shape
    tolerance = min(0.02, 0.5 / min(width, height) + 0.5 / min(size))
    if abs(width * size[1] / (height * size[0]) - 1) > tolerance:
        raise RejectedImage(
            "organ_mask_size",
            f"a mask of {width} x {height} is not the image of {size[0]} x {size[1]} at another scale: redo it",
        )
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.intp)
    return np.asarray(values[rows[:, None], columns])
