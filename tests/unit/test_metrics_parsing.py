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
        ("是。", True),
        ("是的，有结节", True),
        ("有", True),
        ("否", False),
        ("不是", False),
        ("没有结节。", False),
        ("不健康", False),
        ("是，不是", None),
        ("有和没有", None),
        ("是否", None),
        ("有没有", None),
        ("无法判断", None),
        ("对侧", None),
        ("左肺", None),
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
        ("**B**", "B"),
        ("**B. left kidney**", "B"),
    ]:
        assert parsing.chosen(text, choices) == letter, text


def test_options_may_be_letters_signs_or_the_same_twice():
    panels = {"A": "A", "B": "B", "C": "C", "D": "None"}
    assert [parsing.chosen(text, panels) for text in ("A", "B", "C", "D", "B) B", "B) C")] == ["A", "B", "C", "D", "B", None]
    assert parsing.chosen("A", {"A": "B", "B": "A"}) == "A"  # a model asked for a letter says a letter
    assert parsing.true_option("A", {"A": "B", "B": "A"}) == "B"  # a benchmark writes the option
    assert parsing.true_option("C", {"A": "liver", "B": "lung", "C": "heart"}) == "C"
    signs = {"A": "+", "B": "-"}
    assert [parsing.chosen(text, signs) for text in ("A", "B", "-", "*")] == ["A", "B", "B", None]
    assert parsing.chosen("A) CT", {"A": "CT", "B": "ct."}) == "A"


def test_what_has_no_words_equals_only_itself():
    assert parsing.tokens("A") == ["a"]
    assert len({parsing.normalise(text) for text in ("A", "the", "+", "-", "")}) == 5
    assert parsing.tokens("1234567 and 1234568.50") == ["1234567", "and", "1234568.5"]
    assert parsing.count_in("1234567") == 1234567
    assert parsing.count_in("9" * 5000) is None


def test_chinese_is_counted_by_character_and_named_by_word():
    assert parsing.pieces("CT：左肺 2.0个 nodule") == ["ct", "左", "肺", "2", "个", "nodule"]
    assert parsing.parts("心脏、肺和肝") == {("心脏",), ("肺",), ("肝",)}
    assert parsing.named_parts("肺炎", frozenset([("肺",)])) == frozenset()
    assert parsing.split_completion("Reasoning：圆形。\n\nAnswer：左肺") == parsing.Parsed("圆形。", "左肺")


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
    assert parsing.size_mm_in("7 mm") == parsing.size_mm_in("a 7-mm nodule") == 7
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
