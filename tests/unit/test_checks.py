"""Each check on one text that must fail for exactly its reason, and on its near neighbour that must pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medclm.corpus.anatomy import link
from medclm.corpus.checks import check_draft
from medclm.corpus.contract import Draft, LinkedImage, SourceAnnotation, SourceImage, StageText
from medclm.types import Box

Y, X = np.mgrid[:90, :90]
ORGANS = {"liver": (X < 45) & (Y < 55), "kidney right": (X < 40) & (Y > 60), "kidney left": (X > 50) & (Y > 60)}


def linked_image(**changes) -> LinkedImage:
    given = {
        "index": "images[4]",
        "key": "k",
        "pixels": np.full((90, 90), 99, np.uint8),
        "source": "test",
        "licence": "none",
        "shareable": True,
        "annotations": (SourceAnnotation("annotations[0]", "cyst", "cyst", Box(60, 65, 72, 77)),),
        "organs": ORGANS,
        "modality": "CT",
        "plane": "axial",
        "patient_directions": "L\\P",
        "label_scope": ("cyst",),
    }
    return link(SourceImage(**given | changes), seed=0)


QUESTION = {"easy": "What is shown in the {color} box?", "medium": "What does this image show?"}
RATIONALE = "<box:0> lies in the anterior part of the left kidney: a cyst."


def draft(stage: str = "medium", *, annotations=(0,), closed: bool = False, **texts) -> Draft:
    given = {
        "question": QUESTION.get(stage, QUESTION["medium"]),
        "rationale": "" if stage == "lend" else RATIONALE,
        "answer": "cyst",
    } | texts
    text = StageText(**given, answers=texts.get("answers", (given["answer"],)), answer_type="closed" if closed else "open")
    stages = {"easy": None, "medium": None, "lend": None} | {stage: text}
    return Draft("what", "cyst / CT", annotations, stages["easy"], stages["medium"], stages["lend"], (), "test")


@pytest.mark.parametrize("stage", ["easy", "medium", "lend"])
def test_a_sound_draft_passes(stage):
    assert check_draft(draft(stage), linked_image()) == []


def said(text: str) -> str:
    return f"{RATIONALE[:-1]}, {text}."


@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("empty", {"question": "  "}),
        ("empty", {"rationale": " "}),
        ("empty", {"answer": ""}),
        ("too_long", {"rationale": RATIONALE + " and" * 121}),
        ("too_long", {"question": "why " * 61}),
        ("language", {"rationale": said("киста")}),
        ("no_box", {"rationale": "The anterior part of the left kidney shows a cyst."}),
        ("unresolvable_box", {"rationale": RATIONALE.replace("0", "3")}),
        ("unresolvable_box", {"rationale": said("in the {color} box")}),
        ("literal_coordinates", {"rationale": said("at [0.1, 0.2, 0.3, 0.4]")}),
        ("literal_coordinates", {"answer": "cyst at (12, 30, 44, 51)"}),
        ("literal_coordinates", {"rationale": said("at 0.1, 0.2, 0.3, 0.4")}),
        ("lesion_not_named", {"rationale": "<box:0> lies in the left kidney."}),
        ("organ_not_named", {"rationale": "<box:0> is a cyst on the left."}),
        ("wrong_host", {"rationale": said("close to the spleen")}),
        ("wrong_host", {"rationale": said("next to the liver")}),
        ("wrong_side", {"rationale": RATIONALE.replace("left", "right")}),
        ("wrong_side", {"answer": "cyst of the right kidney"}),
        ("unsupported_claim", {"rationale": said("probably malignant")}),
        ("unsupported_claim", {"rationale": said("due to infection")}),
        ("unsupported_claim", {"rationale": said("new since the last film")}),
        ("unsupported_claim", {"rationale": said("mild")}),
        ("unsupported_claim", {"rationale": said("in an acute setting")}),
        ("unsupported_claim", {"rationale": said("beside a catheter")}),
        ("unsupported_claim", {"rationale": said("biopsy is recommended")}),
        ("unsupported_claim", {"rationale": said("the rest is normal")}),
        ("unsupported_claim", {"rationale": said("12 mm wide")}),
        ("unsupported_claim", {"rationale": said("hypoattenuating")}),
        ("leak", {"question": "Which cyst does this image show?"}),
        ("leak", {"question": "What is in the {color} box?"}),
        ("leak", {"question": "What is shown at <box:0>?"}),
    ],
)
def test_each_fault_has_its_reason(reason, texts):
    assert reason in check_draft(draft("medium", **texts), linked_image())


@pytest.mark.parametrize(
    "rationale",
    [
        said("in the lower right of the image"),
        said("which is about a third of it, in the abdomen"),
        said("one of 2 in the left and 3 in the right third of the image"),
        RATIONALE.replace("kidney", "Kidney"),
    ],
)
def test_true_words_pass(rationale):
    assert check_draft(draft("medium", rationale=rationale), linked_image()) == []


def test_what_a_fact_or_the_report_states_may_be_said():
    measured = linked_image(spacing_mm=(1.0, 1.0))
    assert check_draft(draft(rationale=said("12 mm wide")), measured) == []
    report = linked_image(report={"findings": "Stable cyst of the left kidney, the spleen is normal."})
    assert check_draft(draft(answer="Stable cyst of the left kidney, the spleen is normal."), report) == []
    bright = replace(measured.annotations[0], facts={**measured.annotations[0].facts, "intensity": "hypoattenuating"})
    assert check_draft(draft(rationale=said("hypoattenuating")), replace(measured, annotations=(bright,))) == []
    assert check_draft(draft(rationale=said("hyperattenuating")), replace(measured, annotations=(bright,))) == [
        "unsupported_claim"
    ]


@pytest.mark.parametrize("changes", [{"patient_directions": None}, {"plane": "none"}, {"modality": "US"}])
def test_a_side_word_without_orientation_has_its_own_reason(changes):
    assert check_draft(draft(), linked_image(**changes)) == ["side_word_without_orientation"]
    plain = "<box:0> lies in the kidney, lower right of the image: a cyst."
    assert check_draft(draft(rationale=plain), linked_image(**changes)) == []


def test_projections_must_be_projected_over():
    film = linked_image(modality="DX", plane="frontal", patient_directions="L\\F")
    assert check_draft(draft(rationale="<box:0> projects over the upper part of the left kidney: a cyst."), film) == []
    assert check_draft(draft(rationale="<box:0> lies in the upper part of the left kidney: a cyst."), film) == [
        "wrong_relation"
    ]
    assert check_draft(draft(rationale="<box:0> lies in the left kidney: a cyst."), film) == ["wrong_relation"]


def test_ap_films_say_nothing_of_heart_size_or_levels():
    made = draft(rationale="<box:0> projects over the left kidney: a cyst with a fluid level.")
    film = {"modality": "DX", "plane": "frontal", "patient_directions": "L\\F"}
    assert check_draft(made, linked_image(**film, view="PA")) == []
    assert check_draft(made, linked_image(**film, view="AP supine")) == ["unsupported_claim"]


def test_controls_are_answered_no():
    control = "<box:0> lies in the right kidney; no cyst there."
    linked = linked_image()
    assert linked.annotations[1].box_role == "control"
    assert check_draft(draft("easy", annotations=(1,), rationale=control, answer="No", closed=True), linked) == []
    assert check_draft(draft("easy", annotations=(1,), rationale=control, answer="Yes", closed=True), linked) == [
        "control_not_no"
    ]


def test_lent_texts_carry_no_rationale_and_no_box():
    assert check_draft(draft("lend", rationale=RATIONALE), linked_image()) == ["leak"]
    assert "unresolvable_box" in check_draft(draft("lend", answer="<box:0> cyst"), linked_image())


def test_the_answer_belongs_to_its_alternatives():
    made = draft("medium")
    assert check_draft(replace(made, medium=replace(made.medium, answers=("mass",))), linked_image()) == ["empty"]
