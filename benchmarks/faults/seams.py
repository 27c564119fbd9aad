"""What the drill does inside a rank's own process: it takes notes at five seams of the training, and lets its fault happen there.

Nothing of the product knows of it: methods of `Run`, `Engine` and `CurriculumService` are wrapped before the run is built.
"""

from __future__ import annotations

import functools
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from benchmarks.faults.actions import Place, act
from benchmarks.faults.cases import GLOBAL_BATCH, GRADIENT, Case, Fault
from benchmarks.faults.trace import Trace, trace_file


class Seams:
    """One rank's notes and its moment."""

    def __init__(self, case: Case, fault: Fault | None, place: Place, rank: int) -> None:
        self.case, self.place, self.rank = case, place, rank
        self.trace = Trace(trace_file(place.attempt, rank))
        self._fault = fault if fault is not None and fault.rank == rank and fault.place != "any" else None
        self._batch = -1
        """The batch that the model saw last."""

    def install(self) -> None:
        """Call it before anything of the run is built."""
        from medclm.curriculum.service import CurriculumService
        from medclm.engine import Engine
        from train.run import Run

        self.place.enter(self.rank)
        self.trace.note("begun")
        _wrap(CurriculumService, "exchange", before=self._exchange)
        _wrap(Engine, "__init__", after=self._built)
        _wrap(Engine, "forward", before=self._seen, after=self._learned)
        _wrap(Engine, "update", before=lambda *_, **__: self._reach("update", self._batch))
        _wrap(Run, "save", before=self._save)
        _wrap(Run, "count", before=self._count)
        _wrap(Run, "resume", after=self._resumed)

    def _exchange(self, service: Any) -> None:
        time.sleep(self.case.pace_s)
        self._reach("exchange", service.next_batch)

    def _built(self, _: None, engine: Any, *__: Any, **___: Any) -> None:
        engine.module.register_forward_hook(self._forward)

    def _forward(self, module: Any, given: Any, losses: Any) -> Any:
        """Within the model's forward: the moment, and the losses that the case changes."""
        self._reach("forward", self._batch)
        change = dict(self.case.losses).get(self._batch)
        if change is None or not module.training:
            return None
        if change == GRADIENT:
            loss = losses.loss * 1.0
            loss.register_hook(lambda gradient: gradient * float("inf"))
            return losses._replace(loss=loss)
        return losses._replace(loss=losses.loss * float(change), sample=losses.sample * float(change))

    def _seen(self, engine: Any, batch: Any, *_: Any) -> None:
        positions = batch.positions.tolist()
        self._batch = positions[0] // GLOBAL_BATCH
        content = [_checksum(batch, row) for row in range(len(positions))]
        self.trace.note("seen", positions=positions, content=content)

    def _learned(self, losses: Any, *_: Any) -> None:
        self.trace.note("learned", losses=losses.sample.detach().float().tolist())

    def _count(self, run: Any, result: Any) -> None:
        self.trace.note("counted", batch=run.batch_index, applied=result.applied)

    def _save(self, run: Any) -> None:
        self.trace.note("save", step=run.step, batch=run.batch_index)
        self._reach("save", run.step)

    def _resumed(self, _: None, run: Any, found: Any, *__: Any) -> None:
        self.trace.note("resumed", step=run.step, batch=run.batch_index, folder=found.folder.name)

    def _reach(self, place: str, at: int) -> None:
        fault = self._fault
        if fault is None or fault.place != place or fault.at != at:
            return
        self._fault = None
        if fault.delay_s:
            timer = threading.Timer(fault.delay_s, act, (fault, self.place, self.trace))
            timer.daemon = True
            timer.start()
        else:
            act(fault, self.place, self.trace)


def _checksum(batch: Any, row: int) -> int:
    """Of everything that the model gets of one sample."""
    own = slice(*batch.bounds[row : row + 2].tolist())
    views = batch.pixel_values.reshape(len(batch.stages), -1)[row]
    parts = (batch.input_ids[own], batch.segments[own], views, batch.stages[row])
    return functools.reduce(lambda code, part: zlib.crc32(part.numpy().tobytes(), code), parts, 0)


def _wrap(owner: type, name: str, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None) -> None:
    """`before(*given)` and `after(result, *given)` around a method."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*given: Any, **named: Any) -> Any:
        if before is not None:
            before(*given, **named)
        result = inner(*given, **named)
        if after is not None:
            after(result, *given, **named)
        return result

    setattr(owner, name, outer)
