"""What the curriculum service costs, alone and beside a training step.

python benchmarks/curriculum/service.py decide       # one decision of every policy, part by part (Show: under 20 ms)
python benchmarks/curriculum/service.py scale        # an exchange with 8 to 16,384 ranks and 10 to 100,000 domains
python benchmarks/curriculum/service.py share        # its share of a 7B step (Show: under 0.1 %)
python benchmarks/curriculum/service.py overlap      # two real processes: how much of it the step hides (about two minutes)
python benchmarks/curriculum/service.py all --out service.json

Real: the policies, the messages, all of rank 0's work (`Decider`), and in `overlap` the service, its thread and gloo.
Reading what a batch offers (`Stream.describe`) is measured apart, on a corpus of 100,000 made-up records of two domains, and added to
rank 0's work in `scale` and `share`. Stand-ins: the ranks of `scale` and `share` are rows of one array; the log is not timed. Modelled, in `scale` and `share` only, is the network:
    gather     latency + (R - 1) (handling + bytes / bandwidth)       every report passes rank 0's link
    broadcast  ceil(log2 R) (latency + handling + bytes / bandwidth)  a binomial tree
    agreement  2 ceil(log2 R) (latency + handling)                    8 bytes up and down the tree
with 50 us latency, 10 Gbit/s and 5 us of handling a message: assumptions for TCP over Ethernet, to be changed by flags.
Times of rank 0's work are the median of processor time, so that other processes do not count.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from medclm.config import CurriculumSection
from medclm.curriculum.decider import Decider, Standing
from medclm.curriculum.messages import VERSION, answer_kind, checksum, read, report_kind, seal
from medclm.curriculum.policy import decide
from medclm.curriculum.registry import find_makers, make_policy
from medclm.curriculum.service import CurriculumService, Report
from medclm.curriculum.stages import resolve_stages
from medclm.data.shards import Corpus
from medclm.data.stream import Stream, StreamBatch
from medclm.data.testing import record_row, write_small_corpus
from medclm.distributed import ControlPlane, Ranks
from medclm.draws import uniforms

STEPS = 1000
TOKENS_PER_SAMPLE, TOKENS_PER_S = 800, 28_500
"""A 7B LoRA step at its ideal rate on one H200 (790 TFLOP/s in bf16): the shortest imaginable step, the worst case here."""


@dataclass(frozen=True)
class Network:
    """The latency model of the docstring."""

    latency_s: float
    bytes_per_s: float
    handling_s: float

    def exchange(self, ranks: int, report_bytes: int, answer_bytes: int) -> tuple[float, float, float]:
        """Seconds of the gather, the broadcast and the agreement."""
        depth = math.ceil(math.log2(ranks))
        gather = self.latency_s + (ranks - 1) * (self.handling_s + report_bytes / self.bytes_per_s)
        broadcast = depth * (self.latency_s + self.handling_s + answer_bytes / self.bytes_per_s)
        return gather, broadcast, 2 * depth * (self.latency_s + self.handling_s)


class World:
    """All ranks of one made-up run in this process, warmed up by 40 exchanges."""

    def __init__(self, *, policy: str, ranks: int, domains: int, batch: int) -> None:
        self.ranks, self.batch = ranks, batch
        self.policy = make_policy(CurriculumSection(policy=policy), domains=domains, total_steps=STEPS)
        draw = np.random.default_rng(0)
        self.described = StreamBatch(
            positions=np.arange(batch),
            record_rows=np.arange(batch),
            domains=draw.integers(0, domains, batch),
            offered=np.stack([np.ones(batch, bool), np.ones(batch, bool), draw.random(batch) > 0.2], axis=1),
        )
        self.losses_Rn = draw.uniform(0.2, 3.0, (ranks, batch // ranks)).astype("<f2")
        self.kind = report_kind(batch // ranks)
        self.decider = Decider(
            policy=self.policy,
            describe=lambda _: self.described,
            world_size=ranks,
            global_batch_size=batch,
            micro_batch_size=1,
            total_steps=STEPS,
            seed=0,
        )
        self.standing, self.next_batch = Standing(self.policy.initial(), applied_steps=STEPS // 2), 0
        self.decider.decided[-1] = draw.integers(0, 3, batch).astype(np.uint8)
        for _ in range(40):
            self.exchange(self.reports())

    def reports(self) -> np.ndarray:
        """(R, L) uint8: what the ranks send about the last batch."""
        rows = np.zeros(self.ranks, self.kind)
        rows["version"], rows["batch_index"], rows["losses"] = VERSION, self.next_batch - 1, self.losses_Rn
        rows["check"] = checksum(rows)
        return rows.view(np.uint8).reshape(self.ranks, -1)

    def exchange(self, reports: np.ndarray) -> None:
        """All of rank 0's work for one exchange."""
        work = self.decider.answer(self.standing, reports, reported=self.next_batch - 1, wanted=self.next_batch)
        self.standing, self.next_batch = work.standing, self.next_batch + 1

    def exchange_s(self, repeats: int) -> float:
        """Median seconds of `exchange`."""
        spent = []
        for _ in range(repeats):
            reports = self.reports()
            began = time.process_time()
            self.exchange(reports)
            spent.append(time.process_time() - began)
        return statistics.median(spent)


@functools.lru_cache(maxsize=1)
def stream() -> Stream:
    """A real stream over 100,000 records without pictures of their own."""
    folder = Path(tempfile.mkdtemp(prefix="medclm-service-"))
    atexit.register(shutil.rmtree, folder)
    records = (record_row(index, images=24, image_row=index % 24) for index in range(100_000))
    write_small_corpus(folder, records=records, rows_per_file=25_000, batch_rows=1000)
    return Stream(Corpus(folder), split="train", seed=0, window=65_536, min_side=0, image_size=64, fit="pad")


@functools.cache
def describe_s(batch: int) -> float:
    """Median processor time of reading the domains and offered stages of a global batch."""
    spent = []
    for batch_index in range(5):
        began = time.process_time()
        stream().describe(batch_index, global_batch_size=batch)
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median processor time of `work`."""
    spent = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return statistics.median(spent[1:])


def measure_decide(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of one exchange's work on rank 0, by policy and part."""
    rows = []
    for name in find_makers():
        world = World(policy=name, ranks=options.ranks, domains=options.domains, batch=options.batch)
        policy, state, described = world.policy, world.standing.state, world.described
        reports = world.reports()
        wanted = np.arange(options.batch).astype(np.uint8) % 3
        answer = np.zeros(1, answer_kind(options.batch))
        last = world.next_batch - 1
        observe = functools.partial(world.decider.digest, world.standing, reports, last)

        def digest(observe: Callable[[], Any] = observe, world: World = world, last: int = last) -> None:
            kept = world.decider.decided[last]
            observe()
            world.decider.decided[last] = kept  # the report of a batch comes once; here it comes again

        def pack(answer: np.ndarray = answer, wanted: np.ndarray = wanted) -> None:
            answer["stages"][0] = wanted
            seal(answer)

        def timed(work: Callable[[], Any]) -> float:
            return 1e3 * seconds(work, options.repeats)

        whole = timed(functools.partial(decide, policy, state, described, progress=0.5, seed=0))
        unpack = timed(functools.partial(read, reports, world.kind, batch_index=last, receiver=0))
        rows.append(
            {
                "policy": name,
                "chances": timed(functools.partial(policy.probabilities, state, described.domains, 0.5)),
                "draws": timed(functools.partial(uniforms, 0, "stage", described.positions)),
                "resolve": timed(functools.partial(resolve_stages, wanted, described.offered)),
                "decide": whole,
                "pack": timed(pack),
                "decision": whole + timed(pack),
                "unpack": unpack,
                "observe": timed(digest) - unpack,
                "exchange": 1e3 * world.exchange_s(options.repeats),
            }
        )
    title = (
        f"\nrank 0's work, ms: global batch {options.batch:,}, {options.domains:,} domains, {options.ranks:,} ranks\n"
        "decide = chances + draws + choice + resolve; decision = decide + pack (limit 20 ms); exchange = unpack + observe + decision"
    )
    print_table(title, rows)
    worst = max(rows, key=lambda row: float(row["decision"]))
    print(
        f"slowest decision: {worst['policy']}, {worst['decision']:.1f} ms of 20 ms: {'met' if worst['decision'] < 20 else 'MISSED'}"
    )
    return rows


def measure_scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of whole exchanges over ranks and domains: rank 0's work measured, the network modelled."""
    rows = []
    for ranks in (8, 64, 512, 4096, 16_384):
        for domains in (10, 1_000, 10_000, 100_000):
            for batch in sorted({min(16 * ranks, options.batch), options.batch}):
                rows.append(scale_row(options, ranks=ranks, domains=domains, batch=batch))
    print_table(
        f"\none exchange of {options.policy}, ms: rank 0's work measured, the network modelled ({model(options)})", rows
    )
    return rows


def scale_row(options: argparse.Namespace, *, ranks: int, domains: int, batch: int) -> dict[str, Any]:
    world = World(policy=options.policy, ranks=ranks, domains=domains, batch=batch)
    mine = np.zeros(1, world.kind)
    report, answer = world.kind.itemsize, answer_kind(batch).itemsize
    gather, broadcast, agreement = network(options).exchange(ranks, report, answer)
    unpack = seconds(
        functools.partial(read, world.reports(), world.kind, batch_index=world.next_batch - 1, receiver=0), options.repeats
    )
    work, describe = world.exchange_s(options.repeats), describe_s(batch)
    return {
        "ranks": ranks,
        "batch": batch,
        "domains": domains,
        "report B": report,
        "answer B": answer,
        "seal on a rank": 1e3 * seconds(functools.partial(seal, mine), options.repeats),
        "unpack": 1e3 * unpack,
        "describe": 1e3 * describe,
        "rank 0's work": 1e3 * (work + describe),
        "gather": 1e3 * gather,
        "broadcast": 1e3 * broadcast,
        "agreement": 1e3 * agreement,
        "exchange": 1e3 * (work + describe + gather + broadcast + agreement),
    }


def measure_share(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The exchange against the shortest imaginable step of a 7B model, over ranks and batch."""
    handing = 1e3 * hand_over_s()
    rows = []
    for ranks in (8, 64, 512, 4096, 16_384):
        for per_rank in (1, 4, 16, 64, 256):
            if ranks * per_rank > options.batch:
                continue
            row = scale_row(options, ranks=ranks, domains=options.domains, batch=ranks * per_rank)
            step = 1e3 * per_rank * TOKENS_PER_SAMPLE / TOKENS_PER_S
            rows.append(
                {
                    "ranks": ranks,
                    "batch": ranks * per_rank,
                    "step": step,
                    "exchange": row["exchange"],
                    "not hidden %": 100 * row["exchange"] / step,
                    "hand-over": handing,
                    "hidden %": 100 * (handing + max(0.0, row["exchange"] - step)) / step,
                }
            )
    print_table(
        f"\nshare of a 7B LoRA step at {TOKENS_PER_S:,} tokens/s and GPU, {TOKENS_PER_SAMPLE} tokens a sample; ms. {options.policy}, "
        f"{options.domains:,} domains; {model(options)}\n"
        "not hidden = lookahead 0 or 1; hidden = lookahead 2 or more: what the step still waits for is the hand-over between the\n"
        "threads (measured) and whatever of the exchange outlasts the step",
        rows,
    )
    hidden = [row for row in rows if row["hidden %"] < 0.1]
    print(
        f"under 0.1 % of the step: {len(hidden)} of {len(rows)} rows hidden, {sum(row['not hidden %'] < 0.1 for row in rows)} not hidden"
    )
    return rows


def hand_over_s(exchanges: int = 400) -> float:
    """Median wall-clock seconds that a step waits for a hidden exchange that is long done: exchange() and report()."""
    case = argparse.Namespace(batch=64, domains=10, lookahead=2, delay_s=0.0)
    service, losses, spent = alone(case), torch.zeros(64), []
    service.start()
    for batch_index in range(exchanges):
        time.sleep(0.002)  # the step: the exchange that runs beside it ends meanwhile
        began = time.perf_counter()
        service.exchange()
        service.report(Report(batch_index, losses, applied=True, stop_wanted=False))
        spent.append(time.perf_counter() - began)
    service.close()
    return statistics.median(spent)


class Slow:
    """`medclm` on a rank 0 that takes so much longer over each decision."""

    def __init__(self, delay_s: float, domains: int) -> None:
        self._medclm = make_policy(CurriculumSection(), domains=domains, total_steps=STEPS)
        self.name, self._delay_s = "medclm", delay_s
        self.initial, self.observe = self._medclm.initial, self._medclm.observe
        self.to_json = self._medclm.to_json

    def probabilities(self, state: Any, domains: np.ndarray, progress: float) -> np.ndarray:
        time.sleep(self._delay_s)
        return np.asarray(self._medclm.probabilities(state, domains, progress))


def alone(case: argparse.Namespace, ranks: Ranks | None = None) -> CurriculumService:
    """A service over a drawn corpus; in one process unless `ranks` says otherwise."""
    ranks = ranks or Ranks(0, 0, 1)
    draw = np.random.default_rng(0)
    described = StreamBatch(
        positions=np.arange(case.batch),
        record_rows=np.arange(case.batch),
        domains=draw.integers(0, case.domains, case.batch),
        offered=np.ones((case.batch, 3), bool),
    )
    return CurriculumService(
        policy=Slow(case.delay_s, case.domains),  # type: ignore[arg-type]
        describe=lambda _: described,
        ranks=ranks,
        plane=ControlPlane(ranks, timeout_s=60),
        global_batch_size=case.batch,
        micro_batch_size=1,
        lookahead=case.lookahead,
        total_steps=STEPS,
        seed=0,
    )


def overlap_rank(rank: int, options: argparse.Namespace, rendezvous: str, out: str) -> None:
    """One of two processes: steps of a fixed matmul load that end with an all-reduce, as training steps do."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    matrix, gradient = torch.randn(192, 192), torch.zeros(1000)
    began, count = time.process_time(), 0
    while time.process_time() - began < 0.5:
        matrix @ matrix
        count += 1
    load = torch.tensor([count * options.step_ms / 500])
    dist.broadcast(load, src=0)
    rows = []
    for delay_ms in options.delays:
        for lookahead in (0, 1, 2, 4):
            case = argparse.Namespace(
                batch=options.overlap_batch, domains=options.domains, lookahead=lookahead, delay_s=delay_ms / 1e3
            )
            service = alone(case, Ranks(rank, rank, 2))
            service.start()
            exchanges, steps = [], []
            for batch_index in range(options.steps):
                began = time.perf_counter()
                service.exchange()
                exchanged = time.perf_counter()
                for _ in range(int(load)):
                    matrix @ matrix
                dist.all_reduce(gradient)
                service.report(Report(batch_index, torch.rand(case.batch // 2), applied=True, stop_wanted=False))
                exchanges.append(exchanged - began)
                steps.append(time.perf_counter() - began)
            service.state_dict()
            service.close()
            rows.append((delay_ms, lookahead, statistics.median(exchanges[5:]), statistics.median(steps[5:])))
    if rank == 0:
        Path(out).write_text(json.dumps(rows), encoding="utf-8")
    dist.destroy_process_group()


def measure_overlap(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Two gloo processes on this machine: what a step still waits for at each lookahead."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "rows.json")
        multiprocessing.spawn(overlap_rank, (options, str(Path(folder) / "meet"), out), nprocs=2)
        measured = json.loads(Path(out).read_text(encoding="utf-8"))
    waits = {(delay, lookahead): wait for delay, lookahead, wait, _ in measured}
    rows = [
        {
            "rank 0 slower by": delay,
            "lookahead": lookahead,
            "step": 1e3 * step,
            "in exchange()": 1e3 * wait,
            "hidden %": 100 * (1 - wait / waits[delay, 0]),
        }
        for delay, lookahead, wait, step in measured
    ]
    print_table(
        f"\ntwo real processes on one machine, ms (median of {options.steps - 5}, rank 0's wall clock): a step of about "
        f"{options.step_ms:g} ms of matmul and an all-reduce, global batch {options.overlap_batch:,}, {options.domains:,} domains",
        rows,
    )
    return rows


def network(options: argparse.Namespace) -> Network:
    return Network(options.latency_us * 1e-6, options.gbit * 1e9 / 8, options.handling_us * 1e-6)


def model(options: argparse.Namespace) -> str:
    return f"{options.latency_us:g} us latency, {options.gbit:g} Gbit/s, {options.handling_us:g} us a message"


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    print(title)
    names = list(rows[0])
    cells = [[format_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[column]) for line in cells)) for column, name in enumerate(names)]
    for line in (names, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


PARTS = {"decide": measure_decide, "scale": measure_scale, "share": measure_share, "overlap": measure_overlap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--batch", type=int, default=65_536, help="(largest) global batch of decide, scale and share")
    parser.add_argument("--domains", type=int, default=10_000, help="domains of decide, share and overlap")
    parser.add_argument("--ranks", type=int, default=1024, help="ranks of decide")
    parser.add_argument("--policy", default="medclm", help="policy of scale and share")
    parser.add_argument("--repeats", type=int, default=15, help="measurements behind each median")
    parser.add_argument("--latency-us", type=float, default=50, help="one message, one way")
    parser.add_argument("--gbit", type=float, default=10, help="bandwidth of a rank's link in Gbit/s")
    parser.add_argument("--handling-us", type=float, default=5, help="processor time a message takes its receiver")
    parser.add_argument("--step-ms", type=float, default=50, help="matmul load of a step of overlap")
    parser.add_argument("--overlap-batch", type=int, default=8192, help="global batch of overlap")
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 5, 20], help="overlap: rank 0 is slower by so many ms")
    parser.add_argument("--steps", type=int, default=60, help="steps of each row of overlap")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    options = parser.parse_args()
    results = {name: measure(options) for name, measure in PARTS.items() if options.part in (name, "all")}
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        options.out.write_text(
            json.dumps({"settings": settings, "cores": os.cpu_count(), **results}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
