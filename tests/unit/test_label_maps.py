"""Pictures with label maps as pictures: parts, names, organs, what closes a scope; and the real slices against their boxes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.label_pictures import LabelPictureSource
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.types import Box

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "brats_mri_slices"


def saved(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def made(folder: Path, labels: np.ndarray, ending: str = ".png", **declared: Any) -> LabelPictureSource:
    saved(folder / "labels" / f"a{ending}", labels)
    height, width = labels.shape[:2]
    saved(folder / "images" / "a.png", np.full((height, width), 99, np.uint8))
    names = folder / "names.json"
    names.write_text(json.dumps({"1": "polyp", "2": "ulcer", "3": "stomach", "4": "polyp"}))
    options: dict[str, Any] = {"classes": names, "lesions": ("polyp", "ulcer"), **declared}
    return LabelPictureSource(folder / "labels", folder / "images", SourceOptions(name="made", **options))


def drawn(*blocks: tuple[int, int, int, int, int]) -> np.ndarray:
    """(value, x0, x1, y0, y1) on 40 x 30."""
    labels = np.zeros((30, 40), np.uint8)
    for value, x0, x1, y0, y1 in blocks:
        labels[y0:y1, x0:x1] = value
    return labels


def flood(mask: np.ndarray) -> list[Box]:
    """Boxes of the parts of a mask over 8 neighbours, pixel by pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    boxes = []
    while left:
        heap = [left.pop()]
        part = set(heap)
        while heap:
            y, x = heap.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            part |= near
            heap += near
        if len(part) >= 4:
            ys, xs = [y for y, _ in part], [x for _, x in part]
            boxes.append(Box(min(xs), min(ys), max(xs) + 1.0, max(ys) + 1.0))
    return boxes


def test_parts_are_lesions_and_other_classes_organs(tmp_path: Path) -> None:
    labels = drawn((3, 5, 35, 5, 25), (1, 8, 14, 8, 12), (4, 14, 18, 12, 16), (2, 25, 30, 10, 20))
    image = made(tmp_path, labels).read(0)
    found = [(one.lesion_class, one.box_px) for one in image.annotations]
    assert found == [("polyp", Box(8, 8, 18, 16)), ("ulcer", Box(25, 10, 30, 20))], "1 and 4 are polyps that touch at a corner"
    assert image.annotations[0].mask is not None
    np.testing.assert_array_equal(image.annotations[0].mask, (labels == 1) | (labels == 4))
    np.testing.assert_array_equal(image.organs["stomach"], labels == 3)


def test_parts_are_those_of_a_flood_fill() -> None:
    from medclm.corpus.volumes.labels import components, name_labels

    for seed in range(20):
        mask = np.random.default_rng(seed).random((20, 25)) > 0.75
        parts = [part for part in components(name_labels(mask, {1: "x"}), 0) if part.size >= 4]
        boxes = [Box(part.place[1].start, part.place[0].start, part.place[1].stop, part.place[0].stop) for part in parts]
        assert sorted(boxes) == sorted(flood(mask))


def test_a_picture_with_an_empty_map_is_a_negative_for_exhaustive_classes_alone(tmp_path: Path) -> None:
    image = made(tmp_path, drawn(), exhaustive=("polyp",)).read(0)
    assert (image.annotations, image.label_scope, image.image_labels) == ((), ("polyp",), {"polyp": "absent"})


def test_specks_and_values_without_a_name_are_refused_and_close_the_scope(tmp_path: Path) -> None:
    image = made(tmp_path / "speck", drawn((1, 3, 4, 3, 4), (2, 8, 14, 8, 12)), exhaustive=("polyp", "ulcer")).read(0)
    assert [reject.reason for reject in image.rejects] == ["lesion_too_small"]
    assert image.label_scope == ("ulcer",)
    image = made(tmp_path / "value", drawn((9, 3, 9, 3, 9), (2, 12, 18, 8, 12)), exhaustive=("polyp", "ulcer")).read(0)
    assert [reject.reason for reject in image.rejects] == ["label_value_unknown"]
    assert image.label_scope == ()


@pytest.mark.parametrize("form", ["palette", "16 bit", "1 bit", "0 and 255", ".tif", ".bmp"])
def test_a_mask_of_one_class_is_read_in_every_form(tmp_path: Path, form: str) -> None:
    mask = drawn((1, 8, 14, 8, 12)) > 0
    values: np.ndarray = {"16 bit": mask.astype(np.uint16) * 700, "1 bit": mask}.get(form, mask.astype(np.uint8) * 255)
    source = made(tmp_path, values, form if form.startswith(".") else ".png", classes=None, lesions=("polyp",))
    if form == "palette":
        picture = Image.fromarray(mask.astype(np.uint8)).convert("P")
        picture.putpalette([0, 0, 0, 10, 200, 10])
        picture.save(tmp_path / "labels" / "a.png")
    (polyp,) = source.read(0).annotations
    assert (polyp.lesion_class, polyp.box_px) == ("polyp", Box(8, 8, 14, 12))


@pytest.mark.parametrize(
    ("values", "ending", "reason"),
    [
        (np.zeros((30, 40, 3), np.uint8), ".png", "label_map_mode"),
        (np.zeros((30, 40), np.uint8), ".jpg", "label_map_lossy"),
        (np.arange(1200, dtype=np.uint16).reshape(30, 40), ".png", "label_map_values"),
    ],
)
def test_what_is_no_label_map_is_named(tmp_path: Path, values: np.ndarray, ending: str, reason: str) -> None:
    with pytest.raises(RejectedImage) as caught:
        made(tmp_path, values, ending).read(0)
    assert caught.value.reason == reason


def test_a_broken_label_map_or_one_of_another_size_is_named_with_its_loss(tmp_path: Path) -> None:
    source = made(tmp_path, drawn((1, 8, 14, 8, 12)))
    saved(tmp_path / "images" / "a.png", np.full((30, 41), 9, np.uint8))
    with pytest.raises(RejectedImage, match=r"size_mismatch.*lost with it: 1"):
        source.read(0)
    (tmp_path / "labels" / "a.png").write_bytes(b"no picture")
    again: LabelPictureSource = pickle.loads(pickle.dumps(source))
    with pytest.raises(RejectedImage, match="label_map_unreadable"):
        again.read(0)


def test_pictures_without_a_label_map_are_unlabelled(tmp_path: Path) -> None:
    saved(tmp_path / "images" / "b.png", np.zeros((5, 5), np.uint8))
    source = made(tmp_path, drawn((1, 8, 14, 8, 12)))
    assert [(one.reason, one.index) for one in source.rejects] == [("no_label_map", "images_found[1]")]
    assert len(source) == 1


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"lesions": ("polip",)}, "did you mean polyp"),
        ({"exhaustive": ("stomach",)}, "is no class"),
        ({"classes": None}, "give --classes"),
        ({"classes": Path("none.json")}, "none.json"),
    ],
)
def test_mistakes_of_the_user_are_told(tmp_path: Path, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, drawn(), **declared)


def test_real_tumours_have_the_boxes_that_were_derived_from_them(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("needs the real data folder brats_mri_slices beside the project")
    tree = json.loads((REAL / "boxes_coco.json").read_text())
    names = tmp_path / "names.json"
    names.write_text(json.dumps(dict.fromkeys("1234", "whole tumor")))
    declared = SourceOptions(name="brats", modality="MR", plane="axial", classes=names, exhaustive=("whole tumor",))
    source = open_source("label_maps", REAL / "labels", REAL / "images" / "{stem}_flair.png", declared)
    assert len(source) == len(list((REAL / "labels").iterdir()))
    whole = next(one["id"] for one in tree["categories"] if one["name"] == "whole_tumor")
    files = {one["id"]: Path(one["file_name"]).name for one in tree["images"]}
    stated: dict[str, set[tuple[float, ...]]] = {}
    for one in tree["annotations"]:
        if one["category_id"] == whole:
            stated.setdefault(files[one["image_id"]], set()).add(tuple(map(float, one["bbox"])))
    compared = negatives = 0
    for index in range(len(source)):
        image = source.read(index)
        large = [one.box_px for one in image.annotations if one.mask is not None and np.count_nonzero(one.mask) >= 20]
        found = {(box.x0, box.y0, box.width, box.height) for box in large}
        assert found == stated.get(Path(image.key).name, set())
        compared += len(found)
        negatives += image.image_labels == {"whole tumor": "absent"}
    assert compared == sum(len(boxes) for name, boxes in stated.items() if name.endswith("_flair.png"))
    assert negatives == 12
