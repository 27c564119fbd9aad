"""The masks of a folder and the pictures they belong to: every segmentation frame and every contour, by the picture's number.

Made from headers once; masks themselves are read when a picture is. Must not know which segments are lesions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.dicom.index import Index
from medclm.corpus.dicom.names import Named
from medclm.corpus.dicom.placing import Placing
from medclm.corpus.dicom.reading import guarded, read_dataset, read_header
from medclm.corpus.dicom.segmentation import Segmentation, read_segmentation
from medclm.corpus.dicom.structures import MAX_BYTES, Roi, read_structures


@dataclass(frozen=True)
class Mark:
    """One thing that is drawn on one picture."""

    file: int
    """Number of the file that holds it."""
    number: int
    """Of the segment or region."""
    named: Named
    identity: str
    """Equal for one thing in space."""
    parts: tuple[int, ...]
    """Frames of the segmentation, or contours of the region, counting from 0."""
    is_contour: bool


@dataclass(frozen=True)
class Marks:
    """Everything drawn on the pictures of a folder."""

    of_picture: dict[int, tuple[Mark, ...]]
    names: tuple[Named, ...]
    """Of everything, also of what belongs to no picture here."""
    rejects: tuple[Reject, ...]


def find_marks(index: Index) -> Marks:
    """Reads the headers of all segmentations and the contours of all structure sets."""
    placing = Placing([picture.placed for picture in index.pictures])
    found: dict[int, list[Mark]] = {}
    names: list[Named] = []
    rejects: list[Reject] = []
    for number in index.segmentations:
        try:
            segmentation = open_segmentation(index.files[number])
        except RejectedImage as rejection:
            rejects.append(Reject(f"files[{number}]", rejection.reason, rejection.detail))
            continue
        names += segmentation.segments.values()
        rejects += _place_segmentation(number, segmentation, placing, found)
    for number in index.structures:
        try:
            rois = open_structures(index.files[number])
        except RejectedImage as rejection:
            rejects.append(Reject(f"files[{number}]", rejection.reason, rejection.detail))
            continue
        names += [roi.named for roi in rois]
        for roi in rois:
            rejects += _place_roi(number, roi, placing, found)
    return Marks({picture: tuple(marks) for picture, marks in found.items()}, tuple(dict.fromkeys(names)), tuple(rejects))


def open_segmentation(path: Path) -> Segmentation:
    """Raises RejectedImage as `read_header` and `read_segmentation`."""
    header = read_header(path)
    with guarded():
        return read_segmentation(header)


def open_structures(path: Path) -> tuple[Roi, ...]:
    """Raises RejectedImage as `read_dataset` and `read_structures`."""
    header = read_dataset(path, MAX_BYTES)
    with guarded():
        return read_structures(header)


def _place_segmentation(file: int, segmentation: Segmentation, placing: Placing, found: dict[int, list[Mark]]) -> list[Reject]:
    frames: dict[tuple[int, int], list[int]] = {}
    astray = 0
    for one in segmentation.frames:
        points = None if one.plane is None else one.plane.corners()
        pictures = placing.find(one.references, points, segmentation.frame_of_reference)
        astray += not pictures
        for picture in pictures:
            frames.setdefault((picture, one.segment), []).append(one.frame)
    for (picture, segment), numbers in frames.items():
        mark = Mark(
            file, segment, segmentation.segments[segment], segmentation.identities[segment], tuple(numbers), is_contour=False
        )
        found.setdefault(picture, []).append(mark)
    return _astray(f"files[{file}]", astray, len(segmentation.frames), "frames")


def _place_roi(file: int, roi: Roi, placing: Placing, found: dict[int, list[Mark]]) -> list[Reject]:
    where = f"files[{file}].rois[{roi.number}]"
    contours: dict[int, list[int]] = {}
    astray = 0
    for number, contour in enumerate(roi.contours):
        pictures = placing.find(contour.references, contour.points, roi.frame_of_reference)
        astray += not pictures
        for picture in pictures:
            contours.setdefault(picture, []).append(number)
    for picture, numbers in contours.items():
        mark = Mark(file, roi.number, roi.named, roi.identity, tuple(numbers), is_contour=True)
        found.setdefault(picture, []).append(mark)
    refused = [] if roi.refusal is None else [Reject(where, roi.refusal.reason, roi.refusal.detail)]
    return [*refused, *_astray(where, astray, len(roi.contours), "contours")]


def _astray(where: str, astray: int, count: int, what: str) -> list[Reject]:
    if not astray:
        return []
    detail = f"{astray} of {count} {what} belong to no picture of this folder: add the pictures they were drawn on"
    return [Reject(where, "mask_unreferenced", detail)]
