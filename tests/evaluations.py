"""Invented evaluations of phantoms for tests of their pages: real suites judge replies that are right, wrong, misplaced or unreadable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.example import Ask, Example, Prediction, Reply, Square
from eval.pages.cases import Case, case_of
from eval.pictures import Pictures
from eval.pool import Pool, corpus_pool
from eval.respondent import Asked
from eval.runner import Plan, evaluate
from eval.suite import ANSWER
from medclm.config import BoxTextSection
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.shards import Corpus
from medclm.draws import generator
from medclm.types import Box

SQUARE = Square(side=224, patch_size=14, fit="pad")


def example(number: int = 0, **changes: Any) -> Example:
    """A question about a nodule in the upper left of a picture."""
    stated: dict[str, Any] = {
        "id": f"case-{number}",
        "patient": f"p{number // 2}",
        "question_kind": "what",
        "answer_type": "open",
        "question": "What is seen?",
        "picture": number,
        "answers": ("nodule", "lung nodule"),
        "boxes_unit": (Box(0.1, 0.2, 0.3, 0.4),),
        "domain": "nodule / CT",
        "boxes_known": True,
    }
    return Example(**(stated | changes))


def case(number: int = 0, *, values: Mapping[str, float] | None = None, said: Prediction | None = None, **changes: Any) -> Case:
    """A case of `example` that was answered `nodule` with a box beside the true one."""
    reply = Prediction(
        text="Reasoning: it is there.\n\nAnswer: nodule",
        answer="nodule",
        rationale="it is there.",
        boxes_unit=(Box(0.15, 0.2, 0.35, 0.4),),
    )
    one = example(number, **changes)
    return case_of(one, [Ask(ANSWER, one.question)], {ANSWER: said or reply}, dict(values or {"right": 1.0}))


def phantom_pool(folder: Path, *, count: int, size: int) -> Pool:
    """The test questions of a freshly built corpus; its pictures know a made-up sex beside what phantoms know."""
    build(PhantomSource(count=count, size=size), TemplateWriter(), folder, BuildOptions(ids=phantom_ids(0), progress=False))
    pool = corpus_pool(Corpus(folder), "test")
    return replace(pool, asked=[replace(one, groups=_with_sex(one)) for one in pool.asked])


def _with_sex(one: Example) -> Mapping[str, str]:
    return {**one.groups, "sex": "FM"[int(generator(0, one.patient).integers(2))]}


@dataclass
class Invented:
    """A respondent that writes as a model of a skill in 0..1 might; a reply depends on example, view and seed alone."""

    pool: Pool
    skill: float
    seed: int = 0
    square: Square = SQUARE
    box_text: BoxTextSection = field(default_factory=BoxTextSection)
    settings: dict[str, Any] = field(default_factory=lambda: {"prompt": "USER: <image>\n{question} ASSISTANT:"})

    def __post_init__(self) -> None:
        self._answers = defaultdict(list)
        for one in self.pool.train:
            self._answers[one.question_kind].append(one.answers[0])

    def replies(
        self, asked: Sequence[Asked], pictures: Pictures | None, progress: Callable[[int], None]
    ) -> Iterator[tuple[Asked, Reply]]:
        for one in asked:
            progress(1)
            skill = 0.0 if one.ask.view.kind == "blank" else self.skill
            yield one, self._reply(one.example, generator(self.seed, f"reply {one.id}"), skill)

    def _reply(self, one: Example, draw: np.random.Generator, skill: float) -> Reply:
        if draw.random() < 0.04:
            return Reply("Reasoning: the image shows the image shows the image shows the image", stopped=False)
        answer = one.answers[0] if draw.random() < skill else str(draw.choice(self._answers[one.question_kind]))
        boxes = [_near(box, draw, skill) for box in one.boxes_unit]
        if not boxes and draw.random() < 0.3:
            boxes = [Box(0.3, 0.3, 0.5, 0.6)]
        frame = None if self.pool.pictures is None else self.square.frame(self.pool.pictures.size(one.picture))
        seen = " and ".join(frame.write(box, self.box_text) for box in boxes) if frame and boxes else "The image"
        text = f"Reasoning: {seen} stands out from the rest of the organ, which fits {answer}.\n\nAnswer: {answer}"
        return Reply(text, box_scores=tuple(-0.1 * (1 + at) for at in range(len(boxes))))


def _near(box: Box, draw: np.random.Generator, skill: float) -> Box:
    """The box moved a little, or elsewhere altogether."""
    if draw.random() > 0.4 + 0.6 * skill:
        x, y = draw.uniform(0.05, 0.6, size=2)
        return Box(x, y, x + box.width, y + box.height)
    dx, dy = draw.normal(0, 0.15 * (1.2 - skill), size=2) * (box.width, box.height)
    x, y = min(max(box.x0 + dx, 0.0), 1 - box.width), min(max(box.y0 + dy, 0.0), 1 - box.height)
    return Box(x, y, x + box.width, y + box.height)


def evaluated(pool: Pool, out: Path, *, suites: Sequence[str], skill: float, seed: int = 0, blank: bool = False) -> Path:
    """The folder of an evaluation, as the runner leaves it."""
    plan = Plan(suites=tuple(suites), blank=blank, notes={"checkpoint": f"runs/{out.name}"})
    evaluate(plan, pool, Invented(pool, skill, seed), out)
    return out
