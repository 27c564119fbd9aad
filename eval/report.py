"""What an evaluation leaves for people: report.html, self-contained, and the pictures in it. Every text is escaped.

Knows nothing of models; reads nothing but what the runner hands over.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTICE = "Research use only, not a medical device"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; } th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } .notice { color: #b00020; font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 22rem; } img { width: 100%; border: 1px solid #ccc; }
"""


@dataclass(frozen=True)
class Shown:
    """One example on the page."""

    id: str
    picture: Path | None
    lines: tuple[str, ...]


def write_report(
    path: Path,
    *,
    results: Mapping[str, Any],
    settings: Mapping[str, Any],
    left_out: Mapping[str, int],
    wrong_reason: Sequence[Shown],
    examples: Sequence[Shown],
) -> None:
    """One page: scores with intervals and floors, what was asked how, and pictures.

    Args:
        results: as in results.json.
        settings: name -> value of how the model was asked.
        left_out: reason -> records that were not asked.
        wrong_reason: right answers with wrong boxes.
        examples: pictures to look at.
    """
    title = f"{results['suite']}: {results['n']} examples"
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{_text(title)}</title><style>{_STYLE}</style>",
        f"<h1>{_text(title)}</h1><p class='notice'>{NOTICE}</p>",
        "<p>Each score stands beside its 95 % bootstrap interval over patients and its floor: the same score of a guess made without "
        "looking at the image.</p>",
        _scores(results["scores"]),
        "<h2>How it was asked</h2>",
        _pairs(
            {
                "checkpoint": results.get("checkpoint", "stored predictions"),
                **settings,
                **{f"left out: {why}": number for why, number in left_out.items()},
            }
        ),
        _gallery("Right for the wrong reason", wrong_reason) if wrong_reason else "",
        _gallery("Examples", examples),
        "<h2>Versions</h2>",
        _pairs(results["versions"]),
    ]
    path.write_text("\n".join(parts) + "</html>\n", encoding="utf-8")


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, score in scores.items():
        if not score["n"]:
            continue
        interval = "–" if score["ci95"] is None else f"{score['ci95'][0]:.3f} to {score['ci95'][1]:.3f}"
        cells = [_number(score["value"]), interval, _number(score["floor"]), str(score["n"])]
        rows.append(f"<tr><td>{_text(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    empty = [_text(name) for name, score in scores.items() if not score["n"]]
    head = "<tr><th>score</th><th>value</th><th>95 % interval</th><th>floor</th><th>n</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" + (f"<p>No example for: {', '.join(empty)}.</p>" if empty else "")


def _pairs(pairs: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in pairs.items())
    return f"<table>{rows}</table>"


def _gallery(title: str, shown: Sequence[Shown]) -> str:
    return f"<h2>{_text(title)}</h2><div class='pictures'>{''.join(_figure(one) for one in shown)}</div>"


def _figure(shown: Shown) -> str:
    picture = ""
    if shown.picture is not None:
        data = base64.b64encode(shown.picture.read_bytes()).decode("ascii")
        picture = f"<img alt='{_text(shown.id)}' src='data:image/png;base64,{data}'>"
    lines = "".join(f"<br>{_text(line)}" for line in shown.lines)
    return f"<figure>{picture}<figcaption><b>{_text(shown.id)}</b>{lines}</figcaption></figure>"
