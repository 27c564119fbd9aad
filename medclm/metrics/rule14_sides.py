"""Which side belongs to which finding of a sentence: left and right bound to the right words. See rule14.py."""

from __future__ import annotations

import re
from typing import NamedTuple

from medclm.metrics.rule14_cues import LINKS, NOT_SIDES, SIDES
from medclm.metrics.rule14_phrases import SIDELESS, Side, Status
from medclm.metrics.rule14_text import Clauses, Match, Span, compiled, longest, matches


class Mention(NamedTuple):
    """A phrase that names an observation, before and after the cues around it."""

    observation: str
    start: int
    end: int
    anchor: Span
    """What a cue must reach: the phrase, or of `the heart is enlarged` the last word."""
    status: Status
    only_denied: bool = False
    """Counts if denied, else says nothing (`bony abnormality`)."""
    side: Side = Side.NONE_SAID


_PREPOSITIONS = "in|at|on|within|over|overlying|of|involving|along|near|to|from|than|throughout|projecting"
_BEFORE_SIDE = re.compile(rf"(?<!\w)(?:{_PREPOSITIONS})\s+(?:the\s+)?$")
_AND_A_PLACE = r"and(?!\s+(?:left|right|lower|upper|middle|mid|basal|both)\b)"
_CHAIN = re.compile(
    rf"[\s-]*(?:and[\s-]+)?(?:(?!(?:in|at|on|of|with|within|over|than|to|from|there|is|are|has|have|may|which|{_AND_A_PLACE})\b)"
    r"[\w-]+\s+){0,6}"
)
_INTRODUCES = re.compile(r"[\s-]+(?:(?!and\b)\w+,?[\s-]+){0,5}there\s+(?:is|are)\b")
_JOINED = re.compile(
    r"\s*(?:,?\s*(?:and/or|and|or|versus|vs\.?|with)|/)\s*(?:(?:an?|some|associated|adjacent|compressive|underlying|overlying)\s+)*"
    r"|\s*,\s*(?:possibly|probably|likely|presumably|perhaps)\s+"
)
_LOOK_BACK = 30
"""Characters before a side word in which its preposition stands."""


def placed(lower: str, start: int, end: int, mentions: list[Mention], clauses: Clauses) -> list[Mention]:
    """Mentions in text order, each with its own side, else that of the finding it is joined with or explains."""
    sides = [Side.NONE_SAID] * len(mentions)
    rows = [*((int(side), pattern) for side, pattern in SIDES), (0, NOT_SIDES)]
    for match in longest(matches(rows, lower, start, end)):
        owner = _owner(lower, match, mentions, clauses) if match.key else None
        for index, one in enumerate(mentions):
            if owner is not None and one[1:3] == mentions[owner][1:3]:
                sides[index] |= Side(int(match.key))
    last = len(mentions) - 1
    for i, j in [*((i, i + 1) for i in range(last)), *((i, i - 1) for i in range(last, 0, -1))]:
        if not sides[j] and _shared(lower, mentions, min(i, j), backward=i > j):
            sides[j] = sides[i]
    sides = [Side.NONE_SAID if one.observation in SIDELESS else side for one, side in zip(mentions, sides, strict=True)]
    return [one._replace(side=side) for one, side in zip(mentions, sides, strict=True)]


def _owner(lower: str, side: Match, mentions: list[Mention], clauses: Clauses) -> int | None:
    """Index of the mention a side word belongs to.

    `left base opacity`: the finding after it, if only its own words lie between. `opacity in the left base`: the finding
    before it. Otherwise the one in the same part of the sentence, the earlier first.
    """
    around = next((i for i, one in enumerate(mentions) if one.start <= side.start and side.end <= one.end), None)
    following = [i for i, one in enumerate(mentions) if one.start >= side.end and not clauses.cut(side.end, one.start)]
    preceding = [i for i, one in enumerate(mentions) if one.end <= side.start and not clauses.cut(one.end, side.start)]
    if around is not None:
        return around
    if following:
        gap = lower[side.end : mentions[following[0]].start]
        located = preceding and _BEFORE_SIDE.search(lower[max(0, side.start - _LOOK_BACK) : side.start])
        if _CHAIN.fullmatch(gap) and not (located and re.search(r"\band\b", gap)):
            return following[0]
    introduced = _INTRODUCES.match(lower, side.end)
    if introduced and not preceding:  # `in the right lower lobe there is`
        return next((i for i, one in enumerate(mentions) if one.start >= introduced.end()), None)
    if preceding and "," not in lower[mentions[preceding[-1]].end : side.start]:
        return preceding[-1]
    if following and "," not in lower[side.end : mentions[following[0]].start]:
        return following[0]
    return preceding[-1] if preceding else next(iter(following), None)


def _shared(lower: str, mentions: list[Mention], index: int, *, backward: bool) -> bool:
    """Whether mentions `index` and the next lie in one place: joined, or (forward) the second explains the first."""
    first, second = mentions[index], mentions[index + 1]
    if {first.observation, second.observation} & SIDELESS or Status.ABSENT in (first.status, second.status):
        return False
    gap = lower[first.end : second.start]
    if _JOINED.fullmatch(gap):
        return True
    explains = compiled(LINKS).search(gap) or (second.status is Status.UNCERTAIN and gap.strip() == ",")
    return not backward and bool(explains)
