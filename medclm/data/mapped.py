"""One Arrow file of a corpus, mapped into memory, watched for change and damage.

A map of a file that is cut short under it ends the process with SIGBUS, and so does a disk that cannot deliver a page; a damaged
offset ends it with SIGSEGV. So every read first compares the file with what it was when the corpus was opened (2 microseconds),
every record batch is checked whole when it is first looked at, and pictures, nearly all of the bytes, are read through the file
and not through the map: too few bytes, or a failing disk, are an error there. What is left is a table that is cut short within the
some 30 microseconds between the comparison and the copy of a row. Knows nothing of kinds, rows of a corpus or manifests.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa

RESTORE = "copy or build the corpus again"


class ShardLost(RuntimeError):
    """A file is gone, cut short or cannot be read any more."""


class CorpusChanged(RuntimeError):
    """A file is another one than when the corpus was opened: whatever is read now may belong to another corpus."""


class MappedFile:
    """One mapped Arrow stream: its schema, and where each record batch begins.

    Args:
        rows: that it must hold.
        opened: what the file was when the corpus was opened.

    Raises:
        ValueError: not a readable Arrow stream, or another number of rows; names the file and the cure.
        ShardLost, CorpusChanged: see `check`.
    """

    def __init__(self, path: Path, rows: int, opened: os.stat_result) -> None:
        self.path, self._opened = path, opened
        self.check(f"{rows} rows")
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            self.map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno == errno.EMFILE:  # two a shard: one here, one that the map keeps
                raise RuntimeError(f"{path}: {error.strerror}: raise the limit of open files (ulimit -n)") from error
            raise ShardLost(f"{path}: cannot be opened ({error.strerror}): {RESTORE}") from error
        self.buffer = pa.py_buffer(self.map)
        source = pa.BufferReader(self.buffer)
        try:
            self.schema = pa.ipc.read_schema(source)
            offsets, counts = self._batches(source)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a readable Arrow stream ({error}): {RESTORE}") from error
        self.offsets = np.asarray(offsets, np.int64)
        self.first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        """First row of each batch, and the number of rows at the end."""
        if self.first[-1] != rows:
            raise ValueError(f"{path}: holds {self.first[-1]} rows, the manifest says {rows}: {RESTORE}")
        self._whole = np.zeros(len(offsets), bool)
        """Batches that were found to be whole."""
        self.give_back()

    def _batches(self, source: pa.BufferReader) -> tuple[list[int], list[int]]:
        offsets: list[int] = []
        counts: list[int] = []
        while True:
            offset = source.tell()
            try:
                message = pa.ipc.read_message(source)
            except EOFError:
                return offsets, counts
            offsets.append(offset)
            counts.append(pa.ipc.read_record_batch(message, self.schema).num_rows)

    def check(self, what: str) -> None:
        """Compare the file with what it was when the corpus was opened.

        Args:
            what: is about to be read, for the error.

        Raises:
            ShardLost: the file is gone or cut short.
            CorpusChanged: it is another file, or was written to.
        """
        then = self._opened
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise ShardLost(
                f"{self.path}: {what} cannot be read: {error.strerror}, though the corpus was opened with it: restore the file"
            ) from error
        if (now.st_ino, now.st_size, now.st_mtime_ns) == (then.st_ino, then.st_size, then.st_mtime_ns):
            return
        if now.st_ino == then.st_ino and now.st_size < then.st_size:
            raise ShardLost(
                f"{self.path}: {what} cannot be read: the file was cut short from {then.st_size} to {now.st_size} bytes since "
                "the corpus was opened: restore it"
            )
        how = "replaced by another one" if now.st_ino != then.st_ino else "written to"
        raise CorpusChanged(
            f"{self.path}: {what} is not read: the file was {how} since the corpus was opened: restore it and resume from the last "
            "checkpoint; a corpus must stay as it is while a run reads it"
        )

    def batch(self, index: int, what: str) -> pa.RecordBatch:
        """A record batch over the mapped bytes; nothing is copied.

        Raises:
            ValueError: the batch is damaged; names the file and the cure.
            ShardLost, CorpusChanged: see `check`.
        """
        self.check(what)
        source = pa.BufferReader(self.buffer)
        source.seek(int(self.offsets[index]))
        try:
            batch = pa.ipc.read_record_batch(pa.ipc.read_message(source), self.schema)
            if not self._whole[index]:
                batch.validate(full=True)
                self._whole[index] = True
        except (pa.ArrowException, OSError, EOFError) as error:
            first, end = self.first[index : index + 2]
            raise ValueError(
                f"{self.path}: {what} cannot be read: rows {first} to {end - 1} of the file are damaged ({error}): {RESTORE}"
            ) from error
        return batch

    def blob(self, binary: pa.Array, index: int, what: str) -> bytes:
        """One value of a binary column of this file, read through the file and not through the map.

        Raises:
            ValueError: the value is null.
            ShardLost: the disk did not deliver all of it.
        """
        if binary[index : index + 1].null_count:
            raise ValueError(f"{self.path}: {what} holds no bytes: {RESTORE}")
        _, ends, values = binary.buffers()
        begin, end = np.frombuffer(ends, np.int32)[binary.offset + index :][:2].tolist()
        try:
            data = os.pread(self._descriptor, end - begin, values.address - self.buffer.address + begin)
        except OSError as error:
            raise ShardLost(f"{self.path}: {what} cannot be read: {error.strerror}: look after the disk") from error
        if len(data) < end - begin:
            raise ShardLost(f"{self.path}: {what} cannot be read: the file ends within it: restore it")
        return data

    def find(self, row: int) -> tuple[int, int]:
        """(batch, row within it) of a row of this file."""
        index = int(np.searchsorted(self.first, row, side="right")) - 1
        return index, row - int(self.first[index])

    def give_back(self) -> None:
        """Let the system drop the touched pages from this process; they come back from the file when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)
