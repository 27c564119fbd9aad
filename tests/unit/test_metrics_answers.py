"""Scores of answers: what is right, what is graded, and BLEU against a plain reading of its definition."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclm.metrics import answers, bleu, floors
from medclm.types import Box

NAMES = answers.vocabulary([["nodule"], ["cyst", "fluid collection"], ["mass and effusion"]])


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("Yes", "yes", True),
        ("Yes, there is one.", "Yes", True),
        ("yes and no", "yes", False),
        ("normal", "no", False),
        (None, "no", False),
        ("axial", "Axial", True),
        ("axial plane", "axial", False),
        ("no", "axial", False),
    ],
)
def test_closed(said, truth, right):
    assert answers.closed_right(said, [truth]) is right


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("nodule", ["nodule"], True),
        ("It is a nodule.", ["nodule"], True),
        ("nodules", ["nodule"], True),
        ("nodule or cyst", ["nodule"], False),
        ("not a nodule", ["nodule"], False),
        ("cyst", ["nodule"], False),
        ("a fluid collection", ["cyst", "fluid collection"], True),
        ("effusion, mass", ["mass and effusion"], True),
        ("mass", ["mass and effusion"], False),
        ("", ["nodule"], False),
        (None, ["nodule"], False),
    ],
)
def test_all_named_parts(said, truth, right):
    assert answers.names_right(said, truth, NAMES) is right


def test_kinds_with_their_own_scorer():
    assert answers.count_right("There are three nodules", ["3"])
    assert not answers.count_right("two or three", ["3"])
    assert answers.side_right("the right lung", ["left lung"]) is False
    assert answers.side_right("lung", ["the lung"]) is None
    assert answers.side_right("lung", ["lung", "left lung"]) is None
    assert answers.size_right("1.1 cm", ["10 mm"])
    assert not answers.size_right("2 cm", ["10 mm"])
    assert answers.answer_right("describe", "open", "", "anything", ["anything"], NAMES) is None
    assert answers.answer_right("what", "choice", "Which? A) cyst B) mass", "B", ["mass"], NAMES) is True


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("anterior part of the left kidney", True),
        ("It lies in the left kidney, anterior part.", True),
        ("anterior part of the left lung", False),
        ("left kidney", False),
        ("anterior and posterior part of the left kidney", False),
        ("not in the anterior part of the left kidney", False),
        (None, False),
    ],
)
def test_where_needs_part_side_and_organ(said, right):
    truths = [["anterior part of the left kidney"], ["posterior part of the left lung"]]
    assert answers.where_right(said, truths[0], answers.location_vocabulary(truths)) is right


def test_a_wrong_side_is_wrong_even_where_no_answer_names_it():
    truth = ["kidney", "left kidney"]
    assert answers.names_right("in the left kidney", truth, answers.vocabulary([truth]))
    assert not answers.names_right("in the right kidney", truth, answers.vocabulary([truth]))


def test_judge_names_the_means_each_answer_enters():
    closed = answers.judge("presence", "closed", "", "no", ["yes"], NAMES)
    assert closed == {"right": 0.0, "closed_accuracy": 0.0, "sensitivity": 0.0}
    named = answers.judge("what", "open", "", None, ["nodule"], NAMES)
    assert named["answer_accuracy"] == named["answer_accuracy_what"] == named["open_token_f1"] == 0.0
    assert "describe_token_f1" in answers.judge("describe", "open", "", "a mass", ["a mass here"], NAMES)


def test_token_scores_count_repeats_once():
    precision, recall, f1 = answers.token_scores("liver liver liver liver", ["liver"])
    assert (precision, recall) == (0.25, 1.0)
    assert f1 == pytest.approx(0.4)


words = st.lists(st.sampled_from("abcdefg"[1:]), max_size=9)


@given(words, st.lists(words.filter(bool), min_size=1, max_size=3))
def test_token_scores_match_a_naive_count(said, accepted):
    def naive(truth: list[str]) -> float:
        rest, shared = list(truth), 0
        for word in said:
            if word in rest:
                rest.remove(word)
                shared += 1
        return 2 * shared / (len(said) + len(truth)) if shared else 0.0

    f1 = answers.token_scores(" ".join(said), [" ".join(other) for other in accepted])[2]
    assert f1 == pytest.approx(max(naive(other) for other in accepted))


@given(st.text("左右肺有结节", min_size=1, max_size=8), st.text("左右肺有结节", min_size=1, max_size=8))
def test_chinese_shares_characters(said, truth):
    precision, recall, f1 = answers.token_scores(said, [truth])
    shared = sum(min(said.count(letter), truth.count(letter)) for letter in set(truth))
    assert (precision * len(said), recall * len(truth)) == (pytest.approx(shared), pytest.approx(shared))
    assert f1 == pytest.approx(2 * shared / (len(said) + len(truth)))
    assert answers.bleu_of_sample(said, [truth], 1) == pytest.approx(naive_bleu([(list(said), [list(truth)])], 1))


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [("是的", "是", 1), ("没有", "否", 1), ("Yes", "是", 1), ("不是", "是", 0), ("是和否", "是", 0), ("没有肺炎", "有", 0)],
)
def test_a_chinese_yes_or_no_is_judged_as_one(said, truth, right):
    values = answers.judge("presence", "closed", "肺里有结节吗？", said, [truth], frozenset())
    assert values == {"right": right, "closed_accuracy": right, "sensitivity" if truth in "是有" else "specificity": right}


def naive_bleu(pairs: list[tuple[list[str], list[list[str]]]], n: int) -> float:
    logs, said_length, reference_length = [], 0, 0
    for said, references in pairs:
        said_length += len(said)
        reference_length += min((abs(len(r) - len(said)), len(r)) for r in references)[1]
    for order in range(1, n + 1):
        hits = total = 0
        for said, references in pairs:
            grams = Counter(tuple(said[i : i + order]) for i in range(len(said) - order + 1))
            for gram, number in grams.items():
                most = max(sum(tuple(r[i : i + order]) == gram for i in range(len(r))) for r in references)
                hits += min(number, most)
                total += number
        if hits == 0:
            return 0.0
        logs.append(math.log(hits / total))
    brevity = 1.0 if said_length > reference_length else math.exp(1 - reference_length / said_length)
    return brevity * math.exp(sum(logs) / n)


@given(
    st.lists(st.tuples(words, st.lists(words.filter(bool), min_size=1, max_size=2)), min_size=1, max_size=4), st.integers(1, 4)
)
def test_bleu_matches_its_definition(pairs, n):
    said, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert bleu.corpus_bleu(said, references, n) == pytest.approx(naive_bleu(pairs, n))
    assert bleu.mean_sample_bleu(said, references, n) == pytest.approx(np.mean([naive_bleu([pair], n) for pair in pairs]))


def test_majority_answer_falls_back_to_its_kind():
    training = (
        [("what", "What is it?", "cyst")] * 5 + [("what", "What is that?", "mass")] * 4 + [("what", "Which?", "mass")] * 9
    )
    guess = floors.MajorityAnswer(training)
    assert guess.guess("what", "what is IT") == "cyst"
    assert guess.guess("what", "What is that?") == "mass"
    assert guess.guess("count", "How many?") is None


def test_median_box_by_question():
    low, high = Box(0.0, 0.0, 0.2, 0.2), Box(0.6, 0.6, 1.0, 1.0)
    guess = floors.MedianBox([("Where is the cyst?", low)] * 5 + [("Other?", high)] * 2 + [("Other again?", high)] * 4)
    assert guess.guess("where is the CYST") == low
    assert guess.guess("Other?") == high  # 6 of 11 boxes
    assert floors.MedianBox([]).guess("Other?") is None
