"""A picture as it is opened, with the frame its annotations are in and what its own file says of it.

Pictures are ordinary files or DICOM; a slice of CT stays in Hounsfield units until it is known what must be visible. Must not know
any format of annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from medclm.corpus.contract import Header, RejectedImage
from medclm.corpus.dicom.picture import Scale, read_dicom
from medclm.corpus.dicom.reading import looks_like_dicom
from medclm.corpus.pixels import read_picture
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.windows import choose_window, show_ct
from medclm.types import Box

_BLACK_HU = -1e5
"""Below every window: what is not measured is black."""


class Frame(Protocol):
    """The way from the frame that annotations are in to the stored picture."""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the annotations' frame."""
        ...

    def array(self, stored: np.ndarray) -> np.ndarray:
        """(H, W) mask of the annotations' frame -> of the picture."""
        ...

    def box(self, box_px: Box) -> Box:
        """A box of the annotations' frame -> in pixels of the picture; may leave it where the picture is a part."""
        ...


@dataclass(frozen=True)
class Opened:
    """A picture with the frame its annotations are in."""

    pixels: np.ndarray | None
    """(H, W) or (H, W, 3) uint8, upright. None = a slice of CT: `intensity` is in Hounsfield units and is shown in the window
    that its lesions and organs need, once they are known."""
    frame: Frame
    """From the annotations' frame to the pixels."""
    header: Header = field(default_factory=Header)
    """What the file itself says; it goes before declarations."""
    window: tuple[float, ...] | None = None
    intensity: np.ndarray | None = None
    """(H, W) float32 of physical values, upright; NaN where nothing was measured."""
    visible_px: Box | None = None
    """What of the picture is not blackened; None = all of it."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the annotations' frame."""
        return self.frame.stored_size


def open_picture(path: Path, declared_size: tuple[int, int] | None, options: SourceOptions) -> Opened:
    """The picture of a file, DICOM or one that `read_picture` reads; raises RejectedImage as those do, and size_mismatch."""
    if looks_like_dicom(path):
        return open_dicom(path, None, options, declared_size)
    picture = read_picture(path, max_pixels=options.max_pixels, sixteen_bit=options.window)
    frame = picture.exif_transform.for_annotations(declared_size, options.box_frame)
    return Opened(picture.pixels, frame, window=options.window if picture.windowed else None)


def open_dicom(
    path: Path,
    frame: int | None,
    options: SourceOptions,
    declared_size: tuple[int, int] | None = None,
    scale: Scale | None = None,
) -> Opened:
    """A frame of a DICOM file (None = its only one); raises RejectedImage as `read_dicom`, and size_mismatch."""
    found = read_dicom(
        path, frame, burned_in=options.burned_in, max_pixels=options.max_pixels, window=options.window, scale=scale
    )
    size = found.kept.stored_size
    if declared_size not in (None, size):
        raise RejectedImage(
            "size_mismatch",
            f"annotations are for another size than {size[0]} x {size[1]} pixels: give the picture that was annotated",
        )
    return Opened(found.pixels, found.kept, found.header, found.window, found.intensity, found.kept.visible_px)


def shown_pixels(
    opened: Opened, classes: Sequence[str], organs: Mapping[str, np.ndarray], options: SourceOptions
) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """The 8-bit picture and its window; of CT the window for these classes, else its largest organ, else by header or declaration.

    Args:
        classes: canonical, most telling first.
        organs: name -> (H, W) bool of the picture.

    Raises:
        RejectedImage: window_unknown.
    """
    if opened.pixels is not None:
        return opened.pixels, opened.window
    assert opened.intensity is not None, "a picture without pixels is a slice of CT in Hounsfield units"
    by_size = sorted(organs, key=lambda organ: -int(np.count_nonzero(organs[organ])))
    window = choose_window(classes, by_size, opened.header.window or options.window)
    if window is None and options.window_mode == "single":
        raise RejectedImage(
            "window_unknown", "no class, organ or header says which values of the CT are visible: give --window CENTRE,WIDTH"
        )
    values = np.nan_to_num(opened.intensity, nan=_BLACK_HU)
    return show_ct(values, window or (0.0, 1.0), options.window_mode)
