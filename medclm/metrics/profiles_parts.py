"""What several harnesses share: the boxed answer, the articles that their word lists drop, F1."""

from __future__ import annotations

ARTICLES = ("a", "an", "the")


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`, stripped, inner braces kept; None where there is none or it is never closed."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    start, depth = start + len(r"\boxed{"), 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position].strip()
    return None


def f1_of(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall, 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
