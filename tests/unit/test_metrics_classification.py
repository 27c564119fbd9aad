"""Rank scores and decisions against pairs counted one by one, rows really drawn twice, and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score, roc_curve

from medclm.draws import generator
from medclm.metrics import classification as c
from medclm.metrics.intervals import bootstrap_ci95, estimate

LABELS = ["effusion", "nodule", "cardiomegaly"]
REFERENCE = {"auroc": roc_auc_score, "average_precision": average_precision_score}
SCORES = tuple(REFERENCE)


def sample(n: int, *, seed: int, levels: int = 8) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Informative scores with many ties, a few unassessed examples, two images of each patient."""
    draws = np.random.default_rng(seed)
    truth = (draws.random((n, 3)) < 0.4).astype(float)
    scores = np.round(draws.normal(truth, 1.0) * levels / 4)
    truth[draws.random((n, 3)) < 0.1] = np.nan
    return scores, truth, [f"p{i // 2}" for i in range(n)]


def pairs_in_order(scores: np.ndarray, truth: np.ndarray) -> float:
    pairs = list(itertools.product(scores[truth == 1], scores[truth == 0]))
    return sum(1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs) / len(pairs)


def precision_at_each_positive(scores: np.ndarray, truth: np.ndarray) -> float:
    precisions = [(truth[scores >= score] == 1).mean() for score in scores[truth == 1]]
    return sum(precisions) / len(precisions)


ORACLES = {"auroc": pairs_in_order, "average_precision": precision_at_each_positive}


@pytest.mark.parametrize("score", SCORES)
@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(2, 6), st.booleans()), min_size=2, max_size=14))
def test_scores_match_counting_and_scikit_learn(score, rows):
    scores, truth = np.array(rows, dtype=float).T
    assume(0 < truth.sum() < len(truth))
    value = c.rank_score(scores, truth, ["a"], score=score).by_label["a"]
    assert value == pytest.approx(ORACLES[score](scores, truth), abs=1e-12)
    assert value == pytest.approx(REFERENCE[score](truth, scores), abs=1e-12)
    order = np.random.default_rng(0).permutation(len(truth))
    again = c.rank_score(np.exp(scores[order]), truth[order], ["a"], score=score)  # any monotone scale, any order
    assert again.by_label["a"] == pytest.approx(value, abs=1e-12)


def test_labels_without_both_classes_are_named_and_enter_no_mean():
    scores = np.random.default_rng(0).random((4, 4))
    truth = np.array([[1, 1, 0, np.nan], [0, 1, 0, np.nan], [1, np.nan, 0, np.nan], [0, 1, 0, np.nan]])
    ranked = c.rank_score(scores, truth, ["a", "b", "c", "d"], score="auroc")
    assert list(ranked.by_label) == ["a"]
    assert ranked.macro == ranked.by_label["a"]
    assert ranked.without == {"b": "no negative", "c": "no positive", "d": "not assessed"}
    assert list(c.bootstrap(scores, truth, ["a", "b", "c", "d"], ["p", "q", "r", "s"], score="auroc")) == ["a", c.MACRO]
    assert np.isnan(c.rank_score(scores[:, 1:2], truth[:, 1:2], ["b"], score="auroc").macro)


def test_constant_scores_are_chance_and_named():
    truth = np.array([1.0, 0, 0, 0])
    for level in (0.0, 0.3, 1.0):
        ranked = c.rank_score(np.full(4, level), truth, ["a"], score="auroc")
        assert ranked.by_label == {"a": 0.5}
        assert ranked.constant == ("a",)
    assert c.rank_score(np.zeros(4), truth, ["a"], score="average_precision").by_label == {"a": 0.25}
    assert c.rank_score(np.arange(4.0), truth, ["a"], score="auroc").constant == ()


def test_decisions_are_refused_where_scores_are_needed():
    truth = np.array([[1.0, 1], [0, 0], [1, 0]])
    decided = np.array([[0.9, 1], [0.2, 0], [0.4, 1]])
    for call in (
        lambda: c.rank_score(decided, truth, ["a", "b"], score="auroc"),
        lambda: c.bootstrap(decided, truth, ["a", "b"], ["p", "q", "r"], score="average_precision"),
        lambda: c.youden(decided, truth, ["a", "b"]),
    ):
        with pytest.raises(ValueError, match="scores of 'b' are all 0 or 1"):
            call()


def test_bad_input_is_refused_by_row_and_label():
    scores, truth = np.random.default_rng(0).random((3, 2)), np.array([[1.0, 0], [0, 1], [0, 0]])

    def refused(match, *, scores=scores, truth=truth, labels=("a", "b"), patients=("p", "q", "r")):
        with pytest.raises(ValueError, match=match):
            c.bootstrap(scores, truth, labels, patients, score="auroc")

    refused("truth of 'b' in row 1 is -1", truth=truth - 2 * (truth * [[0, 1]]))
    refused("score of 'a' in row 2 is nan", scores=np.where([[0, 0], [0, 0], [1, 0]], np.nan, scores))
    refused("3 rows of scores for 2", truth=truth[:2])
    refused(r"scores has shape \(3, 2\)", labels=("a",))
    refused("a name of its own", labels=("a", c.MACRO))
    refused("2 patients for 3 examples", patients=("p", "q"))
    unassessed = np.where([[0, 0], [0, 0], [1, 0]], np.nan, 1.0)
    assert c.rank_score(scores * unassessed, truth * unassessed, ["a", "b"], score="auroc").without == {}


def test_uncertain_labels_follow_the_policy():
    truth = np.array([1.0, 0.0, -1.0, np.nan])
    for policy, value in (("as_positive", 1.0), ("as_negative", 0.0), ("ignore", np.nan)):
        np.testing.assert_array_equal(c.resolve_uncertain(truth, policy), [1, 0, value, np.nan])
    assert c.label_counts(truth, ["a"]) == {"a": (1, 1, 1, 1)}
    with pytest.raises(ValueError, match="'drop'"):
        c.resolve_uncertain(truth, "drop")


@pytest.mark.parametrize("score", SCORES)
def test_bootstrap_equals_drawing_the_rows(score):
    scores, truth, patients = sample(40, seed=1)
    other = scores + np.random.default_rng(2).normal(0, 2, scores.shape)
    names = sorted(set(patients))
    times = generator(5, "metrics.bootstrap").multinomial(20, np.full(20, 1 / 20), size=60)
    drawn = {"one": [], "two": []}
    for row in times:
        chosen = [i for p, k in zip(names, row, strict=True) for _ in range(k) for i in range(40) if patients[i] == p]
        for name, model in (("one", scores), ("two", other)):
            known = [~np.isnan(truth[chosen, k]) for k in range(3)]
            each = [REFERENCE[score](truth[chosen, k][known[k]], model[chosen, k][known[k]]) for k in range(3)]
            drawn[name].append([*each, np.mean(each)])
    one, two = np.array(drawn["one"]), np.array(drawn["two"])
    fast = c.bootstrap(scores, truth, LABELS, patients, score=score, seed=5, resamples=60)
    paired = c.compare(scores, other, truth, LABELS, patients, score=score, seed=5, resamples=60)
    for k, label in enumerate([*LABELS, c.MACRO]):
        assert fast[label].ci95 == pytest.approx(np.percentile(one[:, k], [2.5, 97.5]), abs=1e-12)
        assert paired[label].ci95 == pytest.approx(np.percentile(one[:, k] - two[:, k], [2.5, 97.5]), abs=1e-12)
        assert fast[label].undefined == 0
    values = [c.rank_score(model, truth, LABELS, score=score).macro for model in (scores, other)]
    assert paired[c.MACRO].difference == pytest.approx(values[0] - values[1])


def test_many_examples_are_resampled_in_blocks_without_a_seam():
    scores, truth, patients = sample(60, seed=3)
    whole = c.bootstrap(scores, truth, LABELS, patients, score="auroc", resamples=50)
    again = c.bootstrap(
        np.repeat(scores, 500, 0), np.repeat(truth, 500, 0), LABELS, np.repeat(patients, 500), score="auroc", resamples=50
    )
    assert {k: v.ci95 for k, v in again.items()} == {k: pytest.approx(v.ci95) for k, v in whole.items()}


def test_resamples_that_lack_a_class_are_counted():
    scores, truth = np.random.default_rng(0).random((12, 2)), np.zeros((12, 2))
    truth[0, 0] = 1
    truth[::2, 1] = 1
    result = c.bootstrap(scores, truth, ["rare", "common"], [str(i) for i in range(12)], score="auroc")
    assert 250 < result["rare"].undefined < 450  # (11 / 12)^12 = 0.35 of a thousand
    assert result["common"].undefined == 0
    assert result[c.MACRO].undefined == result["rare"].undefined
    assert (
        "lacked a class"
        in c.compare(scores, -scores, truth, ["rare", "common"], list("abcdefghijkl"), score="auroc")["rare"].note
    )


def test_few_patients_get_no_p_value_and_one_no_interval():
    scores, truth = np.random.default_rng(0).random(20), np.arange(20) % 2
    few = c.compare(scores, -scores, truth, ["a"], ["p", "q", "r", "s", "t"] * 4, score="auroc")["a"]
    assert few.p_value is None
    assert "5 patients" in few.note
    assert c.bootstrap(scores, truth, ["a"], ["p"] * 20, score="auroc")["a"].ci95 is None


def test_equal_models_do_not_differ_and_noise_rarely_seems_to():
    scores, truth, patients = sample(80, seed=4)
    same = c.compare(scores, 3 * scores - 7, truth, LABELS, patients, score="auroc")[c.MACRO]
    assert (same.difference, same.p_value) == (0.0, 1.0)
    better = c.compare(
        truth.copy() * 5 + np.random.default_rng(0).random(truth.shape), scores, truth, LABELS, patients, score="auroc"
    )
    assert better[c.MACRO].p_value < 0.01
    draws, false_alarms = np.random.default_rng(5), 0
    for _ in range(200):
        truth = (np.arange(60) % 2).astype(float)
        first, second = draws.normal(truth, 1, (2, 60))
        p = c.compare(first, second, truth, ["a"], [str(i) for i in range(60)], score="auroc", resamples=200)["a"].p_value
        false_alarms += p < 0.05
    assert false_alarms <= 20


def test_operating_points_match_every_threshold_of_the_roc_curve():
    for seed in range(20):
        scores, truth, _ = sample(30, seed=seed)
        points, best = c.sensitivity_at(scores, truth, LABELS, specificity=0.8), c.youden(scores, truth, LABELS)
        for k, label in enumerate(LABELS):
            known = ~np.isnan(truth[:, k])
            false, true, _ = roc_curve(truth[known, k], scores[known, k], drop_intermediate=False)
            assert points[label].sensitivity == pytest.approx(true[false <= 0.2 + 1e-9].max())
            assert points[label].specificity >= 0.8 - 1e-9
            assert sum(best[label][1:]) - 1 == pytest.approx((true - false).max())
            for point in (points[label], best[label]):
                columns = c.decision_columns(scores[:, [k]], truth[:, [k]], [label], {label: point.threshold})[:, 0]
                reached = estimate(columns, c.sensitivity), estimate(columns, c.specificity)
                assert reached == pytest.approx((point.sensitivity, point.specificity))


def test_the_step_is_conservative_and_chance_calls_nothing():
    scores, truth = np.array([4.0, 3, 2, 1]), np.array([1.0, 0, 1, 0])
    assert c.sensitivity_at(scores, truth, ["a"], specificity=0.5)["a"] == (2.0, 1.0, 0.5)
    assert c.sensitivity_at(scores, truth, ["a"], specificity=0.51)["a"] == (4.0, 0.5, 1.0)
    assert c.sensitivity_at(-scores, truth, ["a"], specificity=0.9)["a"] == (np.inf, 0.0, 1.0)
    assert c.youden(-scores, truth, ["a"])["a"].threshold == np.inf
    with pytest.raises(ValueError, match="specificity 90"):
        c.sensitivity_at(scores, truth, ["a"], specificity=90)


def test_decisions_match_scikit_learn_and_skip_what_is_not_assessed():
    scores, truth, _ = sample(50, seed=6)
    columns = c.decision_columns(scores, truth, LABELS, {"effusion": 0.0, "nodule": 1.0, "cardiomegaly": 2.0})
    said = scores >= [0, 1, 2]
    for k in range(3):
        known = ~np.isnan(truth[:, k])
        true, calls = truth[known, k], said[known, k]
        means = columns[:, k].mean(axis=0)
        expected = recall_score(true, calls), recall_score(1 - true, ~calls), f1_score(true, calls)
        assert [float(f(means)) for f in (c.sensitivity, c.specificity, c.f1)] == pytest.approx(expected)
    assessed = np.nan_to_num(truth), np.where(np.isnan(truth), False, said)
    flat = columns.reshape(len(columns), -1)
    assert estimate(flat, c.micro_f1) == pytest.approx(f1_score(*assessed, average="micro"))
    assert estimate(flat, c.macro_f1) == pytest.approx(f1_score(*assessed, average="macro"))
    low, high = bootstrap_ci95(flat, [str(i) for i in range(50)], formula=c.macro_f1)
    assert low < estimate(flat, c.macro_f1) < high


def test_perfect_decisions_score_one_and_a_label_without_positives_is_undefined():
    truth = np.array([[1.0, 0], [0, 0], [1, 0]])
    columns = c.decision_columns(truth, truth, ["a", "b"], 0.5)
    assert c.micro_f1(columns.reshape(3, -1).mean(axis=0)) == c.f1(columns[:, 0].mean(axis=0)) == 1.0
    assert np.isnan([c.macro_f1(columns.reshape(3, -1).mean(axis=0)), c.sensitivity(columns[:, 1].mean(axis=0))]).all()
    assert np.isnan(c.f1(np.array([0.0, 0.5, 0.0, 0.5])))  # false calls show in specificity and in micro F1
    with pytest.raises(ValueError, match=r"no threshold for \['b'\]"):
        c.decision_columns(truth, truth, ["a", "b"], {"a": 0.5})
