"""Questions with their pictures inside Parquet files, as dataset hubs keep them: columns image {bytes, path}, question, answer.

A picture's key is `FILE/ROW`, rows from 1. Pictures are read by row group, so that a file of any size can be asked at random.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eval.example import PictureKey
from medclm.corpus.contract import RejectedImage
from medclm.corpus.pixels import read_picture
from medclm.data.manifest import sha256_file

_NAME = re.compile(r"(?P<split>[A-Za-z_]+?)(?:-\d+-of-\d+.*)?\.parquet$")
MAX_TEXT = 1 << 20
"""Characters of a question or an answer."""
MAX_GROUP = 1 << 30
"""Bytes of the pictures of a row group, which are held together."""
_KEPT_GROUPS = 2


def parquet_files(data: Path) -> dict[str, list[Path]]:
    """Split -> its files in order: `test-00000-of-00003.parquet` or `test.parquet`, in the folder or in `data` below it.

    Never raises.
    """
    found: dict[str, list[Path]] = {}
    for folder in (data, data / "data"):
        for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
            if match := _NAME.match(path.name):
                found.setdefault(match["split"], []).append(path)
    return found


def columns_of(file: Path) -> frozenset[str]:
    """Names of its columns; none where it cannot be read. Never raises."""
    try:
        return frozenset(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, ValueError):
        return frozenset()


def parquet_rows(file: Path, texts: Sequence[str]) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(row from 1, its values under `texts`, digest of its picture, "" where it has none), in order.

    Raises:
        ValueError: not a Parquet file, a column is missing, or a text is too long; names file and cure.
    """
    with _named(file), pq.ParquetFile(file) as table:
        _check_columns(file, table, ["image", *texts])
        number = 0
        for batch in table.iter_batches(batch_size=1, columns=["image", *texts]):  # rows may repeat one value of any size
            for values in batch.to_pylist():
                number += 1
                if any(isinstance(values[name], str) and len(values[name]) > MAX_TEXT for name in texts):
                    raise ValueError(f"{file}:{number}: a text of more than {MAX_TEXT} characters: correct it")
                content = _content(values.pop("image"))
                yield number, values, hashlib.sha256(content).hexdigest()[:16] if content else ""


def _check_columns(file: Path, table: pq.ParquetFile, wanted: Sequence[str]) -> None:
    there = table.schema_arrow.names
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ValueError(
            f"{file}: no column {', '.join(missing)}; there is {', '.join(there[:8])}: give image, {', '.join(wanted[1:])}"
        )


def _content(stored: Any) -> bytes:
    """Bytes of a picture, as {bytes, path} or alone."""
    content = stored.get("bytes") if isinstance(stored, dict) else stored
    return content if isinstance(content, bytes) else b""


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Whatever the decoder finds wrong, with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{file}: not a whole Parquet file ({type(error).__name__}): fetch it again") from error


class ParquetPictures:
    """The pictures of a split's files, by `FILE/ROW`.

    Args:
        files: with names that differ.
        window: (centre, width) for grey pictures of 16 bits; None refuses them.
    """

    def __init__(self, files: Sequence[Path], *, window: tuple[float, float] | None = None) -> None:
        self._files, self._window = {path.name: path for path in files}, window
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()
        self._size = lru_cache(maxsize=None)(self._read_size)

    def open(self, key: PictureKey) -> Image.Image:
        content = self._bytes(key)
        if not content:
            raise ValueError(f"picture {key}: that row holds none: fetch the file again")
        try:
            return Image.fromarray(_pixels(content, self._window)).convert("RGB")
        except RejectedImage as error:
            cure = ": give --window CENTRE WIDTH" if error.reason == "image_16_bit" else ""
            raise ValueError(f"picture {key}: {error.reason}: {error.detail}{cure}") from error

    def size(self, key: PictureKey) -> tuple[int, int]:
        return self._size(key)

    def _read_size(self, key: PictureKey) -> tuple[int, int]:
        return self.open(key).size

    def identity(self) -> str:
        digest = hashlib.sha256()
        for path in self._files.values():
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
        return digest.hexdigest()

    def _bytes(self, key: PictureKey) -> bytes:
        name, _, row = str(key).rpartition("/")
        if name not in self._files or not row.isdecimal() or int(row) < 1:
            raise ValueError(f"picture {key}: there is none of that name in {', '.join(self._files)}")
        file = self._files[name]
        with self._lock, _named(file), pq.ParquetFile(file) as table:
            place = int(row) - 1
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if place < rows:
                    return self._group(table, name, group)[place]
                place -= rows
        raise ValueError(f"picture {key}: {name} has fewer rows: give the files that the questions came from")

    def _group(self, table: pq.ParquetFile, name: str, group: int) -> list[bytes]:
        """Pictures of a row group; neighbours are asked one after another, so the last ones are kept."""
        if (name, group) not in self._groups:
            found, held = [], 0
            for batch in table.iter_batches(batch_size=1, row_groups=[group], columns=["image"]):
                found.append(_content(batch.column(0)[0].as_py()))
                held += len(found[-1])
                if held > MAX_GROUP:
                    raise ValueError(f"{name}: a row group of more than {MAX_GROUP} bytes of pictures: write smaller groups")
            self._groups[name, group] = found
            while len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[name, group]


def _pixels(content: bytes, window: tuple[float, float] | None) -> np.ndarray:
    with tempfile.NamedTemporaryFile() as file:  # the reader of pictures guards against hostile files, and reads files alone
        file.write(content)
        file.flush()
        return read_picture(Path(file.name), sixteen_bit=window).pixels
