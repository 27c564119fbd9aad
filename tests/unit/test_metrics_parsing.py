"""Reading answers: what is scored, and what counts as the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclm.metrics import parsing

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def test_scored_text_follows_the_last_answer():
    parsed = parsing.split_completion("Reasoning: first.\nAnswer: liver?\n\nAnswer: the kidney ")
    assert parsed.answer == "the kidney"
    assert parsed.rationale == "first.\nAnswer: liver?"


@pytest.mark.parametrize("text", ["", "The kidney.", "Reasoning: it is here", "Reasoning: x\n\nAnswer:   "])
def test_no_answer_is_unparsed(text):
    assert parsing.split_completion(text).answer is None


@given(st.text(max_size=60).filter(lambda text: text.strip() and "answer" not in text.lower()), st.text(max_size=60))
def test_any_answer_comes_back(answer, rationale):
    assert parsing.split_completion(f"Reasoning: {rationale}\n\nAnswer: {answer}").answer == answer.strip()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The LEFT Kidney.", "left kidney"),
        ("L lung", "left lung"),
        ("two nodules", "2 nodules"),
        ("x-ray", "X Ray"),
        ("2.50 cm", "2.5 cm"),
        ("03", "three"),
        ("ﬁbrosis", "fibrosis"),
    ],
)
def test_same_after_normalisation(first, second):
    assert parsing.normalise(first) == parsing.normalise(second)


@given(st.text(max_size=50))
def test_normalisation_is_idempotent(text):
    once = parsing.normalise(text)
    assert parsing.normalise(once) == once


def test_alternatives_split_and_dedupe():
    assert parsing.alternatives(["CT#ct scan", "C T", "ct", " # "]) == ["CT", "ct scan", "C T"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", True),
        ("no, there is none", False),
        ("yes and no", None),
        ("No, yes", None),
        ("yes/no", None),
        ("Yes, and no effusion", None),
        ("Yes, a nodule and no effusion", True),
        ("normal", None),
        ("nodule", None),
        ("", None),
    ],
)
def test_polarity(text, expected):
    assert parsing.polarity(text) is expected


def test_options_and_choice():
    choices = parsing.options("Which organ? (A) liver (B) left kidney, (C) spleen")
    assert choices == {"A": "liver", "B": "left kidney", "C": "spleen"}
    assert parsing.options("Which organ? A: liver\nB: kidney") == {"A": "liver", "B": "kidney"}
    assert parsing.options("Is vitamin A. good?") == {}
    for text, letter in [
        ("B", "B"),
        ("(b)", "B"),
        ("B. left kidney", "B"),
        ("The left kidney", "B"),
        ("A spleen", "C"),  # an article, not the letter
        ("A. spleen", None),
        ("D", None),
        ("liver or spleen", None),
    ]:
        assert parsing.chosen(text, choices) == letter, text


@pytest.mark.parametrize(
    ("text", "count"), [("There are three.", 3), ("12", 12), ("none", 0), ("No lesions", 0), ("many", None), ("2.5 cm", None)]
)
def test_count(text, count):
    assert parsing.count_in(text) == count


def test_sides_and_sizes():
    assert parsing.sides_in("R upper zone") == {"right"}
    assert parsing.sides_in("left and right") == parsing.sides_in("both sides") == {"bilateral"}
    assert parsing.sides_in("the copyright") == frozenset()
    assert parsing.size_mm_in("about 1.2 cm across") == pytest.approx(12)
    assert parsing.size_mm_in("7 mm") == 7
    assert parsing.size_mm_in("7 pixels") is None


def test_named_parts_takes_the_longest_phrase():
    names = frozenset([("kidney",), ("left", "kidney"), ("no", "finding")])
    assert parsing.named_parts("It lies in the left kidneys.", names) == {("left", "kidney")}
    assert parsing.named_parts("kidney or left kidney", names) == {("kidney",), ("left", "kidney")}
    assert parsing.named_parts("not the kidney", names) is None
    assert parsing.named_parts("no finding", names) == {("no", "finding")}
    assert parsing.named_parts("spleen", names) == frozenset()


def test_singular_keeps_latin_words():
    words = ["masses", "opacities", "nodules", "pancreas", "thymus", "pelvis", "mass"]
    assert [parsing.singular(word) for word in words] == ["mass", "opacity", "nodule", "pancrea", "thymus", "pelvis", "mass"]


def test_real_answers_score_themselves():
    files = sorted((SHARED / "vqa_med_2019_text").glob("*.txt"))
    if not files:
        pytest.skip("needs shared/data/vqa_med_2019_text")
    rows = [line.split("|") for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.count("|") == 3]
    assert len(rows) == 500
    for _, _, _, answer in rows:
        assert all(parsing.normalise(other) for other in parsing.alternatives([answer])), answer
