"""A comparison of runs in a terminal: as many columns at a time as it is wide. Knows no store and no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.runs.comparison import Comparison, Group, Row, count, duration, goal, log_scale, number
from medclm.tracked_runs import History

Item = TypeVar("Item")
_BARS = "▁▂▃▄▅▆▇█"
_CELLS = 20
"""Characters of a curve, and width of a column of scores."""


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Tables of runs, of recipes with several runs, of the keys that differ, and curves."""
    console = console or Console()
    console.print(f"[bold]{escape(comparison.experiment)}[/] in {escape(comparison.uri)}: {escape(comparison.sentence)}")
    for metrics in _blocks(comparison.metrics, console, used=70):
        console.print(_runs(comparison, metrics))
    if any(len(group.rows) > 1 for group in comparison.groups):
        for metrics in _blocks(comparison.metrics, console, used=38):
            console.print(_recipes(comparison, metrics))
    if comparison.differing:
        for groups in _blocks(comparison.groups[1:], console, used=28 + _CELLS):
            console.print(_differences(comparison.differing, [comparison.groups[0], *groups]))
    for curves in _blocks(list(comparison.curves), console, used=30):
        console.print(_curves(comparison, curves))


def _blocks(items: Sequence[Item], console: Console, *, used: int) -> Iterator[Sequence[Item]]:
    """As many items at a time as there is room for columns beside `used` characters."""
    size = max(1, (console.width - used) // (_CELLS + 3))
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _table(title: str, columns: Sequence[str], wide: Sequence[str], justify: Literal["left", "right"] = "right") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(columns[0], overflow="fold", max_width=28)
    for name in columns[1:]:
        table.add_column(name, overflow="fold", justify="right", max_width=12)
    for name in wide:
        table.add_column(escape(name.replace("/", "/\n", 1)), overflow="fold", justify=justify, max_width=_CELLS)
    return table


def _runs(comparison: Comparison, metrics: Sequence[str]) -> Table:
    table = _table("Runs", ("run", "recipe", "policy", "steps", "seconds", "seed"), metrics)
    for row in comparison.rows:
        label = f"{escape(row.run.name)}\n[dim]{row.short_id} {row.run.status}[/]"
        values = (str(comparison.number(row) or "–"), row.policy, row.steps, duration(row.seconds), row.seed)
        table.add_row(label, *map(escape, values), *(_score(comparison, row, metric) for metric in metrics))
    return table


def _score(comparison: Comparison, row: Row, metric: str) -> str:
    score = row.scores.get(metric)
    if score is None:
        return "–"
    final = number(score.final)
    lines = [f"[bold green]{final}[/]" if comparison.leads(row, metric) else final]
    if score.ci95 is not None:
        lines.append("[dim]{:.3f} to {:.3f}[/]".format(*score.ci95))
    if score.best is None:
        lines.append("no finite value")
    elif score.best_step != score.step:
        lines.append(f"best {number(score.best)} at {score.best_step}")
    if comparison.target is not None and score.reached is None:
        lines.append(f"{goal(metric, comparison.target)}: not reached")
    elif comparison.target is not None and score.reached is not None:
        lines.append(f"{goal(metric, comparison.target)} at {score.reached[0]}, {duration(score.reached[1])} s")
    return "\n".join(lines)


def _recipes(comparison: Comparison, metrics: Sequence[str]) -> Table:
    table = _table(
        "Finished runs of one recipe: mean, and least to greatest final value", ("recipe", "policy", "seeds"), metrics
    )
    for group in comparison.groups:
        cells = [_spread(group, metric) for metric in metrics]
        table.add_row(
            f"{group.number} ({count(len(group.rows), 'run')})", escape(group.rows[0].policy), str(len(group.seeds)), *cells
        )
    return table


def _spread(group: Group, metric: str) -> str:
    finals = group.finals(metric)
    values, n = finals.values, f"[dim]n = {finals.n}[/]"
    if not values:
        return f"–\n{n}" if finals.not_finite else "–"
    return f"{number(float(np.mean(values)))}\n{number(min(values))} to {number(max(values))}\n{n}"


def _differences(keys: Sequence[str], groups: Sequence[Group]) -> Table:
    """Keys by section; a value that is not that of the first recipe is marked."""
    names = [f"{group.number}: {group.rows[0].label}" for group in groups]
    table = _table("Keys of the recipe that differ; * = not as in the first", ("key",), names)
    for at, key in enumerate(keys):
        ends = at + 1 == len(keys) or keys[at + 1].split(".")[0] != key.split(".")[0]
        values = [group.recipe.get(key, "–") for group in groups]
        marked = [f"[yellow]* {escape(value)}[/]" if value != values[0] else escape(value) for value in values]
        table.add_row(escape(key), *marked, end_section=ends)
    return table


def _curves(comparison: Comparison, metrics: Sequence[str]) -> Table:
    drawn = [(metric, *_scale(metric, comparison.curves[metric])) for metric in metrics]
    heads = [f"{metric}\n{low:.3g} to {high:.3g}{', log' if log else ''}" for metric, low, high, log, _ in drawn]
    table = _table("Curves over the steps, each column on one scale", ("run",), heads, "left")
    for row in comparison.rows:
        found = ((comparison.curves[metric].get(row.run.run_id), *scale) for metric, *scale in drawn)
        table.add_row(escape(row.label), *("–" if history is None else _bars(history, *scale) for history, *scale in found))
    return table


def _scale(metric: str, histories: Mapping[str, History]) -> tuple[float, float, bool, int]:
    """(least value, greatest value, whether logarithmic, last step) of all runs."""
    values = np.concatenate([history.value[np.isfinite(history.value)] for history in histories.values()])
    last = max(int(history.step[-1]) for history in histories.values())
    return (
        (float(values.min()), float(values.max()), log_scale(metric, values), last) if len(values) else (0.0, 1.0, False, last)
    )


def _bars(history: History, low: float, high: float, log: bool, last: int) -> str:
    """The mean of each of `_CELLS` parts of the steps as a bar; blank where nothing finite was logged."""
    finite = np.isfinite(history.value)
    values = np.log(history.value[finite]) if log else history.value[finite]
    low, high = (float(np.log(low)), float(np.log(high))) if log else (low, high)
    cells = np.minimum(history.step[finite] * _CELLS // max(last, 1), _CELLS - 1)
    known = np.bincount(cells, minlength=_CELLS)
    sums = np.bincount(cells, weights=values, minlength=_CELLS)
    height = (sums / np.maximum(known, 1) - low) / ((high - low) or 1.0)
    bars = np.clip((height * len(_BARS)).astype(int), 0, len(_BARS) - 1)
    return "".join(_BARS[bar] if points else " " for bar, points in zip(bars, known, strict=True))
