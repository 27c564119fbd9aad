"""What the ranks of an attempt note of themselves, each in a file of its own, by writes that a killed process has made.

One JSON line an event: monotonic seconds of this machine, the event's name, and what belongs to it. Not the run's own counters:
these lines are the drill's witness of which samples a model has seen.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Trace:
    """Appends events to one file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)

    def note(self, event: str, **content: Any) -> None:
        line = json.dumps({"at_s": time.monotonic(), "event": event, **content})
        os.write(self._file, line.encode() + b"\n")


def trace_file(folder: Path, who: int | str) -> Path:
    """The trace of a rank, or of the `launcher`, in the folder of an attempt."""
    return folder / f"trace-{who}.jsonl"


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a file, in order; a line that its writer could not finish is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]
