"""Comparison over seeds against naive oracles, and its error rates on made-up runs."""

import itertools

import numpy as np
import pytest

from medclm.metrics.seeds import compare_seeds, holm, sign_flip


def runs(*, seeds, patients, effect, draws, seed_spread=0.02, patient_spread=0.2):
    """Scores of two recipes whose true difference is `effect`, (S, P) each."""
    base = draws.normal(0.5, 0.3, patients)
    luck = draws.normal(0, seed_spread, (2, seeds, 1)) + draws.normal(0, patient_spread, (2, seeds, patients))
    return base + luck[0] + effect, base + luck[1]


def test_sign_flip_enumerates_every_pattern():
    values = np.array([0.03, -0.01, 0.02, 0.05, 0.01])
    totals = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=5)]
    assert sign_flip(values) == pytest.approx(sum(t >= abs(values.sum()) - 1e-12 for t in totals) / 32)


def test_the_least_p_value_is_two_of_all_patterns():
    assert sign_flip(np.full(8, 0.1)) == 2 / 256
    assert sign_flip(np.full(3, 0.1)) == 0.25
    assert sign_flip(np.array([0.1, -0.1])) == 1.0


def test_difference_is_the_mean_of_the_seeds():
    first, second = runs(seeds=4, patients=30, effect=0.1, draws=np.random.default_rng(1))
    result = compare_seeds(first, second)
    assert result.difference == pytest.approx((first - second).mean())
    assert result.by_seed == pytest.approx((first - second).mean(axis=1))
    low, high = result.ci95
    assert low < result.difference < high
    assert result == compare_seeds(first, second)  # same input, same interval


def test_patients_without_a_score_enter_nothing():
    first, second = runs(seeds=3, patients=20, effect=0.1, draws=np.random.default_rng(2))
    holes = np.concatenate([first, np.full((3, 5), np.nan)], axis=1), np.concatenate([second, np.full((3, 5), np.nan)], axis=1)
    assert compare_seeds(*holes).difference == pytest.approx(compare_seeds(first, second).difference)
    with pytest.raises(ValueError, match="same patients"):
        compare_seeds(holes[0], np.nan_to_num(holes[1]))


def test_a_seed_without_a_score_is_refused():
    first, second = runs(seeds=3, patients=20, effect=0.1, draws=np.random.default_rng(2))
    first[1] = second[1] = np.nan
    with pytest.raises(ValueError, match="seed number 1"):
        compare_seeds(first, second)


def test_the_interval_holds_the_truth_and_the_test_keeps_its_level():
    draws = np.random.default_rng(3)
    covered, false_alarms, repeats = 0, 0, 200
    for _ in range(repeats):
        result = compare_seeds(*runs(seeds=8, patients=60, effect=0.0, draws=draws), resamples=400)
        covered += result.ci95[0] <= 0 <= result.ci95[1]
        false_alarms += result.p_value < 0.05
    assert covered / repeats > 0.90
    assert false_alarms / repeats < 0.10


def test_the_interval_knows_the_luck_of_seeds():
    """Patients alone would give a narrow interval around what one seed's luck did."""
    draws = np.random.default_rng(4)
    first, second = runs(seeds=6, patients=2000, effect=0.0, draws=draws, seed_spread=0.1, patient_spread=0.01)
    low, high = compare_seeds(first, second).ci95
    assert high - low > 2 * 0.1 * np.sqrt(2 / 6)  # most of +-2 standard errors over seeds


def test_one_seed_has_no_interval():
    assert compare_seeds(np.ones((1, 4)), np.zeros((1, 4))).ci95 is None
    with pytest.raises(ValueError, match="at most 16"):
        compare_seeds(np.ones((17, 4)), np.zeros((17, 4)))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
