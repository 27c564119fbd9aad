"""One evidence run: train a recipe on a corpus, judge it on held-out patients, say what came out as one JSON line.

A run goes through the code that users run: `train.build`, `train.loop` and `eval.runner`, in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).parent / "recipe.yaml"
WORK = ROOT / "runs" / "evidence"
"""Corpora, logs and what unfinished runs leave; nothing here is read by the table."""
CODE = 1
"""Raised when a change of the code (a policy, the phantoms, the objective) makes finished runs stale."""
SCORES = ("mean_iou", "answer_accuracy", "answer_and_box")
"""Per-example scores kept by patient."""


@dataclass(frozen=True)
class Job:
    """What decides a run's outcome."""

    corpus: str
    """Corpus it learns from, a name of corpora.py."""
    judged_on: str
    """Corpus whose test split judges it: the clean one of the same phantoms."""
    seed: int
    flags: tuple[str, ...]
    """Recipe keys as `--section.key=value`, on top of recipe.yaml, sorted."""
    questions: int = 1200
    """Test questions asked, without a box on the image."""
    instruction: str = "reason"

    @functools.cached_property
    def key(self) -> str:
        """Equal for equal outcomes: hash of everything here, of recipe.yaml and of `CODE`."""
        decisive = json.dumps([CODE, asdict(self), RECIPE.read_text(encoding="utf-8")], sort_keys=True)
        return hashlib.blake2b(decisive.encode(), digest_size=6).hexdigest()


def take(job: Job, *, corpus: Path, judged_on: Path) -> dict[str, Any]:
    """Train and judge; the result as one JSON-ready tree. Call it in a process of its own (DeepSpeed keeps global state)."""
    from eval.runner import evaluate
    from medclm.config import load_recipe
    from medclm.ds_config import read_json
    from medclm.engine import disconnect
    from train.build import build_run
    from train.loop import train

    clock = time.perf_counter()
    name = f"run-{job.key}"
    flags = [*job.flags, f"--run.name={name}", f"--run.output_dir={WORK}", f"--run.seed={job.seed}", f"--data.corpus={corpus}"]
    recipe = load_recipe(flags, config=RECIPE)
    shutil.rmtree(WORK / name, ignore_errors=True)
    # One rank needs no shards: stage 2 leaves out the hooks of stage 3, which cost a fifth of a step of so small a model.
    run = build_run(recipe, read_json(ROOT / "ds_configs" / "zero2.json"), ds_name="zero2.json", resume=False)
    train(run)
    trained = time.perf_counter()
    seconds, totals = trained - clock, run.service.totals
    run.export()
    run.close()
    disconnect()
    evaluate(
        WORK / name / "export",
        ["vqa", "grounding"],
        judged_on,
        WORK / name / "eval",
        limit=job.questions,
        max_new_tokens=96,
        batch_size=64,
        instruction=job.instruction,
    )
    result = {
        "key": job.key,
        **asdict(job),
        "train_s": round(seconds, 1),
        "judge_s": round(time.perf_counter() - trained, 1),
        "steps": recipe.train.steps,
        "samples": recipe.train.steps * recipe.train.global_batch_size,
        "tokens": totals.tokens,
        "target_tokens": totals.target_tokens,
        **_course(WORK / name / "metrics.jsonl"),
        "patients": _by_patient(WORK / name / "eval"),
    }
    shutil.rmtree(WORK / name)
    return result


def _course(path: Path) -> dict[str, Any]:
    """Shares of the stages over the run, and the last losses by stage."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    shares = {
        stage: round(sum(line.get(f"stage_share/{stage}", 0.0) for line in lines) / len(lines), 4)
        for stage in ("easy", "medium", "hard")
    }
    losses = {
        stage: [round(line[f"train/loss_{stage}"], 4) for line in lines if f"train/loss_{stage}" in line] for stage in shares
    }
    return {"shares": shares, "losses": losses}


def _by_patient(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """Score -> `value` (P,), the mean over each patient's questions or None, and `n` (P,), their number; patients in sorted order.

    Every suite judges the same questions, so every score lists the same patients.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: {score: [] for score in SCORES})
    for suite in ("vqa", "grounding"):
        for line in (folder / f"{suite}-test" / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
            prediction = json.loads(line)
            of_patient = values[prediction["patient"]]
            for score in SCORES:
                if score in prediction["scores"]:
                    of_patient[score].append(prediction["scores"][score])
    patients = [values[patient] for patient in sorted(values)]
    return {
        score: {
            "value": [round(sum(one[score]) / len(one[score]), 4) if one[score] else None for one in patients],
            "n": [len(one[score]) for one in patients],
        }
        for score in SCORES
    }


def run_jobs(jobs: Sequence[Job], *, results: Path, workers: int, max_minutes: float | None) -> None:
    """Take every job whose key is not in `results` yet, `workers` at a time, and append a line for each as it ends.

    A run that fails is named with its log and does not stop the others; no job is begun after `max_minutes`.
    """
    from benchmarks.curriculum.corpora import corpus_folder

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    finished = {line["key"] for line in read_results(results)}
    waiting = list({job.key: job for job in jobs if job.key not in finished}.values())
    print(f"{len(jobs)} runs, {len(jobs) - len(waiting)} finished before", flush=True)
    for name in sorted({name for job in waiting for name in (job.corpus, job.judged_on)}):
        corpus_folder(name, WORK)
    _import_everything()
    began, running, done, failed = time.monotonic(), {}, 0, 0
    context = multiprocessing.get_context("fork")  # the imports, eight seconds a run, are paid once
    total = len(waiting)
    try:
        while waiting or running:
            if waiting and max_minutes is not None and time.monotonic() - began > 60 * max_minutes:
                print(f"--max-minutes {max_minutes:g} are over: {len(waiting)} runs left for the next slice", flush=True)
                waiting = []
                continue
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                process = context.Process(target=_child, args=(job,))
                process.start()
                running[process.sentinel] = (process, job)
            for sentinel in multiprocessing.connection.wait(list(running)):
                process, job = running.pop(sentinel)
                process.join()
                ended = _keep(job, results) if process.exitcode == 0 else False
                done, failed = done + ended, failed + (not ended)
                if not ended:
                    print(f"failed ({process.exitcode}): {job}: see {_log_file(job)}", flush=True)
                minutes = (time.monotonic() - began) / 60
                what = f"{job.corpus} seed {job.seed} {' '.join(job.flags)}"
                print(f"{done}/{total} done, {failed} failed, {minutes:.1f} min: {what}", flush=True)
    finally:
        for process, _ in running.values():
            process.terminate()


def _keep(job: Job, results: Path) -> bool:
    """Append a finished run's line; False where the run left none."""
    made = _result_file(job)
    if not made.is_file():
        return False
    with results.open("a", encoding="utf-8") as stream:
        stream.write(made.read_text(encoding="utf-8") + "\n")
    made.unlink()
    return True


def _child(job: Job) -> None:
    """The run's process: everything it prints goes to a log."""
    from benchmarks.curriculum.corpora import corpus_folder

    log = _log_file(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("w", encoding="utf-8")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        result = take(job, corpus=corpus_folder(job.corpus, WORK), judged_on=corpus_folder(job.judged_on, WORK))
        _result_file(job).write_text(json.dumps(result), encoding="utf-8")


def _result_file(job: Job) -> Path:
    return WORK / "logs" / f"{job.key}.json"


def _log_file(job: Job) -> Path:
    return WORK / "logs" / f"{job.key}.log"


def _import_everything() -> None:
    import deepspeed  # noqa: F401
    import torch
    import transformers.models.vipllava.modeling_vipllava  # noqa: F401

    import eval.runner  # noqa: F401
    import train.build  # noqa: F401

    torch.set_num_threads(1)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Every finished run; a line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
