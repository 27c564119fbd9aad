"""Our road: memory-mapped shards, an order that is arithmetic, rendering in threads; and the same rendering without any road."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.roads.content import BATCH, SIDE, WINDOW, Rendering, Tensors, flat_rows, stage_of, tensors
from medclm.config import DataSection
from medclm.data.loader import Loader, collate
from medclm.data.order import global_batch
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.types import Assignment

LOOKAHEAD = 2
"""Batches that are rendered ahead, as curriculum.lookahead has it."""


class Ours:
    """Corpus + Stream + Renderer + Loader, driven as train/loop.py drives them."""

    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        self._corpus, self._workers, self._processor = Corpus(folder / "corpus"), workers, rendering.processor
        data = DataSection()
        self._stream = Stream(
            self._corpus, split="train", seed=0, window=WINDOW, min_side=data.min_side, image_size=SIDE, fit=data.fit
        )
        self._renderer = Renderer(self._corpus, self._processor, data, seed=0)

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        loader = Loader(
            self._renderer,
            self._stream,
            global_batch_size=BATCH,
            micro_batch_size=BATCH,
            rank=0,
            world_size=1,
            workers=self._workers,
        )
        first = state or 0
        for index in range(first, first + LOOKAHEAD):
            self._submit(loader, index)
        try:
            for index in itertools.count(first):
                self._submit(loader, index + LOOKAHEAD)
                (batch,) = loader.take(index)
                batch.positions = torch.from_numpy(self._stream.record_rows(batch.positions.numpy()))
                yield tensors(batch)
        finally:
            loader.close()

    def state(self, taken: int) -> Any:
        return taken

    def _submit(self, loader: Loader, index: int) -> None:
        rows = self._stream.describe(index, BATCH).record_rows  # what the curriculum reads of every batch
        stages = np.array([stage_of(row) for row in rows.tolist()], np.uint8)
        assert len(rows) == len(global_batch(index, BATCH))
        loader.submit(Assignment(batch_index=index, stages=stages, stop=False))


class NoRoad:
    """Rows that are already in memory, one after another: what decoding and rendering alone allow."""

    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        self._rows = list(flat_rows(Corpus(folder / "corpus")))
        self._workers, self._rendering = workers, rendering

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        rows = itertools.cycle(self._rows)
        if not self._workers:
            while True:
                yield self._rendering(list(itertools.islice(rows, BATCH)))
        with ThreadPoolExecutor(self._workers) as pool:
            pending = [self._begin(pool, rows) for _ in range(LOOKAHEAD)]
            while True:
                pending.append(self._begin(pool, rows))
                yield tensors(collate([one.result() for one in pending.pop(0)]))

    def state(self, taken: int) -> Any:
        return None

    def _begin(self, pool: ThreadPoolExecutor, rows: Iterator[Any]) -> list[Any]:
        return [pool.submit(self._rendering.one, row) for row in itertools.islice(rows, BATCH)]
