"""What takes the place of a record that cannot be rendered (`data.on_bad_record: quarantine`), and the list of these.

The stand-in is the record at the next position of the order that is of the same domain, offers the same stage and renders, so
that the curriculum's decisions and averages stay right. Which one it is follows from order, corpus and which records are bad
alone: not from rank, number of ranks, threads, or where the run was resumed. Rows of the tables must be readable, and a corpus
that changes under the run always ends it. Knows nothing of batches or policies.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medclm.data.mapped import ShardLost
from medclm.data.render import Renderer
from medclm.data.stream import Stream
from medclm.types import EncodedSample, Sample, Stage

QUARANTINE = "quarantine.jsonl"
"""In a run folder: one line a replaced sample; a resumed run may write the lines of a few positions again."""
_LOOK_FIRST, _LOOK_MOST = 16, 4096
"""Positions that are looked at together."""


@dataclass(frozen=True)
class Replaced:
    """A line of the list."""

    position: int
    """Global position of the sample."""
    stage: str
    record: str
    """Id of the record that could not be rendered."""
    file: str
    """Of the corpus; holds that record."""
    row: int
    """Of the record, among all records of the corpus."""
    reason: str
    """The error; names the file and row of what is damaged."""
    replacement: str
    """Id of the record that took its place."""
    replacement_row: int


class Quarantine:
    """Renders records, or what takes their place. Thread-safe, but for `note`.

    Args:
        log: file that replaced samples are appended to; ranks of all nodes may share it.
    """

    def __init__(self, renderer: Renderer, stream: Stream, log: Path) -> None:
        self._renderer, self._stream, self._log = renderer, stream, log
        self._unwritten = b""
        self._told = False

    def render(self, record_row: int, position: int, stage: Stage) -> tuple[tuple[Sample, EncodedSample], Replaced | None]:
        """A sample of the record, or of its stand-in at the same position; and in that case the line for the list.

        Raises:
            ValueError: no other record of the domain offers the stage and renders; names the record.
            RuntimeError: the corpus was changed, or what failed is not the record's fault.
        """
        try:
            return self._renderer.render(record_row, position, stage), None
        except (ValueError, ShardLost) as error:
            fault = error
        for row in self._candidates(record_row, position, stage):
            try:
                rendered = self._renderer.render(row, position, stage)
            except (ValueError, ShardLost):
                continue  # it has a line of its own where its turn comes
            corpus = self._renderer.corpus
            line = Replaced(
                position=position,
                stage=stage.key,
                record=corpus.row("records", record_row, ["record_id"])["record_id"],
                file=corpus.file_of("records", record_row),
                row=record_row,
                reason=str(fault),
                replacement=rendered[0].record_id,
                replacement_row=row,
            )
            return rendered, line
        raise ValueError(f"{fault}; and no other record of its domain that offers {stage.key} can take its place") from fault

    def note(self, replaced: Sequence[Replaced]) -> None:
        """Append lines to the list; while the disk does not take them they are kept, and go with the next ones."""
        if replaced and not self._told:
            self._told = True
            _say(f"{replaced[0].reason}; {replaced[0].replacement} takes its place, further ones are listed in {self._log}")
        self._unwritten += "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in replaced).encode()
        if not self._unwritten:
            return
        try:
            with self._log.open("ab", buffering=0) as stream:  # appended at once, so that lines of several ranks stay whole
                while self._unwritten:
                    self._unwritten = self._unwritten[stream.write(self._unwritten) :]
        except OSError as error:
            waiting = self._unwritten.count(b"\n")
            _say(f"{self._log}: {error.strerror}: {waiting} line(s) wait until it can be written")

    def close(self) -> None:
        """Write what waits, or else say it."""
        self.note([])
        if self._unwritten:
            _say(f"never written:\n{self._unwritten.decode()}")

    def _candidates(self, record_row: int, position: int, stage: Stage) -> Iterator[int]:
        """Record rows at the following positions, of the same domain and with the stage, until all records were met."""
        size = len(self._stream.order)
        end = (position // size + 2) * size  # the rest of this epoch and all of the next
        domain = self._stream.look(np.array([position])).domains[0]
        first, count = position + 1, _LOOK_FIRST
        while first < end:
            ahead = self._stream.look(np.arange(first, min(first + count, end)))
            fits_n = (ahead.domains == domain) & ahead.offered[:, stage] & (ahead.record_rows != record_row)
            yield from ahead.record_rows[fits_n].tolist()
            first, count = first + count, min(2 * count, _LOOK_MOST)


def _say(words: str) -> None:
    print(f"data.on_bad_record=quarantine: {words}", file=sys.stderr, flush=True)
