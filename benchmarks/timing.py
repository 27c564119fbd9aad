"""How benchmarks time small pieces, and how they show and keep what they found: one table last, the same numbers as JSON.

Pieces take turns, so that whatever else the machine does meets all of them; the median over the turns is reported. Processor
time does not count other processes, wall-clock time does.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


class Timing(NamedTuple):
    """Milliseconds of one call."""

    cpu_ms: float
    """Processor time of this process, all threads."""
    wall_ms: float


def take_turns(pieces: Mapping[str, Callable[[int], object]], *, turns: int = 7, seconds: float = 0.1) -> dict[str, Timing]:
    """Call each piece as `piece(0), piece(1), ...` for about `seconds` a turn; the median turn of each."""
    found: dict[str, list[Timing]] = {name: [] for name in pieces}
    counts = dict.fromkeys(pieces, 0)
    for piece in pieces.values():
        piece(0)  # what is made at first use
    for _ in range(turns):
        for name, piece in pieces.items():
            first, cpu, wall = counts[name], time.process_time(), time.perf_counter()
            while time.perf_counter() - wall < seconds:
                piece(counts[name])
                counts[name] += 1
            calls = (counts[name] - first) / 1e3
            found[name].append(Timing((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls))
    return {name: Timing(*(statistics.median(column) for column in zip(*each, strict=True))) for name, each in found.items()}


def report(title: str, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write the rows as JSON and print them as a table; columns are the keys of the first row, None is an empty cell."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"title": title, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
    names = list(rows[0])
    table = Table(title=title)
    for name in names:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    Console(width=max(170, Console().width)).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )
