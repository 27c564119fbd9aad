"""A report as `rule14` reads it: sections, sentences, clauses, and where patterns of its tables match. Knows no findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from medclm.metrics.rule14_cues import (
    CONTRASTS,
    NO_NEWS,
    READ_HEADINGS,
    RESTARTS,
    SKIPPED_HEADINGS,
    VERBS_MANY,
    VERBS_ONE,
)

Span = tuple[int, int]
"""Start and end in characters of the whole text."""


class Match(NamedTuple):
    """Where a pattern matched, and the key of its row."""

    start: int
    end: int
    key: int | str


def lowered(text: str) -> str:
    """Lower case of the same length, so that spans hold in the text itself."""
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of the tables: whole words, a blank is white space or a hyphen, ` ?` neither or either."""
    spaced = pattern.replace(" ?", r"[\s-]*").replace(" ", r"[\s-]+")
    return re.compile(rf"(?<!\w)(?:{spaced})(?!\w)")


def matches(rows: Iterable[tuple[int | str, str]], lower: str, start: int, end: int) -> list[Match]:
    """All matches of (key, pattern) rows between `start` and `end`."""
    return [
        Match(one.start(), one.end(), key) for key, pattern in rows for one in compiled(pattern).finditer(lower, start, end)
    ]


def longest(found: Sequence[Match]) -> list[Match]:
    """Without the matches that lie inside a longer one, in text order."""

    def inside(one: Match, other: Match) -> bool:
        return other.start <= one.start and one.end <= other.end and other.end - other.start > one.end - one.start

    kept = {one for one in found if not any(inside(one, other) for other in found)}
    return sorted(kept, key=lambda one: (one.start, one.end, str(one.key)))


_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_OPENS = re.compile(r"(?:^|[.!?:;)\]\n])\s*$")
_SENTENCE_END = re.compile(
    r"(?<=\S)(?<!\bvs)(?<!\bdr)(?<!\be\.g)(?<!\bi\.e)(?<!\bapprox)[.!?]+(?=\s|$)"  # a full stop
    r"|(?<=[a-z)\]]{2})\.(?=[a-z]{2})"  # one without its space
    r"|;|\n[^\S\n]*(?=[-*•]|\d+[.)])|\n[^\S\n]*\n"  # a list item, a paragraph
)


def sections(lower: str) -> list[Span]:
    """What is read: everything but sections under a heading of `SKIPPED_HEADINGS`, which end at the next heading or paragraph.

    A heading ends in a colon; one that is skipped must also open a sentence or a line.
    """
    heading = re.compile(rf"{compiled(f'(?P<read>{READ_HEADINGS})|{SKIPPED_HEADINGS}').pattern}\s*:")
    spans, start, read = [], 0, True
    for one in heading.finditer(lower):
        if read and one["read"] is None and not _OPENS.search(lower, 0, one.start()):
            continue
        spans.append(_kept(lower, start, one.start(), read))
        start, read = one.end(), one["read"] is not None
    spans.append(_kept(lower, start, len(lower), read))
    return [(start, end) for start, end in spans if start < end]


def _kept(lower: str, start: int, end: int, read: bool) -> Span:
    """What is read of a section: all, or what follows its first paragraph."""
    if read:
        return start, end
    body = end - len(lower[start:end].lstrip())
    paragraph = _PARAGRAPH.search(lower, body, end)
    return (paragraph.end() if paragraph else end), end


def sentences(lower: str) -> list[Span]:
    """Sentences and list items of what is read; a single line break is a blank."""
    spans = []
    for first, last in sections(lower):
        cuts = [first, *(cut.end() for cut in _SENTENCE_END.finditer(lower, first, last)), last]
        spans += [(start, end) for start, end in pairwise(cuts) if lower[start:end].strip()]
    return spans


def read_text(text: str) -> str:
    """The sections that report findings, joined by blank lines."""
    return "\n\n".join(text[start:end].strip() for start, end in sections(lowered(text)))


_VERBS = f"{VERBS_ONE}|{VERBS_MANY}"
_JOINED = r"(?:,|(?<!\w)and(?!\w))\s*(?:and\s+)?"
_SUBJECT = r"(?!which|that|who)(?P<the>the\s|both\s)?(?:[\w-]+\s+){1,5}?"
_RESTART = rf"(?:,|(?<!\w)(?:and|with)(?!\w))\s*(?:(?:and|with)\s+)?(?={RESTARTS}(?!\w))"


@cache
def _clause_start(verbs: str) -> re.Pattern[str]:
    return re.compile(rf"{_JOINED}(?={_SUBJECT}(?:{verbs})(?!\w)(?!\s+{compiled(NO_NEWS).pattern}))")


class Clauses:
    """Where the scopes of cues end in a sentence."""

    def __init__(self, lower: str, start: int, end: int) -> None:
        self._lower = lower
        contrasts = [one.start() for one in compiled(CONTRASTS).finditer(lower, start, end)]
        dashes = [one.start() for one in re.compile(r"\s[-–—]+\s").finditer(lower, start, end)]
        self.hard = [*contrasts, *dashes, *self._new_clauses(start, end)]
        """Every scope ends here."""
        self.soft = self._restarts(start, end)
        """Denials end here."""

    def cut(self, start: int, end: int, *, soft: bool = False) -> bool:
        """Whether a scope from `start` ends before `end`."""
        return any(start <= place < end for place in ([*self.hard, *self.soft] if soft else self.hard))

    def _new_clauses(self, start: int, end: int) -> list[int]:
        """`A and B have resolved` is one clause, `A is seen and the lungs have cleared` is two."""
        verb = compiled(_VERBS)
        one = [cut.start() for cut in _clause_start(VERBS_ONE).finditer(self._lower, start, end)]
        many = [
            cut.start()
            for cut in _clause_start(VERBS_MANY).finditer(self._lower, start, end)
            if cut["the"] or verb.search(self._lower, start, cut.start())
        ]
        there = compiled(r"there (is|are|has|have|was|were|may|remains?)").finditer(self._lower, start + 1, end)
        return [*one, *many, *(cut.start() for cut in there)]

    def _restarts(self, start: int, end: int) -> list[int]:
        found = [cut.start() for cut in re.compile(_RESTART).finditer(self._lower, start, end)]
        commas = [comma.start() for comma in re.compile(",").finditer(self._lower, start, end)]
        found += [comma for comma in commas if self._has_or(start, comma)]
        return [
            place for place in found if not self._has_or(place, min((cut for cut in self.hard if cut > place), default=end))
        ]

    def _has_or(self, start: int, end: int) -> bool:
        return compiled("n?or").search(self._lower, start, end) is not None
