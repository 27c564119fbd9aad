"""Exactly the bytes that a header promises, from a plain or compressed file: no more, no fewer, no silent repair.

Here because a volume's header may claim anything: what is read is bounded by the claim (which the caller has judged), and a
stream that ends early or fails its checksum ends in a named reason. Knows no volume format.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from medclm.corpus.contract import RejectedImage

_MOST_DEFLATED = 1032
"""Deflate cannot make more bytes than this out of one (RFC 1951: 258 bytes for two bits)."""
_CHUNK = 1 << 22


@contextmanager
def named_errors() -> Iterator[None]:
    """What operating system and decompressors raise, as a RejectedImage; their own words may hold a path and stay out.

    Raises:
        RejectedImage: volume_missing, volume_truncated or volume_unreadable.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise RejectedImage("volume_missing", "there is no such file: check the folder") from error
    except EOFError as error:
        raise RejectedImage("volume_truncated", "the file ends before its voxels do: fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise RejectedImage("volume_unreadable", "the compressed stream is damaged: fetch it again") from error
    except OSError as error:
        raise RejectedImage("volume_unreadable", f"{error.strerror}: check the file's permissions and the disk") from error


def read_start(path: Path, count: int, *, gzipped: bool) -> bytes:
    """The first `count` bytes (decompressed), fewer where the file is shorter; raises as `named_errors`."""
    with named_errors(), path.open("rb") as file:
        if not gzipped:
            return file.read(count)
        with gzip.GzipFile(fileobj=file) as stream:
            return stream.read(count)


def read_bytes(path: Path, count: int, *, start: int, skip: int = 0, compression: str | None = None) -> np.ndarray:
    """(count,) uint8, to be viewed as voxels.

    Args:
        count: bytes of voxels, already judged by the caller.
        start: bytes of the file before the (compressed) data.
        skip: bytes of the decompressed data before the voxels.
        compression: None, gzip or zlib.

    Raises:
        RejectedImage: volume_missing, volume_truncated, volume_unreadable.
    """
    with named_errors(), path.open("rb") as file:
        stored = path.stat().st_size - start
        if stored * (_MOST_DEFLATED if compression else 1) < skip + count:  # before a byte is set aside for it
            raise EOFError
        file.seek(start)
        if compression == "zlib":
            return _inflated(file, skip + count)[skip:]
        if compression is None:
            file.seek(skip, 1)
            return _filled(file, count)
        with gzip.GzipFile(fileobj=file) as stream:
            stream.seek(skip)
            values = _filled(stream, count)
            stream.read(_CHUNK)  # reaching the end is what compares the checksum
            return values


def _filled(stream: IO[bytes] | gzip.GzipFile, count: int) -> np.ndarray:
    values = np.empty(count, np.uint8)
    view, at = values.data, 0
    while at < count:
        got = stream.readinto(view[at : at + _CHUNK])  # type: ignore[union-attr]
        if not got:
            raise EOFError
        at += got
    return values


def _inflated(file: IO[bytes], count: int) -> np.ndarray:
    """A zlib or gzip stream of known length, its checksum compared."""
    decoder = zlib.decompressobj(wbits=47)  # 32 + 15: either header
    values, at = np.empty(count, np.uint8), 0
    while not decoder.eof:
        chunk = decoder.unconsumed_tail or file.read(_CHUNK)
        part = decoder.decompress(chunk, _CHUNK)
        if not chunk and not part and not decoder.eof:
            raise EOFError
        if at + len(part) > count:
            raise zlib.error("longer than its header says")
        values[at : at + len(part)] = np.frombuffer(part, np.uint8)
        at += len(part)
    if at < count:
        raise EOFError
    return values
