"""Does the curriculum help? Train every arm of a study, judge it on held-out patients, compare: one table, honest whatever it says.

    python benchmarks/curriculum/evidence.py run --study main --max-minutes 60     a slice of runs; finished ones are skipped
    python benchmarks/curriculum/evidence.py table                                 the tables of all finished runs
    python benchmarks/curriculum/evidence.py plan                                  what would be run, and how long it takes

Protocol, arms and seeds: studies.py. One run is about 19,200 samples of a model of 0.9 M parameters: three minutes on one CPU
core. Every finished run is a line of benchmarks/results/curriculum.jsonl with its resolved recipe; a line of another recipe, arm or
`corpora.CODE` does not count and is taken again. The studies `brats-*` need MEDCLM_DATA, the folder of brats_mri_slices.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import argparse
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.curriculum.runs import SCORES, read_results, run_jobs
from benchmarks.curriculum.studies import BASELINE, PRIMARIES, PRIMARY, STUDIES, TARGET, Arm, Study
from medclm.metrics.seeds import SeedComparison, compare_seeds, holm

RESULTS = ROOT / "benchmarks" / "results" / "curriculum.jsonl"
MINUTES = 3.3
"""Of 600 steps on one core of the machine the results were made on; for `plan`."""

Lines = dict[str, dict[str, Any]]


def finished(arm: Arm, lines: Lines) -> dict[int, dict[str, Any]]:
    """Seed -> line of the arm's finished runs."""
    found = {job.seed: job.finished(lines) for job in arm.jobs()}
    return {seed: line for seed, line in found.items() if line is not None}


def scores_of(arm: Arm, lines: Lines, score: str) -> dict[int, np.ndarray]:
    """Seed -> (P,) score of each held-out patient, NaN where a patient has none; finished runs only."""
    found = finished(arm, lines)
    return {seed: np.array(line["patients"][score]["value"], dtype=np.float64) for seed, line in found.items()}


def compare(first: Arm, second: Arm, lines: Lines, score: str) -> SeedComparison | None:
    """The two arms on the seeds that both have finished; None where there is none, or where the patients are others."""
    left, right = scores_of(first, lines, score), scores_of(second, lines, score)
    seeds = sorted(left.keys() & right.keys())
    who = {line["patients"][score]["who"] for arm in (first, second) for line in finished(arm, lines).values()}
    if not seeds or len(who) > 1:
        return None
    return compare_seeds(np.stack([left[seed] for seed in seeds]), np.stack([right[seed] for seed in seeds]))


def study_table(name: str, study: Study, lines: Lines) -> tuple[Table, list[tuple[str, SeedComparison]]]:
    """Arms with their scores, spread over seeds and the difference from the study's baseline; and those differences."""
    table = Table(title=name, title_justify="left")
    for column in ("arm", "seeds", "patients", "easy/medium/hard %", *SCORES, f"{PRIMARY} by seed", "- baseline (95 %)", "p"):
        table.add_column(column)
    differences = []
    for arm in study.arms:
        runs = finished(arm, lines)
        if not runs:
            table.add_row(arm.name, f"0/{len(arm.seeds)}")
            continue
        found = {score: scores_of(arm, lines, score) for score in SCORES}
        means = {score: [float(np.nanmean(found[score][seed])) for seed in sorted(runs)] for score in SCORES}
        shares = [100 * np.mean([run["shares"][stage] for run in runs.values()]) for stage in ("easy", "medium", "hard")]
        against = None if arm == study.baseline else compare(arm, study.baseline, lines, arm.score)
        if against is not None:
            differences.append((f"{name}: {arm.name}", against))
        table.add_row(
            arm.name,
            f"{len(runs)}/{len(arm.seeds)}",
            str(len(found[PRIMARY][min(runs)])),
            "/".join(f"{share:.0f}" for share in shares),
            *(f"{np.mean(means[score]):.3f}" for score in SCORES),
            " ".join(f"{value:.2f}" for value in means[PRIMARY]),
            "" if against is None else _interval(against) + ("" if arm.score == PRIMARY else f" in {arm.score}"),
            "" if against is None else f"{against.p_value:.3f}",
        )
    return table, differences


def _interval(result: SeedComparison) -> str:
    spread = "" if result.ci95 is None else " ({:+.3f} to {:+.3f})".format(*result.ci95)
    return f"{result.difference:+.3f}{spread}"


def print_tables(lines: Lines, console: Console, studies: Sequence[str] = tuple(STUDIES)) -> None:
    """The studies that have a finished run; over all studies, Holm's adjustment of the secondary comparisons; the primary ones."""
    secondary: list[tuple[str, SeedComparison]] = []
    for name, study in STUDIES.items():
        if any(finished(arm, lines) for arm in study.arms):
            table, differences = study_table(name, study, lines)
            if name in studies:
                console.print(table)
            secondary += differences if study.tested else []
    adjusted = holm([result.p_value for _, result in secondary])
    for (name, result), p_value in zip(secondary, adjusted, strict=True):
        console.print(f"{name}: {_interval(result)}, p {result.p_value:.3f}, Holm over {len(secondary)}: {p_value:.3f}")
    print_primaries(lines, console)


def print_primaries(lines: Lines, console: Console) -> None:
    """The primary comparisons; a p-value and a verdict only when every planned seed is there, so that nobody stops when it suits."""
    results = {name: compare(STUDIES[name].arms[0], STUDIES[name].baseline, lines, PRIMARY) for name in PRIMARIES}
    planned = {name: len(STUDIES[name].baseline.seeds) for name in PRIMARIES}
    whole = {name: result for name, result in results.items() if result is not None and len(result.by_seed) == planned[name]}
    # One that is not finished counts as the worst of all, so that its end can only lower the adjusted p-value of the others.
    adjusted = dict(zip(PRIMARIES, holm([whole[name].p_value if name in whole else 1.0 for name in PRIMARIES]), strict=True))
    for name, result in results.items():
        if result is None:
            continue
        said = f"PRIMARY {name}: medclm - {BASELINE}: {PRIMARY} {_interval(result)}, {len(result.by_seed)} of {planned[name]} seeds"
        if name in whole:
            verdict = "reached" if result.difference >= TARGET and adjusted[name] < 0.05 else "not reached"
            said += f", p {result.p_value:.4f}, Holm {adjusted[name]:.4f}; target +{TARGET} at p < 0.05: {verdict}"
        console.print(said)


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
    jobs = [job for name in chosen.study or STUDIES for arm in STUDIES[name].arms for job in arm.jobs()]
    jobs.sort(key=lambda job: job.seed)  # a slice that ends early leaves whole comparisons behind
    if chosen.what == "plan":
        lines = read_results(chosen.results)
        wanted = {job.key: job for job in jobs}
        left = [job for job in wanted.values() if job.finished(lines) is None]
        minutes = sum(MINUTES * int(job.recipe["train.steps"]) / 600 for job in left) / chosen.workers
        print(f"{len(wanted)} runs, {len(left)} to do: about {minutes:.0f} minutes with {chosen.workers} at a time")
        return 0
    failed = 0
    if chosen.what == "run":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that running trainings are ended, too
        failed = run_jobs(jobs, results=chosen.results, workers=chosen.workers, max_minutes=chosen.max_minutes)
    print_tables(read_results(chosen.results), Console(width=200), chosen.study or tuple(STUDIES))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        print(f"evidence: {error}", file=sys.stderr)
        sys.exit(2)
