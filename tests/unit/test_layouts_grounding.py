"""Published boxes become questions: all of a phrase or class together, and absences only where they were looked for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.example import Example
from eval.layouts.chest_parts import side_of, unit_box
from eval.layouts.layout import find_layouts, open_pool
from eval.pool import Pool
from medclm.corpus.sources.registry import open_source
from medclm.types import Box
from tests.source_files import options, picture, real
from tests.unit.layout_fixtures_reports import MAKERS, boxed, table, tree


def opened(case: str, root: Path, split: str = "") -> Pool:
    made = MAKERS[case](root)
    return open_pool(made.data, split or made.split)


def by_id(pool: Pool) -> dict[str, Example]:
    return {example.id: example for example in pool.asked}


def test_rows_of_one_phrase_are_one_question_with_all_its_boxes(tmp_path: Path) -> None:
    pool = opened("ms_cxr", tmp_path)
    found = by_id(pool)
    assert list(found) == ["aa:1", "aa:2", "bb:1"]
    first = found["aa:1"]
    assert first.question == 'Where is the finding described as "made up haze"?'
    assert (first.question_kind, first.boxes_known, first.lists_boxes, first.answers) == ("where", True, True, ())
    assert first.boxes_unit == (Box(0, 0.05, 0.25, 0.3), Box(0.5, 0.05, 0.75, 0.3))
    assert first.groups == {"category": "Edema, Pneumonia"}
    assert {example.patient for example in pool.asked} == {"p10000001"}
    assert pool.left_out == {"box outside": 1}


def test_ms_cxr_says_the_same_as_table_and_as_json(tmp_path: Path) -> None:
    (example,) = opened("ms_cxr (JSON)", tmp_path / "json").asked
    table(
        tmp_path / "csv" / "MS_CXR_Local_Alignment_v1.0.0.csv",
        *(boxed("aa", "made up haze", x) | {"path": "files/p10/p10000001/s5/aa.jpg"} for x in (0, 200)),
    )
    assert [example] == open_pool(tmp_path / "csv", "all").asked


def test_ms_cxr_with_a_published_split(tmp_path: Path) -> None:
    rows = [boxed("aa", "one", 0, split="test"), boxed("bb", "two", 0, split="train"), boxed("cc", "three", 0, split="val")]
    file = table(tmp_path / "MS_CXR_Local_Alignment_v1.1.0.csv", *rows)
    assert find_layouts()["ms_cxr"].splits(tmp_path) == ("test", "val", "train")
    pool = open_pool(file, "test", images=tmp_path)
    assert ([one.id for one in pool.asked], [one.id for one in pool.train]) == (["aa:1"], ["bb:1"])


def test_padchest_asks_where_abnormal_sentences_with_boxes_lie(tmp_path: Path) -> None:
    pool = opened("padchest_gr", tmp_path)
    (example,) = pool.asked
    assert example.question == 'Where is the finding described as "Invented haze"?'
    assert example.boxes_unit == (Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.2, 0.7, 0.4))
    assert (example.id, example.patient) == ("901:1", "77")
    assert example.groups == {"sex": "M", "age_decade": "70", "finding": "infiltrates"}
    assert example.picture == "Padchest_GR_files/PadChest_GR/901_a.png"
    assert pool.left_out == {
        "abnormal sentence without a box": 1,
        "sentence without abnormality": 1,
        "no English sentence": 1,
        "box zero area": 1,
        "study not in master_table.csv": 1,
    }
    assert [one.boxes_unit for one in pool.train] == [(Box(0, 0, 1, 1),)]


def test_padchest_without_its_table_is_one_split(tmp_path: Path) -> None:
    MAKERS["padchest_gr"](tmp_path)
    (tmp_path / "master_table.csv").unlink()
    pool = open_pool(tmp_path, "all")
    assert find_layouts()["padchest_gr"].splits(tmp_path) == ("all",)
    assert [(one.id, one.patient) for one in pool.asked] == [("901:1", "901")]  # the picture of 902 is missing
    assert pool.left_out["picture missing"] == 1


def test_a_class_with_boxes_is_asked_where_and_one_that_was_sought_in_vain_whether(tmp_path: Path) -> None:
    pool = opened("detection (ChestX-Det)", tmp_path)
    found = by_id(pool)
    mass = found["a.png:mass"]
    assert (mass.question, mass.question_kind, mass.domain) == ("Where is the mass?", "where", "mass / DX")
    assert mass.boxes_unit == (Box(100 / 1024, 200 / 1024, 300 / 1024, 400 / 1024),) * 2
    assert (mass.boxes_known, mass.lists_boxes, mass.answers) == (True, True, ())
    absent = found["b.png:pleural effusion"]
    assert (absent.question, absent.question_kind) == ("Is there a pleural effusion in this image?", "presence")
    assert (absent.answers, absent.answer_type) == (("No",), "closed")
    assert (absent.boxes_unit, absent.boxes_known, absent.lists_boxes) == ((), True, False)
    assert Counter(one.id.split(":")[0] for one in pool.asked) == {"a.png": 13, "b.png": 13, "c.png": 11}
    assert pool.left_out == {"box zero area": 1}  # neither diffuse nodules nor, beside them, nodules are asked about in c.png


def test_rsna_settles_pneumonia_alone(tmp_path: Path) -> None:
    pool = opened("detection (RSNA)", tmp_path)
    assert {one.id: (one.question_kind, len(one.boxes_unit)) for one in pool.asked} == {
        "aa:pneumonia": ("where", 2),
        "bb:pneumonia": ("presence", 0),
    }
    assert by_id(pool)["aa:pneumonia"].picture == "stage_2_train_images/aa.jpg"
    assert find_layouts()["detection"].splits(tmp_path) == ("train",)


def test_vindr_needs_the_size_of_the_original_picture(tmp_path: Path) -> None:
    pool = opened("detection (VinDr-CXR)", tmp_path)
    assert by_id(pool)["aa:nodule/mass"].boxes_unit == (Box(0.25, 0.25, 0.5, 0.5),)
    assert by_id(pool)["bb:nodule/mass"].answers == ("No",)
    assert pool.left_out == {"not every box of the class is known": 1, "size of the picture not stated": 1}


@pytest.mark.parametrize("case", ["detection (ChestX-Det)", "detection (RSNA)", "detection (VinDr-CXR)"])
def test_it_agrees_with_the_corpus_that_is_built_from_the_same_files(case: str, tmp_path: Path) -> None:
    made = MAKERS[case](tmp_path)
    pool = open_pool(made.data, made.split)
    for file in [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg")]:
        picture(file, *((400, 200) if "VinDr" in case else (1024, 1024)))
    kind = {"ChestX-Det": "chestx_det", "RSNA": "rsna", "VinDr-CXR": "vindr"}[case[11:-1]]
    source = open_source(kind, made.texts[0], tmp_path, options(image_labels=made.texts[1] if len(made.texts) > 1 else None))
    expected: dict[str, tuple[Box, ...]] = {}
    for index in range(len(source)):
        image = source.read(index)
        if kind == "vindr" and image.key == "cc":
            continue
        height, width = image.pixels.shape[:2]
        for name in image.label_scope:
            own = [one.box_px for one in image.annotations if one.lesion_class == name]
            boxes = (Box(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in own)
            expected[f"{image.key}:{name}"] = tuple(boxes)
    assert {example.id: example.boxes_unit for example in pool.asked} == expected


def test_a_crowd_is_not_listed(tmp_path: Path) -> None:
    boxes = [[10 * place, 10, 10 * place + 9, 20] for place in range(9)]
    entry = {"file_name": "a.png", "syms": ["Nodule"] * 9, "boxes": boxes, "polygons": [[]] * 9}
    tree(tmp_path / "ChestX_Det_test.json", [entry])
    nodules = by_id(open_pool(tmp_path, "test"))["a.png:nodule"]
    assert (len(nodules.boxes_unit), nodules.lists_boxes) == (9, False)


def test_a_class_with_one_impossible_box_is_neither_asked_where_nor_whether(tmp_path: Path) -> None:
    entry = {"file_name": "a.png", "syms": ["Mass", "Mass"], "boxes": [[1, 1, 9, 9], [5, 5, 5, 9]], "polygons": [[], []]}
    tree(tmp_path / "ChestX_Det_test.json", [entry])
    pool = open_pool(tmp_path, "test")
    assert "a.png:mass" not in by_id(pool)
    assert (len(pool.asked), pool.left_out) == (12, {"box zero area": 1})


def test_the_real_boxes_of_chestx_det_are_all_asked_about() -> None:
    folder = real("chestx_det_annotations")
    entries = json.loads((folder / "ChestX_Det_train.json").read_text())
    pairs = sum(len(set(entry["syms"])) for entry in entries)
    doubtful = sum("Diffuse Nodule" in entry["syms"] and "Nodule" not in entry["syms"] for entry in entries)
    pool = open_pool(folder, "train")
    assert Counter(example.question_kind for example in pool.asked) == {
        "where": pairs,
        "presence": 13 * len(entries) - pairs - doubtful,
    }
    assert sum(len(example.boxes_unit) for example in pool.asked) == 7905  # as its README counts them
    assert len({example.patient for example in pool.asked}) == 3025
    assert (pool.left_out, pool.pictures) == ({}, None)


@pytest.mark.parametrize(
    ("case", "name", "old", "new", "message"),
    [
        ("ms_cxr", "MS_CXR_Local_Alignment_v1.0.0.csv", ",380,", ",far,", r"v1\.0\.0\.csv:5: .*give four numbers"),
        ("ms_cxr", "MS_CXR_Local_Alignment_v1.0.0.csv", "another", "", r"v1\.0\.0\.csv:5: label_text is empty"),
        ("ms_cxr", "MS_CXR_Local_Alignment_v1.0.0.csv", "400", "0", r"v1\.0\.0\.csv:2: image_width is '0'"),
        ("ms_cxr", "MS_CXR_Local_Alignment_v1.0.0.csv", "image_height", "high", r"csv:1: no column image_height"),
        (
            "ms_cxr (JSON)",
            "MS_CXR_Local_Alignment_v1.0.0.json",
            '"image_id": 1',
            '"image_id": 5',
            r"json:1: image_id '5' is not",
        ),
        ("ms_cxr (JSON)", "MS_CXR_Local_Alignment_v1.0.0.json", '"annotations"', '"boxes"', r"json: expected boxes with"),
        (
            "padchest_gr",
            "grounded_reports_20240819.json",
            '"abnormal": true',
            '"abnormal": 1',
            r"json:1: findings\[1\]: abnormal",
        ),
        ("padchest_gr", "grounded_reports_20240819.json", "0.7", "[]", r"json:1: findings\[1\]: .*give four numbers"),
        ("padchest_gr", "grounded_reports_20240819.json", '"902"', '"901"', r"json:2: 901 stands in row 1 too"),
        ("padchest_gr", "master_table.csv", "45,train", "45,later", r"master_table\.csv:4: .*split 'later': expected a study"),
        (
            "padchest_gr",
            "master_table.csv",
            "901,77,M,71,test\n9",
            "901,76,M,71,test\n9",
            r"csv:3: line 2 gives the study another",
        ),
        ("detection (ChestX-Det)", "ChestX_Det_test.json", '"b.png"', '"a.png"', r"picture 2: images\[0\] is the same file"),
        (
            "detection (ChestX-Det)",
            "ChestX_Det_test.json",
            '"b.png"',
            '"../b.png"',
            r"picture 2: the name is absolute or climbs",
        ),
        (
            "detection (ChestX-Det)",
            "ChestX_Det_test.json",
            '"boxes": []',
            '"boxes": 3',
            r"picture 2: .*give lists of one length",
        ),
        ("detection (RSNA)", "stage_2_train_labels.csv", "562.0", "far", r"picture 1: annotation 2: .*give four numbers"),
        ("detection (RSNA)", "stage_2_train_labels.csv", ",0\n", ",7\n", r"picture 2: Target 7 in line 4: give 0 or 1"),
        ("detection (RSNA)", "stage_2_detailed_class_info.csv", "Normal", "Fine", r"class_info\.csv:3: class 'Fine'"),
        ("detection (VinDr-CXR)", "annotations_test.csv", "bb,No finding", ",No finding", r"line 4 names no picture"),
        ("detection (VinDr-CXR)", "annotations_test.csv", "400", "wide", r"annotations_test\.csv:2: width is 'wide'"),
    ],
)
def test_a_fault_is_named_by_file_row_and_cure(case: str, name: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    made = MAKERS[case](tmp_path)
    content = (tmp_path / name).read_text(encoding="utf-8")
    assert old in content
    (tmp_path / name).write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        open_pool(made.data, made.split, layout=made.layout)


def test_two_benchmarks_of_boxes_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    MAKERS["detection (RSNA)"](tmp_path)
    MAKERS["detection (VinDr-CXR)"](tmp_path)
    assert not find_layouts()["detection"].recognises(tmp_path)
    assert open_pool(tmp_path / "stage_2_train_labels.csv", "train").asked


@given(
    corner=st.tuples(st.integers(-50, 400), st.integers(-50, 300)),
    sides=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.tuples(st.integers(1, 400), st.integers(1, 300)),
)
def test_a_box_is_clipped_to_its_picture_or_lies_mostly_outside(corner, sides, size) -> None:
    x, y, (wide, high) = *corner, sides
    inside = [
        (column, row) for column in range(max(0, x), min(size[0], x + wide)) for row in (max(0, y), min(size[1], y + high) - 1)
    ]
    rows = max(0, min(size[1], y + high) - max(0, y))
    columns = max(0, min(size[0], x + wide) - max(0, x))
    found = unit_box("here", [x, y, wide, high], size, sized=True)
    assert found == unit_box("here", [x, y, x + wide, y + high], size)
    if 2 * rows * columns < wide * high:
        assert found == "box outside"
    else:
        assert isinstance(found, Box)
        assert 0 <= found.x0 < found.x1 <= 1
        assert 0 <= found.y0 < found.y1 <= 1
        assert found.scaled(*size) == pytest.approx(
            (inside[0][0], inside[0][1], inside[-1][0] + 1, inside[-1][1] + 1), abs=1e-9
        )


def test_a_box_too_small_to_have_an_area_is_left_out() -> None:
    assert unit_box("here", [0.0, 0.0, 1e-200, 1e-200], (1, 1)) == "box zero area"


@pytest.mark.parametrize("value", [None, True, "", "wide", 0, -3, float("nan"), float("inf"), 10**400, [5], 1e7])
def test_a_side_that_no_picture_has_is_refused(value) -> None:
    with pytest.raises(ValueError, match="here: width is"):
        side_of("here", "width", value)
