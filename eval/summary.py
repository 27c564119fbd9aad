"""Scores of evaluations in a terminal, and two of them by a paired test. Knows nothing of models or corpora."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from medclm.config import TrackingSection
from medclm.metrics.intervals import Paired, paired_test

if TYPE_CHECKING:
    from eval.runner import Plan


def print_scores(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Each suite's scores with intervals and floors; those that no example has are left to results.json."""
    for name, result in results.items():
        table = Table(
            "score", "value", "95 % interval", "floor", "n", title=f"{name}: {result['n']} examples", title_justify="left"
        )
        for score, entry in result["scores"].items():
            if entry["n"]:
                interval = "–" if entry["ci95"] is None else "{:.3f} to {:.3f}".format(*entry["ci95"])
                table.add_row(score, _number(entry["value"]), interval, _number(entry["floor"]), str(entry["n"]))
        Console().print(table)


def print_layouts() -> None:
    """The public benchmarks that can be read, and what each folder holds."""
    from eval.layouts.layout import find_layouts

    table = Table("layout", *(Column(head, overflow="fold") for head in ("what it is", "what the folder holds")))
    table.add_row("corpus", "a corpus of launch/corpus.py build", "manifest.json and its shards")
    for layout in find_layouts().values():
        table.add_row(layout.name, layout.about, layout.expects)
    Console().print(table)


def tracked(
    results: Mapping[str, Mapping[str, Any]], plan: Plan, checkpoint: Path, out: Path, section: TrackingSection, runs: Path
) -> None:
    """Log finished results as SUITE/SCORE at the checkpoint's step, with results.json and report.html.

    They go to the run that made the checkpoint, or to one of their own where that is not in this store; and to the model card
    of its export.
    """
    from medclm.exports import export_settings, exported
    from medclm.tracking import Tracker, stored_run_id

    export = exported(checkpoint)
    _add_to_card(results, plan, export)
    step = int(export_settings(export).get("step", 0))
    with Tracker(out, section, runs) as tracker:
        run_id = stored_run_id(checkpoint, tracker.uri)
        if run_id is None:
            tracker.start(f"eval {checkpoint.name}", {"checkpoint": checkpoint.as_posix(), "split": plan.split})
        else:
            tracker.attach(run_id)
        for name, result in results.items():
            suite, folder = f"{name}{'-blank' if plan.blank else ''}", plan.folder(out, name)
            scores = {f"{suite}/{key}": score["value"] for key, score in result["scores"].items() if score["value"] is not None}
            tracker.log(step, scores)
            tracker.artifact(folder / "results.json", folder.name)
            tracker.picture(folder / "report.html", folder.name)  # it holds pictures of patients


def _add_to_card(results: Mapping[str, Mapping[str, Any]], plan: Plan, export: Path) -> None:
    """Write finished results into the model card of an export; one that we did not write, or may not write to, stays as it is."""
    from medclm.exports import add_evaluations
    from medclm.model_card import evaluation

    if not os.access(export, os.W_OK):
        print(f"{export}: may not be written to, so its model card goes without these scores")
        return
    month = datetime.now(UTC).strftime("%Y-%m")
    found = [
        evaluation(
            result,
            split=plan.split,
            limit=plan.limit,
            instruction=plan.instruction,
            profile=plan.profile,
            blank=plan.blank,
            month=month,
        )
        for result in results.values()
    ]
    card = add_evaluations(export, found)
    if card is not None:
        print(f"model card: {card}")


def print_learned(run: Path) -> None:
    """What a finished run learned, in three lines, and where everything it left behind is and how to open it.

    Raises:
        ValueError: the run was not evaluated on its test split yet.
    """
    vqa, grounding = (_scores(run / "eval" / f"{suite}-test") for suite in ("vqa", "grounding"))
    names, boxes, both = vqa["answer_accuracy"], grounding["mean_iou"], grounding["answer_and_box"]
    store, export = run.parent / "mlflow.db", run / "export"
    print("What was learned, asked on patients it never saw, without a box on the image:")
    print(f"  names the finding or the organ   {_claim(names)}")
    print(f"  puts a box around the finding    {_claim(boxes)} mean IoU")
    print(
        f"  both right at once               {_claim(both)}; {grounding['reason_format_rate']['value']:.0%} give box, reasoning and answer"
    )
    print("Where things are:")
    print(f"  runs      mlflow ui --backend-store-uri sqlite:///{store}   then http://127.0.0.1:5000")
    print(f"  model     {export}   (plain transformers folder; checkpoints: {run / 'checkpoints'})")
    print(f"  scores    {run / 'eval' / 'vqa-test' / 'results.json'}, report.html beside it")
    print(f"  pictures  {run / 'eval' / 'grounding-test' / 'report.html'}")
    print(
        f"  try it    python launch/predict.py --checkpoint {run} --image FILE --question 'What is the finding in this image?' --out overlay.png"
    )
    print("Research use only, not a medical device.")


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: missing: run launch/evaluate.py --checkpoint {folder.parents[1]} --out {folder.parent} first"
        )
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    assert isinstance(scores, dict)
    return scores


def _claim(score: Mapping[str, Any]) -> str:
    interval = "" if score["ci95"] is None else " ({:.2f} to {:.2f})".format(*score["ci95"])
    floor = "" if score["floor"] is None else f", {score['floor']:.2f} without looking"
    return f"{score['value']:.2f}{interval}{floor}"


def paired(first: Path, second: Path, score: str) -> Paired:
    """Two evaluation folders on the same examples, by one per-example score.

    Raises:
        ValueError: not an evaluation folder, or no example has the score in both.
    """
    left, right = (_scored(folder, score) for folder in (first, second))
    for folder, found in ((first, left), (second, right)):
        if not found:
            raise ValueError(
                f"--metric {score}: no example of {folder} has it; single examples have {', '.join(_scores_of(folder))}"
            )
    shared = sorted(left.keys() & right.keys())
    if not shared:
        raise ValueError(
            f"{first} and {second} share no example with {score}: evaluate the same split, and name a per-example score"
        )
    values = np.array([(left[key][0], right[key][0]) for key in shared])
    return paired_test(values[:, 0], values[:, 1], [left[key][1] for key in shared])


def _scored(folder: Path, score: str) -> dict[str, tuple[float, str]]:
    return {line["id"]: (line["scores"][score], line["patient"]) for line in _predictions(folder) if score in line["scores"]}


def _scores_of(folder: Path) -> list[str]:
    return sorted({name for line in _predictions(folder) for name in line["scores"]})


def _predictions(folder: Path) -> list[dict[str, Any]]:
    path = folder / "predictions.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder}: no predictions.jsonl: give a folder such as runs/NAME/eval/vqa-test")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]  # a text may hold U+2028


def print_paired(result: Paired, score: str) -> None:
    """Difference of the first and the second run with its interval and p-value, or why there is none."""
    interval = "" if result.ci95 is None else " (95 % interval {:+.3f} to {:+.3f})".format(*result.ci95)
    verdict = (
        result.note if result.p_value is None else f"p = {result.p_value:.4f}, sign-flip test over {result.patients} patients"
    )
    print(f"{score}: first - second = {result.difference:+.3f}{interval}; {verdict}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
