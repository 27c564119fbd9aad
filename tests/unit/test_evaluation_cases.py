"""Cases: how each went, which a page shows, what is kept of them on disk."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.example import Ask, Prediction
from eval.pages.case_pictures import LONGEST, MOST_BYTES, save_pictures, small_jpeg
from eval.pages.cases import (
    BEST,
    DRAWN,
    RIGHT,
    SHOWN,
    UNJUDGED,
    UNPARSED,
    WORST,
    WRONG,
    WRONG_REASON,
    case_of,
    choose,
    line_of,
    read_cases,
    tally,
)
from medclm.draws import generator
from medclm.types import Box
from tests.evaluations import case, example

SILENT = Prediction(text="Reasoning: it goes on and", rationale="it goes on and")
BOX_ALONE = Prediction(text="[0.1, 0.2]", boxes_unit=(Box(0, 0, 1, 1),))
SEPARATOR = "\u2028"


@pytest.mark.parametrize(
    ("values", "said", "outcome"),
    [
        ({"right": 1.0, "parsed_rate": 1.0}, None, RIGHT),
        ({"right": 0.0, "parsed_rate": 1.0}, None, WRONG),
        ({"answer_and_box": 1.0, "right_for_wrong_reason": 0.0}, None, RIGHT),
        ({"answer_and_box": 0.0, "right_for_wrong_reason": 1.0}, None, WRONG_REASON),
        ({"answer_and_box": 0.0, "right_for_wrong_reason": 0.0}, None, WRONG),
        ({"right": 0.0, "parsed_rate": 0.0}, SILENT, UNPARSED),
        ({"answer_and_box": 0.0, "reason_format_rate": 0.0}, SILENT, UNPARSED),
        ({"false_positive_rate": 0.0}, None, RIGHT),
        ({"false_positive_rate": 1.0}, None, WRONG),
        ({"describe_token_f1": 0.4, "parsed_rate": 1.0}, None, UNJUDGED),
        ({"describe_token_f1": 0.0, "parsed_rate": 0.0}, SILENT, UNPARSED),
        ({"overall": 0.0}, SILENT, WRONG),  # another harness reads the whole text
        ({"open_token_recall": 0.7}, SILENT, UNJUDGED),
        ({"choice_accuracy": 0.5}, None, WRONG),  # a tie
    ],
)
def test_the_values_say_how_it_went(values, said, outcome):
    assert case(values=values, said=said).outcome == outcome


def test_a_box_is_a_reply_where_nothing_but_boxes_was_wanted():
    values = {"acc@0.5": 0.0, "reason_format_rate": 0.0}
    assert case(values=values, said=BOX_ALONE, answers=()).outcome == WRONG
    assert case(values=values, said=BOX_ALONE).outcome == UNPARSED


def test_a_suite_may_say_itself_what_decides():
    one = example()
    said = {"answer": Prediction(text="a", answer="a")}
    found = case_of(one, [Ask("answer", "?")], said, {"hit": 0.0, "far": 3.0}, decided_by={"hit": 0.0}, graded_by={"far": 0.0})
    assert (found.outcome, found.grade) == (RIGHT, -3.0)


def test_what_is_not_a_number_is_no_value():
    assert case(values={"right": 1.0, "rationale_names_answer": float("nan")}).scores == {"right": 1.0}


def test_what_was_measured_stands_beside_what_was_written():
    one = example(question="", labels={"Nodule": 1.0}, answers=())
    asks = [Ask("label: Nodule", "Is there a nodule?", options=("Yes", "No")), Ask("other", "Why?")]
    said = {"label: Nodule": Prediction(option_scores=(-1.0, -2.0)), "other": Prediction(text="because", answer="because")}
    found = case_of(one, asks, said, {"brier": 0.1})
    assert found.measured == {"label: Nodule": {"Yes": -1.0, "No": -2.0}}
    assert (found.others, found.labels, found.question) == ({"other": "because"}, {"Nodule": 1.0}, "Nodule, other?")
    assert (found.outcome, found.grade) == (UNJUDGED, -0.1)


# Choosing.


def many(count: int = 200):
    """Right, wrong and fooled cases of every grade."""
    draw = generator(0, "many")
    found = []
    for number in range(count):
        right, fooled, silent = draw.random() < 0.5, draw.random() < 0.2, draw.random() < 0.1
        values = {
            "answer_and_box": float(right),
            "right_for_wrong_reason": float(fooled and not right),
            "mean_iou": draw.random(),
            "reason_format_rate": 1.0,
        }
        found.append(case(number, values=values, said=SILENT if silent and not right else None))
    return found


def shown(cases, why):
    return [one for one in cases if why in one.chosen]


def test_numbers_are_fixed_and_the_order_stays():
    cases = many()
    chosen = choose(cases, seed=0)
    assert [replace(one, chosen=()) for one in chosen] == cases
    assert {why: len(shown(chosen, why)) for why in SHOWN} == dict(SHOWN)
    assert sum(bool(one.chosen) for one in chosen) <= 60


def test_the_worst_are_wrong_and_have_the_least_grade():
    chosen = choose(many(), seed=0)
    wrong = sorted(one.grade for one in chosen if one.outcome == WRONG)
    right = sorted(one.grade for one in chosen if one.outcome == RIGHT)
    assert sorted(one.grade for one in shown(chosen, WORST)) == wrong[: SHOWN[WORST]]
    assert sorted(one.grade for one in shown(chosen, BEST)) == right[-SHOWN[BEST] :]
    assert {one.outcome for one in shown(chosen, WRONG_REASON)} == {WRONG_REASON}


@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_the_choice_does_not_hang_on_the_order(shuffler: random.Random, seed):
    cases = many(60)
    mixed = cases.copy()
    shuffler.shuffle(mixed)
    first, second = ({one.id: one.chosen for one in choose(some, seed=seed)} for some in (cases, mixed))
    assert first == second


def test_the_draw_is_of_all_and_even():
    """Over many seeds every outcome has the share in the draw that it has in the whole."""
    cases = many(200)
    drawn = Counter(one.outcome for seed in range(100) for one in shown(choose(cases, seed=seed), DRAWN))
    for outcome, number in tally(cases).items():
        assert drawn[outcome] / drawn.total() == pytest.approx(number / len(cases), abs=0.03)


def test_two_evaluations_of_the_same_questions_draw_the_same():
    first, second = many(), [case(number, values={"right": 0.0}) for number in range(200)]
    drawn = [{one.id for one in shown(choose(cases, seed=3), DRAWN)} for cases in (first, second)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != {one.id for one in shown(choose(first, seed=4), DRAWN)}


@pytest.mark.parametrize("values", [{"right": 1.0}, {"right": 0.0}, {"anything": 0.3}])
def test_nothing_is_worst_or_best_where_all_are_alike(values):
    chosen = choose([case(number, values=values) for number in range(50)], seed=0)
    assert not shown(chosen, WORST)
    assert not shown(chosen, BEST)
    assert len(shown(chosen, DRAWN)) == 30


def test_grades_rank_where_nothing_is_called_right():
    cases = [case(number, values={"report_rouge_l": number / 100}) for number in range(100)]
    chosen = choose(cases, seed=0)
    assert [one.scores["report_rouge_l"] for one in shown(chosen, WORST)] == [at / 100 for at in range(10)]
    assert [one.scores["report_rouge_l"] for one in shown(chosen, BEST)] == [at / 100 for at in range(94, 100)]


def test_few_cases_are_all_shown():
    chosen = choose(many(8), seed=0)
    assert all(DRAWN in one.chosen for one in chosen)
    assert choose([], seed=0) == []


# Files.


def test_a_line_is_a_case(tmp_path):
    said = Prediction(
        text=f"Reasoning: a{SEPARATOR}b\u0085c\n\nAnswer: d", answer="d", rationale=f"a{SEPARATOR}b\u0085c",
        boxes_unit=(Box(0.1, 0.2, 0.3, 0.4),), box_scores=(-0.5,),
    )  # fmt: skip
    one = case(1, said=said, values={"right": 0.0, "mean_iou": 0.25}, labels={"Nodule": -1.0}, groups={"sex": "F"})
    cases = choose([one, case(2, values={"right": 1.0})], seed=0)
    lines = [json.dumps(line_of(one), ensure_ascii=False) for one in cases]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_cases(tmp_path) == cases
    keys = ["id", "patient", "question_kind", "answer_type", "question", "domain", "groups", "truth", "text", "parsed"]
    assert list(line_of(cases[0]))[: len(keys)] == keys


@pytest.mark.parametrize(
    ("line", "message"),
    [("{}", "predictions.jsonl:2: not a case .no 'truth'.: run"), ("{", "predictions.jsonl:2: not a case"), ("3", "jsonl:2")],
)
def test_a_line_of_another_form_is_named(tmp_path, line, message):
    (tmp_path / "predictions.jsonl").write_text(json.dumps(line_of(case())) + f"\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_cases(tmp_path)
    with pytest.raises(ValueError, match=r"no predictions\.jsonl"):
        read_cases(tmp_path / "nowhere")


# Pictures.


def noise(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(generator(seed, "noise").integers(0, 256, size=(side, side, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    row, column = np.linspace(0, 200, height)[:, None], np.linspace(0, 55, width)[None]
    return Image.fromarray((row + column).astype(np.uint8))


def test_a_kept_picture_is_small_grey_and_what_it_was():
    image = smooth(1280, 800)
    kept = Image.open(io.BytesIO(small_jpeg(image)))
    assert (kept.size, kept.mode) == ((640, 400), "L")
    expected = np.asarray(image.resize(kept.size), float)
    assert np.abs(np.asarray(kept, float) - expected).max() < 6
    assert Image.open(io.BytesIO(small_jpeg(smooth(50, 40)))).size == (50, 40)  # never enlarged
    assert Image.open(io.BytesIO(small_jpeg(noise(64)))).mode == "RGB"


@pytest.mark.parametrize("side", [300, 2000])
def test_no_picture_is_larger_than_its_share(side):
    data = small_jpeg(noise(side))
    assert len(data) <= MOST_BYTES
    assert max(Image.open(io.BytesIO(data)).size) <= LONGEST


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_nothing_but_pixels_is_kept(form):
    secret, stream = b"Jane Doe 1950", io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = secret.decode()
    options = {"comment": secret} if form == "JPEG" else {"pnginfo": _text(secret.decode())}
    smooth(100, 90).save(stream, form, exif=exif, icc_profile=b"profile " + secret, dpi=(300, 300), **options)
    assert secret in stream.getvalue()
    image = Image.open(io.BytesIO(stream.getvalue()))
    image.load()
    data = small_jpeg(image)
    assert secret not in data
    assert set(Image.open(io.BytesIO(data)).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def _text(value: str):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Patient", value)
    return info


def test_only_chosen_cases_keep_a_picture_and_one_image_is_one_file(tmp_path):
    cases = [replace(case(number), chosen=(DRAWN,) if number < 3 else ()) for number in range(4)]
    pictures = {"case-0": noise(40), "case-1": noise(40), "case-2": noise(40, seed=1)}
    kept = save_pictures(cases, tmp_path, lambda case_id: pictures[case_id])
    assert kept[0].picture == kept[1].picture != kept[2].picture
    assert kept[3].picture is None
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {one.picture for one in kept[:3]}
