"""How well predicted boxes agree with true ones: IoU, one-to-one matching, hits, and the area of their unions.

Boxes are (N, 4) float64 arrays of x0, y0, x1, y1 in any one unit. A missed or spurious box scores 0; a mean over all pairs
of boxes is never taken (it gives 0.56 to perfect predictions). Knows nothing of texts, images or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from medclm.types import Box


class Union(NamedTuple):
    """Overlap of the union of the predicted with the union of the true boxes; precision or recall of nothing is 0."""

    precision: float
    recall: float
    iou: float


def as_array(boxes: Sequence[Box] | Sequence[Sequence[float]]) -> np.ndarray:
    """(N, 4) float64, (0, 4) for none; corners in any order are sorted, so that an area is never negative."""
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    low, high = np.minimum(array[:, :2], array[:, 2:]), np.maximum(array[:, :2], array[:, 2:])
    return np.concatenate([low, high], axis=1)


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) -> (N,)."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def iou_matrix(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(P, 4), (T, 4) -> (P, T) intersection over union in 0..1; two boxes without area have 0."""
    low = np.maximum(predicted[:, None, :2], truth[None, :, :2])
    high = np.minimum(predicted[:, None, 2:], truth[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    union = areas(predicted)[:, None] + areas(truth)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def matched_iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(T,) IoU of each true box with its partner in the one-to-one matching of largest total IoU; 0 = missed."""
    ious = iou_matrix(predicted, truth)
    rows, columns = linear_sum_assignment(ious, maximize=True)
    partner = np.zeros(len(truth))
    partner[columns] = ious[rows, columns]
    return partner


def mean_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Matched IoU summed, over max(P, T): misses and spurious boxes count 0. Defined for T > 0."""
    return float(matched_iou(predicted, truth).sum() / max(len(predicted), len(truth)))


def accuracy_at(predicted: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Share of max(P, T) boxes matched with IoU >= threshold; for one box of each it is 0 or 1."""
    return float((matched_iou(predicted, truth) >= threshold).sum() / max(len(predicted), len(truth)))


def centre_hit(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of max(P, T) boxes in the largest one-to-one matching of predicted centres with true boxes that hold them."""
    centre = (predicted[:, None, :2] + predicted[:, None, 2:]) / 2
    inside = ((centre >= truth[None, :, :2]) & (centre <= truth[None, :, 2:])).all(axis=2)
    rows, columns = linear_sum_assignment(inside, maximize=True)
    return float(inside[rows, columns].sum() / max(len(predicted), len(truth)))


def union_overlap(predicted: np.ndarray, truth: np.ndarray) -> Union:
    """Precision, recall and IoU of the united areas, exact by coordinate compression (no raster)."""
    both = np.concatenate([predicted, truth])
    xs, ys = np.unique(both[:, [0, 2]]), np.unique(both[:, [1, 3]])
    cells = np.outer(np.diff(ys), np.diff(xs))

    def cover(boxes: np.ndarray) -> np.ndarray:
        mask = np.zeros(cells.shape, dtype=bool)
        for x0, y0, x1, y1 in boxes:
            mask[np.searchsorted(ys, y0) : np.searchsorted(ys, y1), np.searchsorted(xs, x0) : np.searchsorted(xs, x1)] = True
        return mask

    said, true = cover(predicted), cover(truth)
    shared, said_area, true_area = cells[said & true].sum(), cells[said].sum(), cells[true].sum()
    union = said_area + true_area - shared

    def share(whole: float) -> float:
        return float(shared / whole) if whole > 0 else 0.0

    return Union(precision=share(said_area), recall=share(true_area), iou=share(union))


STRATA = ("lt1", "1to2", "2to4", "gt4")
"""Short side of a true box in vision patches: < 1, 1-2, 2-4, > 4."""


def size_stratum(short_side_patches: float) -> str:
    """Name in `STRATA` of a box by its short side in patches; a bound belongs to the upper stratum, 4 to the lower."""
    if short_side_patches > 4:
        return STRATA[3]
    return STRATA[int(np.searchsorted((1.0, 2.0), short_side_patches, side="right"))]
