"""Does the curriculum help? Train every arm of a study, judge it on held-out patients, compare: one table, honest whatever it says.

    python benchmarks/curriculum/evidence.py run --study main --max-minutes 60     a slice of runs; finished ones are skipped
    python benchmarks/curriculum/evidence.py table                                 the tables of all finished runs
    python benchmarks/curriculum/evidence.py plan                                  what would be run, and how long it takes

Protocol, arms and seeds: studies.py. One run is about 28,800 samples of a model of 0.9 M parameters: five minutes on one CPU
core. Every finished run is a line of benchmarks/results/curriculum.jsonl; a run's key is a hash of all that decides it, so a
changed recipe or arm is run again and old lines are never mixed in. The study `brats` needs MEDCLM_DATA, the folder of
brats_mri_slices.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.curriculum.runs import SCORES, read_results, run_jobs
from benchmarks.curriculum.studies import BASELINE, PRIMARY, STUDIES, TARGET, Arm
from medclm.metrics.seeds import SeedComparison, compare_seeds, holm

RESULTS = ROOT / "benchmarks" / "results" / "curriculum.jsonl"
MINUTES = 5.0
"""Of one run on one core of the machine the results were made on; for `plan`."""

Lines = dict[str, dict[str, Any]]


def scores_of(arm: Arm, lines: Lines, score: str) -> dict[int, np.ndarray]:
    """Seed -> (P,) score of each held-out patient, NaN where a patient has none; finished runs only."""
    found = {job.seed: lines[job.key] for job in arm.jobs() if job.key in lines}
    return {seed: np.array(line["patients"][score]["value"], dtype=np.float64) for seed, line in found.items()}


def compare(first: Arm, second: Arm, lines: Lines, score: str) -> SeedComparison | None:
    """The two arms on the seeds that both have finished; None where there is none, or where the patients are others."""
    left, right = scores_of(first, lines, score), scores_of(second, lines, score)
    seeds = sorted(left.keys() & right.keys())
    if not seeds or any(left[seed].shape != right[seed].shape for seed in seeds):
        return None
    return compare_seeds(np.stack([left[seed] for seed in seeds]), np.stack([right[seed] for seed in seeds]))


def study_table(study: str, arms: Sequence[Arm], lines: Lines, baseline: Arm) -> tuple[Table, list[tuple[str, SeedComparison]]]:
    """Arms with their scores, spread over seeds and the difference from the baseline arm; and those differences."""
    table = Table(title=f"{study}: primary score {PRIMARY}", title_justify="left")
    for column in ("arm", "seeds", "easy/medium/hard %", *SCORES, f"{PRIMARY} by seed", f"- {BASELINE} (95 %)", "p"):
        table.add_column(column)
    differences = []
    for arm in arms:
        found = {score: scores_of(arm, lines, score) for score in SCORES}
        seeds = sorted(found[PRIMARY])
        if not seeds:
            table.add_row(arm.name, f"0/{len(arm.seeds)}")
            continue
        runs = [lines[job.key] for job in arm.jobs() if job.key in lines]
        shares = "/".join(
            f"{100 * np.mean([run['shares'][stage] for run in runs]):.0f}" for stage in ("easy", "medium", "hard")
        )
        means = {score: [float(np.nanmean(found[score][seed])) for seed in seeds] for score in SCORES}
        against = None if arm == baseline else compare(arm, baseline, lines, PRIMARY)
        if against is not None:
            differences.append((f"{study}: {arm.name}", against))
        table.add_row(
            arm.name,
            f"{len(seeds)}/{len(arm.seeds)}",
            shares,
            *(f"{np.mean(means[score]):.3f}" for score in SCORES),
            " ".join(f"{value:.2f}" for value in means[PRIMARY]),
            "" if against is None else _interval(against),
            "" if against is None else f"{against.p_value:.3f}",
        )
    return table, differences


def _interval(result: SeedComparison) -> str:
    spread = "" if result.ci95 is None else " ({:+.3f} to {:+.3f})".format(*result.ci95)
    return f"{result.difference:+.3f}{spread}"


def print_tables(lines: Lines, console: Console) -> None:
    """Every study that has a finished run; last the verdict on the primary comparison and Holm's adjustment of the others."""
    main_baseline = next(arm for arm in STUDIES["main"] if arm.name == BASELINE)
    secondary: list[tuple[str, SeedComparison]] = []
    for study, arms in STUDIES.items():
        if not any(job.key in lines for arm in arms for job in arm.jobs()):
            continue
        own = next((arm for arm in arms if arm.name == BASELINE), None)
        table, differences = study_table(study, arms, lines, own or (arms[0] if study == "tune" else main_baseline))
        console.print(table)
        if study not in ("tune", "main", "brats"):
            secondary += differences
    adjusted = holm([result.p_value for _, result in secondary])
    for (name, result), p_value in zip(secondary, adjusted, strict=True):
        console.print(f"{name}: {_interval(result)}, p {result.p_value:.3f}, Holm over {len(secondary)}: {p_value:.3f}")
    primary = compare(next(arm for arm in STUDIES["main"] if arm.name == "medclm"), main_baseline, lines, PRIMARY)
    if primary is not None:
        verdict = "reached" if primary.difference >= TARGET and primary.p_value < 0.05 else "not reached"
        console.print(
            f"PRIMARY medclm - {BASELINE}, {len(primary.by_seed)} seeds: {PRIMARY} {_interval(primary)}, p {primary.p_value:.4f}; "
            f"target +{TARGET} {verdict}"
        )


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "plan"))
    parser.add_argument("--study", action="append", choices=tuple(STUDIES), help="may be repeated (default: all, in order)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"one JSON line per run (default: {RESULTS.name})")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time (default: all cores)")
    parser.add_argument("--max-minutes", type=float, help="begin no run after this time")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    chosen = arguments(given)
    jobs = [job for study in chosen.study or STUDIES for arm in STUDIES[study] for job in arm.jobs()]
    lines = {line["key"]: line for line in read_results(chosen.results)}
    if chosen.what == "run":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that running trainings are ended, too
        run_jobs(jobs, results=chosen.results, workers=chosen.workers, max_minutes=chosen.max_minutes)
        lines = {line["key"]: line for line in read_results(chosen.results)}
    if chosen.what == "plan":
        left = {job.key for job in jobs} - lines.keys()
        minutes = len(left) * MINUTES / chosen.workers
        print(
            f"{len({job.key for job in jobs})} runs, {len(left)} to do: about {minutes:.0f} minutes with {chosen.workers} at a time"
        )
        return 0
    print_tables(lines, Console(width=160))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
