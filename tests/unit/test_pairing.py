"""Splits do not leak and fill; Hard partners are strangers of the same kind, evenly used, and do not give the answer away."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.corpus.ids import Ids
from medclm.corpus.pairing import Candidate, pair
from medclm.corpus.splits import SplitRule, assign_splits, quota_counts, units

NONE: frozenset[str] = frozenset()


def names(count: int) -> list[str]:
    ids = Ids(b"k" * 32)
    return [ids.make("patient", "s", str(number)) for number in range(count)]


def splits_of(count: int, rule: SplitRule) -> Counter[str]:
    return Counter(assign_splits(dict.fromkeys(names(count), NONE), rule).values())


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "val": 1, "test": 1}),
        (4, {"train": 2, "val": 1, "test": 1}),
        (10, {"train": 8, "val": 1, "test": 1}),
        (1000, {"train": 800, "val": 100, "test": 100}),
    ],
)
def test_quotas_in_whole_patients(patients: int, expected: dict[str, int]) -> None:
    assert splits_of(patients, SplitRule()) == expected


@given(st.integers(0, 300), st.tuples(*[st.integers(0, 10)] * 3).filter(any))
def test_quota_counts_are_the_nearest_whole_numbers(count: int, quotas: tuple[int, int, int]) -> None:
    counts = quota_counts(count, quotas)
    assert sum(counts) == count
    for number, quota in zip(counts, quotas, strict=True):
        share = quota / sum(quotas) * count
        assert number == 0 if quota == 0 else abs(number - share) < 2 + 1e-9 or number == 1
        assert quota == 0 or count < 3 or number >= 1


def test_splits_do_not_depend_on_order_and_differ_by_key() -> None:
    patients = names(40)
    forward = assign_splits(dict.fromkeys(patients, NONE), SplitRule())
    assert assign_splits(dict.fromkeys(reversed(patients), NONE), SplitRule()) == forward
    assert {forward[p] for p in sorted(patients)[:32]} == {"train"}


def test_a_fold_tests_every_patient_once() -> None:
    patients = names(4)
    tested: list[str] = []
    for k in range(1, 5):
        splits = assign_splits(dict.fromkeys(patients, NONE), SplitRule(fold=(k, 4)))
        assert Counter(splits.values()) == {"train": 2, "val": 1, "test": 1}
        tested += [name for name, split in splits.items() if split == "test"]
    assert sorted(tested) == sorted(patients)
    assert splits_of(4, SplitRule(fold=(1, 2))) == {"train": 2, "test": 2}
    with pytest.raises(ValueError, match="only 3 patients"):
        splits_of(3, SplitRule(fold=(1, 4)))


def test_an_official_split_wins() -> None:
    a, b, c = names(3)
    stated = {a: frozenset({"Test"}), b: frozenset({"validation"}), c: NONE}
    assert assign_splits(stated, SplitRule()) == {a: "test", b: "val", c: "train"}  # c must not enter an official test set
    everywhere_test = dict.fromkeys((a, b, c), frozenset({"test"}))
    assert set(assign_splits(everywhere_test, SplitRule()).values()) == {"test"}
    assert set(assign_splits(everywhere_test, SplitRule(rule="patient")).values()) == {"train", "val", "test"}
    with pytest.raises(ValueError, match="1 of 3 patients state no split"):
        assign_splits(stated, SplitRule(rule="given"))
    with pytest.raises(ValueError, match="official splits test and train"):
        assign_splits({a: frozenset({"train", "test"})}, SplitRule())
    with pytest.raises(ValueError, match="official split 'holdout'"):
        assign_splits({a: frozenset({"holdout"})}, SplitRule())


@pytest.mark.parametrize(
    "faulty",
    [{"rule": "random"}, {"quotas": (0.0, 0.0, 0.0)}, {"quotas": (1.0, -0.1, 0.1)}, {"fold": (5, 4)}, {"fold": (1, 1)}],
)
def test_rules_that_cannot_be_met_are_refused(faulty: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="--"):
        SplitRule(**faulty)  # type: ignore[arg-type]


def test_patients_that_share_a_lesion_are_one_unit() -> None:
    found = units([("c", ["x"]), ("a", ["x", "y"]), ("b", []), ("d", ["y"]), ("a", ["z"])])
    assert found == {"a": "a", "b": "b", "c": "a", "d": "a"}


def candidate(number: int, **values: object) -> Candidate:
    base = {"record_id": f"{number:04d}", "unit": str(number), "domain": "d", "question_kind": "what", "organ": None}
    return Candidate(**{**base, "lends": True, "answer": "mass", **values})  # type: ignore[arg-type]


records_strategy = st.lists(
    st.tuples(
        st.integers(0, 5),  # patient
        st.sampled_from(["a / CT", "b / CT"]),
        st.sampled_from(["what", "presence"]),
        st.sampled_from([None, "liver", "lung"]),
        st.booleans(),
        st.sampled_from(["Yes", "No"]),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(records_strategy, st.randoms(use_true_random=False))
def test_partners_are_strangers_of_the_same_kind(rows: list[tuple], rng: random.Random) -> None:  # type: ignore[type-arg]
    records = [
        candidate(i, unit=f"p{p}", domain=d, question_kind=k, organ=o, lends=lends, answer=answer if lends else "")
        for i, (p, d, k, o, lends, answer) in enumerate(rows)
    ]
    partners = pair(records)
    shuffled = records.copy()
    rng.shuffle(shuffled)
    assert pair(shuffled) == partners
    by_id = {record.record_id: record for record in records}
    assert partners.keys() == by_id.keys()
    for name, partner in partners.items():
        mine = by_id[name]
        able = [
            other
            for other in records
            if other.lends
            and other.unit != mine.unit
            and (other.domain, other.question_kind) == (mine.domain, mine.question_kind)
        ]
        if not able:
            assert partner is None
            continue
        assert partner in {other.record_id for other in able}
        same_organ = [other for other in able if other.organ == mine.organ]
        if same_organ and mine.question_kind != "presence":
            assert by_id[partner].organ == mine.organ


def test_lenders_are_used_evenly() -> None:
    records = [candidate(i, unit=f"p{i % 97}", organ=("liver", "lung")[i % 2]) for i in range(1000)]
    uses = Counter(pair(records).values())
    assert max(uses.values()) <= 2
    assert len(uses) >= 990


def test_few_lenders_share_the_work() -> None:
    records = [candidate(i, unit=f"p{i}", lends=i < 7) for i in range(700)]
    uses = Counter(pair(records).values())
    assert len(uses) == 7
    assert max(uses.values()) - min(uses.values()) <= 1


def test_one_patient_with_most_images_costs_no_more() -> None:
    records = [candidate(i, unit="big" if i < 20000 else f"p{i}") for i in range(20100)]
    partners = pair(records)  # quadratic work here would take minutes
    uses = Counter(partner for name, partner in partners.items() if int(name) < 20000)
    assert len(uses) == 100
    assert max(uses.values()) - min(uses.values()) <= 1


def test_yes_and_no_are_balanced_with_images_that_lack_the_class() -> None:
    yes = [candidate(i, question_kind="presence", domain="nodule / DX", answer="Yes") for i in range(60)]
    no = [candidate(100 + i, question_kind="presence", domain="nodule / DX", answer="No") for i in range(6)]
    empty = [
        candidate(200 + i, question_kind="presence", domain="no finding / DX", answer="No", asks="nodule / DX")
        for i in range(6)
    ]
    by_id = {record.record_id: record for record in yes + no + empty}
    partners = pair(yes + no + empty)
    answers = Counter(by_id[partners[record.record_id]].answer for record in yes + no)  # type: ignore[index]
    assert answers == {"Yes": 33, "No": 33}
    lent = Counter(partners[record.record_id] for record in yes + no)
    assert {lent[record.record_id] for record in no + empty} <= {2, 3}
    assert all(by_id[partners[record.record_id]].domain == "no finding / DX" for record in empty)  # type: ignore[index]


def test_ids_need_the_key_and_tell_kinds_apart() -> None:
    one, other = Ids(b"a" * 32), Ids(b"b" * 32)
    made = {ids.make(kind, "s", raw) for ids in (one, other) for kind in ("patient", "study") for raw in ("1", "2")}
    assert len(made) == 8
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in made)
    assert one.make("a", "bc", "d") != one.make("ab", "c", "d")
    assert "aaaa" not in repr(one)
