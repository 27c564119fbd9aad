"""Scoring profiles: each flaw of another harness is reproduced, and our own profile does not have it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import profiles as benchmark
from medclm.data.render import INSTRUCTIONS
from medclm.metrics.profiles import ANSWER_TYPES, PROFILES, profile_named
from medclm.metrics.profiles_llava_med import vqa_normalise
from medclm.metrics.profiles_medevalkit import medevalkit_answer
from medclm.metrics.profiles_octomed import squad_normalise
from medclm.metrics.profiles_parts import boxed

VQA_MED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "vqa_med_2019_text"
CHOICE = "Which organ? A) liver B) kidney"
AIR = ("Is there a pneumothorax?", "closed")
ORGAN = ("Which organ?", "open")
OTHERS = ("llava_med", "medevalkit", "octomed")
ALL_ORGANS = "left right upper lower liver spleen kidney lung " * 25  # 200 words


def judged(name: str, asked: tuple[str, str], said: str, *answers: str) -> dict[str, float]:
    """Values of an answer written as the profile's prompt wants it."""
    profile = PROFILES[name]
    return profile.judge(*asked, profile.completion(said), answers)


@pytest.mark.parametrize(
    ("name", "asked", "said", "truth", "column", "value"),
    [
        ("llava_med", AIR, "normal", "no", "closed_accuracy", 1.0),
        ("llava_med", AIR, "both eyes", "yes", "closed_accuracy", 1.0),
        ("llava_med", AIR, "yes and no", "no", "closed_accuracy", 1.0),
        ("llava_med", AIR, "yes and no", "yes", "closed_accuracy", 1.0),
        ("llava_med", (CHOICE, "choice"), "kidney", "A", "choice_accuracy", 1.0),  # A is an article to it: nothing is left
        ("llava_med", ORGAN, "left left left left", "left kidney", "open_token_recall", 0.8),
        ("llava_med", ORGAN, "left left left left", "left kidney", "open_token_precision", 1.0),
        ("llava_med", ORGAN, ALL_ORGANS, "left kidney", "open_token_recall", 1.0),
        ("llava_med", ORGAN, "left", "left kidney", "open_exact_match", 1.0),
        ("llava_med", ORGAN, "13 nodules", "3", "open_accuracy", 1.0),
        ("medevalkit", AIR, "normal", "no", "closed_accuracy", 1.0),
        ("medevalkit", AIR, "not sure", "no", "overall", 1.0),
        ("medevalkit", ORGAN, ALL_ORGANS, "left kidney", "open_token_f1", 1.0),
        ("medevalkit", (CHOICE, "choice"), "I do not know", "kidney", "choice_accuracy", 1.0),
        ("medevalkit", (CHOICE, "choice"), "B. liver", "kidney", "choice_accuracy", 1.0),
        ("octomed", (CHOICE, "choice"), "B. liver", "kidney", "choice_accuracy", 1.0),
        ("octomed", ORGAN, "right kidney", "left kidney", "open_token_f1", 0.5),
        ("octomed", ORGAN, "no left kidney", "left kidney", "open_token_f1", 0.8),
    ],
)
def test_a_flaw_pays_elsewhere_and_nothing_with_us(name, asked, said, truth, column, value):
    assert judged(name, asked, said, truth)[column] == pytest.approx(value)
    assert judged("medclm", asked, said, truth)["overall"] == 0.0


@pytest.mark.parametrize(
    ("name", "asked", "said", "truth", "column"),
    [
        ("medevalkit", AIR, "Yes, a nodule.", "yes", "closed_accuracy"),  # `nodule` contains `no`
        ("medevalkit", ORGAN, "Kidney.", "kidney", "open_exact_match"),
        ("medevalkit", ORGAN, "Answer: kidney", "kidney", "open_exact_match"),  # the blank stays
        ("llava_med", ORGAN, "lung and lung", "lung and lung", "open_exact_match"),  # distinct words over all words
        ("octomed", AIR, "Yes, it is.", "yes", "closed_accuracy"),
    ],
)
def test_a_flaw_punishes_a_right_answer_elsewhere_and_not_with_us(name, asked, said, truth, column):
    assert judged(name, asked, said, truth)[column] < 1.0
    assert judged("medclm", asked, said, truth)["overall"] == 1.0


def test_forgetting_wrong_answers_makes_llava_med_perfect():
    """Nine of ten say yes where no is true: 1.0 over the one that is left."""
    rows = [judged("llava_med", AIR, said, "no") for said in ["yes"] * 9 + ["no"]]
    kept = [row["closed_accuracy_dropping"] for row in rows if "closed_accuracy_dropping" in row]
    assert kept == [1.0]
    assert [row["closed_accuracy"] for row in rows] == [0.0] * 9 + [1.0]
    assert [judged("medclm", AIR, said, "no")["overall"] for said in ("yes", "no")] == [0.0, 1.0]


def test_without_a_yes_or_no_the_dropping_accuracy_is_always_zero():
    assert judged("llava_med", ("Which side?", "closed"), "left", "left")["closed_accuracy_dropping"] == 0.0
    assert judged("llava_med", ("Which side?", "closed"), "left", "left")["closed_accuracy"] == 1.0


def test_medevalkit_prints_f1_recall_and_precision_under_each_others_names():
    said, truth = "left lung base region", "left lung"  # precision 1/2, recall 1, F1 2/3
    theirs, ours = judged("medevalkit", ORGAN, said, truth), judged("medclm", ORGAN, said, truth)
    names = ("open_token_precision", "open_token_recall", "open_token_f1")
    assert [theirs[name] for name in names] == pytest.approx([2 / 3, 1 / 2, 1.0])
    assert [ours[name] for name in names] == pytest.approx([1 / 2, 1.0, 2 / 3])


def test_a_right_answer_in_no_box_is_wrong_for_octomed():
    octomed = PROFILES["octomed"]
    assert octomed.judge(*AIR, "<think>\\boxed{no}</think> The answer is no.", ["no"]) == {"closed_accuracy": 0.0}
    assert octomed.judge(*AIR, "no box", ["the"]) == {"closed_accuracy": 0.0}  # nothing is left of `the` either
    assert octomed.judge(*AIR, "<think>\\boxed{yes}</think> \\boxed{No.}", ["no"]) == {"closed_accuracy": 1.0}


def test_an_unparsed_answer_is_wrong_with_us_and_counted_so():
    values = PROFILES["medclm"].judge(*AIR, "no", ["no"])
    assert values["overall"] == values["parsed_rate"] == 0.0


def test_a_wrong_side_is_named_by_us():
    values = judged("medclm", ORGAN, "right kidney", "left kidney")
    assert values["side_accuracy"] == values["overall"] == 0.0


def naive_llava_med(said: list[str], truth: list[str]) -> tuple[float, float]:
    found = missed = 0
    for word in said:
        found += 1 if truth.count(word) else 0
    for word in truth:
        missed += 0 if said.count(word) else 1
    return (found / len(said), found / (found + missed)) if found else (0.0, 0.0)


def naive_medevalkit(said: list[str], truth: list[str]) -> tuple[float, float]:
    shared = len([word for word in sorted(set(said)) if word in truth])
    return (shared / len(set(said)), shared / len(set(truth))) if shared else (0.0, 0.0)


def naive_octomed(said: list[str], truth: list[str]) -> tuple[float, float]:
    rest, shared = list(truth), 0
    for word in said:
        if word in rest:
            rest.remove(word)
            shared += 1
    return (shared / len(said), shared / len(truth)) if shared else (0.0, 0.0)


words = st.lists(st.sampled_from(["liver", "lung", "left", "cyst", "mass"]), max_size=8)


@given(words, words.filter(bool))
def test_token_scores_match_naive_counts(said, truth):
    for name, naive in (("llava_med", naive_llava_med), ("medevalkit", naive_medevalkit), ("octomed", naive_octomed)):
        precision, recall = naive(said, truth)
        f1 = 2 * precision * recall / (precision + recall) if precision else 0.0
        expected = (f1, precision, recall) if name == "medevalkit" else (precision, recall, f1)
        values = judged(name, ORGAN, " ".join(said), " ".join(truth))
        names = ("open_token_precision", "open_token_recall", "open_token_f1")
        assert [values[column] for column in names] == pytest.approx(expected), name


spoken = st.lists(st.sampled_from(["yes", "no", "normal", "nodule", "eyes", "left", "not"]), max_size=5).map(" ".join)


@given(spoken, st.sampled_from(["yes", "no"]))
def test_closed_rules_match_their_sentences(said, truth):
    polar = [word for word in ("yes", "no") if any(said.startswith(word, start) for start in range(len(said)))]
    assert judged("llava_med", AIR, said, truth)["closed_accuracy"] == float(truth in polar)
    assert judged("medevalkit", AIR, said, truth)["closed_accuracy"] == float(polar == [truth])
    assert judged("octomed", AIR, said, truth)["closed_accuracy"] == float(said == truth)


@given(st.sampled_from(sorted(PROFILES)), st.sampled_from(ANSWER_TYPES), st.text(max_size=40), spoken)
def test_any_text_is_judged_in_bounds_under_known_names(name, answer_type, noise, said):
    profile = PROFILES[name]
    for text in (noise, said + noise, profile.completion(noise + said)):
        values = profile.judge(CHOICE, answer_type, text, ["kidney", "no"])
        assert set(values) <= set(profile.columns)
        assert all(0.0 <= value <= 1.0 for value in values.values())


@given(st.permutations(["lung", "cyst#left lung", "no"]), spoken, st.sampled_from(ANSWER_TYPES))
def test_the_order_of_accepted_answers_does_not_matter(answers, said, answer_type):
    for name in OTHERS:
        again = judged(name, (CHOICE, answer_type), said, "no", "left lung", "cyst", "lung")
        assert judged(name, (CHOICE, answer_type), said, *answers) == again


@given(words.filter(bool), st.sampled_from(ANSWER_TYPES))
def test_the_truth_is_right_with_us(truth, answer_type):
    values = judged("medclm", (ORGAN[0], answer_type), " ".join(truth), " ".join(truth))
    assert values["overall"] == values["parsed_rate"] == 1.0


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_takes_a_right_letter_and_the_best_of_several_answers(name):
    assert judged(name, (CHOICE, "choice"), "B", "B")["choice_accuracy"] == 1.0
    assert judged(name, (CHOICE, "choice"), "A", "B")["choice_accuracy"] == 0.0
    assert judged(name, ORGAN, "lung", "heart#lung")["open_exact_match"] == 1.0
    assert judged(name, ("Which side?", "closed"), "Left.", "left")["closed_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("The Two (2) nodules.", "2 2 nodules"),
        ("x-ray", "x ray"),
        ("x-ray - chest", "xray chest"),
        ("x- ray-like", "x raylike"),
        ("1,000 x-rays", "1000 xrays"),
        ("2.5 mm.", "2.5 mm"),
        ("none", "0"),
    ],
)
def test_the_vqa_normaliser_reads_as_described(said, read):
    assert vqa_normalise(said) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("So \\boxed{No}. Answer: yes", "no"),
        ("<answer>Left</answer> or <answer>right</answer>", "left right"),
        ("<answer>Left</answer>, I boxed it", "left"),
        ("The answer is kidney", " kidney"),
        ("Answer: a. Final answer is liver", " liver"),
        ("**Answer:** B", " b"),
        ("an unclosed \\boxed{liver", "None"),
        (" Kidney. ", "kidney."),
    ],
)
def test_medevalkit_reads_box_tags_and_what_follows_the_last_mark(text, read):
    assert medevalkit_answer(text) == read


def test_the_last_box_keeps_inner_braces():
    assert boxed("\\boxed{a} then \\boxed{ \\text{b} {c} } end") == "\\text{b} {c}"
    assert boxed("\\boxed{a} then \\boxed{b") is None
    assert squad_normalise("The X-ray, again!") == "xray again"


def test_prompts_are_stated_and_ours_is_the_trained_one():
    assert PROFILES["medclm"].prompt("Where?", "open") == f"Where?\n{INSTRUCTIONS['reason']}"
    assert PROFILES["llava_med"].prompt("Where?", "open") == "Where?"
    for profile in PROFILES.values():
        assert set(profile.headline) <= set(profile.columns)
        assert set(profile.suffixes) == set(ANSWER_TYPES)
        assert profile_named(profile.name) is profile


def test_errors_name_the_value_and_the_cure():
    with pytest.raises(ValueError, match="profile 'ours': expected one of medclm, llava_med, medevalkit, octomed"):
        profile_named("ours")
    with pytest.raises(ValueError, match="answer_type 'mcq': expected one of closed, open, choice"):
        PROFILES["octomed"].judge("?", "mcq", "", ["a"])
    with pytest.raises(ValueError, match="answer_type 'mcq'"):
        PROFILES["octomed"].prompt("?", "mcq")
    with pytest.raises(ValueError, match="accept nothing: leave the question out"):
        PROFILES["medclm"].judge("?", "open", "", [" # "])


def test_a_wrong_line_of_the_benchmark_is_named(tmp_path):
    (tmp_path / "questions.txt").write_text("id|organ|which?|lung\nid|organ|which?\n")
    with pytest.raises(ValueError, match=re.escape("questions.txt:2: 'id|organ|which?': expected image")):
        benchmark.read_questions(tmp_path / "questions.txt")
    with pytest.raises(ValueError, match="no such file: give its folder with --data"):
        benchmark.read_questions(tmp_path / "missing.txt")


def test_real_questions_give_nothing_to_answers_that_look_at_nothing():
    if not VQA_MED.is_dir():
        pytest.skip("needs the real data folder vqa_med_2019_text beside the project")
    questions = benchmark.read_questions(VQA_MED / benchmark.QUESTIONS)
    assert len(questions) == 500
    assert sum(question.answer_type == "closed" for question in questions) == 64
    scored = benchmark.scores(questions)
    assert benchmark.undeserved(scored["medclm"]) == []
    assert scored["llava_med"]["normal"]["closed_accuracy"] == 0.5
    assert scored["llava_med"]["yes and no"]["closed_accuracy"] == 1.0
    assert scored["llava_med"]["majority of the category"]["closed_accuracy_dropping"] == 1.0
    assert scored["medevalkit"]["truth 20 times"]["open_token_f1"] == 1.0


def test_the_benchmark_would_tell_of_a_gain():
    means = {"overall": 1.0, "closed_accuracy": 1.0, "open_exact_match": 1.0}
    none = dict.fromkeys(means, 0.0)
    ours = {"perfect": means, "truth 20 times": means, **dict.fromkeys(benchmark.BLIND, none)}
    assert benchmark.undeserved(ours) == []
    assert "'normal' has overall 0.5000" in benchmark.undeserved({**ours, "normal": {**none, "overall": 0.5}})[0]
    assert "perfect predictions have overall" in benchmark.undeserved({**ours, "perfect": {**means, "overall": 0.9}})[0]
