"""Runs of an MLflow experiment side by side: scores with intervals, recipes that differ, seeds taken together, curves.

`gather` reads the store once; eval/runs/comparison_text.py shows it in a terminal, eval/runs/comparison_page.py as one HTML file. The
95 % intervals are those of each evaluation's results.json, which the run keeps as an artifact: a value takes the interval of
the evaluation that gave it, and nothing but the store is needed. Knows nothing of models or corpora.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclm.tracked_runs import History, RunSummary, histories, stored_json, stored_name, stored_runs

HEADLINE = ("vqa/answer_accuracy", "vqa/closed_accuracy", "grounding/mean_iou", "grounding/answer_and_box")
_CURVES = (
    "train/loss",
    "stage_share/easy",
    "stage_share/medium",
    "stage_share/",
    "curriculum/median_gap",
    "curriculum/hard_budget",
)
"""Beginnings of the names of what is drawn beside the chosen metrics, in this order."""
_LOWER = ("loss", "error", "false_positive", "unparsed", "wrong_reason", "skipped")
"""Parts of the names of what is better when lower."""
_LOWER_NAMES = (
    "speed/step_s",
    "speed/data_wait_s",
    "speed/curriculum_share",
    "memory/peak_bytes",
    "curriculum/median_gap",
    "curriculum/fallbacks",
)
_PLACES = ("run.", "tracking.")
"""Sections of a recipe that say what a run is called and where it goes; run.seed is a column of its own."""
_LOG_FROM = 20.0
"""A loss that spans this factor is drawn on a logarithmic scale: losses fall by two decades."""


@dataclass(frozen=True)
class Score:
    """One metric of one run."""

    final: float
    """At the last step; NaN and infinities as logged."""
    step: int
    best: float | None
    """None where no value is finite."""
    best_step: int | None
    ci95: tuple[float, float] | None
    """Interval of `final`; None unless an evaluation gave it one."""
    evaluation: str
    """Artifact folder of that evaluation, such as vqa-test, else empty."""
    reached: tuple[int, float | None] | None
    """First logged step at the target and the seconds it took since the run began; None = not reached, or no target."""


@dataclass(frozen=True)
class Row:
    """One run."""

    run: RunSummary
    label: str
    """Its name, with the short id where another run has the same."""
    recipe: Mapping[str, str]
    """Dotted key -> value; `old → new` where the run was resumed with another. Empty for an evaluation that no run joined."""
    step: int | None
    """Last logged step."""
    seconds: float | None
    """From its first start to its last end, or so far; pauses of a resumed run count."""
    scores: Mapping[str, Score]

    @property
    def short_id(self) -> str:
        return self.run.run_id[:6]

    @property
    def finished(self) -> bool:
        """Neither failed nor killed, and not still running."""
        return self.run.status == "FINISHED"

    @property
    def policy(self) -> str:
        return self.recipe.get("curriculum.policy", "–")

    @property
    def seed(self) -> str:
        return self.recipe.get("run.seed", "–")

    @property
    def steps(self) -> str:
        """Steps reached, of those planned where they differ."""
        planned = self.recipe.get("train.steps", "").split(" → ")[-1]
        reached = str(self.step or 0)
        return reached if planned in ("", reached) else f"{reached} of {planned}"


@dataclass(frozen=True)
class Finals:
    """Final values of one metric in a group: of the finished runs that have it, since others would move the mean."""

    values: list[float]
    """The finite ones."""
    not_finite: int
    repeated: int
    """Values beyond the first of their seed."""

    @property
    def n(self) -> str:
        """How many values, of how many, and what is odd about them."""
        runs = len(self.values) + self.not_finite
        parts = [f"{len(self.values)} of {runs}, {self.not_finite} not finite" if self.not_finite else str(runs)]
        return ", ".join([*parts, f"{self.repeated} repeated"] if self.repeated else parts)


@dataclass(frozen=True)
class Group:
    """Runs of one recipe: they differ by name, place and seed only."""

    number: int
    recipe: Mapping[str, str]
    rows: tuple[Row, ...]

    @property
    def seeds(self) -> list[str]:
        return sorted({row.seed for row in self.rows}, key=lambda seed: (len(seed), seed))

    def finals(self, metric: str) -> Finals:
        rows = [row for row in self.rows if row.finished and metric in row.scores]
        finite = [row for row in rows if math.isfinite(row.scores[metric].final)]
        return Finals(
            values=[row.scores[metric].final for row in finite],
            not_finite=len(rows) - len(finite),
            repeated=len(finite) - len({row.seed for row in finite}),
        )

    @property
    def sentence(self) -> str:
        """Its runs and their seeds."""
        seeds, repeated = ", ".join(self.seeds), len(self.rows) - len(self.seeds)
        runs = f"recipe {self.number}: {len(self.rows)} runs"
        return f"{runs} of seeds {seeds} ({repeated} repeated)" if repeated else f"{runs} that differ by seed only ({seeds})"


@dataclass(frozen=True)
class Comparison:
    """What is known of the runs of an experiment."""

    experiment: str
    uri: str
    metrics: tuple[str, ...]
    target: float | None
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    curves: Mapping[str, Mapping[str, History]]
    """Metric -> run id -> history, of what is drawn."""

    def number(self, row: Row) -> int | None:
        """Number of the recipe of a row."""
        return next((group.number for group in self.groups if row in group.rows), None)

    def leader(self, metric: str) -> float | None:
        """Best final value of the finished runs; what another has at the moment is no result."""
        finals = [row.scores[metric].final for row in self.rows if row.finished and metric in row.scores]
        return (min if lower_is_better(metric) else max)(filter(math.isfinite, finals), default=None)

    def leads(self, row: Row, metric: str) -> bool:
        """Whether a row is finished with the best value."""
        return row.finished and metric in row.scores and row.scores[metric].final == self.leader(metric)

    @property
    def differing(self) -> list[str]:
        """Keys that not all recipes have with equal value, in order."""
        keys = sorted({key for group in self.groups for key in group.recipe})
        return [key for key in keys if len({group.recipe.get(key) for group in self.groups}) > 1]

    @property
    def sentence(self) -> str:
        """How many runs, and which have one recipe."""
        unread = len(self.rows) - sum(len(group.rows) for group in self.groups)
        parts = [f"{count(len(self.rows), 'run')}, {count(len(self.groups), 'recipe')}"]
        repeated = [group for group in self.groups if len(group.rows) > 1]
        parts += [group.sentence for group in repeated[:3]]
        parts += [f"{len(repeated) - 3} more recipes with several runs"] if len(repeated) > 3 else []
        parts += [f"{count(unread, 'run')} without a recipe"] if unread else []
        return "; ".join(parts)


def gather(experiment: str, *, uri: str, metrics: Sequence[str] = (), target: float | None = None) -> Comparison:
    """Read what `experiment.compare_experiment` shows; same arguments and errors."""
    if target is not None and (len(metrics) != 1 or not math.isfinite(target)):
        raise ValueError(f"--target {target:g}: give a number, and with --metric the one metric that shall reach it")
    runs = stored_runs(uri, experiment)
    if not runs:
        raise ValueError(f"--experiment {experiment}: holds no runs in {uri}: train first")
    known = sorted({metric for run in runs for metric in run.metrics})
    chosen = list(dict.fromkeys(_known(metric, known) for metric in metrics)) or default_metrics(known)
    drawn = [metric for beginning in _CURVES for metric in known if metric.startswith(beginning)]
    read = histories(uri, runs, list(dict.fromkeys([*chosen, *drawn])))
    results = stored_json(uri, runs, "results.json")
    named = Counter(run.name for run in runs)
    rows = []
    for run in runs:
        own = {metric: read[metric][run.run_id] for metric in read if run.run_id in read[metric]}
        ends = [run.ended] if run.ended is not None else [float(history.time.max()) for history in own.values()]
        rows.append(
            Row(
                run=run,
                label=run.name if named[run.name] == 1 else f"{run.name} ({run.run_id[:6]})",
                recipe=_recipe(run),
                step=max((int(history.step[-1]) for history in own.values()), default=None),
                seconds=max(ends) - run.started if ends and run.started is not None else None,
                scores={metric: _score(metric, run, own, results[run.run_id], target) for metric in chosen if metric in own},
            )
        )
    curves = {metric: read[metric] for metric in read if any(len(history.step) > 1 for history in read[metric].values())}
    return Comparison(experiment, uri, tuple(chosen), target, tuple(rows), _groups(rows), curves)


def _known(metric: str, known: Sequence[str]) -> str:
    name = stored_name(metric)
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    close = close or [other for other in known if other.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]][:1]
    hint = f"did you mean {close[0]}? " if close else ""
    headline = [other for other in known if not other.startswith("domain/")]
    raise ValueError(f"--metric {metric}: no run has it; {hint}known: {', '.join(headline[:30]) or 'none'}")


def default_metrics(known: Sequence[str]) -> list[str]:
    """What to compare when nothing is asked: the headline scores and the loss, as far as any run has them."""
    losses = sorted(metric for metric in known if metric.split("/")[-1] == "loss")
    return [metric for metric in (*HEADLINE, *losses) if metric in known] or sorted(known)[:5]


def lower_is_better(metric: str) -> bool:
    """By name: a loss, an error, a false-positive rate, what is unparsed, a cost."""
    return metric in _LOWER_NAMES or any(word in metric.lower() for word in _LOWER)


def log_scale(metric: str, values: np.ndarray) -> bool:
    """Whether the finite (N,) values of a metric are better seen on a logarithmic scale."""
    return bool("loss" in metric and len(values) and values.min() > 0 and values.max() / values.min() >= _LOG_FROM)


def _recipe(run: RunSummary) -> dict[str, str]:
    """The parameters that are keys of a recipe; a resumed run's changes stand in tags, since MLflow changes no parameter."""
    recipe = {key: value for key, value in run.params.items() if "." in key}
    for tag, value in run.tags.items():
        key = tag.removeprefix("resumed.")
        if key != tag and key in recipe:
            recipe[key] = f"{recipe[key]} → {value}"
    return recipe


def _score(metric: str, run: RunSummary, own: Mapping[str, History], results: Mapping[str, Any], target: float | None) -> Score:
    history = own[metric]
    finite = np.flatnonzero(np.isfinite(history.value))
    sign = 1.0 if lower_is_better(metric) else -1.0
    best = int(finite[np.argmin(sign * history.value[finite])]) if len(finite) else None
    reached = None
    if target is not None and len(hits := finite[sign * history.value[finite] <= sign * target]):
        step = int(history.step[hits[0]])
        # a checkpoint is evaluated long after its step: the time is that of training, which logged the same step first
        since = min(float(one.time[one.step >= step].min(initial=math.inf)) for one in own.values())
        reached = (step, None if run.started is None else since - run.started)
    evaluation, ci95 = _interval(metric, run, results)
    return Score(
        final=float(history.value[-1]),
        step=int(history.step[-1]),
        best=None if best is None else float(history.value[best]),
        best_step=None if best is None else int(history.step[best]),
        ci95=ci95,
        evaluation=evaluation,
        reached=reached,
    )


def _interval(metric: str, run: RunSummary, results: Mapping[str, Any]) -> tuple[str, tuple[float, float] | None]:
    """(folder, interval) of the evaluation that gave the metric its last value.

    Folders are SUITE-SPLIT[-blank] and metrics SUITE[-blank]/SCORE, whatever the split: it is the evaluation with whose scores
    all those metrics of the run agree. No interval where none does, or several with another interval each.
    """
    found: dict[str, Any] = {}
    for folder, result in results.items():
        prefix = folder.split("-")[0] + ("-blank" if folder.endswith("-blank") else "")
        scores = {stored_name(f"{prefix}/{name}"): score for name, score in result.get("scores", {}).items()}
        logged = {name: score["value"] for name, score in scores.items() if score["value"] is not None and name in run.metrics}
        if metric in logged and all(value == run.metrics[name] for name, value in logged.items()):
            found[folder] = scores[metric]["ci95"]
    folder, ci95 = next(iter(found.items()), ("", None))
    if any(other != ci95 for other in found.values()):
        return "", None
    return folder, None if ci95 is None else (ci95[0], ci95[1])


def _groups(rows: Sequence[Row]) -> tuple[Group, ...]:
    """Rows with a recipe by equal recipe, numbered from 1 in order of their oldest run."""
    found: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        if row.recipe:
            key = tuple(sorted((key, value) for key, value in row.recipe.items() if not key.startswith(_PLACES)))
            found.setdefault(key, []).append(row)
    return tuple(Group(number, dict(key), tuple(same)) for number, (key, same) in enumerate(found.items(), 1))


def number(value: float | None) -> str:
    """Four digits; a dash where there is none."""
    return "–" if value is None else "NaN" if math.isnan(value) else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Whole seconds."""
    return "–" if seconds is None else f"{seconds:.0f}"


def goal(metric: str, target: float) -> str:
    """The target with its direction."""
    return f"{'≤' if lower_is_better(metric) else '≥'} {target:g}"


def count(value: int, noun: str) -> str:
    return f"{value} {noun}{'' if value == 1 else 's'}"
