"""Public visual-question benchmarks are read as published: questions, answers, kinds, patients, pictures; faults by file and row."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.example import Example
from eval.layouts.fields import one_each, with_options
from eval.layouts.layout import find_layouts, open_pool
from eval.layouts.parquet import ParquetPictures
from eval.pool import Pool
from medclm.metrics.answers import choice_right
from medclm.metrics.parsing import options
from medclm.types import Box
from tests.unit import layout_fixtures as made
from tests.unit.layout_fixtures import FIXTURES, PLAIN, SIZE, as_csv, as_json, as_lines, picture, written

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def opened(name: str, root: Path, split: str = "") -> Pool:
    fixture = FIXTURES[name](root)
    return open_pool(fixture.data, split or fixture.split)


def by_id(pool: Pool) -> dict[str, Example]:
    return {example.id: example for example in pool.asked}


@pytest.mark.parametrize("name", FIXTURES)
def test_every_form_is_recognised_by_its_own_layout_alone(name, tmp_path):
    fixture = FIXTURES[name](tmp_path)
    assert [key for key, layout in find_layouts().items() if layout.recognises(fixture.data)] == [fixture.layout]


@pytest.mark.parametrize("name", FIXTURES)
def test_every_split_has_its_questions_and_their_pictures(name, tmp_path):
    fixture = FIXTURES[name](tmp_path)
    assert set(find_layouts()[fixture.layout].splits(fixture.data)) == set(fixture.asked)
    for split, number in fixture.asked.items():
        pool = open_pool(fixture.data, split)
        assert (pool.name, len(pool.asked)) == (fixture.layout, number)
    pool = open_pool(fixture.data, fixture.split)
    assert len(pool.train) == fixture.asked.get("train", 0)
    for example in pool.asked:
        image = pool.pictures.open(example.picture)
        assert (image.mode, image.size, pool.pictures.size(example.picture)) == ("RGB", SIZE, SIZE)
        assert example.question
        assert example.patient
        assert example.answers


@pytest.mark.parametrize(
    "name",
    [
        "plain_json",
        "plain_csv",
        "vqa_rad",
        "slake",
        "path_vqa",
        "pmc_vqa",
        "vqa_med_2019",
        "llava_med_questions",
        "llava_med_talks",
    ],
)
def test_one_file_is_enough(name, tmp_path):
    fixture = FIXTURES[name](tmp_path)
    pool = open_pool(fixture.files[0], "test")
    assert (pool.name, len(pool.asked)) == (fixture.layout, fixture.asked["test"])
    assert pool.pictures.size(pool.asked[0].picture) == SIZE


@pytest.mark.parametrize("name", FIXTURES)
def test_another_word_in_the_files_is_another_identity(name, tmp_path):
    fixture = FIXTURES[name](tmp_path)
    before = open_pool(fixture.data, fixture.split).identity
    assert open_pool(fixture.data, fixture.split).identity == before
    if fixture.files[0].suffix == ".parquet":  # may not have anything behind it
        fixture = made.path_vqa_parquet(tmp_path, grey=30)
    else:
        fixture.files[0].write_bytes(fixture.files[0].read_bytes() + b"\n")
    assert open_pool(fixture.data, fixture.split).identity != before


# --- plain


def test_plain_rows_say_all_that_an_example_has(tmp_path):
    pool = opened("plain_json", tmp_path)
    first, second, third = pool.asked
    assert first == Example(
        id="q1",
        patient="p1",
        question_kind="presence",
        answer_type="closed",
        question="Is there a nodule?",
        picture="a.png",
        answers=("yes",),
        boxes_unit=(Box(0.25, 0.25, 0.5, 0.75),),
        boxes_known=True,
    )
    assert (second.answers, second.patient, second.boxes_known) == (("liver", "the liver"), "b.png", False)
    assert (third.answer_type, third.options, third.answers) == ("choice", ("black", "grey"), ("grey",))
    assert third.question == "What colour is the cyst?\nA) black\nB) grey"
    assert pool.left_out == {"no answer": 1}


def test_plain_table_holds_boxes_and_options_as_text(tmp_path):
    first, second, third = opened("plain_csv", tmp_path).asked
    assert first.boxes_unit == (Box(0.25, 0.25, 0.5, 0.75),)
    assert (second.options, second.answers) == (("liver", "spleen"), ("spleen",))
    assert (third.boxes_known, third.boxes_unit, third.lists_boxes) == (True, (), False)


def test_numbers_keep_their_digits_and_nan_is_no_answer(tmp_path):
    row = {"image": "a.png", "question": "How many?", "answer": 3}
    picture(tmp_path / "a.png")
    as_json(tmp_path / "a.json", [row | {"id": 123456789}, row | {"id": "b", "answer": float("nan")}, row | {"answer": 0.5}])
    pool = open_pool(tmp_path, "test")
    assert [(one.id, one.answers) for one in pool.asked] == [("123456789", ("3",)), ("row3", ("0.5",))]
    assert pool.left_out == {"no answer": 1}


def test_a_line_may_hold_any_character(tmp_path):
    picture(tmp_path / "a.png")
    as_lines(tmp_path / "a.jsonl", [{"image": "a.png", "question": "One\u2028two\x0bthree?", "answer": "yes"}])
    assert open_pool(tmp_path, "test").asked[0].question == "One\u2028two\x0bthree?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, r"mine\.json:1: no question"),
        ({"question": ["a"]}, r"mine\.json:1: question is a list"),
        ({"question": "half \ud83e"}, r"mine\.json:1: question holds half a character"),
        ({"image": None}, r"mine\.json:1: no image"),
        ({"image": "../../a.png"}, r"mine\.json:1: picture .*climbs"),
        ({"image": "/etc/a.png"}, r"mine\.json:1: picture .*absolute"),
        ({"id": "q2"}, r"mine\.json:2: id q2 stands in row 1 too"),
        ({"answer": {"a": 1}}, r"mine\.json:1: answer is an object"),
        ({"answer_type": "choice"}, r"mine\.json:1: answer_type choice without options"),
        ({"answer_type": "yes/no"}, r"mine\.json:1: answer_type 'yes/no': expected closed, open or choice"),
        ({"options": ["one"]}, r"mine\.json:1: options .*expected a list of 2 to 8"),
        ({"options": {}}, r"mine\.json:1: options"),
        ({"options": "one, two"}, r"mine\.json:1: options .*not JSON"),
        ({"options": ["left", "right"]}, r"mine\.json:1: answer 'yes' is none of the options left, right"),
        ({"boxes": "left"}, r"mine\.json:1: boxes .*not JSON"),
        ({"boxes": 3}, r"mine\.json:1: boxes is a number"),
        ({"boxes": [0.1, 0.2, 0.3, 0.4]}, r"mine\.json:1: box 0\.1: expected \[x0, y0, x1, y1\] as fractions"),
        ({"boxes": [[10, 20, 30, 40]]}, r"mine\.json:1: box .*divide by width and height"),
        ({"boxes": [[0.1, 0.2, 0.1, 0.4]]}, r"mine\.json:1: box"),
        ({"boxes": [[0.1, 0.4, 0.3, 0.2]]}, r"mine\.json:1: box"),
        ({"boxes": [[0.1, 0.2, 0.3, 1.4]]}, r"mine\.json:1: box"),
        ({"boxes": [[0.1, float("nan"), 0.3, 0.4]]}, r"mine\.json:1: box"),
    ],
)
def test_a_fault_of_a_plain_row_is_named_by_file_and_row(change, message, tmp_path):
    fixture = made.plain_json(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps([PLAIN[0] | change, *PLAIN[1:]]))  # ASCII: half characters stay escaped
    with pytest.raises(ValueError, match=message):
        open_pool(fixture.data, "test")


def test_a_plain_row_without_the_field_is_no_row_without_an_answer(tmp_path):
    as_json(tmp_path / "mine.json", [PLAIN[0], {"image": "a.png", "question": "Why?"}])
    with pytest.raises(ValueError, match=r"mine\.json:2: no answer; there is image, question"):
        open_pool(tmp_path, "test")


def test_a_wrong_column_gets_the_right_name(tmp_path):
    as_csv(tmp_path / "mine.csv", [{"image": "a.png", "question": "Why?", "answers": "so"}])
    with pytest.raises(ValueError, match=r"mine\.csv:1: no column answer: did you mean answers\?"):
        open_pool(tmp_path, "test", layout="plain")


def test_two_plain_files_want_a_choice(tmp_path):
    made.plain_json(tmp_path)
    as_json(tmp_path / "others.json", PLAIN)
    with pytest.raises(ValueError, match=r"holds mine\.json, others\.json: give one of them"):
        open_pool(tmp_path, "test")
    picture(tmp_path / "a.png")
    assert len(open_pool(tmp_path / "others.json", "test").asked) == 3


def test_training_questions_are_drawn_from_all_places_of_a_picture(tmp_path):
    picture(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"Is it {n % 4}?", "answer": "yes" if n % 4 else "no"} for n in range(70_000)]
    as_json(tmp_path / "train.json", rows)
    as_json(tmp_path / "test.json", rows[:4])
    train = open_pool(tmp_path, "test", layout="plain").train
    assert len(train) == 20_000
    asked = Counter(one.question for one in train)  # every fourth row is one question alone
    assert all(4_700 < number < 5_300 for number in asked.values())
    assert len(asked) == 4


# --- choices


@pytest.mark.parametrize("name", ["plain_json", "plain_csv", "pmc_vqa", "pmc_vqa_2"])
def test_the_scorers_read_the_options_of_a_choice(name, tmp_path):
    choices = [one for one in opened(name, tmp_path).asked if one.answer_type == "choice"]
    assert choices
    for one in choices:
        assert tuple(options(one.question).values()) == one.options
        letter = "ABCD"[one.options.index(one.answers[0])]
        assert choice_right(letter, one.answers, one.question)
        assert choice_right(one.answers[0], one.answers, one.question)
        assert not choice_right("D" if letter != "D" else "A", one.answers, one.question)


@given(st.lists(st.text("abcdefgh ,-", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=8))
def test_written_options_come_back(words):
    plain = [word.strip(" ,") or "x" for word in words]
    assert list(options(with_options("Which one is it?", plain)).values()) == plain


def test_pmc_vqa_names_the_article_and_drops_the_letters(tmp_path):
    pool = opened("pmc_vqa", tmp_path / "1")
    first = pool.asked[0]
    assert (first.patient, first.answers) == ("PMC11", ("Congo red",))
    assert first.options == ("Silver", "Congo red", "Gram", "None, at all")
    assert pool.left_out == {"an option is empty": 1}
    (second,) = opened("pmc_vqa_2", tmp_path / "2").asked
    assert (second.id, second.answers, second.question.split("\n")[0]) == ("62", ("Left",), "Which artery is it?")


# --- slake


def test_slake_keeps_language_kind_and_groups(tmp_path):
    found = by_id(opened("slake", tmp_path))
    assert {key: one.question_kind for key, one in found.items()} == {
        "10": "which_organ",
        "11": "presence",
        "12": "where",
        "13": "compare",
    }
    assert [one.language for one in found.values()] == ["en", "en", "zh", "en"]
    assert [one.answer_type for one in found.values()] == ["open", "closed", "open", "closed"]
    assert found["10"].groups == {"modality": "CT", "location": "Abdomen", "base_type": "vqa"}
    assert (found["12"].patient, found["12"].picture) == ("1", "xmlab1/source.jpg")


def test_slake_question_ids_differ(tmp_path):
    fixture = made.slake(tmp_path)
    row = made._slake(10, 1, "Which?", "Liver", "Organ")
    as_json(tmp_path / "test.json", [row, row])
    with pytest.raises(ValueError, match=r"test\.json:2: qid 10 stands in row 1 too"):
        open_pool(fixture.data, "test")


# --- path_vqa


def test_path_vqa_finds_pictures_without_their_suffix(tmp_path):
    pool = opened("path_vqa", tmp_path)
    assert [one.picture for one in pool.asked] == ["test_0001.jpg", "test_0002.jpg"]
    assert [one.question_kind for one in pool.asked] == ["what", "presence"]
    assert pool.left_out == {"no answer": 1}
    for name in ("test/test_0001.jpg", "images/test/test_0001.jpg", "test_0001.jpg"):
        as_json(tmp_path / "qas/test/test_qa.json", [{"image": name, "question": "what?", "answer": "x"}])
        assert open_pool(tmp_path / "qas", "test").asked[0].picture == "test_0001.jpg"


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (written, (tmp_path / "exploded", "x"))

    path = tmp_path / "qas" / "test" / "test_qa.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps([Bomb()]))
    for data in (tmp_path, path):
        with pytest.raises(ValueError, match=r"test_qa\.pkl: a pickle can run any program.*json\.dump"):
            open_pool(data, "test", layout="path_vqa")
    with pytest.raises(ValueError, match="a pickle can run any program"):
        open_pool(tmp_path, "test")
    assert not (tmp_path / "exploded").exists()


def test_questions_about_equal_pictures_in_parquet_are_of_one_patient(tmp_path):
    pool = opened("path_vqa_parquet", tmp_path)
    first, second, third = pool.asked
    assert first.patient == second.patient != third.patient
    assert [one.picture.rpartition("/")[2] for one in pool.asked] == ["1", "2", "3"]
    assert [pool.pictures.open(one.picture).getpixel((0, 0))[0] for one in pool.asked] == [10, 10, 20]
    assert isinstance(pool.pictures, ParquetPictures)


def test_parquet_pictures_outside_the_file_are_refused(tmp_path):
    fixture = made.path_vqa_parquet(tmp_path)
    pictures = ParquetPictures([fixture.files[0]])
    for key in ("other.parquet/1", f"{fixture.files[0].name}/0", f"{fixture.files[0].name}/4", "3", "../x/1"):
        with pytest.raises(ValueError, match="picture"):
            pictures.open(key)


# --- vqa_med


def test_vqa_med_2019_has_categories_and_optional_words(tmp_path):
    pool = opened("vqa_med_2019", tmp_path)
    assert [(one.question_kind, one.answer_type) for one in pool.asked] == [
        ("modality", "closed"),
        ("which_organ", "open"),
        ("what", "open"),
    ]
    assert [one.answers for one in pool.asked] == [("no",), ("breast#mamma",), ("(large) cyst", "cyst")]
    assert [(one.id, one.question_kind) for one in pool.train] == [("synpic9", "plane"), ("synpic9.2", "presence")]


def test_vqa_med_2020_and_2021_join_questions_with_answers(tmp_path):
    pool = opened("vqa_med_2020", tmp_path / "2020")
    assert [(one.id, one.question_kind, one.answers) for one in pool.asked] == [
        ("synpic1", "presence", ("no",)),
        ("synpic2", "what", ("a cyst",)),
    ]
    pool = opened("vqa_med_2021", tmp_path / "2021")
    assert [one.answers for one in pool.asked] == [("cyst", "fluid filled space")]
    assert pool.left_out == {"no answer": 1, "answer without a question": 1}


def test_vqa_med_names_a_short_line_and_a_missing_half(tmp_path):
    fixture = made.vqa_med_2019(tmp_path / "2019")
    written(fixture.files[0], "synpic1|modality|is this a ct scan?|no\nsynpic2|what?|no\n")
    with pytest.raises(
        ValueError, match=r"w_Ref_Answers\.txt:2: 'synpic2\|what\?\|no': expected image\|category\|question\|answer"
    ):
        open_pool(fixture.data, "test")
    fixture = made.vqa_med_2020(tmp_path / "2020")
    fixture.files[1].unlink()
    with pytest.raises(ValueError, match=r"Test-Questions\.txt: questions alone"):
        open_pool(fixture.data, "test")
    made.vqa_med_2020(tmp_path / "2020")
    made.vqa_med_2021(tmp_path / "2020")
    with pytest.raises(ValueError, match="give the folder of one year"):
        open_pool(tmp_path / "2020", "test")


# --- llava_med


def test_llava_med_takes_the_image_mark_out_and_each_turn_apart(tmp_path):
    pool = opened("llava_med_questions", tmp_path / "q")
    assert [(one.question, one.question_kind, one.domain, one.patient) for one in pool.asked] == [
        ("What is stained?", "conversation", "histology", "11"),
        ("Describe the picture.", "describe", "mri", "22"),
    ]
    assert pool.left_out == {"no answer": 1}
    pool = opened("llava_med_talks", tmp_path / "t")
    assert [(one.id, one.question, one.answer_type) for one in pool.asked] == [
        ("7", "Is it large?", "closed"),
        ("7.2", "What is it?", "open"),
    ]
    assert [(one.id, one.question, one.answers) for one in pool.train] == [
        ("8", "Where is it?", ("left",)),
        ("8.2", "Is it large?", ("No",)),
    ]


def test_llava_med_turns_alternate(tmp_path):
    fixture = made.llava_med_talks(tmp_path)
    row = made._talk("7", "OPEN", "What is it?", "a cyst")
    row["conversations"].reverse()
    as_json(tmp_path / "test.json", [row])
    with pytest.raises(ValueError, match=r"test\.json:1: turn 1 is .*expected from human"):
        open_pool(fixture.data, "test")


@given(st.lists(st.sampled_from(["a", "a.2", "a.3", "a.2.2", "b"])))
def test_ids_are_made_to_differ_and_change_only_where_they_must(ids):
    examples = [Example(name, "p", "other", "open", "?", "x.png") for name in ids]
    found = [one.id for one in one_each(examples)]
    assert len(set(found)) == len(found)
    assert [new for new, old in zip(found, ids, strict=True) if ids.count(old) == 1] == [
        one for one in ids if ids.count(one) == 1
    ]


# --- real files


def real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {SHARED / name}")
    return SHARED / name


def test_nine_real_radiology_pictures():
    pool = open_pool(real("vqa_rad_mini"), "test")
    assert (pool.name, len(pool.asked), pool.left_out) == ("plain", 16, {"no answer": 1})
    assert len({one.picture for one in pool.asked}) <= 9
    assert all(isinstance(pool.pictures.open(one.picture), Image.Image) for one in pool.asked)


def test_real_questions_about_chest_radiographs():
    pool = open_pool(real("covid_cxr_lungs"), "test")
    assert (pool.name, len(pool.asked), pool.left_out) == ("plain", 450, {})
    assert all(one.answers and one.question for one in pool.asked)
    assert pool.pictures.open(pool.asked[0].picture).mode == "RGB"


def test_a_folder_that_holds_a_benchmark_deep_inside_is_none():
    above = real("vqa_med_2019_text").parent.parent
    assert not any(layout.recognises(above) for layout in find_layouts().values())


def test_five_hundred_real_questions_of_2019():
    pool = open_pool(real("vqa_med_2019_text"), "test")
    assert (pool.name, len(pool.asked), pool.left_out, pool.pictures) == ("vqa_med", 500, {}, None)
    kinds = Counter(one.question_kind for one in pool.asked)
    assert kinds == {"modality": 125, "plane": 125, "which_organ": 125, "what": 114, "presence": 11}
    assert Counter(one.answer_type for one in pool.asked) == {"open": 436, "closed": 64}
    assert sum("#" in one.answers[0] for one in pool.asked) == 12
