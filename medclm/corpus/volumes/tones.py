"""From the values of a volume to what is seen and what is measured: HU for CT, a window and z-scores for MR.

One volume has one tone, worked out from all of it, so that a slice with a lesion does not look different from one without.
A slice of CT stays in HU here; its window is chosen once its lesions and organs are known. Knows values only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.windows import Window, apply_window, mr_window

BODY_SHARE = 0.1
"""Least share of tissue in a picture that may be called free of a lesion."""
_AIR_HU = -500.0


@dataclass(frozen=True)
class Tone:
    """How the slices of one volume are shown."""

    hounsfield: bool
    window: Window | None
    """None = HU, or 8 bits that are shown as they are."""
    body_above: float
    """Values above it are tissue."""
    fill: float
    """Is shown for values that are not finite."""
    scores: tuple[float, float] | None = None
    """Mean and standard deviation of the foreground, for z-scores."""


@dataclass(frozen=True)
class Shown:
    """One slice."""

    pixels: np.ndarray | None
    """(H, W) uint8; None = `intensity` is in HU."""
    window: Window | None
    intensity: np.ndarray | None
    """(H, W) float32 of HU or z-scores; NaN where nothing was measured."""


def tone_of(values: np.ndarray, *, modality: str | None, window: Window | None) -> Tone:
    """The tone of a whole volume.

    Args:
        values: all of it, any numeric dtype.
        modality: DICOM code; CT and MR have rules, others need `window` above 8 bits.
        window: as declared; goes before the percentiles of MR.

    Raises:
        RejectedImage: volume_not_finite, volume_constant, ct_not_hounsfield, volume_16_bit.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        raise RejectedImage("volume_not_finite", "no value is a finite number: write the volume anew")
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        raise RejectedImage("volume_constant", f"every value is {low:g}: give a volume with a picture in it")
    if values.dtype == np.uint8:
        return Tone(False, None, max(8.0, 0.05 * high), 0.0)
    if modality == "CT":
        if low >= 0:
            raise RejectedImage(
                "ct_not_hounsfield", f"values {low:g} to {high:g}: HU of air is -1000, so apply slope and intercept first"
            )
        return Tone(True, None, _AIR_HU, low)
    if modality == "MR":
        foreground = _foreground(finite)
        mean, spread = float(foreground.mean(dtype=np.float64)), float(foreground.std(dtype=np.float64))
        scores = (mean, spread) if spread > 0 else None
        return Tone(False, window or mr_window(finite), float(foreground.min()), low, scores)
    if window is None:
        raise RejectedImage(
            "volume_16_bit",
            f"values {low:g} to {high:g} of {modality or 'unknown modality'}: say --modality CT or MR, or --window CENTRE,WIDTH",
        )
    return Tone(False, window, window[0] - 0.45 * window[1], low)


def show(values: np.ndarray, tone: Tone) -> Shown:
    """One slice, (H, W) float32, as it is handed on."""
    measured = np.isfinite(values)
    if tone.hounsfield:
        return Shown(None, None, np.where(measured, values, np.float32(np.nan)))
    values = np.where(measured, values, np.float32(tone.fill))
    if tone.window is None:
        return Shown(np.rint(values).astype(np.uint8), None, None)
    scores = None
    if tone.scores is not None:
        mean, spread = tone.scores
        scores = ((values - np.float32(mean)) / np.float32(spread)).astype(np.float32)
    return Shown(apply_window(values, tone.window), tone.window, scores)


def in_body(values: np.ndarray, tone: Tone) -> bool:
    """Whether enough of a slice, (H, W), is tissue."""
    return bool(np.mean(values > tone.body_above) >= BODY_SHARE)


def _foreground(finite: np.ndarray) -> np.ndarray:
    """As in `windows.mr_window`: above a tenth of the 99th percentile; everything where that leaves nothing."""
    found: np.ndarray = finite[finite > 0.1 * np.percentile(finite, 99)]
    return found if found.size else finite
