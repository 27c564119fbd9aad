"""From facts to traced claims: short clauses in the order where -> what is seen -> which label, each with its fact key.

A clause that no fact carries cannot be made here, which is the point: writers put these clauses together and choose among
phrasings (phrases.py), they add nothing. Knows facts (keys in anatomy.py) and English; nothing of questions, masks or models.

Besides the facts of annotations there are two of an image (see `image_facts`): `absent` and `count`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclm.corpus.anatomy import exhaustive_scope
from medclm.corpus.contract import LinkedImage
from medclm.corpus.organ_names import structure
from medclm.corpus.phrases import Phrases

LISTED = 8
"""Above this many boxes a text gives count and distribution instead of a list."""

GROUPED = 3
"""In more different places than this, lesions of a class are told by organ alone."""

_UNCOUNTED = frozenset(
    {"edema", "oedema", "emphysema", "fibrosis", "honeycombing", "pneumonia", "cardiomegaly", "pleural thickening"}
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SEQUENCES = {
    "t1": "T1",
    "t1c": "contrast-enhanced T1",
    "t2": "T2",
    "pd": "PD",
    "flair": "FLAIR",
    "dwi": "DWI",
    "adc": "the ADC map",
}
_PREPOSITIONS = {
    "inside": "in",
    "unknown": "in",
    "projects_over": "projecting over",
    "borders": "at the border of",
    "adjacent": "next to",
}


@dataclass(frozen=True)
class Clause:
    """A piece of a rationale and the fact it says."""

    fact: str
    text: str
    annotation: int | None = None
    """Number k of the box whose fact it is; None = a fact of the image."""


def image_facts(linked: LinkedImage) -> dict[str, Any]:
    """Facts that belong to no box.

    absent: classes in scope that are not in the image (none in doubt, none refused).
    count: class -> number of its lesions, for classes in scope.
    """
    image = linked.image
    scope = exhaustive_scope(image, linked.rejects)
    seen = Counter(lesion.source.lesion_class for lesion in linked.annotations if lesion.box_role == "lesion")
    clear = [name for name in scope if image.image_labels.get(name, "absent") == "absent"]
    return {"absent": [name for name in clear if not seen[name]], "count": {name: seen[name] for name in scope if seen[name]}}


# --- words ----------------------------------------------------------------------------------------------------------------


def counted(lesion_class: str) -> bool:
    """Whether English counts it: a cyst, but not an emphysema; plural class names are taken as they are."""
    return lesion_class not in _UNCOUNTED and not lesion_class.endswith(("sis", "ia")) and not _is_plural(lesion_class)


def one(lesion_class: str) -> str:
    """`a nodule`, `an infiltration`, `emphysema`, `the left kidney`."""
    if structure(lesion_class) is not None:
        return f"the {lesion_class}"
    if not counted(lesion_class):
        return lesion_class
    return f"{'an' if lesion_class[0] in 'aeiou' else 'a'} {lesion_class}"


def many(lesion_class: str) -> str:
    """The plural, always containing the class name itself: `cysts`, `masses`, `areas of opacity`."""
    if _is_plural(lesion_class):
        return lesion_class
    if not counted(lesion_class) or lesion_class.endswith("y"):
        return f"areas of {lesion_class}"
    return lesion_class + ("es" if lesion_class.endswith(("s", "x", "ch", "sh")) else "s")


def _is_plural(word: str) -> bool:
    return word.endswith("s") and not word.endswith(("ss", "sis", "us"))


def number_word(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def pick(phrasings: Sequence[str], draw: np.random.Generator) -> str:
    return phrasings[int(draw.integers(len(phrasings)))]


# --- clauses --------------------------------------------------------------------------------------------------------------


def where(numbers: Sequence[int], facts: Mapping[str, Any], phrases: Phrases, draw: np.random.Generator) -> Clause:
    """`<box:0> lies in the anterior part of the left kidney`; `numbers` are boxes that share these facts."""
    verbs = phrases.verbs[facts["relation"]]
    verb = verbs[int(draw.integers(len(verbs)))][len(numbers) > 1]
    shadows = f", overlapping the {listing(facts['overlaps'])}" if facts.get("overlaps") else ""
    boxes = listing([f"<box:{number}>" for number in numbers])
    return Clause("location", f"{boxes} {verb} the {facts['location']}{shadows}", numbers[0])


def seen(number: int, facts: Mapping[str, Any]) -> Clause | None:
    """What was measured, as a clause to append; None where no measurement is clear."""
    if "intensity" not in facts:
        return None
    word = facts["intensity"]
    if "sequence" in facts:
        return Clause("intensity", f", {word} on {sequence_name(facts['sequence'])}", number)
    if word in ("opacity", "lucency"):
        return Clause("intensity", f", {one(word)} against the rest of it", number)
    return Clause("intensity", f", {word} to the rest of it", number)


def label(
    number: int, facts: Mapping[str, Any], phrases: Phrases, draw: np.random.Generator, *, measured: bool = False
) -> Clause:
    """Which label this supports; words such as `fits` only after something that was measured."""
    phrasing = pick(phrases.clauses["label_measured" if measured else "label"], draw)
    return Clause("label", phrasing.format(one=one(facts["label"])), number)


def measured(number: int, facts: Mapping[str, Any], phrases: Phrases, draw: np.random.Generator) -> Clause:
    """Its size in millimetres, as a clause to append."""
    return Clause("size_mm", pick(phrases.clauses["size"], draw).format(size=size_words(facts)), number)


def lesion(
    number: int, facts: Mapping[str, Any], phrases: Phrases, draw: np.random.Generator, *, size: bool = False
) -> list[Clause]:
    """Where, seen, (size,) label: the rationale of one lesion."""
    clauses = [
        where([number], facts, phrases, draw),
        seen(number, facts),
        measured(number, facts, phrases, draw) if size else None,
        label(number, facts, phrases, draw, measured="intensity" in facts),
    ]
    return [clause for clause in clauses if clause is not None]


def lesions(
    numbers: Sequence[int], facts: Sequence[Mapping[str, Any]], phrases: Phrases, draw: np.random.Generator
) -> list[Clause]:
    """Several lesions of one class: `<box:0> and <box:2> lie in the liver; <box:1> lies in the spleen: cysts.`

    Over `LISTED` of them: number and distribution. `numbers` count the boxes of the text, `facts` are theirs in order.
    """
    if len(numbers) == 1:
        return lesion(numbers[0], facts[0], phrases, draw)
    if len(numbers) > LISTED:
        return crowd(numbers, facts)
    groups: dict[str, list[int]] = {}
    for at, fact in enumerate(facts):
        groups.setdefault(f"{fact['relation']} {fact['location']} {fact.get('overlaps')}", []).append(at)
    if len(groups) > GROUPED:
        return _by_organ(numbers, facts, phrases)
    clauses: list[Clause] = []
    for members in groups.values():
        clause = where([numbers[at] for at in members], facts[members[0]], phrases, draw)
        clauses.append(Clause(clause.fact, ("; " if clauses else "") + clause.text, clause.annotation))
    return [*clauses, Clause("label", pick(phrases.clauses["labels"], draw).format(many=many(facts[0]["label"])), numbers[0])]


def _by_organ(numbers: Sequence[int], facts: Sequence[Mapping[str, Any]], phrases: Phrases) -> list[Clause]:
    """Lesions in too many places to spell out: `<box:0>, <box:1> and <box:3> lie in the liver; <box:2> lies in the spleen: cysts.`"""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, fact in zip(numbers, facts, strict=True):
        place = (fact["relation"], fact["organ"]) if "organ" in fact else ("unknown", "image")
        groups.setdefault(place, []).append(number)
    clauses: list[Clause] = []
    for (relation, organ), members in groups.items():
        verb = phrases.verbs[relation][0][len(members) > 1]
        boxes = listing([f"<box:{number}>" for number in members])
        fact_key = "image_position" if organ == "image" else "organ"
        clauses.append(Clause(fact_key, f"{'; ' if clauses else ''}{boxes} {verb} the {organ}", members[0]))
    return [*clauses, Clause("label", f": {many(facts[0]['label'])}.", numbers[0])]


def crowd(numbers: Sequence[int], facts: Sequence[Mapping[str, Any]]) -> list[Clause]:
    """Too many to list: how many, in which organs and in which thirds of the image."""
    thirds = Counter(_column(fact["image_position"]) for fact in facts)
    spread = listing([f"{thirds[name]} in the {name}" for name in ("left", "middle", "right") if thirds[name]])
    organs = list(dict.fromkeys(fact["organ"] for fact in facts if "organ" in fact))
    among = "count" if "count" in facts[0] else "label"
    exactly = "" if among == "count" else "At least "
    number = f"{len(numbers)} {many(facts[0]['label'])} are seen"
    clauses = [Clause(among, exactly + number, numbers[0])]
    if organs:
        clauses.append(Clause("organ", f" ({', '.join(organs)})", numbers[0]))
    return [*clauses, Clause("image_position", f", {spread} third of the image.", numbers[0])]


def _column(image_position: str) -> str:
    last = image_position.split()[-1]
    return last if last in ("left", "right") else "middle"


def in_all(number: int, count: int) -> Clause:
    """The count after a list of boxes."""
    return Clause("count", f" {number_word(count).capitalize()} in all.", number)


def larger(number: int) -> Clause:
    """After two lesions: which of them is the larger."""
    return Clause("largest", f" <box:{number}> is the larger.", number)


def none_here(number: int, facts: Mapping[str, Any], phrases: Phrases, draw: np.random.Generator) -> list[Clause]:
    """A control box: where it is, and the class that is absent there."""
    phrasing = pick(phrases.clauses["absent_here"], draw)
    return [where([number], facts, phrases, draw), Clause("absent", phrasing.format(name=facts["absent"]), number)]


def none_anywhere(lesion_class: str, phrases: Phrases, draw: np.random.Generator) -> Clause:
    """An image without the class."""
    phrasing = pick(phrases.clauses["absent_anywhere"], draw)
    return Clause("absent", phrasing.format(name=lesion_class, one=one(lesion_class)))


def size_words(facts: Mapping[str, Any]) -> str:
    """`12 x 9 mm`; below 3 mm with a decimal, since rounding would move it by a sixth or more."""
    return " x ".join(f"{side:.0f}" if side >= 3 else f"{side:.1f}" for side in facts["size_mm"]) + " mm"


def sequence_name(technique: str) -> str:
    """How an MR technique is written: `T2`, `FLAIR`."""
    return _SEQUENCES.get(technique.lower(), technique)


def findings(facts: Sequence[Mapping[str, Any]]) -> str:
    """Lesions as a report would say them, equal ones together: `Two cysts in the liver. Mass in the spleen.`"""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for fact in facts:
        groups.setdefault(finding(fact), []).append(fact)
    return " ".join(finding(same[0], number=len(same)) for same in groups.values())


def finding(facts: Mapping[str, Any], number: int = 1, *, size: bool = False) -> str:
    """One sentence: `Hypoattenuating cyst in the anterior part of the left kidney, 12 x 9 mm.`"""
    word = facts.get("intensity", "")
    head, tail = facts["label"] if number == 1 else many(facts["label"]), ""
    if "sequence" in facts:
        tail = f", {word} on {sequence_name(facts['sequence'])}"
    elif word in ("opacity", "lucency"):
        tail = f", seen as {one(word)}"
    elif word:
        head = f"{word} {head}"
    if size and "size_mm" in facts:
        tail += f", {size_words(facts)}"
    head = head if number == 1 else f"{number_word(number)} {head}"
    return f"{head[0].upper()}{head[1:]} {_PREPOSITIONS[facts['relation']]} the {facts['location']}{tail}."


def claims(stage: str, clauses: Sequence[Clause]) -> list[dict[str, Any]]:
    """The trace of a rationale as a draft keeps it."""
    return [
        {"stage": stage, "fact": clause.fact, "text": clause.text.strip(" ,;:."), "annotation": clause.annotation}
        for clause in clauses
    ]


def text_of(clauses: Sequence[Clause]) -> str:
    text = "".join(clause.text for clause in clauses)
    return text[0].upper() + text[1:]
