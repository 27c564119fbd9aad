"""A rank of the drill under the real launcher: `deepspeed benchmarks/faults/rank.py ...` in place of launch/train.py."""

import os
import sys
from pathlib import Path

# The launcher puts this file's folder first on the path, where `import trace` would find our own.
sys.path[0] = str(Path(__file__).resolve().parents[2])

import pickle

from benchmarks.faults.attempts import enter
from benchmarks.faults.processes import MARK

if __name__ == "__main__":
    folder = Path(os.environ[MARK])
    case, fault, place = pickle.loads((folder / "part.pickle").read_bytes())
    sys.exit(enter(case, fault, place, sys.argv[1:], int(os.environ["RANK"])))
