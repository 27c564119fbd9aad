"""What is measured inside a rank, the same for every side: when steps end, their losses, memory, and where the time of a step goes."""

from __future__ import annotations

import functools
import json
import os
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import psutil
import torch

from benchmarks.peers.job import Job

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "_all_gather_base",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "_reduce_scatter_base",
    "broadcast",
    "gather",
    "barrier",
    "all_to_all_single",
    "all_gather_object",
    "monitored_barrier",
)
KEPT_LOSSES = 5
"""Steps whose loss is compared."""


class Meter:
    """Step times of one rank; writes its file at the last step, before anything is saved.

    Args:
        steps: of the run.
        micro_batches: forwards of this rank in a step.
    """

    def __init__(self, job: Job, *, rank: int, steps: int, micro_batches: int) -> None:
        self.job, self.rank, self.steps, self.micro_batches = job, rank, steps, micro_batches
        self.spans = Spans() if job.breakdown else None
        self._ends: list[float] = []
        self._losses: list[torch.Tensor] = []
        self._cpu_s = 0.0
        self._profiler: Any = None

    def loss(self, loss: torch.Tensor) -> None:
        """What `backward` is called on, of one micro-batch; kept as a tensor, nothing waits."""
        if len(self._losses) < KEPT_LOSSES * self.micro_batches:
            self._losses.append(loss.detach().clone())

    def step(self) -> None:
        """A step has been made."""
        ended = len(self._ends) + 1
        if ended in (self.job.warmup, self.steps) and torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())
        if ended == self.job.warmup:
            self._cpu_s = _cpu_seconds()
            if self.spans is not None:
                self.spans.clear()
            if self.job.profile:
                self._profiler = torch.profiler.profile()
                self._profiler.start()
        if ended == self.steps:
            if self._profiler is not None:
                self._profiler.stop()
            self._write()

    def _write(self) -> None:
        counted = self.steps - self.job.warmup
        window = self._ends[-1] - self._ends[self.job.warmup - 1]
        spans = self.spans.seconds() if self.spans is not None else {}
        result = {
            "step_s": window / counted,
            "steps_s": [later - earlier for earlier, later in zip(self._ends, self._ends[1:], strict=False)],
            "cpu_s": (_cpu_seconds() - self._cpu_s) / counted,
            "losses": self._step_losses(),
            "peak_bytes": _peak_bytes(),
            "loader_bytes": sum(child.memory_info().rss for child in psutil.Process().children(recursive=True)),
            "kernels": _kernels(self._profiler) if self._profiler is not None else [],
            "parts_s": {name: wall / counted for name, (wall, _) in spans.items()},
            "parts_cpu_s": {name: cpu / counted for name, (_, cpu) in spans.items()},
        }
        self.job.result(self.rank).write_text(json.dumps(result), encoding="utf-8")

    def _step_losses(self) -> list[float]:
        """This rank's part of the loss of the first steps; the mean over ranks is the loss of the global batch."""
        parts = [float(loss) for loss in self._losses]
        return [sum(parts[at : at + self.micro_batches]) for at in range(0, len(parts), self.micro_batches)]


def _kernels(profiler: Any, most: int = 25) -> list[tuple[str, float]]:
    """The largest shares of the device's time, or of the processor's where there is no other device, by kernel."""
    field = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = {event.key: float(getattr(event, field)) for event in profiler.key_averages()}
    total = sum(times.values()) or 1.0
    return [(name, spent / total) for name, spent in sorted(times.items(), key=lambda item: -item[1])[:most]]


def _peak_bytes() -> int:
    """The most this rank has held: on its accelerator, or on the CPU in all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_seconds() -> float:
    """Processor time of this process and of its loader workers."""
    me = psutil.Process(os.getpid())
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


class Spans:
    """Exclusive time by name on the main thread: a part that begins inside another one takes its time away from it.

    Wall clock, and processor time of that thread, which other programs on the machine do not lengthen. Communication includes
    the wait for the other rank; that takes no processor time. On an accelerator every border waits for the device.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._open: list[str] = []
        self._since = (0.0, 0.0)
        self._sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))

    def clear(self) -> None:
        self._sums.clear()
        self._since = time.perf_counter(), time.thread_time()

    def seconds(self) -> dict[str, tuple[float, float]]:
        """Part -> (wall clock, processor time) since `clear`."""
        return dict(self._sums)

    def _turn(self) -> None:
        """The innermost open part gets the time since the last border."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter(), time.thread_time()
        if self._open:
            wall, cpu = self._sums[self._open[-1]]
            self._sums[self._open[-1]] = wall + now[0] - self._since[0], cpu + now[1] - self._since[1]
        self._since = now

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """From now on, calls of `owner.name` on the main thread count as `part`."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def timed(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != self._thread:
                return original(*arguments, **options)
            self._turn()
            self._open.append(part)
            try:
                return original(*arguments, **options)
            finally:
                self._turn()
                self._open.pop()

        setattr(owner, name, timed)

    def wrap_training(self) -> None:
        """The parts that all sides have: DeepSpeed's calls, the optimizer, collectives. Before the process group is made."""
        import torch.distributed as dist
        from deepspeed.runtime.engine import DeepSpeedEngine

        self.wrap(DeepSpeedEngine, "forward", "forward")
        self.wrap(DeepSpeedEngine, "backward", "backward")
        self.wrap(DeepSpeedEngine, "step", "ZeRO's update")
        self.wrap(torch.optim.AdamW, "step", "optimizer")
        for collective in COLLECTIVES:
            if hasattr(dist, collective):
                self.wrap(dist, collective, "communication")
        self.wrap(dist.Work, "wait", "communication")
