"""TBX11K: what its folders and classes settle, on a COCO file made here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from medclm.corpus.sources.tbx11k import Tbx11kSource
from medclm.types import Box
from tests.source_files import HEIGHT, WIDTH, options, picture, reasons, refusal

BOTH = ("active tuberculosis", "obsolete pulmonary tuberculosis")
NAMES = ("tb/tb0003.png", "health/h0001.png", "sick/s0001.png", "tb/tb1199.png", "extra/m1.png", "test/t1.png")


def tbx(root: Path, *annotations: dict[str, Any], name: str = "TBX11K_train.json", **declared: Any) -> Tbx11kSource:
    for one in NAMES:
        picture(root / "imgs" / one)
    names = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    tree = {
        "images": [{"id": place, "file_name": one, "width": WIDTH, "height": HEIGHT} for place, one in enumerate(NAMES)],
        "categories": [{"id": place, "name": one} for place, one in enumerate(names, 1)],
        "annotations": list(annotations),
    }
    (root / name).write_text(json.dumps(tree))
    return Tbx11kSource(root / name, root / "imgs", options(**declared))


def box(image: int = 0, category: int = 1, bbox: Any = (5, 6, 7, 8)) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(bbox)}


def test_folders_settle_both_classes(tmp_path: Path) -> None:
    source = tbx(tmp_path, box())
    ill = source.read(0)
    assert [(one.lesion_class, one.box_px) for one in ill.annotations] == [("active tuberculosis", Box(5, 6, 12, 14))]
    assert (ill.label_scope, ill.official_split, ill.modality, ill.plane) == (BOTH, "train", "DX", None)
    assert ill.image_labels == {"active tuberculosis": "present", "obsolete pulmonary tuberculosis": "absent"}
    for place in (1, 2):
        free = source.read(place)
        assert (free.annotations, free.label_scope) == ((), BOTH)
        assert set(free.image_labels.values()) == {"absent"}
        assert "no finding" not in free.image_labels


def test_pictures_that_settle_nothing(tmp_path: Path) -> None:
    source = tbx(tmp_path, box())
    for place in (3, 4):  # tuberculosis without a box; another collection
        image = source.read(place)
        assert (image.label_scope, set(image.image_labels.values())) == ((), {"uncertain"})
    assert refusal(source, 5).reason == "image_unlabelled"


def test_tuberculosis_of_unknown_activity_gives_no_question(tmp_path: Path) -> None:
    image = tbx(tmp_path, box(category=3), box(bbox=(20, 6, 7, 8))).read(0)
    assert reasons(image) == ["class_uncertain"]
    assert [one.lesion_class for one in image.annotations] == ["active tuberculosis"]
    assert image.label_scope == ()
    assert image.image_labels["obsolete pulmonary tuberculosis"] == "uncertain"


def test_a_box_on_a_healthy_picture_and_a_refused_one_are_in_doubt(tmp_path: Path) -> None:
    source = tbx(tmp_path, box(image=1), box(image=0, category=2, bbox=(1, 1, 0, 0)), box())
    assert source.read(1).label_scope == ()
    assert source.read(0).label_scope == ("active tuberculosis",)


def test_coordinates_of_the_originals_are_refused_by_size(tmp_path: Path) -> None:
    picture(tmp_path / "imgs" / "tb" / "tb0003.png", 8, 8)
    source = tbx(tmp_path, box(), name="TBX11K_val.json")
    picture(tmp_path / "imgs" / "tb" / "tb0003.png", 8, 8)
    assert refusal(source, 0).reason == "size_mismatch"
    assert source.read(1).official_split == "val"
    assert pickle.loads(pickle.dumps(source)).read(1).label_scope == BOTH


def test_other_files_are_named(tmp_path: Path) -> None:
    assert tbx(tmp_path, box(), name="mine.json").read(0).official_split is None
    with pytest.raises(ValueError, match="did you mean active tuberculosis"):
        tbx(tmp_path, box(), exhaustive=("active tuberculosi",))
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="not COCO"):
        Tbx11kSource(tmp_path / "x.json", tmp_path, options())
