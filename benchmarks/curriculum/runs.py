"""One evidence run: train a recipe on a corpus, judge it on held-out patients, say what came out as one JSON line.

A run goes through the code that users run: `train.build`, `train.loop` and `eval.runner`, in a process of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curriculum.corpora import CODE, corpus_folder
from medclm.config import load_recipe
from medclm.data.shards import Corpus
from medclm.ds_config import read_json
from medclm.tracking import recipe_params

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).parent / "recipe.yaml"
WORK = ROOT / "runs" / "evidence"
"""Corpora, logs and what unfinished runs leave; nothing here is read by the table."""
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
        """Hash of everything here and of `CODE`; with an equal `recipe`, the outcome is equal."""
        decisive = json.dumps([CODE, asdict(self)], sort_keys=True)
        return hashlib.blake2b(decisive.encode(), digest_size=6).hexdigest()

    @functools.cached_property
    def recipe(self) -> dict[str, str]:
        """The resolved recipe as dotted keys, without names and places."""
        recipe = load_recipe([*self.flags, f"--run.seed={self.seed}"], config=RECIPE)
        resolved = recipe_params(recipe.model_dump(mode="json"))
        return {
            key: value for key, value in resolved.items() if not key.startswith(("run.name", "run.output_dir", "tracking."))
        }

    def finished(self, lines: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
        """This run's line: of the same key, and of the same recipe as far as the line states it.

        A knob that came later is not in an old line; it must leave what was before unchanged, or `CODE` is raised.
        """
        line = lines.get(self.key)
        same = line is not None and all(self.recipe.get(key, value) == value for key, value in line["recipe"].items())
        return line if same else None


def take(job: Job, *, corpus: Path, judged_on: Path) -> dict[str, Any]:
    """Train and judge; the result as one JSON-ready tree. Call it in a process of its own (DeepSpeed keeps global state)."""
    from eval.decoding import Decoding
    from eval.runner import Plan, evaluate_checkpoint
    from medclm.engine import disconnect
    from train.build import build_run
    from train.loop import train
    from train.stops import Stops

    taught, asked = (_patients(Corpus(folder), split) for folder, split in ((corpus, "train"), (judged_on, "test")))
    if taught & asked:
        raise ValueError(f"{corpus} and {judged_on}: {len(taught & asked)} patients are learned from and judged on")
    clock = time.perf_counter()
    name = f"run-{job.key}"
    flags = [*job.flags, f"--run.name={name}", f"--run.output_dir={WORK}", f"--run.seed={job.seed}", f"--data.corpus={corpus}"]
    recipe = load_recipe(flags, config=RECIPE)
    shutil.rmtree(WORK / name, ignore_errors=True)
    # One rank needs no shards: stage 2 leaves out the hooks of stage 3, which cost a fifth of a step of so small a model.
    ds_tree = read_json(ROOT / "ds_configs" / "zero2.json")
    run = build_run(recipe, ds_tree, ds_name="zero2.json", resume=False, stops=Stops(rank=0))
    train(run)
    trained = time.perf_counter()
    seconds, totals = trained - clock, run.service.totals
    run.export()
    run.close()
    disconnect()
    evaluate_checkpoint(
        WORK / name / "export",
        judged_on,
        WORK / name / "eval",
        Plan(suites=("vqa", "grounding"), limit=job.questions, instruction=job.instruction),
        Decoding(max_new_tokens=96, batch_size=64),
    )
    result = {
        "key": job.key,
        **asdict(job),
        "recipe": job.recipe,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
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


def _patients(corpus: Corpus, split: str) -> set[str]:
    """The patients whose pictures the records of a split show."""
    rows = np.concatenate([batch.column(0).to_numpy() for batch in corpus.scan("records", ["image_row"], split=split)])
    [patients] = corpus.take("images", np.unique(rows), ["patient"])
    return set(patients.to_pylist())


def _course(path: Path) -> dict[str, Any]:
    """Shares of the stages over the run, and the last losses by stage."""
    lines = [line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()) if "speed/step_s" in line]
    shares = {
        stage: round(sum(line.get(f"stage_share/{stage}", 0.0) for line in lines) / len(lines), 4)
        for stage in ("easy", "medium", "hard")
    }
    losses = {
        stage: [round(line[f"train/loss_{stage}"], 4) for line in lines if f"train/loss_{stage}" in line] for stage in shares
    }
    return {"shares": shares, "losses": losses}


def _by_patient(folder: Path) -> dict[str, dict[str, Any]]:
    """Score -> `value` (P,), the mean over each patient's questions or None, and `n` (P,), their number; patients in sorted order.

    Every suite judges the same questions, so every score lists the same patients; `who` is a hash of their ids.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: {score: [] for score in SCORES})
    for suite in ("vqa", "grounding"):
        for line in (folder / f"{suite}-test" / "predictions.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            prediction = json.loads(line)
            of_patient = values[prediction["patient"]]
            for score in SCORES:
                if score in prediction["scores"]:
                    of_patient[score].append(prediction["scores"][score])
    patients = [values[patient] for patient in sorted(values)]
    who = hashlib.blake2b("\n".join(sorted(values)).encode(), digest_size=8).hexdigest()
    return {
        score: {
            "who": who,
            "value": [round(sum(one[score]) / len(one[score]), 4) if one[score] else None for one in patients],
            "n": [len(one[score]) for one in patients],
        }
        for score in SCORES
    }


def run_jobs(jobs: Sequence[Job], *, results: Path, workers: int, max_minutes: float | None) -> int:
    """Take every job whose key is not in `results` yet, `workers` at a time, and append a line for each as it ends.

    A run that fails is named with its log and does not stop the others; no job is begun after `max_minutes`.

    Returns:
        Number of runs that failed.

    Raises:
        ValueError: another slice is running here, or a corpus cannot be made.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # small models in forked processes: no accelerator
    WORK.mkdir(parents=True, exist_ok=True)
    lock = (WORK / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"{WORK / 'lock'}: another slice is running: wait for it, or raise its --workers") from error
    before = read_results(results)
    waiting = list({job.key: job for job in jobs if job.finished(before) is None}.values())
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
    return failed


def _keep(job: Job, results: Path) -> bool:
    """Append a finished run's line; False where the run left none."""
    made = _result_file(job)
    if not made.is_file():
        return False
    results.parent.mkdir(parents=True, exist_ok=True)
    whole = not results.is_file() or not results.stat().st_size or results.read_bytes().endswith(b"\n")
    with results.open("a", encoding="utf-8") as stream:
        stream.write(
            ("" if whole else "\n") + made.read_text(encoding="utf-8") + "\n"
        )  # a killed writer may have left half a line
    made.unlink()
    return True


def _child(job: Job) -> None:
    """The run's process: everything it prints goes to a log."""
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


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> the newest line of every finished run; lines cut off by a kill are counted and left out."""
    if not path.is_file():
        return {}
    lines, broken = {}, 0
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            lines[line["key"]] = line
        except ValueError:
            broken += 1
    if broken:
        print(f"{path}: {broken} broken lines left out; their runs are taken again", file=sys.stderr)
    return lines
