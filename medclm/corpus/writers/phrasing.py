"""What a language model is told: the rules, the facts of one draft and the form of the reply.

The template decides what is asked, which boxes and claims belong to it and what the answer is; a model is only asked for
other words. So a prompt holds class names, modality, plane, facts and the template's own sentences, and no key, id, file
name or report text. Pure functions; knows drafts, nothing of servers or replies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medclm.corpus.anatomy import UNSPOKEN
from medclm.corpus.contract import Draft, LinkedImage, StageText
from medclm.corpus.rationale import LISTED
from medclm.draws import generator

STAGES = ("easy", "medium", "lend")
_TOKEN_CHARACTERS = 4
_PICTURE_TOKENS = 1000
"""Rough: servers count a picture of this size as 250 to 1,500 tokens."""
_UNSAID = (*UNSPOKEN, "area_share", "intensity_reference")
"""Facts behind other facts; a model that sees their numbers repeats them."""

RULES = """\
You reword questions and explanations for a teaching set about medical images. You get JSON: per stage a question, its
rationale as a seed sentence, the claims which that sentence makes (each with the fact that carries it) and the answer, which
stays as it is. Write other words for the same content.

1. Say what the claims say: all of it and nothing else. The facts are there so that you understand the claims.
2. Keep every <box:k> of a rationale exactly as written, and use no other. Never write coordinates.
3. Keep {color} in the question wherever it stands; a question without it must not mention a box, colour or highlighting.
4. Use the names of findings, organs and places exactly as given. Say left, right, upper, lower, anterior or posterior only
   where the seed does, about the same thing; sides are the patient's.
5. Never speak, not even to deny it, of cause, malignancy or grade, acuity, change over time, severity, earlier images, history,
   symptoms, devices, treatment, advice, certainty, or of anything being normal, healthy or clear.
6. A question must still ask for the same thing, so that the given answer is right and complete. Keep yes/no questions
   affirmative, keep 'largest' and 'larger', and never put the answer into an open question.
7. Where the seed denies a finding, deny it; where it affirms one, do not deny anything. Keep numbers.
8. The seed's language (British English for en), plain and in full sentences: no lists, no Markdown, no line breaks. At most 40
   words a question, 80 a rationale.

Reply with one JSON object of exactly the form that is asked for, and nothing before or after it."""

STYLES = (
    "the wording of a short radiology report",
    "the wording of a teacher who explains step by step",
    "short and simple sentences",
    "one flowing sentence where that reads well",
    "a different sentence order from the seed's",
)


@dataclass(frozen=True)
class Ask:
    """One request to a model, without anything of who answers it."""

    system: str
    user: str
    schema: Mapping[str, Any]
    """JSON schema of the reply."""
    seed: int
    """Of the sampling, 0 <= seed < 2**31."""
    picture: bytes | None = None
    """PNG."""

    @property
    def tokens(self) -> int:
        """Roughly what the prompt costs."""
        return (len(self.system) + len(self.user)) // _TOKEN_CHARACTERS + (_PICTURE_TOKENS if self.picture else 0)


def ask_for(
    draft: Draft, linked: LinkedImage, *, seed: int, complaints: Sequence[str] = (), picture: bytes | None = None
) -> Ask:
    """The request that has `draft` worded anew.

    Args:
        seed: of sampling and style.
        complaints: why the attempt before was refused.
        picture: PNG that the model may look at.
    """
    image = linked.image
    targets = [linked.annotations[i] for i in draft.annotations[:LISTED]]
    told: dict[str, Any] = {
        "language": draft.language,
        "modality": image.modality or "unknown",
        "plane": image.plane or "unknown",
        "facts": [
            {"box": f"<box:{number}>", "shows": _role(target.box_role), **_said(target.facts)}
            for number, target in enumerate(targets)
        ],
        "stages": {stage: _stage(stage, text, draft, linked) for stage, text in texts(draft)},
        "style": STYLES[int(generator(seed, "writer.style").integers(len(STYLES)))],
        "form of the reply": {stage: dict.fromkeys(fields, "...") for stage, fields in asked(draft).items()},
    }
    if picture is not None:
        told["picture"] = "attached; the red outline is <box:0> and stands for {color}" if draft.easy else "attached"
    if complaints:
        told["your last reply was refused because"] = list(complaints)
    user = json.dumps(told, ensure_ascii=False)
    return Ask(system=RULES, user=user, schema=schema_of(draft), seed=seed, picture=picture)


def texts(draft: Draft) -> list[tuple[str, StageText]]:
    """The stages that a draft offers."""
    pairs = zip(STAGES, (draft.easy, draft.medium, draft.lend), strict=True)
    return [(stage, text) for stage, text in pairs if text is not None]


def asked(draft: Draft) -> dict[str, tuple[str, ...]]:
    """Stage -> what is worded anew. Never an answer, nor a question that lists its answers; a lent text has no rationale."""
    found: dict[str, tuple[str, ...]] = {}
    for stage, text in texts(draft):
        fields = (*(["question"] if text.answer_type != "choice" else []), *(["rationale"] if stage != "lend" else []))
        found |= {stage: fields} if fields else {}
    return found


def schema_of(draft: Draft) -> dict[str, Any]:
    """JSON schema of the reply, in the subset that strict structured output takes: everything required, nothing else allowed."""
    return _object({stage: _object({field: {"type": "string"} for field in fields}) for stage, fields in asked(draft).items()})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _stage(stage: str, text: StageText, draft: Draft, linked: LinkedImage) -> dict[str, Any]:
    told: dict[str, Any] = {"question": text.question}
    if stage != "lend":
        told["rationale"] = text.rationale
        told["claims"] = [{"fact": claim["fact"], "says": claim["text"]} for claim in draft.claims if claim["stage"] == stage]
    # an answer that is the study's own report may hold a name or a date
    told["answer"] = "what the report says" if text.answer in linked.image.report.values() else text.answer
    return told


def _said(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in _UNSAID}


def _role(box_role: str) -> str:
    return "a finding" if box_role == "lesion" else "tissue without the finding that is asked about"
