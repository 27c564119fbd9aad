"""Training throughput side by side: ours, transformers.Trainer + DeepSpeed, TRL's SFTTrainer, and what the hardware allows.

    python benchmarks/throughput.py                                     the demo's model, two gloo ranks on the CPU: eight minutes
    python benchmarks/throughput.py --shape middle --repeats 1
    python benchmarks/throughput.py --shape 7b --device cuda --ranks 1  the published sizes, random weights, bf16

All sides open the same weights, read the same samples at the same stages in the same order from the same shards, through the same
renderer, fill the same DeepSpeed JSON alike, and minimise the same number, the mean over all target tokens of the global batch, with
the same AdamW, schedule and clipping. Each run is fresh processes; sides take turns, in an order that turns too. `bare` is not a peer:
forward, backward and AdamW on rendered batches without sharding or communication, so nothing that trains this model can be faster.
The losses of the first steps are compared; the table comes last, everything is in benchmarks/results/throughput.json.

Processor time (all threads of a rank and its loader workers, the mean over ranks) is given beside the wall clock: on a machine that others
use too, it is the steadier of the two, though a busy one inflates it as well; only figures of one table compare. Peak memory is
resident memory of a rank, libraries and all (`bare` holds its rendered batches in it). What the peers may not do here is sort samples
by length (group_by_length): the batches would be others.

TRL is not a dependency of this project: benchmarks/requirements.txt pins it, and without it its line says why it did not run.
"""

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from benchmarks.peers.job import Job, run
from benchmarks.peers.shapes import SHAPES

if TYPE_CHECKING:
    from benchmarks.peers.preparation import Prepared

RESULTS = ROOT / "benchmarks" / "results" / "throughput.json"
PARTS = (
    "data wait",
    "forward",
    "backward",
    "communication",
    "optimizer",
    "ZeRO's update",
    "curriculum",
    "logging",
    "the step's rest",
)
"""Columns of the breakdown, in the order of a step. What is left of a step's time is `other`."""
CLOCKS = ("parts_s", "parts_cpu_s")
PEERS = ("transformers", "trl")
MEBI = 2**20


@dataclass
class Side:
    """What is known of a side."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    """One a repeat: means over ranks, of memory the largest."""
    parts_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Part of a step -> wall clock, processor time of the main thread; of one more run."""
    why_not: str = ""
    """Why it did not run."""

    def median(self, name: str) -> float:
        return statistics.median(run[name] for run in self.runs)

    def against(self, other: "Side", name: str) -> float:
        """Median over the repeats of this side's figure over the other's in the same repeat, which what drifts disturbs least."""
        return statistics.median(mine[name] / theirs[name] for mine, theirs in zip(self.runs, other.runs, strict=True))


@dataclass(frozen=True)
class Bench:
    """How runs are made here."""

    prepared: "Prepared"
    work: Path
    ds_config: Path
    ranks: int
    device: str
    warmup: int
    timeout_s: float

    def measure(self, side: str, name: str, *, loader_workers: int, breakdown: bool = False) -> dict[str, Any]:
        """One run of one side."""
        by_rank = self._run(side, name, loader_workers=loader_workers, breakdown=breakdown)
        return {
            "step_s": statistics.fmean(rank["step_s"] for rank in by_rank),
            "median_step_s": statistics.median(by_rank[0]["steps_s"][self.warmup - 1 :]),
            "cpu_s": statistics.fmean(rank["cpu_s"] for rank in by_rank),
            "peak_mib": max(rank["peak_bytes"] + rank["loader_bytes"] for rank in by_rank) / MEBI,
            "losses": [statistics.fmean(of_step) for of_step in zip(*(rank["losses"] for rank in by_rank), strict=True)],
            "parts_ms": {
                part: tuple(1e3 * statistics.fmean(rank[clock].get(part, 0.0) for rank in by_rank) for clock in CLOCKS)
                for part in by_rank[0]["parts_s"]
            },
        }

    def kernels(self, side: str, name: str) -> list[tuple[str, float]]:
        """Where the time of one more run goes: kernel -> share, of the first rank."""
        return [(kernel, share) for kernel, share in self._run(side, name, loader_workers=0, profile=True)[0]["kernels"]]

    def _run(
        self, side: str, name: str, *, loader_workers: int, breakdown: bool = False, profile: bool = False
    ) -> list[dict[str, Any]]:
        job = Job(
            side=side,
            name=name,
            folder=self.work,
            recipe=self.prepared.recipe,
            ds_config=self.ds_config,
            plan=self.prepared.plan,
            warmup=self.warmup,
            loader_workers=loader_workers,
            breakdown=breakdown,
            profile=profile,
        )
        by_rank = run(job, ranks=self.ranks, device=self.device, timeout_s=self.timeout_s)
        shutil.rmtree(self.work / name, ignore_errors=True)  # a run folder with its checkpoint
        return by_rank


def best_workers(bench: Bench, say: Any) -> int:
    """dataloader_num_workers with which transformers.Trainer steps fastest here."""
    step_s = {}
    for workers in (1, 2):
        step_s[workers] = bench.measure("transformers", f"workers-{workers}", loader_workers=workers)["step_s"]
        say(f"transformers, dataloader_num_workers={workers}: {step_s[workers] * 1e3:.0f} ms a step")
    return min(step_s, key=lambda workers: step_s[workers])


def largest_loss_difference(sides: dict[str, Side]) -> dict[str, float]:
    """Side -> the largest difference of its first losses from ours, over the repeats; sides that do not minimise our loss are left out."""
    ours = sides["ours"].runs[0]["losses"] if "ours" in sides and sides["ours"].runs else None
    if ours is None:
        return {}
    return {
        name: max(abs(a - b) for each in side.runs for a, b in zip(each["losses"], ours, strict=True))
        for name, side in sides.items()
        if side.runs and name != "bare"
    }


def speed_table(sides: dict[str, Side], prepared: "Prepared", warmup: int, differences: dict[str, float], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("side")
    for column in (
        "samples/s",
        "ours is",
        "target tok/s",
        "tokens/s",
        "ms a step",
        "CPU ms a step",
        "by CPU",
        "peak MiB a rank",
        "loss differs by",
    ):
        table.add_column(column, justify="right")
    for name, side in sides.items():
        if side.why_not:
            table.add_row(name, f"not run: {side.why_not}")
            continue
        step_s, cpu_s = side.median("step_s"), side.median("cpu_s")
        others = name != "ours" and "ours" in sides
        table.add_row(
            name,
            f"{prepared.global_batch_size / step_s:.1f}",
            f"{side.against(sides['ours'], 'step_s'):.2f}x" if others else "",
            f"{prepared.targets[warmup:].mean() / step_s:.0f}",
            f"{prepared.tokens[warmup:].mean() / step_s:.0f}",
            f"{step_s * 1e3:.1f}",
            f"{cpu_s * 1e3:.1f}",
            f"{side.against(sides['ours'], 'cpu_s'):.2f}x" if others else "",
            f"{side.median('peak_mib'):.0f}",
            f"{differences[name]:.1e}" if name in differences else "another loss",
        )
    return table


def parts_table(sides: dict[str, Side]) -> Table:
    table = Table(
        title="milliseconds a step by part, wall clock / processor; one more run each, slowed a little by the clocks",
        title_justify="left",
    )
    table.add_column("part")
    shown = [name for name, side in sides.items() if side.parts_ms]
    for name in shown:
        table.add_column(name, justify="right")
    for part in (*PARTS, "other", "in all"):
        table.add_row(part, *("{:.1f} / {:.1f}".format(*sides[name].parts_ms.get(part, (0.0, 0.0))) for name in shown))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="sizes of the model")
    parser.add_argument(
        "--layers", type=int, default=0, help="layers of the language model, where the shape's are too many; 0 = as it is"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=28, help="of every run, those for warming up included")
    parser.add_argument("--warmup", type=int, default=8, help="first steps that do not count")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", default="ours,transformers,trl,bare")
    parser.add_argument("--loader-workers", default="best", help="the peers' dataloader_num_workers; best = try 1 and 2 first")
    parser.add_argument("--no-breakdown", action="store_true", help="leave out the runs that time the parts of a step")
    parser.add_argument("--ds-config", type=Path, default=ROOT / "ds_configs" / "zero3.json")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--recipe", action="append", default=[], metavar="--KEY=VALUE", help="a recipe flag for all sides")
    arguments = parser.parse_args()
    if not 0 < arguments.warmup < arguments.steps:
        parser.error(f"--warmup {arguments.warmup}: give at least 1 and less than --steps {arguments.steps}")
    console = Console(width=140, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        compare(arguments, Path(folder), console)


def compare(arguments: argparse.Namespace, work: Path, console: Console) -> None:
    from benchmarks.peers.preparation import prepare  # torch and transformers, which the corpus builder's workers need not load

    prepared = prepare(SHAPES[arguments.shape], work, steps=arguments.steps, layers=arguments.layers, flags=arguments.recipe)
    easy, medium, hard = prepared.stages.tolist()
    console.print(
        f"{prepared.parameters:,} parameters; {arguments.ranks} ranks on {arguments.device}; global batch {prepared.global_batch_size}; "
        f"Easy {easy}, Medium {medium}, Hard {hard} samples; {prepared.tokens.mean():.0f} tokens a step, {prepared.targets.mean():.0f} supervised"
    )
    bench = Bench(prepared, work, arguments.ds_config, arguments.ranks, arguments.device, arguments.warmup, arguments.timeout)
    sides = {name: Side() for name in arguments.sides.split(",")}
    if "trl" in sides and importlib.util.find_spec("trl") is None:
        sides["trl"].why_not = "trl is not installed (pip install -r benchmarks/requirements.txt)"
    running = [name for name, side in sides.items() if not side.why_not]
    given = arguments.loader_workers
    workers = best_workers(bench, console.print) if given == "best" else int(given)
    for repeat in range(arguments.repeats):
        turn = repeat % max(1, len(running))
        for name in [*running[turn:], *running[:turn]]:
            attempt(bench, name, sides[name], f"{name}-{repeat}", workers, console)
    if not arguments.no_breakdown:
        for name in running:
            if not sides[name].why_not:
                measured = bench.measure(name, f"{name}-parts", loader_workers=workers, breakdown=True)
                sides[name].parts_ms = parts_of(measured)
    report(arguments, prepared, sides, workers, console)


def attempt(bench: Bench, name: str, side: Side, run_name: str, workers: int, console: Console) -> None:
    """A peer that cannot run here says why in the table; ours has no excuse."""
    if side.why_not:
        return
    try:
        measured = bench.measure(name, run_name, loader_workers=workers)
    except RuntimeError as error:
        if name not in PEERS:
            raise
        console.print(str(error), markup=False, highlight=False)
        side.why_not = str(error).strip().splitlines()[-1]
        return
    side.runs.append(measured)
    console.print(
        f"{run_name}: {measured['step_s'] * 1e3:.1f} ms a step, {measured['cpu_s'] * 1e3:.1f} ms CPU a rank", highlight=False
    )


def parts_of(measured: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The parts of a step, with what is left of it; processor time in all is of every thread."""
    parts: dict[str, tuple[float, float]] = dict(measured["parts_ms"])
    whole = 1e3 * measured["step_s"], 1e3 * measured["cpu_s"]
    wall, cpu = (sum(times) for times in zip(*parts.values(), strict=True))
    return parts | {"other": (whole[0] - wall, whole[1] - cpu), "in all": whole}


def report(arguments: argparse.Namespace, prepared: "Prepared", sides: dict[str, Side], workers: int, console: Console) -> None:
    from medclm.checkpoint import package_versions

    differences = largest_loss_difference(sides)
    for name, side in sides.items():
        if side.runs and name != "bare":
            console.print(
                f"{name}: first losses {', '.join(f'{loss:.7f}' for loss in side.runs[0]['losses'])}", highlight=False
            )
    written = {
        "shape": arguments.shape,
        "layers": arguments.layers,
        "device": arguments.device,
        "ranks": arguments.ranks,
        "steps": arguments.steps,
        "warmup": arguments.warmup,
        "ds_config": arguments.ds_config.name,
        "recipe": arguments.recipe,
        "versions": package_versions(),
        "loader_workers": workers,
        "parameters": prepared.parameters,
        "global_batch_size": prepared.global_batch_size,
        "tokens_a_step": float(prepared.tokens[arguments.warmup :].mean()),
        "target_tokens_a_step": float(prepared.targets[arguments.warmup :].mean()),
        "loss_difference": differences,
        "sides": {
            name: {"runs": side.runs, "parts_ms": side.parts_ms, "why_not": side.why_not} for name, side in sides.items()
        },
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if any(side.parts_ms for side in sides.values()):
        console.print(parts_table(sides))
    title = (
        f"{arguments.shape} model, {arguments.ranks} ranks on {arguments.device}, median of {arguments.repeats} runs of "
        f"{arguments.steps - arguments.warmup} steps; peers with {workers} loader workers"
    )
    console.print(speed_table(sides, prepared, arguments.warmup, differences, title))


if __name__ == "__main__":
    main()
