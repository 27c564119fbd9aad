"""Which batches of finished runs the spike rule would have left out: `python benchmarks/spikes.py runs/demo ... [--sigma 6]`.

Reads the logged losses alone (assignments.bin), so that `train.spike_sigma` can be chosen before it costs anything: a healthy run
should have none. Losses are those of the log, in float16.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from medclm.curriculum.course import Fate
from medclm.curriculum.log import read_log
from train.spikes import SpikeGuard, batch_sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--sigma", type=float, default=6.0, help="train.spike_sigma to try")
    chosen = parser.parse_args()
    for run in chosen.runs:
        guard, rows = SpikeGuard(chosen.sigma), read_log(run).rows
        applied = [index for index, row in enumerate(rows) if row["observed"] == Fate.APPLIED]
        losses, stages = torch.from_numpy(rows["losses"].astype(np.float32)), torch.from_numpy(rows["stages"].copy())
        verdicts = {index: guard.judge(batch_sums(losses[index], stages[index])) for index in applied}
        dropped = {index: verdict.reason for index, verdict in verdicts.items() if verdict.drop}
        print(f"{run}: {len(dropped)} of {len(applied)} batches")
        for index, reason in dropped.items():
            print(f"  batch {index}: {reason}")


if __name__ == "__main__":
    main()
