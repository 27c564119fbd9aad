"""Do tiles help with lesions smaller than a vision patch? The tiny model learns phantoms with `model.tiles` 1 and 1+4.

    python benchmarks/small_lesions.py                  # every arm and seed that is not in the results yet, then the table
    python benchmarks/small_lesions.py --max-minutes 30 # begin no run after that
    python benchmarks/small_lesions.py --table          # only the table of what is finished

Square of 32 px, patches of 8 px, pictures stored at 128 px. Lesions of `small` are 3 to 7 px of that square at their longest,
under one patch; those of `large`, the control that tells whether a model has learned to look at all in so few steps, are 8 to
11 px. Tiles cost twice the arithmetic of a step here, so `1, twice the steps` is what the same arithmetic buys without them.
The arm `64 px` is a reference that no model with a fixed vision tower can have: the whole picture in one view at the resolution
of the quarters.

All arms see the same samples of the same patients in the same order; weights come of the same seed. Judged on held-out
patients, without a box on the picture. A score is the mean over questions, over all seeds; of one seed with its 95 % interval
over patients. A difference is from `1` on the same seeds, mean over patients, with a 95 % interval over seeds and patients
where there are two seeds (medclm/metrics/seeds.py).

One core, one rank, float32. Every finished run is a line of benchmarks/results/small_lesions.jsonl, with the machine's load
average before and after: the wall clock of a busy machine says nothing, its processor time and the tokens do.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import argparse
import json
import multiprocessing
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

WORK = ROOT / "runs" / "small_lesions"
RESULTS = ROOT / "benchmarks" / "results" / "small_lesions.jsonl"
PHANTOMS, PHANTOM_SEED, STORED_PX = 4000, 404, 128
LESIONS = {"small": (0.10, 0.20), "large": (0.26, 0.345)}
"""Longest side over the image side."""
SCORES = ("answer_accuracy", "mean_iou", "centre", "answer_and_box")
QUESTIONS = 600
FLAGS = (
    "--model.tiny.patch_size=8",
    "--model.tiny.vision_width=96",
    "--model.tiny.vision_layers=4",
    "--model.tiny.width=96",
    "--model.tiny.layers=2",
    "--model.tiny.heads=3",
    "--model.freeze_vision_tower=false",
    "--data.min_side=0",
    "--data.box_text.digits=2",
    "--curriculum.policy=mixture",
    "--curriculum.mixture=[0.5, 0.5, 0.0]",
    "--train.global_batch_size=32",
    "--train.micro_batch_size=32",
    "--train.lr=1.2e-3",
    "--train.min_lr=1.0e-4",
    "--train.warmup_fraction=0.03",
    "--train.weight_decay=0.05",
    "--train.betas=[0.9, 0.98]",
    "--train.answer_weight=0.1",
    "--train.rationale_weight=0.9",
    "--train.log_every=10",
    "--train.checkpoint_every=0",
    "--tracking.uri=off",
)
"""As the runs of benchmarks/curriculum, which were tuned for few steps; boxes of small lesions need a second decimal."""
ARMS = {
    "1": (1, "1", 32),
    "1+4": (1, "1+4", 32),
    "1, twice the steps": (2, "1", 32),
    "64 px": (1, "1", 64),
}
"""Name -> steps as a multiple of --steps, model.tiles, model.tiny.image_size."""
BASELINE = "1"


@dataclass(frozen=True)
class Job:
    lesions: str
    arm: str
    seed: int
    steps: int

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the outcome."""
        times, tiles, side = ARMS[self.arm]
        flags = [*FLAGS, f"--model.tiles={tiles}", f"--model.tiny.image_size={side}", f"--train.steps={times * self.steps}"]
        made = {"count": PHANTOMS, "seed": PHANTOM_SEED, "size": STORED_PX, "lesion_sides": list(LESIONS[self.lesions])}
        return {"lesions": self.lesions, "arm": self.arm, "seed": self.seed, "flags": flags, "phantoms": made}


def corpus_of(lesions: str) -> Path:
    """The phantoms with lesions of that size, drawn when they are not there yet; equal patients and organs in both."""
    from medclm.corpus.build import BuildOptions, build
    from medclm.corpus.ids import phantom_ids
    from medclm.corpus.sources.phantoms import PhantomSource
    from medclm.corpus.writers.template import TemplateWriter
    from medclm.data.schema import MANIFEST

    out = WORK / f"corpus-{lesions}-{PHANTOMS}"
    if not (out / MANIFEST).is_file():
        source = PhantomSource(count=PHANTOMS, seed=PHANTOM_SEED, size=STORED_PX, lesion_sides=LESIONS[lesions])
        writer = TemplateWriter(kinds=("what", "which_organ", "where"))
        build(source, writer, out, BuildOptions(ids=phantom_ids(PHANTOM_SEED), near_duplicates=False, progress=False))
    return out


def take(job: Job) -> None:
    """Train, judge, append the line. In a process of its own: DeepSpeed keeps global state."""
    import torch

    from eval.decoding import Decoding
    from eval.runner import Plan, evaluate_checkpoint
    from medclm.config import load_recipe
    from medclm.ds_config import read_json
    from medclm.engine import disconnect
    from medclm.models.registry import family
    from train.build import build_run
    from train.loop import train
    from train.stops import Stops

    torch.set_num_threads(1)
    corpus, name = corpus_of(job.lesions), f"{job.lesions}-{list(ARMS).index(job.arm)}-{job.seed}"
    shutil.rmtree(WORK / name, ignore_errors=True)
    where = [f"--run.name={name}", f"--run.output_dir={WORK}", f"--run.seed={job.seed}", f"--data.corpus={corpus}"]
    recipe = load_recipe([*job.settings["flags"], *where])
    clock, load = time.perf_counter(), os.getloadavg()[0]
    # One rank needs no shards: stage 2 leaves out the hooks of stage 3, which cost a fifth of a step of so small a model.
    ds_tree = read_json(ROOT / "ds_configs" / "zero2.json")
    run = build_run(recipe, ds_tree, ds_name="zero2.json", resume=False, stops=Stops(rank=0))
    begun = time.process_time()
    train(run)
    processor, samples = time.process_time() - begun, recipe.train.steps * recipe.train.global_batch_size
    tokens, image_tokens = run.service.totals.tokens / samples, family("vip_llava").picture(recipe.model).tokens
    run.export()
    run.close()
    disconnect()
    trained = time.perf_counter()
    plan = Plan(suites=("vqa", "grounding"), limit=QUESTIONS)
    results = evaluate_checkpoint(
        WORK / name / "export", corpus, WORK / name / "eval", plan, Decoding(max_new_tokens=96, batch_size=64)
    )
    found = {key: score for result in results.values() for key, score in result["scores"].items()}
    lines = [json.loads(line) for line in (WORK / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    line = {
        **job.settings,
        "scores": {score: found[score] for score in SCORES},
        "patients": by_patient(WORK / name / "eval"),
        "losses": {
            stage: [round(one[f"train/loss_{stage}"], 4) for one in lines if f"train/loss_{stage}" in one][::5]
            for stage in ("easy", "medium")
        },
        "tokens_per_sample": round(tokens, 1),
        "image_tokens": image_tokens,
        "step_s": round(statistics.median(one["speed/step_s"] for one in lines if "speed/step_s" in one), 4),
        "processor_s_per_step": round(processor / recipe.train.steps, 4),
        "train_s": round(trained - clock, 1),
        "judge_s": round(time.perf_counter() - trained, 1),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
    }
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    shutil.rmtree(WORK / name)


def by_patient(folder: Path) -> dict[str, dict[str, float]]:
    """Score -> patient -> mean over the questions about them."""
    values: dict[str, dict[str, list[float]]] = {score: defaultdict(list) for score in SCORES}
    for suite in ("vqa", "grounding"):
        for text in (folder / f"{suite}-test" / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
            prediction = json.loads(text)
            for score in SCORES:
                if prediction["scores"].get(score) is not None:
                    values[score][prediction["patient"]].append(prediction["scores"][score])
    return {score: {who: round(statistics.mean(each), 4) for who, each in sorted(of.items())} for score, of in values.items()}


def finished() -> list[dict[str, Any]]:
    """The lines of the results; none where there is no file."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.is_file() else []


def line_of(job: Job, lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest line of this very job."""
    return next((line for line in reversed(lines) if all(line[key] == value for key, value in job.settings.items())), None)


def results_table(jobs: Sequence[Job]) -> Table:
    """A row for each finished arm, and one for the guess that does not look at the picture."""
    lines, of_arm = finished(), defaultdict(dict)
    for job in jobs:
        if (line := line_of(job, lines)) is not None:
            of_arm[job.lesions, job.arm][job.seed] = line
    table = Table(title=f"{jobs[0].steps} steps of 32 samples", title_justify="left")
    for column in ("lesions", "tiles", "seeds", *SCORES, "tokens, of picture", "processor s a step"):
        table.add_column(column)
    for lesions in dict.fromkeys(lesions for lesions, _ in of_arm):
        arms = {arm: runs for (which, arm), runs in of_arm.items() if which == lesions}
        guess = next(iter(next(iter(arms.values())).values()))["scores"]
        table.add_row(lesions, "floor", "", *(f"{guess[score]['floor']:.3f}" for score in SCORES))
        for arm, runs in arms.items():
            against = {} if arm == BASELINE else arms.get(BASELINE, {})
            table.add_row(
                lesions,
                arm,
                " ".join(map(str, sorted(runs))),
                *(_cell(runs, against, score) for score in SCORES),
                f"{_mean(runs, 'tokens_per_sample'):.0f}, {_mean(runs, 'image_tokens'):.0f}",
                f"{_mean(runs, 'processor_s_per_step'):.2f}",
            )
    return table


def _mean(runs: dict[int, dict[str, Any]], key: str) -> float:
    return statistics.mean(run[key] for run in runs.values())


def _cell(runs: dict[int, dict[str, Any]], against: dict[int, dict[str, Any]], score: str) -> str:
    """The score; below it the difference from the baseline."""
    from medclm.metrics.seeds import compare_seeds

    found = [run["scores"][score] for run in runs.values()]
    shown = f"{statistics.mean(one['value'] for one in found):.3f}"
    if len(found) == 1:
        shown += " ({:.3f} to {:.3f})".format(*found[0]["ci95"])
    seeds = sorted(runs.keys() & against.keys())
    if not seeds:
        return shown
    who = sorted(runs[seeds[0]]["patients"][score])
    ours, theirs = (np.array([[of[seed]["patients"][score][one] for one in who] for seed in seeds]) for of in (runs, against))
    compared = compare_seeds(ours, theirs)
    interval = "" if compared.ci95 is None else " ({:+.3f} to {:+.3f})".format(*compared.ci95)
    return f"{shown}\n{compared.difference:+.3f}{interval}"


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps of every run (default: 600)")
    parser.add_argument("--seeds", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="which; may be repeated (default: all)")
    parser.add_argument("--lesions", action="append", choices=list(LESIONS), help="which; may be repeated (default: both)")
    parser.add_argument("--max-minutes", type=float, help="begin no run after that")
    parser.add_argument("--table", action="store_true", help="only show what is finished")
    chosen = parser.parse_args(given)
    jobs = [
        Job(lesions, arm, seed, chosen.steps)
        for seed in range(chosen.seeds)
        for lesions in (chosen.lesions or LESIONS)
        for arm in (chosen.arm or ARMS)
    ]
    began, context = time.monotonic(), multiprocessing.get_context("spawn")
    for job in jobs if not chosen.table else ():
        if line_of(job, finished()) is not None:
            continue
        if chosen.max_minutes is not None and time.monotonic() - began > 60 * chosen.max_minutes:
            print(f"--max-minutes {chosen.max_minutes:g} are over: the next call goes on", flush=True)
            break
        process = context.Process(target=take, args=(job,))
        process.start()
        process.join()
        if process.exitcode:
            print(f"failed ({process.exitcode}): {job}", flush=True)
            return 1
    Console(width=170).print(results_table(jobs))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
