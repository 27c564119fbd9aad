"""The masks that are drawn on a picture, read when they are needed and put on the picture's own grid.

Holds what was last read, since the pictures of a series share their masks; nothing of it crosses to another process. Must not
know which masks are lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.geometry import Plane, in_slice, onto_grid, same_grid
from medclm.corpus.dicom.marks import Mark, open_segmentation, open_structures
from medclm.corpus.dicom.segmentation import frame_mask, segment_parts
from medclm.corpus.dicom.structures import contour_mask
from medclm.recent import Recent


class Drawings:
    """The masks of a folder."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._headers = Recent(8)
        self._parts = Recent(16)

    def parts(self, mark: Mark, plane: Plane | None, size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
        """The connected parts of a mark on a picture; a region of contours is one thing.

        Args:
            plane: of the picture, None = unknown.
            size: (width, height) of the picture.

        Returns:
            (identity in space, (H, W) bool) of each, none of them empty.

        Raises:
            RejectedImage: as `mask`.
        """
        if mark.is_contour:
            mask = self.mask(mark, plane, size)
            return [(mark.identity, mask)] if mask.any() else []
        path = self._files[mark.file]
        segmentation = self._headers.get(path, lambda: open_segmentation(path))
        found = self._parts.get((path, mark.number), lambda: segment_parts(path, segmentation, mark.number))
        labels = np.zeros((size[1], size[0]), np.int32)
        for one in segmentation.frames:
            if one.frame in mark.parts and one.frame in found:
                drawn = found[one.frame].full(segmentation.shape)
                labels = np.maximum(labels, _fitted(drawn, one.plane, plane, size))
        return [(f"{mark.identity}/{part}", labels == part) for part in np.unique(labels[labels > 0]).tolist()]

    def mask(self, mark: Mark, plane: Plane | None, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool of a mark on a picture; arguments as in `parts`.

        Raises:
            RejectedImage: mask_size, mask_off_plane, mask_plane_unknown, or a reason of segmentation.py, structures.py, reading.py.
        """
        path = self._files[mark.file]
        if mark.is_contour:
            if plane is None:
                raise RejectedImage("mask_plane_unknown", "contours need the position and spacing of their picture")
            rois = self._headers.get(path, lambda: open_structures(path))
            contours = next(roi.contours for roi in rois if roi.number == mark.number)
            return contour_mask([contours[number] for number in mark.parts], plane)
        segmentation = self._headers.get(path, lambda: open_segmentation(path))
        drawn = np.zeros((size[1], size[0]), bool)
        for one in segmentation.frames:
            if one.frame in mark.parts:
                drawn |= _fitted(frame_mask(path, segmentation, one.frame), one.plane, plane, size)
        return drawn


def _fitted(drawn: np.ndarray, source: Plane | None, target: Plane | None, size: tuple[int, int]) -> np.ndarray:
    """(h, w) values as drawn -> (H, W) on the picture's grid, nearest pixel."""
    if source is not None and target is not None and drawn.shape == source.shape:
        if same_grid(source, target):
            return drawn
        if not in_slice(target, source.corners()):
            off = float(np.abs(target.distance(source.corners())).max())
            raise RejectedImage("mask_off_plane", f"the mask passes {off:.1f} mm beside its picture: check its references")
        return onto_grid(drawn, source, target)
    if drawn.shape != (size[1], size[0]):
        raise RejectedImage(
            "mask_size",
            f"a mask of {drawn.shape[1]} x {drawn.shape[0]} on a picture of {size[0]} x {size[1]}, and no position to fit it by",
        )
    return drawn
