"""Files of any kind -> pieces of plain bytes with their place, for an audit. Looks inside what hides text.

Opened: Arrow and Parquet columns, pictures (their text, EXIF and profile), zip members (torch checkpoints are zips), gzip,
bzip2, xz, SQLite tables, safetensors headers, base64 within text, UTF-16. What holds data but cannot be opened becomes a
remark, never silence. Decoded pixels are not read: text burned into a picture is not found. Must not know what is looked for.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from medclm.corpus.audit_arrow import arrow_pieces, parquet_pieces
from medclm.corpus.audit_pictures import picture_pieces
from medclm.corpus.audit_pieces import Found, Piece, Remark, cells, is_text, joined, lines, numbers, text_pieces

_CHUNK, _OVERLAP, _CONTEXT = 8 << 20, 4096, 64
_WHOLE = 64 << 20
"""Packed or text content up to this size is looked at as a whole, longer content in chunks."""
_DEEPEST = 4
_ROWS = 1000
_NEWLINE = b"\n"
_MAGIC = (
    (b"\x89PNG", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"GIF8", "picture"),
    (b"II*\0", "picture"),
    (b"MM\0*", "picture"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
    (b"PAR1", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "packed"),
    (b"BZh", "packed"),
    (b"\xfd7zXZ\0", "packed"),
    (b"SQLite format 3\0", "sqlite"),
    (b"%PDF", "closed"),
    (b"7z\xbc\xaf", "closed"),
    (b"Rar!", "closed"),
    (b"\x28\xb5\x2f\xfd", "closed"),
    (b"\x04\x22\x4d\x18", "closed"),
    (b"\xff\xfe", "utf16"),
    (b"\xfe\xff", "utf16"),
)


def kind_of(head: bytes) -> str:
    """Format of data by its first bytes."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "picture"
    if head[8:10] in (b'{"', b"{ ", b"{}") and int.from_bytes(head[:8], "little") < 1 << 30:
        return "safetensors"
    return "text" if is_text(head) else "binary"


def file_pieces(path: Path) -> Iterator[Found]:
    """Everything in a file.

    Raises:
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
        stream.seek(0)
        kind = kind_of(head)
        if kind == "sqlite":
            yield from _sqlite(path)
        elif kind in ("arrow", "parquet"):
            yield from (arrow_pieces if kind == "arrow" else parquet_pieces)(path, inside)
        elif kind == "zip":
            yield from _zip(stream, "", 0)
        elif kind == "packed":
            yield from _packed(stream, head, "", 0)
        elif kind == "safetensors":
            yield from _safetensors(stream, "", 0)
        elif kind != "binary" and path.stat().st_size <= _WHOLE:
            yield from inside(stream.read(), "", 0)
        elif kind == "text":
            yield from _chunks(stream, "text", "")
        elif kind != "binary":
            yield Remark("not_searched", "", "too long to be opened")
        if kind != "text":  # as bytes too: no cell, member or chunk holds the deleted rows and the padding
            stream.seek(0)
            yield from _chunks(stream, "binary" if kind == "binary" else "raw", "")


def inside(data: bytes, place: str, depth: int) -> Iterator[Found]:
    """Everything in bytes that were read from `place` of a file."""
    kind = kind_of(data[: 1 << 16])
    if depth > _DEEPEST:
        yield Remark("not_searched", place, "packed too deeply")
    elif kind == "picture":
        yield from picture_pieces(data, place)
    elif kind in ("arrow", "parquet"):
        yield from (arrow_pieces if kind == "arrow" else parquet_pieces)(data, inside, place, depth)
    elif kind == "zip":
        yield from _zip(io.BytesIO(data), place, depth)
    elif kind == "packed":
        yield from _packed(io.BytesIO(data), data, place, depth)
    elif kind == "safetensors":
        yield from _safetensors(io.BytesIO(data), place, depth)
    elif kind == "closed" or (kind == "sqlite" and depth):
        yield Remark("not_searched", place, "of a kind that is not opened")
    elif kind in ("text", "utf16"):
        text = data.decode("utf-16", errors="replace").encode() if kind == "utf16" else data
        yield from text_pieces(text, lines(place, text), depth, inside)
    else:
        yield Piece(data, "binary", lambda at: joined(place, f"byte {at}"))


def _chunks(stream: IO[bytes] | _Chained, kind: str, place: str) -> Iterator[Found]:
    """A stream of any length in pieces that overlap, each hit in one of them."""
    start, line, before = 0, 1, b""
    ahead = stream.read(_CHUNK + _OVERLAP)
    while ahead:
        last = len(ahead) < _CHUNK + _OVERLAP
        own = len(ahead) if last else _CHUNK
        data = before + ahead

        def where(at: int, data: bytes = data, lead: int = len(before), start: int = start, line: int = line) -> str:
            if kind != "text":
                return joined(place, f"byte {start + at - lead}")
            return joined(place, f"line {line + data.count(_NEWLINE, lead, at)}")

        yield Piece(data, kind, where, first=len(before), limit=len(before) + own)
        start, line = start + own, line + ahead.count(b"\n", 0, own)
        before = ahead[max(0, own - _CONTEXT) : own]
        ahead = b"" if last else ahead[own:] + stream.read(_CHUNK)


def _safetensors(stream: IO[bytes], place: str, depth: int) -> Iterator[Found]:
    length = int.from_bytes(stream.read(8), "little")
    header = stream.read(min(length, _WHOLE))
    yield from text_pieces(header, lambda _: joined(place, "header"), depth, inside)


def _opened(stream: IO[bytes], head: bytes) -> Any:
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    return bz2.BZ2File(stream) if head.startswith(b"BZh") else lzma.LZMAFile(stream)


def _packed(stream: IO[bytes], head: bytes, place: str, depth: int) -> Iterator[Found]:
    where = joined(place, "unpacked")
    try:
        with _opened(stream, head) as content:
            yield from _content(content, where, depth)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        yield Remark("not_searched", where, f"damaged ({type(error).__name__})")


class _Chained:
    """A stream whose start was read already."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start, self._rest = io.BytesIO(start), rest

    def read(self, size: int) -> bytes:
        data = self._start.read(size)
        return data + self._rest.read(size - len(data)) if len(data) < size else data


def _content(content: IO[bytes], place: str, depth: int) -> Iterator[Found]:
    """What a packed stream holds: as a whole where it is short, else in chunks."""
    start = content.read(_WHOLE + 1)
    if len(start) <= _WHOLE:
        yield from inside(start, place, depth + 1)
        return
    kind = "text" if is_text(start) else "raw"
    yield from _chunks(_Chained(start, content), kind, place)


def _zip(stream: IO[bytes], place: str, depth: int) -> Iterator[Found]:
    try:
        with zipfile.ZipFile(stream) as archive:
            for number, entry in enumerate(archive.infolist()):
                where = joined(place, f"member {number}")
                names = b"\n".join([entry.filename.encode("utf-8", "surrogateescape"), entry.comment])
                yield Piece(names, "text", lambda _, where=where: f"{where}, name")  # type: ignore[misc]
                stored_tensor = entry.compress_type == zipfile.ZIP_STORED and re.search(r"/data/\d+\Z", entry.filename)
                if entry.is_dir() or (stored_tensor and not place):
                    continue  # the raw bytes of torch's tensors are searched with the file's
                with archive.open(entry) as content:
                    yield from _content(content, where, depth)
            yield Piece(archive.comment, "text", lambda _: joined(place, "comment"))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, zlib.error) as error:
        yield Remark("not_searched", joined(place, "zip"), f"damaged or encrypted ({type(error).__name__})")


def _sqlite(path: Path) -> Iterator[Found]:
    """Every cell of every table, without touching the file."""
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
    connection.text_factory = bytes
    try:
        names = [name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in ["sqlite_master", *names]:
            yield from _table(connection, table)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        yield Remark("not_searched", "database", f"damaged ({type(error).__name__})")
    finally:
        connection.close()


def _table(connection: sqlite3.Connection, table: str) -> Iterator[Found]:
    cursor = connection.execute('SELECT * FROM "' + table.replace('"', '""') + '"')
    columns = [description[0] for description in cursor.description]
    first = 0
    while some := cursor.fetchmany(_ROWS):
        rows = range(first, first + len(some))
        for index, column in enumerate(columns):
            place = f"table {table}, column {column}"
            values = [row[index] for row in some]
            yield from cells([value if isinstance(value, bytes) else b"" for value in values], rows, place, 0, inside)
            yield from numbers([value if isinstance(value, int) else None for value in values], rows, place)
        first += len(some)
