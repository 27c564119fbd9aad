"""This rank's share of each global batch, rendered ahead by a few threads and collated to micro-batches.

Work begins when an assignment is submitted and is handed over when it is taken; only what was submitted is held. A sample
depends on its row, position and stage alone, so the bytes are the same for any number of threads. A record that cannot be
rendered ends the run, or another one takes its place (medclm/data/quarantine.py). Knows nothing of policies, devices or the
model's network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from medclm.config import ConfigError
from medclm.data.order import global_batch, rank_slots
from medclm.data.quarantine import Quarantine, Replaced
from medclm.data.render import Renderer
from medclm.data.stream import Stream
from medclm.types import Assignment, Batch, EncodedSample, Sample, Segment, Stage

LENGTH_MULTIPLE = 8
"""Sequences are padded to a multiple of this: fewer shapes, and the size tensor cores like."""

Rendered = tuple[Sample, EncodedSample]


def collate(samples: Sequence[Rendered], pad_id: int) -> Batch:
    """Rendered samples as one right-padded micro-batch; T is the longest length, rounded up to a multiple of 8."""
    longest = max(len(encoded.input_ids) for _, encoded in samples)
    shape = (len(samples), -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
    input_ids_BT = np.full(shape, pad_id, np.int64)
    attention_mask_BT = np.zeros(shape, np.int64)
    segments_BT = np.full(shape, Segment.CONTEXT, np.uint8)
    for row, (_, encoded) in enumerate(samples):
        length = len(encoded.input_ids)
        input_ids_BT[row, :length] = encoded.input_ids
        attention_mask_BT[row, :length] = 1
        segments_BT[row, :length] = encoded.segments
    return Batch(
        input_ids=torch.from_numpy(input_ids_BT),
        attention_mask=torch.from_numpy(attention_mask_BT),
        segments=torch.from_numpy(segments_BT),
        pixel_values=torch.from_numpy(np.concatenate([encoded.pixel_values for _, encoded in samples])),
        stages=torch.tensor([sample.stage for sample, _ in samples], dtype=torch.uint8),
        domains=torch.tensor([sample.domain for sample, _ in samples], dtype=torch.int64),
        positions=torch.tensor([sample.position for sample, _ in samples], dtype=torch.int64),
    )


class Loader:
    """Renders and collates for one rank.

    Args:
        workers: threads that render ahead; 0 renders within `take`.
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
        quarantine: Quarantine | None = None,
    ) -> None:
        self._renderer, self._stream, self._quarantine = renderer, stream, quarantine
        self.replaced = 0
        """Samples of the batch that was taken last whose record could not be rendered."""
        self._global_batch_size = global_batch_size
        self._slots_Am = rank_slots(global_batch_size, micro_batch_size, rank, world_size)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="render") if workers else None
        self._pending: dict[int, list[Callable[[], tuple[Rendered, Replaced | None]]]] = {}

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
        self._pending[index] = [
            self._begin(row, position, Stage(stage))
            for row, position, stage in zip(rows.tolist(), positions.tolist(), stages.tolist(), strict=True)
        ]

    def take(self, batch_index: int) -> list[Batch]:
        """The micro-batches of a submitted batch, in order of accumulation; waits for what is still being rendered.

        Raises:
            ConfigError, RuntimeError: a sample could not be rendered, nor replaced; names its record.
            RuntimeError: the batch was not submitted.
        """
        if batch_index not in self._pending:
            raise RuntimeError(f"batch {batch_index} was taken without being submitted; submitted: {sorted(self._pending)}")
        try:
            results = [result() for result in self._pending.pop(batch_index)]
        except ValueError as error:  # of this rank's records alone, so this rank must be the one to say it
            cure = "" if self._quarantine else "; data.on_bad_record=quarantine lets another record take its place"
            raise ConfigError(f"batch {batch_index}: {error}{cure}") from error
        samples, replaced = [rendered for rendered, _ in results], [one for _, one in results if one is not None]
        self.replaced = len(replaced)
        if self._quarantine is not None:
            self._quarantine.note(replaced)
        micro = self._slots_Am.shape[1]
        pad_id = self._renderer.processor.pad_id
        return [collate(samples[first : first + micro], pad_id) for first in range(0, len(samples), micro)]

    def close(self) -> None:
        """Stop the threads; what was submitted and not taken is dropped."""
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._quarantine is not None:
            self._quarantine.close()

    def _begin(self, record_row: int, position: int, stage: Stage) -> Callable[[], tuple[Rendered, Replaced | None]]:
        """Start (or, without threads, plan) one sample; call the result to get it."""
        if self._pool is None:
            return lambda: self._render(record_row, position, stage)
        future: Future[tuple[Rendered, Replaced | None]] = self._pool.submit(self._render, record_row, position, stage)
        return future.result

    def _render(self, record_row: int, position: int, stage: Stage) -> tuple[Rendered, Replaced | None]:
        if self._quarantine is not None:
            return self._quarantine.render(record_row, position, stage)
        return self._renderer.render(record_row, position, stage), None
