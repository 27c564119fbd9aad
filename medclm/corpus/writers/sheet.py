"""The questions of one image, kind by kind: which drafts there are, with texts around traced claims.

Box 0 of a draft is its target, the one that is drawn in Easy. Medium and the lent question are about the whole image and
need words that are true of their lesions alone, so they may be missing. Knows the view of an image and phrases.

Stages by kind:
    what, where, which_organ, size   Easy, Medium
    presence                   yes: Easy and Medium; no: Easy on a control box, Medium on a class absent from the image
    count, compare             Medium
    describe                   Easy, Medium
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medclm.corpus import rationale
from medclm.corpus.contract import Draft, LinkedImage, StageText
from medclm.corpus.phrases import Phrases
from medclm.corpus.rationale import LISTED, Clause, many, one, pick, text_of
from medclm.corpus.writers.view import NO_FINDING, Subject, View
from medclm.draws import generator

Told = tuple[StageText, Sequence[Clause]]
"""A stage's texts and the clauses that its rationale is made of."""


class Sheet:
    """One image. Each kind gives a queue of bundles; a bundle is drafts that belong together."""

    def __init__(self, linked: LinkedImage, seed: int, phrases: Phrases, writer: str) -> None:
        self._view, self._seed, self._phrases, self._writer = View(linked), seed, phrases, writer

    def questions(self, kind: str) -> list[list[Draft]]:
        """The queue of a kind."""
        match kind:
            case "presence":
                return self._presence()
            case "count":
                return self._count()
            case "compare":
                return self._compare()
            case "describe":
                return self._describe()
            case _:
                return self._about_lesions(kind)

    # --- kinds

    def _about_lesions(self, kind: str) -> list[list[Draft]]:
        """what, where, which_organ or size: a draft per lesion, those that offer Medium first, otherwise in drawn order."""
        view, draw = self._view, self._draw(f"order {kind}")
        order = [view.lesions[int(i)] for i in draw.permutation(len(view.lesions))]
        asked = [
            target
            for target in order
            if (kind != "which_organ" or view.open_host(target)) and (kind != "size" or "size_mm" in view.facts(target))
        ]
        drafts = [self._about(kind, target) for target in asked]
        return [[draft] for draft in sorted(drafts, key=lambda draft: draft.medium is None)]

    def _presence(self) -> list[list[Draft]]:
        """Per class in scope that is present, by a fair coin: yes, or no on a control box and on an absent class.

        Easy is offered only where both answers could be given, so that a box alone tells nothing.
        """
        view, draw = self._view, self._draw("presence")
        absent = [str(name) for name in view.image_facts["absent"]]
        if not view.lesions:
            return [[self._no_class(name)] for name in draw.permutation(np.array(absent, dtype=object))[:1]]
        bundles = []
        for name in draw.permutation(np.array(sorted(view.image_facts["count"]), dtype=object)):
            control = view.control_of(str(name))
            wanted, other = bool(draw.integers(2)), int(draw.integers(len(absent))) if absent else 0
            if wanted:
                bundles.append([self._yes(str(name), easy=control is not None)])
            else:
                bundles.append([self._no_region(control)] if control is not None else [])
                bundles[-1] += [self._no_class(absent[other])] if absent else []
        return [bundle for bundle in bundles if bundle]

    def _count(self) -> list[list[Draft]]:
        """Per class in scope that is present."""
        view, bundles = self._view, []
        for name in view.classes:
            if name in view.image_facts["count"]:
                members = view.of_class(name)
                draw = self._draw(f"count {name}")
                clauses = self._explain(members, members, draw)
                if 1 < len(members) <= LISTED:
                    clauses.append(rationale.in_all(0, len(members)))
                answers = (str(len(members)), rationale.number_word(len(members)))
                question = self._question(self._phrases.medium, "count", name, draw)
                medium = StageText(question, text_of(clauses), answers[0], tuple(dict.fromkeys(answers)), "open")
                bundles.append([self._draft("count", members, medium=(medium, clauses), draw=draw)])
        return [bundles[int(i)] for i in self._draw("count").permutation(len(bundles))]

    def _compare(self) -> list[list[Draft]]:
        """The largest lesion against one other, where each has an address of its own."""
        view = self._view
        largest = next((i for i in view.lesions if view.facts(i).get("largest")), None)
        if largest is None or not view.hosted(largest) or not view.knows_all(view.class_of(largest)):
            return []
        told = [(view.class_of(i), view.address(i)) for i in view.lesions]
        others = [
            i
            for i in view.lesions
            if i != largest
            and view.hosted(i)
            and view.knows_all(view.class_of(i))
            and not view.contains(largest, i)  # a part is smaller than its whole: nothing to see
            and told.count((view.class_of(i), view.address(i))) == 1
        ]
        if not others or told.count((view.class_of(largest), view.address(largest))) > 1:
            return []
        draw = self._draw("compare")
        other = others[int(draw.integers(len(others)))]
        names = [f"the {view.class_of(i)} {view.at(i)}" for i in (largest, other)]
        first, second = names if draw.integers(2) else names[::-1]
        clauses: list[Clause] = []
        for number, at in enumerate((largest, other)):
            more = rationale.lesion(number, view.facts(at), self._phrases, draw)
            clauses += [Clause(c.fact, (" " if number and n == 0 else "") + c.text, c.annotation) for n, c in enumerate(more)]
        clauses.append(rationale.larger(0))
        question = pick(self._phrases.medium["compare"], draw).format(first=first, second=second)
        answers = (names[0], names[0].removeprefix("the "))
        medium = StageText(question, text_of(clauses), answers[0], answers, "choice")
        lent = StageText(question, "", answers[0], answers, "choice")
        return [[self._draft("compare", (largest, other), medium=(medium, clauses), lent=lent, draw=draw)]]

    def _describe(self) -> list[list[Draft]]:
        """One draft: a drawn lesion in Easy, all of them (or the study's report) in Medium."""
        view = self._view
        if not view.lesions:
            return []
        draw = self._draw("describe")
        target = view.lesions[int(draw.integers(len(view.lesions)))]
        annotations = _first(target, view.lesions)
        easy = self._stage("easy", "describe", [target], annotations, (rationale.finding(view.facts(target), size=True),), draw)
        if len(view.classes) > LISTED:  # more than a text can hold
            return [[self._draft("describe", (target,), easy=easy, draw=draw)]]
        clauses: list[Clause] = []
        for name in dict.fromkeys([view.class_of(target), *view.classes]):
            more = self._explain(view.of_class(name), annotations, draw)
            clauses += [
                Clause(c.fact, (" " if clauses and at == 0 else "") + c.text, c.annotation) for at, c in enumerate(more)
            ]
        answer = view.reported() or view.composed()
        question = self._question(self._phrases.medium, "describe", view.class_of(target), draw)
        medium = StageText(question, text_of(clauses), answer, (answer,), "open")
        return [[self._draft("describe", annotations, easy=easy, medium=(medium, clauses), draw=draw)]]

    # --- drafts

    def _about(self, kind: str, target: int) -> Draft:
        view, draw = self._view, self._draw(f"{kind} {target}")
        subject = view.subject(kind, target)
        annotations = _first(target, subject.members if subject else ())
        easy = self._stage("easy", kind, [target], annotations, view.answers(kind, [target]), draw)
        medium = None
        if subject is not None:
            answers = view.answers(kind, subject.members)
            medium = self._stage("medium", kind, subject.members, annotations, answers, draw, subject=subject)
        return self._draft(kind, annotations, easy=easy, medium=medium, draw=draw, subject=subject)

    def _yes(self, name: str, *, easy: bool) -> Draft:
        draw = self._draw(f"yes {name}")
        members = self._view.of_class(name)
        target = members[int(draw.integers(len(members)))]
        annotations = _first(target, members)
        texts = self._stage("easy", "presence", [target], annotations, ("Yes",), draw) if easy else None
        medium = self._stage("medium", "presence", members, annotations, ("Yes",), draw)
        return self._draft("presence", annotations, easy=texts, medium=medium, draw=draw)

    def _no_region(self, control: int) -> Draft:
        draw = self._draw(f"no region {control}")
        clauses = rationale.none_here(0, self._view.facts(control), self._phrases, draw)
        question = self._question(self._phrases.easy, "presence", self._view.class_of(control), draw)
        easy = StageText(question, text_of(clauses), "No", ("No",), "closed")
        return self._draft("presence", (control,), easy=(easy, clauses), draw=draw)

    def _no_class(self, name: str) -> Draft:
        """Medium about a class that is absent; of domain `no finding` only where a reader said that there is none."""
        view, draw = self._view, self._draw(f"no {name}")
        clauses = [rationale.none_anywhere(name, self._phrases, draw)]
        questions = [self._question(self._phrases.medium, "presence", name, draw) for _ in range(2)]
        medium = StageText(questions[0], text_of(clauses), "No", ("No",), "closed")
        lent = StageText(questions[1], "", "No", ("No",), "closed")
        domain = view.domain(NO_FINDING if view.reader_saw_nothing() else name)
        traced = tuple(rationale.claims("medium", clauses))
        return Draft("presence", domain, (), None, medium, lent, traced, self._writer, self._phrases.language)

    def _draft(
        self,
        kind: str,
        annotations: Sequence[int],
        *,
        draw: np.random.Generator,
        easy: Told | None = None,
        medium: Told | None = None,
        lent: StageText | None = None,
        subject: Subject | None = None,
    ) -> Draft:
        name = self._view.class_of(annotations[0])
        if medium is not None and lent is None:
            question = self._question(self._phrases.medium, kind, name, draw, subject)
            lent = StageText(question, "", medium[0].answer, medium[0].answers, medium[0].answer_type)
        traced = [
            claim for stage, made in (("easy", easy), ("medium", medium)) if made for claim in rationale.claims(stage, made[1])
        ]
        return Draft(
            question_kind=kind,
            domain=self._view.domain(name),
            annotations=tuple(annotations),
            easy=easy[0] if easy else None,
            medium=medium[0] if medium else None,
            lend=lent,
            claims=tuple(traced),
            writer=self._writer,
            language=self._phrases.language,
        )

    def _stage(
        self,
        stage: str,
        kind: str,
        members: Sequence[int],
        annotations: Sequence[int],
        answers: tuple[str, ...],
        draw: np.random.Generator,
        *,
        subject: Subject | None = None,
    ) -> Told:
        if kind in ("size", "describe"):
            number, facts = list(annotations).index(members[0]), self._view.facts(members[0])
            clauses = rationale.lesion(number, facts, self._phrases, draw, size="size_mm" in facts)
        else:
            clauses = self._explain(members, annotations, draw)
        phrasings = self._phrases.easy if stage == "easy" else self._phrases.medium
        question = self._question(phrasings, kind, self._view.class_of(members[0]), draw, subject)
        answer_type = "closed" if kind == "presence" else "open"
        return StageText(question, text_of(clauses), answers[0], answers, answer_type), clauses

    # --- words

    def _question(
        self,
        phrasings: Mapping[str, Sequence[str]],
        kind: str,
        name: str,
        draw: np.random.Generator,
        subject: Subject | None = None,
    ) -> str:
        words = {"noun": self._view.noun, "one": one(name), "many": many(name), "subject": subject.words if subject else ""}
        verbs = {"is": "are", "does": "do"} if subject and subject.plural else {"is": "is", "does": "does"}
        return pick(phrasings[kind], draw).format(color="{color}", **words, **verbs)

    def _explain(self, members: Sequence[int], annotations: Sequence[int], draw: np.random.Generator) -> list[Clause]:
        numbers = [list(annotations).index(member) for member in members]
        return rationale.lesions(numbers, [self._view.facts(member) for member in members], self._phrases, draw)

    def _draw(self, purpose: str) -> np.random.Generator:
        return generator(self._seed, f"template.{purpose} {self._view.linked.image.key}")


def _first(target: int, others: Sequence[int]) -> tuple[int, ...]:
    """The target, then the rest in reading order."""
    return (target, *(i for i in others if i != target))
