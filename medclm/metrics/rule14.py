"""`rule14`, our own rule-based labeller: an English chest radiograph report -> 14 observations, each with status and side.

A finding is a phrase of the tables in rule14_phrases.py, or a state said of an organ (`the heart is enlarged`). Cues with a
direction and a reach deny, doubt or set it aside; scopes end at contrasts and new clauses. Sentences are read one by one, so
their order says nothing. It is a measuring rod, not a reader: how far it agrees with human coders is measured by
benchmarks/rule14.py. Never call its scores by another labeller's name. Knows nothing of models, files or languages: refuse
what is not English first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medclm.metrics import rule14_phrases as tables
from medclm.metrics.rule14_cues import CUES, PHRASE_STOPS, VERBS_MANY, VERBS_ONE, Effect, Reach
from medclm.metrics.rule14_phrases import OBSERVATIONS, Side, State, Status
from medclm.metrics.rule14_sides import Mention, placed
from medclm.metrics.rule14_text import Clauses, Match, Span, compiled, longest, lowered, matches, read_text, sections, sentences

__all__ = ["OBSERVATIONS", "Label", "Labels", "Side", "Status", "as_arrays", "label", "read_text"]


@dataclass(frozen=True)
class Label:
    """What a text says of one observation."""

    status: Status
    side: Side = Side.NONE_SAID
    """Of a present or uncertain finding, all its places together; none for others."""
    evidence: tuple[Span, ...] = ()
    """Start and end in characters of every phrase that gave the status, in text order."""


Labels = Mapping[str, Label]
"""One `Label` for each of OBSERVATIONS."""


def label(text: str) -> dict[str, Label]:
    """The status, side and evidence of all 14 observations; mentioned several times, present > uncertain > absent.

    Sections that say why or how the study was made (indication, history, comparison, technique, ...) are not read. `No Finding`
    is present where the read text has words and none of the other observations, except Support Devices, is present or
    uncertain, and absent where one is; without words everything is not mentioned.
    """
    lower = lowered(text)
    mentions = [mention for start, end in sentences(lower) for mention in _findings(lower, start, end)]
    found = {name: _summary([one for one in mentions if one.observation == name]) for name in OBSERVATIONS[1:]}
    return {"No Finding": _no_finding(lower, found), **found}


def as_arrays(labels: Sequence[Labels]) -> tuple[np.ndarray, np.ndarray]:
    """N labelled texts -> (N, 14) int8 `Status` and (N, 14) int8 `Side`, columns in the order of OBSERVATIONS."""
    status = np.array([[row[name].status for name in OBSERVATIONS] for row in labels], dtype=np.int8)
    side = np.array([[row[name].side for name in OBSERVATIONS] for row in labels], dtype=np.int8)
    return status.reshape(-1, len(OBSERVATIONS)), side.reshape(-1, len(OBSERVATIONS))


def _no_finding(lower: str, found: Labels) -> Label:
    deciding = [one for name, one in found.items() if name != "Support Devices" and one.status >= Status.UNCERTAIN]
    if deciding:
        return Label(Status.ABSENT, evidence=tuple(sorted({span for one in deciding for span in one.evidence})))
    words = any(re.search(r"[a-z]", lower[start:end]) for start, end in sections(lower))
    return Label(Status.PRESENT if words else Status.NOT_MENTIONED)


def _summary(mentions: list[Mention]) -> Label:
    if not mentions:
        return Label(Status.NOT_MENTIONED)
    status = max(one.status for one in mentions)
    deciding = [one for one in mentions if one.status == status]
    side = Side.NONE_SAID
    for one in deciding if status >= Status.UNCERTAIN else []:
        side |= one.side
    return Label(status, side, tuple(sorted({(one.start, one.end) for one in deciding})))


def _findings(lower: str, start: int, end: int) -> list[Mention]:
    """Mentions of a sentence with status and side, without those that are set aside."""
    phrases = _phrases(lower, start, end)
    mentions = sorted(_named(phrases) + _states(lower, start, end, phrases), key=lambda one: one.anchor)
    if not mentions:
        return []
    clauses = Clauses(lower, start, end)
    cues = longest(matches(((index, cue.pattern) for index, cue in enumerate(CUES)), lower, start, end))
    judged = _alternatives(lower, [_judged(lower, one, mentions, clauses, cues) for one in mentions])
    return [one for one in placed(lower, start, end, judged, clauses) if one.status != Status.NOT_MENTIONED]


_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "name": tables.NAMES,
    "sign": tables.SIGNS,
    "general": tables.GENERAL,
    "unrelated": {"": tables.UNRELATED},
}


def _phrases(lower: str, start: int, end: int) -> list[Match]:
    """Matches of all phrase tables; keys are the table's kind and the observation."""
    rows = [(f"{kind} {name}", row) for kind, table in _PHRASES.items() for name, patterns in table.items() for row in patterns]
    return longest(matches(rows, lower, start, end))


def _named(phrases: list[Match]) -> list[Mention]:
    """Mentions by name."""
    mentions = []
    for one in phrases:
        kind, _, name = str(one.key).partition(" ")
        if kind != "unrelated":
            status = Status.UNCERTAIN if kind == "sign" else Status.PRESENT
            mentions.append(Mention(name, one.start, one.end, (one.start, one.end), status, only_denied=kind == "general"))
    return mentions


_FILLER = re.compile(
    r"[\s-]*(?:(?:in|size|sized|configuration|contours?|shape|appearance|and|of|for|the|overall|mildly|globular|right|left|"
    r"bilateral|lateral|posterior|central)[\s-]+)*"
)
"""What may stand between a state and its organ: `normal size and configuration of the heart`."""
_LIST = re.compile(r"[\s-]*(?:,|and|or|/)?[\s-]*(?:(?:and|the)\s+)?(?:(?!of\b|in\b|at\b|on\b|with)\w+[\s-]+){0,2}$")
_COPULA = re.compile(rf"(?<!\w)(?<!there )(?:{VERBS_ONE}|{VERBS_MANY}|size|otherwise)(?:[\s-]+\w+(?:ly)?)?[\s-]+$")
_FOREIGN = re.compile(r"(?<!\w)(?:with|without|there|no|than|of focal|of any)(?!\w)|;")
_OTHERWISE = re.compile(r"otherwise[\s-]+(?:\w+ly[\s-]+)?$")
_LOOK_BACK = 30
"""Characters before a state in which its verb stands."""
_FEW = 5
_MANY = 8


def _states(lower: str, start: int, end: int, phrases: list[Match]) -> list[Mention]:
    """Mentions by what is said of organs: a state is bound to the organ right after it, else to those before it."""
    rows: list[tuple[int | str, str]] = [*tables.ORGANS.items()]
    rows += [(index, state.pattern) for index, state in enumerate(tables.STATES)]
    found = longest(matches(rows, lower, start, end) + phrases)  # organs and states inside a phrase are part of its name
    organs = [one for one in found if one.key in tables.ORGANS]
    states = [one for one in found if isinstance(one.key, int)]
    mentions: list[Mention] = []
    previous_end, previous = start, list[Match]()
    for match in states:
        bound = _after(lower, match, organs, states) or _before(lower, previous_end, match, organs)
        between = lower[previous_end : match.start]
        if not bound and len(between.split()) <= _FEW and "," not in between:
            bound = previous  # `stable and within normal limits`
        mentions += _said(lower, tables.STATES[int(match.key)], match, bound)
        previous_end, previous = match.end, bound
    return mentions


def _after(lower: str, state: Match, organs: list[Match], states: list[Match]) -> list[Match]:
    """`normal heart size and mediastinum`: the organ that follows, and those listed with it."""
    if _COPULA.search(lower[max(0, state.start - _LOOK_BACK) : state.start]):
        return []
    filler = _FILLER.match(lower, state.end)
    place = filler.end() if filler else state.end
    bound: list[Match] = []
    for organ in organs:
        if organ.start < place:
            continue
        gap = lower[place : organ.start]
        other_state = any(place <= other.start < organ.end for other in states)
        if other_state or not (_LIST.fullmatch(gap) if bound else not gap):
            break
        bound.append(organ)
        place = organ.end
    return bound


def _before(lower: str, floor: int, state: Match, organs: list[Match]) -> list[Match]:
    """`the heart and mediastinum are normal`: the organs since the previous state."""
    bound: list[Match] = []
    for organ in reversed([one for one in organs if floor <= one.start and one.end <= state.start]):
        gap = lower[organ.end : bound[-1].start if bound else state.start]
        if _FOREIGN.search(gap) or len(gap.split()) > _MANY:
            break
        bound.append(organ)
    return bound


def _said(lower: str, state: State, match: Match, organs: list[Match]) -> list[Mention]:
    before = lower[max(0, match.start - _LOOK_BACK) : match.start]
    if state.status is Status.ABSENT and _OTHERWISE.search(before):
        return []  # what is otherwise normal is not
    return [
        Mention(name, min(organ.start, match.start), max(organ.end, match.end), (match.start, match.end), state.status)
        for organ in organs
        for name in state.says.get(str(organ.key), ())
    ]


_UNDOES_DENIAL = ("excluded", "ruled out", "absent")


def _judged(lower: str, mention: Mention, mentions: list[Mention], clauses: Clauses, cues: list[Match]) -> Mention:
    """A mention with the status that the cues around it leave."""
    reaching = [cue for cue in cues if _reaches(lower, cue, mention, mentions, clauses)]
    rows = [CUES[int(cue.key)] for cue in reaching]
    effects = {row.effect for row in rows} - {Effect.NOTHING}
    denied_ahead = any(row.effect is Effect.ABSENT and row.reach is not Reach.BEFORE for row in rows)
    if denied_ahead and any(lower[cue.start : cue.end] in _UNDOES_DENIAL for cue in reaching):
        effects.add(Effect.DOUBLE)  # `no effusion is excluded`
    effect = next((effect for effect in Effect if effect in effects), None)
    return mention._replace(status=_status(mention, effect))


def _status(mention: Mention, effect: Effect | None) -> Status:
    denied = effect is Effect.ABSENT
    if effect is Effect.SET_ASIDE or (mention.only_denied and not denied):
        return Status.NOT_MENTIONED
    if mention.status is Status.ABSENT:  # `not normal` says neither what is there nor what is not
        return Status.NOT_MENTIONED if denied or effect is Effect.DOUBLE else Status.ABSENT
    if denied:
        return Status.ABSENT
    return mention.status if effect is None else Status.UNCERTAIN


_STOP = re.compile(rf",|{compiled(PHRASE_STOPS).pattern}")


def _reaches(lower: str, cue: Match, mention: Mention, mentions: list[Mention], clauses: Clauses) -> bool:
    row = CUES[int(cue.key)]
    if row.reach is Reach.BEFORE:
        return _reaches_back(lower, mention.anchor[1], cue.start, mentions, clauses)
    start, end = cue.end, mention.anchor[0]
    if start > end or clauses.cut(start, end, soft=row.effect in (Effect.ABSENT, Effect.SET_ASIDE)):
        return False
    return row.reach is Reach.AFTER or not _STOP.search(lower, start, end)


def _reaches_back(lower: str, start: int, end: int, mentions: list[Mention], clauses: Clauses) -> bool:
    """Whether a cue at `end` speaks of a finding that ends at `start`: of `effusion, mass not seen` only of the mass."""
    if start > end or clauses.cut(start, end):
        return False
    others = any(start <= one.anchor[0] and one.anchor[1] <= end for one in mentions)
    return not others or "," not in lower[start:end] or compiled("and|n?or").search(lower, start, end) is not None


_OR = re.compile(r"\s*(?:/|,?\s*(?:and/or|or|versus|vs\.?)\s)\s*(?:[\w-]+\s+){0,3}")


def _alternatives(lower: str, mentions: list[Mention]) -> list[Mention]:
    """Two findings offered for one (`atelectasis or pneumonia`) are both uncertain."""
    doubtful = set()
    for index, (first, second) in enumerate(pairwise(mentions)):
        asserted = min(first.status, second.status) >= Status.UNCERTAIN and first.observation != second.observation
        if asserted and _OR.fullmatch(lower, first.end, max(first.end, second.start)):
            doubtful |= {index, index + 1}
    return [one._replace(status=Status.UNCERTAIN) if index in doubtful else one for index, one in enumerate(mentions)]
