"""Intervals and paired tests over patients, against slow oracles and known coverage."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from medclm.draws import generator
from medclm.metrics import intervals
from medclm.metrics.intervals import FEWEST_PATIENTS, bootstrap_ci95, estimate, paired_test


def balanced(means: np.ndarray) -> np.ndarray:
    return means.mean(axis=-1)


def test_estimate_ignores_what_does_not_apply():
    values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, 1.0]])
    assert estimate(values) == 0.5
    assert estimate(values, balanced) == 0.75
    assert np.isnan(estimate(np.full((2, 1), np.nan)))


def test_bootstrap_is_over_patients_not_images():
    rng = np.random.default_rng(0)
    of_patient = (rng.random(30) < 0.5).astype(float)
    values, patients = np.repeat(of_patient, 20)[:, None], np.repeat([f"p{i}" for i in range(30)], 20).tolist()
    low, high = bootstrap_ci95(values, patients)
    wide = high - low
    low, high = bootstrap_ci95(values, [str(i) for i in range(600)])
    assert wide > 3 * (high - low)
    assert wide == pytest.approx(2 * 1.96 * of_patient.std() / np.sqrt(30), rel=0.15)


def test_bootstrap_matches_a_slow_one():
    rng = np.random.default_rng(1)
    patients = [f"p{i % 7}" for i in range(40)]
    values = np.column_stack([rng.random(40), rng.random(40)])
    values[::3, 1] = np.nan
    slow = []
    for _ in range(4000):
        drawn = rng.integers(0, 7, 7)
        rows = [i for p in drawn for i in range(40) if patients[i] == f"p{p}"]
        slow.append(np.nanmean(values[rows], axis=0).mean())
    fast = bootstrap_ci95(values, patients, formula=balanced, resamples=4000)
    assert fast == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.01)


def test_bootstrap_is_repeatable_and_refuses_one_patient():
    values, patients = np.arange(10.0)[:, None], [f"p{i % 5}" for i in range(10)]
    assert bootstrap_ci95(values, patients, seed=3) == bootstrap_ci95(values, patients, seed=3)
    assert bootstrap_ci95(values, ["one"] * 10) is None
    assert bootstrap_ci95(np.full((10, 1), np.nan), patients) is None


def test_coverage_of_the_interval():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        values = rng.normal(0.3, 1.0, 40)
        low, high = bootstrap_ci95(values[:, None], [str(i) for i in range(40)], seed=trial, resamples=400)
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_sign_flip_matches_enumeration():
    rng = np.random.default_rng(3)
    first, second, patients = rng.random(24), rng.random(24), [f"p{i % 8}" for i in range(24)]
    sums = np.array([(first - second)[[i for i in range(24) if patients[i] == f"p{p}"]].sum() for p in range(8)])
    patterns = [abs(np.dot(signs, sums)) >= abs(sums.sum()) - 1e-12 for signs in itertools.product((-1, 1), repeat=8)]
    result = paired_test(first, second, patients)
    assert result.p_value == pytest.approx(np.mean(patterns))
    assert result.difference == pytest.approx((first - second).mean())
    assert result.patients == 8


def test_many_patients_are_flipped_in_blocks_without_a_seam(monkeypatch):
    first = np.random.default_rng(3).normal(0.1, 1.0, 40)
    names = [f"{number:02d}" for number in range(40)]
    whole = paired_test(first, np.zeros(40), names, flips=1000)
    monkeypatch.setattr(intervals, "_BLOCK", 40 * 7)
    blocks = paired_test(first, np.zeros(40), names, flips=1000)
    signs = np.where(generator(0, "metrics.sign_flip").random((1000, 40)) < 0.5, -1.0, 1.0)
    slow = (1 + sum(abs(row @ first) >= abs(first.sum()) - 1e-12 for row in signs)) / 1001
    assert whole.p_value == blocks.p_value == slow


def test_memory_stays_flat_for_many_patients():
    number = 20_000
    difference = np.random.default_rng(4).normal(0, 1, number)
    tracemalloc.start()
    paired_test(difference, np.zeros(number), [str(one) for one in range(number)], flips=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all signs at once are 320 MB, ten thousand flips of 100,000 patients 8 GB


def test_patients_without_a_value_in_both_do_not_count():
    first, second = np.array([1.0, 1, 1, 1, 1, np.nan, 1]), np.array([0.0, 0, 0, 0, 0, 0, np.nan])
    result = paired_test(first, second, list("abcdefg"))
    assert (result.difference, result.patients, result.p_value) == (1.0, 5, None)
    with pytest.raises(ValueError, match="none with a value in both"):
        paired_test(first[5:], second[5:], list("fg"))


def test_rounding_never_loses_the_pattern_that_was_seen():
    for draw in range(40):
        difference = 1e5 + 1e5 * np.random.default_rng(draw).random(8)  # summed in another order, another last bit
        assert paired_test(difference, np.zeros(8), list("abcdefgh")).p_value == 2 / 2**8


def test_few_patients_get_no_p_value():
    patients = [f"p{i}" for i in range(FEWEST_PATIENTS - 1)]
    result = paired_test(np.ones(len(patients)), np.zeros(len(patients)), patients)
    assert result.p_value is None
    assert "patients" in result.note


def test_drawn_signs_find_a_clear_difference_and_no_other():
    patients = [str(i) for i in range(40)]
    noise = np.random.default_rng(4).normal(0, 1, 40)
    assert paired_test(noise + 1.5, np.zeros(40), patients).p_value < 0.001
    assert paired_test(noise - noise.mean(), np.zeros(40), patients).p_value > 0.9
