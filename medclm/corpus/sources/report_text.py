"""One report as its sections: which headings mean what, and what may be said of it. Pure; knows no files.

Sections are an allow-list: whatever stands under another heading (notification, signature, wet read, ...) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SECTIONS = ("indication", "technique", "comparison", "findings", "impression")
"""What is kept of a report, besides its language."""
_HEADINGS = {
    "indication": "indication",
    "indications": "indication",
    "history": "indication",
    "clinical history": "indication",
    "clinical information": "indication",
    "reason for exam": "indication",
    "reason for examination": "indication",
    "technique": "technique",
    "comparison": "comparison",
    "comparisons": "comparison",
    "comparison exam": "comparison",
    "findings": "findings",
    "finding": "findings",
    "impression": "impression",
    "impressions": "impression",
    "conclusion": "impression",
}
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /(),'-]{2,60}?)[ \t]*:", re.MULTILINE)
_REMOVED = re.compile(r"XXXX|_{3,}|\[\*\*")
"""What stands where an identifier was: Open-i's XXXX, MIMIC's ___ and [**...**]."""


def tidy(sections: Mapping[str, object], language: str | None = None) -> dict[str, str]:
    """The known sections that hold text, with single spaces; {} where findings and impression are both missing."""
    found = {}
    for name in SECTIONS:
        value = sections.get(name)
        if isinstance(value, str) and value.strip():
            found[name] = " ".join(value.split())
    if "findings" not in found and "impression" not in found:
        return {}
    return found | ({"language": language} if language else {})


def split_sections(text: str) -> dict[str, str]:
    """A report as free text -> its sections; a heading is in capitals, starts a line and ends in a colon."""
    found: dict[str, str] = {}
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    for heading, end in zip(headings, ends, strict=False):
        name = section_of(heading.group(1))
        if name is not None:
            body = text[heading.end() : end]
            found[name] = f"{found[name]} {body}" if name in found else body
    return found


def section_of(heading: str) -> str | None:
    """The section that a heading means; None = one that is not kept."""
    return _HEADINGS.get(heading.strip().rstrip(":").strip().lower())


def is_whole(text: str) -> bool:
    """Whether nothing was taken out of the text: only then may it be an answer, since nobody can read XXXX off a picture."""
    return _REMOVED.search(text) is None
