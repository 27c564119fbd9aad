"""Box agreement against brute force over permutations and against a raster."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.metrics import boxes

GRID = 12


@st.composite
def box(draw):
    x0, y0 = draw(st.integers(0, GRID - 1)), draw(st.integers(0, GRID - 1))
    return x0, y0, draw(st.integers(x0 + 1, GRID)), draw(st.integers(y0 + 1, GRID))


some = st.lists(box(), min_size=1, max_size=4).map(boxes.as_array)
maybe = st.lists(box(), max_size=4).map(boxes.as_array)


def raster(array: np.ndarray) -> np.ndarray:
    mask = np.zeros((GRID, GRID), dtype=bool)
    for x0, y0, x1, y1 in array.astype(int):
        mask[y0:y1, x0:x1] = True
    return mask


@given(maybe, some)
def test_iou_matches_a_raster(predicted, truth):
    ious = boxes.iou_matrix(predicted, truth)
    assert ious.shape == (len(predicted), len(truth))
    for i, j in itertools.product(range(len(predicted)), range(len(truth))):
        first, second = raster(predicted[i : i + 1]), raster(truth[j : j + 1])
        assert ious[i, j] == pytest.approx((first & second).sum() / (first | second).sum())


def brute_force(gain: np.ndarray) -> float:
    if gain.shape[0] > gain.shape[1]:
        gain = gain.T
    rows = range(gain.shape[0])
    return max(sum(gain[i, chosen[i]] for i in rows) for chosen in itertools.permutations(range(gain.shape[1]), len(rows)))


@settings(max_examples=60)
@given(some, some)
def test_matching_matches_brute_force(predicted, truth):
    most = max(len(predicted), len(truth))
    assert boxes.mean_iou(predicted, truth) == pytest.approx(brute_force(boxes.iou_matrix(predicted, truth)) / most)
    centres = (predicted[:, :2] + predicted[:, 2:]) / 2
    inside = np.array([[(c >= t[:2]).all() and (c <= t[2:]).all() for t in truth] for c in centres], dtype=float)
    assert boxes.centre_hit(predicted, truth) == pytest.approx(brute_force(inside) / most)


@given(maybe, maybe)
def test_union_matches_a_raster(predicted, truth):
    said, true = raster(predicted), raster(truth)
    shared = (said & true).sum()
    overlap = boxes.union_overlap(predicted, truth)
    expected = [shared / whole if whole else 0.0 for whole in (said.sum(), true.sum(), (said | true).sum())]
    assert overlap == pytest.approx(expected)


def test_misses_and_spurious_boxes_count():
    truth = boxes.as_array([(0, 0, 1, 1), (2, 2, 3, 3)])
    assert boxes.mean_iou(truth, truth) == 1.0  # a mean over all pairs would say 0.5
    assert boxes.mean_iou(truth[:1], truth) == boxes.mean_iou(truth, truth[:1]) == 0.5
    assert boxes.accuracy_at(truth[:1], truth, 0.5) == 0.5
    assert boxes.mean_iou(boxes.as_array([]), truth) == boxes.centre_hit(boxes.as_array([]), truth) == 0.0
    assert boxes.matched_iou(boxes.as_array([(0, 0, 1, 2)]), truth) == pytest.approx([0.5, 0.0])


def test_corners_in_any_order():
    assert boxes.as_array([(3, 4, 1, 2)]).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(("side", "name"), [(0.99, "lt1"), (1, "1to2"), (2, "2to4"), (4, "2to4"), (4.01, "gt4")])
def test_strata(side, name):
    assert boxes.size_stratum(side) == name
