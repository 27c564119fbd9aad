"""Whether a text is a language model declining to answer instead of answering.

Here because two places ask it: the reader of model replies and the checks that every text passes, whoever wrote it. Knows
words alone.
"""

from __future__ import annotations

import re

_FIRST_PERSON = (
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|(?:ai |virtual )?assistant)\b",
    r"\bi(?: am|'m) (?:just |only )?an? (?:ai|(?:large )?language model|(?:ai |virtual )?assistant|chat ?bot)\b",
    r"\bi(?: am|'m)(?: very| so)? (?:sorry|afraid|unable|not able|not allowed|not qualified|not a (?:doctor|physician|radiologist|medical))\b",
    r"\bi (?:cannot|can ?not|can't|could not|couldn't|won't|will not|must decline|have to decline|do not|don't|refuse)\b",
    r"\bi (?:apologi[sz]e|regret)\b",
    r"^(?:sorry|apologies|unfortunately)\b",
    r"\b(?:unable|not able) to (?:assist|help|comply|provide|answer|fulfil)\w*\b",
    r"\b(?:consult|contact|see|ask) an? (?:\w+ ){0,2}(?:doctor|physician|radiologist|professional|provider)\b",
)
"""A medical sentence never speaks in the first person, so `cannot` alone (`cannot be excluded`) is no refusal."""
_REFUSAL = re.compile("|".join(_FIRST_PERSON))


def refusal(text: str) -> str | None:
    """The words by which `text` declines, in lower case; None where it does not."""
    plain = " ".join(text.replace("\u2019", "'").lower().split())
    found = _REFUSAL.search(plain)
    return found.group() if found else None
