"""One frame of a DICOM file -> a picture: what is shown of it, what its header says, what its values measure.

The road is: header judged (refuse.py) -> frame decoded (reading.py) -> modality LUT -> VOI -> MONOCHROME1 -> 8 bits. A slice of
CT ends in Hounsfield units instead, since its window depends on lesions and organs that are not known here. Must not know those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medclm.corpus.contract import Header, RejectedImage
from medclm.corpus.dicom.colour import GREY, colour_pixels
from medclm.corpus.dicom.grey import is_hounsfield, padding, physical_values, show_as_stated
from medclm.corpus.dicom.header import read_facts, region_spacing
from medclm.corpus.dicom.kept import Kept
from medclm.corpus.dicom.reading import guarded, read_frame, read_header
from medclm.corpus.dicom.refuse import check_is_image, check_length, frame_count, judge_burned_in
from medclm.corpus.dicom.view import FrameView
from medclm.corpus.windows import Window, apply_window, mr_window


@dataclass(frozen=True)
class Scale:
    """How the signal of an MR volume is shown and compared."""

    window: Window
    mean: float
    deviation: float
    """Of the foreground, above 0."""


@dataclass(frozen=True)
class DicomPicture:
    """A frame, cut to what may be shown."""

    pixels: np.ndarray | None
    """(H, W) or (H, W, 3) uint8. None = a slice of CT: to be made of `intensity` in the window that its lesions need."""
    kept: Kept
    header: Header
    window: Window | None = None
    intensity: np.ndarray | None = None
    """(H, W) float32: Hounsfield units, or standard scores of an MR volume's foreground; NaN where nothing is shown or measured."""


def read_dicom(
    path: Path, frame: int | None, *, burned_in: str, max_pixels: int, window: Window | None, scale: Scale | None = None
) -> DicomPicture:
    """A frame as a picture.

    Args:
        path: a DICOM file.
        frame: counting from 0; None = its only one.
        burned_in: reject, mask or allow (see refuse.py).
        max_pixels: largest width x height, checked in the header.
        window: declared (centre, width) for pictures of more than 8 bits whose header has none.
        scale: of the MR volume that the frame belongs to; None = the frame is all there is of it.

    Raises:
        RejectedImage: a reason of reading.py, refuse.py, grey.py or colour.py, image_animated (several frames, none asked for),
            image_mode (values that are not finite).
    """
    header = read_header(path)
    with guarded():
        check_is_image(header, max_pixels)
        check_length(header, path.stat().st_size)
        kept = judge_burned_in(header, burned_in)
        frames = frame_count(header)
        if frame is None and frames > 1:
            raise RejectedImage(
                "image_animated", f"{frames} frames: give one file per picture, or the folder as --source dicom"
            )
    if (frame or 0) >= frames:
        raise RejectedImage("image_truncated", f"frame {frame} of {frames}: the file has changed")
    stored = read_frame(path, frame or 0)
    with guarded():
        return _developed(stored, header, frame or 0, kept, window, scale)


def mr_scale(pictures: list[np.ndarray]) -> Scale:
    """Window and foreground of a volume by its values; mean 0 and deviation 1 where it has no foreground.

    Args:
        pictures: (H, W) float32 each, NaN = not measured.
    """
    values = np.concatenate([picture[np.isfinite(picture)] for picture in pictures]) if pictures else np.zeros(0, np.float32)
    shown = mr_window(values)
    foreground = values[values > 0.1 * np.percentile(values, 99)] if values.size else values
    deviation = float(foreground.std()) if foreground.size else 0.0
    return Scale(shown, float(foreground.mean()) if foreground.size else 0.0, deviation if deviation > 0 else 1.0)


def signal_values(path: Path, frame: int) -> np.ndarray:
    """(H, W) float32 of a grey frame after the modality LUT, NaN where it is padding; raises RejectedImage."""
    header = read_header(path)
    stored = read_frame(path, frame)
    with guarded():
        view = FrameView(header, frame)
        return _measured(stored, physical_values(stored, view), view)


def is_signal(header: Dataset) -> bool:
    """Whether it is a grey picture of MR, shown by the percentiles of its volume."""
    view = FrameView(header)
    return view.text("Modality") == "MR" and view.text("PhotometricInterpretation") in GREY


def _developed(
    stored: np.ndarray, header: Dataset, frame: int, kept: Kept, window: Window | None, scale: Scale | None
) -> DicomPicture:
    view = FrameView(header, frame)
    facts = read_facts(view)
    if kept.crop:
        facts = replace(facts, spacing_mm=region_spacing(view), original_size=kept.stored_size)
    if view.text("PhotometricInterpretation") not in GREY or stored.ndim != 2:
        return DicomPicture(kept.array(colour_pixels(stored, view)), kept, facts)
    values = physical_values(stored, view)
    if not np.isfinite(values).all():
        raise RejectedImage("image_mode", "values that are not finite: convert it to whole numbers")
    measured = _measured(stored, values, view)
    if is_hounsfield(view, facts.modality):
        return DicomPicture(None, kept, facts, intensity=kept.array(measured))
    intensity, used = None, None
    if is_signal(header):
        scale = scale or mr_scale([measured])
        used = scale.window
        pixels = apply_window(values, used)
        intensity = kept.array((measured - np.float32(scale.mean)) / np.float32(scale.deviation))
    else:
        pixels, used = show_as_stated(values, view, window)
    if view.text("PhotometricInterpretation") == "MONOCHROME1":
        pixels = 255 - pixels
    pixels[np.isnan(measured)] = 0
    return DicomPicture(kept.array(pixels), kept, facts, used, intensity)


def _measured(stored: np.ndarray, values: np.ndarray, view: FrameView) -> np.ndarray:
    """The values with NaN where the frame is padded."""
    empty = padding(stored, view)
    return values if empty is None or not empty.any() else np.where(empty, np.float32(np.nan), values)
