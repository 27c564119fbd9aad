"""Why this rank wants the run to end early: a signal, a launcher that is gone, a time limit.

Handlers only note the wish; it travels with the next report, so that all ranks stop after the same step and save together. One
thread looks at signals and parents, since Python runs handlers only between two steps of its own, and a rank may be waiting in a
collective when the second signal asks it to end at once.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME_S = 1.0
"""Signals closer than this are one wish: a launcher repeats what the terminal has sent already."""
_LOOK_S = 1.0
_LAUNCHER = b"deepspeed.launcher.launch"


class Stops:
    """One of these a process. `watch` begins; `wanted` is then asked once a step.

    Args:
        rank: for messages.
        launched: a launcher started this process, so that it must not outlive it. Make this object early: who is gone before
            is not missed.
        after_s: seconds from now after which a stop is wanted; None = never.
    """

    def __init__(self, *, rank: int, launched: bool = False, after_s: float | None = None) -> None:
        self._rank = rank
        self._ancestors = _ancestors() if launched else []
        self._deadline = None if after_s is None else time.monotonic() + after_s
        self._reason: str | None = None
        self._first_signal: float | None = None

    @property
    def reason(self) -> str | None:
        """Why this rank wants to stop; None while it does not."""
        if self._reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self._want("run.stop_after_min is over")
        return self._reason

    @property
    def wanted(self) -> bool:
        return self.reason is not None

    def watch(self) -> None:
        """Take SIGTERM, SIGUSR1 and SIGINT, and look after the launcher, until the process ends. From the main thread only."""
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        for number in SIGNALS:
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._look, name="stops", daemon=True).start()

    def _look(self) -> None:
        while True:
            ready, _, _ = select.select([self._reading], [], [], _LOOK_S)
            for number in os.read(self._reading, 64) if ready else b"":
                if number in SIGNALS:
                    self._signalled(number)
            if self._ancestors and _ancestors() != self._ancestors:
                self._ancestors = []
                self._want("the launcher that started this process is gone")

    def _signalled(self, number: int) -> None:
        now, name = time.monotonic(), signal.Signals(number).name
        if self._first_signal is None:
            self._first_signal = now
            self._want(name)
        elif now - self._first_signal > SAME_S:
            _say(f"rank {self._rank}: {name} again: ending at once, without saving")
            os._exit(128 + number)

    def _want(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
            _say(f"rank {self._rank}: {reason}: all ranks stop after the same step and save; another signal ends at once")


def _nothing(number: int, frame: FrameType | None) -> None:
    """The byte in the pipe has said it; a handler must be there, or the signal would end the process."""


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())  # print may be in the middle of something


def _ancestors() -> list[int]:
    """Process ids whose end this rank must not outlive: its launcher, and whoever started a DeepSpeed launcher.

    The single-node `deepspeed` command is a runner that starts a launcher that starts ranks; a signal that ends the runner alone
    leaves the other two.
    """
    parent = os.getppid()
    try:
        if _LAUNCHER in Path(f"/proc/{parent}/cmdline").read_bytes().replace(b"/", b"."):
            # fields after the last bracket: state, parent
            return [parent, int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])]
    except OSError:  # it has just gone, or this system has no /proc
        pass
    return [parent]
