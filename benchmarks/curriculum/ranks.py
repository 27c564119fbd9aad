"""Are the stages the same at one rank and at two? Trains the demo's recipe at both and compares what was decided.

    python benchmarks/curriculum/ranks.py --steps 300

The same global batches in the same order, split over other ranks: decisions rest on float16 losses, so they are equal until
the float32 rounding of a sum (in another order) turns one float16 loss over, and a draw lies between the two chances. The
table says after how many batches losses, then stages, first differ. Shorter runs have a shorter ramp: with 300 steps
Medium is let in by batch 120 at the latest, and has its full share 30 batches later.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
from rich.console import Console
from rich.table import Table

from medclm.curriculum.course import Fate
from medclm.curriculum.log import LoggedRun, read_log


def train(ranks: int, *, steps: int, out: Path) -> LoggedRun:
    """The log of the demo's recipe at `ranks` ranks."""
    name = f"ranks-{ranks}"
    command = [str(Path(sys.executable).parent / "deepspeed"), "--num_accelerators", str(ranks), "launch/train.py"]
    command += ["--deepspeed", "ds_configs/zero3.json", f"--run.name={name}", f"--run.output_dir={out}"]
    command += [f"--train.steps={steps}", "--train.export=false", "--tracking.uri=off"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    return read_log(out / name)


def first_difference(left: np.ndarray, right: np.ndarray) -> int | None:
    """First row of two (batches, G) arrays in which any entry differs."""
    rows = np.flatnonzero((left != right).any(axis=1))
    return int(rows[0]) if len(rows) else None


def compare(one: LoggedRun, two: LoggedRun) -> dict[str, int | float | list[int] | None]:
    """Where two logs first differ, and by how much, as far as both go; None = nowhere, or nothing to tell.

    Raises:
        ValueError: a log without a batch.
    """
    batches = min(len(one.rows), len(two.rows))
    if not batches:
        raise ValueError("nothing to compare: a log holds no batch")
    rows = [run.rows[:batches] for run in (one, two)]
    applied = (rows[0]["observed"] == Fate.APPLIED) & (rows[1]["observed"] == Fate.APPLIED)
    # A batch that one of them skipped or has in flight has no loss to compare; it stays, so that rows are batches.
    losses = [np.where(applied[:, None], part["losses"].astype(np.float64), 0.0) for part in rows]
    stages = [part["stages"] for part in rows]
    differing = first_difference(*stages)
    before = np.abs(losses[0] - losses[1])[:differing]
    return {
        "batches": batches,
        "first batch with another float16 loss": first_difference(*losses),
        "first batch with another stage": differing,
        "largest difference of a loss before that": float(before.max()) if len(before) else None,
        "samples of the first 50 batches with another stage": int((stages[0][:50] != stages[1][:50]).sum()),
        "share of all samples with another stage": float((stages[0] != stages[1]).mean()),
        "stages of 1 rank: easy, medium, hard": np.bincount(stages[0].ravel(), minlength=3).tolist(),
    }


def table_of(found: dict[str, int | float | list[int] | None]) -> Table:
    """What `compare` found."""
    table = Table(title="1 rank against 2 ranks", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for what, value in found.items():
        table.add_row(what, "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="length of both runs (default 300; the demo has 980)")
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"), help="new folder of the two runs")
    chosen = parser.parse_args()
    logs = [train(ranks, steps=chosen.steps, out=chosen.out) for ranks in (1, 2)]
    Console().print(table_of(compare(*logs)))
