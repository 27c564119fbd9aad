"""Scores of boxes that come with a confidence: average precision as COCO defines it, FROC, and sensitivity by group.

Matching, for all of them, one class of one image at a time: boxes by falling score (equal ones in the order given), at most
`max_boxes`; each takes the free true box that it overlaps most (the last of equal ones) if the overlap reaches the threshold.
So a true box is found once, and every further box on it is a false positive. As in COCO's evaluation (Lin et al. 2014,
pycocotools), without its crowd and area rules; a box without area overlaps nothing here.

Ranks are no formula of means: these are functions of matched cases, and `bootstrap` draws patients. Knows nothing of texts,
files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from medclm.draws import generator
from medclm.metrics.boxes import as_array, iou_matrix
from medclm.types import Box

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO reads precision."""
LUNA16_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which LUNA16 reads sensitivity (Setio et al. 2017)."""

Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(P, 4) boxes, (T, 4) true boxes -> (P, T) in 0..1."""
Boxes = Sequence[Box] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Case:
    """One class in one image. An image without boxes is a case too: its false positives and its absence count."""

    image: str
    label: str
    truth: Boxes
    boxes: Boxes
    scores: Mapping[str, Sequence[float | None]]
    """Confidences of `boxes` by the name of what they are, e.g. `mean_log_probability`; any monotone scale."""


@dataclass(frozen=True)
class Matched:
    """C cases after matching: n boxes and t true boxes at H thresholds. Nothing below needs coordinates any more."""

    score: str
    """Name of the confidence."""
    thresholds: tuple[float, ...]
    labels: tuple[str, ...]
    label: np.ndarray
    """(C,) int64 index into `labels` of each case."""
    first_of_image: np.ndarray
    """One case of each image."""
    case: np.ndarray
    """(n,) int64 case of each box, boxes by falling score over all cases, equal ones in order of cases."""
    scores: np.ndarray
    """(n,)"""
    hit: np.ndarray
    """(n, H) bool: took a true box."""
    truth_case: np.ndarray
    """(t,) int64, in order of cases and of their true boxes."""
    found_at: np.ndarray
    """(t, H) score of the box that took each true box; -inf = missed."""
    beyond_max: int
    """Boxes left out by `max_boxes`."""


def centre_inside(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(P, 4), (T, 4) -> (P, T): 1.0 where a box's centre lies in the true box, borders included, else 0.0."""
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return np.asarray(((centre >= truth[None, :, :2]) & (centre <= truth[None, :, 2:])).all(axis=2), dtype=np.float64)


def match(
    cases: Sequence[Case],
    *,
    score: str,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    overlap: Overlap = iou_matrix,
    max_boxes: int = 100,
) -> Matched:
    """Match every case as the module says, at every threshold.

    Args:
        cases: all judged images of every class, those without any box included; equal scores of two images keep this order.
        score: which of the cases' confidences ranks the boxes.
        thresholds: overlaps needed, each above 0.
        overlap: `iou_matrix`, or `centre_inside` with any threshold.
        max_boxes: kept per case, the highest scores; what is left out is counted.

    Raises:
        ValueError: a box without that score, a class of an image given twice, or a threshold that any box reaches.
    """
    if not cases or not thresholds or min(thresholds) <= 0:
        raise ValueError(f"{len(cases)} cases, thresholds {list(thresholds)}: give cases, and thresholds above 0")
    _refuse_repeats(cases)
    needed = np.minimum(np.asarray(thresholds, dtype=np.float64), 1 - 1e-10)  # so that 1 allows for rounding, as in COCO
    kept, hits, found, beyond = [], [], [], 0
    for case in cases:
        confidence, said, truth = _scores(case, score), as_array(case.boxes), as_array(case.truth)
        order = np.argsort(-confidence, kind="stable")[:max_boxes]
        partner = _partners(overlap(said[order], truth), needed)
        found.append(np.full((len(truth), len(needed)), -np.inf))
        box, column = np.nonzero(partner >= 0)
        found[-1][partner[box, column], column] = confidence[order][box]
        kept.append(confidence[order])
        hits.append(partner >= 0)
        beyond += len(confidence) - len(order)
    scores, owner = np.concatenate(kept), np.repeat(np.arange(len(cases)), [len(each) for each in kept])
    labels, label = np.unique([case.label for case in cases], return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    return Matched(
        score=score,
        thresholds=tuple(thresholds),
        labels=tuple(labels.tolist()),
        label=label,
        first_of_image=np.unique([case.image for case in cases], return_index=True)[1],
        case=owner[order],
        scores=scores[order],
        hit=np.concatenate(hits)[order],
        truth_case=np.repeat(np.arange(len(cases)), [len(each) for each in found]),
        found_at=np.concatenate(found),
        beyond_max=beyond,
    )


def _refuse_repeats(cases: Sequence[Case]) -> None:
    seen = set()
    for case in cases:
        if (case.image, case.label) in seen:
            raise ValueError(
                f"image {case.image!r} has two cases of {case.label!r}: join them, their boxes are matched together"
            )
        seen.add((case.image, case.label))


def _scores(case: Case, name: str) -> np.ndarray:
    """(P,) float64 confidences of that name."""
    number = len(case.boxes)
    where = f"image {case.image!r}, class {case.label!r}"
    if number and name not in case.scores:
        raise ValueError(f"{where}: {number} boxes without score {name!r} (scores: {sorted(case.scores)}): AP and FROC need it")
    given = np.array([np.nan if each is None else each for each in case.scores.get(name, ())], dtype=np.float64)
    if len(given) != number:
        raise ValueError(f"{where}: {len(given)} scores {name!r} for {number} boxes: give one per box")
    for i in np.flatnonzero(~np.isfinite(given))[:1]:
        raise ValueError(f"{where}: box {i} has no finite score {name!r}: score it, or judge these boxes without ranks")
    return given


def _partners(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(P, T) overlaps of boxes by falling score, (H,) -> (P, H) int64 true box that each takes, -1 = none."""
    boxes, truths = overlaps.shape
    partner = np.full((boxes, len(thresholds)), -1)
    if not truths:
        return partner
    free = np.ones((len(thresholds), truths), dtype=bool)
    for i in np.flatnonzero(overlaps.max(axis=1) >= thresholds.min()):
        open_to = np.where(free & (overlaps[i] >= thresholds[:, None]), overlaps[i], -1.0)
        last_best = truths - 1 - open_to[:, ::-1].argmax(axis=1)
        taken = np.flatnonzero(open_to.max(axis=1) >= 0)
        partner[i, taken] = last_best[taken]
        free[taken, last_best[taken]] = False
    return partner


class AveragePrecision(NamedTuple):
    by_label: dict[str, np.ndarray]
    """(H,) of each label with a true box, one per threshold."""
    mean: np.ndarray
    """(H,) over these labels; NaN where there is none. Its mean over COCO_THRESHOLDS is COCO's AP@[.5:.95]."""
    without: dict[str, int]
    """Labels without a true box, which enter no mean, and their boxes: false positives that AP cannot see."""


def average_precision(
    matched: Matched, *, ties: Literal["coco", "together"] = "coco", weights: np.ndarray | None = None
) -> AveragePrecision:
    """Mean of the interpolated precision at 101 recalls, per label and threshold.

    Args:
        ties: `coco` ranks equal scores of different images in the order of cases, as pycocotools does; `together` moves past
            all of them at once, so that the order of images tells nothing: for scores of few levels, as shares of k samples.
        weights: (C,) multiplicity of each case, as `bootstrap` gives.
    """
    weights = np.ones(len(matched.label)) if weights is None else weights
    by_label, without = {}, {}
    for k, label in enumerate(matched.labels):
        box, true_box = matched.label[matched.case] == k, matched.label[matched.truth_case] == k
        if not true_box.any():
            without[label] = int(box.sum())
            continue
        last = _last_of_equal(matched.scores[box]) if ties == "together" else slice(None)
        times = weights[matched.case[box]][:, None]
        true, false = (np.cumsum(times * kind, axis=0)[last] for kind in (matched.hit[box], ~matched.hit[box]))
        by_label[label] = _interpolated(true, false, weights[matched.truth_case[true_box]].sum())
    mean = np.mean(list(by_label.values()), axis=0) if by_label else np.full(len(matched.thresholds), np.nan)
    return AveragePrecision(by_label, mean, without)


def _last_of_equal(scores: np.ndarray) -> np.ndarray:
    """Index of the last of each run of equal scores."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])


def _interpolated(true: np.ndarray, false: np.ndarray, truths: float) -> np.ndarray:
    """(m, H) running counts -> (H,) COCO's average precision; NaN if a resample drew no true box."""
    if truths == 0:
        return np.full(true.shape[1], np.nan)
    recall, precision = true / truths, true / (true + false + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    best = np.concatenate([best, np.zeros((1, best.shape[1]))])  # recalls never reached
    return np.array([best[np.searchsorted(recall[:, h], RECALLS), h].mean() for h in range(best.shape[1])])


class Froc(NamedTuple):
    """Free-response operating characteristic at one overlap threshold."""

    rates: tuple[float, ...]
    """False positives per image."""
    sensitivity: np.ndarray
    """(len(rates),) share of true boxes found with at most that many."""
    lowest_score: np.ndarray
    """(len(rates),) boxes of at least this score are used there; infinity = none."""
    mean: float
    """Over `rates`: with LUNA16's, its score."""
    curve: np.ndarray
    """(m, 2) false positives per image and sensitivity at every distinct score, from (0, 0), for a figure."""


def _column(matched: Matched, threshold: float) -> int:
    if threshold not in matched.thresholds:
        raise ValueError(f"threshold {threshold} is not among the matched {list(matched.thresholds)}: match at it too")
    return matched.thresholds.index(threshold)


def froc(
    matched: Matched, *, threshold: float, rates: Sequence[float] = LUNA16_RATES, weights: np.ndarray | None = None
) -> Froc:
    """Sensitivity at fixed rates of false positives per image, all labels of `matched` together.

    Unlike LUNA16's script: a second box on a found lesion is a false positive (there it is ignored), and between operating
    points sensitivity is that of the stricter one (there a line is drawn), so these numbers are never above its. Equal scores
    are used together.

    Args:
        threshold: one of `matched.thresholds`.
        weights: (C,) multiplicity of each case; the cases of one image share theirs.

    Raises:
        ValueError: boxes were not matched at that threshold.
    """
    weights = np.ones(len(matched.label)) if weights is None else weights
    hit = matched.hit[:, _column(matched, threshold)]
    last, times = _last_of_equal(matched.scores), weights[matched.case]
    images, truths = weights[matched.first_of_image].sum(), weights[matched.truth_case].sum()
    false, true = (np.append(0.0, np.cumsum(times * kind)[last]) for kind in (~hit, hit))
    share = true / truths if truths else np.full(len(true), np.nan)
    at = np.searchsorted(false, np.asarray(rates) * images + 1e-9, side="right") - 1
    return Froc(
        rates=tuple(rates),
        sensitivity=share[at],
        lowest_score=np.append(np.inf, matched.scores[last])[at],
        mean=float(share[at].mean()),
        curve=np.stack([false / images, share], axis=1),
    )


def bootstrap(
    statistic: Callable[[np.ndarray], float], patients: Sequence[str], *, seed: int = 0, resamples: int = 1000
) -> tuple[float, float] | None:
    """95 % percentile interval over patients drawn with replacement.

    Args:
        statistic: (C,) multiplicities of cases -> score, e.g. `lambda w: froc(matched, threshold=0.5, weights=w).mean`;
            resamples where it is NaN (no true box drawn) are left out.
        patients: C ids, one per case.

    Returns:
        (low, high), or None with fewer than two patients.
    """
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    if len(names) < 2:
        return None
    draws, share = generator(seed, "metrics.bootstrap"), np.full(len(names), 1.0 / len(names))
    drawn = np.array([statistic(draws.multinomial(len(names), share)[owner].astype(np.float64)) for _ in range(resamples)])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def group_columns(
    matched: Matched, groups: Sequence[Sequence[str]], *, threshold: float, lowest_score: float
) -> dict[str, np.ndarray]:
    """Found and all true boxes of each group, (C, 2) per case: additive, so `estimate(columns, found_share)` is the sensitivity
    of a group and `bootstrap_ci95(columns, patients, formula=found_share)` its interval.

    Args:
        groups: for each case the group of each true box: size stratum, side, zone.
        threshold: one of `matched.thresholds`.
        lowest_score: boxes of at least this score are used; one of `Froc.lowest_score`, because with every box of any score
            sensitivity is only a matter of saying enough.

    Raises:
        ValueError: not one group per true box, or another threshold.
    """
    sizes = np.bincount(matched.truth_case, minlength=len(matched.label))
    if [len(each) for each in groups] != sizes.tolist():
        raise ValueError(f"groups of {sum(map(len, groups))} true boxes for {sizes.sum()}: give one per true box, case by case")
    names = np.array([name for each in groups for name in each], dtype=str)
    found = matched.found_at[:, _column(matched, threshold)] >= lowest_score
    columns = {}
    for name in np.unique(names).tolist():
        inside = names == name
        counts = [np.bincount(matched.truth_case[kind], minlength=len(sizes)) for kind in (inside & found, inside)]
        columns[name] = np.stack(counts, axis=1).astype(np.float64)
    return columns


def found_share(means: np.ndarray) -> np.ndarray:
    """(..., 2) means of found and all true boxes -> (...) sensitivity; NaN where there is none."""
    return np.asarray(np.divide(means[..., 0], means[..., 1], out=np.full(means.shape[:-1], np.nan), where=means[..., 1] > 0))
