"""Draws courses as PNG files. The only file that needs matplotlib (`pip install medclm[eval]`), and only when it draws.

    draw_course(course, Path("runs/demo/pictures"))

Uses matplotlib's figures without pyplot: no window, no global state, safe in any thread. Pure; imports no torch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medclm.curriculum.course import Course
from medclm.types import Stage

STAGE_COLOURS = {Stage.EASY: "#0072B2", Stage.MEDIUM: "#E69F00", Stage.HARD: "#7A1F5C"}
"""Told apart by colour-blind readers and in grey: dark blue, light orange, darkest purple (Okabe and Ito 2008, and Tol's wine)."""
DOMAIN_COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933")
"""Paul Tol's muted scheme; as many domains are named, the rest is a band."""
MOST_BARS = 24
MOST_MARKS = 60
"""Beyond so many changes the Hard budget is no stairs with plateaus but a curve: its marks would cover it."""
COLUMNS = 5
"""Courses beside each other before the next row."""


def draw_course(course: Course, folder: Path) -> list[Path]:
    """A run as course.png (shares, losses, Hard budget), domains.png (gaps, averages) and domain_stages.png in `folder`.

    Raises:
        ValueError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"course": _course_figure(course), "domains": _domains_figure(course), "domain_stages": _bars_figure(course)}
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{name}.png")
        _save(figure, paths[-1])
    return paths


def draw_side_by_side(courses: Sequence[Course], title: str, path: Path) -> Path:
    """Several courses in one picture, a column each, on the same axes.

    Raises:
        ValueError: matplotlib is not installed.
    """
    blocks = -(-len(courses) // COLUMNS)
    columns = -(-len(courses) // blocks)
    figure = _figure(width=1.9 + 3.3 * columns, height=0.7 + 6.8 * blocks)
    grid = figure.subplots(3 * blocks, columns, squeeze=False, height_ratios=[2.2, 2.2, 1.4] * blocks)
    losses = np.concatenate([course.losses() for course in courses])
    for place in range(columns * blocks):
        block, column = divmod(place, columns)
        axes = grid[3 * block : 3 * block + 3, column]
        if place >= len(courses):
            for unused in axes:
                unused.set_visible(False)
            continue
        _panels(axes, courses[place], shown_losses=losses)
        shares = " / ".join(f"{share:.0%}" for share in courses[place].total_shares())
        axes[0].set_title(f"{courses[place].policy}\n{shares}", fontsize=11)
        for inner in axes if column else ():
            inner.set_ylabel("")
            inner.tick_params(labelleft=False)
    figure.suptitle(f"{title} (shares of the whole run: Easy / Medium / Hard)", fontsize=12)
    _stage_legend(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, path)
    return path


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})  # a picture says nothing of who drew it: an audit would ask


def _figure(*, width: float, height: float) -> Any:
    """An empty figure; sizes in inches at 110 dots each."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("pictures need matplotlib: pip install 'medclm[eval]'") from error
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _course_figure(course: Course) -> Any:
    figure = _figure(width=10, height=8)
    axes = figure.subplots(3, 1, height_ratios=[2.2, 2.2, 1.4])
    _panels(axes, course, shown_losses=course.losses())
    samples, fallbacks, skipped = int(course.samples.sum()), int(course.fallbacks.sum()), int(course.skipped.sum())
    shares = ", ".join(f"{stage.key} {share:.1%}" for stage, share in zip(Stage, course.total_shares(), strict=True))
    figure.suptitle(
        f"{course.policy}: {samples:,} samples of {len(course.domains)} {_plural(len(course.domains), 'domain')}; {shares}\n"
        f"{fallbacks:,} fallbacks (stage not offered by the record), {skipped} skipped {_plural(skipped, 'batch', 'batches')}",
        fontsize=11,
    )
    _stage_legend(figure)
    return figure


def _panels(axes: Sequence[Any], course: Course, *, shown_losses: np.ndarray) -> None:
    """Shares, losses and Hard budget of one course under each other; `shown_losses` decides the axis of the losses."""
    shares, losses, budget = axes
    given_P3 = 100 * np.nan_to_num(course.shares())
    shares.stackplot(course.steps, given_P3.T, colors=list(STAGE_COLOURS.values()), linewidth=0)
    shares.set_ylim(0, 100)
    shares.set_ylabel("share of samples (%)")
    means_P3 = course.losses()
    for stage, colour in STAGE_COLOURS.items():
        losses.plot(course.steps, means_P3[:, stage], color=colour, linewidth=1.4, marker=".", markersize=3)
    _log_axis(losses, shown_losses)
    losses.set_ylabel("mean sample loss (log)")
    _budget(budget, course)
    for axis in axes:
        _frame(axis, course)
        axis.tick_params(labelbottom=axis is budget)
    budget.set_xlabel("update")


def _budget(axis: Any, course: Course) -> None:
    """The Hard budget as stairs, its steps marked: up after a plateau, down after a worsening."""
    hard_P = 100 * course.report.get("hard_budget", np.full(len(course.steps), np.nan))
    known = not np.isnan(hard_P).all()
    if known:
        axis.plot(course.steps, hard_P, color=STAGE_COLOURS[Stage.HARD], linewidth=1.6, drawstyle="steps-post")
        if len(course.marks) <= MOST_MARKS:
            for marker, grew in (("^", True), ("v", False)):
                marks = [mark for mark in course.marks if (mark.after > mark.before) == grew]
                axis.plot(
                    [mark.step for mark in marks],
                    [100 * mark.after for mark in marks],
                    marker=marker,
                    linestyle="none",
                    color="black",
                    markersize=6,
                )
    else:
        axis.text(0.5, 0.5, "this policy has none", transform=axis.transAxes, ha="center", va="center", color="dimgrey")
    top = max(35.0, 1.15 * float(np.nanmax(hard_P))) if known else 35.0
    axis.set_ylim(-0.03 * top, top)  # a budget of 0 is a line to be seen
    axis.set_ylabel("Hard budget (%)")


def _frame(axis: Any, course: Course) -> None:
    """The whole planned run from the first point on, so that a run that ended early shows it."""
    first, last = int(course.steps[0]), int(course.steps[-1])
    axis.set_xlim(first if len(course.steps) > 1 else 0, max(course.total_steps, last, 1))
    axis.grid(visible=True, linewidth=0.4, alpha=0.6)


def _log_axis(axis: Any, values: np.ndarray) -> None:
    """A logarithmic axis around the positive ones of `values`: losses fall a hundredfold, and their tail is what is compared."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    known = values[np.isfinite(values) & (values > 0)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.1, 1.0)
    axis.set_yscale("log")
    axis.set_ylim(0.85 * low, 1.15 * high)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 5 * low else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _stage_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colour, label=stage.name.title()) for stage, colour in STAGE_COLOURS.items()]
    for marker, label in (("^", "budget grew\n(plateau)"), ("v", "budget shrank\n(worsening)")):
        handles.append(Line2D([], [], marker=marker, color="black", linestyle="none", label=label))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)


def _domains_figure(course: Course) -> Any:
    """Gap and averages: the largest domains named, the rest as a band of quantiles."""
    series = {f"{name.title()}: moving average of the loss": values for name, values in course.averages().items()}
    if "easy" not in course.domain_report:
        series = {name.replace("moving average", "mean"): values for name, values in series.items()}
    if "gap" in course.domain_report:
        series = {"Gap between Medium and Easy (relative)": course.domain_report["gap"], **series}
    named = course.largest_domains(len(DOMAIN_COLOURS))
    rest = np.setdiff1d(np.arange(len(course.domains)), named)
    rows = 1 if len(series) < 4 else 2
    figure = _figure(width=13, height=0.6 + 3.7 * rows)
    grid = figure.subplots(rows, -(-len(series) // rows), squeeze=False).ravel()
    for axis, (title, values_PD) in zip(grid, series.items(), strict=True):
        _domain_panel(axis, course, values_PD, named, rest)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("gap" if title.startswith("Gap") else "loss (log)")
        axis.set_xlabel("update")
        if not title.startswith("Gap") and not np.isnan(values_PD).all():
            _log_axis(axis, values_PD)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(f"{course.policy}: {len(course.domains)} {_plural(len(course.domains), 'domain')}", fontsize=11)
    return figure


def _domain_panel(axis: Any, course: Course, values_PD: np.ndarray, named: np.ndarray, rest: np.ndarray) -> None:
    if len(rest):
        low, middle, high = _quantiles(values_PD[:, rest], (0.1, 0.5, 0.9))
        axis.fill_between(course.steps, low, high, color="lightgrey", linewidth=0, label=f"the other {len(rest)}:\n10 to 90 %")
        axis.plot(course.steps, middle, color="grey", linewidth=1.6, linestyle="--", label="their median")
    for colour, domain in zip(DOMAIN_COLOURS, named, strict=False):
        name = textwrap.shorten(course.domains[domain], 34, placeholder="…")
        axis.plot(course.steps, values_PD[:, domain], color=colour, linewidth=1.2, label=name)
    if np.isnan(values_PD).all():
        axis.text(0.5, 0.5, "never seen", transform=axis.transAxes, ha="center", va="center", color="dimgrey")
        axis.set_yticks([])
    _frame(axis, course)


def _bars_figure(course: Course) -> Any:
    """Shares of the stages in the whole run, for each of the largest domains and the rest together."""
    samples_D3 = course.samples.sum(axis=0)
    named = course.largest_domains(MOST_BARS)
    rows, names = [samples_D3[domain] for domain in named], [course.domains[domain] for domain in named]
    if len(course.domains) > len(named):
        rows.append(samples_D3.sum(axis=0) - np.sum(rows, axis=0))
        names.append(f"the other {len(course.domains) - len(named)}")
    counts_R3 = np.stack([samples_D3.sum(axis=0), *rows]).astype(np.float64)
    percent_R3 = 100 * counts_R3 / np.maximum(counts_R3.sum(axis=1, keepdims=True), 1)
    figure = _figure(width=10, height=1.6 + 0.27 * len(counts_R3))
    axis, left_R = figure.subplots(), np.zeros(len(counts_R3))
    labels = [
        f"{textwrap.shorten(name, 40, placeholder='…')}  ({int(total):,})"
        for name, total in zip(["all", *names], counts_R3.sum(axis=1), strict=True)
    ]
    places = np.arange(len(labels))
    for stage, colour in STAGE_COLOURS.items():
        axis.barh(places, percent_R3[:, stage], left=left_R, color=colour, label=stage.name.title())
        left_R += percent_R3[:, stage]
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    axis.margins(y=0.01)
    axis.set_xlim(0, 100)
    axis.set_xlabel("share of the domain's samples (%)")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(f"{course.policy}: stages given in each domain (samples)", fontsize=11)
    return figure


def _quantiles(values_PD: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(levels, P) quantiles over the known values of each point, NaN where none is known."""
    return np.array(
        [
            np.quantile(known, levels) if len(known := row[np.isfinite(row)]) else np.full(len(levels), np.nan)
            for row in values_PD
        ]
    ).T


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"
