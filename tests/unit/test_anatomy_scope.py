"""A class in doubt gives no negative, no count and no control, from a real source down to the facts of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.anatomy import exhaustive_scope, link
from medclm.corpus.contract import LinkedImage, Reject, SourceImage, WriteRequest
from medclm.corpus.rationale import image_facts
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.writers.template import TemplateWriter
from tests.drawn_anatomy import ABDOMEN, disc, image, lesion

CLASSES = ("nodule", "cyst", "mass")
REFUSED = Reject("images[0].annotations[3]", "box_zero_area", "")


def read(root: Path, boxes: list[tuple[str, list[float]]], **changes: Any) -> SourceImage:
    """One picture of a COCO file in which every class is declared exhaustive."""
    (root / "images").mkdir(exist_ok=True)
    Image.fromarray(np.full((96, 96), 90, np.uint8)).save(root / "images" / "a.png")
    numbers = {name: number for number, name in enumerate(CLASSES, start=1)}
    annotations = [
        {"id": n, "image_id": 1, "category_id": numbers.get(name, 99), "bbox": box} for n, (name, box) in enumerate(boxes)
    ]
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": annotations, "categories": categories}
    (root / "c.json").write_text(json.dumps(content))
    options = SourceOptions(name="x", modality="CT", plane="axial", exhaustive=CLASSES, **changes)
    return CocoSource(root / "c.json", root / "images", options).read(0)


def speaks_of(linked: LinkedImage) -> set[str]:
    """Every class of which something exhaustive is said: absent, counted, or absent in a control box."""
    facts = image_facts(linked)
    counted = {each.facts["label"] for each in linked.annotations if "count" in each.facts}
    controls = {each.source.lesion_class for each in linked.annotations if each.box_role == "control"}
    return {*facts["absent"], *facts["count"], *counted, *controls}


GOOD, EMPTY = ("nodule", [10.0, 10, 20, 20]), [40.0, 40, 0, 9]


@pytest.mark.parametrize(
    ("boxes", "known"),
    [
        ([GOOD], {"nodule", "cyst", "mass"}),
        ([GOOD, ("cyst", EMPTY)], {"nodule", "mass"}),
        ([GOOD, ("nodule", EMPTY)], {"cyst", "mass"}),
        ([GOOD, ("nodule", EMPTY), ("cyst", EMPTY)], {"mass"}),
        ([GOOD, ("unheard of", EMPTY)], set()),  # it might be any of them
        ([GOOD, ("cyst", [90.0, 90, 50, 50])], {"nodule", "mass"}),
    ],
)
def test_a_refused_box_closes_its_class_and_no_other(tmp_path, boxes, known):
    image_read = read(tmp_path, boxes)
    assert len(image_read.rejects) == len(boxes) - 1
    assert all(".annotations[" in reject.index for reject in image_read.rejects)
    linked = link(image_read, seed=0)
    assert speaks_of(linked) == known
    drafts = TemplateWriter(max_per_image=30).write([WriteRequest(linked, seed=1)])[0][0]
    asked = {
        draft.domain.partition(" / ")[0]
        for draft in drafts
        if draft.question_kind == "count" or any(claim["fact"] in ("absent", "count") for claim in draft.claims)
    }
    assert asked <= known


def test_an_organ_that_could_not_be_read_closes_nothing(tmp_path):
    image_read = read(tmp_path, [GOOD], organs=("liver=absent.png",))
    assert [reject.index for reject in image_read.rejects] == ["images[0].organs[liver]"]
    assert speaks_of(link(image_read, seed=0)) == set(CLASSES)


def test_a_source_that_does_not_close_its_scope_is_not_trusted():
    """The rule is the source's; where something was refused, linking believes only classes that a label speaks of."""
    spot = lesion(disc(30, 40, 5), "nodule")
    given = {"organs": ABDOMEN, "label_scope": CLASSES}
    assert speaks_of(link(image(spot, **given), seed=0)) == set(CLASSES)
    assert speaks_of(link(image(spot, rejects=(REFUSED,), **given), seed=0)) == set()
    labels = {"nodule": "present", "cyst": "absent", "mass": "uncertain"}
    labelled = image(spot, rejects=(REFUSED,), image_labels=labels, **given)
    assert exhaustive_scope(labelled) == ("nodule", "cyst")
    assert speaks_of(link(labelled, seed=0)) == {"nodule", "cyst"}


@pytest.mark.parametrize("label", ["uncertain", "not assessed"])
def test_a_label_in_doubt_is_never_in_scope(label):
    spots = [lesion(disc(30, 40, 5), "nodule"), lesion(disc(70, 40, 5), "cyst", 1)]
    made = image(*spots, organs=ABDOMEN, label_scope=CLASSES, image_labels={"nodule": label, "mass": label})
    assert exhaustive_scope(made) == ("cyst",)
    assert speaks_of(link(made, seed=0)) == {"cyst"}


def test_what_linking_refuses_closes_the_whole_scope():
    swapped = {"kidney right": ABDOMEN["kidney left"], "kidney left": ABDOMEN["kidney right"]}
    linked = link(image(lesion(disc(28, 72, 4), "nodule"), organs=swapped, label_scope=CLASSES), seed=0)
    assert [reject.reason for reject in linked.rejects] == ["side_disagrees"]
    assert speaks_of(linked) == set()
