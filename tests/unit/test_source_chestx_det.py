"""ChestX-Det: one test per habit on records made here, and the real file by its counts."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.chestx_det import CLASSES, ChestXDetSource
from medclm.corpus.sources.shapes import mask_extent
from medclm.types import Box
from tests.source_files import options, picture, real, reasons, refusal

RING = [[100, 200], [300, 200], [300, 400], [100, 400]]


def record(*lesions: tuple[Any, Any, Any], name: Any = "a.png") -> dict[str, Any]:
    syms, boxes, polygons = ([one[part] for one in lesions] for part in range(3))
    return {"file_name": name, "syms": syms, "boxes": boxes, "polygons": polygons}


def chestx(root: Path, *records: Any, name: str = "ChestX_Det_train.json", **declared: Any) -> ChestXDetSource:
    if not (root / "images").exists():
        picture(root / "images" / "a.png", 1024, 1024)
    (root / name).write_text(json.dumps(list(records)))
    return ChestXDetSource(root / name, root / "images", options(**declared))


def test_boxes_with_polygons_and_thirteen_settled_classes(tmp_path: Path) -> None:
    source = chestx(tmp_path, record(("Nodule", [100, 200, 300, 400], RING), ("Effusion", [5, 6, 50, 60], [])))
    image = source.read(0)
    first, second = image.annotations
    expected = np.zeros((1024, 1024), dtype=bool)
    expected[200:400, 100:300] = True
    assert (first.lesion_class, first.box_px) == ("nodule", Box(100, 200, 300, 400))
    np.testing.assert_array_equal(first.mask, expected)
    assert (second.lesion_class, second.class_source, second.mask) == ("pleural effusion", "Effusion", None)
    assert len(image.label_scope) == len(CLASSES) == 13
    assert Counter(image.image_labels.values()) == {"absent": 11, "present": 2}
    assert "no finding" not in image.image_labels
    assert (image.official_split, image.origin, image.patient, image.modality) == ("train", None, None, "DX")


def test_an_empty_record_says_that_none_of_the_classes_is_there(tmp_path: Path) -> None:
    image = chestx(tmp_path, record(), name="ChestX_Det_test.json").read(0)
    assert (image.annotations, len(image.label_scope), image.official_split) == ((), 13, "test")
    assert chestx(tmp_path, record(), name="mine.json").read(0).official_split is None


def test_a_nodule_is_in_doubt_beside_diffuse_nodules(tmp_path: Path) -> None:
    image = chestx(tmp_path, record(("Diffuse Nodule", [100, 200, 300, 400], RING))).read(0)
    assert image.image_labels["nodule"] == "uncertain"
    assert "nodule" not in image.label_scope
    assert "diffuse nodule" in image.label_scope


@pytest.mark.parametrize(
    ("lesion", "reason"),
    [
        (("Mass", [100, 200, 100, 400], RING), "box_zero_area"),
        (("Mass", [100, 200, 300], RING), "box_unreadable"),
        (("Mass", {"x": 1}, RING), "box_unreadable"),
        (("Mass", [2000, 200, 2100, 400], []), "box_outside"),
        ((None, [100, 200, 300, 400], RING), "class_missing"),
        (("Mass", [100, 200, 300, 400], [[1, 2], [3, 4]]), "mask_unreadable"),
        (("Mass", [100, 200, 300, 400], [[1, 2], [3, 4], [5]]), "mask_unreadable"),
        (("Mass", [100, 200, 300, 400], [[1, 2], [3, 4], [5, "6"]]), "mask_unreadable"),
        (("Mass", [100, 200, 300, 400], [[1, 2], [3, 4], [5, 10**400]]), "mask_unreadable"),
        (("Mass", [100, 200, 300, 400], "ring"), "mask_unreadable"),
        (("Mass", [600, 600, 700, 700], RING), "mask_outside_box"),
    ],
)
def test_a_bad_lesion_is_named_and_its_class_in_doubt(tmp_path: Path, lesion: tuple[Any, Any, Any], reason: str) -> None:
    image = chestx(tmp_path, record(("Nodule", [100, 200, 300, 400], RING), lesion)).read(0)
    assert [(reject.index, reject.reason) for reject in image.rejects] == [("images[0].annotations[1]", reason)]
    assert len(image.annotations) == 1
    assert "mass" not in image.label_scope


def test_faulty_records_are_named_one_by_one(tmp_path: Path) -> None:
    broken = record(("Mass", [100, 200, 300, 400], RING)) | {"syms": []}
    source = chestx(
        tmp_path, record(), "text", {"syms": []}, broken | {"name": 1}, record(name="b.png"), record(name="../a.png"), record()
    )
    source.read(0)
    assert [refusal(source, place).reason for place in range(1, 7)] == [
        "image_entry_unreadable",
        "image_entry_unreadable",
        "image_entry_unreadable",
        "image_missing",
        "path_outside_root",
        "duplicate_image_file",
    ]
    assert "syms, boxes and polygons are 0, 1, 1" in refusal(source, 3).detail
    picture(tmp_path / "images" / "a.png", 256, 256)
    assert refusal(chestx(tmp_path, record())).reason == "size_mismatch"


def test_whole_file_faults_and_workers(tmp_path: Path) -> None:
    for text in ("{}", "[]", "[1]", '[{"file_name": "a"}]'):
        (tmp_path / "f.json").write_text(text)
        with pytest.raises(ValueError, match=r"f\.json: not ChestX-Det"):
            ChestXDetSource(tmp_path / "f.json", tmp_path, options())
    with pytest.raises(ValueError, match="did you mean pneumothorax"):
        chestx(tmp_path, record(), exhaustive=("pneumotorax",))
    source = chestx(tmp_path, record(("Nodule", [100, 200, 300, 400], RING)))
    assert pickle.loads(pickle.dumps(source)).read(0).annotations[0].box_px == source.read(0).annotations[0].box_px


def test_the_real_file_without_its_pictures(tmp_path: Path) -> None:
    source = ChestXDetSource(real("chestx_det_annotations") / "ChestX_Det_train.json", tmp_path, options())
    assert len(source) == 3025
    lost: Counter[str] = Counter()
    boxes = 0
    for index in range(len(source)):
        with pytest.raises(RejectedImage) as caught:
            source.read(index)
        lost[caught.value.reason] += 1
        boxes += source.count(index)
    assert lost == {"image_missing": 3025}
    assert boxes == 7905


def test_real_records_on_pictures_made_here(tmp_path: Path) -> None:
    file = real("chestx_det_annotations") / "ChestX_Det_train.json"
    records = json.loads(file.read_text())
    places = [place for place, one in enumerate(records) if one["syms"]][:12]
    for place in places:
        picture(tmp_path / records[place]["file_name"], 1024, 1024)
    source = ChestXDetSource(file, tmp_path, options())
    for place in places:
        image = source.read(place)
        assert reasons(image) == []
        for one in image.annotations:
            assert one.mask is not None
            np.testing.assert_allclose(
                mask_extent(one.mask), one.box_px, atol=7
            )  # drawn by hand, box and ring differ by up to 6
