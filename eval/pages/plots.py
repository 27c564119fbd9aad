"""Small drawings in tables, as SVG in percent of their place: a score on its scale, and shares of a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def whiskers(score: Mapping[str, Any], blank: float | None = None, reference: float | None = None) -> str:
    """Value, interval and floors of a score between 0 and 1; nothing where one of them lies outside.

    Args:
        score: value, ci95 (or None), floor (or None), as in results.json.
        blank: the model's own score on grey pictures.
        reference: score of the whole that this is a part of.
    """
    low, high = score["ci95"] or (score["value"], score["value"])
    drawn = [one for one in (score["value"], low, high, score.get("floor"), blank, reference) if one is not None]
    if score["value"] is None or not all(0 <= one <= 1 for one in drawn):
        return "<svg class='whiskers' aria-hidden='true'></svg>"
    parts = ["<line class='axis' x1='0' x2='100%' y1='8' y2='8'/>"]
    for kind, at in (("reference", reference), ("floor", score.get("floor"))):
        if at is not None:
            parts.append(f"<line class='{kind}' x1='{_percent(at)}' x2='{_percent(at)}' y1='1' y2='15'/>")
    parts.append(f"<line class='interval' x1='{_percent(low)}' x2='{_percent(high)}' y1='8' y2='8'/>")
    if blank is not None:
        parts.append(f"<circle class='blank' cx='{_percent(blank)}' cy='8' r='3.5'/>")
    parts.append(f"<circle class='dot' cx='{_percent(score['value'])}' cy='8' r='4'/>")
    return f"<svg class='whiskers' aria-hidden='true'>{''.join(parts)}</svg>"


def share_bar(parts: Sequence[tuple[str, int]]) -> str:
    """Parts of a whole, each a class and a number, as one bar."""
    whole, at, drawn = max(sum(number for _, number in parts), 1), 0, []
    for kind, number in parts:
        drawn.append(f"<rect class='{kind}' x='{_percent(at / whole)}' width='{_percent(number / whole)}' height='100%'/>")
        at += number
    return f"<svg class='shares' aria-hidden='true'>{''.join(drawn)}</svg>"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
