"""DICOM structure sets (RTSTRUCT): regions of interest as contours in the patient, and contours as masks (PS3.3 C.8.8.5, C.8.8.6).

Contours of one region in one plane are filled by the even-odd rule, so that an inner contour is a hole, and so is what a keyhole
cuts out. Must not know which regions are lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.geometry import Plane, in_slice
from medclm.corpus.dicom.names import Named
from medclm.corpus.dicom.segmentation import Reference
from medclm.corpus.dicom.view import FrameView, items

MAX_POINTS = 100_000
"""Of one contour."""
MAX_BYTES = 1 << 30
"""Of a structure set."""

_NOT_ANATOMY = {
    *{
        "EXTERNAL",
        "SUPPORT",
        "FIXATION",
        "MARKER",
        "ISOCENTER",
        "REGISTRATION",
        "BOLUS",
        "CONTROL",
        "DOSE_REGION",
        "DOSE_MEASUREMENT",
    },
    *{
        "CONTRAST_AGENT",
        "BRACHY_CHANNEL",
        "BRACHY_ACCESSORY",
        "BRACHY_SRC_APP",
        "BRACHY_CHNL_SHLD",
        "TREATED_VOLUME",
        "IRRAD_VOLUME",
    },
}
"""RTROIInterpretedType of what is neither a lesion nor an organ."""


@dataclass(frozen=True)
class Contour:
    """One closed line."""

    points: np.ndarray
    """(N, 3) float64, LPS millimetres; N >= 3."""
    references: tuple[Reference, ...]
    """Pictures that it was drawn on."""


@dataclass(frozen=True)
class Roi:
    """One region of interest."""

    number: int
    named: Named
    identity: str
    frame_of_reference: str | None
    contours: tuple[Contour, ...]
    refusal: RejectedImage | None = None
    """Why it, or a part of it, is of no use."""


def read_structures(header: Dataset) -> tuple[Roi, ...]:
    """The regions of a structure set, faulty ones with their refusal.

    Raises:
        RejectedImage: structures_unreadable, where it has no region at all.
    """
    uid = FrameView(header).identity("SOPInstanceUID") or ""
    contours = {_number(item, "ReferencedROINumber"): item for item in items(header, "ROIContourSequence")}
    types = {
        _number(item, "ReferencedROINumber"): FrameView(item).text("RTROIInterpretedType")
        for item in items(header, "RTROIObservationsSequence")
    }
    found = []
    for item in items(header, "StructureSetROISequence"):
        number = _number(item, "ROINumber")
        if number is not None:
            found.append(_roi(item, number, uid, contours.get(number), types.get(number)))
    if not found:
        raise RejectedImage("structures_unreadable", "the structure set names no region of interest: write it anew")
    return tuple(found)


def contour_mask(contours: Sequence[Contour], plane: Plane) -> np.ndarray:
    """(H, W) bool on the grid of a plane: pixels whose centre lies inside, even-odd over all contours.

    Raises:
        RejectedImage: contour_off_plane, where a contour leaves the slice.
    """
    for contour in contours:
        if not in_slice(plane, contour.points):
            off = float(np.abs(plane.distance(contour.points)).max())
            raise RejectedImage("contour_off_plane", f"a contour passes {off:.1f} mm beside its picture: check its references")
    return fill([plane.pixels(contour.points) for contour in contours], plane.shape)


def fill(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Polygons (N, 2) of x and y in pixel coordinates -> (H, W) bool by the even-odd rule at pixel centres.

    A centre on an edge belongs to the right and lower side, so that neighbours share no pixel. Each edge flips everything to the
    right of where it crosses a row of centres.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), np.int32)
    for polygon in polygons:
        ends = np.roll(polygon, -1, axis=0)
        low, high = np.minimum(polygon[:, 1], ends[:, 1]), np.maximum(polygon[:, 1], ends[:, 1])
        first = np.clip(np.ceil(low - 0.5), 0, rows).astype(np.int64)
        last = np.clip(np.ceil(high - 0.5), 0, rows).astype(np.int64)
        count = last - first
        edges = np.repeat(np.arange(len(polygon)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edges]
        start, end = polygon[edges], ends[edges]
        x = start[:, 0] + (row + 0.5 - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
        column = np.clip(np.ceil(x - 0.5), 0, columns).astype(np.int64)
        np.add.at(crossings, (row, column), 1)
    return np.asarray(np.cumsum(crossings[:, :columns], axis=1) % 2 == 1)


def _roi(item: Dataset, number: int, uid: str, drawn: Dataset | None, kind: str | None) -> Roi:
    view = FrameView(item)
    place = view.identity("ReferencedFrameOfReferenceUID")
    named, identity = Named(view.identity("ROIName") or ""), f"{place or ''}/{uid}/{number}"
    if kind in _NOT_ANATOMY:
        refusal = RejectedImage("roi_not_anatomy", f"a region of the type {kind} is neither a lesion nor an organ")
        return Roi(number, named, identity, place, (), refusal)
    contours, refusals = [], []
    for one in items(drawn, "ContourSequence") if drawn is not None else []:
        try:
            contours.append(_contour(one))
        except RejectedImage as rejection:
            refusals.append(rejection)
    if not contours and not refusals:
        refusals.append(RejectedImage("roi_empty", "a region without contours"))
    return Roi(number, named, identity, place, tuple(contours), refusals[0] if refusals else None)


def _contour(item: Dataset) -> Contour:
    view = FrameView(item)
    if view.text("ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
        raise RejectedImage("contour_type", "not a closed line in a plane: such contours have no inside")
    values = view.value("ContourData")
    try:
        numbers = np.array([float(one) for one in values], np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) < 9 or len(numbers) % 3 or len(numbers) > 3 * MAX_POINTS or not np.isfinite(numbers).all():
        raise RejectedImage(
            "contour_unreadable", f"{len(numbers)} coordinates: give x, y and z of 3 to {MAX_POINTS} points, all finite"
        )
    references = [FrameView(one) for one in items(item, "ContourImageSequence")]
    named = [(one.identity("ReferencedSOPInstanceUID"), one.number("ReferencedFrameNumber")) for one in references]
    return Contour(
        numbers.reshape(-1, 3),
        tuple((uid, None if frame is None else int(frame) - 1) for uid, frame in named if uid is not None),
    )


def _number(item: Dataset, keyword: str) -> int | None:
    found = FrameView(item).number(keyword)
    return None if found is None else int(found)
