"""Are the stages the same at one rank and at two? Trains the demo's recipe at both and compares what was decided.

    python benchmarks/curriculum/ranks.py --steps 300

The same global batches in the same order, split over other ranks: decisions rest on float16 losses, so they are equal until
the float32 rounding of a sum (in another order) turns one float16 loss over, and a draw lies between the two chances. The
table says after how many batches losses, then stages, first differ. Shorter runs have a shorter ramp: with 300 steps all of
it lies within the first 42.
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


def compare(one: LoggedRun, two: LoggedRun) -> Table:
    """Where two logs of the same length first differ, and by how much."""
    seen = (one.rows["observed"] == 1) & (two.rows["observed"] == 1)
    losses = [run.rows["losses"][seen].astype(np.float64) for run in (one, two)]
    stages = [run.rows["stages"] for run in (one, two)]
    differing = first_difference(*stages)
    known = len(stages[0]) if differing is None else differing
    table = Table(title=f"1 rank against 2 ranks, {len(stages[0])} batches of {stages[0].shape[1]}", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    rows = [
        ("first batch with another float16 loss", first_difference(*losses)),
        ("first batch with another stage", differing),
        ("samples of the first 50 batches with another stage", int((stages[0][:50] != stages[1][:50]).sum())),
        ("largest difference of a loss before that", float(np.abs(losses[0] - losses[1])[:known].max())),
        ("share of all samples with another stage", float((stages[0] != stages[1]).mean())),
        ("stages of 1 rank: easy, medium, hard", np.bincount(stages[0].ravel(), minlength=3).tolist()),
    ]
    for what, value in rows:
        table.add_row(what, "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="length of both runs (default 300; the demo has 980)")
    parser.add_argument("--out", type=Path, default=Path("runs/ranks"), help="new folder of the two runs")
    chosen = parser.parse_args()
    logs = [train(ranks, steps=chosen.steps, out=chosen.out) for ranks in (1, 2)]
    Console().print(compare(*logs))
