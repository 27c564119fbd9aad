"""Calibration and abstention against loops over examples, scikit-learn and known answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss, log_loss

from medclm.metrics import calibration as cal
from medclm.metrics.intervals import bootstrap_ci95, estimate

examples = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.35, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30
).map(lambda rows: (np.array([p for p, _ in rows]), np.array([float(y) for _, y in rows])))


def naive_error(probability: np.ndarray, outcome: np.ndarray, edges: np.ndarray) -> float:
    total = 0.0
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        last = k == len(edges) - 2
        inside = [i for i, p in enumerate(probability) if low <= p < high or (last and p == high)]
        if inside:
            total += len(inside) / len(outcome) * abs(np.mean(outcome[inside]) - np.mean(probability[inside]))
    return total


@given(examples, st.integers(1, 12))
def test_calibration_error_matches_a_loop_over_bins(rows, bins):
    for edges in (cal.equal_width_edges(bins), cal.equal_mass_edges(rows[0], bins)):
        error = cal.expected_calibration_error(*rows, edges)
        assert error == pytest.approx(naive_error(*rows, edges), abs=1e-12)
        assert 0 <= error <= 1
        table = cal.reliability(*rows, edges)
        gap = np.nan_to_num(np.abs(table.observed - table.mean_probability))
        assert error == pytest.approx((gap * table.examples).sum() / table.examples.sum(), abs=1e-12)
        assert cal.expected_calibration_error(rows[0][::-1], rows[1][::-1], edges) == pytest.approx(error, abs=1e-12)


def test_equal_mass_bins_hold_equally_many_unless_values_are_equal():
    probability = np.random.default_rng(0).random(100) ** 3
    edges = cal.equal_mass_edges(probability, 10)
    assert cal.reliability(probability, np.ones(100), edges).examples.tolist() == [10] * 10
    tied = np.array([0.2] * 6 + [0.7, 0.8])
    assert cal.reliability(tied, np.ones(8), cal.equal_mass_edges(tied, 4)).examples.tolist() == [0, 6, 2]


def test_calibrated_probabilities_err_little_and_overconfident_ones_by_their_excess():
    draws = np.random.default_rng(1)
    probability = draws.random(40_000)
    outcome = (draws.random(40_000) < probability).astype(float)
    edges = cal.equal_width_edges(15)
    assert cal.expected_calibration_error(probability, outcome, edges) < 0.015
    assert cal.expected_calibration_error(np.full(10, 0.9), np.repeat([1.0, 0.0], 5), edges) == pytest.approx(0.4)
    columns = cal.calibration_columns(probability[:500], outcome[:500], edges)
    low, high = bootstrap_ci95(columns, [str(i // 2) for i in range(500)], formula=cal.calibration_error)
    assert low < high
    assert estimate(columns, cal.calibration_error) == cal.expected_calibration_error(probability[:500], outcome[:500], edges)


@given(examples, st.integers(1, 12))
def test_brier_score_is_the_sum_of_its_parts(rows, bins):
    for edges in (cal.equal_width_edges(bins), cal.equal_mass_edges(rows[0], bins)):
        parts = cal.brier(*rows, edges)
        total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
        assert parts.score == pytest.approx(total, abs=1e-12)
        assert parts.score == pytest.approx(brier_score_loss(rows[1], rows[0], pos_label=1), abs=1e-12)
    one_value_a_bin = np.array([0.0, 0.05, 0.15, 0.3, 0.4, 0.7, 0.95, 1.0])
    assert cal.brier(*rows, one_value_a_bin).within_bins == pytest.approx(0, abs=1e-12)


def test_brier_parts_of_known_forecasts():
    outcome = np.array([1.0, 1, 0, 0])
    assert cal.brier(outcome, outcome, cal.equal_width_edges(10)) == pytest.approx((0, 0, 0.25, 0.25, 0))
    assert cal.brier(np.full(4, 0.5), outcome, cal.equal_width_edges(10)) == pytest.approx((0.25, 0, 0, 0.25, 0))


def test_log_loss_matches_scikit_learn_and_wrong_certainty_is_infinite():
    draws = np.random.default_rng(2)
    probability, outcome = draws.uniform(0.01, 0.99, 50), (draws.random(50) < 0.5).astype(float)
    assert cal.log_losses(probability, outcome).mean() == pytest.approx(log_loss(outcome, probability))
    assert cal.log_losses(np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])).tolist() == [0, 0, np.inf]
    logits = draws.normal(size=(50, 4))
    truth = draws.integers(0, 4, 50)
    expected = log_loss(truth, cal.probabilities(logits, 2.0), labels=range(4))
    assert cal.class_log_losses(logits, truth, 2.0).mean() == pytest.approx(expected)


def test_temperature_is_found_where_a_search_finds_it():
    draws = np.random.default_rng(3)
    truth = draws.integers(0, 4, 400)
    logits = 5 * draws.normal(np.eye(4)[truth], 1.0)
    fitted = cal.fit_temperature(logits, truth)
    searched = minimize_scalar(lambda t: cal.class_log_losses(logits, truth, t).mean(), bounds=(0.1, 50), method="bounded")
    assert fitted == pytest.approx(searched.x, rel=1e-4)
    assert cal.fit_temperature(3 * logits, truth) == pytest.approx(3 * fitted)
    yes = logits[:, 1] - logits[:, 0]
    two = np.stack([logits[:, 0], logits[:, 1]], axis=1)
    assert cal.fit_temperature(yes, truth == 1) == pytest.approx(cal.fit_temperature(two, truth == 1))
    assert cal.probabilities(yes, 2.0) == pytest.approx(1 / (1 + np.exp(-yes / 2)))


def test_temperature_of_one_set_calibrates_another():
    draws = np.random.default_rng(4)
    yes = draws.normal(0, 2, 20_000)
    outcome = (draws.random(20_000) < 1 / (1 + np.exp(-yes))).astype(float)
    temperature = cal.fit_temperature(4 * yes[:10_000], outcome[:10_000])
    assert temperature == pytest.approx(4, rel=0.05)
    edges = cal.equal_width_edges(15)
    before, after = (
        cal.expected_calibration_error(cal.probabilities(4 * yes[10_000:], t), outcome[10_000:], edges)
        for t in (1.0, temperature)
    )
    assert after < 0.02 < 0.1 < before


@pytest.mark.parametrize(
    ("logits", "truth", "reason"),
    [
        ([2.0, -1.0], [1, 0], "every truth has the highest logit"),
        ([-2.0, 1.0], [1, 0], "do not favour the truth"),
        ([0.0, 0.0], [1, 0], "do not favour the truth"),
        ([np.inf, 0.0], [1, 0], "not all finite"),
        ([1.0, 0.0], [2, 0], "class indices below C"),
    ],
)
def test_no_temperature_is_made_up(logits, truth, reason):
    with pytest.raises(ValueError, match=reason):
        cal.fit_temperature(np.array(logits), np.array(truth))


def naive_risks(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean over every order that confidence allows."""
    orders = [
        o
        for o in itertools.permutations(range(len(right)))
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(o))
    ]
    return np.mean([[1 - right[list(order[:i])].mean() for i in range(1, len(right) + 1)] for order in orders], axis=0)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
def test_risk_matches_the_mean_over_every_order_of_equal_confidence(rows):
    confidence, right = np.array(rows, dtype=float).T
    curve = cal.risk_coverage(confidence, right)
    assert curve.risk == pytest.approx(naive_risks(confidence, right), abs=1e-12)
    area = cal.area_under_risk_coverage(confidence, right)
    assert area == pytest.approx(naive_risks(confidence, right).mean(), abs=1e-12)
    best, worst = cal.area_under_risk_coverage(right, right), cal.area_under_risk_coverage(-right, right)
    assert best - 1e-12 <= area <= worst + 1e-12
    assert cal.area_under_risk_coverage(np.zeros(len(right)), right) == pytest.approx(1 - right.mean())
    assert cal.accuracy_at_coverage(confidence, right, 1.0) == pytest.approx(right.mean())


def test_accuracy_at_coverage_takes_the_most_confident():
    confidence, right = np.array([0.1, 0.9, 0.8, 0.3]), np.array([0, 1, 1, 0])
    assert [cal.accuracy_at_coverage(confidence, right, share) for share in (0.25, 0.5, 0.75, 1)] == pytest.approx(
        [1, 1, 2 / 3, 0.5]
    )
    assert cal.accuracy_at_coverage(np.arange(100), np.arange(100) >= 93, 0.07) == 1.0  # 0.07 * 100 is 7.000000000000001
    assert cal.risk_coverage(confidence, right).confidence.tolist() == [0.9, 0.8, 0.3, 0.1]


def test_bad_input_is_refused_by_row():
    for probability, outcome, match in (
        ([0.5, 1.2], [0, 1], "row 1 is 1.2"),
        ([0.5, np.nan], [0, 1], "row 1 is nan"),
        ([0.5, 0.5], [0, 2], "outcome in row 1 is 2"),
        ([0.5, 0.5], [0, np.nan], "outcome in row 1 is nan"),
        ([0.5], [0, 1], "shapes"),
        ([], [], "n > 0"),
    ):
        with pytest.raises(ValueError, match=match):
            cal.reliability(np.array(probability), np.array(outcome), cal.equal_width_edges(10))
    with pytest.raises(ValueError, match="row 0 is NaN"):
        cal.risk_coverage(np.array([np.nan, 1.0]), np.array([1, 0]))
    with pytest.raises(ValueError, match="coverage 0"):
        cal.accuracy_at_coverage(np.array([1.0]), np.array([1]), 0)
    with pytest.raises(ValueError, match="temperature 0"):
        cal.probabilities(np.array([1.0]), 0)
