"""COCO and VOC as people really write them: one test per habit on files made here, and the two real sets by their counts."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from medclm.corpus.contract import RejectedImage, SourceImage
from medclm.corpus.sources.classes import canonical_class, organ_name
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.detection import RefusedAnnotation, four_numbers, judge_box, shown
from medclm.corpus.sources.files import Folder, safe_parts
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.options import SourceOptions, parse_visible_on
from medclm.corpus.sources.organ_masks import gather_organs, read_organ_masks
from medclm.corpus.sources.registry import open_source
from medclm.corpus.sources.segmentation import decode_segmentation
from medclm.corpus.sources.voc import VocSource
from medclm.types import Box

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WIDTH, HEIGHT = 40, 30


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), 99, dtype=np.uint8)).save(path, **options)
    return path


def mask_file(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(path)
    return path


def options(**declared: Any) -> SourceOptions:
    return SourceOptions(name="made", **declared)


def coco(
    root: Path, annotations: list[Any], images: list[Any] | None = None, declared: SourceOptions | None = None
) -> CocoSource:
    """A COCO file about `a.png` (or `images`) with classes 1 = Nodule, 2 = Big_Mass."""
    if not (root / "images").exists():
        picture(root / "images" / "a.png")
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}] if images is None else images,
        "categories": [{"id": 1, "name": "Nodule"}, {"id": 2, "name": "Big_Mass"}],
        "annotations": annotations,
    }
    (root / "boxes.json").write_text(json.dumps(tree), encoding="utf-8")
    return CocoSource(root / "boxes.json", root / "images", declared or options())


def lesion(bbox: Any = (5, 6, 7, 8), **fields: Any) -> dict[str, Any]:
    box = {} if bbox is None else {"bbox": list(bbox) if isinstance(bbox, tuple) else bbox}
    return {"image_id": 1, "category_id": 1, **box, **fields}


def reasons(image: SourceImage) -> list[str]:
    return [reject.reason for reject in image.rejects]


def outcome(call: Callable[[], Any]) -> Any:
    """What the call returns, or the reason for which it refuses."""
    try:
        return call()
    except RefusedAnnotation as refused:
        return refused.reason


def refusal(source: CocoSource | VocSource, index: int = 0) -> RejectedImage:
    with pytest.raises(RejectedImage) as caught:
        source.read(index)
    return caught.value


# COCO: the file as a whole


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
    with pytest.raises(ValueError, match="byte 12 is not UTF-8"):
        CocoSource(tmp_path / "latin.json", tmp_path, options())


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
@settings(max_examples=60, deadline=None)
def test_leniency_never_changes_a_string(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text("// forces the lenient road\n" + json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_json(path) == value


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


# COCO: images


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
    for declared, outcome in (((80, 60), "size_mismatch"), ((WIDTH, HEIGHT), None), ((0, 0), None), (("40", "30"), None)):
        entry = {"id": 1, "file_name": "a.png", "width": declared[0], "height": declared[1]}
        source = coco(tmp_path, [lesion()], [entry])
        if outcome:
            assert refusal(source).reason == outcome
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


# COCO: annotations


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


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), st.lists, max_leaves=6))
def test_any_value_as_a_box_is_four_numbers_or_refused(value: object) -> None:
    numbers = outcome(lambda: four_numbers(value))
    assert numbers == "box_unreadable" if isinstance(numbers, str) else len(numbers) == 4


def test_details_show_numbers_but_no_words() -> None:
    assert shown([1, 2.5, float("nan")]) == "[1, 2.5, nan]"
    assert shown("Jane Doe 1950") == "a text of 13 characters"


# scope and visibility


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
    assert [organ_name(name) for name in ("lung_left", "Left-Lung", "kidney right", "brain", "left")] == [
        "lung left",
        "lung left",
        "kidney right",
        "brain",
        "left",
    ]


# organ masks


def half(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : width // 2] = 3
    return mask


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


# VOC


def voc_object(name: str = "RBC", corners: str = "6 7 12 14", extra: str = "") -> str:
    x0, y0, x1, y1 = corners.split()
    box = f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
    return f"<object><name>{name}</name>{extra}{box}</object>"


def voc_xml(
    path: Path, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT), filename: str = "a.png", head: str = ""
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    text = f"{head}<annotation><filename>{filename}</filename><path>/etc/hostname</path>{sizes}{''.join(objects)}</annotation>"
    path.write_text(text, encoding="utf-8")


def voc(root: Path, **declared: Any) -> VocSource:
    return VocSource(root / "xml", root / "images", options(**declared))


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


# the real sets


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs ../shared/data/{name}")
    return DATA / name


def read_all(source: CocoSource | VocSource) -> list[SourceImage]:
    return [source.read(index) for index in range(len(source))]


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
