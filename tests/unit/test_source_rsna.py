"""RSNA pneumonia: one test per habit on tables made here."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from medclm.corpus.sources.rsna import RsnaSource
from medclm.types import Box
from tests.source_files import options, picture, reasons, refusal

HEADER = "patientId,x,y,width,height,Target\n"
ROWS = "aa,264.0,152.0,213.0,379.0,1\naa,562.0,152.0,256.0,453.0,1\nbb,,,,,0\ncc,,,,,0\ndd,nan,nan,nan,nan,0\n"
CLASSES = "patientId,class\naa,Lung Opacity\naa,Lung Opacity\nbb,Normal\ncc,No Lung Opacity / Not Normal\n"


def rsna(root: Path, rows: str = ROWS, classes: str | None = None, header: str = HEADER, **declared: object) -> RsnaSource:
    if not (root / "images").exists():
        for name in ("aa", "bb", "cc", "dd"):
            picture(root / "images" / f"{name}.png", 1024, 1024)
    (root / "labels.csv").write_text(header + rows)
    if classes is not None:
        (root / "classes.csv").write_text(classes)
        declared["image_labels"] = root / "classes.csv"
    return RsnaSource(root / "labels.csv", root / "images", options(**declared))


def test_target_settles_pneumonia_on_every_picture(tmp_path: Path) -> None:
    source = rsna(tmp_path)
    ill, well = source.read(0), source.read(1)
    assert [(one.lesion_class, one.box_px) for one in ill.annotations] == [
        ("pneumonia", Box(264, 152, 477, 531)),
        ("pneumonia", Box(562, 152, 818, 605)),
    ]
    assert (ill.label_scope, ill.image_labels) == (("pneumonia",), {"pneumonia": "present"})
    assert (well.annotations, well.label_scope, well.image_labels) == ((), ("pneumonia",), {"pneumonia": "absent"})
    assert (ill.patient, ill.origin, ill.modality, ill.plane) == (None, None, "DX", "frontal")


def test_no_finding_is_known_for_normal_alone(tmp_path: Path) -> None:
    source = rsna(tmp_path, classes=CLASSES)
    labels = [source.read(place).image_labels for place in range(4)]
    assert [one.get("no finding") for one in labels] == ["absent", "present", "absent", None]
    assert [one["pneumonia"] for one in labels] == ["present", "absent", "absent", "absent"]


def test_tables_that_disagree_leave_the_picture_in_doubt(tmp_path: Path) -> None:
    for classes in ("patientId,class\nbb,Lung Opacity\n", "patientId,class\nbb,Normal\nbb,No Lung Opacity / Not Normal\n"):
        image = rsna(tmp_path, classes=classes).read(1)
        expected = "uncertain" if "Lung Opacity\n" in classes.splitlines(keepends=True)[1] else "absent"
        assert image.image_labels == {"no finding": "uncertain", "pneumonia": expected}
        assert image.label_scope == (("pneumonia",) if expected == "absent" else ())
    both = rsna(tmp_path, rows="aa,1,2,3,4,1\naa,,,,,0\n").read(0)
    assert (both.label_scope, both.image_labels) == ((), {"pneumonia": "present"})


def test_a_column_of_nih_names_gives_the_origin(tmp_path: Path) -> None:
    header = HEADER.replace("Target", "Target,nih_image")
    image = rsna(tmp_path, rows="aa,1,2,3,4,1,00000013_005.png\n", header=header).read(0)
    assert (image.origin, image.origin_patient) == ("nih:00000013_005", "nih:00000013")
    mapped = "patientId,class,nih_image\naa,Lung Opacity,00000014_001.png\n"
    assert rsna(tmp_path, rows="aa,1,2,3,4,1\n", classes=mapped).read(0).origin == "nih:00000014_001"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("aa,,,,,1\n", "box_missing"),
        ("aa,1,2,3,,1\n", "box_unreadable"),
        ("aa,1,2,0,4,1\n", "box_zero_area"),
        ("aa,5000,2,3,4,1\n", "box_outside"),
        ("aa,264.0,152.0,213.0,379.0,1\n", "duplicate_row"),
    ],
)
def test_a_bad_box_is_named_and_leaves_the_class_in_doubt(tmp_path: Path, row: str, reason: str) -> None:
    image = rsna(tmp_path, "aa,264.0,152.0,213.0,379.0,1\n" + row).read(0)
    assert reasons(image) == [reason]
    assert (len(image.annotations), image.label_scope) == (1, ())


def test_pictures_and_tables_at_fault(tmp_path: Path) -> None:
    source = rsna(tmp_path, "aa,1,2,3,4,yes\nee,,,,,0\n../x,,,,,0\n")
    assert [refusal(source, place).reason for place in range(3)] == ["target_unreadable", "image_missing", "path_outside_root"]
    picture(tmp_path / "images" / "aa.png", 512, 512)
    assert refusal(rsna(tmp_path)).reason == "size_mismatch"
    with pytest.raises(ValueError, match=r"classes\.csv:2: class 'Abnormal': expected one of Normal"):
        rsna(tmp_path, classes="patientId,class\naa,Abnormal\n")
    with pytest.raises(ValueError, match=r"labels\.csv:1: no column Target: did you mean target\?"):
        rsna(tmp_path, header=HEADER.replace("Target", "target"))
    with pytest.raises(ValueError, match="--exhaustive nodule is no class of this dataset: there are pneumonia"):
        rsna(tmp_path, exhaustive=("nodule",))
    assert len(pickle.loads(pickle.dumps(rsna(tmp_path))).read(1).label_scope) == 1
