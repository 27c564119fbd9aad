"""NIH ChestX-ray14: one test per habit on tables made here, and the real box list by its counts."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.nih import NihSource, nih_origin
from medclm.types import Box
from tests.source_files import options, picture, real, reasons, refusal

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
BOX = "00000013_005.png,Infiltrate,100.5,200,50,60.25\n"


def entry(name: str, labels: str, age: str = "058", view: str = "PA") -> str:
    return f"{name},{labels},5,13,{age},M,{view},2048,2500,0.168,0.168,\n"


def nih(root: Path, rows: str = BOX, entries: str | None = None, tests: str | None = None, **declared: object) -> NihSource:
    if not (root / "images").exists():
        for number, name in enumerate(("00000013_005.png", "00000014_000.png", "00000015_001.png")):
            picture(root / "images" / f"images_00{number}" / "images" / name, 1024, 1024)
    (root / "BBox_List_2017.csv").write_text(HEADER + rows)
    if entries is not None:
        (root / "entry.csv").write_text(ENTRY_HEADER + entries)
        declared["image_labels"] = root / "entry.csv"
    if tests is not None:
        (root / "test_list.txt").write_text(tests)
        declared["split_list"] = root / "test_list.txt"
    return NihSource(root / "BBox_List_2017.csv", root / "images", options(**declared))


def test_the_header_with_nameless_columns_and_infiltrate(tmp_path: Path) -> None:
    image = nih(tmp_path).read(0)
    (found,) = image.annotations
    assert (found.class_source, found.lesion_class, found.box_px) == (
        "Infiltrate",
        "infiltration",
        Box(100.5, 200, 150.5, 260.25),
    )
    assert (image.modality, image.plane, image.patient_directions, image.spacing_mm) == ("DX", "frontal", None, None)
    assert (image.patient, image.order_in_patient, image.key) == ("00000013", 5, "00000013_005.png")
    assert (image.origin, image.origin_patient) == ("nih:00000013_005", "nih:00000013")
    assert (image.label_scope, image.image_labels) == ((), {"infiltration": "present"})  # the box list alone tells no absence
    assert image.official_split is None


def test_effusion_is_pleural_and_quoted_headers_are_the_same(tmp_path: Path) -> None:
    source = nih(tmp_path, "00000013_005.png,Effusion,1,2,3,4\n")
    assert source.read(0).annotations[0].lesion_class == "pleural effusion"
    (tmp_path / "q.csv").write_text('"Image Index","Finding Label","Bbox [x,y,w,h]","","",""\n' + BOX)
    assert len(NihSource(tmp_path / "q.csv", tmp_path / "images", options()).read(0).annotations) == 1
    (tmp_path / "q.csv").write_text("Image Index,Finding Label,x,y,w,h\n" + BOX)
    assert len(NihSource(tmp_path / "q.csv", tmp_path / "images", options()).read(0).annotations) == 1


def test_absence_is_known_for_no_finding_alone(tmp_path: Path) -> None:
    entries = (
        entry("00000013_005.png", "Infiltration|Mass", view="AP")
        + entry("00000014_000.png", "No Finding", age="91")
        + entry("00000015_001.png", "Effusion")
    )
    source = nih(tmp_path, entries=entries)
    assert len(source) == 3
    boxed, clear = source.read(0), source.read(1)
    assert boxed.image_labels == {"infiltration": "present", "mass": "present"}
    assert (boxed.label_scope, boxed.view, boxed.attributes) == ((), "AP", {"sex": "M", "age_decade": 50})
    assert clear.annotations == ()
    assert len(clear.label_scope) == 14
    assert {clear.image_labels[name] for name in clear.label_scope} == {"absent"}
    assert clear.image_labels["no finding"] == "present"
    assert "pleural effusion" in clear.label_scope
    assert clear.attributes == {"sex": "M"}  # over 89
    assert refusal(source, 2).reason == "nothing_to_ask"


def test_no_finding_beside_a_box_is_in_doubt(tmp_path: Path) -> None:
    image = nih(tmp_path, entries=entry("00000013_005.png", "No Finding")).read(0)
    assert (image.label_scope, image.image_labels) == ((), {"no finding": "uncertain", "infiltration": "present"})


def test_the_official_test_list(tmp_path: Path) -> None:
    rows = BOX + BOX.replace("00000013_005", "00000014_000")
    source = nih(tmp_path, rows, tests="00000014_000.png\n00099999_000.png\n")
    assert [source.read(place).official_split for place in (0, 1)] == ["train", "test"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("00000013_005.png,Mass,1,2,0,4\n", "box_zero_area"),
        ("00000013_005.png,Mass,1,2,,4\n", "box_unreadable"),
        ("00000013_005.png,Mass,1,x,3,4\n", "box_unreadable"),
        ("00000013_005.png,Mass,1,inf,3,4\n", "box_not_finite"),
        ("00000013_005.png,Mass,1020,2,30,4\n", "box_outside"),
        ("00000013_005.png,,1,2,3,4\n", "class_missing"),
        (BOX, "duplicate_row"),
    ],
)
def test_a_bad_row_is_named_and_the_rest_goes_on(tmp_path: Path, row: str, reason: str) -> None:
    image = nih(tmp_path, BOX + row).read(0)
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("images[0].annotations[1]", reason)]
    assert len(image.annotations) == 1


def test_pictures_of_another_size_or_none_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "00000013_005.png", 512, 512)
    rows = BOX + BOX + "00000016_000.png,Mass,1,2,3,4\n,Mass,1,2,3,4\n../a.png,Mass,1,2,3,4\n"
    source = nih(tmp_path, rows)
    small = refusal(source, 0)
    assert small.reason == "size_mismatch"
    assert "annotations lost with it: 2" in small.detail
    assert [refusal(source, place).reason for place in (1, 2)] == ["image_missing", "path_outside_root"]
    assert [(reject.index, reject.reason) for reject in source.rejects] == [("rows[3]", "image_entry_missing")]


def test_whole_table_faults(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--exhaustive efusion is no class of this dataset: did you mean pleural effusion"):
        nih(tmp_path, exhaustive=("efusion",))
    with pytest.raises(ValueError, match=r"entry\.csv:3: line 2 says something else of the same Image Index"):
        nih(tmp_path, entries=entry("a.png", "Mass") + entry("a.png", "Nodule"))
    (tmp_path / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox\n")
    with pytest.raises(ValueError, match=r"BBox_List_2017\.csv:1: no column x"):
        NihSource(tmp_path / "BBox_List_2017.csv", tmp_path / "images", options())


def test_the_source_travels_to_workers_and_names_origins(tmp_path: Path) -> None:
    source = nih(tmp_path)
    assert pickle.loads(pickle.dumps(source)).read(0).annotations == source.read(0).annotations
    assert nih_origin("images_001/00000013_005.png") == ("nih:00000013_005", "nih:00000013", 5)
    assert nih_origin("36204.png") is None


def test_the_real_box_list_without_its_pictures(tmp_path: Path) -> None:
    source = NihSource(real("chestx_det_annotations") / "BBox_List_2017.csv", tmp_path, options())
    assert len(source) == 880
    lost = Counter()
    for index in range(len(source)):
        with pytest.raises(RejectedImage) as caught:
            source.read(index)
        lost[caught.value.reason] += 1
    assert lost == {"image_missing": 880}
    stated = [one for index in range(len(source)) for one in source.stated(index, (1024, 1024))]
    assert len(stated) == 984
    assert all(one.refusal is None for one in stated)
    assert Counter(options().canonical(one.class_source or "") for one in stated)["infiltration"] == 123


def test_one_real_picture_of_the_list_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "00013118_008.png", 1024, 1024)
    source = NihSource(real("chestx_det_annotations") / "BBox_List_2017.csv", tmp_path, options())
    image = source.read(0)
    assert reasons(image) == []
    assert image.annotations[0].box_px == pytest.approx((225.084745762712, 547.019216763771, 311.86440677966, 626.20565761609))
