"""One judged question as people look at it, how it went, and which of many a page shows.

A line of predictions.jsonl is a case. Knows no suite: which values say that a case is right, and how good it is, are tables here
that a suite may replace. Knows nothing of HTML.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.example import Ask, Example, Said, Values
from medclm.types import Box

RIGHT, WRONG_REASON, WRONG, UNPARSED, UNJUDGED = "right", "right for the wrong reason", "wrong", "unparsed", "not judged"
OUTCOMES = (RIGHT, WRONG_REASON, WRONG, UNPARSED, UNJUDGED)
"""`not judged`: the suite grades it, or compares it with others, and calls nothing right or wrong."""

DECIDED_BY: Mapping[str, float] = {
    "answer_and_box": 1.0,
    "right": 1.0,
    "overall": 1.0,
    "closed_accuracy": 1.0,
    "choice_accuracy": 1.0,
    "false_positive_rate": 0.0,
    "acc@0.5": 1.0,
}
"""Per-example value -> what it is in a right case; the first that a case has decides."""
READ_BY = ("parsed_rate", "answered", "reason_format_rate", "false_positive_rate")
"""Values of suites that judge what stands after `Answer:`; where a case has none of them its whole text is judged."""
GRADED_BY: Mapping[str, float] = {
    "mean_iou": 1.0,
    "open_token_f1": 1.0,
    "open_token_recall": 1.0,
    "describe_token_f1": 1.0,
    "report_rouge_l": 1.0,
    "brier": 0.0,
    "changed_when_occluded": 1.0,
    "same_on_blank": 0.0,
}
"""Per-example value in 0..1 -> its best; the first that a case has tells better from worse among equally right ones."""

WORST, BEST, DRAWN = "worst", "best", "random draw"
SHOWN: Mapping[str, int] = {WRONG_REASON: 10, UNPARSED: 4, WORST: 10, BEST: 6, DRAWN: 30}
"""Why a case is on the page -> how many at most: 60 in all, which a reader gets through and a file of 6 MB holds."""


@dataclass(frozen=True)
class Case:
    """A question, what is true, what was said, and how it was judged."""

    id: str
    patient: str
    kind: str
    answer_type: str
    question: str
    domain: str
    groups: Mapping[str, str]
    answers: tuple[str, ...]
    """Accepted alternatives; of a report, its text."""
    labels: Mapping[str, float]
    """Observation -> 1 present, 0 absent, -1 uncertain."""
    boxes_unit: tuple[Box, ...]
    text: str
    """As the model wrote it; empty where it was only measured."""
    rationale: str
    answer: str | None
    """None = unparsed, or nothing was written."""
    said_unit: tuple[Box, ...]
    box_scores: tuple[float, ...]
    """Mean log-probability of the tokens of each box; empty where it is not known."""
    measured: Mapping[str, Mapping[str, float]]
    """Name of an ask -> option -> its log-likelihood, of what was measured instead of written."""
    others: Mapping[str, str]
    """Name of an ask -> the reply, of what was asked beside the plain question."""
    scores: Mapping[str, float]
    outcome: str
    """One of `OUTCOMES`."""
    grade: float | None
    """Higher is better, for sorting; None where nothing grades it."""
    chosen: tuple[str, ...] = ()
    """Why it is on the page, names in `SHOWN`; empty = it is not."""
    picture: str | None = None
    """File in FOLDER/pictures, for a case that is on the page and has one."""


def case_of(
    example: Example,
    asks: Sequence[Ask],
    said: Said,
    values: Values,
    *,
    decided_by: Mapping[str, float] = DECIDED_BY,
    graded_by: Mapping[str, float] = GRADED_BY,
) -> Case:
    """An example with what was asked about it, what came back, and its values; the first ask is the one that the case shows."""
    first, options = said[asks[0].name], {ask.name: ask.options for ask in asks}
    scores = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    measured = {
        name: dict(zip(options[name], one.option_scores, strict=True))
        for name, one in said.items()
        if 0 < len(one.option_scores) == len(options[name])  # stored predictions may lack some, and count as said nothing
    }
    decided = next((scores[name] == best for name, best in decided_by.items() if name in scores), None)
    grade = next((scores[name] if best else -scores[name] for name, best in graded_by.items() if name in scores), None)
    boxes_are_enough = bool(first.boxes_unit) and not example.answers
    silent = first.answer is None and not boxes_are_enough and any(name in scores for name in READ_BY)
    return Case(
        id=example.id,
        patient=example.patient,
        kind=example.question_kind,
        answer_type=example.answer_type,
        question=example.question or (asks[0].question if len(asks) == 1 else _together(asks)),
        domain=example.domain,
        groups=dict(example.groups),
        answers=example.answers,
        labels=dict(example.labels),
        boxes_unit=example.boxes_unit,
        text=first.text,
        rationale=first.rationale,
        answer=first.answer,
        said_unit=first.boxes_unit,
        box_scores=first.box_scores,
        measured=measured,
        others={name: one.text for name, one in said.items() if one is not first and not one.option_scores},
        scores=scores,
        outcome=_outcome(decided, silent, bool(scores.get("right_for_wrong_reason"))),
        grade=grade,
    )


def _together(asks: Sequence[Ask]) -> str:
    return ", ".join(ask.name.removeprefix("label: ") for ask in asks) + "?"


def _outcome(decided: bool | None, silent: bool, fooled: bool) -> str:
    if decided:
        return RIGHT
    if silent:
        return UNPARSED
    if fooled:
        return WRONG_REASON
    return UNJUDGED if decided is None else WRONG


def line_of(case: Case) -> dict[str, Any]:
    """A case as predictions.jsonl has it; what is empty for most is left out."""
    optional = {"others": case.others, "measured": case.measured, "chosen": list(case.chosen), "picture": case.picture}
    truth: dict[str, Any] = {"answers": list(case.answers), "boxes_xyxy_unit": _lists(case.boxes_unit)}
    parsed: dict[str, Any] = {"answer": case.answer, "rationale": case.rationale, "boxes_xyxy_unit": _lists(case.said_unit)}
    return {
        "id": case.id,
        "patient": case.patient,
        "question_kind": case.kind,
        "answer_type": case.answer_type,
        "question": case.question,
        "domain": case.domain,
        "groups": case.groups,
        "truth": truth | ({"labels": case.labels} if case.labels else {}),
        "text": case.text,
        "parsed": parsed | ({"box_scores": list(case.box_scores)} if case.box_scores else {}),
        **{name: value for name, value in optional.items() if value},
        "scores": case.scores,
        "outcome": case.outcome,
        "grade": case.grade,
    }


def _lists(boxes: Sequence[Box]) -> list[list[float]]:
    return [list(box) for box in boxes]


def read_cases(folder: Path) -> list[Case]:
    """The cases of an evaluation folder.

    Raises:
        ValueError: no predictions.jsonl, or a line that is no case; names the line and the cure.
    """
    path = folder / "predictions.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: no predictions.jsonl: give a folder such as runs/NAME/eval/vqa-test")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            found.append(_case(json.loads(line)))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}:{number}: not a case ({what}): run launch/evaluate.py again with this version") from error
    return found


def _file_name(name: Any) -> str | None:
    """The name of a kept picture; a path would lead out of its folder."""
    if name is not None and (not isinstance(name, str) or Path(name).name != name):
        raise TypeError(f"picture {name!r} is no file name")
    return name


def _case(line: Mapping[str, Any]) -> Case:
    truth, parsed = line["truth"], line["parsed"]
    return Case(
        id=line["id"],
        patient=line["patient"],
        kind=line["question_kind"],
        answer_type=line["answer_type"],
        question=line["question"],
        domain=line["domain"],
        groups=line["groups"],
        answers=tuple(truth["answers"]),
        labels=truth.get("labels", {}),
        boxes_unit=tuple(Box(*box) for box in truth["boxes_xyxy_unit"]),
        text=line["text"],
        rationale=parsed["rationale"],
        answer=parsed["answer"],
        said_unit=tuple(Box(*box) for box in parsed["boxes_xyxy_unit"]),
        box_scores=tuple(parsed.get("box_scores", ())),
        measured=line.get("measured", {}),
        others=line.get("others", {}),
        scores=line["scores"],
        outcome=line["outcome"],
        grade=line["grade"],
        chosen=tuple(line.get("chosen", ())),
        picture=_file_name(line.get("picture")),
    )


def tally(cases: Sequence[Case]) -> dict[str, int]:
    """Cases by outcome, in the order of `OUTCOMES`, without those that none has."""
    counts = Counter(case.outcome for case in cases)
    return {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]}


# Which cases a page shows.


def lottery(seed: int, case_id: str) -> bytes:
    """Place of a case in the draw: by its id, so two evaluations of the same questions draw the same cases."""
    return hashlib.blake2b(f"{seed} {case_id}".encode(), digest_size=16).digest()


def choose(cases: Sequence[Case], *, seed: int, numbers: Mapping[str, int] = SHOWN) -> list[Case]:
    """The same cases in the same order; those that a page shows say why in `chosen`.

    Right for the wrong reason and unparsed are as many as `numbers` has, drawn evenly. Of the others, worst and best go by right
    or wrong, then by grade, then by the draw; where all are alike there is no worst and no best. The random draw is over all
    cases, whatever else they are chosen for: it alone shows how the whole looks.
    """
    drawn = sorted(cases, key=lambda case: lottery(seed, case.id))
    apart = {
        name: [case for case in drawn if case.outcome == name][: numbers.get(name, 0)] for name in (WRONG_REASON, UNPARSED)
    }
    ranks = {case.id: rank for case in drawn if case.outcome not in apart and (rank := _rank(case)) is not None}
    ranked = sorted((case for case in drawn if case.id in ranks), key=lambda case: ranks[case.id])
    low, high = min(ranks.values(), default=None), max(ranks.values(), default=None)
    worst = [case for case in ranked if ranks[case.id] != high][: numbers.get(WORST, 0)]
    taken = {case.id for case in worst}
    best = [case for case in reversed(ranked) if ranks[case.id] != low and case.id not in taken][: numbers.get(BEST, 0)]
    why: dict[str, list[str]] = {}
    for name, members in {**apart, WORST: worst, BEST: best}.items():
        for case in members:
            why.setdefault(case.id, []).append(name)
    for case in drawn[: numbers.get(DRAWN, 0)]:
        why.setdefault(case.id, []).append(DRAWN)
    return [replace(case, chosen=tuple(why.get(case.id, ()))) for case in cases]


def _rank(case: Case) -> tuple[float, float] | None:
    """Higher is better; None where nothing says better or worse."""
    decided = {RIGHT: 1.0, WRONG: 0.0}.get(case.outcome)
    if decided is None and case.grade is None:
        return None
    return (0.5 if decided is None else decided), (-math.inf if case.grade is None else case.grade)
