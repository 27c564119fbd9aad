"""What every written text must pass, whoever wrote it: small pure functions, each giving its reason for a refusal.

A sentence that is wrong about an organ or a side costs more than a hundred missing ones, so a text that fails is written
again and then refused with its reason, never mended. Knows drafts, linked images and word lists; nothing of models.

Reasons:
    empty                          a question, rationale or answer without text
    too_long                       more words than MAX_WORDS
    language                       letters of a script that the draft's language does not use
    no_box                         a rationale without a box although the draft has one (at most `LISTED`)
    unresolvable_box               a placeholder that counts no annotation, or stands where nobody fills it
    literal_coordinates            numbers that look like a box
    lesion_not_named               the rationale does not name the target's class
    organ_not_named                the rationale does not name the target's known host
    wrong_host                     an organ that no fact of the draft names
    wrong_relation                 a projection's organ said to contain something
    wrong_side                     left or right against the facts
    side_word_without_orientation  left or right of a patient whose directions are unknown
    unsupported_claim              cause, grade, acuity, change, severity, history, devices, advice, normality or a measurement
                                   that neither a fact nor the report states
    leak                           a whole-image question that holds its answer or a box
    refusal                        a language model that declines instead of answering
    control_not_no                 a control box whose closed question is answered otherwise than no
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medclm.corpus.contract import Draft, LinkedAnnotation, LinkedImage, StageText
from medclm.corpus.organs import ancestors, host_names, is_projection, read_name
from medclm.corpus.rationale import LISTED
from medclm.corpus.refusals import refusal

MAX_WORDS = {"question": 60, "rationale": 120, "answer": 400}
SCRIPTS = {
    "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "el": ("GREEK",),
    "ar": ("ARABIC",),
}
"""Language -> scripts beside Latin, which every language may use for names."""

_BOX = re.compile(r"<box:(\d+)>")
_NUMBER = r"-?(?:\d*\.\d+|\d+)"
_COORDINATES = re.compile(rf"[\[(]\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*[\])]|\d*\.\d+(?:\s*,\s*\d*\.\d+){{3}}")
_IN_IMAGE = re.compile(
    r"\b(?:(?:upper|middle|lower|far|top|bottom)[ -])?(?:left|right)(?: (?:side|part|half|third|edge|corner))?(?: third)? of (?:the|this) (?:image|picture|frame)"
    r"|\b\d+ in the (?:left|right)\b(?=[^.;]*third of the image)"
)
_SIDES = re.compile(r"\b(left|right)\b")
UNSUPPORTED = {
    "cause": r"due to|caused by|secondary to|because of|result(?:s|ing)? (?:of|from)|attributable",
    "malignancy": r"malignan\w*|benign|cancer\w*|carcinoma\w*|sarcoma\w*|metasta\w*|neoplas\w*|low[- ]grade|high[- ]grade|grade [i1-4]+v?",
    "acuity": r"acute\w*|subacute|chronic\w*|recent\w*|old|active|healed|residual",
    "change": r"new|newly|stable|unchanged|increas(?:ed|ing)|decreas(?:ed|ing)|worsen\w*|improv\w*|progress\w*|resol(?:ved|ving)|interval|growing|enlarging",
    "severity": r"mild(?:ly)?|moderate(?:ly)?|severe(?:ly)?|marked(?:ly)?|extensive|massive|subtle|significant(?:ly)?|advanced|critical",
    "prior": r"prior|previous(?:ly)?|compared (?:to|with)|comparison|follow[- ]?up",
    "history": r"history|known|patient (?:has|had|presents)|symptom\w*|smok\w*|surg(?:ery|ical)|treatment|therapy|status post",
    "device": r"catheter\w*|tubes?|pacemaker\w*|pacer|stents?|drains?|clips?|implants?|prosthe\w*|wires?|picc|central line|port[- ]a[- ]cath",
    "advice": r"recommend\w*|suggest\w*|advis\w*|should|consider\w*|biops\w*|correlat\w*|further (?:imaging|evaluation|work[- ]?up)|urgent\w*",
    "normality": r"normal\w*|unremarkable|healthy|clear lungs|no (?:other )?abnormalit\w*|otherwise",
}
"""Kind of claim -> words that make it."""
_UNSUPPORTED = re.compile(r"\b(?:" + "|".join(UNSUPPORTED.values()) + r")\b")
_HEART_OR_LEVEL = re.compile(
    r"\b(?:heart size|enlarged heart|cardiothoracic|heart is (?:large|enlarged)|fluid levels?|air[- ]fluid|layering|meniscus)\b"
)
_LENGTH = re.compile(r"\b\d+(?:\.\d+)?\s*(?:mm|cm|millimet\w+|centimet\w+)\b")
_BRIGHTNESS = re.compile(
    r"\b(hyper|hypo|iso)(?:attenuat|intens|echo|dens)\w*|\b(opacit(?:y|ies)|opaque|lucen(?:t|cy|cies)|radiolucen\w*)\b"
)


class Fault(NamedTuple):
    stage: str
    """easy, medium or lend."""
    reason: str
    detail: str


@dataclass(frozen=True)
class ImageWords:
    """What any draft of an image may speak of; made once for all of them."""

    linked: LinkedImage

    @functools.cached_property
    def report(self) -> str:
        """What the report states may be said."""
        return _plain(" ".join(value for key, value in self.linked.image.report.items() if key != "language"))

    @functools.cached_property
    def classes(self) -> list[str]:
        """Every class name that may stand in its texts, the longest first."""
        image = self.linked.image
        names = (
            {each.source.lesion_class for each in self.linked.annotations} | set(image.label_scope) | set(image.image_labels)
        )
        return sorted((_plain(name) for name in names), key=len, reverse=True)


@dataclass(frozen=True)
class _Context:
    """What a draft may speak of."""

    image: ImageWords
    targets: tuple[LinkedAnnotation, ...]

    @property
    def linked(self) -> LinkedImage:
        return self.image.linked

    @property
    def report(self) -> str:
        return self.image.report

    @property
    def classes(self) -> list[str]:
        return self.image.classes

    @functools.cached_property
    def organs(self) -> list[str]:
        """Every organ that a fact of the draft names, the longest first."""
        named: set[str] = set()
        for target in self.targets:
            named |= {str(target.organ), *ancestors(str(target.organ))} if target.organ else set()
            named |= {*target.facts.get("overlaps", ()), *target.facts.get("within", ())}
        return sorted((_plain(name) for name in named), key=len, reverse=True)

    @functools.cached_property
    def facts(self) -> str:
        return _plain(json.dumps([dict(target.facts) for target in self.targets], ensure_ascii=False))


def check_draft(draft: Draft, linked: LinkedImage) -> list[str]:
    """Reasons against a draft, sorted; empty = it may enter the corpus."""
    return sorted({fault.reason for fault in faults(draft, ImageWords(linked))})


def faults(draft: Draft, image: ImageWords) -> list[Fault]:
    """Every fault with its stage and what was found."""
    context = _Context(image, tuple(image.linked.annotations[i] for i in draft.annotations))
    found: list[Fault] = []
    for stage, text in (("easy", draft.easy), ("medium", draft.medium), ("lend", draft.lend)):
        if text is not None:
            found += (Fault(stage, reason, detail) for reason, detail in _stage_faults(stage, text, draft, context))
    return found


def _stage_faults(stage: str, text: StageText, draft: Draft, context: _Context) -> Iterator[tuple[str, str]]:
    yield from _form(stage, text, draft)
    yield from _language(text, draft.language, context)
    yield from _boxes(stage, text, context)
    if stage != "lend":
        yield from _named(text, context)
    if stage != "easy":
        yield from _leaks(text)
    if stage == "easy" and context.targets and context.targets[0].box_role == "control" and text.answer_type == "closed":
        yield from [("control_not_no", text.answer)] if not _plain(text.answer).startswith("no") else []
    for part in (text.question, text.rationale, text.answer):
        if words := refusal(part):
            yield "refusal", repr(words)
        yield from _organs(part, context)
        yield from _sides(part, context)
        yield from _unsupported(part, context)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").split())


def _form(stage: str, text: StageText, draft: Draft) -> Iterator[tuple[str, str]]:
    parts = {"question": text.question, "rationale": text.rationale, "answer": text.answer}
    for name, part in parts.items():
        if not part.strip() and not (stage == "lend" and name == "rationale"):
            yield "empty", f"{name} is empty"
        if len(part.split()) > MAX_WORDS[name]:
            yield "too_long", f"{name} has {len(part.split())} words, at most {MAX_WORDS[name]} are taken"
        coordinates = _COORDINATES.search(part)
        if coordinates:
            yield "literal_coordinates", f"{name} has {coordinates.group().strip()}: write <box:k>"
    if not text.answers or text.answer not in text.answers:
        yield "empty", "the answer is missing among its accepted alternatives"
    if stage == "lend" and text.rationale.strip():
        yield "leak", "a lent text has a rationale"


def _language(text: StageText, language: str, context: _Context) -> Iterator[tuple[str, str]]:
    if all(part.isascii() for part in (text.question, text.rationale, text.answer)):
        return
    scripts = ("LATIN", *SCRIPTS.get(language, ()))
    allowed = set("".join(context.classes) + "".join(context.organs) + context.report + "µ")
    for part in (text.question, text.rationale, text.answer):
        strange = {letter for letter in part if ord(letter) > 127 and letter.isalpha() and letter.lower() not in allowed}
        strange = {letter for letter in strange if not unicodedata.name(letter, "").startswith(scripts)}
        if strange:
            yield "language", f"{' '.join(sorted(strange))!r} in a text in {language!r}"


def _boxes(stage: str, text: StageText, context: _Context) -> Iterator[tuple[str, str]]:
    for name, part in (("question", text.question), ("rationale", text.rationale), ("answer", text.answer)):
        for number in _BOX.findall(part):
            if int(number) >= len(context.targets):
                yield "unresolvable_box", f"<box:{number}> in the {name}; the draft has {len(context.targets)} annotations"
        if "{color}" in part and (stage, name) != ("easy", "question"):
            yield "unresolvable_box", f"{{color}} in the {name} of {stage}: no box is drawn there"
        if stage == "lend" and name == "answer" and _BOX.search(part):
            yield "unresolvable_box", "a box in a lent answer: it belongs to another image"
    if stage != "lend" and 0 < len(context.targets) <= LISTED and not _BOX.search(text.rationale):
        yield "no_box", "the rationale has no <box:k>"


def _named(text: StageText, context: _Context) -> Iterator[tuple[str, str]]:
    if not context.targets or context.targets[0].box_role != "lesion":
        return
    target, rationale = context.targets[0], _plain(text.rationale)
    if _plain(target.source.lesion_class) not in rationale:
        yield "lesion_not_named", f"the rationale does not name {target.source.lesion_class!r}"
    if target.organ and _plain(target.organ) not in rationale:
        yield "organ_not_named", f"the rationale does not name {target.organ!r}"


def _leaks(text: StageText) -> Iterator[tuple[str, str]]:
    question = _plain(text.question)
    if _BOX.search(question) or "{color}" in question or re.search(r"\b(?:highlighted|marked|outlined|box(?:es)?)\b", question):
        yield "leak", "a whole-image question speaks of a box"
    if text.answer_type in ("closed", "choice"):  # yes or no; or the question itself lists the answers
        return
    for answer in text.answers:
        if _plain(answer) and re.search(rf"(?<!\w){re.escape(_plain(answer))}(?!\w)", question):
            yield "leak", f"the question holds its answer {answer!r}"


def _organs(part: str, context: _Context) -> Iterator[tuple[str, str]]:
    text = _without(_plain(part), context.classes)
    if is_projection(context.linked.image.modality, context.linked.image.plane):
        for organ in context.organs:
            inside = re.search(
                rf"\b(?:in|within|inside|contained in) (?:the |a )?(?:(?:\w+ )+(?:of the ))?(?:left |right )?{re.escape(organ)}\b",
                text,
            )
            if inside and inside.group() not in context.report:
                yield "wrong_relation", f"{inside.group()!r}: on a projection it projects over"
    text = _without(text, context.organs)
    for organ in _organ_words(tuple(context.linked.image.organs)).findall(text):
        if organ not in context.report:
            yield "wrong_host", f"{organ!r} is in no fact of the draft"


@functools.lru_cache(maxsize=256)
def _organ_words(mask_names: tuple[str, ...]) -> re.Pattern[str]:
    """Every organ name to look for; an image's own first, then all that are known."""
    names = {read_name(name)[0] for name in mask_names} | host_names()
    return re.compile(r"\b(" + "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) + r")s?\b")


def _without(text: str, names: Sequence[str]) -> str:
    """The text with every name, or its plural, as `_`; of two names the longer one is found first."""
    return _names_pattern(tuple(names)).sub("_", text) if names else text


@functools.lru_cache(maxsize=1024)
def _names_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(re.escape(name) for name in longest_first)})(?:e?s)?\b")


def _sides(part: str, context: _Context) -> Iterator[tuple[str, str]]:
    """Each clause may name the sides of the boxes that stand in it, one without boxes those of the clause before it."""
    names = context.classes + [name for name in context.organs if name.startswith(("left ", "right "))]
    targets: Sequence[LinkedAnnotation] = context.targets
    reported = set(_SIDES.findall(context.report)) if not _BOX.search(part) else set()
    for clause in re.split(r"[.;]", part):
        numbers = {int(number) for number in _BOX.findall(clause)}
        targets = [context.targets[number] for number in sorted(numbers) if number < len(context.targets)] or targets
        text = _without(_plain(clause), names)
        words = set(_SIDES.findall(_IN_IMAGE.sub("_", text))) - reported
        known = {target.facts.get("side") for target in targets} - {None}
        if words and not known:
            yield "side_word_without_orientation", f"{' and '.join(sorted(words))} of the patient, but no side is known"
        elif words and "bilateral" not in known and words - known:
            yield "wrong_side", f"{' and '.join(sorted(words - known))}; the facts say {' and '.join(sorted(map(str, known)))}"


def _unsupported(part: str, context: _Context) -> Iterator[tuple[str, str]]:
    text = _without(_plain(part), context.classes)
    stated = context.facts + " " + context.report
    for found in _UNSUPPORTED.finditer(text):
        if not re.search(rf"\b{re.escape(found.group())}\b", stated):
            yield "unsupported_claim", f"{found.group()!r} is stated by no fact or report"
    if not any("intensity" in target.facts for target in context.targets):
        for found in _BRIGHTNESS.finditer(text):
            if found.group() not in context.report:
                yield "unsupported_claim", f"{found.group()!r} was not measured"
    else:
        measured = {str(target.facts.get("intensity")) for target in context.targets}
        for found in _BRIGHTNESS.finditer(text):
            if found.group() not in measured and found.group() not in context.report:
                yield "unsupported_claim", f"{found.group()!r}; measured was {' and '.join(sorted(measured - {'None'}))}"
    if not any("size_mm" in target.facts for target in context.targets):
        for found in _LENGTH.finditer(text):
            if found.group() not in context.report:
                yield "unsupported_claim", f"{found.group()!r} without a pixel spacing"
    if (context.linked.image.view or "").upper().startswith("AP"):
        for found in _HEART_OR_LEVEL.finditer(text):
            if found.group() not in context.report:
                yield "unsupported_claim", f"{found.group()!r} on an AP film"
