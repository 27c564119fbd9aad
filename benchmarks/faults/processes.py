"""Forked children and the processes of an attempt: who lives, who ended how. Linux only, and no thread before a fork."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "MEDCLM_DRILL"
"""Environment variable of every process below a real launcher; its value names the attempt's folder."""
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Whoever loses its parent becomes a child of this process, which thus learns how it ended (as under systemd or Slurm)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def fork(function: Callable[[], int | None]) -> int:
    """Run `function` in a child that ends as a program does, threads joined and exit handlers run; returns its process id.

    Raises:
        RuntimeError: this process has more than one thread, so that a child might begin with a lock that nobody frees.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("the drill has started a thread before a fork: import what starts it in the ranks alone")
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code: Any = 1
    try:
        code = function()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def in_child(function: Callable[[], Any]) -> Any:
    """The JSON-ready result of a function that may start threads.

    Raises:
        RuntimeError: it raised; what it said is above.
    """
    read, write = os.pipe()

    def tell() -> None:
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            json.dump(function(), pipe)

    process = fork(tell)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(process, 0)
    if not said:
        raise RuntimeError("a child of the drill failed: its traceback is above")
    return json.loads(said)


def redirect(path: Path) -> None:
    """Standard output and error of this process, and of those it starts, to the end of a file."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(file, standard)
    os.close(file)


def reap() -> dict[int, int]:
    """Process id -> exit status (128 + n for signal n) of children that ended since the last call."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            ended[process] = exit_code(status)
    return ended


def exit_code(status: int) -> int:
    """As a shell says it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def alive(session: int, mark: str) -> list[int]:
    """Processes of a session, or with the mark in their environment, that have not ended."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                state, _, _, its_session = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX" and (int(its_session) == session or _marked(entry, mark)):
                    found.append(int(entry))
    return found


def _marked(process: str, mark: str) -> bool:
    return f"{MARK}={mark}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def end(processes: list[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
