"""Predicted against measured peak memory of one rank: `python benchmarks/memory.py [--cases "zero3;zero3, LoRA"] [--ranks 1,2] [--tokens 100]`.

Each case builds a model of some 40 million parameters under DeepSpeed in fresh processes and makes two steps. Measured is the peak
resident memory of rank 0 above what it held after a first, tiny engine had been built and stepped (so that neither libraries nor
their first buffers count), with every tensor of 64 KiB or more in pages of its own, so that freed memory returns; on a GPU, PyTorch's own
count. Ideal is states over ranks and the activations kept for backward, and nothing else. `--model` keys change the size.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # only medclm is installed
RESULTS = Path(__file__).parent / "results" / "memory.json"
MIB = 2**20
OF_CHILDREN = {
    "MALLOC_MMAP_THRESHOLD_": "65536",  # read by the C library when a process starts
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # of calls that are DeepSpeed's
}
"""Environment of the processes that are measured."""
LORA = ("--model.freeze_language_model=true", "--model.lora.rank=16")
BF16 = ("--train.precision=bf16",)
LEAN = {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
"""Weights are gathered when they are needed and not before; prefetching would keep those it passes over."""
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "zero1": ("zero2", {"stage": 1}, ()),
    "zero2": ("zero2", {}, ()),
    "zero2, recompute": ("zero2", {}, ("--engine.recompute=all",)),
    "zero3": ("zero3", {}, ()),
    "zero3, recompute": ("zero3", {}, ("--engine.recompute=all",)),
    "zero3, LoRA": ("zero3", {}, LORA),
    "zero3, nothing kept gathered": ("zero3", LEAN, ()),
    "zero3, bf16": ("zero3", {}, BF16),
    "zero3, bf16, nothing kept gathered": ("zero3", LEAN, BF16),
}
"""Name -> DeepSpeed JSON, changes to its zero_optimization, recipe flags."""
SIZES = (
    "--model.tiny.image_size=32",
    "--model.tiny.patch_size=8",
    "--model.tiny.vision_width=256",
    "--model.tiny.width=768",
    "--model.tiny.layers=4",
    "--model.tiny.heads=8",
    "--model.tiny.vocab_size=1024",
)


def engine_of(recipe: Any, tree: dict[str, Any], world_size: int) -> tuple[Any, Any, dict[str, Any]]:
    """(engine, processor, filled JSON) of a recipe, as a run would build it."""
    from medclm.ds_config import fill
    from medclm.engine import find_device, wants_bf16
    from medclm.models.registry import family
    from train.fit import make_engine

    device = find_device(int(os.environ.get("LOCAL_RANK", 0)))
    bf16 = wants_bf16(recipe.train, device)
    filled = fill(tree, recipe, world_size=world_size, bf16=bf16, accelerator=device.name != "cpu")
    processor = family(recipe.model.family).processor(recipe.model)
    return make_engine(recipe, filled, processor, device=device, bf16=bf16), processor, filled


def measure(rank: int, world_size: int, case: str, micro: int, tokens: int, sizes: tuple[str, ...]) -> dict[str, Any]:
    """One case on this rank; every rank calls it."""
    import torch

    from medclm.config import load_recipe
    from medclm.device_memory import forget_peak, held, most_held
    from medclm.ds_config import read_json
    from medclm.engine import connect, find_device
    from medclm.memory import predict, trace_micro_batch, weights_of
    from medclm.models.example import example_batch
    from medclm.models.recompute import set_recompute
    from medclm.models.registry import family
    from medclm.testing import TINY_FLAGS
    from medclm.types import LossWeights

    name, change, flags = CASES[case]
    batches = (f"--train.micro_batch_size={micro}", f"--train.global_batch_size={2 * micro * world_size}")
    recipe = load_recipe([*sizes, *batches, f"--data.max_tokens={tokens}", *flags])
    device = find_device(rank)
    connect(recipe.engine, device)
    tree = read_json(ROOT / "ds_configs" / f"{name}.json")
    tree["zero_optimization"] |= change
    models = family(recipe.model.family)

    def step(engine: Any) -> None:
        batch = example_batch(engine.module.network, engine.module.processor, micro, tokens)
        for _ in range(2):
            engine.backward(engine.forward(batch))
        engine.update(1e-4)

    warm, *_ = engine_of(load_recipe([*TINY_FLAGS, *batches]), tree, world_size)
    step(warm)
    warm.close()
    del warm
    gc.collect()
    before = held(device.name)
    forget_peak(device.name)
    engine, processor, _ = engine_of(recipe, tree, world_size)
    clock = time.perf_counter()
    for _ in range(2):
        step(engine)
    seconds = (time.perf_counter() - clock) / 2
    measured = most_held(device.name) - before

    skeleton = models.skeleton(recipe.model, next(engine.module.parameters()).dtype, processor)
    set_recompute(skeleton, recipe.engine.recompute)
    began = time.perf_counter()
    batch = example_batch(skeleton, processor, micro, tokens)
    traced = trace_micro_batch(models.objective(skeleton, processor, LossWeights(0.1, 0.9, 0.1)), batch, engine.layout)
    found = predict(weights_of(skeleton), engine.layout, traced, accelerator=device.name != "cpu")
    result = {
        "case": case,
        "ranks": world_size,
        "device": device.name if device.name == "cpu" else torch.cuda.get_device_name(),
        "parameters": sum(weight.count for weight in weights_of(skeleton)),
        "measured": measured,
        "predicted": found.peak,
        "ideal": found.ideal,
        "moments": found.moments,
        "parts": found.parts,
        "activations": traced.kept,
        "step_s": seconds,
        "prediction_s": time.perf_counter() - began,
    }
    engine.close()
    return result


def table(rows: list[dict[str, Any]]) -> Table:
    heads = (
        "case",
        "ranks",
        "predicted MiB",
        "measured MiB",
        "predicted / measured",
        "ideal MiB",
        "measured / ideal",
        "highest",
    )
    made = Table(*heads, title="peak of one rank")
    for row in rows:
        made.add_row(
            row["case"],
            str(row["ranks"]),
            f"{row['predicted'] / MIB:.0f}",
            f"{row['measured'] / MIB:.0f}",
            f"{row['predicted'] / row['measured']:.3f}",
            f"{row['ideal'] / MIB:.0f}",
            f"{row['measured'] / row['ideal']:.3f}",
            max(row["moments"], key=lambda moment: row["moments"][moment]),
        )
    return made


def main() -> None:
    from tests.ranks import run_ranks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=";".join(CASES), help="as named in CASES, separated by semicolons")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--micro", type=int, default=2, help="samples of a micro-batch")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of a sample")
    parser.add_argument("--model", nargs="*", default=list(SIZES), help="recipe flags of the model")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each case")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ |= OF_CHILDREN
    cases = [case for case in CASES if case in arguments.cases.split(";")]
    rows = []
    for ranks in map(int, arguments.ranks.split(",")):
        for case in cases:
            found = run_ranks(
                ranks,
                measure,
                ranks,
                case,
                arguments.micro,
                arguments.tokens,
                tuple(arguments.model),
                timeout_s=arguments.timeout,
            )
            if not isinstance(found[0], dict):
                print(f"{case}, {ranks} rank(s): {found[0]}", flush=True)
                continue
            rows.append(found[0])
            print(f"{case}, {ranks} rank(s): {json.dumps(found[0])}", flush=True)
            arguments.out.parent.mkdir(exist_ok=True)
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    Console(width=140).print(table(rows))


if __name__ == "__main__":
    main()
