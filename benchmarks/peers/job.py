"""What one side is asked to run, as a file that its ranks read; and what every rank leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIDES = {
    "ours": "benchmarks.peers.ours",
    "transformers": "benchmarks.peers.transformers_trainer",
    "trl": "benchmarks.peers.trl_sft",
    "bare": "benchmarks.peers.bare",
}
"""Side -> the module that each of its ranks runs."""


@dataclass(frozen=True)
class Job:
    """One run of one side."""

    side: str
    name: str
    """Of this run, in file names."""
    folder: Path
    """Where it writes."""
    recipe: Path
    """Complete recipe (YAML): weights, corpus, batch sizes, optimizer and schedule are in it."""
    ds_config: Path
    """DeepSpeed JSON as it stands in ds_configs/; each side fills it by medclm/ds_config.py."""
    plan: Path
    """(steps * G, 3) int64 .npy in order of global position: record row, position, stage."""
    warmup: int
    """First steps that do not count."""
    loader_workers: int
    """dataloader_num_workers of the peers."""
    breakdown: bool
    """Time the parts of a step: costs a little, so such a run is not compared by its speed."""
    profile: bool = False
    """Note which kernels the time goes to: costs more."""

    def result(self, rank: int) -> Path:
        return self.folder / f"{self.name}-rank{rank}.json"

    def write(self) -> Path:
        path = self.folder / f"{self.name}-job.json"
        path.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")
        return path

    @staticmethod
    def read(path: str) -> Job:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        paths = {key: Path(tree[key]) for key in ("folder", "recipe", "ds_config", "plan")}
        return Job(**{**tree, **paths})


def run(job: Job, *, ranks: int, device: str, timeout_s: float) -> list[dict[str, Any]]:
    """Start fresh processes, wait for their end; what each rank measured, in rank order.

    Raises:
        RuntimeError: a rank ended with an error, or did not end in time; with the end of its output.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",  # the peers' loader workers are forks
        "HF_HUB_OFFLINE": "1",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    shared |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {"DS_ACCELERATOR": "cuda"}
    command = [sys.executable, "-m", SIDES[job.side], str(job.write())]
    logs = [job.folder / f"{job.name}-rank{rank}.log" for rank in range(ranks)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with log.open("w") as told:
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=told, stderr=subprocess.STDOUT))
        codes = _wait(processes, timeout_s)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for rank, code in enumerate(codes):
        if code not in (0, None) or (code is None and not any(codes)):  # of a failed run, the rank that failed
            ended = f"ended with {code}" if code is not None else f"had not ended after {timeout_s:g} s"
            raise RuntimeError(f"{job.name}, rank {rank}: {ended}:\n{logs[rank].read_text()[-3000:]}")
    return [json.loads(job.result(rank).read_text(encoding="utf-8")) for rank in range(ranks)]


def _wait(processes: list[subprocess.Popen[bytes]], timeout_s: float) -> list[int | None]:
    """Exit codes once all have ended, one has failed, or time is up; None = still running."""
    deadline = time.monotonic() + timeout_s
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.1)
