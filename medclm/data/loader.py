"""This rank's share of each global batch, rendered ahead by a few threads and collated to micro-batches.

Work begins when an assignment is submitted and is handed over when it is taken; only what was submitted is held. A sample
depends on its row, position and stage alone, so the bytes are the same for any number of threads. A record that cannot be
rendered ends the run, or another one takes its place (medclm/data/quarantine.py). Knows nothing of policies, devices or the
model's network.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from medclm.config import ConfigError
from medclm.data.order import global_batch, rank_slots
from medclm.data.quarantine import Quarantine, Replaced
from medclm.data.render import Renderer
from medclm.data.stream import Stream
from medclm.types import Assignment, Batch, EncodedSample, Sample, Segment, Stage

Rendered = tuple[Sample, EncodedSample]
One = TypeVar("One")
All = TypeVar("All")


def collate(samples: Sequence[Rendered]) -> Batch:
    """Rendered samples end to end as one micro-batch."""
    lengths = [len(encoded.input_ids) for _, encoded in samples]
    segments_N = np.concatenate([encoded.segments for _, encoded in samples])
    targets_M = np.flatnonzero(segments_N != Segment.CONTEXT)
    samples_N = np.repeat(np.arange(len(samples)), lengths)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([encoded.input_ids for _, encoded in samples])),
        places=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        segments=torch.from_numpy(segments_N),
        bounds=torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
        longest=max(lengths),
        targets=torch.from_numpy(targets_M),
        target_samples=torch.from_numpy(samples_N[targets_M]),
        pixel_values=torch.from_numpy(np.concatenate([encoded.pixel_values for _, encoded in samples])),
        stages=torch.tensor([sample.stage for sample, _ in samples], dtype=torch.uint8),
        domains=torch.tensor([sample.domain for sample, _ in samples], dtype=torch.int64),
        positions=torch.tensor([sample.position for sample, _ in samples], dtype=torch.int64),
    )


def balanced(samples: Sequence[Rendered], micro_batch_size: int) -> list[list[Rendered]]:
    """The samples in micro-batches of equal size and nearly equal length, so that the largest is as small as can be.

    The longest are dealt out first, there and back again. A sample's gradient does not depend on its micro-batch.
    """
    count = len(samples) // micro_batch_size
    order = sorted(range(len(samples)), key=lambda index: -len(samples[index][1].input_ids))
    rounds = [order[first : first + count] for first in range(0, len(order), count)]
    dealt = zip(*(deal[:: -1 if turn % 2 else 1] for turn, deal in enumerate(rounds)), strict=True)
    return [[samples[index] for index in sorted(chosen)] for chosen in dealt]


def _together(pool: Executor, tasks: Sequence[Callable[[], One]], finish: Callable[[list[One]], All]) -> Future[All]:
    """`finish` of the results of all tasks, in their order; the thread that ends the last task goes on with it, so that none waits for
    another. An error is that of the first task that has one.
    """
    found: Future[All] = Future()
    ended: dict[int, Future[One]] = {}
    lock = threading.Lock()

    def work(index: int) -> None:
        result: Future[One] = Future()
        try:
            result.set_result(tasks[index]())
        except Exception as error:
            result.set_exception(error)
        with lock:
            ended[index] = result
            last = len(ended) == len(tasks)
        if last:
            try:
                found.set_result(finish([ended.pop(each).result() for each in range(len(tasks))]))
            except Exception as error:
                found.set_exception(error)

    for index in range(len(tasks)):
        pool.submit(work, index)
    return found


class Loader:
    """Renders and collates for one rank.

    Args:
        workers: threads that render ahead; 0 renders within `take`.
        pin_for: accelerator (`cuda:0`) for which batches are put into page-locked memory, so that copying them there waits for nothing.
        quarantine: renders what takes the place of a record that cannot be rendered; None: that is an error.

    Raises:
        ValueError: the accumulation would not be whole (see `rank_slots`).
    """

    def __init__(
        self,
        renderer: Renderer,
        stream: Stream,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        workers: int,
        pin_for: str | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._renderer, self._stream, self._quarantine, self._pin_for = renderer, stream, quarantine, pin_for
        self.replaced = 0
        """Samples of the batch that was taken last whose record could not be rendered."""
        self._global_batch_size = global_batch_size
        self._slots_Am = rank_slots(global_batch_size, micro_batch_size, rank, world_size)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="render") if workers else None
        self._pending: dict[int, Callable[[], tuple[list[Batch], list[Replaced]]]] = {}

    def submit(self, assignment: Assignment) -> None:
        """Begin to render this rank's share of a global batch.

        Raises:
            ValueError: the assignment is of another batch size, or its batch was submitted before and not yet taken.
        """
        index = assignment.batch_index
        if len(assignment.stages) != self._global_batch_size or index in self._pending:
            raise ValueError(
                f"batch {index} with {len(assignment.stages)} stages: expected {self._global_batch_size} of a batch that is not "
                f"being rendered; being rendered: {sorted(self._pending)}"
            )
        slots = self._slots_Am.ravel()
        positions = global_batch(index, self._global_batch_size)[slots]
        rows = self._stream.record_rows(positions)
        stages = assignment.stages[slots]
        self._pending[index] = self._begin(rows.tolist(), positions.tolist(), [Stage(stage) for stage in stages])

    def take(self, batch_index: int) -> list[Batch]:
        """The micro-batches of a submitted batch, in order of accumulation; waits for what is still being rendered.

        Raises:
            ConfigError, RuntimeError: a sample could not be rendered, nor replaced; names its record.
            RuntimeError: the batch was not submitted.
        """
        if batch_index not in self._pending:
            raise RuntimeError(f"batch {batch_index} was taken without being submitted; submitted: {sorted(self._pending)}")
        try:
            batches, replaced = self._pending.pop(batch_index)()
        except ValueError as error:  # of this rank's records alone, so this rank must be the one to say it
            cure = "" if self._quarantine else "; data.on_bad_record=quarantine lets another record take its place"
            raise ConfigError(f"batch {batch_index}: {error}{cure}") from error
        self.replaced = len(replaced)
        if self._quarantine is not None:
            self._quarantine.note(replaced)
        return batches

    def close(self) -> None:
        """Stop the threads; what was submitted and not taken is dropped."""
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._quarantine is not None:
            self._quarantine.close()

    def _begin(
        self, rows: list[int], positions: list[int], stages: list[Stage]
    ) -> Callable[[], tuple[list[Batch], list[Replaced]]]:
        """Start (or, without threads, plan) the samples of a batch; call the result to get it."""
        wanted = [functools.partial(self._render, *one) for one in zip(rows, positions, stages, strict=True)]
        if self._pool is None:
            return lambda: self._assemble([render() for render in wanted])
        return _together(self._pool, wanted, self._assemble).result

    def _assemble(self, results: Sequence[tuple[Rendered, Replaced | None]]) -> tuple[list[Batch], list[Replaced]]:
        samples, replaced = [rendered for rendered, _ in results], [one for _, one in results if one is not None]
        batches = [collate(chosen) for chosen in balanced(samples, self._slots_Am.shape[1])]
        if self._pin_for is not None:
            torch.cuda.set_device(self._pin_for)  # a thread begins with the first one
            batches = [batch.pin() for batch in batches]
        return batches, replaced

    def _render(self, record_row: int, position: int, stage: Stage) -> tuple[Rendered, Replaced | None]:
        if self._quarantine is not None:
            return self._quarantine.render(record_row, position, stage)
        return self._renderer.render(record_row, position, stage), None
