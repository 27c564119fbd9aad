"""COCO out, and back by a build: boxes, classes, masks, patients, splits and lesions in space are the same."""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from medclm.corpus.build import BuildOptions, build
from medclm.corpus.exchange.coco import export_coco
from medclm.corpus.exchange.exporting import ExportOptions
from medclm.corpus.ids import Ids, phantom_ids
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus

TAKE_BACK = SourceOptions(
    name="back", patient_field="patient", split_field="split", technique_field="technique", lesion_3d_field="lesion_3d"
)
FIELDS = ["image_row", "lesion_class", "box_xyxy_unit", "box_role", "mask_rle", "lesion_3d"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("phantoms") / "corpus"
    build(PhantomSource(count=24, size=64), TemplateWriter(), out, BuildOptions(ids=phantom_ids(0), progress=False))
    return Corpus(out)


@pytest.fixture(scope="module")
def exported(phantoms: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coco") / "out"
    export_coco(phantoms, ExportOptions(out, progress=False))
    return out


def tables(corpus: Corpus) -> tuple[dict[bytes, dict[str, Any]], dict[bytes, list[dict[str, Any]]]]:
    """By pixels of the picture: what its row says, and its lesions."""
    pixels = [np.asarray(corpus.picture(row)).tobytes() for row in range(corpus.count("images"))]
    images = {key: corpus.row("images", row, ["patient", "technique"]) for row, key in enumerate(pixels)}
    lesions: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for row in range(corpus.count("annotations")):
        found = corpus.row("annotations", row, FIELDS)
        if found["box_role"] == "lesion":
            lesions[pixels[found.pop("image_row")]].append(found)
    for split in ("train", "val", "test"):
        for first, n in corpus.record_files(split):
            for record in range(first, first + n):
                images[pixels[corpus.row("records", record)["image_row"]]]["split"] = split
    return images, lesions


def groups(keys: Iterable[tuple[Any, Any]]) -> set[frozenset[Any]]:
    """(thing, its group) -> the groups, whatever they are called."""
    found: dict[Any, set[Any]] = defaultdict(set)
    for thing, group in keys:
        found[group].add(thing)
    return {frozenset(things) for things in found.values()}


def test_a_build_takes_the_same_lesions_back(phantoms: Corpus, exported: Path, tmp_path: Path) -> None:
    options = BuildOptions(ids=Ids(b"another key, 16 bytes"), progress=False)
    build(CocoSource(exported / "coco.json", exported / "images", TAKE_BACK), TemplateWriter(), tmp_path / "back", options)
    images, lesions = tables(phantoms)
    images_back, lesions_back = tables(Corpus(tmp_path / "back"))
    assert images_back.keys() <= images.keys()
    assert sum(map(len, lesions_back.values())) == sum(map(len, lesions.values())) > 20
    for key, found in lesions_back.items():
        assert [(one["lesion_class"], one["box_xyxy_unit"], one["mask_rle"]) for one in found] == [
            (one["lesion_class"], one["box_xyxy_unit"], one["mask_rle"]) for one in lesions[key]
        ]
    assert any(one["mask_rle"] for some in lesions_back.values() for one in some)
    for key, image in images_back.items():
        assert (image["technique"], image.get("split")) == (images[key]["technique"], images[key].get("split"))
    patients = groups((key, images[key]["patient"]) for key in images_back)
    assert patients == groups((key, image["patient"]) for key, image in images_back.items())
    assert any(len(group) > 1 for group in patients)
    in_space = [
        groups(
            ((key, one["lesion_class"], tuple(one["box_xyxy_unit"])), one["lesion_3d"])
            for key in lesions_back
            for one in some[key]
        )
        for some in (lesions, lesions_back)
    ]
    assert in_space[0] == in_space[1]


def test_every_image_is_there_and_the_official_reader_agrees(phantoms: Corpus, exported: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(exported / "coco.json"))
    assert len(coco.imgs) == phantoms.count("images")
    lesions = [
        row for k in range(phantoms.count("annotations")) if (row := phantoms.row("annotations", k))["box_role"] == "lesion"
    ]
    assert len(coco.anns) == len(lesions) < phantoms.count("annotations")  # control boxes are no annotations
    assert {one["name"] for one in coco.cats.values()} == {lesion["lesion_class"] for lesion in lesions}
    for annotation in coco.anns.values():
        stored = phantoms.row("annotations", annotation["id"])
        image = coco.imgs[annotation["image_id"]]
        assert Image.open(exported / "images" / image["file_name"]).size == (image["width"], image["height"])
        x, y, width, height = annotation["bbox"]
        box = np.array([x, y, x + width, y + height]) / ([image["width"], image["height"]] * 2)
        assert np.float32(box).tolist() == stored["box_xyxy_unit"]
        if stored["mask_rle"]:
            assert np.array_equal(coco.annToMask(annotation), coco_mask.decode(json.loads(stored["mask_rle"])))
            assert annotation["area"] == coco.annToMask(annotation).sum()
        assert (annotation["organ"], annotation["organ_relation"]) == (stored["organ"], stored["organ_relation"])
        assert coco.cats[annotation["category_id"]]["name"] == stored["lesion_class"]


def test_notice_and_licence_stand_in_the_file(exported: Path) -> None:
    tree = json.loads((exported / "coco.json").read_text())
    assert tree["info"]["description"] == "Research use only, not a medical device."
    assert any(line.startswith("Source phantoms: ") for line in tree["info"]["licence"])
    names = {one["id"]: one["name"] for one in tree["licenses"]}
    assert all(image["license"] in names for image in tree["images"])
    assert "Research use only" in (exported / "images" / "NOTICE.txt").read_text()


def test_only_the_asked_splits_are_written(phantoms: Corpus, tmp_path: Path) -> None:
    counts = export_coco(phantoms, ExportOptions(tmp_path / "out", splits=["test"], progress=False))
    tree = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert {image["split"] for image in tree["images"]} == {"test"}
    assert counts["images"] == len(tree["images"]) == len(list((tmp_path / "out" / "images").glob("*.png")))
    shown = {image["id"] for image in tree["images"]}
    assert all(annotation["image_id"] in shown for annotation in tree["annotations"])


def test_pictures_of_any_shape_keep_their_boxes_and_what_is_unknown_is_null(tmp_path: Path) -> None:
    corpus = Corpus(write_small_corpus(tmp_path / "small", 12))
    export_coco(corpus, ExportOptions(tmp_path / "out", progress=False))
    tree = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert {(image["width"], image["height"]) for image in tree["images"]} == {(96, 64), (64, 64), (60, 120)}
    assert {image["modality"] for image in tree["images"]} == {None}
    assert [one["segmentation"] for one in tree["annotations"]] == [[]] * 24
    declared = SourceOptions(name="back", patient_field="patient")
    source = CocoSource(tmp_path / "out" / "coco.json", tmp_path / "out" / "images", declared)
    for index, image in enumerate(tree["images"]):
        read = source.read(index)
        boxes = [one.box_px.scaled(1 / image["width"], 1 / image["height"]) for one in read.annotations]
        stored = [corpus.row("annotations", 2 * image["id"] + k)["box_xyxy_unit"] for k in range(2)]
        assert np.float32(boxes).tolist() == stored
        assert read.patient == f"p{image['id']}"
