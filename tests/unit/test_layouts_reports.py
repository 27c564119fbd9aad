"""Published reports and labels become examples: texts as written, the official split, the frontal picture, faults by row."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from eval.example import Example
from eval.layouts import mimic_cxr
from eval.layouts.layout import find_layouts, open_pool
from eval.pool import Pool
from tests.source_files import picture, real
from tests.unit.layout_fixtures_reports import MAKERS, NO_LABELS, lines, table, text, tree


def opened(case: str, root: Path, split: str = "") -> Pool:
    made = MAKERS[case](root)
    return open_pool(made.data, split or made.split)


def by_id(pool: Pool) -> dict[str, Example]:
    return {example.id: example for example in pool.asked}


@pytest.mark.parametrize("case", MAKERS)
def test_a_benchmark_is_recognised_by_its_own_layout_alone(case: str, tmp_path: Path) -> None:
    made = MAKERS[case](tmp_path)
    assert [name for name, one in find_layouts().items() if one.recognises(made.data)] == [made.layout]


@pytest.mark.parametrize("case", [case for case in MAKERS if "JSON" not in case])
def test_its_pictures_are_found_and_opened(case: str, tmp_path: Path) -> None:
    pool = opened(case, tmp_path)
    assert pool.pictures is not None
    assert pool.asked
    for example in pool.asked:
        assert pool.pictures.open(example.picture).mode == "RGB"


def test_looking_whether_a_folder_fits_never_raises(tmp_path: Path) -> None:
    for name in ("annotation.json", "reports.jsonl", "valid.csv", "a.xml", "ChestX_Det_test.json"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        text(tmp_path / "bytes" / name, "").write_bytes(b"\xff\xfe\x00{[\"'")
    files = [*(tmp_path / "bytes").iterdir(), *(tmp_path / "folders").iterdir()]
    for data in (tmp_path / "nothing", tmp_path / "folders", tmp_path / "bytes", *files):
        assert not [one.name for one in find_layouts().values() if one.recognises(data)]


def test_mimic_has_both_sections_the_frontal_picture_and_what_its_tables_say(tmp_path: Path) -> None:
    pool = opened("mimic_cxr", tmp_path)
    found = by_id(pool)
    assert list(found) == ["s50000001", "s50000001:impression", "s50000002:impression"]
    first = found["s50000001"]
    assert (first.question, first.question_kind, first.answer_type, first.language) == ("", "findings", "open", "en")
    assert first.answers == ("Invented haze on the right.",)
    assert found["s50000001:impression"].answers == ("Haze, ___ made up.",)
    assert first.picture == "files/p10/p10000001/s50000001/aa-front.jpg"
    assert first.patient == "p10000001"
    assert first.groups == {"sex": "F", "view": "PA"}
    assert first.labels == {"Edema": 1.0, "Fracture": -1.0, "Pneumonia": 0.0}
    assert not found["s50000001:impression"].labels  # a study counts once
    assert pool.left_out == {"no findings": 1, "report missing": 1}
    assert [example.answers for example in pool.train] == [("Clear, for training.",)]


def test_mimic_opens_no_more_training_reports_than_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKERS["mimic_cxr"](tmp_path)
    read = []
    monkeypatch.setattr(mimic_cxr, "read_text", lambda path: read.append(path) or "FINDINGS: Clear.")
    monkeypatch.setattr(mimic_cxr, "_report", lambda data, study: tmp_path / "mimic-cxr-2.0.0-split.csv")
    assert len(mimic_cxr.LAYOUT.read_some(tmp_path, "test", 1).examples) == len(read) == 1
    assert len(mimic_cxr.LAYOUT.read(tmp_path, "test").examples) == len(read) - 1 > 1


def test_mimic_keeps_the_published_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split val .* nothing to ask \(1 no findings\)"):
        opened("mimic_cxr", tmp_path, "val")


def test_mimic_is_read_packed_without_optional_tables_and_with_reports_apart(tmp_path: Path) -> None:
    MAKERS["mimic_cxr"](tmp_path)
    for name in ("metadata", "chexpert"):
        (tmp_path / f"mimic-cxr-2.0.0-{name}.csv").unlink()
    split = tmp_path / "mimic-cxr-2.0.0-split.csv"
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(gzip.compress(split.read_bytes()))
    split.unlink()
    (tmp_path / "mimic-cxr-reports").mkdir()
    (tmp_path / "files").rename(tmp_path / "mimic-cxr-reports" / "files")
    first = find_layouts()["mimic_cxr"].read(tmp_path, "test").examples[0]
    assert (first.id, first.groups, first.labels) == ("s50000001", {"sex": "F"}, {})
    assert first.picture == "files/p10/p10000001/s50000001/aa-side.jpg"  # the first of the table where no view is known


def test_a_changed_report_changes_the_identity(tmp_path: Path) -> None:
    before = opened("mimic_cxr", tmp_path).identity
    assert opened("mimic_cxr", tmp_path).identity == before
    text(tmp_path / "files/p10/p10000001/s50000002.txt", "IMPRESSION: Something else invented.\n")
    assert open_pool(tmp_path, "test").identity != before


def test_iu_xray_in_the_form_of_r2gen(tmp_path: Path) -> None:
    pool = opened("iu_xray (R2Gen)", tmp_path)
    (example,) = pool.asked
    assert (example.id, example.patient, example.question_kind) == ("CXR3_IM-0003", "CXR3_IM-0003", "findings")
    assert example.answers == ("A made up scar .",)
    assert example.picture == "images/CXR3_IM-0003/0.png"
    assert pool.left_out == {"no findings": 1}
    assert [one.id for one in pool.train] == ["CXR1_IM-0001"]
    assert find_layouts()["iu_xray"].splits(tmp_path) == ("test", "val", "train")
    assert find_layouts()["iu_xray"].splits(tmp_path / "annotation.json") == ("test", "val", "train")


def test_iu_xray_as_tables_shows_the_frontal_picture(tmp_path: Path) -> None:
    pool = opened("iu_xray (Kaggle)", tmp_path)
    found = by_id(pool)
    assert list(found) == ["1", "1:impression", "2:impression"]
    assert found["1"].answers == ("A haze, invented.",)
    assert found["1"].picture.endswith("/1_IM-0001-1.dcm.png")
    assert [found[name].groups["plane"] for name in ("1", "2:impression")] == ["frontal", "lateral"]
    assert pool.left_out == {"no findings": 1, "picture missing": 1}
    assert find_layouts()["iu_xray"].splits(tmp_path) == ("all",)
    assert not pool.train


def test_iu_xray_as_xml(tmp_path: Path) -> None:
    pool = opened("iu_xray (XML)", tmp_path)
    found = by_id(pool)
    assert {name: example.answers for name, example in found.items()} == {
        "CXR1": ("Haze.",),
        "CXR1:impression": ("Made up 1.",),
    }
    assert found["CXR1"].picture == "NLMCXR_png/CXR1_1_IM-0001-3001.png"  # the ending is the folder's
    assert pool.left_out == {"no findings": 1, "picture missing": 1}
    assert open_pool(tmp_path / "ecgen-radiology", "all").pictures is None


def test_json_lines_say_who_and_what(tmp_path: Path) -> None:
    pool = opened("report_jsonl", tmp_path)
    found = by_id(pool)
    assert list(found) == ["s1", "s1:impression"]
    assert (found["s1"].patient, found["s1"].answers) == ("p1", ("A haze.",))
    assert found["s1"].groups == {"sex": "F", "age_decade": "60", "view": "PA"}
    assert found["s1"].picture == "s1_front.jpg"
    assert pool.left_out == {"no findings": 2, "picture missing": 1}


def test_json_lines_by_the_names_of_their_files(tmp_path: Path) -> None:
    for name in ("test", "validation", "train"):
        lines(tmp_path / f"{name}.jsonl", {"uid": name, "images": [], "findings": f"Of {name}."})
    pool = open_pool(tmp_path, "test")
    assert ([one.id for one in pool.asked], [one.id for one in pool.train]) == (["test"], ["train"])
    assert pool.pictures is None
    assert find_layouts()["report_jsonl"].splits(tmp_path) == ("test", "val", "train")
    lines(tmp_path / "more.jsonl", {"uid": "x", "images": [], "findings": "Of nobody knows what."})
    assert not find_layouts()["report_jsonl"].recognises(tmp_path)


def test_the_real_open_i_reports() -> None:
    pool = open_pool(real("openi_reports"), "all")
    assert pool.name == "report_jsonl"
    assert Counter(example.question_kind for example in pool.asked) == {"findings": 528, "impression": 597}
    assert pool.left_out == {"no findings": 72}
    assert pool.pictures is None
    assert len({example.patient for example in pool.asked}) <= 600


def test_chexpert_has_one_example_a_picture_with_what_was_assessed(tmp_path: Path) -> None:
    pool = opened("chexpert", tmp_path)
    front, side = pool.asked
    assert front.id == front.picture == "valid/patient00001/study1/view1_frontal.jpg"
    assert (front.patient, front.question, front.question_kind) == ("patient00001", "", "labels")
    assert front.labels == {"Edema": 1.0, "Fracture": 0.0}
    assert front.groups == {"sex": "F", "age_decade": "60", "plane": "frontal", "view": "AP"}
    assert side.groups == {"sex": "M", "plane": "lateral"}  # an age over 89 is not kept
    assert pool.left_out == {"no labels": 1}
    assert [one.labels for one in pool.train] == [{"Edema": -1.0}]


def test_chexpert_test_labels_need_neither_sex_nor_age(tmp_path: Path) -> None:
    path = "test/patient1/study1/view1_frontal.jpg"
    table(tmp_path / "test_labels.csv", {"Path": path, **dict.fromkeys(NO_LABELS, "0"), "Edema": 1})
    (example,) = open_pool(tmp_path, "test").asked
    assert example.groups == {}
    assert sum(example.labels.values()) == 1
    assert len(example.labels) == 14


def rewritten(file: Path, old: str, new: str) -> None:
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("case", "name", "old", "new", "message"),
    [
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", ",split", ",part", r"split\.csv:1: no column split"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", "bb,50000002", "bb,s2", r"split\.csv:4: study_id 's2'.*give two numbers"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", "validate", "else", r"split\.csv:7: split 'else': expected train"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", "aa-front", "../../x", r"split\.csv:3: dicom_id '\.\./\.\./x': give"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv", "aa-front,50000001,10000001", "q,50000001,10000002", "another patient"),
        ("mimic_cxr", "mimic-cxr-2.0.0-chexpert.csv", "-1.0", "2.0", r"chexpert\.csv:2: Fracture is '2\.0': give 1"),
        ("iu_xray (R2Gen)", "annotation.json", '"split": "test"', '"split": "val"', r"annotation\.json:1: .*split 'val'"),
        ("iu_xray (R2Gen)", "annotation.json", '"CXR3_IM-0003/0.png"', '"/0.png"', r"annotation\.json:1: picture '/0\.png'"),
        ("iu_xray (R2Gen)", "annotation.json", "CXR4_IM-0004", "CXR3_IM-0003", r"annotation\.json:2: .*stands in row 1 too"),
        ("iu_xray (Kaggle)", "indiana_projections.csv", "Frontal", "Top", r"projections\.csv:3: .*expected Frontal or Lateral"),
        ("iu_xray (Kaggle)", "indiana_reports.csv", "\n2,", "\n1,", r"reports\.csv:3: line 2 says something else"),
        ("iu_xray (XML)", "ecgen-radiology/2.xml", "</eCitation>", "", r"2\.xml:8:0: not well-formed"),
        ("report_jsonl", "reports.jsonl", '["s1_front", "s1_side"]', '"s1"', r"reports\.jsonl:1: images is a text"),
        ("report_jsonl", "reports.jsonl", '"s3"', '"s1"', r"reports\.jsonl:3: s1 stands in row 1 too"),
        ("report_jsonl", "reports.jsonl", "s1_front", "../s1", r"reports\.jsonl:1: picture .*climbs"),
        ("report_jsonl", "reports.jsonl", '"A  haze."', '["a"]', r"reports\.jsonl:1: findings is a list"),
        ("chexpert", "valid.csv", ",1.0,", ",3,", r"valid\.csv:2: Edema is '3': give 1, 0, -1"),
        ("chexpert", "valid.csv", "Lung Lesion", "Lesion", r"valid\.csv:1: no column Lung Lesion: did you mean"),
        ("chexpert", "valid.csv", "view2_lateral", "view1_frontal", r"valid\.csv:3: .*stands in row 2 too"),
    ],
)
def test_a_fault_is_named_by_file_row_and_cure(case: str, name: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    made = MAKERS[case](tmp_path)
    rewritten(tmp_path / name, old, new)
    with pytest.raises(ValueError, match=message):
        open_pool(made.data, made.split, layout=made.layout)


def test_r2gens_file_of_mimic_is_not_taken_for_iu_xray(tmp_path: Path) -> None:
    row = {"id": "a", "study_id": 1, "subject_id": 2, "report": "x", "image_path": ["p/a.jpg"], "split": "test"}
    tree(tmp_path / "annotation.json", {"test": [row]})
    assert not find_layouts()["iu_xray"].recognises(tmp_path)


def test_several_pictures_of_one_name_are_no_picture(tmp_path: Path) -> None:
    lines(
        tmp_path / "test.jsonl", {"uid": "a", "images": ["a"], "findings": "x"}, {"uid": "b", "images": ["b"], "findings": "y"}
    )
    for name in ("one/a.png", "two/a.png", "one/b.jpg"):
        picture(tmp_path / name)
    pool = open_pool(tmp_path, "test")
    assert [(one.id, one.picture) for one in pool.asked] == [("b", "one/b.jpg")]
    assert pool.left_out == {"picture missing": 1}
    assert json.dumps(pool.left_out)
