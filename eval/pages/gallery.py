"""Cases as HTML cards with filters: picture, boxes that can be switched on and off, truth beside reply, values.

Every picture stands in the page once, however many cards show it. Without script all cards are shown and nothing filters. Knows
cases, no suites; reads the kept pictures and nothing else.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from eval.pages.case_pictures import PICTURES
from eval.pages.cases import DECIDED_BY, RIGHT, UNJUDGED, UNPARSED, WRONG, WRONG_REASON, Case
from eval.pages.page import text
from medclm.metrics.parsing import split_completion
from medclm.types import Box

LOOKS = {RIGHT: ("good", "✓"), WRONG_REASON: ("doubt", "!"), WRONG: ("bad", "✗"), UNPARSED: ("none", "?"), UNJUDGED: ("none", "–")}  # fmt: skip
"""Outcome -> class and sign: never told by colour alone."""
_STATES = {1.0: "present", 0.0: "absent", -1.0: "uncertain"}
_LONG, _SCROLLS = 120, 600
"""Letters above which a text is no phrase and loses its weight, and above which it scrolls in its place."""


@dataclass(frozen=True)
class Kept:
    """A picture of the page."""

    path: Path
    size: tuple[int, int]
    """(width, height) in pixels."""


@dataclass(frozen=True)
class Card:
    """One case on the page, and what it is filtered and sorted by."""

    group: str
    domain: str
    kind: str
    why: tuple[str, ...]
    boxes: bool
    """There are any on its pictures."""
    scores: Mapping[str, float]
    body: str
    """HTML."""


def kept_pictures(folder: Path, cases: Iterable[Case]) -> dict[str, Kept]:
    """The pictures of cases by file name.

    Raises:
        ValueError: a picture that a case names is missing; names it and the cure.
    """
    found = {}
    for name in sorted({case.picture for case in cases if case.picture}):
        path = folder / PICTURES / name
        if not path.is_file():
            raise ValueError(f"{path}: missing, but predictions.jsonl names it: run launch/evaluate.py again")
        with Image.open(path, formats=("JPEG",)) as image:
            found[name] = Kept(path, image.size)
    return found


def store(kept: Mapping[str, Kept]) -> Iterator[str]:
    """The pictures themselves, for the end of the page: scores are read while they come in."""
    yield "<svg class='store' aria-hidden='true' width='0' height='0'><defs>"
    for name, one in kept.items():
        data = base64.b64encode(one.path.read_bytes()).decode("ascii")
        wide, high = one.size
        yield f"<image id='{_anchor(name)}' width='{wide}' height='{high}' href='data:image/jpeg;base64,{data}'/>"
    yield "</defs></svg>"


def _anchor(name: str) -> str:
    return f"p-{text(Path(name).stem)}"


# One case.


def figure(case: Case, kept: Mapping[str, Kept], label: str) -> str:
    """The picture as a button that enlarges it, true and predicted boxes over it; nothing where there is no picture."""
    if case.picture is None or case.picture not in kept:
        return ""
    wide, high = kept[case.picture].size
    about = f"{label}: {_count(len(case.boxes_unit), 'true box', 'true boxes')}, {_count(len(case.said_unit), 'box of the model', 'boxes of the model')}"
    return (
        f"<button type='button' class='enlarge' aria-label='Enlarge {text(about)}'>"
        f"<svg class='picture' viewBox='0 0 {wide} {high}' aria-hidden='true'><use href='#{_anchor(case.picture)}'/>"
        f"{_boxes('truth', case.boxes_unit, wide, high)}{_boxes('said', case.said_unit, wide, high)}</svg></button>"
    )


def _boxes(kind: str, boxes_unit: Sequence[Box], wide: int, high: int) -> str:
    """Outlines over a dark rim, so that they stand out from bone and from air; numbered where there are several."""
    parts = []
    for number, box in enumerate(boxes_unit, start=1):
        x, y, width, height = _placed(box, wide, high)
        place = f"x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}'"
        parts.append(f"<rect class='rim' {place}/><rect class='line' {place}/>")
        if len(boxes_unit) > 1:
            size = max(wide, high) / 24
            side, anchor = (x, "start") if kind == "truth" else (x + width, "end")
            top = y - size / 3 if y > 1.5 * size else y + size
            parts.append(f"<text x='{side:.1f}' y='{top:.1f}' font-size='{size:.1f}' text-anchor='{anchor}'>{number}</text>")
    return f"<g class='{kind}'>{''.join(parts)}</g>" if parts else ""


def _placed(box: Box, wide: int, high: int) -> tuple[float, float, float, float]:
    """x, y, width, height inside the picture, in its pixels: corners in any order, at least one pixel a side, cut at the edge."""
    across, down = sorted((box.x0 * wide, box.x1 * wide)), sorted((box.y0 * high, box.y1 * high))
    x0, x1 = (min(max(edge, 0.0), wide) for edge in across)
    y0, y1 = (min(max(edge, 0.0), high) for edge in down)
    return min(x0, wide - 1), min(y0, high - 1), max(x1 - x0, 1.0), max(y1 - y0, 1.0)


def badge(group: str, looks: Mapping[str, tuple[str, str]]) -> str:
    kind, sign = looks[group]
    return f"<span class='badge {kind}'><span aria-hidden='true'>{sign}</span> {text(group)}</span>"


def about(case: Case) -> str:
    """Domain, kind and subgroups in one line."""
    parts = [part for part in (case.domain, case.kind.replace("_", " ")) if part]
    parts += [
        f"{name.replace('_', ' ')} {value}" for name, value in case.groups.items() if value not in case.domain.split(" / ")
    ]
    return f"<span class='soft'>{text(' · '.join(parts))}</span>"


def passage(title: str, words: str, kind: str = "") -> str:
    """A titled text; a long one scrolls in its place, and by keyboard."""
    scrolls = f" tabindex='0' role='region' aria-label='{text(title)}'" if len(words) > _SCROLLS else ""
    kinds = f"passage {kind}{' long' if len(words) > _LONG else ''}"
    return f"<div class='{kinds}'><h4>{text(title)}</h4><p{scrolls}>{text(words)}</p></div>"


def truth(case: Case) -> str:
    """Accepted answers, the first as the one to read, or labels."""
    lines = [f"{name}: {_STATES.get(state, str(state))}" for name, state in case.labels.items()]
    if case.answers:
        lines = [case.answers[0], *([f"or: {'; '.join(case.answers[1:])}"] if len(case.answers) > 1 else [])]
    return passage("Truth", "\n".join(lines) or ("as the boxes show" if case.boxes_unit else "nothing to find"), "true")


def reply(case: Case, title: str = "Model") -> str:
    """What the model answered, or which options it found likeliest."""
    if case.answer is None and case.measured:
        return passage(title, "\n".join(_likeliest(name, options) for name, options in case.measured.items()), "model")
    if case.outcome == UNPARSED or not case.text:
        return passage(title, "no answer could be read" if case.text else "it wrote nothing", "model silent")
    return passage(title, case.text if case.answer is None else case.answer, "model")


def _likeliest(name: str, options: Mapping[str, float]) -> str:
    """The likeliest option with its probability among the options; a label is named, a question's only ask is not."""
    top = max(options.values())
    share = {option: math.exp(value - top) for option, value in options.items()}
    best = max(share, key=share.__getitem__)
    told = f"{best}, {share[best] / sum(share.values()):.0%}"
    return f"{name.removeprefix('label: ')}: {told}" if name.startswith("label: ") else told


def reasoning(case: Case) -> str:
    """What stands before the answer; all that was written where no answer could be read."""
    shown = case.rationale and (case.answer is not None or case.outcome == UNPARSED)
    return passage("Its reasoning", case.rationale, "reasoning") if shown else ""


def values(case: Case, names: Sequence[str], headline: Sequence[str]) -> str:
    """The case's own values: those of the headline and of the badge in the open, the others folded with what else was asked."""
    own = [name for name in names if name in case.scores]
    opened = {*headline, *DECIDED_BY}  # what a badge stands for is seen beside it
    shown = [name for name in own if name in opened]
    folded = _pairs({name: _number(case.scores[name]) for name in own if name not in opened})
    if case.box_scores:
        sure = ", ".join(f"{math.exp(score):.2f}" for score in case.box_scores)
        folded += _pairs({"probability per token of each box": sure})
    if case.measured:
        folded += _pairs(
            {f"{name} · {option}": f"{value:.2f}" for name, of in case.measured.items() for option, value in of.items()}
        )
    folded += "".join(passage(f"Whole reply: {name}", said or "nothing") for name, said in case.others.items())
    folded += f"<p class='soft'>case <code>{text(case.id)}</code>, patient <code>{text(case.patient)}</code></p>"
    more = f"<details><summary>more on this case</summary>{folded}</details>"
    again = _pairs({name: split_completion(said).answer or "no answer" for name, said in case.others.items()})
    return (
        _pairs({name: _number(case.scores[name]) for name in shown}) + (f"<h4>Asked again</h4>{again}" if again else "") + more
    )


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs.items())
    return f"<dl class='values'>{rows}</dl>" if rows else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if value in (0.0, 1.0) else f"{value:.3g}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else f"no {one}"


# All of them.


def gallery(
    cards: Sequence[Card], looks: Mapping[str, tuple[str, str]], order: Sequence[str], sorted_by: Sequence[str], of: str = ""
) -> Iterator[str]:
    """Filters and cards.

    Args:
        looks: group -> class and sign.
        order: of the groups, as they are offered.
        sorted_by: values by which cards can be sorted.
        of: what these are called before their name.
    """
    yield from _filters(cards, looks, order, sorted_by, of)
    yield "<div id='cards'>"
    for card in cards:
        numbers = json.dumps({name: round(card.scores[name], 4) for name in sorted_by if name in card.scores})
        yield f"<article class='case {looks[card.group][0]}' data-group='{text(card.group)}' data-domain='{text(card.domain)}' "
        yield f"data-kind='{text(card.kind)}' data-why='{text(json.dumps(card.why))}' data-scores='{text(numbers)}'>{card.body}</article>"
    yield "</div><p id='nothing' hidden>No case is like that. <button type='button' class='reset'>Show all</button></p>"
    yield "<dialog id='view' aria-label='One case, enlarged'><div class='bar'><button type='button' id='before'>← previous</button>"
    yield "<output id='place'></output><button type='button' id='after'>next →</button>"
    yield f"{_switches() if any(card.boxes for card in cards) else ''}<button type='button' id='close'>close</button></div><div id='large'></div></dialog>"


def _filters(
    cards: Sequence[Card], looks: Mapping[str, tuple[str, str]], order: Sequence[str], sorted_by: Sequence[str], of: str
) -> Iterator[str]:
    groups = Counter(card.group for card in cards)
    yield "<div id='filters' role='search' aria-label='Cases' hidden><fieldset><legend>Outcome</legend>"
    for group in (group for group in order if groups[group]):
        yield f"<label><input type='checkbox' class='group' value='{text(group)}' checked>{badge(group, looks)} {groups[group]}</label>"
    boxes = any(card.boxes for card in cards)
    yield f"</fieldset>{f'<fieldset><legend>Boxes</legend>{_switches()}</fieldset>' if boxes else ''}<div class='fields'>"
    yield from _select("domain", "Domain", Counter(card.domain for card in cards))
    yield from _select("kind", "Question kind", Counter(card.kind for card in cards))
    yield from _select("why", "Shown as", Counter(why for card in cards for why in card.why))
    yield "<label>Order <select id='sort'><option value=''>as chosen</option>"
    for name in sorted_by:
        if any(name in card.scores for card in cards):
            yield f"<option value='+{text(name)}'>{of}{text(name)}, lowest first</option><option value='-{text(name)}'>{of}{text(name)}, highest first</option>"
    yield "</select></label><label>Search <input type='search' id='search' placeholder='question, answer, id …'></label>"
    yield f"<button type='button' class='reset'>Show all</button><output id='count' aria-live='polite'>{len(cards)} cases</output></div></div>"


def _select(name: str, title: str, values: Counter[str]) -> Iterator[str]:
    """A choice among values; none where there is nothing to choose."""
    if len(values) < 2:
        return
    yield f"<label>{title} <select class='only' data-key='{name}'><option value=''>all</option>"
    for value, number in sorted(values.items()):
        yield f"<option value='={text(value)}'>{text(value.replace('_', ' ') or 'unknown')} ({number})</option>"
    yield "</select></label>"


def _switches() -> str:
    return "".join(
        f"<label class='{kind}'><input type='checkbox' class='switch' value='{kind}' checked>{title}</label>"
        for kind, title in (("truth", "truth"), ("said", "model"))
    )
