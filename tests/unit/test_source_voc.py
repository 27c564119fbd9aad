"""Pascal VOC as people really write it: one test per habit on files made here, and the blood cells by their counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.corpus.sources.voc import VocSource
from medclm.types import Box
from tests.source_files import (
    HEIGHT,
    WIDTH,
    options,
    picture,
    read_all,
    real,
    reasons,
    refusal,
    voc,
    voc_object,
    voc_xml,
)


def test_voc_counts_pixels_from_one_and_includes_the_last(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    flags = "<truncated>1</truncated><difficult>1</difficult>"
    voc_xml(tmp_path / "xml" / "a.xml", voc_object(extra=flags), voc_object("WBC", f"1 1 {WIDTH} {HEIGHT}"))
    image = voc(tmp_path, modality="SM", plane="none").read(0)
    assert [(one.lesion_class, one.box_px) for one in image.annotations] == [
        ("red blood cell", Box(5, 6, 12, 14)),
        ("white blood cell", Box(0, 0, WIDTH, HEIGHT)),
    ]
    assert (image.index, image.key, image.modality, image.plane) == ("files[0]", "a.png", "SM", "none")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (voc_object(corners="6 7 6 14"), "box_zero_area"),
        (voc_object(corners="12 7 6 14"), "box_zero_area"),
        (voc_object(corners="nan 7 6 14"), "box_not_finite"),
        (voc_object(corners="6 7 x 14"), "box_unreadable"),
        (voc_object(corners="60 7 70 14"), "box_outside"),
        (voc_object(name=" "), "class_missing"),
        (voc_object(name="_"), "class_missing"),
        ("<object><name>RBC</name></object>", "box_missing"),
    ],
)
def test_voc_a_bad_object_is_named_and_the_rest_goes_on(tmp_path: Path, text: str, reason: str) -> None:
    picture(tmp_path / "images" / "a.png")
    voc_xml(tmp_path / "xml" / "a.xml", voc_object(), text)
    image = voc(tmp_path).read(0)
    assert len(image.annotations) == 1
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("files[0].annotations[1]", reason)]


ENTITY_BOMB = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'


OUTSIDE_ENTITY = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("head", [ENTITY_BOMB, OUTSIDE_ENTITY, "<!DOCTYPE annotation>"])
def test_voc_entities_are_forbidden(tmp_path: Path, head: str) -> None:
    picture(tmp_path / "images" / "a.png")
    voc_xml(tmp_path / "xml" / "a.xml", voc_object("&b;" if head == ENTITY_BOMB else "RBC"), head=head)
    assert refusal(voc(tmp_path)).reason == "xml_forbidden"


@pytest.mark.parametrize(
    "text", ["", "<annotation>", "<html></html>", '<?xml version="1.0" encoding="nonsense"?><annotation/>']
)
def test_voc_broken_xml(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "a.xml").write_text(text)
    assert refusal(voc(tmp_path)).reason == "xml_unreadable"


def test_voc_files_without_their_partner_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "B.JPG")
    picture(tmp_path / "images" / "c.png")
    picture(tmp_path / "images" / "other.png")
    picture(tmp_path / "images" / "._a.png")
    voc_xml(tmp_path / "xml" / "a.xml", voc_object())  # no picture
    voc_xml(tmp_path / "xml" / "b.xml", voc_object(), filename="b.png")  # another case and ending
    voc_xml(tmp_path / "xml" / "d.xml", voc_object(), filename="Other.png")  # only <filename> finds it
    source = voc(tmp_path)
    assert len(source) == 4
    assert refusal(source, 0).reason == "image_missing"
    assert source.read(1).key == "B.JPG"
    assert refusal(source, 2).reason == "no_annotation_file"
    assert source.read(3).key == "other.png"


def test_voc_two_pictures_of_one_stem(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "a.bmp")
    voc_xml(tmp_path / "xml" / "a.xml", voc_object(), filename="a.bmp")
    assert voc(tmp_path).read(0).key == "a.bmp"
    voc_xml(tmp_path / "xml" / "a.xml", voc_object(), filename="a")
    assert refusal(voc(tmp_path)).reason == "image_name_ambiguous"


def test_voc_declared_size_against_the_picture(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    voc_xml(tmp_path / "xml" / "a.xml", voc_object(), size=(WIDTH * 2, HEIGHT * 2))
    fault = refusal(voc(tmp_path))
    assert fault.reason == "size_mismatch"
    assert "annotations lost with it: 1" in fault.detail
    voc_xml(tmp_path / "xml" / "a.xml", voc_object(), size=(0, 0))
    assert len(voc(tmp_path).read(0).annotations) == 1


def test_voc_whole_set_faults(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(ValueError, match="xml: no such folder"):
        voc(tmp_path)
    (tmp_path / "xml").mkdir()
    with pytest.raises(ValueError, match=r"no \.xml file"):
        voc(tmp_path)
    voc_xml(tmp_path / "xml" / "a.xml", voc_object())
    with pytest.raises(ValueError, match="did you mean red blood cell"):
        voc(tmp_path, exhaustive=("red blod cell",))
    with pytest.raises(ValueError, match=r"patient_field=patient: --source voc does not read it \(coco"):
        open_source("voc", tmp_path / "xml", tmp_path, SourceOptions(name="x", patient_field="patient"))
    assert voc(tmp_path, exhaustive=("RBC",)).read(0).label_scope == ("red blood cell",)


def test_blood_cells() -> None:
    folder = real("bccd_cells")
    declared = options(modality="SM", plane="none", licence="MIT")
    images = read_all(VocSource(folder / "annotations_voc", folder / "images", declared))
    assert len(images) == 160
    kept = Counter(one.lesion_class for image in images for one in image.annotations)
    assert kept == {"red blood cell": 1819, "white blood cell": 164, "platelet": 151}
    (faulty,) = [image for image in images if image.rejects]
    assert (faulty.key, reasons(faulty)) == ("BloodImage_00343.jpg", ["box_zero_area"])
    assert all(image.pixels.shape == (480, 640, 3) for image in images)
