"""The published detection input: paths, boxes and masks as it writes them, and each fault by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medclm.corpus.sources.registry import open_source
from tests.source_files import half, mask_file, options, picture, reasons, refusal


def written(root: Path, entries: object) -> Path:
    path = root / "detection.json"
    path.write_text(json.dumps(entries))
    return path


def entry(name: str = "images/a.png", **changes: object) -> dict[str, object]:
    return {"image_path": name, "annotations": [{"bbox": [5, 6, 12, 14], "class": "Nodule"}], **changes}


def test_boxes_are_corners_as_lists_or_strings_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture(tmp_path / "images" / "a.png")
    boxes = [{"bbox": [5, 6, 12, 14], "class": "Nodule"}, {"bbox": "[1, 2, 3, 4]", "class": "mass"}]
    source = open_source("detection_json", written(tmp_path, [entry(annotations=boxes)]), None, options())
    image = source.read(0)
    assert [(one.lesion_class, tuple(one.box_px)) for one in image.annotations] == [
        ("nodule", (5, 6, 12, 14)),
        ("mass", (1, 2, 3, 4)),
    ]
    assert image.key == "images/a.png"
    assert image.label_scope == ()


def test_anatomy_is_a_folder_of_masks_named_by_their_organ(tmp_path: Path) -> None:
    for folder in ("images", "anatomy/a"):
        (tmp_path / folder).mkdir(parents=True)
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    mask_file(tmp_path / "anatomy" / "a" / "lung_left.png", half())
    entries = [entry(anatomy_path="anatomy/a"), entry("images/b.png", anatomy_path="anatomy/b"), entry("images/b.png")]
    source = open_source("detection_json", written(tmp_path, entries), tmp_path, options())
    organs = source.read(0).organs
    assert organs.keys() == {"lung left"}
    assert np.array_equal(organs["lung left"] != 0, half() != 0)
    assert reasons(source.read(1)) == ["organ_mask_missing"]
    assert reasons(source.read(2)) == ["organ_field_missing"]


def test_faults_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture(tmp_path / "images" / "a.png")
    boxes = [{"bbox": [5, 6, 5, 14], "class": "a"}, {"bbox": [1, 2], "class": "a"}, {"bbox": [1, 2, 9, 9]}, 7]
    entries = [entry(annotations=boxes), "text", entry("../a.png"), entry("b.png"), {"image_path": "images/a.png"}]
    source = open_source("detection_json", written(tmp_path, entries), None, options(exhaustive=("a",)))
    assert reasons(source.read(0)) == ["box_zero_area", "box_unreadable", "class_missing", "class_missing"]
    assert refusal(source, 1).reason == "image_entry_unreadable"
    assert refusal(source, 2).reason == "path_outside_root"
    assert refusal(source, 3).reason == "image_missing"
    assert "annotations lost with it: 1" in refusal(source, 3).detail
    assert source.read(4).label_scope == ()  # no list of annotations: nobody said that there are none


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("{}", "expected a list")])
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_source("detection_json", tmp_path / "x.json", None, options())
    with pytest.raises(ValueError, match=r"--exhaustive mas is no class of this dataset: did you mean mass"):
        open_source(
            "detection_json",
            written(tmp_path, [entry(annotations=[{"bbox": [1, 2, 9, 9], "class": "mass"}])]),
            None,
            options(exhaustive=("mas",)),
        )
