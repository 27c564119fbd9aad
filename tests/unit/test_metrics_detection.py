"""Box ranking against pycocotools, against matching from scratch at every score, and against boxes that only fill space."""

from __future__ import annotations

import contextlib
import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from medclm.metrics import detection as d
from medclm.metrics.boxes import iou_matrix, size_stratum
from medclm.metrics.intervals import bootstrap_ci95, estimate

GRID = 8
LABELS = ("mass", "nodule")


@st.composite
def box(draw):
    x0, y0 = draw(st.integers(0, GRID - 1)), draw(st.integers(0, GRID - 1))
    return x0, y0, draw(st.integers(x0 + 1, GRID)), draw(st.integers(y0 + 1, GRID))


@st.composite
def some_cases(draw, labels=LABELS):
    cases = []
    for image, label in itertools.product(range(draw(st.integers(1, 4))), labels):
        said = draw(st.lists(box(), max_size=4))
        scores = draw(st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=len(said), max_size=len(said)))
        cases.append(d.Case(f"image{image}", label, draw(st.lists(box(), max_size=3)), said, {"p": scores}))
    return cases


def random_cases(images: int, *, seed: int, most: int = 12, levels: int | None = None, labels=LABELS) -> list[d.Case]:
    """True boxes, jittered copies of them and others, on a grid (equal overlaps) or with scores of few levels (ties)."""
    draws = np.random.default_rng(seed)
    cases = []
    for image, label in itertools.product(range(images), labels):
        corner = draws.integers(0, 30, (draws.integers(0, 5), 2))
        truth = np.concatenate([corner, corner + draws.integers(4, 20, corner.shape)], axis=1)
        near = truth[draws.integers(0, len(truth), draws.integers(0, most))] if len(truth) else np.zeros((0, 4))
        near = near + draws.integers(-2, 3, near.shape)
        far = draws.integers(0, 30, (draws.integers(0, 3), 2))
        said = np.concatenate([near, np.concatenate([far, far + draws.integers(4, 20, far.shape)], axis=1)])
        scores = draws.random(len(said))
        scores = scores if levels is None else np.ceil(scores * levels) / levels
        cases.append(d.Case(f"{image:04}", label, truth.tolist(), said.tolist(), {"p": scores.tolist()}))
    return cases


def coco_precisions(cases: list[d.Case], thresholds, max_boxes: int) -> np.ndarray:
    """(thresholds, labels) average precision of pycocotools; -1 = no true box."""
    labels, images = sorted({case.label for case in cases}), sorted({case.image for case in cases})
    truths, results = [], []
    for case in cases:
        where = {"image_id": images.index(case.image), "category_id": labels.index(case.label)}
        for x0, y0, x1, y1 in case.truth:
            size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            truths.append({"id": len(truths) + 1, **where, **size})
        for (x0, y0, x1, y1), score in zip(case.boxes, case.scores["p"], strict=True):
            results.append({**where, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(images))],
            "categories": [{"id": i} for i in range(len(labels))],
            "annotations": truths,
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.params.iouThrs, judge.params.maxDets = np.asarray(thresholds), [max_boxes]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, 0].mean(axis=1)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(("thresholds", "max_boxes"), [(d.COCO_THRESHOLDS, 100), ((0.3,), 100), ((0.1, 1.0), 4)])
def test_average_precision_is_that_of_pycocotools(thresholds, max_boxes, levels):
    for seed in range(6):
        cases = random_cases(25, seed=seed, levels=levels)
        ours = d.average_precision(d.match(cases, score="p", thresholds=thresholds, max_boxes=max_boxes))
        theirs = coco_precisions(cases, thresholds, max_boxes)
        assert np.stack([ours.by_label[label] for label in sorted(LABELS)], axis=1) == pytest.approx(theirs, abs=1e-9)
        assert ours.mean.mean() == pytest.approx(theirs.mean(), abs=1e-9)
        assert 0.05 < ours.mean.mean() < 0.95  # the sets are neither trivial nor hopeless


def test_equal_overlaps_and_rounding_are_handled_as_pycocotools_does():
    between = [(2, 0, 6, 4), (4, 0, 8, 4)]  # a third of both, then the second alone, which is taken already
    cases = [d.Case("0", "mass", [(0, 0, 4, 4), (4, 0, 8, 4)], between, {"p": [0.9, 0.8]})]
    assert d.match(cases, score="p", thresholds=(0.3,)).hit[:, 0].tolist() == [True, False]
    almost = [d.Case("0", "mass", [(0, 0, 4, 4)], [(0, 0, 4, 4 - 1e-12)], {"p": [0.9]})]
    assert d.match(almost, score="p", thresholds=(1.0,)).hit.all()
    for some, threshold in ((cases, 0.3), (almost, 1.0)):
        ours = d.average_precision(d.match(some, score="p", thresholds=(threshold,)))
        assert ours.mean == pytest.approx(coco_precisions(some, (threshold,), 100)[:, 0], abs=1e-9)


def naive_found(cases: list[d.Case], threshold: float, lowest: float, overlap=iou_matrix) -> tuple[int, int]:
    """True boxes found and false positives when only boxes of at least `lowest` are there at all."""
    found = false = 0
    for case in cases:
        used = [i for i in range(len(case.boxes)) if case.scores["p"][i] >= lowest]
        free = list(range(len(case.truth)))
        for i in sorted(used, key=lambda i: -case.scores["p"][i]):
            overlaps = {j: overlap(np.array([case.boxes[i]], float), np.array([case.truth[j]], float))[0, 0] for j in free}
            reached = [j for j in free if overlaps[j] >= threshold]
            if reached:
                free.remove(max(reached, key=lambda j: (overlaps[j], j)))
                found += 1
            else:
                false += 1
    return found, false


def naive_points(cases: list[d.Case], threshold: float, overlap=iou_matrix) -> list[tuple[int, int]]:
    levels = sorted({score for case in cases for score in case.scores["p"]}, reverse=True)
    return [naive_found(cases, threshold, lowest, overlap) for lowest in levels]


@settings(max_examples=60)
@given(some_cases(labels=("mass",)), st.sampled_from([0.3, 0.5]))
def test_average_precision_and_froc_match_matching_from_scratch_at_every_score(cases, threshold):
    truths = sum(len(case.truth) for case in cases)
    matched = d.match(cases, score="p", thresholds=(0.3, 0.5))
    precision = d.average_precision(matched, ties="together")
    points = naive_points(cases, threshold)
    if not truths:
        assert precision.without == {"mass": sum(len(case.boxes) for case in cases)}
        assert np.isnan([*precision.mean, d.froc(matched, threshold=threshold).mean]).all()
        return
    levels = [max([t / (t + f) for t, f in points if t / truths >= recall], default=0.0) for recall in d.RECALLS]
    assert precision.by_label["mass"][matched.thresholds.index(threshold)] == pytest.approx(np.mean(levels), abs=1e-9)
    curve = d.froc(matched, threshold=threshold)
    read = [max([t / truths for t, f in points if f / len(cases) <= rate], default=0.0) for rate in d.LUNA16_RATES]
    assert curve.sensitivity == pytest.approx(read)
    assert curve.mean == pytest.approx(np.mean(read))
    for rate, sensitivity, lowest in zip(d.LUNA16_RATES, curve.sensitivity, curve.lowest_score, strict=True):
        found, false = naive_found(cases, threshold, lowest)
        assert (found / truths, false / len(cases) <= rate) == (pytest.approx(sensitivity), True)
        assert sensitivity <= np.interp(rate, *curve.curve.T) + 1e-12  # LUNA16's line between points


@settings(max_examples=40)
@given(some_cases(labels=("mass",)))
def test_centres_match_too(cases):
    matched = d.match(cases, score="p", thresholds=(0.5,), overlap=d.centre_inside)
    found = [np.isfinite(matched.found_at).sum(), (~matched.hit).sum()]
    assert found == list(naive_found(cases, 0.5, -np.inf, d.centre_inside))


def test_a_centre_on_the_border_is_inside():
    truth = np.array([(0, 0, 2, 2)], dtype=float)
    centres = np.array([(1, 0, 3, 2), (1, 1, 3, 3), (1.1, 1, 3.1, 3), (-1, -1, 1, 1), (-3, 0, -1, 2)], dtype=float)
    assert d.centre_inside(centres, truth)[:, 0].tolist() == [1, 1, 0, 1, 0]


def test_perfect_boxes_score_one_and_a_second_box_on_a_lesion_is_false():
    cases = [
        d.Case(str(i), "mass", [(0, 0, 4, 4), (5, 5, 8, 8)], [(5, 5, 8, 8), (0, 0, 4, 4)], {"p": [0.9, 0.8]}) for i in range(3)
    ]
    matched = d.match(cases, score="p")
    assert d.average_precision(matched).mean == pytest.approx(np.ones(10))
    assert d.froc(matched, threshold=0.5).mean == 1.0
    twice = d.match([d.Case("0", "mass", [(0, 0, 4, 4)], [(0, 0, 4, 4)] * 3, {"p": [3, 2, 1]})], score="p")
    assert twice.hit[:, 0].tolist() == [True, False, False]
    assert d.froc(twice, threshold=0.5).curve[-1].tolist() == [2.0, 1.0]


@settings(max_examples=60)
@given(some_cases(), st.integers(1, 30), st.lists(box(), min_size=1, max_size=12))
def test_low_boxes_never_raise_what_was_reached_before_them(cases, times, spam):
    def spammed(boxes):
        return [
            d.Case(one.image, one.label, one.truth, [*one.boxes, *boxes], {"p": [*one.scores["p"], *[0.5] * len(boxes)]})
            for one in cases
        ]

    before = d.match(cases, score="p", thresholds=(0.5,))
    beside = d.match(
        spammed([(x0 + 100, y0, x1 + 100, y1) for x0, y0, x1, y1 in spam * times]), score="p", thresholds=(0.5,), max_boxes=1000
    )
    assert np.nan_to_num(d.average_precision(beside).mean) <= np.nan_to_num(d.average_precision(before).mean) + 1e-12
    old, new = d.froc(before, threshold=0.5), d.froc(beside, threshold=0.5)
    assert (np.nan_to_num(new.sensitivity) <= np.nan_to_num(old.sensitivity)).all()

    over = d.match(spammed(spam * times), score="p", thresholds=(0.5,), max_boxes=1000)  # may hit: paid for in false positives
    new, spent = d.froc(over, threshold=0.5), old.curve[-1, 0]
    for rate, was, now in zip(old.rates, old.sensitivity, new.sensitivity, strict=True):
        assert now == was or spent <= rate or np.isnan(was)
    full = d.match(spammed(spam * times), score="p", thresholds=(0.5,), max_boxes=4)
    known = d.match(spammed(spam), score="p", thresholds=(0.5,), max_boxes=4)
    if all(len(case.boxes) + len(spam) >= 4 for case in cases):
        assert (full.hit.tolist(), full.found_at.tolist()) == (known.hit.tolist(), known.found_at.tolist())
        assert full.beyond_max - known.beyond_max == len(cases) * len(spam) * (times - 1)


def test_thousands_of_equal_boxes_find_everything_and_score_nothing():
    grid = [(x, y, x + 4, y + 4) for x in range(0, 40, 1) for y in range(0, 40, 1)]
    cases = [d.Case(str(i), "mass", [(3 + i, 7, 7 + i, 11)], grid, {"p": [0.5] * len(grid)}) for i in range(10)]
    matched = d.match(cases, score="p", thresholds=(0.5,), max_boxes=5000)
    assert np.isfinite(matched.found_at).all()
    assert d.froc(matched, threshold=0.5).mean == 0.0
    assert d.average_precision(matched, ties="together").mean[0] < 0.001
    assert d.average_precision(matched).mean[0] < 0.01


@settings(max_examples=40)
@given(some_cases(), st.randoms(use_true_random=False))
def test_the_order_of_images_tells_nothing_where_ties_go_together(cases, random):
    first = d.match(cases, score="p")
    shuffled = d.match(random.sample(cases, len(cases)), score="p")
    np.testing.assert_allclose(
        d.average_precision(first, ties="together").mean, d.average_precision(shuffled, ties="together").mean
    )
    np.testing.assert_array_equal(d.froc(first, threshold=0.5).curve, d.froc(shuffled, threshold=0.5).curve)


def test_weights_are_repeated_cases():
    cases = random_cases(12, seed=9, levels=4)
    weights = np.repeat(np.random.default_rng(0).integers(0, 3, 12), 2)
    repeated = [
        d.Case(f"{case.image}.{k}", case.label, case.truth, case.boxes, case.scores)
        for case, times in zip(cases, weights, strict=True)
        for k in range(times)
    ]
    one, other = d.match(cases, score="p"), d.match(repeated, score="p")
    weighted = d.average_precision(one, ties="together", weights=weights.astype(float))
    assert weighted.mean == pytest.approx(d.average_precision(other, ties="together").mean, abs=1e-12)
    curve = d.froc(one, threshold=0.5, weights=weights.astype(float))
    assert curve.sensitivity == pytest.approx(d.froc(other, threshold=0.5).sensitivity, abs=1e-12)


def test_interval_is_over_patients():
    matched = d.match(cases := random_cases(40, seed=10, labels=("mass",)), score="p", thresholds=(0.5,))

    def statistic(weights):
        return d.froc(matched, threshold=0.5, weights=weights).mean

    low, high = d.bootstrap(statistic, [case.image for case in cases], resamples=300)
    assert low < d.froc(matched, threshold=0.5).mean < high
    few = d.bootstrap(statistic, [str(int(case.image) // 10) for case in cases], resamples=300)
    assert few != (low, high)
    assert d.bootstrap(statistic, ["p"] * 40) is None
    assert d.bootstrap(lambda weights: np.nan, ["p", "q"], resamples=3) is None


def test_sensitivity_by_group_counts_every_true_box_once():
    cases = random_cases(30, seed=11, labels=("mass",))
    matched = d.match(cases, score="p", thresholds=(0.5,))
    lowest = d.froc(matched, threshold=0.5).lowest_score[3]  # one false positive per image
    groups = [[size_stratum(min(x1 - x0, y1 - y0) / 4) for x0, y0, x1, y1 in case.truth] for case in cases]
    columns = d.group_columns(matched, groups, threshold=0.5, lowest_score=lowest)
    for name, column in columns.items():
        only = [[j for j, group in enumerate(each) if group == name] for each in groups]
        at = np.split(matched.found_at[:, 0], np.cumsum([len(case.truth) for case in cases])[:-1])
        found = sum((score[j] >= lowest).sum() for score, j in zip(at, only, strict=True))
        total = sum(map(len, only))
        assert estimate(column, d.found_share) == pytest.approx(found / total)
        low, high = bootstrap_ci95(column, [case.image for case in cases], formula=d.found_share)
        assert low <= found / total <= high
    counts = sum(column.sum(axis=0) for column in columns.values())
    assert counts.tolist() == [naive_found(cases, 0.5, lowest)[0], sum(len(case.truth) for case in cases)]
    assert not d.group_columns(matched, groups, threshold=0.5, lowest_score=np.inf)[name][:, 0].any()


def test_boxes_without_the_named_score_are_refused_by_image():
    one = [(0, 0, 1, 1)]
    for scores, match in (
        ({}, r"image 'x7', class 'mass': 1 boxes without score 'p' \(scores: \[\]\)"),
        ({"q": [1.0]}, r"without score 'p' \(scores: \['q'\]\)"),
        ({"p": [None]}, "image 'x7', class 'mass': box 0 has no finite score"),
        ({"p": [np.nan]}, "box 0 has no finite score"),
        ({"p": [1.0, 2.0]}, "2 scores 'p' for 1 boxes"),
    ):
        with pytest.raises(ValueError, match=match):
            d.match([d.Case("x7", "mass", one, one, scores)], score="p")
    silent = d.Case("x7", "mass", one, [], {})
    assert d.froc(d.match([silent], score="p"), threshold=0.5).mean == 0.0
    with pytest.raises(ValueError, match="image 'x7' has two cases of 'mass'"):
        d.match([silent, silent], score="p")
    with pytest.raises(ValueError, match="thresholds above 0"):
        d.match([silent], score="p", thresholds=(0.0,))
    with pytest.raises(ValueError, match=r"threshold 0.4 is not among"):
        d.froc(d.match([silent], score="p"), threshold=0.4)
    with pytest.raises(ValueError, match="one per true box"):
        d.group_columns(d.match([silent], score="p"), [[]], threshold=0.5, lowest_score=0)


def test_classes_without_a_true_box_are_named_with_their_boxes():
    cases = [
        d.Case("1", "mass", [(0, 0, 1, 1)], [(0, 0, 1, 1)], {"p": [1]}),
        d.Case("1", "cyst", [], [(0, 0, 1, 1)] * 2, {"p": [1, 2]}),
    ]
    scores = d.average_precision(d.match(cases, score="p"))
    assert scores.without == {"cyst": 2}
    assert list(scores.by_label) == ["mass"]
    assert scores.mean == pytest.approx(np.ones(10))
    assert d.froc(d.match(cases, score="p"), threshold=0.5).sensitivity.tolist() == [
        0,
        0,
        0,
        0,
        1,
        1,
        1,
    ]  # two false, one image
