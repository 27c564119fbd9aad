"""The background thread that copies metrics.jsonl, and files handed to it, into a run of a store.

It reads the file from where it stopped, so a store that is slow, dead or not there yet costs nothing but time: attempts go on
with growing pauses, and when the store is back everything since is brought up. Knows nothing of MLflow: it is given how to open
the run, and what it opens takes lines and files.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medclm.tracking_lines import Line, read_lines
from medclm.tracking_note import RunNote

if TYPE_CHECKING:
    from medclm.tracking import StoredRun

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
_VALUES_AT_ONCE = 1000
"""Values after which what was read is sent and noted."""


class Pause:
    """Waits between attempts, each twice as long as the one before."""

    def __init__(self) -> None:
        self._length_s, self._until = 0.0, 0.0

    def grow(self) -> None:
        self._length_s = min(max(FIRST_PAUSE_S, 2 * self._length_s), LONGEST_PAUSE_S)
        self._until = time.monotonic() + self._length_s

    def end(self) -> None:
        self._length_s = self._until = 0.0

    @property
    def grown(self) -> bool:
        return self._length_s > 0

    def left_s(self) -> float:
        return max(0.0, self._until - time.monotonic())


class Uploader:
    """Starts at once; the caller hears of faults only."""

    def __init__(
        self,
        metrics: Path,
        note: RunNote,
        *,
        open_run: Callable[[], StoredRun],
        save: Callable[[], None],
        report: Callable[[Exception | None], None],
    ) -> None:
        """All three functions are called on this object's thread.

        Args:
            metrics: the metrics.jsonl that is read.
            note: where reading goes on; kept up to date.
            open_run: finds or makes the run; called again after whatever went wrong, with pauses.
            save: called when the note has changed.
            report: told whatever the store raises, and None when it answers again.
        """
        self.note = note
        self.refused: list[str] = []
        """Metrics of which the store did not want a value, once for each value."""
        self.ended = False
        """The store has every line, and the run's end."""
        self._metrics, self._open_run, self._save, self._report = metrics, open_run, save, report
        self._status: str | None = None
        self._files: deque[tuple[Path, str | None]] = deque()
        self._pause, self._file_pause = Pause(), Pause()
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a new line."""
        self._news.set()

    def file(self, path: Path, under: str | None) -> None:
        """Store a file; `under` is a folder among the run's artifacts. One that waits already is stored once."""
        if (path, under) not in list(self._files):  # a copy: the thread takes some away meanwhile
            self._files.append((path, under))
        self._news.set()

    def close(self, status: str | None, wait_s: float) -> None:
        """Bring up what is left, and end the run if a status is given; one more attempt at most, and at most `wait_s`."""
        self._status = status
        self._closing.set()
        self._news.set()
        self._thread.join(timeout=wait_s)

    def left(self) -> list[str]:
        """What the store has not got, in words: lines and files."""
        lines = sum(1 for _ in read_lines(self._metrics, self.note.uploaded))
        files = [path.name for path, _ in list(self._files)]
        return [f"{lines} lines of {self._metrics.name}"] * (lines > 0) + files

    def _work(self) -> None:
        run = None
        while True:
            closing = self._closing.is_set()
            self._news.clear()
            try:
                if run is None:
                    run = self._open_run()
                    self._save()
                self._send_lines(run)
                self._send_files(run, closing=closing)
                if closing:
                    if self._status is not None:
                        run.end(self._status)
                    self.ended = True
                    return
                if self._pause.grown:
                    self._pause.end()
                    self._report(None)
            except Exception as error:  # whatever a store can raise must not reach training
                self._report(error)
                if closing:
                    return
                run = None  # a store that was set up anew has none
                self._pause.grow()
            self._wait()

    def _wait(self) -> None:
        """Until there is something to do; during a pause only the end of the run is."""
        if pause_s := self._pause.left_s():
            self._closing.wait(pause_s)
        else:
            self._news.wait(self._file_pause.left_s() if self._files else None)

    def _send_lines(self, run: StoredRun) -> None:
        lines: list[Line] = []
        values, end = 0, self.note.uploaded
        for end, line in read_lines(self._metrics, self.note.uploaded):
            if line is not None:
                lines.append(line)
                values += len(line.values)
            if values >= _VALUES_AT_ONCE:
                self._send(run, lines, end)
                lines, values = [], 0
        self._send(run, lines, end)

    def _send(self, run: StoredRun, lines: list[Line], end: int) -> None:
        if end == self.note.uploaded:
            return
        self.refused += run.send(lines)
        self.note.uploaded = end
        self._save()

    def _send_files(self, run: StoredRun, *, closing: bool) -> None:
        """A file that cannot be stored must not hold up the lines: it goes to the end of the queue, which then pauses."""
        if self._file_pause.left_s() and not closing:
            return
        for _ in range(len(self._files)):
            path, under = self._files[0]
            try:
                run.file(path, under)
            except Exception as error:
                self._report(error)
                self._file_pause.grow()
                self._files.rotate(-1)
                return
            self._files.popleft()
        self._file_pause.end()
