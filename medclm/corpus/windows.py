"""Which grey values are visible: windows by lesion class, organ or header, and the mapping to 8 bits.

A liver tumour cannot be seen in a lung window, so what is annotated decides what is shown. Knows arrays and names; no files.
Values are (centre, width) in Hounsfield units (the usual settings of radiology departments; DICOM PS3.3 C.11.2 for the map).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Window = tuple[float, float]

LUNG: Window = (-600, 1500)
SOFT_TISSUE: Window = (40, 400)
LIVER: Window = (60, 160)
BONE: Window = (400, 1800)
BRAIN: Window = (40, 80)
SUBDURAL: Window = (75, 215)
MULTI3 = (LUNG, SOFT_TISSUE, BONE)
"""The three windows of `window_mode` multi3, as red, green and blue."""

_WORDS: tuple[tuple[Window, tuple[str, ...]], ...] = (
    (SUBDURAL, ("subdural", "epidural")),
    (LUNG, ("lung", "pulmonary", "emphysema", "pneumothorax", "ground glass", "honeycombing", "bulla")),
    (LIVER, ("liver", "hepatic")),
    (
        BONE,
        ("fracture", "bone", "rib", "vertebra", "skull", "sternum", "clavicle", "scapula", "femur", "hip", "humerus", "sacrum"),
    ),
    (BRAIN, ("brain", "hemorrhage", "infarct", "cerebr", "intracranial", "ventricular", "subarachnoid")),
    (SOFT_TISSUE, ("mediastin", "abdomen", "kidney", "spleen", "pancreas", "lymph", "colon", "stomach", "adrenal", "heart")),
)


def choose_window(classes: Iterable[str], organs: Iterable[str], header: Window | None) -> Window | None:
    """The CT window of a picture: by its lesion classes, else by the organs in it that are largest first, else the header's.

    None = nothing speaks for any window.
    """
    for names in (classes, organs):
        for name in names:
            for window, words in _WORDS:
                if any(word in name.lower() for word in words):
                    return window
    return header


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """(H, W) values -> (H, W) uint8, linear between centre - width / 2 and centre + width / 2, clipped."""
    centre, width = window
    scaled = (values.astype(np.float32) - np.float32(centre - width / 2)) * np.float32(255 / width)
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)


def show_ct(values: np.ndarray, window: Window, mode: str) -> tuple[np.ndarray, tuple[float, ...]]:
    """HU (H, W) -> 8-bit picture and the window as stored: (H, W) in one window, or (H, W, 3) in `MULTI3`."""
    if mode == "multi3":
        return np.stack([apply_window(values, one) for one in MULTI3], axis=2), tuple(n for one in MULTI3 for n in one)
    return apply_window(values, window), window


def mr_window(values: np.ndarray) -> Window:
    """The 0.5 to 99.5 percentile of the foreground as a window; foreground = above a tenth of the 99th percentile, since air
    holds nothing but noise.

    Args:
        values: of the whole volume, any shape; not finite ones are ignored.
    """
    finite = values[np.isfinite(values)]
    foreground = finite[finite > 0.1 * np.percentile(finite, 99)] if finite.size else finite
    if not foreground.size:
        return (float(finite.mean()) if finite.size else 0.0, 1.0)
    low, high = np.percentile(foreground, (0.5, 99.5))
    return float(low + high) / 2, max(float(high - low), 1e-6)
