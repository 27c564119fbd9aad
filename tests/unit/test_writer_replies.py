"""What a model is told, and what is taken from its reply."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medclm.chat.replies import Failure, Reply
from medclm.corpus.checks import check_draft
from medclm.corpus.contract import Draft
from medclm.corpus.refusals import refusal
from medclm.corpus.writers.phrasing import ask_for, schema_of, texts
from medclm.corpus.writers.picture import LONGEST, picture_of
from medclm.corpus.writers.replies import changed, read_reply
from tests.language_models import drafts_of, phantoms, planted, told


def test_a_prompt_holds_facts_and_seeds_and_nothing_that_names_a_patient_a_file_or_a_report():
    linked = planted()
    drafts = drafts_of(linked)
    assert {draft.question_kind for draft in drafts} >= {"describe", "what", "where", "presence"}
    for draft in drafts:
        ask = ask_for(draft, linked, seed=5, complaints=["easy: wrong_side: right"], picture=picture_of(draft, linked))
        assert "SECRET" not in ask.system + ask.user + json.dumps(ask.schema)
        message = json.loads(ask.user)
        assert message["modality"] == "CT"
        assert message["your last reply was refused because"] == ["easy: wrong_side: right"]
        for stage, text in texts(draft):
            assert message["stages"][stage]["question"] == text.question
    describe = next(draft for draft in drafts if draft.question_kind == "describe")
    assert describe.medium.answer == "SECRET report of a cyst."
    assert "kidney" in ask_for(describe, linked, seed=5).user


def test_every_stage_that_a_draft_offers_is_required_by_a_strict_schema():
    for linked in phantoms():
        for draft in drafts_of(linked):
            schema = schema_of(draft)
            assert schema["required"] == [
                stage for stage, text in texts(draft) if stage != "lend" or text.answer_type != "choice"
            ]
            assert schema["additionalProperties"] is False
            for stage, form in schema["properties"].items():
                listing = draft.question_kind == "compare"
                assert form["required"] == [
                    *([] if listing else ["question"]),
                    *([] if stage == "lend" else ["rationale"]),
                ], "a question that lists its answers stays as it is"
                assert form["additionalProperties"] is False


def test_the_picture_has_the_box_only_where_easy_is_offered_and_is_never_large():
    from io import BytesIO

    from PIL import Image

    linked = planted()
    drafts = drafts_of(linked)
    drawn = next(draft for draft in drafts if draft.easy and draft.annotations == (0,))
    with Image.open(BytesIO(picture_of(drawn, linked))) as picture:
        seen = np.asarray(picture)
    assert seen.shape == (60, 90, 3)
    red = np.argwhere((seen == (255, 0, 0)).all(-1))
    assert (red.min(0), red.max(0)) == (pytest.approx([25, 40]), pytest.approx([32, 47]))
    with Image.open(BytesIO(picture_of(replace(drawn, easy=None), linked))) as picture:
        assert (np.asarray(picture) == 99).all()
    wide = replace(linked, image=replace(linked.image, pixels=np.zeros((500, 4000), np.uint8)))
    with Image.open(BytesIO(picture_of(drawn, wide))) as picture:
        assert picture.size == (LONGEST, 128)


def test_a_reply_that_repeats_the_seed_is_taken_as_it_is_for_every_kind_of_draft():
    count = 0
    for linked in phantoms():
        for draft in drafts_of(linked):
            read = read_reply(Reply(json.dumps(told(draft))), draft, linked, "openai:m")
            assert read == replace(draft, writer="openai:m")
            assert check_draft(read, linked) == []
            count += 1
    assert count > 200


def test_answers_boxes_and_claims_stay_the_templates():
    linked = planted()
    draft = next(each for each in drafts_of(linked) if each.question_kind == "where")
    words = told(draft)
    words["easy"] |= {
        "rationale": f"Looking closely, {words['easy']['rationale']}",
        "answer": "nowhere",
        "answers": ["nowhere"],
    }
    words["hard"] = {"question": "?"}
    read = read_reply(Reply(json.dumps(words)), draft, linked, "local:m")
    assert read.easy.rationale.startswith("Looking closely, ")
    assert replace(read, easy=draft.easy, writer=draft.writer) == draft
    assert replace(read.easy, rationale=draft.easy.rationale) == draft.easy


@pytest.mark.parametrize(
    "wrap",
    [
        "@",
        "```json\n@\n```",
        '<think>Say {this} or {"easy": 1}.</think>\n@',
        "Here you are:\n\n@\n\nIs that what you want?",
        "\ufeff  @",
    ],
)
def test_the_object_is_found_whatever_is_wrapped_around_it(wrap):
    linked = planted()
    draft = next(each for each in drafts_of(linked) if each.question_kind == "where")
    wrapped = wrap.replace("@", json.dumps(told(draft)))
    assert isinstance(read_reply(Reply(wrapped), draft, linked, "m"), Draft)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(""), "writer_empty"),
        (Reply(" \n"), "writer_empty"),
        (Reply('{"easy": {"question": "Where is'), "writer_bad_json"),
        (Reply('{"easy": {"question": "Where is', finish="length"), "writer_truncated"),
        (Reply("{" * 200_000), "writer_bad_json"),
        (Reply("[" * 200_000), "writer_bad_json"),
        (Reply('{"easy": "yes", "medium": {}, "lend": {}}'), "writer_bad_json"),
        (Reply('{"easy": {"question": 3, "rationale": "x"}, "medium": {}, "lend": {}}'), "writer_bad_json"),
        (Reply('{"easy": {"question": "a\\ud800", "rationale": "x"}, "medium": {}, "lend": {}}'), "writer_bad_json"),
        (Reply('{"easy": {"question": "a\\u0000", "rationale": "x"}, "medium": {}, "lend": {}}'), "writer_bad_json"),
        (Reply("I'm sorry, but I cannot interpret medical images."), "writer_refused"),
        (Reply("{}", finish="refused"), "writer_refused"),
        (Reply('{"easy": {"question": "As an AI I pass", "rationale": "x"}, "medium": {}, "lend": {}}'), "writer_refused"),
    ],
)
def test_an_unusable_reply_is_named_and_not_quoted(reply, reason):
    linked = planted()
    draft = next(each for each in drafts_of(linked) if each.question_kind == "where")
    failure = read_reply(reply, draft, linked, "m")
    assert isinstance(failure, Failure)
    assert failure.reason == reason
    assert "sorry" not in failure.detail
    assert "Where is" not in failure.detail


def test_another_question_or_another_claim_than_the_seeds_is_noticed():
    linked = planted()
    lesion = next(each for each in drafts_of(linked) if each.question_kind == "where").easy
    lesion = replace(lesion, question="Where is the cyst in the {color} box?", rationale="<box:0> lies in the kidney: a cyst.")
    absent = replace(lesion, question="Is there a mass in this image?", rationale="The image shows no mass.", answer="No")
    largest = replace(lesion, question="Where is the largest cyst?", rationale="<box:1> lies in the kidney. Two in all.")

    def verdict(seed, boxes=2, **words):
        return changed(seed, replace(seed, **words), linked, boxes)

    assert verdict(lesion, question="At what place is the cyst of the {color} box?") is None
    assert verdict(lesion, rationale="A cyst: this is what <box:0>, in the kidney, shows.") is None
    assert "name cyst" in verdict(lesion, question="Where is the mass in the {color} box?")
    assert "name none" in verdict(replace(lesion, question="Where is it?"), question="Where is it in the left kidney?")
    assert "kidney, left" in verdict(replace(lesion, question="What is in the left kidney?"), question="What is in the kidney?")
    assert "name cyst" in verdict(lesion, rationale="<box:0> lies in the kidney: a cyst or a mass.")
    assert "loses {color}" in verdict(lesion, question="Where is the cyst in the red box?")
    assert "braces" in verdict(absent, question="Is there a mass in {this} image?")
    assert "braces" in verdict(lesion, question="Where is the cyst in the {color} or {colour} box?")
    assert "denies" in verdict(lesion, rationale="<box:0> does not lie in the kidney: a cyst.")
    assert "denies" in verdict(absent, question="Is there no mass in this image?")
    assert "no longer denies" in verdict(absent, rationale="The image shows a mass.")
    assert "boxes" in verdict(lesion, rationale="The kidney holds a cyst.")
    assert "boxes" in verdict(lesion, rationale="<box:0> and <box:1> lie in the kidney: a cyst.")
    assert verdict(lesion, rationale="<box:0> and <box:7> lie in the kidney: a cyst.") is None, "left to the checks"
    assert "'largest'" in verdict(largest, question="Where is the cyst?")
    assert "'largest'" in verdict(lesion, rationale="<box:0> lies in the kidney: the largest cyst.")
    assert verdict(largest, rationale="2 in all, and <box:1> lies in the kidney.") is None
    assert "number" in verdict(largest, rationale="<box:1> lies in the kidney. Three in all.")
    assert "number" in verdict(lesion, rationale="<box:0> lies in the kidney: a cyst of 12 mm.")


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "I’m sorry, I can't describe this image.",
        "As an AI language model, I see a cyst.",
        "I am not a doctor, but this is a cyst.",
        "Sorry.",
        "We are unable to assist with this request.",
        "Please consult a qualified medical professional.",
    ],
)
def test_refusals_are_recognised(text):
    assert refusal(text)


def test_medical_sentences_are_no_refusals():
    for text in (
        "A fracture cannot be excluded.",
        "<box:0> lies in the liver: a cyst.",
        "The image contains no mass.",
        "Sorrel",
    ):
        assert refusal(text) is None
    for linked in phantoms():
        for draft in drafts_of(linked):
            for _, text in texts(draft):
                assert refusal(text.question) is refusal(text.rationale) is refusal(text.answer) is None
