"""The Arrow files of a corpus: written once by finalise, read at random by training. Needs pyarrow alone to read.

A file is an Arrow IPC stream of small record batches. Reading maps it into memory (medclm/data/mapped.py) and keeps only the byte
offset of each batch, so that one row costs at most one batch header, not a scan, and memory does not grow with the corpus: pages that were
touched are given back to the system after about `_RESIDENT_BYTES` of them. Knows nothing of stages, models or sources.
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from medclm.data.manifest import read_manifest, sha256_file
from medclm.data.mapped import RESTORE, MappedFile
from medclm.data.schema import COLUMNS, KINDS, SPLITS, features
from medclm.recent import Recent

BATCH_ROWS = {"images": 64, "studies": 256, "annotations": 1024, "records": 1024}
"""Rows of a record batch: what one random read has to look at."""
_OPEN_BATCHES = 64
"""Record batches of a kind whose headers stay read; their bytes stay in the map."""
_RESIDENT_BYTES = 32 << 20
_FORMATS = ("PNG", "JPEG")
"""What corpora store; a decoder of anything else is not offered to whoever can write there."""
_READ_COST = 1 << 20
"""Bytes a read may map beside its own: the system maps neighbouring pages too (measured: up to about 1 MB a read)."""


class Corpus:
    """A stored corpus, opened for reading. Thread-safe; files are mapped at their first use.

    Args:
        folder: holds manifest.json and the Arrow files.
        verify: also compare every file's sha256 with the manifest (reads everything once).

    Raises:
        ValueError: no manifest, a newer major version, a file that is missing or may not be read, a size or (with `verify`) a hash
            that differs; the message names the file and the cure.

    A file that changes after that is found when it is read: every method that reads rows raises ShardLost or CorpusChanged then.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_manifest(self.folder)
        self.domains: list[str] = [entry["name"] for entry in self.manifest["domains"]]
        self._entries = {
            kind: sorted((e for e in self.manifest["files"] if e["kind"] == kind), key=lambda e: str(e["path"]))
            for kind in KINDS
        }
        self._first = {
            kind: [0, *itertools.accumulate(int(entry["rows"]) for entry in entries)] for kind, entries in self._entries.items()
        }
        self._files: dict[str, MappedFile] = {}
        self._batches = {kind: Recent(_OPEN_BATCHES) for kind in KINDS}
        self._lock = threading.Lock()
        self._touched = 0
        self._opened = check_files(self.folder, self.manifest)
        if verify:
            self.verify()

    def verify(self) -> None:
        """Compare every file's sha256 with the manifest.

        Raises:
            ValueError: a file differs, or cannot be read to its end.
        """
        for entry in self.manifest["files"]:
            path = self.folder / entry["path"]
            try:
                found = sha256_file(path)
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}: {RESTORE}") from error
            check_hash(path, found, entry)

    def count(self, kind: str, split: str | None = None) -> int:
        """Rows of a kind; for records, of one split when given."""
        return sum(int(entry["rows"]) for entry in self._entries_of(kind, split))

    def record_files(self, split: str) -> list[tuple[int, int]]:
        """(first row among all records, rows) of each file of a split, in row order."""
        entries = self._entries["records"]
        return [
            (first, int(entry["rows"]))
            for entry, first in zip(entries, self._first["records"], strict=False)
            if entry["split"] == split and entry["rows"]
        ]

    def row(self, kind: str, row: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One row as Python values; all columns unless named.

        Raises:
            ValueError: no such kind, row or column.
        """
        _, batch, inside = self._find(kind, row)
        return {name: self._column(kind, batch, name)[inside].as_py() for name in (columns or batch.schema.names)}

    def rows(self, kind: str, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """A few rows in the order asked for, as Python values."""
        return [self.row(kind, row, columns) for row in rows]

    def take(self, kind: str, rows: np.ndarray, columns: Sequence[str]) -> list[pa.Array]:
        """Many rows (n,) int64 in the order asked for: one Arrow array of n values per column, copied out of the map.

        Raises:
            ValueError: no such kind, row or column.
        """
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        pieces: list[list[pa.Array]] = [[] for _ in columns]
        at = 0
        while at < len(ascending):
            _, batch, inside = self._find(kind, int(ascending[at]))
            first = int(ascending[at]) - inside
            end = int(np.searchsorted(ascending, first + batch.num_rows))
            wanted = pa.array(ascending[at:end] - first)
            for piece, name in zip(pieces, columns, strict=True):
                piece.append(self._column(kind, batch, name).take(wanted))
            at = end
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return [pa.concat_arrays(piece).take(pa.array(place)) for piece in pieces]

    def scan(self, kind: str, columns: Sequence[str], split: str | None = None) -> Iterator[pa.RecordBatch]:
        """Every row of a kind (records: of a split), batch by batch in row order.

        Yields:
            Record batches of `columns` over mapped bytes; `first_row(batch)` is the number of the first row.
        """
        for entry, first in zip(self._entries[kind], self._first[kind], strict=False):
            if split is not None and entry.get("split") != split:
                continue
            file = self._open(entry)
            for index in range(len(file.offsets)):
                batch = file.batch(index, f"{kind} row {first + int(file.first[index])}")
                arrays = [self._column(kind, batch, name) for name in columns]
                schema = pa.schema(
                    [batch.schema.field(name).remove_metadata() for name in columns],
                    metadata={_FIRST_ROW: str(first + int(file.first[index])).encode()},
                )
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                self._touch(batch.nbytes)

    def picture(self, image_row: int, *, keep_grey: bool = False) -> Image.Image:
        """The decoded picture of an image row, RGB, not kept.

        Args:
            keep_grey: leave a picture that is stored grey in mode L, a third of the work for whoever resizes it.

        Raises:
            ValueError: no such row, or bytes that do not decode; names file and row.
        """
        data = self.image_bytes(image_row)
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                return picture.convert("L" if keep_grey and picture.mode == "L" else "RGB")
        except MemoryError:
            raise
        except Exception as error:  # decoders meet damaged bytes with errors of any kind
            path = self._locate("images", image_row)[0].path
            why = (
                "of no known format" if isinstance(error, UnidentifiedImageError) else error
            )  # whose own words name an address
            raise ValueError(f"{path}: images row {image_row} does not decode ({why}): {RESTORE}") from error

    def image_bytes(self, image_row: int) -> bytes:
        """The encoded bytes of an image row, as stored.

        Raises:
            ValueError: no such row, or one without bytes.
        """
        file, batch, inside = self._find("images", image_row)
        return file.blob(self._column("images", batch, "image").field("bytes"), inside, f"images row {image_row}")

    def file_of(self, kind: str, row: int) -> str:
        """Name of the file that holds a row."""
        return self._locate(kind, row)[0].path.name

    def _entries_of(self, kind: str, split: str | None) -> list[dict[str, Any]]:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
        if split is not None and (kind != "records" or split not in SPLITS):
            raise ValueError(f"split {split!r} of {kind}: only records have a split, one of {', '.join(SPLITS)}")
        return [entry for entry in self._entries[kind] if split is None or entry["split"] == split]

    def _find(self, kind: str, row: int) -> tuple[MappedFile, pa.RecordBatch, int]:
        """The file and the record batch that hold a row, and its place in that batch."""
        file, local = self._locate(kind, row)
        index, inside = file.find(local)
        what = f"{kind} row {row}"
        file.check(what)
        batch = self._batches[kind].get((file.path, index), lambda: file.batch(index, what))
        self._touch(0)
        return file, batch, inside

    def _locate(self, kind: str, row: int) -> tuple[MappedFile, int]:
        starts = self._first.get(kind)
        if starts is None:
            raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
        if not 0 <= row < starts[-1]:
            raise ValueError(
                f"{self.folder}: {kind} row {row} is out of range: there are {starts[-1]} (rows 0 to {starts[-1] - 1})"
            )
        index = bisect.bisect_right(starts, row) - 1
        return self._open(self._entries[kind][index]), row - starts[index]

    def _open(self, entry: dict[str, Any]) -> MappedFile:
        name = str(entry["path"])
        file = self._files.get(name)
        if file is None:
            with self._lock:
                file = self._files.get(name)
                if file is None:
                    file = self._files[name] = MappedFile(self.folder / name, int(entry["rows"]), self._opened[name])
        return file

    def _column(self, kind: str, batch: pa.RecordBatch, name: str) -> Any:
        index = batch.schema.get_field_index(name)
        if index < 0:
            raise ValueError(f"{self.folder}: {kind} has no column {name!r}: columns are {', '.join(batch.schema.names)}")
        return batch.column(index)

    def _touch(self, size: int) -> None:
        """Count a read of `size` bytes; from time to time give the mapped pages back."""
        with self._lock:
            self._touched += _READ_COST + size
            if self._touched < _RESIDENT_BYTES:
                return
            self._touched = 0
            files = list(self._files.values())
        for file in files:
            file.give_back()


def check_files(folder: Path, manifest: dict[str, Any]) -> dict[str, os.stat_result]:
    """Open every file that a manifest lists and compare its size; name -> what the file is now.

    Raises:
        ValueError: files that are missing, may not be read or have another size; names the first, with the cure, and counts them.
    """
    faults, found = [], {}
    for entry in manifest["files"]:
        path = folder / entry["path"]
        try:
            with path.open("rb") as stream:
                found[entry["path"]] = now = os.fstat(stream.fileno())
        except OSError as error:
            faults.append(f"{path}: {error.strerror}: the manifest lists it")
            continue
        if now.st_size != entry["bytes"]:
            faults.append(f"{path}: {now.st_size} bytes, the manifest says {entry['bytes']}")
    if faults:
        more = f" (and {len(faults) - 1} more of {len(manifest['files'])} files)" if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more}: {RESTORE}")
    return found


def check_hash(path: Path, found: str, entry: dict[str, Any]) -> None:
    """Refuse a file whose sha256 is not the one that its manifest entry states.

    Raises:
        ValueError: names the file, both and the cure.
    """
    if found != entry["sha256"]:
        raise ValueError(
            f"{path}: sha256 {found[:12]}..., the manifest says {entry['sha256'][:12]}...: the file was changed or damaged; {RESTORE}"
        )


_FIRST_ROW = b"first_row"


def first_row(batch: pa.RecordBatch) -> int:
    """Number of the first row of a batch that `Corpus.scan` yielded."""
    return int(batch.schema.metadata[_FIRST_ROW])


class ShardWriter:
    """Writes the rows of one kind (records: of one split) as numbered Arrow stream files.

    A file appears under its name only when it is complete. At least one file is written, if need be without rows, so that
    every kind can be opened. Use as a context manager; `entries` then lists the files for the manifest.

    Args:
        folder: where the files go.
        kind: one of schema.KINDS.
        split: for records only.
        rows_per_file, bytes_per_file: a file is closed when it reaches either.
    """

    def __init__(
        self, folder: Path, kind: str, split: str | None = None, *, rows_per_file: int = 65536, bytes_per_file: int = 256 << 20
    ) -> None:
        if (kind == "records") != (split is not None):
            raise ValueError(f"ShardWriter: kind {kind!r} with split {split!r}: records, and only they, have a split")
        self.entries: list[dict[str, Any]] = []
        self._folder, self._kind, self._split = folder, kind, split
        self._rows_per_file, self._bytes_per_file = rows_per_file, bytes_per_file
        self._schema = features(kind).arrow_schema
        self._pending: list[dict[str, Any]] = []
        self._file_rows = 0
        self._stream: Any = None
        self._writer: Any = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._abandon()
            return
        if self._pending or not self.entries:
            self._open_file()
            self._flush()
        self._close_file()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row: every column of the kind; bytes of an image as {"bytes": ..., "path": None}."""
        assert row.keys() == COLUMNS[self._kind].keys(), f"{self._kind}: {sorted(row.keys() ^ COLUMNS[self._kind].keys())}"
        self._pending.append(row)
        if len(self._pending) >= BATCH_ROWS[self._kind]:
            self._open_file()
            self._flush()
            if self._file_rows >= self._rows_per_file or self._stream.tell() >= self._bytes_per_file:
                self._close_file()

    @property
    def _name(self) -> str:
        split = f"-{self._split}" if self._split else ""
        return f"{self._kind}{split}-{len(self.entries):05d}.arrow"

    def _open_file(self) -> None:
        if self._writer is None:
            self._stream = (self._folder / f".{self._name}.tmp").open("wb")
            self._writer = pa.ipc.new_stream(self._stream, self._schema)
            self._file_rows = 0

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._pending, schema=self._schema))
            self._file_rows += len(self._pending)
            self._pending = []

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        temporary, name = self._folder / f".{self._name}.tmp", self._name
        entry = {"path": name, "kind": self._kind, "rows": self._file_rows}
        entry |= {"bytes": temporary.stat().st_size, "sha256": sha256_file(temporary)}
        if self._split:
            entry["split"] = self._split
        os.replace(temporary, self._folder / name)
        self.entries.append(entry)
        self._writer = self._stream = None

    def _abandon(self) -> None:
        if self._stream is not None:
            self._stream.close()
            (self._folder / f".{self._name}.tmp").unlink(missing_ok=True)
