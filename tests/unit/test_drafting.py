"""A writer's failed texts are written again, told why, and rejected by reason in the end; sound ones are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medclm.corpus.anatomy import link
from medclm.corpus.contract import Draft, LinkedImage, Reject, SourceAnnotation, SourceImage, StageText, WriteRequest
from medclm.corpus.drafting import draft_checked
from medclm.types import Box

RATIONALE = "<box:0> lies in the left kidney: a cyst."


def linked_image(index: int = 4) -> LinkedImage:
    kidney = np.zeros((60, 60), bool)
    kidney[20:50, 35:55] = True
    annotation = SourceAnnotation("annotations[0]", "cyst", "cyst", Box(40, 25, 48, 33))
    image = SourceImage(
        index=f"images[{index}]",
        key=str(index),
        pixels=np.full((60, 60), 99, np.uint8),
        source="test",
        licence="none",
        shareable=True,
        annotations=(annotation,),
        organs={"kidney left": kidney},
        modality="CT",
        plane="axial",
        patient_directions="L\\P",
    )
    return link(image, seed=0)


def draft(kind: str, rationale: str = RATIONALE) -> Draft:
    text = StageText("What does this image show?", rationale, "cyst", ("cyst",), "open")
    return Draft(kind, "cyst / CT", (0,), None, text, None, (), "test")


class Stubborn:
    """A writer whose `describe` texts are wrong until a seed; keeps what it was asked."""

    name = "stubborn"

    def __init__(self, right_from: int) -> None:
        self.right_from = right_from
        self.requests: list[WriteRequest] = []

    def write(self, requests):
        self.requests += requests
        return [self._one(request.seed) for request in requests]

    def _one(self, seed: int) -> tuple[list[Draft], list[Reject]]:
        wrong = RATIONALE.replace("left", "right")
        late = draft("describe", RATIONALE if seed >= self.right_from else wrong)
        return [draft("what"), late], [Reject("images[4]", "busy", "")]


def test_failed_texts_are_written_again_and_told_why():
    writer = Stubborn(right_from=12)
    [(drafts, rejects)] = draft_checked([linked_image()], writer, [10], retries=2)
    assert [each.question_kind for each in drafts] == ["what", "describe"]
    assert [request.seed for request in writer.requests] == [10, 11, 12]
    assert writer.requests[0].faults is None
    assert list(writer.requests[1].faults) == [("describe", "cyst / CT", (0,))]
    assert "wrong_side" in writer.requests[1].faults["describe", "cyst / CT", (0,)][0]
    assert [reject.reason for reject in rejects] == ["busy"]


def test_what_stays_wrong_is_rejected_by_reason():
    [(drafts, rejects)] = draft_checked([linked_image()], Stubborn(right_from=13), [10], retries=2)
    assert [each.question_kind for each in drafts] == ["what"]
    assert [(reject.index, reject.reason) for reject in rejects[1:]] == [
        ("images[4].drafts[1].describe.medium", "check_wrong_side")
    ]
    assert "right" in rejects[1].detail


def test_only_images_that_failed_are_asked_for_again():
    writer = Stubborn(right_from=11)
    made = draft_checked([linked_image(4), linked_image(5)], writer, [10, 11], retries=2)
    assert [len(drafts) for drafts, _ in made] == [2, 2]
    assert [(request.linked.image.index, request.seed) for request in writer.requests] == [
        ("images[4]", 10),
        ("images[5]", 11),
        ("images[4]", 11),
    ]


def test_sound_texts_are_written_once_and_left_alone():
    writer = Stubborn(right_from=0)
    draft_checked([linked_image()], writer, [10], retries=2)
    assert [request.seed for request in writer.requests] == [10]
    first = replace(draft("what"), claims=({"fact": "label"},))
    assert first.key == draft("what").key
