"""COCO as people really write it: one test per habit on files made here, and the BRATS slices by their counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.detection import RefusedAnnotation
from medclm.corpus.sources.options import parse_visible_on
from medclm.corpus.sources.segmentation import decode_segmentation
from medclm.types import Box
from tests.source_files import (
    HEIGHT,
    WIDTH,
    coco,
    lesion,
    mask_file,
    options,
    outcome,
    picture,
    read_all,
    real,
    reasons,
    refusal,
)


def test_coco_reads_what_is_stated_and_leaves_the_rest_unknown(tmp_path: Path) -> None:
    source = coco(tmp_path, [lesion(id=1), lesion((1, 2, 3, 4), id=2, category_id=2)])
    assert len(source) == 1
    image = source.read(0)
    assert [(one.class_source, one.lesion_class, one.box_px) for one in image.annotations] == [
        ("Nodule", "nodule", Box(5, 6, 12, 14)),
        ("Big_Mass", "big mass", Box(1, 2, 4, 6)),
    ]
    assert (image.index, image.key, image.annotations[1].index) == ("images[0]", "a.png", "annotations[1]")
    assert image.pixels.shape == (HEIGHT, WIDTH)
    for unknown in (image.patient, image.study, image.modality, image.plane, image.patient_directions, image.official_split):
        assert unknown is None
    assert image.label_scope == ()
    assert image.rejects == ()


def test_coco_fields_that_the_user_names(tmp_path: Path) -> None:
    entry = {"id": 1, "file_name": "a.png", "pid": 7.0, "sequence": "t1c", "set": "Validation"}
    declared = options(
        patient_field="pid", technique_field="sequence", split_field="set", lesion_3d_field="track", modality="MR"
    )
    image = coco(tmp_path, [lesion(track=3), lesion()], [entry], declared).read(0)
    assert (image.patient, image.technique, image.official_split, image.modality) == ("7", "t1c", "val", "MR")
    assert [one.lesion_3d for one in image.annotations] == ["7/3", None]  # counted per patient, so the patient is part of it


@pytest.mark.parametrize("blank", [None, "", "  ", float("nan")])
def test_coco_blank_patient_is_unknown(tmp_path: Path, blank: object) -> None:
    entry = {"id": 1, "file_name": "a.png", "pid": blank}
    assert coco(tmp_path, [], [entry], options(patient_field="pid")).read(0).patient is None


def test_coco_unknown_split_is_refused(tmp_path: Path) -> None:
    entry = {"id": 1, "file_name": "a.png", "set": "fold3"}
    assert refusal(coco(tmp_path, [], [entry], options(split_field="set"))).reason == "split_unknown"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"boxes\.json:1:2: not JSON"),
        ('{\n "images": [],\n "annotations": [1 2]\n}', r"boxes\.json:3:20"),
        ("/* never closed", r"boxes\.json:1:1"),
        ("[{}]", "expected an object with images.*found a list.*import"),
        ('{"images": []}', "found an object with images"),
        ('{"images": {}, "annotations": [], "categories": []}', "images is dict, expected a list"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', r"categories\[0\]"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]}',
            r"categories\[1\].*a",
        ),
        ("[" * 100_000, "too deep"),
    ],
)
def test_coco_whole_file_faults_name_file_place_and_cure(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        CocoSource(tmp_path / "boxes.json", tmp_path, options())


def test_coco_missing_file_folder_and_wrong_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json: No such file"):
        CocoSource(tmp_path / "absent.json", tmp_path, options())
    with pytest.raises(ValueError, match=r"nowhere: no such folder.*--image-root"):
        CocoSource(tmp_path / "absent.json", tmp_path / "nowhere", options())
    (tmp_path / "latin.json").write_bytes('{"images": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="byte 12 is not utf-8"):
        CocoSource(tmp_path / "latin.json", tmp_path, options())


@pytest.mark.parametrize(
    "declared",
    [
        {"patient_field": "patien"},
        {"technique_field": "patien"},
        {"lesion_3d_field": "bbx"},
        {"organs": ("brain={patien}",)},
        {"exhaustive": ("nodul",)},
        {"visible_on": {"nodul": ("t1c",)}},
    ],
)
def test_coco_mistyped_option_is_an_error_with_a_hint(tmp_path: Path, declared: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"did you mean (patient|bbox|nodule)"):
        coco(tmp_path, [lesion()], [{"id": 1, "file_name": "a.png", "patient": "p"}], options(**declared))


def test_coco_image_faults_are_counted_one_by_one(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "absent.png"},
        {"id": 3, "file_name": "broken.png"},
        {"id": 4},
        "text",
        {"id": 5, "file_name": "../boxes.json"},
        {"id": 6, "file_name": "/etc/hostname"},
        {"id": 7, "file_name": "C:\\a.png"},
        {"id": 8, "file_name": ""},
        {"id": 9, "file_name": "x" * 5000},
        {"id": 10, "file_name": "a\0.png"},
    ]
    source = coco(tmp_path, [lesion(), lesion(image_id=2), lesion(image_id=2)], images)
    assert len(source) == len(images)
    assert len(source.read(0).annotations) == 1
    missing = refusal(source, 1)
    assert missing.reason == "image_missing"
    assert "annotations lost with it: 2" in missing.detail
    assert "absent" not in missing.detail
    assert [refusal(source, place).reason for place in range(2, len(images))] == [
        "image_unreadable",
        "image_entry_unreadable",
        "image_entry_unreadable",
        "path_outside_root",
        "path_outside_root",
        "path_outside_root",
        "image_missing",
        "image_missing",
        "image_missing",
    ]


def test_coco_duplicate_image_ids(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png")
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": "1", "file_name": "a.png"},  # the same again: the first one stands
        {"id": 2, "file_name": "b.png"},
        {"id": 2, "file_name": "c.png"},  # another picture: whose boxes are these?
    ]
    source = coco(tmp_path, [lesion(), lesion(image_id=2)], images)
    assert len(source.read(0).annotations) == 1
    assert [refusal(source, place).reason for place in (1, 2, 3)] == ["duplicate_image_id"] * 3


def test_coco_one_file_under_two_ids_closes_the_scope_of_the_first(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "A.png"}]
    source = coco(tmp_path, [lesion(image_id=2)], images, options(exhaustive=("nodule",)))
    assert refusal(source, 1).reason == "duplicate_image_file"
    first = source.read(0)  # its nodule stands at the other entry: nothing may be called absent
    assert (first.label_scope, first.image_labels) == ((), {"nodule": "uncertain"})


def test_coco_annotations_of_no_image_are_named(tmp_path: Path) -> None:
    source = coco(tmp_path, [lesion(), lesion(image_id=99), "text"])
    assert [(reject.index, reject.reason) for reject in source.rejects] == [
        ("annotations[1]", "image_entry_missing"),
        ("annotations[2]", "annotation_unreadable"),
    ]
    assert "99" not in source.rejects[0].detail


@pytest.mark.parametrize("written", ["A.PNG", "SUB/../a.png", "sub\\B.png", "./sub//b.png", "Sub/b.PNG"])
def test_coco_letter_case_and_separators(tmp_path: Path, written: str) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "sub" / "b.png")
    source = coco(tmp_path, [], [{"id": 1, "file_name": written}])
    if ".." in written:
        assert refusal(source).reason == "path_outside_root"
    else:
        assert source.read(0).pixels.shape == (HEIGHT, WIDTH)


def test_coco_two_files_that_differ_in_case_only(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "A.png")
    assert refusal(coco(tmp_path, [], [{"id": 1, "file_name": "a.PNG"}])).reason == "image_name_ambiguous"
    both = coco(tmp_path, [], [{"id": 1, "file_name": "A.png"}, {"id": 2, "file_name": "a.png"}])
    assert [both.read(place).key for place in (0, 1)] == ["A.png", "a.png"]


@pytest.mark.parametrize(("on_disk", "written"), [("médula_脑.png", "médula_脑.png"), ("m\u00e9d.png", "me\u0301d.png")])
def test_coco_names_beyond_ascii(tmp_path: Path, on_disk: str, written: str) -> None:
    picture(tmp_path / "images" / on_disk)
    assert coco(tmp_path, [], [{"id": 1, "file_name": written}]).read(0).pixels.shape == (HEIGHT, WIDTH)


def test_coco_declared_size_against_the_picture(tmp_path: Path) -> None:
    for declared, reason in (((80, 60), "size_mismatch"), ((WIDTH, HEIGHT), None), ((0, 0), None), (("40", "30"), None)):
        entry = {"id": 1, "file_name": "a.png", "width": declared[0], "height": declared[1]}
        source = coco(tmp_path, [lesion()], [entry])
        if reason:
            assert refusal(source).reason == reason
        else:
            assert len(source.read(0).annotations) == 1


def test_coco_exif_orientation_turns_boxes_masks_and_organs_together(tmp_path: Path) -> None:
    stored = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    stored[6:14, 5:12] = 200
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
    mask_file(tmp_path / "organs" / "a.png", stored)
    square = [5, 6, 12, 6, 12, 14, 5, 14]
    declared = options(organs=("lung=organs/{stem}.png",))
    entry = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    image = coco(tmp_path, [lesion(segmentation=[square])], [entry], declared).read(0)
    assert image.pixels.shape == (WIDTH, HEIGHT)
    (found,) = image.annotations
    assert found.mask is not None
    for mask in (image.pixels > 0, found.mask, image.organs["lung"]):
        rows, columns = np.nonzero(mask)
        assert found.box_px == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    upright = {**entry, "width": HEIGHT, "height": WIDTH}
    assert coco(tmp_path, [lesion()], [upright]).read(0).annotations[0].box_px == Box(5, 6, 12, 14)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (lesion((5, 6, 0, 8)), "box_zero_area"),
        (lesion((5, 6, 7, -8)), "box_zero_area"),
        (lesion((float("nan"), 6, 7, 8)), "box_not_finite"),
        (lesion((5, 6, float("inf"), 8)), "box_not_finite"),
        (lesion((50, 6, 7, 8)), "box_outside"),
        (lesion((36, 26, 7, 8)), "box_outside"),  # 4 x 4 of 7 x 8 inside
        (lesion((-1e300, 0, 2e300, 1e300)), "box_outside"),
        (lesion((25, 20, 35, 28)), "box_looks_like_xyxy"),
        (lesion((5, 6, 7)), "box_unreadable"),
        (lesion([5, 6, 7, "x"]), "box_unreadable"),
        (lesion([5, 6, 7, True]), "box_unreadable"),
        (lesion({"x": 5}), "box_unreadable"),
        (lesion("five six seven eight"), "box_unreadable"),
        (lesion(None), "box_missing"),
        (lesion([]), "box_missing"),
        (lesion(iscrowd=1), "crowd"),
        (lesion(category_id=9), "category_unknown"),
        (lesion(category_id=None), "category_unknown"),
        (lesion(segmentation=[[1, 2, 3, 4]]), "mask_unreadable"),
        (lesion(segmentation=[[1, 2, 3, 4, 5, "x"]]), "mask_unreadable"),
        (lesion(segmentation=[[1, 2, 3, 4, 1e9, 5]]), "mask_unreadable"),
        (lesion(segmentation=[[1, 2, 3, 4, float("nan"), 5]]), "mask_unreadable"),
        (lesion(segmentation="mask"), "mask_unreadable"),
        (lesion(segmentation={"size": [30, 41], "counts": [1]}), "mask_size"),
        (lesion(segmentation={"size": 5, "counts": [1]}), "mask_size"),
        (lesion(segmentation={"size": [30, 40], "counts": [10, 20]}), "mask_unreadable"),
        (lesion(segmentation={"size": [30, 40], "counts": [-100, 1300]}), "mask_unreadable"),
        (lesion(segmentation={"size": [30, 40], "counts": "\u20ac"}), "mask_unreadable"),
        (lesion(segmentation={"size": [30, 40], "counts": "o" * 40}), "mask_unreadable"),
        (lesion(segmentation={"size": [30, 40], "counts": [1200]}), "mask_empty"),
        (lesion(segmentation=[[30, 20, 38, 20, 38, 28]]), "mask_outside_box"),
    ],
)
def test_coco_a_bad_annotation_is_named_and_the_rest_goes_on(tmp_path: Path, annotation: dict[str, Any], reason: str) -> None:
    good = lesion((20, 5, 6, 4))  # cannot be two corners, so the file as a whole stays xywh
    image = coco(tmp_path, [good, annotation]).read(0)
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("images[0].annotations[1]", reason)]
    assert image.rejects[0].detail
    assert [one.index for one in image.annotations] == ["annotations[0]"]


@pytest.mark.parametrize("written", ["[5, 6, 7, 8]", "5 6 7 8", "5,6,7,8", "(5; 6; 7; 8)", ["5", 6, "7.0", 8], [5.0, 6, 7, 8]])
def test_coco_boxes_as_list_or_string(tmp_path: Path, written: object) -> None:
    assert coco(tmp_path, [lesion(written)]).read(0).annotations[0].box_px == Box(5, 6, 12, 14)


def test_coco_duplicate_annotation_ids(tmp_path: Path) -> None:
    image = coco(tmp_path, [lesion(id=4), lesion((1, 1, 2, 2), id="4"), lesion()]).read(0)
    assert [one.index for one in image.annotations] == ["annotations[0]", "annotations[2]"]
    assert reasons(image) == ["duplicate_annotation_id"]


def test_coco_a_box_partly_outside_is_clipped(tmp_path: Path) -> None:
    image = coco(tmp_path, [lesion((-2, 20, 8, 12)), lesion((30.5, 2, 10, 4)), lesion((20, 5, 6, 4))]).read(0)
    assert [one.box_px for one in image.annotations] == [Box(0, 20, 6, 30), Box(30.5, 2, 40, 6), Box(20, 5, 26, 9)]


def test_coco_swapped_boxes_condemn_the_file_until_the_format_is_declared(tmp_path: Path) -> None:
    # only the second betrays itself; the first would be a wrong box without a word
    boxes = [lesion((5, 6, 12, 14)), lesion((25, 20, 35, 28))]
    image = coco(tmp_path, boxes).read(0)
    assert reasons(image) == ["box_looks_like_xyxy"] * 2
    assert "--box-format xyxy" in image.rejects[0].detail
    cured = coco(tmp_path, boxes, declared=options(box_format="xyxy")).read(0)
    assert [one.box_px for one in cured.annotations] == [Box(5, 6, 12, 14), Box(25, 20, 35, 28)]
    insisted = coco(tmp_path, [lesion((21, 10, 22, 15))], declared=options(box_format="xywh")).read(0)
    assert [one.box_px for one in insisted.annotations] == [Box(21, 10, WIDTH, 25)]


def test_coco_a_box_that_passes_the_border_by_rounding_is_no_evidence(tmp_path: Path) -> None:
    image = coco(tmp_path, [lesion((10, 10, 30.7, 20.9))]).read(0)
    assert [one.box_px for one in image.annotations] == [Box(10, 10, 40, 30)]


def test_coco_segmentations_become_masks(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[6:14, 5:12] = 1
    runs = coco_mask.encode(np.asfortranarray(mask))
    compressed = {"size": runs["size"], "counts": runs["counts"].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    plain = {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}
    polygon = [[5, 6, 12, 6, 12, 14, 5, 14]]
    forms: list[Any] = [compressed, plain, polygon, polygon[0]]
    image = coco(tmp_path, [lesion(None, segmentation=form) for form in forms] + [lesion(segmentation=[])]).read(0)
    assert image.rejects == ()
    for one in image.annotations[:4]:
        assert one.mask is not None
        np.testing.assert_array_equal(one.mask, mask != 0)
        assert one.box_px == Box(5, 6, 12, 14)  # from the mask
    assert image.annotations[4].mask is None


@given(st.lists(st.booleans(), min_size=42, max_size=42))
def test_compressed_run_lengths_as_pycocotools_reads_them(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(6, 7)
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": [6, 7], "counts": runs["counts"].decode()}
    if mask.any():
        np.testing.assert_array_equal(decode_segmentation(segmentation, (7, 6)), mask)
    else:
        with pytest.raises(RefusedAnnotation, match="mask_empty"):
            decode_segmentation(segmentation, (7, 6))


@given(st.text(max_size=30))
def test_no_text_of_run_lengths_breaks_the_decoder(counts: str) -> None:
    mask = outcome(lambda: decode_segmentation({"size": [6, 7], "counts": counts}, (7, 6)))
    assert mask in ("mask_unreadable", "mask_empty") if isinstance(mask, str) else mask.shape == (6, 7)


def test_brats_slices() -> None:
    folder = real("brats_mri_slices")
    declared = options(
        modality="MR",
        plane="axial",
        patient_field="patient",
        technique_field="sequence",
        organs=("brain={brain_mask_file}",),
        visible_on=parse_visible_on(["enhancing tumor=t1c", "whole tumor=flair"]),
    )
    source = CocoSource(folder / "boxes_coco.json", folder / "images", declared)
    images = read_all(source)
    assert len(images) == 120
    assert len({image.patient for image in images}) == 4
    assert Counter(image.technique for image in images) == {"flair": 60, "t1c": 60}
    kept = Counter((image.technique, one.lesion_class) for image in images for one in image.annotations)
    assert kept == {("flair", "whole tumor"): 57, ("t1c", "enhancing tumor"): 41}
    assert Counter(reason for image in images for reason in reasons(image)) == {"not_visible_on_technique": 98}  # of 196
    assert all(set(image.organs) == {"brain"} and image.patient_directions is None for image in images)
    inside = [
        image.organs["brain"][int(one.box_px.y0 + one.box_px.y1) // 2, int(one.box_px.x0 + one.box_px.x1) // 2]
        for image in images
        for one in image.annotations
    ]
    assert sum(inside) >= 0.9 * len(inside)
