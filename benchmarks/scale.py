"""How a run grows: `python benchmarks/scale.py [--repeats 2] [--only layouts,corpus,model]`, under ten minutes on two quiet cores.

Four questions, one table each:
  layouts        step time and peak memory against ZeRO stage, ranks and model size, repeats interleaved, medians
  corpus         memory of the data path against the number of records, pictures included: must not grow
  communication  bytes that a two-rank step hands to collectives, by the model and as counted
  model          ViP-LLaVA-7B on 8 to 512 GPUs, full and LoRA: time of communication against compute, and predicted peak memory against
                 the ideal (states over ranks and the activations kept for backward)

The last is a model, nothing measured. Defaults of its flags: a GPU sends 450 GB/s within a node (half of the 900 GB/s of NVLink 4, NVIDIA
H100 data sheet), a node has an adapter of 50 GB/s for each of its 8 GPUs (400 Gb/s, NVIDIA ConnectX-7 data sheet), all of which work for
each collective; hops of 3 and 10 microseconds are guesses, and nothing overlaps; compute is 6 FLOPs a trained (4 a frozen) parameter and token at 40 % of 790 TFLOP/s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.memory import OF_CHILDREN

RESULTS = Path(__file__).parent / "results" / "scale.json"
MIB, GIB = 2**20, 2**30
WIDTHS = (128, 512)
"""Hidden units: with the smaller no weight is large enough for stage 3 to shard."""
RECORDS = (1_000, 10_000, 100_000)


def sizes_of(width: int) -> tuple[str, ...]:
    sizes = {"image_size": 32, "vision_width": width, "width": width, "layers": 4, "heads": 4}
    return tuple(f"--model.tiny.{key}={value}" for key, value in sizes.items())


def layout_step(rank: int, world_size: int, stage: int, width: int, repeats: int) -> dict[str, Any]:
    """Median step time, peak above what was held before, and what the collectives of one step carry; every rank calls it."""
    from benchmarks.communication import Carried, volumes
    from benchmarks.memory import engine_of
    from medclm.config import load_recipe
    from medclm.device_memory import forget_peak, held, most_held
    from medclm.ds_config import read_json
    from medclm.engine import connect, find_device
    from medclm.memory import weights_of
    from medclm.models.example import example_batch

    flags = [*sizes_of(width), "--train.micro_batch_size=2", f"--train.global_batch_size={4 * world_size}"]
    recipe = load_recipe(flags)
    device = find_device(rank)
    connect(recipe.engine, device)
    tree = read_json(ROOT / "ds_configs" / ("zero3.json" if stage == 3 else "zero2.json"))
    tree["zero_optimization"]["stage"] = stage
    before = held(device.name)
    forget_peak(device.name)
    engine, *_ = engine_of(recipe, tree, world_size)
    batch = example_batch(engine.module.network, engine.module.processor, 2, 100)

    def step() -> None:
        for _ in range(2):
            engine.backward(engine.forward(batch))
        engine.update(1e-4)

    for _ in range(2):  # stage 3 learns in the first step in which order it will gather
        step()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    with Carried() as carried:
        step()
    weights = weights_of(engine.module)
    result = {
        "stage": stage,
        "ranks": world_size,
        "parameters": sum(weight.count for weight in weights),
        "step_s": times,
        "peak": most_held(device.name) - before,
        "carried": dict(carried.bytes),
        "predicted": volumes(weights, engine.layout),
    }
    engine.close()
    return result


def layouts(repeats: int, timeout: float) -> list[dict[str, Any]]:
    from tests.ranks import run_ranks

    cells: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for _ in range(repeats):  # interleaved: what disturbs the machine disturbs all
        for width in WIDTHS:
            for ranks in (1, 2):
                for stage in (1, 2, 3):
                    found = run_ranks(ranks, layout_step, ranks, stage, width, 5, timeout_s=timeout)
                    if not isinstance(found[0], dict):
                        raise RuntimeError(f"stage {stage}, {ranks} rank(s): {found[0]}")
                    cells.setdefault((width, ranks, stage), []).append(found[0])
    return [
        {
            **found[0],
            "step_s": statistics.median(second for one in found for second in one["step_s"]),
            "peak": statistics.median(one["peak"] for one in found),
        }
        for found in cells.values()
    ]


def data_path(rank: int, folder: Path) -> dict[str, Any]:
    """Memory of reading, ordering and rendering a corpus, above that of the program."""
    import numpy as np

    from medclm.config import DataSection
    from medclm.data.loader import Loader
    from medclm.data.render import Renderer
    from medclm.data.shards import Corpus
    from medclm.data.stream import Stream
    from medclm.device_memory import status
    from medclm.testing import tiny_processor
    from medclm.types import Assignment

    processor = tiny_processor()
    before = status("RssAnon")
    began = time.perf_counter()
    corpus = Corpus(folder)
    stream = Stream(corpus, split="train", seed=0, window=4096, min_side=0, image_size=processor.image_size, fit="pad")
    renderer = Renderer(corpus=corpus, processor=processor, data=DataSection(), seed=0)
    loader = Loader(renderer, stream, global_batch_size=48, micro_batch_size=24, rank=0, world_size=1, workers=2)
    most, opened = 0, time.perf_counter() - began
    for index in range(40):
        offered = stream.describe(index, 48).offered
        loader.submit(Assignment(batch_index=index, stages=np.argmax(offered, axis=1).astype(np.uint8), stop=False))
        loader.take(index)
        most = max(most, status("RssAnon"))
    loader.close()
    return {"records": len(stream.order), "anonymous": most - before, "opened_s": opened}


def corpora(counts: tuple[int, ...], timeout: float) -> list[dict[str, Any]]:
    from medclm.data.testing import write_small_corpus
    from tests.ranks import run_ranks

    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_small_corpus(
                Path(folder), count, sizes=[(32, 32)], splits=["train"], rows_per_file=20_000, batch_rows=1_000, texture=4
            )
            (found,) = run_ranks(1, data_path, Path(folder), timeout_s=timeout)
        if not isinstance(found, dict):
            raise RuntimeError(f"{count} records: {found}")
        rows.append(found)
    return rows


def cluster(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Communication and memory of ViP-LLaVA-7B in bf16 on many GPUs under ds_configs/zero_auto.json, by the models."""
    from benchmarks.communication import Network, seconds, sent, volumes
    from medclm.config import load_recipe
    from medclm.ds_config import fill, read_json
    from medclm.memory import Layout, weights_of
    from train.memory_plan import Forecast

    network = Network(8, 1e9 * arguments.inside, 1e9 * arguments.adapter, arguments.hop_inside, arguments.hop_outside)
    tree = read_json(ROOT / "ds_configs" / "zero_auto.json")
    rows = []
    for name, flags in (("full", []), ("LoRA", ["--model.freeze_language_model=true", "--model.lora.rank=64"])):
        for ranks in (8, 16, 64, 128, 512):
            recipe = load_recipe(
                [
                    "--model.path=llava-hf/vip-llava-7b-hf",
                    f"--data.max_tokens={arguments.tokens}",
                    f"--train.micro_batch_size={arguments.micro}",
                    f"--train.global_batch_size={arguments.micro * arguments.accumulation * ranks}",
                    *flags,
                ]
            )
            on_gpus = {"world_size": ranks, "bf16": True, "accelerator": True}
            forecast = Forecast(recipe, tree, **on_gpus)
            weights = weights_of(forecast.network)
            flops = sum(weight.count * (6 if weight.trained else 4) for weight in weights)
            for stage in (1, 2, 3):
                layout = Layout.of(fill(tree, recipe, **on_gpus, zero_stage=stage), world_size=ranks, fused=True)
                volume = volumes(weights, layout)
                memory = forecast(arguments.micro, "none", stage)
                rows.append(
                    {
                        "training": name,
                        "ranks": ranks,
                        "stage": stage,
                        "sent": sent(volume, ranks),
                        "communication_s": seconds(volume, ranks, network, bucket_bytes=2 * layout.bucket),
                        "compute_s": flops * arguments.micro * arguments.tokens * arguments.accumulation / (0.4 * 790e12),
                        "peak": memory.peak,
                        "ideal": memory.ideal,
                    }
                )
    return rows


def tables(found: dict[str, list[dict[str, Any]]]) -> list[Table]:
    made = []
    if rows := found.get("layouts"):
        table = Table("parameters", "ranks", "ZeRO stage", "step s", "peak MiB", title="layouts")
        counted = Table(
            "parameters", "ZeRO stage", "collective", "predicted MiB", "counted MiB", "ratio", title="communication"
        )
        for row in rows:
            table.add_row(
                f"{row['parameters']:,}",
                str(row["ranks"]),
                str(row["stage"]),
                f"{row['step_s']:.3f}",
                f"{row['peak'] / MIB:.0f}",
            )
            for kind, count in row["predicted"].items():
                carried = row["carried"].get(kind, 0)
                counted.add_row(
                    f"{row['parameters']:,}",
                    str(row["stage"]),
                    kind,
                    f"{count / MIB:.2f}",
                    f"{carried / MIB:.2f}",
                    f"{count / carried:.3f}" if carried else "-",
                )
        made += [table, counted]
    if rows := found.get("corpus"):
        table = Table("records", "anonymous MiB", "opened in s", title="corpus")
        for row in rows:
            table.add_row(f"{row['records']:,}", f"{row['anonymous'] / MIB:.1f}", f"{row['opened_s']:.2f}")
        made.append(table)
    if rows := found.get("model"):
        heads = ("training", "GPUs", "ZeRO stage", "GB sent", "communication s", "compute s", "ratio", "peak GiB", "of ideal")
        table = Table(*heads, title="model")
        for row in rows:
            ratio = row["communication_s"] / row["compute_s"]
            table.add_row(
                row["training"],
                str(row["ranks"]),
                str(row["stage"]),
                f"{row['sent'] / 1e9:.2f}",
                f"{row['communication_s']:.3f}",
                f"{row['compute_s']:.2f}",
                f"{ratio:.2f}",
                f"{row['peak'] / GIB:.1f}",
                f"{row['peak'] / row['ideal']:.2f}",
            )
        made.append(table)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="layouts,corpus,model")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--records", default=",".join(map(str, RECORDS)))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each run")
    parser.add_argument("--inside", type=float, default=450, help="GB/s between GPUs of a node")
    parser.add_argument("--adapter", type=float, default=50, help="GB/s of a network adapter, of which each GPU has one")
    parser.add_argument("--hop-inside", type=float, default=3e-6, help="seconds")
    parser.add_argument("--hop-outside", type=float, default=10e-6, help="seconds")
    parser.add_argument("--micro", type=int, default=4, help="samples of a micro-batch")
    parser.add_argument("--tokens", type=int, default=800, help="tokens of a sample")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches of a step on one rank")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ |= OF_CHILDREN
    wanted, found = arguments.only.split(","), {}
    if "model" in wanted:
        found["model"] = cluster(arguments)
    if "layouts" in wanted:
        found["layouts"] = layouts(arguments.repeats, arguments.timeout)
    if "corpus" in wanted:
        found["corpus"] = corpora(tuple(map(int, arguments.records.split(","))), arguments.timeout)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    for table in tables(found):
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
