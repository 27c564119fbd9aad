"""How fast one core renders samples, and where the time goes: `python benchmarks/loader.py [--side 336] [--profile]`.

Makes a small corpus on the spot and walks the training road: row -> sample -> arrays -> micro-batches. Prints milliseconds
of processor time by part, samples per second by stage, and what the loader as a whole gives on the wall clock. Tokens come
from the tiny model's processor.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from medclm.config import DataSection
from medclm.data.loader import Loader
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import write_small_corpus
from medclm.testing import tiny_processor, tiny_section
from medclm.types import Assignment, Stage

IMAGES, G = 96, 48


def rate(work: Callable[[int], object], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Calls of `work(0), work(1), ...` per second of processor time, over about that time; other processes do not count."""
    work(0)
    count, start = 0, clock()
    while clock() - start < seconds:
        work(count)
        count += 1
    return count / (clock() - start)


def load_batch(loader: Loader, index: int) -> None:
    stages = np.arange(G, dtype=np.uint8) % 2  # Easy and Medium; every record of this corpus offers them
    loader.submit(Assignment(batch_index=index, stages=stages, stop=False))
    loader.take(index)


def measure(side: int, stored: tuple[int, int], *, format: str, seconds: float, profile: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_small_corpus(
            Path(folder), IMAGES, sizes=[stored], splits=["train"], format=format, no_finding_every=0, texture=40
        )
        corpus = Corpus(Path(folder))
        processor = tiny_processor(tiny_section(image_size=side, patch_size=8 if side < 200 else 14))
        renderer = Renderer(corpus, processor, DataSection(), seed=0)
        stream = Stream(corpus, split="train", seed=0, window=64, min_side=0, image_size=side, fit="pad")
        print(f"\nmodel square {side} px, stored {stored[0]} x {stored[1]} px {format}, one core:")
        image = corpus.picture(0)
        square, frame = renderer.picture(0)
        easy = renderer.sample(0, 0, Stage.EASY)
        parts: dict[str, Callable[[int], object]] = {
            "decode": lambda i: corpus.picture(i % IMAGES),
            "place": lambda _: frame.place(image),
            "sample, Easy": lambda i: renderer.sample(i % IMAGES, i, Stage.EASY),
            "encode": lambda _: renderer.encode(easy),
            "pixel values": lambda _: processor.pixel_values(square),
            "describe a batch": lambda i: stream.describe(i, G),
        }
        for name, work in parts.items():
            print(f"  {name:<24}{1e3 / rate(work, seconds):8.3f} ms")
        for stage in Stage:

            def whole(i: int, stage: Stage = stage) -> None:
                renderer.encode(renderer.sample(i % (IMAGES - 1) // 7 * 7, i, stage))  # rows that offer Hard

            print(f"  rendered, {stage.key:<14}{rate(whole, seconds):8.0f} samples/s")
        for workers in (0, 2):
            loader = Loader(
                renderer, stream, global_batch_size=G, micro_batch_size=G // 2, rank=0, world_size=1, workers=workers
            )
            batches = rate(partial(load_batch, loader), seconds, clock=time.perf_counter)
            print(f"  loaded, {workers} threads       {G * batches:8.0f} samples/s (wall clock)")
            loader.close()
        if profile:
            profiler = cProfile.Profile()
            profiler.runcall(lambda: [renderer.encode(renderer.sample(i % IMAGES, i, Stage.EASY)) for i in range(300)])
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, help="only this side of the model's square in pixels")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each line")
    parser.add_argument("--profile", action="store_true", help="also print where Python spends its time")
    arguments = parser.parse_args()
    for side, stored, format in (
        (64, (64, 64), "PNG"),
        (64, (256, 192), "PNG"),
        (336, (512, 512), "PNG"),
        (336, (1024, 832), "JPEG"),
    ):
        if arguments.side in (None, side):
            measure(side, stored, format=format, seconds=arguments.seconds, profile=arguments.profile)


if __name__ == "__main__":
    main()
