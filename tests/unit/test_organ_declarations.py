"""Organs declared as label maps and boxes: every layout gives the same organs, every fault is named and the image stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.anatomy import link
from medclm.corpus.box_masks import is_box
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.label_maps import split_labels
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.organ_masks import gather_organs
from medclm.corpus.sources.organ_specs import read_spec

WIDTH, HEIGHT = 40, 30
SIZE = (WIDTH, HEIGHT)
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[5:15, 4:14], LABELS[5:15, 20:30], LABELS[20:26, 8:20] = 3, 2, 5  # kidney left, kidney right, liver


def gather(root: Path, *specs: str, fields: dict[str, Any] | None = None, size: tuple[int, int] = SIZE):
    return gather_organs(specs, {"stem": "a", "file_name": "sub/a.png"} | (fields or {}), Folder(root), size, index="images[4]")


def save(path: Path, image: Image.Image | np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
    return path


def palette(labels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(labels, "P")
    picture.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    return picture


@pytest.mark.parametrize("form", ["grey", "palette", "deep", "fine", "map file"])
def test_a_label_map_holds_many_organs(tmp_path, form):
    which = "totalsegmentator"
    pictures = {"palette": palette(LABELS), "deep": Image.fromarray(LABELS.astype(np.uint16)), "grey": LABELS}
    pictures |= {"fine": LABELS.repeat(2, axis=0).repeat(2, axis=1)}
    save(tmp_path / "labels" / "a.png", pictures.get(form, LABELS))
    if form == "map file":
        which = str(tmp_path / "maps" / "My-Map_1.json")
        Path(which).parent.mkdir()
        Path(which).write_text('{"left kidney": 3, "kidney_right": 2, "Liver": 5}')
    organs, rejects = gather(tmp_path, f"labels:{which}=labels/{{stem}}.png")
    assert not rejects
    assert sorted(organs) == ["kidney left", "kidney right", "liver"]
    for name, value in (("kidney left", 3), ("kidney right", 2), ("liver", 5)):
        assert organs[name].dtype == bool
        np.testing.assert_array_equal(organs[name], value == LABELS)


def test_values_above_a_byte_and_values_of_one_organ(tmp_path):
    (tmp_path / "map.csv").write_text("700,lung left\n1,liver\n2,liver\n")
    labels = LABELS.astype(np.uint16)
    labels[labels == 3] = 700
    labels[labels == 5] = 1
    save(tmp_path / "a.png", Image.fromarray(labels))
    organs, rejects = gather(tmp_path, f"labels:{tmp_path / 'map.csv'}=a.png")
    assert not rejects
    np.testing.assert_array_equal(organs["lung left"], labels == 700)
    np.testing.assert_array_equal(organs["liver"], (labels == 1) | (labels == 2))


def test_what_a_label_map_does_not_say_is_named_and_the_rest_stays(tmp_path):
    labels = LABELS.copy()
    labels[0, :10] = range(200, 210)
    save(tmp_path / "odd.png", labels)
    save(tmp_path / "colour.png", np.dstack([LABELS] * 3))
    save(tmp_path / "square.png", LABELS[:20, :20])
    save(tmp_path / "lossy.jpg", LABELS)
    (tmp_path / "broken.png").write_bytes(b"x")
    names = ("odd", "colour", "square", "broken", "absent")
    specs = (*(f"labels:totalsegmentator={name}.png" for name in names), "labels:totalsegmentator=lossy.jpg")
    found = [gather(tmp_path, spec) for spec in specs]
    assert sorted(found[0][0]) == ["kidney left", "kidney right", "liver"]
    assert all(not organs for organs, _ in found[1:])
    assert [[(reject.index, reject.reason) for reject in rejects] for _, rejects in found] == [
        [("images[4].organs[labels]", reason)]
        for reason in (
            "organ_label_unknown",
            "organ_labels_mode",
            "organ_mask_size",
            "organ_mask_unreadable",
            "organ_mask_missing",
            "organ_mask_lossy",
        )
    ]
    assert "200, 201, 202, 203, 204, 205, 206, 207, ..." in found[0][1][0].detail


def test_a_mask_and_a_label_map_of_one_organ_are_a_duplicate(tmp_path):
    save(tmp_path / "labels.png", LABELS)
    save(tmp_path / "liver.png", (LABELS > 0).astype(np.uint8))
    organs, rejects = gather(tmp_path, "liver=liver.png", "labels:totalsegmentator=labels.png")
    assert np.count_nonzero(organs["liver"]) == np.count_nonzero(LABELS)
    assert [(reject.index, reject.reason) for reject in rejects] == [("images[4].organs[liver]", "organ_mask_duplicate")]


def test_labels_of_a_slice_are_split_by_value():
    labels = np.random.default_rng(0).integers(0, 9, (12, 17)).astype(np.int32)
    organs, unknown = split_labels(labels, {1: "a", 2: "b", 3: "a", 40: "c"})
    assert unknown == (4, 5, 6, 7, 8)
    assert set(organs) == {"a", "b"}
    np.testing.assert_array_equal(organs["a"], np.isin(labels, (1, 3)))


# --- boxes

BOXES = {"lung left": [22, 4, 12, 20], "lung right": [4, 4, 12, 20]}
CORNERS = {name: [x, y, x + width, y + height] for name, (x, y, width, height) in BOXES.items()}


def coco_boxes(**image: Any) -> dict[str, Any]:
    entry = {"id": 7, "file_name": "sub/a.png", "width": WIDTH, "height": HEIGHT} | image
    annotations = [{"id": n, "image_id": 7, "category_id": n, "bbox": box} for n, box in enumerate(BOXES.values(), start=1)]
    categories = [{"id": 1, "name": "Left Lung"}, {"id": 2, "name": "Right Lung"}]
    return {"images": [{"id": 8, "file_name": "b.png"}, entry], "annotations": annotations, "categories": categories}


def csv_boxes(*, image: bool) -> str:
    lines = ["image,organ,x,y,width,height" if image else "organ,x,y,width,height"]
    for name, box in BOXES.items():
        lines.append(",".join(map(str, ([r"SUB\A.png"] if image else []) + [name.replace(" ", "_"), *box])))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("spec", "name", "text"),
    [
        ("boxes:xywh=b.json", "b.json", json.dumps(coco_boxes())),
        ("boxes:xywh=b.json", "b.json", json.dumps({"a": BOXES, "b": {"heart": [1, 1, 2, 2]}})),
        ("boxes:xyxy=b.json", "b.json", json.dumps({"sub/a.png": CORNERS, "c.png": {}})),
        ("boxes:XYXY={stem}.json", "a.json", json.dumps(CORNERS)),
        ("boxes:xywh=b.csv", "b.csv", csv_boxes(image=True)),
        ("boxes:xywh={stem}.csv", "a.csv", csv_boxes(image=False)),
        ("boxes:xywh={stem}.tsv", "a.tsv", csv_boxes(image=False).replace(",", "\t")),
        ("boxes:xyxy={organs}", "unused", ""),
    ],
)
def test_every_layout_of_boxes_gives_the_same_marked_masks(tmp_path, spec, name, text):
    (tmp_path / name).write_text(text)
    organs, rejects = gather(tmp_path, spec, fields={"organs": CORNERS})
    assert not rejects
    assert sorted(organs) == ["lung left", "lung right"]
    for organ, (x0, y0, x1, y1) in CORNERS.items():
        assert is_box(organs[organ])
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(organs[organ] != 0, expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "organ_boxes_unreadable"),
        ("[1]", "organ_boxes_unreadable"),
        (json.dumps({"images": [{}], "annotations": [{}], "categories": []}), "organ_boxes_unreadable"),
        (json.dumps({"other.png": BOXES}), "organ_boxes_missing"),
        (json.dumps({"one/a.png": BOXES, "two/a.png": BOXES}), "organ_boxes_ambiguous"),
    ],
)
def test_a_file_of_boxes_that_cannot_be_used_is_named_without_its_path(tmp_path, text, reason):
    (tmp_path / "b.json").write_text(text)
    organs, (reject,) = gather(tmp_path, "boxes:xywh=b.json")
    assert not organs
    assert (reject.index, reject.reason) == ("images[4].organs[boxes]", reason)
    assert "b.json" not in reject.detail
    assert "one/" not in reject.detail


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([1, 2, 3], "organ_box_unreadable"),
        ("1 2 3 4", "organ_box_unreadable"),
        ([1, 2, 3, "x"], "organ_box_unreadable"),
        ([1, 2, float("nan"), 4], "organ_box_unreadable"),
        ([1, 2, 0, 4], "organ_box_zero_area"),
        ([1, 2, -3, 4], "organ_box_zero_area"),
        ([90, 90, 5, 5], "organ_box_outside"),
        ([30, 2, 30, 4], "organ_box_outside"),
    ],
)
def test_a_box_that_cannot_be_used_is_named_and_the_others_stay(tmp_path, box, reason):
    organs, (reject,) = gather(tmp_path, "boxes:xywh={organs}", fields={"organs": {"lung left": box, "heart": [5, 5, 9, 9]}})
    assert list(organs) == ["heart"]
    assert (reject.index, reject.reason) == ("images[4].organs[lung left]", reason)


def test_boxes_for_a_picture_of_another_size_are_refused(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(coco_boxes(width=80, height=60)))
    organs, rejects = gather(tmp_path, "boxes:xywh=b.json")
    assert not organs
    assert {reject.reason for reject in rejects} == {"organ_box_size"}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("labels=a.png", "say which class map"),
        ("labels:=a.png", "say which class map"),
        ("labels:nope=a.png", "give totalsegmentator"),
        ("labels:totalsegmentator=", "no path behind"),
        ("labels:totalsegmentator={organ}.png", "take {organ} out"),
        ("boxes=b.json", "boxes:xywh=b.json"),
        ("boxes:corners=b.json", "boxes:xywh=b.json"),
        ("liver", "give NAME=TEMPLATE"),
    ],
)
def test_a_declaration_of_no_known_form_is_refused(spec, says):
    with pytest.raises(ValueError, match=says):
        read_spec(spec)


def test_declarations_pass_through_a_real_source(tmp_path):
    save(tmp_path / "images" / "a.png", np.full((HEIGHT, WIDTH), 90, np.uint8))
    save(tmp_path / "labels" / "a.png", LABELS)
    entry = {"id": 1, "file_name": "a.png", "lungs": CORNERS}
    content = {"images": [entry], "annotations": [], "categories": [{"id": 1, "name": "cyst"}]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    specs = ("labels:totalsegmentator=labels/{stem}.png", "boxes:xyxy={lungs}")
    image = CocoSource(tmp_path / "c.json", tmp_path / "images", SourceOptions(name="x", organs=specs)).read(0)
    assert sorted(image.organs) == ["kidney left", "kidney right", "liver", "lung left", "lung right"]
    assert {name for name, mask in image.organs.items() if is_box(mask)} == {"lung left", "lung right"}
    assert not image.rejects


def test_real_lung_boxes_name_the_lungs_and_their_sides():
    folder = SHARED / "covid_cxr_lungs"
    if not folder.exists():
        pytest.skip(f"needs {folder.name} in shared data")
    options = SourceOptions(
        name="covid",
        modality="DX",
        plane="frontal",
        patient_directions="L\\F",
        organs=("boxes:xywh=lung_boxes_coco.json",),
        aliases={"Left Lung": "lung opacity", "Right Lung": "lung opacity"},  # an organ does not host itself
        max_pixels=2_000_000,
    )
    source = CocoSource(folder / "lung_boxes_coco.json", folder / "images", options)
    for index in range(0, 150, 10):
        linked = link(source.read(index), seed=0)
        assert len(linked.annotations) == 2
        for each in linked.annotations:
            assert (each.organ, each.organ_relation) == ("lung", "projects_over")
            assert each.facts["side"] == each.source.class_source.split()[0].lower()
            assert each.facts["host_box"]
