"""Scores of label sets against scikit-learn and counting by hand, and the words of change that nothing supports."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import cohen_kappa_score, f1_score

from medclm.metrics import findings
from medclm.metrics.intervals import bootstrap_ci95, estimate
from medclm.metrics.rule14 import OBSERVATIONS, Label, Side, Status, label

K = 4
tables = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays.arrays(bool, (n, K), elements=st.booleans()), arrays.arrays(bool, (n, K), elements=st.booleans())
    )
)
statuses = st.sampled_from(Status)
labels = st.lists(st.tuples(statuses, st.sampled_from(Side)), min_size=14, max_size=14).map(
    lambda row: {
        name: Label(status, side if status >= Status.UNCERTAIN else Side.NONE_SAID)
        for name, (status, side) in zip(OBSERVATIONS, row, strict=True)
    }
)


def made(**said: Status | tuple[Status, Side]) -> dict[str, Label]:
    row = {name: Label(Status.NOT_MENTIONED) for name in OBSERVATIONS}
    for name, one in said.items():
        row[name.replace("_", " ")] = Label(*one) if isinstance(one, tuple) else Label(one)
    return row


@settings(max_examples=100)
@given(tables)
def test_f1_is_that_of_scikit_learn(pair):
    predicted, reference = pair
    cells = findings.confusion(predicted, reference).mean(axis=0)
    for average, formula in (("micro", findings.f1_micro), ("macro", findings.f1_macro), (None, findings.f1_each)):
        theirs = f1_score(reference, predicted, average=average, zero_division=np.nan)
        assert np.allclose(formula(cells), theirs, equal_nan=True)


@given(tables)
def test_f1_of_a_stack_of_means_is_that_of_each(pair):
    cells = findings.confusion(*pair)
    stack = np.stack([cells.mean(axis=0), cells[0]])
    for formula in (findings.f1_micro, findings.f1_macro):
        assert np.allclose(formula(stack), [formula(row) for row in stack], equal_nan=True)


@given(tables)
def test_support_counts_positive_references(pair):
    assert findings.support(findings.confusion(*pair)).tolist() == pair[1].sum(axis=0).tolist()


def test_f1_of_nothing_is_undefined_and_spam_never_perfect():
    nothing, one = np.zeros((3, K), dtype=bool), np.eye(3, K, dtype=bool)
    assert np.isnan(findings.f1_micro(findings.confusion(nothing, nothing).mean(axis=0)))
    assert np.isnan(findings.f1_macro(findings.confusion(nothing, nothing).mean(axis=0)))
    assert findings.f1_macro(findings.confusion(one, one).mean(axis=0)) == 1.0
    assert findings.f1_micro(findings.confusion(~nothing, one).mean(axis=0)) == pytest.approx(2 * 3 / (2 * 3 + 9))
    assert findings.f1_micro(findings.confusion(nothing, one).mean(axis=0)) == 0.0


@settings(max_examples=100)
@pytest.mark.filterwarnings("ignore")
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_kappa_is_that_of_scikit_learn(pairs):
    first, second = np.array(pairs).T
    theirs = cohen_kappa_score(first, second)
    assert np.allclose(findings.cohen_kappa(first, second), theirs, equal_nan=True)
    yes = findings.kappa_columns(first == 1, second == 1)
    assert np.allclose(estimate(yes, findings.kappa_of_means), cohen_kappa_score(first == 1, second == 1), equal_nan=True)


def test_kappa_of_nothing_is_undefined():
    assert np.isnan(findings.cohen_kappa([], []))


def test_intervals_resample_the_cells():
    rng = np.random.default_rng(0)
    reference = rng.random((60, K)) < 0.4
    predicted = reference ^ (rng.random((60, K)) < 0.1)
    cells, ids = findings.confusion(predicted, reference), [str(i) for i in range(60)]
    low, high = bootstrap_ci95(cells, ids, formula=findings.f1_macro)
    assert low < estimate(cells, findings.f1_macro) < high
    slow = [f1_score(reference[i], predicted[i], average="macro", zero_division=np.nan) for i in rng.integers(0, 60, (300, 60))]
    assert (low, high) == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.03)


@settings(max_examples=100)
@given(labels, labels)
def test_values_of_a_report_match_counting(said, truth):
    values = findings.compare(said, truth)
    names = OBSERVATIONS[1:]
    sure = Status.PRESENT
    assert values["hallucinated_findings"] == sum(
        said[name].status is sure and truth[name].status in (Status.ABSENT, Status.NOT_MENTIONED) for name in names
    )
    assert values["omitted_findings"] == findings.compare(truth, said)["hallucinated_findings"]
    compared = [
        name
        for name in OBSERVATIONS
        if said[name].status in (sure, Status.UNCERTAIN) and truth[name].status in (sure, Status.UNCERTAIN)
        if said[name].side and truth[name].side
    ]
    assert values["sides_compared"] == len(compared)
    assert values["side_errors"] == sum(said[name].side is not truth[name].side for name in compared)
    for mode, counted in (("positive", (sure, Status.UNCERTAIN)), ("negative", (sure,))):
        for name in OBSERVATIONS:
            cells = [values[f"{cell} {name} uncertain={mode}"] for cell in ("tp", "fp", "fn")]
            a, b = said[name].status in counted, truth[name].status in counted
            assert cells == [a and b, a and not b, b and not a]
        same = all((said[name].status in counted) == (truth[name].status in counted) for name in OBSERVATIONS)
        assert values[f"exact uncertain={mode}"] == same


@settings(max_examples=50)
@given(labels)
def test_equal_labels_have_no_errors(row):
    values = findings.compare(row, row)
    assert values["exact uncertain=positive"] == values["exact uncertain=negative"] == 1.0
    assert values["hallucinated_findings"] == values["omitted_findings"] == values["side_errors"] == 0.0


def test_columns_name_what_compare_gives():
    said = made(Edema=Status.PRESENT, Cardiomegaly=Status.UNCERTAIN)
    truth = made(Edema=Status.PRESENT, Cardiomegaly=Status.PRESENT)
    values = findings.compare(said, truth)
    for mode, expected in (("positive", 1.0), ("negative", 2 / 3)):
        row = np.array([values[name] for name in findings.columns("5", mode)])
        assert findings.f1_micro(row) == pytest.approx(expected)
    assert set(findings.columns("14", "positive")) < set(values)
    assert len(findings.columns("5", "negative")) == 15


def test_a_half_right_side_is_wrong_and_an_unsaid_one_is_not_judged():
    def sides(first: Side, second: Side) -> np.ndarray:
        values = findings.compare(made(Edema=(Status.PRESENT, first)), made(Edema=(Status.PRESENT, second)))
        return np.array([values[name] for name in findings.SIDE_COLUMNS])

    assert findings.side_error_share(sides(Side.LEFT, Side.BILATERAL)) == 1.0
    assert findings.side_error_share(sides(Side.LEFT, Side.LEFT)) == 0.0
    assert np.isnan(findings.side_error_share(sides(Side.NONE_SAID, Side.LEFT)))


@pytest.mark.parametrize(
    ("prediction", "reference", "unsupported"),
    [
        ("Unchanged effusion.", "Effusion.", True),
        ("New consolidation.", "Consolidation.", True),
        ("Stable heart size.", "Heart size is normal.", True),
        ("The edema has worsened.", "Edema.", True),
        ("No interval change.", "Clear lungs.", True),
        ("Unchanged effusion.", "The effusion is unchanged.", False),
        ("New consolidation.", "Compared with the prior study, more consolidation.", False),
        ("Effusion.", "Effusion.", False),
        ("A knewly renewed valve.", "Valve.", False),
        ("Unchanged effusion.", "Comparison: chest film.\nFindings: Effusion.", True),
        ("Comparison: unchanged.\nFindings: Effusion.", "Effusion.", False),
    ],
)
def test_words_of_change_need_a_comparison(prediction, reference, unsupported):
    assert findings.unsupported_change(prediction, reference) is unsupported


def test_judge_reads_both_texts():
    said, truth = "New left effusion and a nodule.", "Right effusion. Cardiomegaly."
    values = findings.judge(said, truth)
    assert values == findings.compare(label(said), label(truth)) | {"unsupported_change": 1.0}
    assert {name: values[name] for name in findings.RATES} == {
        "hallucinated_findings": 1.0,
        "omitted_findings": 1.0,
        "side_errors": 1.0,
        "unsupported_change": 1.0,
    }
