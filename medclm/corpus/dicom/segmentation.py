"""DICOM segmentations (SEG): which frame shows which segment of which picture, and the masks themselves (PS3.3 C.8.20).

A segment of a class may hold several lesions, so its frames are stacked and split into connected parts; each keeps its number
through all its slices. Must not know which segments are lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.geometry import Plane, read_plane
from medclm.corpus.dicom.names import Named
from medclm.corpus.dicom.reading import read_frame
from medclm.corpus.dicom.refuse import frame_count
from medclm.corpus.dicom.view import FrameView, items

THRESHOLD = 0.5
"""Least share of the greatest value that is inside, in fractional segmentations."""
_GAP = 1.5
"""Frames further apart than this many usual steps do not touch."""

Reference = tuple[str, int | None]
"""SOPInstanceUID, and the frame from 0 (None = not stated)."""


@dataclass(frozen=True)
class SegmentFrame:
    """One frame of a segmentation."""

    frame: int
    segment: int
    references: tuple[Reference, ...]
    """Pictures that it was drawn on."""
    plane: Plane | None


@dataclass(frozen=True)
class Segmentation:
    """What the header of a segmentation says."""

    uid: str
    frame_of_reference: str | None
    segments: Mapping[int, Named]
    identities: Mapping[int, str]
    """Segment -> what is equal for one thing in space, wherever it was segmented."""
    frames: tuple[SegmentFrame, ...]
    shape: tuple[int, int]
    """Rows, columns."""
    least: float
    """Least stored value that is inside."""


@dataclass(frozen=True)
class Parts:
    """The connected parts of a segment within one frame."""

    corner: tuple[int, int]
    """Row and column of the window's first pixel."""
    labels: np.ndarray
    """(h, w) int32 within the window: 0 = outside, else the number of the part."""

    def full(self, shape: tuple[int, int]) -> np.ndarray:
        """(H, W) int32."""
        out = np.zeros(shape, np.int32)
        top, left = self.corner
        out[top : top + self.labels.shape[0], left : left + self.labels.shape[1]] = self.labels
        return out


def read_segmentation(header: Dataset) -> Segmentation:
    """Raises RejectedImage: segmentation_type (neither BINARY nor FRACTIONAL), segmentation_unreadable (no segments, no frames)."""
    view = FrameView(header)
    kind = view.text("SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL"):
        raise RejectedImage("segmentation_type", "neither BINARY nor FRACTIONAL: convert it to one of them")
    uid, place = view.identity("SOPInstanceUID") or "", view.identity("FrameOfReferenceUID")
    segments, identities = {}, {}
    for item in items(header, "SegmentSequence"):
        one = FrameView(item)
        number = one.number("SegmentNumber")
        if number is not None:
            segments[int(number)] = _named(one)
            identities[int(number)] = one.identity("TrackingUID") or f"{place or ''}/{uid}/{int(number)}"
    stated = min(frame_count(header), len(items(header, "PerFrameFunctionalGroupsSequence")))
    frames = [frame for number in range(stated) if (frame := _frame(header, number, segments)) is not None]
    if not frames:
        raise RejectedImage("segmentation_unreadable", "no frame says which segment it shows: write it anew")
    least = THRESHOLD * (view.number("MaximumFractionalValue") or 255) if kind == "FRACTIONAL" else 1
    shape = int(view.number("Rows") or 0), int(view.number("Columns") or 0)
    return Segmentation(uid, place, segments, identities, tuple(frames), shape, least)


def frame_mask(path: Path, segmentation: Segmentation, frame: int) -> np.ndarray:
    """(H, W) bool of one frame; raises RejectedImage as `reading.read_frame`."""
    stored = read_frame(path, frame)
    if stored.shape != segmentation.shape:
        raise RejectedImage("segmentation_unreadable", "a frame has several samples per pixel: write it anew")
    return np.asarray(stored >= segmentation.least)


def segment_parts(path: Path, segmentation: Segmentation, segment: int) -> dict[int, Parts]:
    """Frame -> connected parts of a segment (26 neighbours), numbered from 1 through all its frames; empty frames are left out.

    Frames without a position, or two at the same one, are taken each for itself.

    Raises:
        RejectedImage: as `reading.read_frame`.
    """
    windows: dict[int, tuple[tuple[int, int], np.ndarray]] = {}
    for one in segmentation.frames:
        if one.segment == segment:
            mask = frame_mask(path, segmentation, one.frame)
            if mask.any():
                windows[one.frame] = _windowed(mask)
    planes = {one.frame: one.plane for one in segmentation.frames if one.frame in windows}
    runs = _runs(planes)
    found: dict[int, Parts] = {}
    count = 0
    for run in runs:
        top, left, bottom, right = _bounds([windows[frame] for frame in run])
        volume = np.zeros((len(run), bottom - top, right - left), bool)
        for depth, frame in enumerate(run):
            (y, x), mask = windows[frame]
            volume[depth, y - top : y - top + mask.shape[0], x - left : x - left + mask.shape[1]] = mask
        labels, parts = ndimage.label(volume, structure=np.ones((3, 3, 3)))
        labels = np.where(labels > 0, labels + count, 0).astype(np.int32)
        count += int(parts)
        for depth, frame in enumerate(run):
            found[frame] = Parts((top, left), labels[depth])
    return found


def _runs(planes: Mapping[int, Plane | None]) -> list[list[int]]:
    """Frames in order along their normal, cut where one is missing between two."""
    first = next((plane for plane in planes.values() if plane is not None), None)
    if first is None or not all(plane is not None and plane.parallel_to(first) for plane in planes.values()):
        return [[frame] for frame in planes]
    heights = {frame: float(first.normal @ np.asarray(plane.origin)) for frame, plane in planes.items() if plane is not None}
    order = sorted(heights, key=lambda frame: heights[frame])
    steps = np.diff([heights[frame] for frame in order])
    if len(steps) and steps.min() < 1e-3:
        return [[frame] for frame in order]
    usual = first.thickness or float(steps.min(initial=np.inf))
    runs = [[frame] for frame in order[:1]]
    for frame, step in zip(order[1:], steps, strict=True):
        if step > _GAP * usual:
            runs.append([])
        runs[-1].append(frame)
    return runs


def _windowed(mask: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(rows[0]), int(columns[0])), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()


def _bounds(windows: Sequence[tuple[tuple[int, int], np.ndarray]]) -> tuple[int, int, int, int]:
    tops, lefts = [corner[0] for corner, _ in windows], [corner[1] for corner, _ in windows]
    bottoms = [corner[0] + mask.shape[0] for corner, mask in windows]
    rights = [corner[1] + mask.shape[1] for corner, mask in windows]
    return min(tops), min(lefts), max(bottoms), max(rights)


def _named(view: FrameView) -> Named:
    label = view.identity("SegmentLabel") or ""
    for item in items(view.header, "SegmentedPropertyTypeCodeSequence")[:1]:
        code = FrameView(item)
        sides = [FrameView(one).text("CodeMeaning") for one in items(item, "SegmentedPropertyTypeModifierCodeSequence")]
        side = next((str(one).lower() for one in sides if one in ("LEFT", "RIGHT")), "")
        return Named(label, code.identity("CodeMeaning") or "", side)
    return Named(label)


def _frame(header: Dataset, number: int, segments: Mapping[int, Named]) -> SegmentFrame | None:
    """What frame `number` shows; None where it does not say which segment."""
    view = FrameView(header, number)
    identified = [item for group in view.groups for item in items(group, "SegmentIdentificationSequence")]
    shown = [FrameView(item).number("ReferencedSegmentNumber") for item in identified]
    segment = next((int(one) for one in shown if one is not None), next(iter(segments)) if len(segments) == 1 else None)
    if segment not in segments:
        return None
    references = [
        _reference(FrameView(source))
        for group in view.groups
        for derivation in items(group, "DerivationImageSequence")
        for source in items(derivation, "SourceImageSequence")
    ]
    return SegmentFrame(number, int(segment or 0), tuple(one for one in references if one is not None), read_plane(view))


def _reference(view: FrameView) -> Reference | None:
    uid, frame = view.identity("ReferencedSOPInstanceUID"), view.number("ReferencedFrameNumber")
    return None if uid is None else (uid, None if frame is None else int(frame) - 1)
