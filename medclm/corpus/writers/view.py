"""What a writer sees of one linked image: its lesions by class, what is known of each, and the words that tell them apart.

Here because every question needs words that are true of its lesions alone. Knows facts; nothing of stages or phrasings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medclm.corpus import rationale
from medclm.corpus.anatomy import exhaustive_scope
from medclm.corpus.contract import LinkedAnnotation, LinkedImage
from medclm.corpus.organs import paired, structure
from medclm.corpus.rationale import LISTED, many, one
from medclm.corpus.sources.report_text import is_whole

_RADIOLOGY = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "PT", "PX", "RF", "RG", "US", "XA", "XR"})
_CONTAINED = 0.9
"""Share of a box inside another from which on it is a part of it."""
NO_FINDING = "no finding"
"""Image label by which a reader said that there is nothing."""


@dataclass(frozen=True)
class Subject:
    """The lesions a whole-image question is about and the words that are true of them alone."""

    words: str
    members: tuple[int, ...]
    """Indices into `LinkedImage.annotations`."""

    @property
    def plural(self) -> bool:
        return len(self.members) > 1


class View:
    """One image; annotations go by their index in `LinkedImage.annotations`."""

    def __init__(self, linked: LinkedImage) -> None:
        image = linked.image
        self.linked = linked
        self.all = linked.annotations
        self.lesions = [i for i, each in enumerate(self.all) if each.box_role == "lesion"]
        self.classes = list(dict.fromkeys(self.class_of(i) for i in self.lesions))
        self.image_facts = rationale.image_facts(linked)
        self.scope = frozenset(exhaustive_scope(image, linked.rejects))
        # a reader who was asked for any finding at all, and none of whose classes is in doubt
        self.reads_all = NO_FINDING in image.image_labels and set(self.classes) <= self.scope
        anatomy = bool(self.classes) and all(structure(name) is not None for name in self.classes)
        self.noun = "finding" if image.modality in _RADIOLOGY and not anatomy else "structure"

    def facts(self, at: int) -> dict[str, Any]:
        return dict(self.all[at].facts)

    def class_of(self, at: int) -> str:
        return self.all[at].source.lesion_class

    def of_class(self, name: str) -> list[int]:
        return [i for i in self.lesions if self.class_of(i) == name]

    def control_of(self, name: str) -> int | None:
        """The control box of a class."""
        return next((i for i, each in enumerate(self.all) if each.box_role == "control" and self.class_of(i) == name), None)

    def hosted(self, at: int) -> bool:
        """Whether the lesion is known to be in (or to project over) an organ."""
        return self.all[at].organ is not None and self.all[at].organ_relation in ("inside", "projects_over")

    def open_host(self, at: int) -> bool:
        """Whether its organ is worth asking for: known, and not the only one its class can have."""
        candidates = self.facts(at)["organ_candidates"]
        return self.hosted(at) and (candidates == "any" or len(candidates) > 1)

    def address(self, at: int) -> tuple[Any, ...]:
        each: LinkedAnnotation = self.all[at]
        return each.organ, each.facts.get("side") if each.facts.get("side_of") == "organ" else None

    def at(self, at: int) -> str:
        """`in the left kidney`, `in the right side of the brain`, `projecting over the left lung`: tells lesions apart."""
        organ, side = self.address(at)
        named = f"{side} {organ}" if side in ("left", "right") and paired(organ) else organ
        if side in ("left", "right") and not paired(organ):
            named = f"{side} side of the {organ}"
        return f"{'projecting over' if self.all[at].organ_relation == 'projects_over' else 'in'} the {named}"

    def knows_all(self, name: str) -> bool:
        """Whether every lesion of a class in this image is known; an anatomical structure is there once, marked or not."""
        return name in self.scope or structure(name) is not None

    def subject(self, kind: str, target: int) -> Subject | None:
        """Words that hold for the target alone, or for all of its class where it comes first of them; None = there are none.

        `the` and `the largest` need to know every lesion they could mean; elsewhere the words only say that there is one.
        """
        name = self.class_of(target)
        same, facts = self.of_class(name), self.facts(target)
        alone = len(self.classes) == 1
        unnamed = kind == "what" or (alone and self.reads_all)
        noun = self.noun if unnamed else name
        whole = self.reads_all if unnamed else self.knows_all(name)
        if kind == "which_organ" and not (alone and self.reads_all) and str(self.all[target].organ) in name:
            return None  # the question would name the answer
        if kind == "what" and not alone:
            if facts.get("largest") and whole:
                return Subject(f"the largest {noun} in this image", (target,))
            unique = sum(self.address(i) == self.address(target) for i in self.lesions) == 1
            return Subject(f"{_one(noun, whole)} {self.at(target)}", (target,)) if unique and self.hosted(target) else None
        if len(same) == 1:
            return Subject(f"{_one(noun, whole)} in this image", (target,))
        if facts.get("largest_of_class") and kind != "what" and whole:
            return Subject(f"the largest {noun} in this image", (target,))
        shared = kind == "what" or (kind == "which_organ" and len({self.all[i].organ for i in same}) == 1)
        if not shared or target != same[0]:
            return None
        words, members = (f"the {many(noun)}", tuple(same)) if whole else (one(noun), (target,))
        return Subject(f"{words} in this image", members)

    def answers(self, kind: str, members: Sequence[int]) -> tuple[str, ...]:
        """The answer to a question about lesions, then what else is accepted."""
        first = self.all[members[0]]
        facts = first.facts
        if kind == "what":
            return _spellings(first.source.lesion_class)
        if kind == "where":
            return tuple(dict.fromkeys([facts["location"], *_other_order(facts)]))
        if kind == "size":
            words = rationale.size_words(facts)
            return (words, words.replace(" x ", " by "), words.replace(" x ", " mm x "))
        organ = str(first.organ)
        sided = paired(organ) and len(members) == 1 and facts.get("side") in ("left", "right")
        return (organ, f"{facts['side']} {organ}") if sided else (organ,)

    def contains(self, one: int, other: int) -> bool:
        """Whether a lesion's box holds nearly all of another's."""
        outer, inner = self.all[one].source.box_px, self.all[other].source.box_px
        width = min(outer.x1, inner.x1) - max(outer.x0, inner.x0)
        height = min(outer.y1, inner.y1) - max(outer.y0, inner.y0)
        return width > 0 and height > 0 and width * height >= _CONTAINED * inner.area

    def reported(self) -> str | None:
        """The findings as a report says them, where that may be an answer: nothing withheld, no side that nobody can check."""
        image = self.linked.image
        findings = image.report.get("findings")
        if not findings or not is_whole(findings):
            return None
        unseen = image.patient_directions is None and re.search(r"\b(?:left|right|bilateral)", findings.lower())
        return None if unseen else findings

    def composed(self) -> str:
        """All lesions as a report would say them."""
        if len(self.lesions) <= LISTED:
            return rationale.findings([self.facts(i) for i in self.lesions])
        sentences = []
        for name in self.classes:
            number = len(self.of_class(name))
            counted = f"{rationale.number_word(number)} {many(name)}" if number > 1 else one(name)
            sentence = counted if name in self.image_facts["count"] or number == 1 else f"at least {counted}"
            sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
        return " ".join(sentences)

    def domain(self, name: str) -> str:
        """lesion class / modality (/ technique for MR)."""
        image = self.linked.image
        parts = [name, image.modality or "unknown"]
        return " / ".join([*parts, image.technique] if image.modality == "MR" and image.technique else parts)

    def reader_saw_nothing(self) -> bool:
        """Whether a reader said so; an image without boxes alone may show anything."""
        return self.linked.image.image_labels.get(NO_FINDING) == "present"


def _one(noun: str, whole: bool) -> str:
    """`the nodule` where it is the only one, `a nodule` where another might not be known."""
    return f"the {noun}" if whole else one(noun)


def _spellings(name: str) -> tuple[str, ...]:
    swaps = (
        ("tumor", "tumour"),
        ("tumour", "tumor"),
        ("edema", "oedema"),
        ("hemorrhage", "haemorrhage"),
        ("haemorrhage", "hemorrhage"),
    )
    return (name, *(name.replace(old, new) for old, new in swaps if old in name and new not in name.replace(old, "")))


def _other_order(facts: dict[str, Any] | Any) -> list[str]:
    """`left kidney, anterior part` beside `anterior part of the left kidney`."""
    part, of, organ = str(facts["location"]).partition(" of the ")
    return [f"{organ}, {part}"] if of and organ != "image" and "," not in organ else []
