"""Every decision and every observation of a run in one small file, so that the run can be replayed and asked about.

`assignments.bin` holds one fixed-size row per global batch (3 bytes a sample: its stage and its float16 loss), so row t is at
a known place, a resumed run overwrites what it does again, and a million samples take 3 MB. `assignments.json` says what the
rows mean. The domains of the samples are not stored: they are a pure function of the corpus, the seed and t.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medclm.curriculum.policy import Policy, decide
from medclm.data.stream import StreamBatch
from medclm.types import Observation

FORMAT = 1

Describe = Callable[[int], StreamBatch]
"""batch_index -> what a global batch consists of."""


def _row(global_batch_size: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("decided", "u1"),
            ("observed", "u1"),  # 0 not yet, 1 applied, 2 skipped
            ("progress", "<f8"),  # of the run, at the decision
            ("observed_progress", "<f8"),  # of the run, when the batch was consumed
            ("stages", "u1", (global_batch_size,)),
            ("losses", "<f2", (global_batch_size,)),
        ]
    )


@dataclass(frozen=True)
class LoggedRun:
    """What `read_log` returns."""

    header: dict[str, Any]
    rows: np.ndarray
    """(batches,) structured: decided, observed, progress, observed_progress, stages (G,), losses (G,)."""


class AssignmentLog:
    """Writes the log of one run on rank 0."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        """`header` holds at least global_batch_size, lookahead, seed, policy and its recipe."""
        self._dtype = _row(int(header["global_batch_size"]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "assignments.json").write_text(json.dumps({"format": FORMAT, **header}, indent=1), encoding="utf-8")
        path = folder / "assignments.bin"
        path.touch()
        self._file = path.open("r+b")

    def decision(self, batch_index: int, *, progress: float, stages: np.ndarray) -> None:
        row = np.zeros((), dtype=self._dtype)
        row["decided"], row["progress"], row["stages"] = 1, progress, stages
        self._write(batch_index, row)

    def observation(self, observation: Observation) -> None:
        self._file.seek(observation.batch_index * self._dtype.itemsize)
        row = np.frombuffer(self._file.read(self._dtype.itemsize), dtype=self._dtype)[0].copy()
        row["observed"] = 1 if np.isfinite(observation.losses).all() else 2
        row["observed_progress"], row["losses"] = observation.progress, observation.losses
        self._write(observation.batch_index, row)

    def _write(self, batch_index: int, row: np.ndarray) -> None:
        self._file.seek(batch_index * self._dtype.itemsize)
        self._file.write(row.tobytes())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_log(folder: Path) -> LoggedRun:
    """The log of a run folder; a row cut off by a crash is left out.

    Raises:
        ValueError: no log there, or one of another format.
    """
    path = folder / "assignments.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no assignments.json: give the folder of a run")
    header = json.loads(path.read_text(encoding="utf-8"))
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: format {header.get('format')}, this version reads {FORMAT}")
    dtype = _row(int(header["global_batch_size"]))
    data = (folder / "assignments.bin").read_bytes()
    return LoggedRun(header=header, rows=np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype=dtype))


def replay(run: LoggedRun, policy: Policy[Any], describe: Describe) -> np.ndarray:
    """Recompute every decision from the logged losses alone.

    Returns:
        (batches, G) uint8 stages; equal to `run.rows["stages"]` if the log is the truth.
    """
    lookahead, seed = int(run.header["lookahead"]), int(run.header["seed"])
    state, stages, observed = policy.initial(), np.zeros_like(run.rows["stages"]), 0
    for batch_index, row in enumerate(run.rows):
        while observed < batch_index - lookahead:  # the decision for t has seen exactly the batches up to t - lookahead - 1
            past = run.rows[observed]
            if past["observed"] == 1:
                domains = describe(observed).domains
                seen = Observation(observed, float(past["observed_progress"]), domains, past["stages"], past["losses"])
                state = policy.observe(state, seen)
            observed += 1
        stages[batch_index], _ = decide(policy, state, describe(batch_index), progress=float(row["progress"]), seed=seed)
    return stages
