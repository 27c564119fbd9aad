"""The template writer: deterministic questions and answers around traced claims, several phrasings each.

It asks only what the facts determine: a question about one lesion needs words that are true of that lesion alone, a
negative needs a class in scope, a count needs a class in scope. Box 0 of a draft is its target, the one that is drawn in
Easy. Knows linked images; nothing of splits, partners or models.

Stages by kind (Medium and the lent question are about the whole image and need such words, so they may be missing):
    what, where, which_organ   Easy, Medium
    presence                   yes: Easy and Medium; no: Easy on a control box, Medium on a class absent from the image
    count                      Medium
    describe                   Easy, Medium
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclm.corpus import rationale
from medclm.corpus.contract import Draft, LinkedAnnotation, LinkedImage, Reject, StageText, WriteRequest
from medclm.corpus.organs import paired
from medclm.corpus.rationale import LISTED, Clause, many, one, pick, text_of
from medclm.draws import generator

NAME = "template"
KINDS = ("presence", "what", "where", "which_organ", "count", "describe")
"""Question kinds that it can ask."""
_RADIOLOGY = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "PT", "PX", "RF", "RG", "US", "XA", "XR"})

EASY = {
    "what": (
        "What is shown in the {color} box?",
        "What does the region in the {color} box show?",
        "Which {noun} does the {color} box mark?",
        "What is the {noun} in the {color} box?",
    ),
    "where": (
        "Where is the region in the {color} box?",
        "Where does the region in the {color} box lie?",
        "What is the location of the region in the {color} box?",
        "Describe the location of the region in the {color} box.",
    ),
    "which_organ": (
        "At which organ is the region in the {color} box?",
        "Which organ lies at the site of the {color} box?",
        "Name the organ at the site of the {color} box.",
        "What organ is the {color} box seen at?",
    ),
    "presence": (
        "Is the region in the {color} box {one}?",
        "Does the {color} box contain {one}?",
        "Does the region in the {color} box show {one}?",
        "Can {one} be seen in the {color} box?",
    ),
    "describe": (
        "Describe the region in the {color} box.",
        "Describe the {noun} in the {color} box.",
        "What can be said of the region in the {color} box?",
        "Report what the {color} box shows.",
    ),
}
"""Questions about the highlighted region."""
MEDIUM = {
    "what": (
        "What {is} {subject}?",
        "Name {subject}.",
        "Which class {does} {subject} belong to?",
        "What {does} {subject} represent?",
    ),
    "where": (
        "Where {is} {subject}?",
        "Where {does} {subject} lie?",
        "What is the location of {subject}?",
        "Describe the location of {subject}.",
    ),
    "which_organ": (  # `at` is true inside and in projection alike; another word for radiographs would narrow the answer
        "At which organ {is} {subject} seen?",
        "Which organ lies at the site of {subject}?",
        "Name the organ at the site of {subject}.",
        "What organ {is} {subject} seen at?",
    ),
    "presence": (
        "Is there {one} in this image?",
        "Does this image show {one}?",
        "Can {one} be seen in this image?",
        "Does the image contain {one}?",
    ),
    "count": (
        "How many {many} are there in this image?",
        "How many {many} does this image show?",
        "Count the {many} in this image.",
        "What is the number of {many} in this image?",
    ),
    "describe": (
        "Describe the findings of this image.",
        "What does this image show?",
        "Report the findings of this image.",
        "Summarise what can be seen in this image.",
    ),
}
"""Questions about the whole image, also lent to others as their Hard question."""


@dataclass(frozen=True)
class Subject:
    """The lesions a whole-image question is about and the words that are true of them alone."""

    words: str
    members: tuple[int, ...]
    """Indices into `LinkedImage.annotations`."""

    @property
    def plural(self) -> bool:
        return len(self.members) > 1


class TemplateWriter:
    """Deterministic texts; implements `contract.Writer`.

    Args:
        language: only `en` so far.
        max_per_image: drafts per image at most, spread evenly over the question kinds.
        kinds: which of `KINDS` are asked.

    Raises:
        ValueError: another language, a cap under 1, or a kind that is not one of `KINDS`.
    """

    name = NAME

    def __init__(self, language: str = "en", max_per_image: int = 6, kinds: Sequence[str] = KINDS) -> None:
        if language != "en":
            raise ValueError(f"language={language!r}: the template writer knows only 'en'")
        if max_per_image < 1:
            raise ValueError(f"max_per_image={max_per_image}: give at least 1")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds={','.join(kinds)!r}: choose from {', '.join(KINDS)}")
        self.language, self.max_per_image, self.kinds = language, max_per_image, frozenset(kinds)

    def write(self, requests: Sequence[WriteRequest]) -> list[tuple[list[Draft], list[Reject]]]:
        """Up to `max_per_image` drafts of each image; nothing is refused here."""
        return [(self.drafts(request.linked, request.seed), []) for request in requests]

    def drafts(self, linked: LinkedImage, seed: int) -> list[Draft]:
        sheet = _Sheet(linked, seed, self.language)
        draw = generator(seed, f"template.kinds {linked.image.key}")
        order = [KINDS[int(i)] for i in draw.permutation(len(KINDS))]
        queues = [queue for kind in order if kind in self.kinds if (queue := sheet.questions(kind))]
        drafts: list[Draft] = []
        while queues and len(drafts) < self.max_per_image:
            for queue in queues:
                drafts += queue.pop(0)
            queues = [queue for queue in queues if queue]
        return drafts[: self.max_per_image]


class _Sheet:
    """One image with what its questions need. Each kind gives a queue of bundles; a bundle is drafts that belong together."""

    def __init__(self, linked: LinkedImage, seed: int, language: str) -> None:
        self._linked, self._seed, self._language = linked, seed, language
        image = linked.image
        self._all = linked.annotations
        self._lesions = [i for i, each in enumerate(self._all) if each.box_role == "lesion"]
        self._classes = list(dict.fromkeys(self._class(i) for i in self._lesions))
        self._image_facts = rationale.image_facts(linked)
        self._noun = "finding" if image.modality in _RADIOLOGY else "structure"

    # --- kinds

    def questions(self, kind: str) -> list[list[Draft]]:
        """The queue of a kind."""
        match kind:
            case "presence":
                return self.presence()
            case "count":
                return self.count()
            case "describe":
                return self.describe()
            case _:
                return self.about_lesions(kind)

    def about_lesions(self, kind: str) -> list[list[Draft]]:
        """what, where or which_organ: a draft per lesion, those that offer Medium first, otherwise in drawn order."""
        draw = self._draw(f"order {kind}")
        order = [self._lesions[int(i)] for i in draw.permutation(len(self._lesions))]
        drafts = [self._about(kind, target) for target in order if kind != "which_organ" or self._open_host(target)]
        return [[draft] for draft in sorted(drafts, key=lambda draft: draft.medium is None)]

    def presence(self) -> list[list[Draft]]:
        """Per class in scope that is present, by a fair coin: yes, or no on a control box and on an absent class.

        Easy is offered only where both answers could be given, so that a box alone tells nothing.
        """
        draw = self._draw("presence")
        absent = [str(name) for name in self._image_facts["absent"]]
        if not self._lesions:
            return [[self._no_class(name, nothing=True)] for name in draw.permutation(np.array(absent, dtype=object))[:1]]
        bundles = []
        for name in draw.permutation(np.array(sorted(self._image_facts["count"]), dtype=object)):
            control = next(
                (i for i, each in enumerate(self._all) if each.box_role == "control" and self._class(i) == name), None
            )
            wanted, other = bool(draw.integers(2)), int(draw.integers(len(absent))) if absent else 0
            if wanted:
                bundles.append([self._yes(str(name), easy=control is not None)])
            else:
                bundles.append([self._no_region(control)] if control is not None else [])
                bundles[-1] += [self._no_class(absent[other], nothing=False)] if absent else []
        return [bundle for bundle in bundles if bundle]

    def count(self) -> list[list[Draft]]:
        """Per class in scope that is present."""
        bundles = []
        for name in self._classes:
            if name in self._image_facts["count"]:
                members = self._of_class(name)
                draw = self._draw(f"count {name}")
                clauses = self._explain(members, members, draw)
                if 1 < len(members) <= LISTED:
                    clauses.append(rationale.in_all(0, len(members)))
                answers = (str(len(members)), rationale.number_word(len(members)))
                question = self._question(MEDIUM, "count", name, draw)
                medium = StageText(question, text_of(clauses), answers[0], tuple(dict.fromkeys(answers)), "open")
                bundles.append([self._draft("count", members, medium=(medium, clauses), draw=draw)])
        return [bundles[int(i)] for i in self._draw("count").permutation(len(bundles))]

    def describe(self) -> list[list[Draft]]:
        """One draft: a drawn lesion in Easy, all of them (or the study's report) in Medium."""
        if not self._lesions:
            return []
        draw = self._draw("describe")
        target = self._lesions[int(draw.integers(len(self._lesions)))]
        annotations = self._first(target, self._lesions)
        easy = self._stage("easy", "describe", [target], annotations, rationale.finding(self._facts(target)), draw)
        clauses: list[Clause] = []
        for name in dict.fromkeys([self._class(target), *self._classes]):
            more = self._explain(self._of_class(name), annotations, draw)
            clauses += [
                Clause(c.fact, (" " if clauses and at == 0 else "") + c.text, c.annotation) for at, c in enumerate(more)
            ]
        answer = self._linked.image.report.get("findings") or self._composed()
        question = self._question(MEDIUM, "describe", self._class(target), draw)
        medium = StageText(question, text_of(clauses), answer, (answer,), "open")
        return [[self._draft("describe", annotations, easy=easy, medium=(medium, clauses), draw=draw)]]

    # --- drafts

    def _about(self, kind: str, target: int) -> Draft:
        draw = self._draw(f"{kind} {target}")
        subject = self._subject(kind, target)
        annotations = self._first(target, subject.members if subject else ())
        answers = self._answers(kind, [target])
        easy = self._stage("easy", kind, [target], annotations, answers[0], draw, answers=answers)
        medium = None
        if subject is not None:
            answers = self._answers(kind, subject.members)
            medium = self._stage(
                "medium", kind, subject.members, annotations, answers[0], draw, answers=answers, subject=subject
            )
        return self._draft(kind, annotations, easy=easy, medium=medium, draw=draw, subject=subject)

    def _yes(self, name: str, *, easy: bool) -> Draft:
        draw = self._draw(f"yes {name}")
        members = self._of_class(name)
        target = members[int(draw.integers(len(members)))]
        annotations = self._first(target, members)
        texts = self._stage("easy", "presence", [target], annotations, "Yes", draw) if easy else None
        medium = self._stage("medium", "presence", members, annotations, "Yes", draw)
        return self._draft("presence", annotations, easy=texts, medium=medium, draw=draw)

    def _no_region(self, control: int) -> Draft:
        draw = self._draw(f"no region {control}")
        clauses = rationale.none_here(0, self._facts(control), draw)
        question = self._question(EASY, "presence", self._class(control), draw)
        easy = StageText(question, text_of(clauses), "No", ("No",), "closed")
        return self._draft("presence", (control,), easy=(easy, clauses), draw=draw)

    def _no_class(self, name: str, *, nothing: bool) -> Draft:
        """Medium about a class that is absent; `nothing`: as every class in scope is."""
        draw = self._draw(f"no {name}")
        clauses = [rationale.none_anywhere(name, draw)]
        medium = StageText(self._question(MEDIUM, "presence", name, draw), text_of(clauses), "No", ("No",), "closed")
        lent = StageText(self._question(MEDIUM, "presence", name, draw), "", "No", ("No",), "closed")
        domain = self._domain("no finding" if nothing else name)
        traced = tuple(rationale.claims("medium", clauses))
        return Draft("presence", domain, (), None, medium, lent, traced, NAME, self._language)

    def _draft(
        self,
        kind: str,
        annotations: Sequence[int],
        *,
        draw: np.random.Generator,
        easy: tuple[StageText, Sequence[Clause]] | None = None,
        medium: tuple[StageText, Sequence[Clause]] | None = None,
        subject: Subject | None = None,
    ) -> Draft:
        lent = None
        if medium is not None:
            name = self._class(annotations[0])
            question = self._question(MEDIUM, kind, name, draw, subject)
            lent = StageText(question, "", medium[0].answer, medium[0].answers, medium[0].answer_type)
        traced = [
            claim for stage, made in (("easy", easy), ("medium", medium)) if made for claim in rationale.claims(stage, made[1])
        ]
        return Draft(
            question_kind=kind,
            domain=self._domain(self._class(annotations[0])),
            annotations=tuple(annotations),
            easy=easy[0] if easy else None,
            medium=medium[0] if medium else None,
            lend=lent,
            claims=tuple(traced),
            writer=NAME,
            language=self._language,
        )

    def _stage(
        self,
        stage: str,
        kind: str,
        members: Sequence[int],
        annotations: Sequence[int],
        answer: str,
        draw: np.random.Generator,
        *,
        answers: tuple[str, ...] = (),
        subject: Subject | None = None,
    ) -> tuple[StageText, list[Clause]]:
        clauses = self._explain(members, annotations, draw)
        phrasings = EASY if stage == "easy" else MEDIUM
        question = self._question(phrasings, kind, self._class(members[0]), draw, subject)
        closed = "closed" if kind == "presence" else "open"
        return StageText(question, text_of(clauses), answer, answers or (answer,), closed), clauses

    # --- words

    def _question(
        self,
        phrasings: Mapping[str, Sequence[str]],
        kind: str,
        name: str,
        draw: np.random.Generator,
        subject: Subject | None = None,
    ) -> str:
        words = {"noun": self._noun, "one": one(name), "many": many(name), "subject": subject.words if subject else ""}
        verbs = {"is": "are", "does": "do"} if subject and subject.plural else {"is": "is", "does": "does"}
        return pick(phrasings[kind], draw).format(color="{color}", **words, **verbs)

    def _explain(self, members: Sequence[int], annotations: Sequence[int], draw: np.random.Generator) -> list[Clause]:
        numbers = [list(annotations).index(member) for member in members]
        return rationale.lesions(numbers, [self._facts(member) for member in members], draw)

    def _subject(self, kind: str, target: int) -> Subject | None:
        """Words that hold for the target alone, or for all of its class where it comes first of them; None = there are none."""
        name = self._class(target)
        same, facts = self._of_class(name), self._facts(target)
        alone = len(self._classes) == 1
        noun = self._noun if alone or kind == "what" else name
        if kind == "which_organ" and not alone and str(self._all[target].organ) in name:
            return None  # the question would name the answer
        if kind == "what" and not alone:
            if facts.get("largest"):
                return Subject(f"the largest {noun} in this image", (target,))
            unique = sum(self._address(i) == self._address(target) for i in self._lesions) == 1
            return Subject(f"the {noun} {self._at(target)}", (target,)) if unique and self._hosted(target) else None
        if len(same) == 1:
            return Subject(f"the {noun} in this image", (target,))
        if facts.get("largest_of_class") and kind != "what":
            return Subject(f"the largest {noun} in this image", (target,))
        shared = kind == "what" or (kind == "which_organ" and len({self._all[i].organ for i in same}) == 1)
        return Subject(f"the {many(noun)} in this image", tuple(same)) if shared and target == same[0] else None

    def _answers(self, kind: str, members: Sequence[int]) -> tuple[str, ...]:
        first = self._all[members[0]]
        facts = first.facts
        if kind == "what":
            return _spellings(first.source.lesion_class)
        if kind == "where":
            return tuple(dict.fromkeys([facts["location"], *_other_order(facts)]))
        organ = str(first.organ)
        sided = paired(organ) and len(members) == 1 and facts.get("side") in ("left", "right")
        return (organ, f"{facts['side']} {organ}") if sided else (organ,)

    def _composed(self) -> str:
        if len(self._lesions) <= LISTED:
            return rationale.findings([self._facts(i) for i in self._lesions])
        sentences = []
        for name in self._classes:
            number = len(self._of_class(name))
            counted = f"{rationale.number_word(number)} {many(name)}" if number > 1 else one(name)
            sentence = counted if name in self._image_facts["count"] or number == 1 else f"at least {counted}"
            sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
        return " ".join(sentences)

    # --- the image

    def _draw(self, purpose: str) -> np.random.Generator:
        return generator(self._seed, f"template.{purpose} {self._linked.image.key}")

    def _facts(self, at: int) -> dict[str, Any]:
        return dict(self._all[at].facts)

    def _class(self, at: int) -> str:
        return self._all[at].source.lesion_class

    def _of_class(self, name: str) -> list[int]:
        return [i for i in self._lesions if self._class(i) == name]

    def _hosted(self, at: int) -> bool:
        """Whether the lesion is known to be in (or to project over) an organ."""
        return self._all[at].organ is not None and self._all[at].organ_relation in ("inside", "projects_over")

    def _open_host(self, at: int) -> bool:
        """Whether its organ is worth asking for: known, and not the only one its class can have."""
        candidates = self._facts(at)["organ_candidates"]
        return self._hosted(at) and (candidates == "any" or len(candidates) > 1)

    def _address(self, at: int) -> tuple[Any, ...]:
        each: LinkedAnnotation = self._all[at]
        return each.organ, each.facts.get("side") if each.facts.get("side_of") == "organ" else None

    def _at(self, at: int) -> str:
        """`in the left kidney`, `projecting over the left lung`: an address that tells lesions apart."""
        organ, side = self._address(at)
        named = f"{side} {organ}" if side in ("left", "right") else organ
        return f"{'projecting over' if self._all[at].organ_relation == 'projects_over' else 'in'} the {named}"

    def _first(self, target: int, others: Sequence[int]) -> tuple[int, ...]:
        """The target, then the rest in reading order."""
        return (target, *(i for i in others if i != target))

    def _domain(self, name: str) -> str:
        image = self._linked.image
        parts = [name, image.modality or "unknown"]
        return " / ".join([*parts, image.technique] if image.modality == "MR" and image.technique else parts)


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
