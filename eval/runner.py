"""One evaluation: ask every question once, judge the replies by each suite, and leave results a person can check.

    OUT/replies-SPLIT/                                                   every reply as it came (eval/asking.py)
    OUT/SUITE-SPLIT/{results.json, settings.json, predictions.jsonl, report.html, pictures/*.jpg}

Knows no score and no benchmark by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.asking import SETTINGS, Replies, ask_all
from eval.decoding import Decoding
from eval.example import STORED, Ask, Example, Reply, Said, Square, Terms, View
from eval.layouts.layout import open_pool
from eval.pages.case_pictures import save_pictures
from eval.pages.cases import case_of, choose, line_of
from eval.pages.report import write_report
from eval.pool import Pool
from eval.respondent import Asked, Respondent, read_reply
from eval.stored import STORED_SQUARE, Stored
from eval.suite import Suite, breakdown, summarise
from eval.suites.behaviour import BehaviourSuite
from eval.suites.choice import ChoiceSuite
from eval.suites.classification import ClassificationSuite
from eval.suites.grounding import GroundingSuite
from eval.suites.report import ReportSuite
from eval.suites.vqa import vqa_suite
from medclm.data.manifest import write_json
from medclm.data.render import with_instruction
from medclm.distributed import ControlPlane, Ranks
from medclm.metrics.profiles import profile_named

SUITES: dict[str, Callable[[Pool, Terms], Suite]] = {
    "vqa": vqa_suite,
    "grounding": GroundingSuite,
    "report": ReportSuite,
    "classification": ClassificationSuite,
    "choice": ChoiceSuite,
    "behaviour": BehaviourSuite,
}
ALONE = Ranks(rank=0, local_rank=0, world_size=1)


@dataclass(frozen=True)
class Benchmark:
    """How the questions are stored; see `open_pool`."""

    layout: str = "auto"
    images: Path | None = None
    window: tuple[float, float] | None = None

    def open(self, data: Path, split: str) -> Pool:
        if self.images is not None and not self.images.is_dir():
            raise ValueError(f"--images {self.images}: there is no such folder")
        pool = open_pool(data, split, layout=self.layout, images=self.images, window=self.window)
        if self.images is not None and pool.pictures is None:
            raise ValueError(f"--images {self.images}: holds no picture of the questions, such as {pool.asked[0].picture}")
        return pool


@dataclass(frozen=True)
class Plan:
    """What is evaluated, beside who answers."""

    suites: tuple[str, ...]
    """Names in `SUITES`."""
    split: str = "test"
    limit: int | None = None
    """At most so many examples a suite, a fixed draw by `seed`; None = all."""
    instruction: str = "reason"
    """How each question ends: `reason` or `direct`."""
    profile: str = "medclm"
    """Whose rules ask and judge `vqa`: a name of medclm/metrics/profiles.py."""
    seed: int = 0
    """Of the draw of `limit` and of the bootstrap."""
    blank: bool = False
    """Show a grey picture instead of each image: a floor of the model itself, kept apart as SUITE-SPLIT-blank."""
    overwrite: bool = False
    """Throw away what the folder holds of another checkpoint or other settings."""
    notes: dict[str, str] = field(default_factory=dict)
    """Shown with the results: name of the checkpoint, say."""

    def check(self) -> None:
        """Refuse what cannot be run, before anything is loaded.

        Raises:
            ValueError: unknown suite or instruction, or a limit below 1; names the cure.
        """
        unknown = [name for name in self.suites if name not in SUITES]
        if unknown or not self.suites:
            raise ValueError(f"--suites {','.join(self.suites)}: choose from {', '.join(SUITES)}")
        with_instruction("", self.instruction)
        profile_named(self.profile)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: give at least 1, or leave it out for all examples")

    def folder(self, out: Path, what: str) -> Path:
        """Where replies or one suite's results go: OUT/vqa-test, and apart from it OUT/vqa-test-blank."""
        return out / f"{what}-{self.split}{'-blank' if self.blank else ''}"


def evaluate(
    plan: Plan, pool: Pool, respondent: Respondent, out: Path, *, ranks: Ranks = ALONE, timeout_s: float = 4 * 3600.0
) -> dict[str, dict[str, Any]]:
    """Ask what `plan` wants of the pool and judge what came back.

    Args:
        out: gets one folder per suite, and the replies.
        ranks: this process among those that ask together; rank 0 judges.
        timeout_s: longest wait for another rank's replies.

    Returns:
        suite -> what its results.json holds; empty on ranks other than 0.

    Raises:
        ValueError: as `Plan.check`; `out` holds another evaluation; or the respondent cannot be asked this; names the cure.
        RuntimeError: another rank ended or hangs.
    """
    plan.check()
    plane = ControlPlane(ranks, timeout_s=timeout_s, knob="--timeout")
    suites = [_suite(name, plan, pool, respondent.square) for name in plan.suites]
    settings = _settings(plan, pool, respondent)
    folder = plan.folder(out, "replies")
    if ranks.is_main:
        Replies(folder, settings, overwrite=plan.overwrite)
    plane.largest(0, what="the evaluation folder")
    replies = Replies(folder, settings)
    asked = [
        Asked(example, _blank(ask) if plan.blank else ask)
        for suite in suites
        for example in suite.examples
        for ask in suite.asks(example)
    ]
    found = ask_all(asked, respondent, pool.pictures, replies, ranks)
    plane.largest(0, what="the replies of its share")
    if not ranks.is_main:
        return {}
    found = found if ranks.world_size == 1 else replies.read()
    return {
        suite.name: _judge(suite, found, plan, pool, respondent, plan.folder(out, suite.name), settings) for suite in suites
    }


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path,
    out: Path,
    plan: Plan,
    decoding: Decoding,
    *,
    benchmark: Benchmark = Benchmark(),
    ranks: Ranks = ALONE,
    timeout_s: float = 4 * 3600.0,
) -> dict[str, dict[str, Any]]:
    """`evaluate` of a run folder, step folder or export on a corpus or a public benchmark.

    Raises:
        ValueError: as `evaluate`, `open_pool` and `open_checkpoint`.
    """
    from eval.model import open_checkpoint
    from medclm.exports import exported

    plan.check()
    pool = benchmark.open(data, plan.split)  # before the model: a wrong folder is told in a second,
    for name in plan.suites:
        _suite(name, plan, pool, STORED_SQUARE)  # and so is a suite that has nothing here
    plane = ControlPlane(ranks, timeout_s=timeout_s, knob="--timeout")
    folder = plane.main_first(lambda: exported(checkpoint), what=f"the export of {checkpoint}")  # which may be made just now
    model = open_checkpoint(folder, decoding, local_rank=ranks.local_rank)
    noted = replace(plan, notes={"checkpoint": checkpoint.as_posix(), **plan.notes})
    return evaluate(noted, pool, model, out, ranks=ranks, timeout_s=timeout_s)


def evaluate_predictions(
    file: Path, data: Path, out: Path, plan: Plan, *, benchmark: Benchmark = Benchmark()
) -> dict[str, dict[str, Any]]:
    """`evaluate` of stored predictions, whoever made them; replies kept of another file are replaced, those of a model are not.

    Raises:
        ValueError: as `evaluate`, `open_pool` and `Stored`.
    """
    plan.check()
    pool = benchmark.open(data, plan.split)
    asked = {one.id: one for name in plan.suites for one in _suite(name, plan, pool, STORED_SQUARE).examples}
    stored = Stored(
        file, list(asked.values()), undrawn={one.id for one in pool.asked} if plan.limit is not None else frozenset()
    )
    noted = plan.folder(out, "replies") / SETTINGS
    ours = noted.is_file() and "predictions" in json.loads(noted.read_text(encoding="utf-8"))
    notes = {"predictions": file.name, "without a prediction": str(stored.missing), **plan.notes}
    return evaluate(replace(plan, notes=notes, overwrite=plan.overwrite or ours), pool, stored, out)


def _suite(name: str, plan: Plan, pool: Pool, square: Square) -> Suite:
    suite: Suite = SUITES[name](pool, Terms(plan.instruction, square, plan.profile))
    if not suite.examples:
        why = ", ".join(f"{number} {reason}" for reason, number in suite.left_out.items()) or "it is empty"
        raise ValueError(f"--suites {name}: {pool.name}, split {plan.split}, has nothing for it ({why}): choose another suite")
    suite.examples = _limited(suite.examples, plan.limit, plan.seed)
    return suite


def _blank(ask: Ask) -> Ask:
    return replace(ask, view=View("blank")) if ask.view == STORED else ask


def _settings(plan: Plan, pool: Pool, respondent: Respondent) -> dict[str, Any]:
    """Everything that decides a reply."""
    return {
        **respondent.settings,
        "benchmark": pool.name,
        "questions": pool.identity,
        "split": plan.split,
        "instruction": plan.instruction,
        "profile": plan.profile,
        "blank_image": plan.blank,
    }


def _limited(examples: list[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples, in their order. The draw is by example, so that suites share the questions they both ask."""
    if limit is None or limit >= len(examples):
        return examples
    draw = {example.id: hashlib.blake2b(f"{seed} {example.id}".encode()).digest() for example in examples}
    kept = set(sorted(draw, key=draw.__getitem__)[:limit])
    return [example for example in examples if example.id in kept]


def _judge(
    suite: Suite,
    replies: dict[str, Reply],
    plan: Plan,
    pool: Pool,
    respondent: Respondent,
    folder: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Scores, predictions, pictures, page and, last, results.json: a folder that has it is complete."""
    from medclm.checkpoint import package_versions

    said = [_said(example, suite, replies, pool, respondent) for example in suite.examples]
    judged = suite.judge(suite.examples, said)
    not_run = dict(suite.not_run)  # of the model; judging the guesses comes after
    rows = zip(suite.examples, said, judged, strict=True)
    cases = choose([case_of(example, suite.asks(example), one, values) for example, one, values in rows], seed=plan.seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if (pictures := pool.pictures) is not None:
        keys = {example.id: example.picture for example in suite.examples}
        cases = save_pictures(cases, folder, lambda case_id: pictures.open(keys[case_id]))
    _write_lines(folder / "predictions.jsonl", [line_of(case) for case in cases])
    results = {
        "suite": suite.name,
        "benchmark": pool.name,
        "n": len(cases),
        "headline": list(suite.headline),
        "scores": {name: score.as_json() for name, score in summarise(suite, judged, seed=plan.seed).items()},
        "breakdown": breakdown(suite, judged, seed=plan.seed),
        "left_out": suite.left_out,
        "not_run": not_run,
        **plan.notes,
        "versions": package_versions(),
    }
    settings = settings | {"limit": plan.limit, "seed": plan.seed}
    write_json(folder / "settings.json", settings)
    write_report(folder / "report.html", results=results, settings=settings, cases=cases)
    write_json(folder / "results.json", results)
    return results


def _said(example: Example, suite: Suite, replies: dict[str, Reply], pool: Pool, respondent: Respondent) -> Said:
    said = {}
    for ask in suite.asks(example):
        frame = None
        if pool.pictures is not None:
            frame = respondent.square.frame(pool.pictures.size(ask.view.key(example.picture)))
        said[ask.name] = read_reply(replies[Asked(example, ask).id], frame, respondent.box_text)
    return said


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """All lines or no file: what a killed judging leaves is never read as a result."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(partial, path)
