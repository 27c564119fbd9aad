"""Colour frames as decoded -> (H, W, 3) uint8. Knows one frame and its header; nothing of files."""

from __future__ import annotations

import numpy as np
from pydicom.pixels.processing import apply_color_lut

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.view import FrameView

GREY = ("MONOCHROME1", "MONOCHROME2")
_DECODED = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colours that `reading.read_frame` gives as RGB already."""


def colour_pixels(stored: np.ndarray, view: FrameView) -> np.ndarray:
    """(H, W, 3) RGB, or (H, W) indices of a palette -> (H, W, 3) uint8.

    Raises:
        RejectedImage: image_mode (a photometric interpretation that has no way to RGB), image_16_bit.
    """
    photometric = view.text("PhotometricInterpretation")
    if photometric == "PALETTE COLOR" and stored.ndim == 2:
        return _from_palette(stored, view)
    if stored.ndim != 3 or stored.shape[2] != 3 or photometric not in _DECODED:
        raise RejectedImage("image_mode", "neither grey, RGB, YBR nor a palette: convert it to one of them")
    if stored.dtype != np.uint8:
        raise RejectedImage("image_16_bit", f"colour of {8 * stored.dtype.itemsize} bits a channel: convert it to 8 bits first")
    return stored


def _from_palette(stored: np.ndarray, view: FrameView) -> np.ndarray:
    """By the palette's own colours; 16-bit entries give their upper byte, unless all of them are 8-bit numbers in disguise."""
    colours = np.asarray(apply_color_lut(stored, view.header))
    if colours.dtype == np.uint8:
        return colours
    bits = int(view.header.RedPaletteColorLookupTableDescriptor[2])
    if bits <= 8 or colours.max() <= 255:
        return np.asarray(np.minimum(colours, 255), np.uint8)
    return np.asarray(colours >> (bits - 8), np.uint8)
