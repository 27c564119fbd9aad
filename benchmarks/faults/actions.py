"""How a fault is done: to processes by signals, to the disk by mounts and ballast, to this process by an error.

`Place` knows the folders of one attempt; the rank that waits for a moment and the drill that waits for a time both act through it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from benchmarks.faults.cases import Fault
from benchmarks.faults.trace import Trace

BALLAST = "ballast"
"""File that fills a small disk."""


@dataclass(frozen=True)
class Place:
    """Where an attempt lives."""

    attempt: Path
    """The drill's own notes of the attempt."""
    run: Path
    """The run folder."""
    tracker: int | None = None
    """Process group of the tracking server."""

    def enter(self, rank: int) -> None:
        """A rank says which process it is and who started it."""
        (self.attempt / f"process-{rank}.json").write_text(json.dumps([os.getpid(), os.getppid()]), encoding="utf-8")

    def processes(self, fault: Fault) -> list[int]:
        """Process ids that a signal is for; those that have not come up yet are left out."""
        if fault.target == "runner":
            return [int((self.attempt / "runner").read_text(encoding="utf-8"))]
        known: dict[int, list[int]] = {}
        for path in sorted(self.attempt.glob("process-*.json")):
            with contextlib.suppress(ValueError):  # being written
                known[int(path.stem.partition("-")[2])] = json.loads(path.read_text(encoding="utf-8"))
        if fault.target == "launcher":
            return sorted({parent for _, parent in known.values()})[:1]
        wanted = [fault.rank] if fault.target == "rank" else sorted(known)
        own = os.getpid()
        return sorted((known[rank][0] for rank in wanted if rank in known), key=lambda process: process == own)


def act(fault: Fault, place: Place, trace: Trace) -> None:
    """Do it now; a second time, or the undoing, comes from a thread. An error is raised here."""
    trace.note("fault", action=fault.action)
    if fault.action.startswith("SIG"):
        number = signal.Signals[fault.action]
        processes = place.processes(fault)
        then = signal.SIGCONT if number == signal.SIGSTOP else number
        if fault.again_s is not None:
            _later(fault.again_s, processes, then)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
    elif fault.action in ("raise", "memory"):
        _fail(fault)
    elif fault.action == "clock":
        real = time.time
        time.time = lambda: real() + fault.jump_s
    elif fault.action == "fill":
        fill(place.run)
        _undo(fault, lambda: empty(place.run))
    elif fault.action == "read_only":
        lock(place.run)
        _undo(fault, lambda: unlock(place.run))
    elif place.tracker is not None:
        os.killpg(place.tracker, signal.SIGKILL if fault.action == "tracker_killed" else signal.SIGSTOP)


def _later(seconds: float, processes: list[int], number: int) -> None:
    """A process of its own, since this one may be about to be stopped or ended."""
    kill = f"sleep {seconds}; kill -{number} {' '.join(str(process) for process in processes)}"
    nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["/bin/sh", "-c", kill], start_new_session=True, env={"PATH": os.defpath}, **nowhere)  # type: ignore[call-overload]


def _undo(fault: Fault, what: Callable[[], None]) -> None:
    if fault.again_s is not None:
        threading.Timer(fault.again_s, what).start()


def _fail(fault: Fault) -> NoReturn:
    import torch

    if fault.action == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (drill)")
    raise ArithmeticError("raised by the drill")


def mount_small(folder: Path, megabytes: int) -> None:
    """A file system of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "drill", str(folder)], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def fill(run: Path) -> None:
    """Write until the disk of the run folder is full."""
    block = b"\0" * 4096
    with contextlib.suppress(OSError), (run / BALLAST).open("wb", buffering=0) as file:
        while True:
            file.write(block)


def empty(run: Path) -> None:
    (run / BALLAST).unlink(missing_ok=True)


def lock(run: Path) -> None:
    """Make `checkpoints/` read-only, as a file system is after an error; root could write through permissions."""
    checkpoints = str(run / "checkpoints")
    Path(checkpoints).mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", checkpoints, checkpoints], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", checkpoints], check=True)


def unlock(run: Path) -> None:
    unmount(run / "checkpoints")
