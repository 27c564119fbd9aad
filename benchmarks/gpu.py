"""One GPU and the published 7B sizes: how near a step comes to what the GPU can do, beside transformers.Trainer.

    python benchmarks/gpu.py                                          LoRA and full fine-tuning, random weights, bf16
    python benchmarks/gpu.py --device cpu --shape tiny --steps 6      the same road without a GPU, to see that it holds

Each side runs in each setting (samples a forward, recomputation) that its memory allows, in fresh processes, on the same samples and
DeepSpeed JSON as in benchmarks/throughput.py; its best one counts. The share is of the matrix rate measured first, in bf16 (float32 on
the CPU), by the arithmetic that the model needs (benchmarks/flops.py): what is computed again does not count. One more run of ours says
which kernels the time goes to. The table comes last; everything is in benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from benchmarks.peers.shapes import SHAPES
from benchmarks.throughput import Bench

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
TUNINGS = {
    "LoRA": ("--model.freeze_language_model=true", "--model.lora.rank=64", "--model.lora.alpha=128", "--model.lora.dropout=0"),
    "full": ("--model.lora.rank=0",),
}
SETTINGS = ((16, "none"), (8, "none"), (4, "none"), (16, "all"), (8, "all"))
"""Samples a forward, and what is recomputed; from the one that needs most memory on."""
SIDES = ("ours", "transformers")
MATRIX_RATE = """
import sys, time, torch
device, size = sys.argv[1], int(sys.argv[2])
kind = torch.bfloat16 if device == "cuda" else torch.float32
wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
left, right = (torch.randn(size, size, dtype=kind, device=device) for _ in range(2))
times = []
for _ in range(12):
    wait(); begin = time.perf_counter(); left @ right; wait(); times.append(time.perf_counter() - begin)
print(2 * size**3 / sorted(times)[len(times) // 2])
"""


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of a large square product, the median of twelve; in a process of its own."""
    size = "8192" if device == "cuda" else "1024"
    told = subprocess.run([sys.executable, "-c", MATRIX_RATE, device, size], capture_output=True, text=True, check=True)
    return float(told.stdout)


def measure(arguments: argparse.Namespace, tuning: str, work: Path, say: Any) -> list[dict[str, Any]]:
    """Every side in every setting; a setting that does not fit says why."""
    from benchmarks.flops import Learns, step_flops
    from benchmarks.peers.preparation import prepare
    from medclm.config import load_recipe, recipe_yaml
    from medclm.models.vip_llava import VipLlavaConfig
    from medclm.models.weights import read_config

    prepared = prepare(
        SHAPES[arguments.shape], work, steps=arguments.steps, layers=arguments.layers, phantoms=200, flags=TUNINGS[tuning]
    )
    recipe = load_recipe(config=prepared.recipe)
    learns = Learns(
        vision_tower=not recipe.model.freeze_vision_tower,
        projector=not recipe.model.freeze_projector,
        language_model=not recipe.model.freeze_language_model,
        adapter_rank=recipe.model.lora.rank,
    )
    samples = prepared.global_batch_size
    tokens, targets = (float(each[arguments.warmup :].mean()) for each in (prepared.tokens, prepared.targets))
    flops = step_flops(
        read_config(VipLlavaConfig, recipe.model.path, "vip_llava"), [round(tokens / samples)] * samples, round(targets), learns
    )
    rows = []
    for micro, recompute in SETTINGS:
        if micro > samples:
            continue
        changed = recipe.model_copy(
            update={
                "train": recipe.train.model_copy(update={"micro_batch_size": micro}),
                "engine": recipe.engine.model_copy(update={"recompute": recompute}),
            }
        )
        path = work / f"recipe-{micro}-{recompute}.yaml"
        path.write_text(recipe_yaml(changed), encoding="utf-8")
        bench = Bench(
            replace(prepared, recipe=path), work, arguments.ds_config, 1, arguments.device, arguments.warmup, arguments.timeout
        )
        for side in SIDES:
            row: dict[str, Any] = {"tuning": tuning, "side": side, "micro_batch": micro, "recompute": recompute}
            try:
                found = bench.measure(side, f"{tuning}-{side}-{micro}-{recompute}", loader_workers=arguments.loader_workers)
                row |= {
                    "tokens_per_s": tokens / found["step_s"],
                    "flops_per_s": flops / found["step_s"],
                    "peak_mib": found["peak_mib"],
                }
            except RuntimeError as error:
                row["why_not"] = str(error).strip().splitlines()[-1]
            say(
                f"{tuning}, {side}, {micro} samples, recompute {recompute}: {row.get('why_not') or round(row['tokens_per_s'])} tokens/s"
            )
            rows.append(row)
    best = best_of(rows, "ours")
    if best is not None and not arguments.no_profile:
        path = work / f"recipe-{best['micro_batch']}-{best['recompute']}.yaml"
        bench = Bench(
            replace(prepared, recipe=path), work, arguments.ds_config, 1, arguments.device, arguments.warmup, arguments.timeout
        )
        best["kernels"] = bench.kernels("ours", f"{tuning}-profile")
    return rows


def best_of(rows: list[dict[str, Any]], side: str) -> dict[str, Any] | None:
    return max(
        (row for row in rows if row["side"] == side and "tokens_per_s" in row),
        key=lambda row: row["tokens_per_s"],
        default=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="sizes of the model")
    parser.add_argument("--layers", type=int, default=0, help="layers of the language model, where memory is short; 0 = all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tunings", default="LoRA,full")
    parser.add_argument("--steps", type=int, default=12, help="of every run, those for warming up included")
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--loader-workers", type=int, default=2, help="dataloader_num_workers of transformers.Trainer")
    parser.add_argument("--ds-config", type=Path, default=ROOT / "ds_configs" / "zero3.json")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that one run may take")
    parser.add_argument("--no-profile", action="store_true", help="leave out the runs that say where the time goes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console(width=150, soft_wrap=True)
    rate = matrix_rate(arguments.device)
    console.print(f"matrix rate {rate / 1e12:.1f} TFLOP/s", highlight=False)
    rows: list[dict[str, Any]] = []
    for tuning in arguments.tunings.split(","):
        with tempfile.TemporaryDirectory(prefix="gpu-") as folder:  # the weights of 7B are 13 GiB: one at a time
            rows += measure(arguments, tuning, Path(folder), console.print)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"matrix_rate": rate, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        for kernel, share in row.get("kernels", []):
            console.print(f"{row['tuning']}  {share:6.1%}  {kernel}", highlight=False, markup=False)
    table = Table("tuning", "side", "samples a forward", "recompute", "tokens/s", "of the matrix rate", "peak GiB")
    for row in rows:
        mark = " (best)" if row is best_of([r for r in rows if r["tuning"] == row["tuning"]], row["side"]) else ""
        told = (
            [row["why_not"], "", ""]
            if "why_not" in row
            else [f"{row['tokens_per_s']:.0f}", f"{row['flops_per_s'] / rate:.1%}", f"{row['peak_mib'] / 1024:.1f}"]
        )
        table.add_row(row["tuning"], row["side"] + mark, str(row["micro_batch"]), row["recompute"], *told)
    console.print(table)


if __name__ == "__main__":
    main()
