"""Whole samples a core renders: `python benchmarks/micro/rendering.py [--profile]`.

From a row to arrays, half Easy, half Medium, by the kind of picture that is stored. One H100 at 7B takes 36 samples/s at the very most
(LoRA's ideal 28,500 tokens/s, 800 tokens a sample); three times that on four cores is 27 samples/s a core. "of one thread" is what two
threads, or two processes, give of what one gives on the wall clock: what falls short of 2 is the interpreter's lock, and whatever else
the machine does meanwhile.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # only medclm is installed

from benchmarks.micro.stored import KINDS, SIDE, Kind, encoded
from benchmarks.timing import RESULTS, report, take_turns
from medclm.config import DataSection
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus
from medclm.models.protocol import Processor
from medclm.testing import tiny_processor, tiny_section
from medclm.types import Stage

IMAGES, NEEDED = 8, 27.0


def make(renderer: Renderer, number: int) -> None:
    renderer.render(number % IMAGES, number, Stage(number % 2))


def many(renderer: Renderer, seconds: float) -> int:
    """Samples rendered in that time, by one thread."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        make(renderer, count)
        count += 1
    return count


_OF_THIS_PROCESS: list[Renderer] = []
"""What a forked worker renders with; a renderer holds open maps and does not travel."""


def many_here(seconds: float) -> int:
    return many(_OF_THIS_PROCESS[0], seconds)


def by(pool: Executor, work: Callable[..., int], *given: object) -> int:
    return sum(one.result() for one in [pool.submit(work, *given) for _ in range(2)])


def scaling(renderer: Renderer, turns: int, seconds: float) -> tuple[float, float]:
    """Samples of two threads and of two processes over those of one thread, medians of turns."""
    _OF_THIS_PROCESS[:] = [renderer]
    threads, processes = [], []
    with ThreadPoolExecutor(2) as pool, ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as workers:
        by(workers, many_here, 0.01)
        for _ in range(turns):
            alone = many(renderer, seconds)
            threads.append(by(pool, many, renderer, seconds) / alone)
            processes.append(by(workers, many_here, seconds) / alone)
    return statistics.median(threads), statistics.median(processes)


def measure(kind: Kind, folder: Path, processor: Processor, chosen: argparse.Namespace) -> dict[str, object]:
    write_small_corpus(folder, IMAGES, splits=["train"], no_finding_every=0, pictures=[encoded(kind)])
    corpus = Corpus(folder)
    renderer = Renderer(corpus, processor, DataSection(), seed=0)
    picture = corpus.picture(0, keep_grey=True)
    _, frame = renderer.picture(0)
    sample = renderer.sample(0, 0, Stage.EASY)
    pieces: dict[str, Callable[[int], object]] = {
        "whole": lambda number: make(renderer, number),
        "decode": lambda number: corpus.picture(number % IMAGES, keep_grey=True),
        "place": lambda _: frame.place(picture),
        "encode": lambda _: renderer.encode(sample),
    }
    times = take_turns(pieces, turns=chosen.turns, seconds=chosen.seconds / 4)
    two_threads, two_processes = scaling(renderer, chosen.turns, chosen.seconds)
    if chosen.profile:
        profiler = cProfile.Profile()
        profiler.runcall(many, renderer, 3.0)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    rate = 1e3 / times["whole"].cpu_ms
    return {
        "stored": kind.name,
        "samples/s a core": rate,
        f"of the {NEEDED:.0f} needed": rate / NEEDED,
        **{f"{name}, cpu ms": time.cpu_ms for name, time in times.items()},
        "2 threads, of one": two_threads,
        "2 processes, of one": two_processes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--profile", action="store_true", help="also print where Python spends its time")
    parser.add_argument("--out", type=Path, default=RESULTS / "micro" / "rendering.json")
    chosen = parser.parse_args()
    processor = tiny_processor(tiny_section(image_size=SIDE, patch_size=14))
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(kind, Path(folder), processor, chosen))
    report(f"rendering for a square of {SIDE} px", rows, chosen.out)


if __name__ == "__main__":
    main()
