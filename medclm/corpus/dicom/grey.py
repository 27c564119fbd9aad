"""Stored grey values -> what they measure, and -> 8 bits as the header wants them shown (PS3.3 C.11.1, C.11.2).

Modality LUT or rescale first, then the VOI. Knows one frame's values and its header; nothing of files, classes or organs.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.header import is_localizer, read_window
from medclm.corpus.dicom.view import FrameView, items
from medclm.corpus.windows import Window, apply_window


def physical_values(stored: np.ndarray, view: FrameView) -> np.ndarray:
    """(H, W) as decoded -> (H, W) float32 after the modality LUT; raises whatever pydicom does on a malformed one."""
    tables = items(view.header, "ModalityLUTSequence")
    if tables:
        entries, _ = _looked_up(stored, tables[0], view.header)
        return entries
    slope, intercept = view.value("RescaleSlope"), view.value("RescaleIntercept")
    if slope is None or intercept is None:
        return np.asarray(stored, np.float32)
    return np.asarray(stored * float(slope) + float(intercept), np.float32)


def is_hounsfield(view: FrameView, modality: str | None) -> bool:
    """Whether physical values are Hounsfield units: a rescaled slice of CT that is not declared to be something else.

    A type that is not stated is HU, and so is an unspecified one (US) of an original picture (PS3.3 C.8.2.1.1).
    """
    kind = view.text("RescaleType")
    return (
        modality == "CT"
        and (kind in (None, "HU") or (kind == "US" and "ORIGINAL" in view.frame_type()[:1]))
        and view.value("RescaleIntercept") is not None
        and view.text("PhotometricInterpretation") == "MONOCHROME2"
        and not is_localizer(view)
    )


def padding(stored: np.ndarray, view: FrameView) -> np.ndarray | None:
    """(H, W) bool: pixels that show nothing, by PixelPaddingValue and its range limit; None = there is no such value."""
    value = view.number("PixelPaddingValue")
    if value is None:
        return None
    limit = view.number("PixelPaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    if view.number("PixelRepresentation") == 1:  # some writers give a negative value as if it had no sign
        over = 1 << int(view.number("BitsAllocated") or 16)
        ends = [end - over if end >= over / 2 else end for end in ends]
    low, high = sorted(ends)
    return (stored >= low) & (stored <= high)


def show_as_stated(values: np.ndarray, view: FrameView, window: Window | None) -> tuple[np.ndarray, Window | None]:
    """(H, W) physical values -> uint8 as the header wants them seen, and the (centre, width) that did it.

    Args:
        values: float32, all finite.
        window: declared by the user, for a header that says nothing of more than 8 bits.

    Returns:
        The picture before MONOCHROME1 is turned; no window for a VOI LUT or values that are 8 bits already.

    Raises:
        RejectedImage: image_16_bit, where nothing says which values are visible.
    """
    tables = view.value("VOILUTSequence")
    if tables:
        entries, bits = _looked_up(np.rint(values).astype(np.int64), tables[0], view.header)
        return np.asarray(np.rint(np.clip(entries * np.float32(255 / ((1 << bits) - 1)), 0, 255)), np.uint8), None
    stated = read_window(view)
    if stated is not None:
        return _by_window(values, stated, view.text("VOILUTFunction")), stated
    bits = int(view.number("BitsStored") or 16)
    plain = view.number("PixelRepresentation") in (None, 0) and (values.min() >= 0 and values.max() < 1 << bits)
    if bits <= 8 and plain:
        return np.asarray(np.rint(values * np.float32(255 / ((1 << bits) - 1))), np.uint8), None
    if window is None:
        raise RejectedImage(
            "image_16_bit",
            f"grey of {bits} bits (values {values.min():g} to {values.max():g}) and no window in the header: say which of them "
            "are visible with --window CENTRE,WIDTH",
        )
    return apply_window(values, window), window


def _looked_up(values: np.ndarray, table: Dataset, header: Dataset) -> tuple[np.ndarray, int]:
    """(H, W) whole numbers -> (H, W) float32 entries of a LUT and their bits; beyond its ends the first and last one (C.11.1.1)."""
    count, first, bits = (int(one) for one in table.LUTDescriptor)
    count = count or 1 << 16  # which the field is too narrow for
    data = table.LUTData
    if isinstance(data, bytes):
        order = "<" if header.original_encoding[1] in (None, True) else ">"
        data = np.frombuffer(data, np.uint8 if len(data) <= count + 1 else f"{order}u2")
    entries = np.asarray(data, np.float32)[:count]
    if len(entries) < count or not 1 <= bits <= 16:
        raise RejectedImage("image_header", f"a lookup table of {len(entries)} instead of {count} entries: write it anew")
    return entries[np.clip(values.astype(np.int64) - first, 0, count - 1)], bits


def _by_window(values: np.ndarray, window: Window, function: str | None) -> np.ndarray:
    centre, width = window
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            curve = 1 / (1 + np.exp(np.float32(-4 / width) * (values - np.float32(centre))))
        return np.asarray(np.rint(255 * curve), np.uint8)
    if function == "LINEAR_EXACT":
        return apply_window(values, window)
    # LINEAR: the first and the last of `width` whole values are black and white (C.11.2.1.2.1)
    if width <= 1:
        return np.where(values > centre - 0.5, np.uint8(255), np.uint8(0))
    return apply_window(values, (centre - 0.5, width - 1))
