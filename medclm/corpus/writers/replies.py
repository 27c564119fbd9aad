"""From a model's reply to a draft: lenient about how the JSON is wrapped, strict about what it says.

Answers, claims and boxes are the template's; this page takes over the new words only where they still ask and claim the
same. What the facts contradict is the business of corpus/checks.py. Pure functions; knows nothing of servers.

Reasons why a draft got no text:
    writer_timeout          no reply within the time limit, every time
    writer_rate_limited     the server asked to wait, every time or for too long
    writer_server_error     the server failed, or answered in no known form
    writer_bad_request      the server or the model cannot take this request
    not_shareable           the image may not leave this machine, and the server is elsewhere
and why a reply gave none (another one is asked for):
    writer_empty            a reply without text
    writer_truncated        cut off at the limit of tokens
    writer_bad_json         not the JSON that was asked for
    writer_refused          the model declined
    writer_changed_meaning  another question, another polarity, other boxes, classes or numbers than the seed's
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from medclm.chat.replies import Failure, Reply
from medclm.corpus.contract import Draft, LinkedImage, StageText
from medclm.corpus.rationale import number_word
from medclm.corpus.refusals import refusal
from medclm.corpus.writers.phrasing import asked, texts

UNUSABLE = ("writer_empty", "writer_truncated", "writer_bad_json", "writer_refused", "writer_changed_meaning")
"""Reasons that lie in a reply, so that another one may be better."""
_MOST_STARTS = 50
"""Places where an object is looked for in a reply that wraps it."""
_BOX = re.compile(r"<box:(\d+)>")
_DENIAL = re.compile(r"\b(?:no|not|none|never|neither|nor|without|absen\w+|lack\w*|free of|exclud\w+|negative|cannot)\b|n't\b")
_LARGEST = re.compile(r"\b(?:larg|bigg|great)(?:er|est)\b")
_NUMBERS = re.compile(r"\b(?:\d+(?:\.\d+)?|" + "|".join(number_word(n) for n in range(2, 11)) + r")\b")
_DIGITS = {number_word(n): str(n) for n in range(2, 11)}


def read_reply(reply: Reply, draft: Draft, linked: LinkedImage, writer: str) -> Draft | Failure:
    """`draft` in the reply's words, by `writer`; or why the reply is unusable."""
    if reply.finish == "refused":
        return Failure("writer_refused", "the model declined")
    if not reply.text.strip():
        return Failure("writer_empty", f"{len(reply.text)} characters")
    forms = asked(draft)
    told = _object_in(reply.text, list(forms))
    if told is None:
        return _without_object(reply)
    found: dict[str, StageText] = {}
    for stage, seed in texts(draft):
        text = _worded(stage, seed, told, forms.get(stage, ()))
        if isinstance(text, StageText):
            wrong = changed(seed, text, linked, len(draft.annotations))
            text = Failure("writer_changed_meaning", f"{stage}: {wrong}") if wrong else text
        if isinstance(text, Failure):
            return text
        found[stage] = text
    return replace(draft, easy=found.get("easy"), medium=found.get("medium"), lend=found.get("lend"), writer=writer)


def _without_object(reply: Reply) -> Failure:
    if reply.finish == "length":
        cure = "allow more tokens for a reply, or use another model"
        return Failure("writer_truncated", f"cut off after {len(reply.text)} characters: {cure}")
    if refusal(reply.text):
        return Failure("writer_refused", "the model declined in words")
    return Failure("writer_bad_json", f"no JSON object with the stages in {len(reply.text)} characters")


def _object_in(text: str, stages: Sequence[str]) -> dict[str, Any] | None:
    """The last object with all the stages; models like to think aloud first, and to put fences around."""
    decoder, found, start = json.JSONDecoder(), None, 0
    for _ in range(_MOST_STARTS):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        if isinstance(value, dict) and all(stage in value for stage in stages):
            found = value
        start = end
    return found


def _worded(stage: str, seed: StageText, told: dict[str, Any], fields: Sequence[str]) -> StageText | Failure:
    words = {"question": seed.question, "rationale": seed.rationale}
    for field in fields:
        value = told[stage].get(field) if isinstance(told[stage], dict) else None
        if not isinstance(value, str):
            return Failure("writer_bad_json", f"{stage}.{field} is missing or no text")
        words[field] = " ".join(value.split())
        # a lone surrogate cannot be stored, a control character not be shown
        if any(unicodedata.category(letter) in ("Cc", "Cs", "Cn") for letter in words[field]):
            return Failure("writer_bad_json", f"{stage}.{field} holds characters that are no text")
        if refusal(words[field]):
            return Failure("writer_refused", f"the model declined in {stage}.{field}")
    return replace(seed, question=words["question"], rationale=words["rationale"])


# --- the same question, the same claims ---------------------------------------------------------------------------------------


def changed(seed: StageText, text: StageText, linked: LinkedImage, boxes: int) -> str | None:
    """What `text` asks or claims otherwise than `seed`; None = the same, as far as words can tell.

    Args:
        boxes: annotations of the draft; a placeholder beyond them is left to the check `unresolvable_box`.
    """
    return next(_changes(seed, text, linked, boxes), None)


def _changes(seed: StageText, text: StageText, linked: LinkedImage, boxes: int) -> Iterator[str]:
    names = _classes(linked)
    # a question tells lesions apart by organ and side, so it may not lose them; a rationale is left to the checks
    places = _organs(linked)
    for field, old, new in (("question", seed.question, text.question), ("rationale", seed.rationale, text.rationale)):
        known = [*names, *places] if field == "question" else names
        if _named(old, known) != _named(new, known):
            yield f"the {field} names other things: name {_listed(_named(old, known))}"
        if bool(_DENIAL.search(_plain(old, names))) != bool(_DENIAL.search(_plain(new, names))):
            yield f"the {field} {'no longer denies' if _DENIAL.search(_plain(old, names)) else 'denies'}"
        if bool(_LARGEST.search(old.lower())) != bool(_LARGEST.search(new.lower())):
            yield f"the {field} {'loses' if _LARGEST.search(old.lower()) else 'adds'} 'largest'"
        if ("{color}" in old) != ("{color}" in new):
            yield f"the {field} {'loses' if '{color}' in old else 'adds'} {{color}}"
        if set("{}") & set(new.replace("{color}", "")):
            yield f"the {field} has braces"
    if _boxes(seed.rationale, boxes) != _boxes(text.rationale, boxes):
        kept = " ".join(f"<box:{number}>" for number in sorted(_boxes(seed.rationale, boxes)))
        yield f"the rationale has other boxes: write {kept or 'none'}"
    allowed = _numbers(f"{seed.question} {seed.rationale} {seed.answer}")
    if not _numbers(f"{text.question} {text.rationale}") <= allowed:
        yield f"a number that the seed does not have: only {_listed(allowed)}"


def _classes(linked: LinkedImage) -> list[str]:
    """Every class that the texts of an image may name, the longest first."""
    image = linked.image
    names = {each.source.lesion_class for each in linked.annotations} | {*image.label_scope, *image.image_labels}
    return sorted((name.lower() for name in names), key=lambda name: (-len(name), name))


def _organs(linked: LinkedImage) -> list[str]:
    """Every host organ, with sides, the longest first."""
    organs = {each.organ.lower() for each in linked.annotations if each.organ}
    return [*sorted(organs, key=lambda name: (-len(name), name)), "left", "right"]


def _named(text: str, names: Sequence[str]) -> set[str]:
    found, plain = set(), " ".join(text.lower().split())
    for name in names:
        plain, count = re.subn(rf"\b{re.escape(name)}(?:e?s)?\b", "_", plain)
        if count:
            found.add(name)
    return found


def _plain(text: str, names: Sequence[str]) -> str:
    """Lower case without class names: `no finding` is one."""
    plain = text.lower()
    for name in names:
        plain = plain.replace(name, "_")
    return plain


def _boxes(text: str, boxes: int) -> set[int]:
    return {int(number) for number in _BOX.findall(text) if len(number) < 9 and int(number) < boxes}


def _numbers(text: str) -> set[str]:
    return {_DIGITS.get(word, word) for word in _NUMBERS.findall(_BOX.sub(" ", text.lower()))}


def _listed(words: set[str]) -> str:
    return ", ".join(sorted(words)) or "none"
