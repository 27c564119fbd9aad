"""Part files: the finished work on a few images, with ids instead of row numbers.

A part is one Arrow stream of rows (kind, id, body as JSON, blob), written under a temporary name and renamed, so that a
part that exists is whole. Building writes parts, finalise reads them; neither holds more than a few at a time.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

_SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.string()), ("body", pa.string()), ("blob", pa.binary())])
_BATCH_ROWS = 256


class PartRow(NamedTuple):
    """One thing of a part. `body` holds schema columns and, for rows it refers to, ids (see corpus/build.py)."""

    kind: str
    """image, study, annotation, record or reject."""
    id: str
    body: dict[str, Any]
    blob: bytes | None = None
    """Encoded picture of an image."""


class Place(NamedTuple):
    """Where a row lies: number of its part in the list, row in the part."""

    part: int
    row: int


def write_part(path: Path, rows: Sequence[PartRow]) -> None:
    """Write rows as a part; it appears under `path` only when complete."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with temporary.open("wb") as stream, pa.ipc.new_stream(stream, _SCHEMA) as writer:
        for start in range(0, len(rows), _BATCH_ROWS):
            some = rows[start : start + _BATCH_ROWS]
            columns = [
                [row.kind for row in some],
                [row.id for row in some],
                [json.dumps(row.body, ensure_ascii=False) for row in some],
                [row.blob for row in some],
            ]
            writer.write_batch(
                pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
            )
    os.replace(temporary, path)


class Parts:
    """Random access to the rows of many parts; few are open at a time. Not thread-safe."""

    def __init__(self, paths: Sequence[Path], *, most_open: int = 128) -> None:
        self.paths = list(paths)
        self._most_open = most_open
        self._open: OrderedDict[int, tuple[list[pa.RecordBatch], np.ndarray]] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[Place, str, str, dict[str, Any]]]:
        """(place, kind, id, body) of every row, part by part."""
        for part in range(len(self.paths)):
            batches, first = self._batches(part)
            for batch, start in zip(batches, first[:-1], strict=True):
                columns = zip(
                    batch.column(0).to_pylist(), batch.column(1).to_pylist(), batch.column(2).to_pylist(), strict=True
                )
                for offset, (kind, name, body) in enumerate(columns):
                    yield Place(part, int(start) + offset), kind, name, json.loads(body)

    def body(self, place: Place) -> dict[str, Any]:
        """The body of one row."""
        batch, row = self._find(place)
        body: dict[str, Any] = json.loads(batch.column(2)[row].as_py())
        return body

    def blob(self, place: Place) -> bytes:
        """The picture of one row."""
        batch, row = self._find(place)
        data: bytes = batch.column(3)[row].as_py()
        return data

    def _find(self, place: Place) -> tuple[pa.RecordBatch, int]:
        batches, first = self._batches(place.part)
        index = int(np.searchsorted(first, place.row, side="right")) - 1
        return batches[index], place.row - int(first[index])

    def _batches(self, part: int) -> tuple[list[pa.RecordBatch], np.ndarray]:
        if part in self._open:
            self._open.move_to_end(part)
            return self._open[part]
        path = self.paths[part]
        try:
            with pa.memory_map(str(path)) as source:
                batches = list(pa.ipc.open_stream(source))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: damaged part ({error}): delete it and run the same build again") from error
        first = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])]).astype(np.int64)
        if len(self._open) >= self._most_open:
            self._open.popitem(last=False)
        self._open[part] = batches, first
        return batches, first
