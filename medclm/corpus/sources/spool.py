"""A list of JSON values that lies on disk: what an annotation file holds, read again one by one.

A file of a million annotations is gigabytes of Python objects, once more in every worker. Written once to a temporary file, it
costs eight bytes an item in memory; workers open the same file. Knows JSON values; nothing of annotations.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, overload

import numpy as np


class Spool(Sequence[Any]):
    """Items in order; made by the process that opens the dataset, whose end removes the file."""

    def __init__(self, items: Iterable[Any]) -> None:
        descriptor, self._path = tempfile.mkstemp(prefix="medclm-", suffix=".spool")
        weakref.finalize(self, _remove, self._path, os.getpid())
        self._stream: BinaryIO | None = None
        ends = [0]
        with os.fdopen(descriptor, "wb") as stream:
            for item in items:
                ends.append(ends[-1] + stream.write(json.dumps(item).encode()))
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if self._stream is None:
            self._stream = open(self._path, "rb")  # noqa: SIM115  open as long as the list
        self._stream.seek(int(self._ends[place]))
        return json.loads(self._stream.read(int(self._ends[place + 1] - self._ends[place])))

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_ends": self._ends, "_stream": None}


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        os.unlink(path)
