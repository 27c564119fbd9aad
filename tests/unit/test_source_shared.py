"""What every source shares: names, options, boxes, labels, organ masks, and the way to worker processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.corpus.contract import RejectedImage, SourceImage
from medclm.corpus.sources.classes import canonical_class, organ_name
from medclm.corpus.sources.detection import four_numbers, judge_box, shown
from medclm.corpus.sources.files import Folder, safe_parts
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.options import parse_visible_on
from medclm.corpus.sources.organ_masks import gather_organs, read_organ_masks
from medclm.types import Box
from tests.source_files import (
    HEIGHT,
    WIDTH,
    coco,
    half,
    lesion,
    mask_file,
    options,
    outcome,
    picture,
    reasons,
    refusal,
    voc,
    voc_object,
    voc_xml,
)


def test_json_with_comments_trailing_commas_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeff{ // a\n "url": "http://x/*no*/#y", # b\n /* c,\n ] */ "list": [1, 2,\n ],\n "q": "a,]\\"//b", }'
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"url": "http://x/*no*/#y", "list": [1, 2], "q": 'a,]"//b'}
    (tmp_path / "b.json").write_text('{ // fine\n "a": [1,, 2]}')
    with pytest.raises(ValueError, match=r"b\.json:2:10"):  # comments do not move lines or columns
        read_json(tmp_path / "b.json")


@given(
    value=st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
@settings(max_examples=60)
def test_leniency_never_changes_a_string(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text("// forces the lenient road\n" + json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_json(path) == value


@given(
    box=st.tuples(*[st.floats(-100, 100) for _ in range(2)], *[st.floats(0.01, 100) for _ in range(2)]).map(
        lambda corner: Box(corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3])
    )
)
def test_a_judged_box_is_inside_and_keeps_half_its_area(box: Box) -> None:
    kept = outcome(lambda: judge_box(box, (WIDTH, HEIGHT)))
    if isinstance(kept, str):
        assert kept == "box_outside"
        return
    assert 0 <= kept.x0 < kept.x1 <= WIDTH
    assert 0 <= kept.y0 < kept.y1 <= HEIGHT
    assert kept.area >= 0.499 * box.area


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), st.lists, max_leaves=6))
def test_any_value_as_a_box_is_four_numbers_or_refused(value: object) -> None:
    numbers = outcome(lambda: four_numbers(value))
    assert numbers == "box_unreadable" if isinstance(numbers, str) else len(numbers) == 4


def test_details_show_numbers_but_no_words() -> None:
    assert shown([1, 2.5, float("nan")]) == "[1, 2.5, nan]"
    assert shown("Jane Doe 1950") == "a text of 13 characters"


def test_labels_are_stated_only_where_nothing_is_in_doubt(tmp_path: Path) -> None:
    def read(*annotations: dict[str, Any], **declared: Any) -> SourceImage:
        return coco(tmp_path, list(annotations), declared=options(exhaustive=("Nodule", "big mass"), **declared)).read(0)

    plain = read(lesion())
    assert (plain.image_labels, plain.label_scope) == ({"nodule": "present", "big mass": "absent"}, ("nodule", "big mass"))
    refused = read(lesion((1, 1, 0, 0), category_id=2), lesion())
    assert (refused.image_labels, refused.label_scope) == ({"nodule": "present", "big mass": "uncertain"}, ("nodule",))
    strange = read(lesion(category_id=9), lesion())
    assert (strange.image_labels, strange.label_scope) == ({"nodule": "present", "big mass": "uncertain"}, ())
    unseen = read(lesion(), visible_on={"big mass": ("flair",)}, technique="t1c")
    assert (unseen.image_labels, unseen.label_scope) == ({"nodule": "present", "big mass": "not assessed"}, ("nodule",))
    assert coco(tmp_path, [lesion()]).read(0).label_scope == ()


def test_a_class_counts_only_on_techniques_that_show_it(tmp_path: Path) -> None:
    visible = parse_visible_on(["Nodule=T1C,t2", "big mass=flair"])
    boxes = [lesion(), lesion(category_id=2)]
    for technique, kept in (("t1c", ["nodule"]), ("FLAIR", ["big mass"]), (None, [])):
        image = coco(tmp_path, boxes, declared=options(technique=technique, visible_on=visible)).read(0)
        assert [one.lesion_class for one in image.annotations] == kept
        assert reasons(image) == ["not_visible_on_technique"] * (2 - len(kept))


@pytest.mark.parametrize("flag", ["nodule", "=t1c", "nodule=", "nodule=,"])
def test_visible_on_flags_that_say_nothing(flag: str) -> None:
    with pytest.raises(ValueError, match="CLASS=TECHNIQUE"):
        parse_visible_on([flag])


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"plane": "transversal"}, "plane"),
        ({"modality": "ct scan"}, "modality"),
        ({"patient_directions": "left"}, "orientation"),
        ({"patient_directions": "L\\R"}, "orientation"),
        ({"patient_directions": "L\\F", "plane": "axial"}, "plane=axial"),
        ({"box_format": "cxcywh"}, "box_format"),
        ({"window": (40.0, 0.0)}, "window"),
        ({"technique": "t1c", "technique_field": "sequence"}, "both"),
        ({"organs": ("brain",)}, "NAME=TEMPLATE"),
        ({"organs": ("brain=masks/{organ}.png",)}, "write \\*="),
    ],
)
def test_options_that_contradict_are_refused(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        options(**declared)


def test_names_of_classes_and_organs() -> None:
    names = [
        "RBC",
        "WBC",
        "Platelets",
        "whole_tumor",
        "Enhancing-Tumour",
        "Infiltrate",
        "Pleural  Effusion",
        "atelectasis",
        " ",
        "脑",
    ]
    assert [canonical_class(name) for name in names] == [
        "red blood cell",
        "white blood cell",
        "platelet",
        "whole tumor",
        "enhancing tumor",
        "infiltration",
        "pleural effusion",
        "atelectasis",
        "",
        "脑",
    ]
    assert canonical_class("RBC", {"rbc": "Red_Cell"}) == "red cell"
    assert [
        canonical_class(name) for name in ("ILD", "Enlarged PA", "ObsoletePulmonaryTuberculosis", "Pleural_Thickening")
    ] == [
        "interstitial lung disease",
        "enlarged pulmonary artery",
        "obsolete pulmonary tuberculosis",
        "pleural thickening",
    ]
    assert [organ_name(name) for name in ("lung_left", "Left-Lung", "kidney right", "brain", "left")] == [
        "lung left",
        "lung left",
        "kidney right",
        "brain",
        "left",
    ]


def test_organ_masks_of_a_folder_named_by_their_files(tmp_path: Path) -> None:
    mask_file(tmp_path / "lung_left.png", half())
    mask_file(tmp_path / "Right_Lung.PNG", half() == 0)
    mask_file(tmp_path / "heart.png", half() * 0)
    (tmp_path / "notes.txt").write_text("x")
    masks = read_organ_masks(tmp_path, (WIDTH, HEIGHT))
    assert sorted(masks) == ["lung left", "lung right"]  # an empty mask is an organ that is not there
    np.testing.assert_array_equal(masks["lung left"], half() != 0)


def test_organ_masks_of_another_scale_are_resized_and_of_another_shape_refused(tmp_path: Path) -> None:
    mask_file(tmp_path / "fine" / "lung.png", half(80, 60))
    np.testing.assert_array_equal(read_organ_masks(tmp_path / "fine", (WIDTH, HEIGHT))["lung"], half() != 0)
    mask_file(tmp_path / "bad" / "lung.png", half(40, 40))
    with pytest.raises(RejectedImage, match="organ_mask_size"):
        read_organ_masks(tmp_path / "bad", (WIDTH, HEIGHT))
    with pytest.raises(RejectedImage, match="organ_mask_missing"):
        read_organ_masks(tmp_path / "absent", (WIDTH, HEIGHT))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("Brain={mask}", ["brain"]),
        ("brain=organs/brain/{stem}.png", ["brain"]),
        ("*=organs/{organ}/{stem}.png", ["brain", "lung left"]),
        ("*=organs/m_{organ}/{stem}.png", ["eye"]),
        ("*=by_image/{stem}", ["brain", "lung left"]),
        ("*=by_image/{stem}/{organ}.png", ["brain", "lung left"]),
    ],
)
def test_organ_layouts(tmp_path: Path, spec: str, expected: list[str]) -> None:
    for folder, organ in (("brain", "brain"), ("lung_left", "lung_left")):
        mask_file(tmp_path / "organs" / folder / "a.png", half())
        mask_file(tmp_path / "by_image" / "a" / f"{organ}.png", half())
    if "m_" in spec:
        mask_file(tmp_path / "organs" / "m_eye" / "a.png", half())
    mask_file(tmp_path / "organs" / "liver" / "other.png", half())
    entry = {"id": 1, "file_name": "a.png", "mask": "organs/brain/a.png"}
    image = coco(tmp_path, [], [entry], options(organs=(spec,))).read(0)
    assert sorted(image.organs) == expected
    assert image.rejects == ()
    np.testing.assert_array_equal(image.organs[expected[0]], half() != 0)


def test_an_organ_mask_that_cannot_be_used_is_named_and_the_image_stays(tmp_path: Path) -> None:
    mask_file(tmp_path / "small.png", half(40, 40))
    (tmp_path / "noise.jpg").write_bytes(b"x")
    (tmp_path / "broken.png").write_bytes(b"x")
    mask_file(tmp_path / "good.png", half())
    specs = (
        "a={field}",
        "b=absent.png",
        "c=small.png",
        "d=noise.jpg",
        "e=broken.png",
        "f=../{stem}.png",
        "g=good.png",
        "g=good.png",
    )
    organs, rejects = gather_organs(specs, {"stem": "good"}, Folder(tmp_path), (WIDTH, HEIGHT), index="images[4]")
    assert list(organs) == ["g"]
    assert [(reject.index, reject.reason) for reject in rejects] == [
        ("images[4].organs[a]", "organ_field_missing"),
        ("images[4].organs[b]", "organ_mask_missing"),
        ("images[4].organs[c]", "organ_mask_size"),
        ("images[4].organs[d]", "organ_mask_lossy"),
        ("images[4].organs[e]", "organ_mask_unreadable"),
        ("images[4].organs[f]", "path_outside_root"),
        ("images[4].organs[g]", "organ_mask_duplicate"),
    ]


def test_a_field_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    mask_file(tmp_path / "secret.png", half())
    (tmp_path / "data").mkdir()
    for value in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png", "..\\secret.png"):
        organs, rejects = gather_organs(
            ("x={field}",), {"field": value}, Folder(tmp_path / "data"), (WIDTH, HEIGHT), index="images[0]"
        )
        assert not organs
        assert [reject.reason for reject in rejects] == ["path_outside_root"]
        with pytest.raises(RejectedImage, match="path_outside_root"):
            safe_parts(value)


def test_sources_travel_to_workers(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "A.PNG"}, {"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "C.png"}]
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "c.png")
    source = coco(tmp_path, [lesion(image_id=2), lesion(image_id=9)], images)
    source.read(2)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(2).annotations == source.read(2).annotations
    assert copy.rejects == source.rejects
    assert refusal(copy, 0).detail == refusal(source, 0).detail
    voc_xml(tmp_path / "xml" / "a.xml", voc_object())
    assert len(pickle.loads(pickle.dumps(voc(tmp_path))).read(0).annotations) == 1
