"""A comparison of runs as one HTML file that opens from disk: tables, recipes, curves that can be hovered, walked and hidden.

Nothing is fetched: styles, script and SVG stand in the file, and its content policy allows no other script than the one
whose hash it names. Every text is escaped; equal comparisons give equal bytes. Without script all is shown, nothing hides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.pages.page import NOTICE, cell, column, scrolling, shell, text
from eval.runs.comparison import Comparison, Row, Score, count, duration, goal, log_scale, lower_is_better, number
from eval.runs.comparison_style import SCRIPT, STYLE
from medclm.tracked_runs import History

MOST_POINTS = 500
"""Points of a drawn curve: twice what a screen shows of it, so that a page of 50 long runs stays a small file."""
_COLOURS = 8
_DASHES = 4
_WIDTH, _HEIGHT = 640, 280
_LEFT, _TOP, _RIGHT, _BOTTOM = 58, 10, 12, 40
_FINE = 10
"""Curves are written in tenths of the drawing's units, as whole numbers: short, and as exact as a screen."""


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    title = f"{comparison.experiment}: {count(len(comparison.rows), 'run')}"
    path.write_text(shell(title, style=STYLE, script=SCRIPT, body=_body(title, comparison)), encoding="utf-8")


def _body(title: str, comparison: Comparison) -> Iterator[str]:
    yield f"<h1>{text(title)}</h1><p class='notice'>{NOTICE}</p><p>{text(comparison.sentence)}.</p>"
    yield "<h2>Runs</h2>"
    yield from _runs(comparison)
    if any(len(group.rows) > 1 for group in comparison.groups):
        yield "<h2>Recipes with several runs</h2>"
        yield from _spreads(comparison)
    yield "<h2>What the recipes differ in</h2>"
    yield from _differences(comparison)
    if comparison.curves:
        yield "<h2>Curves</h2>"
        yield from _curves(comparison)


# Scores.


def _runs(comparison: Comparison) -> Iterator[str]:
    parts = {metric: _parts(comparison, metric) for metric in comparison.metrics}
    heads = "".join(
        f"<th scope='colgroup' class='group' colspan='{len(parts[metric])}'>{text(metric)} "
        f"<span class='soft'>{'lower is better' if lower_is_better(metric) else 'higher is better'}</span></th>"
        for metric in comparison.metrics
    )
    names = ["run", "id", "status", "recipe", "policy", "steps", "seconds", "seed"]
    columns = [*names, *(head for metric in comparison.metrics for head in parts[metric])]
    sortable = "".join(column(name, numeric=name not in ("run", "id", "status", "policy")) for name in columns)
    rows = "".join(_run(comparison, at, row, parts) for at, row in enumerate(comparison.rows))
    head = f"<thead><tr><td colspan='{len(names)}'></td>{heads}</tr><tr>{sortable}</tr></thead>"
    yield scrolling("Runs", f"{head}<tbody>{rows}</tbody>")
    yield "<p class='note'>A column's head sorts by it. Final = at the last logged step; of the finished runs the best is bold. "
    yield "Intervals are the evaluation's own 95 % bootstrap intervals over patients. Seconds count from the first start of a run, "
    yield "pauses of a resumed run included.</p>"


def _parts(comparison: Comparison, metric: str) -> list[str]:
    """Columns that some run has something for."""
    scores = [row.scores[metric] for row in comparison.rows if metric in row.scores]
    parts = ["final"]
    parts += ["95 % interval"] if any(score.ci95 is not None for score in scores) else []
    parts += ["best", "at step"] if any(score.best_step != score.step for score in scores) else []
    return parts + ([goal(metric, comparison.target) + " at step", "after s"] if comparison.target is not None else [])


def _run(comparison: Comparison, at: int, row: Row, parts: Mapping[str, Sequence[str]]) -> str:
    recipe = comparison.number(row)
    cells = [
        f"<th scope='row'><span class='name'>{_swatch(comparison, at)}{text(row.run.name)}</span></th><td><code>{text(row.short_id)}</code></td>",
        f"<td class='{'odd' if row.run.status in ('FAILED', 'KILLED') else ''}'>{text(row.run.status.lower())}</td>",
        cell(str(recipe or "–"), recipe),
        f"<td>{text(row.policy)}</td>",
        cell(row.steps, row.step),
        cell(duration(row.seconds), row.seconds),
        cell(row.seed, float(row.seed) if row.seed.isdigit() else None),
    ]
    for metric in comparison.metrics:
        cells += _score(row.scores.get(metric), parts[metric], leads=comparison.leads(row, metric))
    return f"<tr data-run='{at}'>{''.join(cells)}</tr>"


def _score(score: Score | None, parts: Sequence[str], *, leads: bool) -> list[str]:
    if score is None:
        return [cell("–", None)] * len(parts)
    cells = [cell(number(score.final), score.final, "best" if leads else "")]
    if "95 % interval" in parts:
        interval = "–" if score.ci95 is None else "{:.3f} to {:.3f}".format(*score.ci95)
        cells.append(cell(interval, None if score.ci95 is None else score.ci95[0]))
    if "best" in parts:
        step = "–" if score.best_step is None else str(score.best_step)
        cells += [cell(number(score.best), score.best), cell(step, score.best_step)]
    if len(parts) > len(cells):
        step, after = ("not reached", None) if score.reached is None else (str(score.reached[0]), score.reached[1])
        cells += [cell(step, score.reached and score.reached[0]), cell(duration(after), after)]
    return cells


def _spreads(comparison: Comparison) -> Iterator[str]:
    heads = "".join(f"<th scope='colgroup' class='group' colspan='3'>{text(metric)}</th>" for metric in comparison.metrics)
    names = ["recipe", "policy", "runs", "seeds", *("mean", "least to greatest", "n") * len(comparison.metrics)]
    sortable = "".join(column(name, numeric=name not in ("recipe", "policy")) for name in names)
    rows = []
    for group in comparison.groups:
        cells = [
            f"<th scope='row'><span class='name'>{group.number}: {text(group.rows[0].label)}</span></th><td>{text(group.rows[0].policy)}</td>",
            cell(str(len(group.rows)), len(group.rows)),
            cell(str(len(group.seeds)), len(group.seeds)),
        ]
        for metric in comparison.metrics:
            finals = group.finals(metric)
            values = finals.values
            mean = float(np.mean(values)) if values else None
            spread = f"{number(min(values))} to {number(max(values))}" if values else "–"
            cells += [cell(number(mean), mean), cell(spread, min(values, default=None)), cell(finals.n, len(values))]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<thead><tr><td colspan='4'></td>{heads}</tr><tr>{sortable}</tr></thead>"
    yield scrolling("Recipes with several runs", f"{head}<tbody>{''.join(rows)}</tbody>")
    yield "<p class='note'>Final values of the finished runs of one recipe, which differ by name, place and seed only; "
    yield "what is not finite is in no mean, and a repeated run has the seed of another.</p>"


def _differences(comparison: Comparison) -> Iterator[str]:
    keys, groups = comparison.differing, comparison.groups
    if not keys:
        yield f"<p>{'Nothing: all have one recipe, apart from name, place and seed.' if groups else 'No run has a recipe.'}</p>"
        return
    heads = []
    for group in groups:
        more = f" <span class='soft'>and {len(group.rows) - 1} more</span>" if len(group.rows) > 1 else ""
        name = f"{group.number}: {text(group.rows[0].label)}{more}"
        heads.append(f"<th scope='col'><span class='name narrow'>{name}</span></th>")
    rows, section = [], ""
    for key in keys:
        if key.split(".")[0] != section:
            section = key.split(".")[0]
            rows.append(f"<tr class='section'><th scope='rowgroup' colspan='{len(groups) + 1}'>{text(section)}</th></tr>")
        values = [group.recipe.get(key, "–") for group in groups]
        tags = ["mark" if value != values[0] else "span" for value in values]
        cells = [f"<td><{tag} class='name narrow'>{text(value)}</{tag}></td>" for tag, value in zip(tags, values, strict=True)]
        rows.append(f"<tr><th scope='row'>{text(key.partition('.')[2])}</th>{''.join(cells)}</tr>")
    head = f"<thead><tr><th scope='col'>key</th>{''.join(heads)}</tr></thead>"
    yield scrolling("Differing keys", f"{head}<tbody>{''.join(rows)}</tbody>")
    yield "<p class='note'>Only keys that differ; marked = not as in the first recipe; – = the run knows no such key.</p>"


# Curves.


def _curves(comparison: Comparison) -> Iterator[str]:
    colour = "run" if len(comparison.rows) <= _COLOURS else "recipe"
    yield "<p class='note'>Hover a curve or a name, or focus a chart and walk with the arrow keys; a ticked run is shown. "
    yield f"Colour and dashes tell the {colour}; a long curve keeps the ends and the peaks among {MOST_POINTS} points.</p>"
    yield "<div class='curves'><fieldset id='runs'><legend>Runs</legend><p><button type='button' id='all'>all</button> "
    yield "<button type='button' id='none'>none</button></p>"
    for at, row in enumerate(comparison.rows):
        yield f"<label data-run='{at}'><input type='checkbox' checked value='{at}'>{_swatch(comparison, at)}<span>{text(row.label)}</span></label>"
    yield "</fieldset><div class='charts'>"
    for metric, histories in comparison.curves.items():
        yield from _chart(comparison, metric, histories)
    yield "</div></div>"


def _kind(comparison: Comparison, at: int) -> str:
    """Colour and dash: of the run while there are colours for all, else of its recipe."""
    few = len(comparison.rows) <= _COLOURS
    kind = at if few else (comparison.number(comparison.rows[at]) or 0) - 1
    return f"c{kind % _COLOURS} d{kind // _COLOURS % _DASHES}"


def _swatch(comparison: Comparison, at: int) -> str:
    return (
        f"<svg class='swatch' viewBox='0 0 22 8' aria-hidden='true'><path class='{_kind(comparison, at)}' d='M1 4h20'/></svg>"
    )


def _chart(comparison: Comparison, metric: str, histories: Mapping[str, History]) -> Iterator[str]:
    values = np.concatenate([history.value[np.isfinite(history.value)] for history in histories.values()])
    last = max(int(history.step[-1]) for history in histories.values()) or 1
    log = log_scale(metric, values)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if log:
        low, high = math.log10(low), math.log10(high)
    if metric.startswith("stage_share/"):
        low, high = min(low, 0.0), max(high, 1.0)  # shares of all runs and stages are read against each other
    if low == high:
        high = low + 1.0
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    yield f"<figure><figcaption>{text(metric)}{' <span class=soft>logarithmic</span>' if log else ''}</figcaption>"
    yield f"<svg class='chart' viewBox='0 0 {_WIDTH} {_HEIGHT}' tabindex='0' role='application' "
    yield f"aria-label='{text(metric)} over steps: left and right walk along a run, up and down change the run' "
    yield f"data-last='{last}' data-low='{low:.8g}' data-high='{high:.8g}' data-log='{int(log)}' data-wide='{wide * _FINE}' data-tall='{tall * _FINE}'><g class='axes'>"
    for tick in _ticks(low, high, log):
        y = _TOP + tall * (1 - ((math.log10(tick) if log else tick) - low) / (high - low))
        yield f"<path d='M{_LEFT} {y:.1f}h{wide}'/><text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{tick:.4g}</text>"
    for tick in _ticks(0, last, False):
        x = _LEFT + wide * tick / last
        yield f"<text x='{x:.1f}' y='{_TOP + tall + 17}' text-anchor='middle'>{tick:g}</text>"
    yield f"<text x='{_LEFT + wide / 2:.0f}' y='{_HEIGHT - 6}' text-anchor='middle'>step</text></g>"
    yield f"<g class='plot' transform='translate({_LEFT} {_TOP}) scale({1 / _FINE})'>"
    for at, row in enumerate(comparison.rows):
        history = histories.get(row.run.run_id)
        if history is not None:
            step, value = thinned(history.step, history.value)
            with np.errstate(invalid="ignore"):
                height = ((np.log10(value) if log else value) - low) / (high - low)
            d = _path(step / last * wide * _FINE, (1 - height) * tall * _FINE)
            yield f"<path class='{_kind(comparison, at)}' data-run='{at}' d='{d}'/>" if d else ""
    yield "<circle class='here' r='40'/></g></svg><p class='readout' aria-live='polite'>&nbsp;</p></figure>"


def thinned(step: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points that keep the ends and the least and greatest value of each stretch, so no peak is lost.

    Args:
        step: (N,) ascending.
        value: (N,); what is not finite breaks the curve, and does so too where a whole stretch is not.

    Returns:
        (M,) steps and (M,) values, NaN at a break.
    """
    value = np.where(np.isfinite(value), value, np.nan)
    if len(step) <= MOST_POINTS:
        return step, value
    inner, rows = value[1:-1], (MOST_POINTS - 2) // 2
    grid = np.full((rows, -(-len(inner) // rows)), np.nan)
    grid.flat[: len(inner)] = inner
    known = np.isfinite(grid)
    least, most = np.where(known, grid, np.inf).argmin(axis=1), np.where(known, grid, -np.inf).argmax(axis=1)
    kept = 1 + np.arange(rows) * grid.shape[1] + np.stack([least, most])  # the first point of a stretch without any
    order = np.unique(np.concatenate([[0, len(step) - 1], kept[kept < len(step)]]))
    return step[order], value[order]


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """SVG path of whole relative moves; NaN in `y` breaks it, and a point alone is a dot."""
    drawn = np.isfinite(y)
    left, top = np.rint(x).astype(int).tolist(), np.rint(np.where(drawn, y, 0)).astype(int).tolist()
    parts: list[str] = []
    for at in np.flatnonzero(drawn).tolist():
        alone = at == 0 or not drawn[at - 1]
        parts.append(f"M{left[at]} {top[at]}h0" if alone else f"l{left[at] - left[at - 1]} {top[at] - top[at - 1]}")
    return "".join(parts)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """About five round values; on a logarithmic scale `low` and `high` are exponents of ten."""
    if log:
        marks = (1,) if high - low > 4 else (1, 3) if high - low > 1.5 else (1, 2, 5)
        every = [mark * 10.0**exponent for exponent in range(math.floor(low), math.ceil(high) + 1) for mark in marks]
        return [tick for tick in every if low <= math.log10(tick) <= high]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
