"""VinDr-CXR: three readers and what may be said of them, on tables made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from medclm.corpus.contract import SourceImage
from medclm.corpus.sources.vindr import VindrSource
from medclm.types import Box
from tests.source_files import options, picture, reasons, refusal

HEADER = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
SPREAD = "zz,R1,Cardiomegaly,1,1,9,9\nzz,R2,Nodule/Mass,1,1,9,9\nzz,R3,Lung Opacity,1,1,9,9\nzz,R4,Consolidation,1,1,9,9\n"
"""Rows of another picture: they say which classes the table uses."""


def vindr(root: Path, rows: str, labels: str | None = None, header: str = HEADER, **declared: object) -> VindrSource:
    for name in ("aa", "zz"):
        picture(root / "images" / f"{name}.png", 100, 80)
    (root / "annotations.csv").write_text(header + rows + (SPREAD if header == HEADER else ""))
    if labels is not None:
        (root / "labels.csv").write_text(labels)
        declared["image_labels"] = root / "labels.csv"
    return VindrSource(root / "annotations.csv", root / "images", options(**declared))


def read(root: Path, rows: str, labels: str | None = None, **declared: object) -> SourceImage:
    return vindr(root, rows, labels, **declared).read(0)


NODULES = "aa,R1,Nodule/Mass,10,10,20,20\naa,R2,Nodule/Mass,12,10,22,20\naa,R3,Nodule/Mass,10,12,20,22\n"
HALF_SEEN = "aa,R1,Nodule/Mass,10,10,20,20\naa,R2,Nodule/Mass,12,10,22,20\naa,R3,No finding,,,,\n"
ONCE_SEEN = "aa,R1,Nodule/Mass,10,10,20,20\naa,R2,No finding,,,,\naa,R3,No finding,,,,\n"


def test_boxes_of_three_readers_become_their_mean(tmp_path: Path) -> None:
    image = read(tmp_path, NODULES)
    (found,) = image.annotations
    assert found.box_px == pytest.approx((32 / 3, 32 / 3, 62 / 3, 62 / 3))
    assert (found.lesion_class, found.agreement, found.index) == ("nodule/mass", 1.0, "annotations[0]")
    assert image.label_scope == ("cardiomegaly", "consolidation", "nodule/mass")
    assert image.image_labels == {
        "cardiomegaly": "absent",
        "consolidation": "absent",
        "nodule/mass": "present",
        "lung opacity": "uncertain",  # a nodule is an opacity
        "no finding": "absent",
    }
    assert (image.official_split, image.modality, image.plane) == ("train", "DX", "frontal")


@pytest.mark.parametrize(
    ("rows", "rule", "boxes", "rejected", "agreement"),
    [
        (HALF_SEEN, "fuse", 1, [], 2 / 3),
        (HALF_SEEN, "majority", 1, [], 2 / 3),
        (HALF_SEEN, "all", 2, [], 1 / 3),
        (ONCE_SEEN, "fuse", 1, [], 1 / 3),
        (ONCE_SEEN, "majority", 0, ["too_few_readers"], None),
        (NODULES, "all", 3, [], 1 / 3),
    ],
)
def test_rules_of_readers_keep_agreement(
    tmp_path: Path, rows: str, rule: str, boxes: int, rejected: list[str], agreement: float | None
) -> None:
    image = read(tmp_path, rows, readers=rule)
    assert len(image.annotations) == boxes
    assert {one.agreement for one in image.annotations} == ({agreement} if agreement else set())
    assert reasons(image) == rejected
    assert "nodule/mass" not in image.label_scope  # its number is not known, and neither is its absence
    assert image.image_labels["nodule/mass"] == ("present" if boxes else "uncertain")
    assert image.image_labels["no finding"] == ("absent" if rows == NODULES else "uncertain")
    assert image.image_labels["cardiomegaly"] == "absent"


def test_a_dropped_class_does_not_count_as_agreed(tmp_path: Path) -> None:
    apart = "aa,R1,Cardiomegaly,10,10,20,20\naa,R2,Cardiomegaly,50,50,60,60\naa,R3,Cardiomegaly,80,10,90,20\n"
    image = read(tmp_path, apart)  # all see it, each somewhere else
    assert [one.agreement for one in image.annotations] == [1 / 3] * 3
    assert "cardiomegaly" not in image.label_scope


def test_an_opacity_is_in_doubt_where_one_reader_saw_a_consolidation(tmp_path: Path) -> None:
    rows = "aa,R1,Consolidation,10,10,20,20\naa,R2,No finding,,,,\naa,R3,No finding,,,,\n"
    image = read(tmp_path, rows)
    assert image.image_labels["lung opacity"] == "uncertain"
    assert image.label_scope == ("cardiomegaly", "nodule/mass")


def test_no_finding_needs_every_reader(tmp_path: Path) -> None:
    rows = "aa,R1,No finding,,,,\naa,R2,No finding,,,,\naa,R3,No finding,0,0,1,1\n"
    image = read(tmp_path, rows)
    assert image.annotations == image.rejects == ()
    assert image.image_labels["no finding"] == "present"
    assert image.label_scope == ("cardiomegaly", "consolidation", "lung opacity", "nodule/mass")
    two = read(tmp_path, rows.replace("R3", "R2"))
    assert (two.label_scope, set(two.image_labels.values())) == ((), {"uncertain"})


def test_a_reader_who_says_both_closes_the_scope(tmp_path: Path) -> None:
    image = read(tmp_path, NODULES + "aa,R1,No finding,,,,\n")
    assert (image.label_scope, image.image_labels["no finding"]) == ((), "uncertain")
    boxed = read(tmp_path, NODULES + "aa,R1,No finding,10,10,30,30\n")
    assert reasons(boxed) == ["box_of_no_finding"]


def test_other_lesion_is_never_asked_for(tmp_path: Path) -> None:
    rows = NODULES + "aa,R1,Other lesion,30,30,40,40\n"
    image = read(tmp_path, rows)
    assert [one.lesion_class for one in image.annotations] == ["nodule/mass", "other lesion"]
    assert "other lesion" not in image.label_scope
    assert "other lesion" not in read(tmp_path, NODULES).image_labels


def test_the_test_set_is_a_consensus(tmp_path: Path) -> None:
    header = HEADER.replace("rad_id,", "")
    rows = "aa,Nodule/Mass,10,10,20,20\naa,Nodule/Mass,12,10,22,20\nzz,No finding,,,,\nzz,No finding,,,,\n"
    source = vindr(tmp_path, rows, header=header)
    image, clear = source.read(0), source.read(1)
    assert [(one.agreement, one.box_px) for one in image.annotations] == [
        (None, Box(10, 10, 20, 20)),
        (None, Box(12, 10, 22, 20)),
    ]
    assert (image.official_split, image.label_scope) == ("test", ("nodule/mass",))
    assert clear.image_labels == {"nodule/mass": "absent", "no finding": "present"}


LABELS = "image_id,rad_id,Nodule/Mass,Pneumonia,COPD,Other diseases,No finding\n"


def test_labels_of_whole_pictures(tmp_path: Path) -> None:
    said = LABELS + "aa,R1,1,0,0,0,0\naa,R2,1,0,1.0,0,0\naa,R3,1,0,0,0,0\n"
    image = read(tmp_path, NODULES, said)
    assert image.image_labels["pneumonia"] == "absent"
    assert image.image_labels["chronic obstructive pulmonary disease"] == "uncertain"
    assert image.label_scope == ("cardiomegaly", "consolidation", "nodule/mass", "pneumonia")
    assert "other diseases" not in image.image_labels
    contradicted = read(tmp_path, NODULES, said.replace(",1,0,", ",0,0,"))
    assert "nodule/mass" not in contradicted.label_scope


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("aa,R1,Nodule/Mass,10,10,20,20\n", "duplicate_row"),
        ("aa,R1,Cardiomegaly,,,,\n", "box_unreadable"),
        ("aa,R1,Cardiomegaly,10,10,10,20\n", "box_zero_area"),
        ("aa,R1,Cardiomegaly,10,nan,20,20\n", "box_unreadable"),
        ("aa,R1,Cardiomegaly,10,inf,20,20\n", "box_not_finite"),
        ("aa,R1,Cardiomegaly,300,10,320,20\n", "box_outside"),
        ("aa,R1,,10,10,20,20\n", "class_missing"),
    ],
)
def test_a_bad_row_is_named_and_its_class_in_doubt(tmp_path: Path, row: str, reason: str) -> None:
    image = read(tmp_path, NODULES + row)
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("images[0].annotations[3]", reason)]
    assert len(image.annotations) == 1
    assert reason == "duplicate_row" or "cardiomegaly" not in image.label_scope


def test_declared_sizes_and_missing_pictures(tmp_path: Path) -> None:
    header = HEADER.replace("\n", ",width,height\n")
    row = "aa,R1,Nodule/Mass,10,10,20,20,{},{}\n"
    assert len(vindr(tmp_path, row.format(100, 80), header=header).read(0).annotations) == 1
    assert refusal(vindr(tmp_path, row.format(2000, 1600), header=header)).reason == "size_mismatch"
    assert refusal(vindr(tmp_path, NODULES.replace("aa", "bb"))).reason == "image_missing"
    picture(tmp_path / "images" / "aa.jpg", 100, 80)
    assert refusal(vindr(tmp_path, NODULES)).reason == "image_name_ambiguous"


def test_whole_table_faults_and_workers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean nodule/mass"):
        vindr(tmp_path, NODULES, exhaustive=("nodule mass",))
    with pytest.raises(ValueError, match=r"labels\.csv:2: Pneumonia is '2': give 0 or 1"):
        vindr(tmp_path, NODULES, LABELS + "aa,R1,1,2,0,0,0\n")
    with pytest.raises(ValueError, match=r"annotations\.csv:1: no column class_name"):
        vindr(tmp_path, NODULES, header=HEADER.replace("class_name", "label"))
    source = vindr(tmp_path, NODULES)
    assert pickle.loads(pickle.dumps(source)).read(0).annotations == source.read(0).annotations
