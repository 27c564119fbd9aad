"""metrics.jsonl: every number of a run, one JSON object a line: `step`, `time` in Unix seconds, then name -> value or null.

It is the source of truth; a store is a copy of it. Lines that a full or read-only disk does not take wait in memory and are
written in order once it does. Only a line with its newline counts: what a killed process left of one is cut off before the next.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medclm.credentials import reason

METRICS = "metrics.jsonl"
MOST_WAITING = 16 * 2**20
"""Bytes of lines that may wait for the disk, some ten thousand lines; what comes after them is dropped and counted."""
_BLOCK = 2**16

_log = logging.getLogger("medclm.tracking")


@dataclass(frozen=True)
class Line:
    """One line, read back."""

    step: int
    time_ms: int
    """Unix time in milliseconds; grows from line to line."""
    values: dict[str, float]
    """NaN where the line says null."""


class MetricLines:
    """Appends to a metrics.jsonl; never raises for the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        """Lines for which there was no memory either."""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._file: int | None = None
        self._last_ms = 0
        self._faulty = False
        self._write()

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line, after those that wait. Its time is later than that of the line before, whatever the wall clock does."""
        self._last_ms = max(round(time.time() * 1000), self._last_ms + 1)
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "time": self._last_ms / 1000, **finite}).encode() + b"\n"
        if self._waiting_bytes + len(line) > MOST_WAITING:
            self._write()
        if self._waiting_bytes + len(line) > MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._write()

    @property
    def waiting(self) -> int:
        """Lines that the disk did not take yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Try once more; says how many lines were lost, if any were."""
        self._write()
        if self._waiting or self.dropped:
            _log.warning("%s: %d lines could not be written and are lost", self.path, len(self._waiting) + self.dropped)
        self._release()

    def _write(self) -> None:
        try:
            self._file = self._open() if self._file is None else self._file
            while self._waiting:
                left = self._waiting[0]
                while left:
                    left = left[os.write(self._file, left) :]
                self._waiting_bytes -= len(self._waiting.popleft())
        except OSError as error:
            self._release()  # opened anew next time, which cuts off what was written of the first line
            if not self._faulty:
                _log.warning("%s: %s; its lines wait in memory until the disk takes them", self.path, reason(error))
            self._faulty = True
            return
        if self._faulty:
            _log.warning("%s: the disk takes lines again; %d found no room in memory and are lost", self.path, self.dropped)
            self._faulty = False

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            end, last = _last_line(file)
            if os.fstat(file).st_size > end:
                os.ftruncate(file, end)
        except OSError:
            os.close(file)
            raise
        if last is not None:
            self._last_ms = max(self._last_ms, last.time_ms)
        return file

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_lines(path: Path, begin: int = 0) -> Iterator[tuple[int, Line | None]]:
    """The lines from byte `begin` on, each with the byte at which it ends; None for one that is damaged.

    What has no newline yet is left for later, and a file that is not there has no lines.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        end = stream.seek(begin)
        for raw in stream:
            if not raw.endswith(b"\n"):
                return
            end += len(raw)
            yield end, _parsed(raw)


def size_in_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line; 0 where there is no file."""
    if not path.exists():
        return 0
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _last_line(file)[0]
    finally:
        os.close(file)


def _last_line(file: int) -> tuple[int, Line | None]:
    """Where the last whole line ends, and the line; read from the end, since a file may be long."""
    size = begin = os.fstat(file).st_size
    tail = b""
    while begin and tail.count(b"\n") < 2:
        step = min(_BLOCK, begin)
        begin -= step
        tail = os.pread(file, step, begin) + tail
    whole = tail[: tail.rfind(b"\n") + 1]
    return size - len(tail) + len(whole), _parsed(whole.split(b"\n")[-2]) if whole else None


def _parsed(raw: bytes) -> Line | None:
    try:
        found = json.loads(raw)
        step, stamp = found.pop("step"), found.pop("time")
        values = {name: math.nan if value is None else float(value) for name, value in found.items()}
        return Line(step=int(step), time_ms=round(stamp * 1000), values=values)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
