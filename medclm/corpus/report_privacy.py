"""Report text -> report text without the sentences that may say who somebody is, with what was withheld counted by reason.

A report is the only free text of a source that a corpus stores, so every sentence passes here before it becomes a fact of an
image. A sentence that may hold an identifier is withheld whole and leaves `XXXX` in its place, the mark of removed identifiers,
so that the gap is seen and the text no longer counts as whole. Rules read spelling alone: they catch what is written like a
name, a date, a number or an address, not a surname that opens a sentence like any other word. They stand beside a
de-identification and replace none. Must not know files, images or formats of reports.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from medclm.corpus.contract import Reject

WITHHELD = "XXXX"
"""What stands where a sentence was."""
_TEXTS = ("indication", "technique", "comparison", "findings", "impression")
_LEAST_KNOWN = 4
"""Fewest letters and digits of a known identifier that is looked for."""
_CAPITALS, _LEAST_LETTERS = 0.7, 20
"""In a text of so many letters with at least this share of capitals a name looks like any other word."""

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]{0,6}\.?"
_TITLE = r"(?:dr|drs|mr|mrs|ms|miss|prof|professor|doctor|nurse|sister)"
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "report_date",
        re.compile(
            rf"(?i)\b\d{{1,4}}([-/.])\d{{1,2}}\1\d{{1,4}}\b|\b{_MONTH}\s+\d|\b\d{{1,2}}(?:st|nd|rd|th)?(?:\s+of)?[\s-]+{_MONTH}(?!\w)"
            r"|\b(?:19|20)\d\d\b|\b\d{1,2}:\d\d\b|\b(?:on|of|from|since|dated)\s+\d{1,2}[/-]\d{1,2}\b"
        ),
    ),
    (
        "report_contact",
        re.compile(
            r"(?i)\S@\S|https?:|\bwww\.|\(\d{2,4}\)\s*\d{2,4}|\+\d{1,3}[\s-]\d|\b\d{3}[-.\s]\d{3,4}[-.\s]?\d{0,4}\b"
            r"|\b\d+\s+(?:\w+\s+){1,3}(?:street|st\.|road|rd\.|avenue|ave\.?|lane|drive|boulevard)(?!\w)"
        ),
    ),
    (
        "report_number",
        re.compile(
            r"(?i)\d{5}|\b(?:mrn|ssn|nhs|dob)\b|\baccession\b"
            r"|(?<!\w)(?![CTLS]\d{1,2}-[CTLS]?\d{1,2}(?!\w))(?=[\w-]{6})(?=(?:[\w-]*?\d){3})(?=[\w-]*?[a-z])[\w-]+|\b\d+(?:\.\d+){4,}"
        ),
    ),
    (
        "report_age",
        re.compile(r"(?i)\b(?:9\d|1[0-4]\d)(?:[\s-]*(?:years?|yrs?|y\.?/?o\.?)\b)|\baged?:?\s+(?:9\d|1[0-4]\d)\b"),
    ),
    (
        "report_person",
        re.compile(
            rf"(?i:\b{_TITLE}\b)\.?\s+(?!X{{3}}|_{{3}})[^\W\d_]|[^\W\d_]\^[^\W\d_]|\b(?:MD|M\.D\.|RN|DO|PhD|FRCR)(?!\w)"
            r"|(?i:\b(?:signed|dictated|transcribed|reported|verified|approved|interpreted|read)\s+by\b|\bpatient(?:'s)? name\b)"
        ),
    ),
)
_CAPITALISED = re.compile(r"(?<![\w'.-])(?:[^\W\d_a-z]['’])?[^\W\d_a-z][^\W\d_A-Z][^\W\d_'’-]*(?:['’-][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?;:])\s+(?=\S)|(?<=[a-z][.!?])(?=[A-Z])")
_UNFINISHED = re.compile(rf"(?i:(?<!\w){_TITLE}\.|\bst\.|(?<!\w)no\.)\Z|(?<!\w)[A-Z]\.\Z")
"""Dots that end no sentence."""
_OPENING = re.compile(r"\A\W*(?:\d{1,2}[.)]\s*)?")
_OPENINGS = """
a acute additional an and are as atelectasis bilateral bones calcified cardiac cardiomediastinal cardiomegaly cardiopulmonary
cervical chest chronic clear comparison consolidation contours cough diffuse dr effusion evaluate expanded finding findings heart
hilar history impression in indication interval is it large lateral left limited low lower lumbar lung lungs mediastinal mediastinum
mild minimal moderate mr mrs ms multiple no none normal normally of opacity osseous otherwise pain patient pleural pneumonia
pneumothorax portable post prior pulmonary right severe small soft stable status technique the there these this thoracic to trachea
two unchanged unfolded unremarkable upper view views visualised visualized well within x-ray xray
"""
"""Words that open the items of a list without a dot before them; a title alone is judged by its own rule."""
_EPONYMS = """
bochdalek cushing doppler foley ghon gram hampton hickman hodgkin hounsfield huber kerley morgagni non-hodgkin parkinson port-a-cath
swan-ganz valsalva
"""
"""Names of signs, diseases and devices."""
_ORDINARY = frozenset((*_OPENINGS.split(), *_EPONYMS.split()))
"""What may be written with a capital within a sentence."""


@dataclass(frozen=True)
class Screened:
    """A report as it may be stored."""

    sections: Mapping[str, str]
    withheld: Mapping[str, int] = field(default_factory=dict)
    """Reason -> sentences that were withheld; a sentence counts once, under the first reason that speaks against it."""


def screen_report(sections: Mapping[str, str], *, ids: Iterable[str] = (), names: Iterable[str] = ()) -> Screened:
    """The report with every sentence withheld that may identify somebody.

    Args:
        sections: section -> text; entries that are no text of the reader's (`language`) pass.
        ids: raw identifiers of the image itself (file name, patient, study), looked for in any case and without separators; those
            without a digit are left out, since `chest.png` would take every sentence about the chest.
        names: names of people as the image's own header writes them; each part of at least two letters counts.

    Returns:
        The sections; equal input gives equal output.
    """
    known = {plain for one in ids if len(plain := _plain(one)) >= _LEAST_KNOWN and any(map(str.isdigit, plain))}
    people = {_plain(part) for one in names for part in re.split(r"[\W\d_]+", one) if len(part) >= 2}
    withheld: Counter[str] = Counter()
    kept: dict[str, str] = {}
    for name, text in sections.items():
        kept[name] = _screened(text, known, people, withheld) if name in _TEXTS else text
    return Screened(kept, dict(sorted(withheld.items())))


def withheld_rejects(index: str, withheld: Mapping[str, int]) -> tuple[Reject, ...]:
    """What was withheld of the report of one image, as it is written to rejects.jsonl; holds counts, nothing of the text.

    Args:
        index: of the image, `images[12]`.
    """
    cure = "look whether the reports are de-identified; the marks stand in the stored text"
    return tuple(
        Reject(f"{index}.report", reason, f"{count} sentence{'s' * (count > 1)} withheld: {cure}")
        for reason, count in sorted(withheld.items())
    )


def _screened(text: str, known: set[str], people: set[str], withheld: Counter[str]) -> str:
    letters = [letter for letter in text.replace(WITHHELD, "") if letter.isalpha()]
    if len(letters) >= _LEAST_LETTERS and sum(map(str.isupper, letters)) >= _CAPITALS * len(letters):
        withheld["report_capitals"] += len(_sentences(text))
        return WITHHELD
    kept: list[str] = []
    for sentence in _sentences(text):
        reason = _reason(sentence, known, people)
        if reason is None:
            kept.append(sentence)
            continue
        withheld[reason] += 1
        if kept[-1:] != [WITHHELD]:
            kept.append(WITHHELD)
    return " ".join(kept)


def _sentences(text: str) -> list[str]:
    """Sentences and items of lists; a title or an initial ends none."""
    found: list[str] = []
    for piece in _SENTENCE.split(" ".join(text.split())):
        if found and _UNFINISHED.search(found[-1]):
            found[-1] += f" {piece}"
        elif piece:
            found.append(piece)
    return found


def _reason(sentence: str, known: set[str], people: set[str]) -> str | None:
    """Why a sentence is withheld; None = it may stay."""
    squeezed = _plain(sentence)
    words = {_plain(word) for word in re.split(r"[\W\d_]+", sentence)}
    if people & words or any(one in squeezed for one in known):
        return "report_known"
    for reason, rule in _RULES:
        if rule.search(sentence):
            return reason
    start = _OPENING.match(sentence)
    opening = start.end() if start else 0
    for found in _CAPITALISED.finditer(sentence, opening + 1):
        word = found.group().casefold()
        ordinary = word in _ORDINARY or all(part in _ORDINARY or part == "s" for part in re.split(r"[-’']", word))
        if found.group()[0].isupper() and not ordinary:
            return "report_person"
    return None


def _plain(text: str) -> str:
    """Letters and digits only, without case and accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in apart if letter.isalnum())
