"""What a checkpoint costs: how long the steps wait for it, how long it is written beside them, and how soon a resumed run steps again.

    python benchmarks/checkpoint.py                          the demo's model and one of some 24 million parameters, two ranks
    python benchmarks/checkpoint.py --widths 96,512 --steps 8

Each line is runs of the real launcher: saved in the background and within the loop; begun, resumed on the same number of ranks,
resumed on another one (converted to universal files first, then once more with the cached ones). Times by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]

from medclm.checkpoint import newest
from medclm.data.testing import write_small_corpus


def recipe(corpus: Path, out: Path, width: int, steps: int) -> list[str]:
    sizes = {"vision_width": width, "width": width, "heads": max(2, width // 32), "layers": 4, "vision_layers": 4}
    return [
        "--deepspeed",
        str(ROOT / "ds_configs" / "zero3.json"),
        f"--data.corpus={corpus}",
        f"--run.output_dir={out}",
        *(f"--model.tiny.{key}={value}" for key, value in sizes.items()),
        f"--train.steps={steps}",
        "--train.global_batch_size=12",
        "--train.micro_batch_size=6",
        "--train.log_every=1",
        "--train.keep_checkpoints=100",
        "--train.export=false",
        "--data.min_side=0",
        "--tracking.uri=off",
    ]


def launch(ranks: int, arguments: list[str], metrics: Path) -> tuple[float, list[dict[str, float]]]:
    """(seconds from the command to the first line of a step, the lines this run added)."""
    before = len(read(metrics))
    with socket.socket() as probe:  # several runs may be under way on this machine
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", str(ranks), "--master_port", port]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    began, first = time.monotonic(), None
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, "launch/train.py", *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            if first is None and any("speed/step_s" in line for line in read(metrics)[before:]):
                first = time.monotonic() - began
            time.sleep(0.02)
        log.seek(0)
        if process.returncode or first is None:
            raise RuntimeError(f"the run ended with {process.returncode}:\n{log.read()[-3000:]}")
    return first, read(metrics)[before:]


def read(metrics: Path) -> list[dict[str, float]]:
    if not metrics.exists():
        return []
    return [json.loads(line) for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]


def measure(width: int, steps: int, corpus: Path, work: Path) -> dict[str, float]:
    every = max(2, steps // 4)
    found: dict[str, float] = {}
    for where, background in (("background", "true"), ("in the loop", "false")):
        out = work / f"{width}-{where.replace(' ', '-')}"
        arguments = [
            *recipe(corpus, out, width, steps),
            f"--train.checkpoint_every={every}",
            f"--train.save_in_background={background}",
        ]
        found[f"start, {where}"], lines = launch(2, arguments, out / "demo" / "metrics.jsonl")
        found[f"pause, {where}"] = statistics.median(
            line["checkpoint/pause_s"] for line in lines if "checkpoint/pause_s" in line
        )
        if background == "true":
            found["write"] = statistics.median(line["checkpoint/write_s"] for line in lines if "checkpoint/write_s" in line)
            found["step"] = statistics.median(line["speed/step_s"] for line in lines if "speed/step_s" in line)
    demo = out / "demo"
    last = newest(demo / "checkpoints")
    assert last is not None
    manifest = json.loads((last.folder / "manifest.json").read_text())
    found["MB"] = sum(entry["bytes"] for entry in manifest["files"]) / 1e6
    for name, ranks in (("resume", 2), ("resume, other ranks", 1), ("resume, other ranks again", 1)):
        shutil.rmtree(demo / "checkpoints" / f"step_{steps:06d}", ignore_errors=True)
        found[name], _ = launch(ranks, [*arguments, "--resume=auto"], demo / "metrics.jsonl")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="96,512", help="hidden units of both towers of the tiny model, joined by commas")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    chosen = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        corpus = write_small_corpus(Path(folder) / "corpus", images=60)
        for width in map(int, chosen.widths.split(",")):
            results[width] = measure(width, chosen.steps, corpus, Path(folder))
    table = Table(
        "seconds", *(f"{found['MB']:.0f} MB" for found in results.values()), title="what a checkpoint costs, two ranks"
    )
    for name in next(iter(results.values())):
        if name != "MB":
            table.add_row(name, *(f"{found[name]:.3f}" for found in results.values()))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    Console().print(table)


if __name__ == "__main__":
    main()
