"""Sides: the same words however a picture is written, names and headers against directions, real radiographs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.contract import SourceAnnotation, SourceImage
from medclm.types import Box
from tests.drawn_anatomy import ABDOMEN, disc, image, lesion, turned

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("plane", "directions"), [("axial", "L\\P"), ("coronal", "L\\F"), ("frontal", "L\\F"), ("sagittal", "P\\F")]
)
@pytest.mark.parametrize("named", [True, False])
def test_patient_words_are_equal_however_the_picture_is_written(plane, directions, named):
    organs = ABDOMEN if named else {"kidney": ABDOMEN["kidney right"] | ABDOMEN["kidney left"], "brain": disc(48, 30, 30, 20)}
    spots = [disc(28, 74, 3), disc(68, 70, 4), disc(30, 40, 5), disc(52, 26, 4)]
    made = image(
        *(lesion(spot, "cyst", n) for n, spot in enumerate(spots)), organs=organs, plane=plane, patient_directions=directions
    )

    def words(some: SourceImage) -> list[tuple]:
        keys = ("organ", "relation", "side", "side_of", "vertical", "depth")
        return sorted(
            tuple(str(each.facts.get(key)) for key in keys)
            for each in link(some, seed=0).annotations
            if each.box_role == "lesion"
        )

    expected = words(made)
    assert any(word[2] == "left" for word in expected) == (plane != "sagittal")
    for turn in itertools.product((False, True), repeat=3):
        assert words(turned(made, *turn)) == expected


def test_names_and_directions_that_disagree_are_rejected_by_name():
    swapped = {"kidney right": ABDOMEN["kidney left"], "kidney left": ABDOMEN["kidney right"]}
    linked = link(image(lesion(disc(28, 72, 4)), organs=swapped, label_scope=("cyst",)), seed=0)
    assert not linked.annotations
    (reject,) = linked.rejects
    assert (reject.index, reject.reason) == ("images[0].annotations[0]", "side_disagrees")
    assert "left" in reject.detail
    assert "right" in reject.detail


@pytest.mark.parametrize("changes", [{"patient_directions": None}, {"plane": "none"}, {"modality": "US"}])
def test_no_side_word_without_directions(changes):
    facts = link(image(lesion(disc(28, 72, 4)), organs=ABDOMEN, **changes), seed=0).annotations[0].facts
    assert not {"side", "vertical", "depth"} & facts.keys()
    assert facts["organ"] == "kidney"
    assert facts["location"] == "kidney, lower left of the image"


def test_lung_boxes_of_real_radiographs_lie_on_the_stated_sides():
    folder = SHARED / "covid_cxr_lungs"
    if not folder.exists():
        pytest.skip(f"needs {folder.name} in shared data")
    from PIL import Image

    coco = json.loads((folder / "lung_boxes_coco.json").read_text())
    names = {each["id"]: each["name"].lower() for each in coco["categories"]}
    files = {each["id"]: each["file_name"] for each in coco["images"]}
    right = total = 0
    for number, file in files.items():
        mask = Image.open(next((folder / "lung_masks").glob(f"{Path(file).stem}.*"))).convert("L")
        scale = 160 / max(mask.size)
        small = np.asarray(mask.resize((round(mask.width * scale), round(mask.height * scale)), Image.Resampling.NEAREST)) > 0
        boxes = [each for each in coco["annotations"] if each["image_id"] == number]
        annotations = tuple(
            SourceAnnotation(
                f"annotations[{k}]",
                names[each["category_id"]],
                "lung field",
                Box(x * scale, y * scale, (x + w) * scale, (y + h) * scale),
            )
            for k, each in enumerate(boxes)
            for x, y, w, h in [each["bbox"]]
        )
        made = image(
            *annotations,
            pixels=small.astype(np.uint8) * 255,
            organs={"lungs": small},
            modality="DX",
            plane="frontal",
            patient_directions="L\\F",
        )
        for each in link(made, seed=0).annotations:
            right += each.facts["side"] == ("left" if "left" in each.source.class_source else "right")
            total += 1
    assert (right, total) == (300, 300)


FRONTAL = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}


def side(made: SourceImage) -> str | None:
    (one,) = link(made, seed=0).annotations
    return one.facts.get("side")


def reject(made: SourceImage) -> str:
    linked = link(made, seed=0)
    assert not linked.annotations
    (one,) = linked.rejects
    assert one.reason == "side_disagrees"
    return one.detail


def test_the_headers_side_goes_first_and_needs_no_directions():
    knee = lesion(disc(30, 48, 5))
    assert side(image(knee, laterality="left", **FRONTAL)) == "left"  # its place in the frame halves the knee, not the patient
    assert side(image(knee, **FRONTAL)) == "right"
    undirected = FRONTAL | {"patient_directions": None}
    assert side(image(knee, laterality="left", **undirected)) == "left"
    assert side(image(knee, laterality="right", organs={"femur": disc(40, 48, 30)}, **undirected)) == "right"
    linked = link(image(knee, laterality="left", organs={"femur": disc(40, 48, 30)}, **undirected), seed=0)
    assert linked.annotations[0].facts["location"] == "left femur"
    assert side(image(knee, laterality="left", modality="MG", plane="oblique", patient_directions=None)) == "left"


@pytest.mark.parametrize(
    "changes",
    [
        {"plane": "lateral", "modality": "DX", "patient_directions": "P\\F"},  # there it names the side at the detector
        {"plane": "sagittal", "modality": "MR", "patient_directions": "P\\F"},
        {"modality": "US"},
        {"plane": None},
        {"plane": "none"},
    ],
)
def test_the_headers_side_is_not_said_where_pictures_show_no_side(changes):
    assert side(image(lesion(disc(30, 48, 5)), laterality="left", **changes)) is None


def test_two_sources_that_disagree_are_rejected_whichever_they_are():
    right = lesion(disc(30, 72, 4))
    assert "the header left, the mask's name right" in reject(image(right, organs=ABDOMEN, laterality="left"))
    assert "the header says left, the directions right" in reject(
        image(lesion(disc(20, 20, 4)), organs=ABDOMEN, laterality="left")
    )
    undirected = {"patient_directions": None, "organs": ABDOMEN}
    assert "the header left, the mask's name right" in reject(image(right, laterality="left", **undirected))
    named = lesion(disc(30, 72, 4), "left kidney tumor")
    assert "the class name left, the mask's name right" in reject(image(named, organs=ABDOMEN))
    lungs = {"lungs": disc(26, 44, 17, 34) | disc(70, 44, 17, 34)}
    seen = lesion(disc(26, 44, 6), "left lung")
    assert "the class name says left, the directions right" in reject(image(seen, organs=lungs, **FRONTAL))


def test_a_class_that_names_a_paired_organ_states_its_side():
    lungs = {"lungs": disc(26, 44, 17, 34) | disc(70, 44, 17, 34)}
    spot = disc(70, 44, 6)
    assert side(image(lesion(spot, "left lung"), organs=lungs, **FRONTAL)) == "left"
    assert side(image(lesion(spot, "lung left"), **FRONTAL)) == "left"
    assert side(image(lesion(disc(20, 30, 4), "left atrial enlargement"), **FRONTAL)) == "right"  # a name, not a side
    assert side(image(lesion(spot, "left lung"), **FRONTAL | {"patient_directions": None})) is None


def test_a_lesion_in_both_of_a_pair_is_bilateral():
    kidneys = {"kidney right": disc(38, 60, 11), "kidney left": disc(58, 60, 11)}
    across = disc(48, 60, 14, 3)
    assert side(image(lesion(across), organs=kidneys)) == "bilateral"
    assert side(image(lesion(across), organs={"kidneys": kidneys["kidney right"] | kidneys["kidney left"]})) == "bilateral"
