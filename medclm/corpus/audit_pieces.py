"""What the readers of an audit hand over: plain bytes that know their place, and remarks on what the bytes stood in.

Stands apart so that readers of single formats need not know each other. Must not know what is looked for.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*")
_HEX = re.compile(rb"[0-9a-fA-F\s-]+\Z")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))


@dataclass(frozen=True)
class Piece:
    """Bytes to be searched. Hits that start before `first` or at `limit` and later belong to a neighbour."""

    data: bytes
    kind: str
    """text: identifiers and patterns. numbers: identifiers. binary: identifiers, and patterns in its printable runs.
    raw: identifiers, as in binary data."""
    place: Callable[[int], str]
    """Offset -> where that is within the file."""
    first: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Remark:
    """Something that is a finding by itself."""

    kind: str
    """image_metadata, date, key_material, not_searched."""
    place: str
    detail: str
    """Never text of the file."""


@dataclass(frozen=True)
class Hit:
    """Something found in a piece of data."""

    start: int
    end: int
    kind: str
    number: int = 0
    """Which identifier of the list, from 1; 0 for patterns."""


Found = Piece | Remark
Inside = Callable[[bytes, str, int], Iterator[Found]]
"""(data, place, depth) -> everything in data of any format."""


def joined(place: str, part: str) -> str:
    return f"{place}, {part}" if place else part


def is_text(data: bytes) -> bool:
    """Whether at most one byte in twenty is a control code or no UTF-8; zero bytes are never text."""
    head = data[: 1 << 16]
    if b"\0" in head:
        return False
    odd = len(head) - len(head.translate(None, _CONTROLS))
    odd += 0 if head.isascii() else head.decode("utf-8", errors="replace").count("\ufffd")
    return odd <= 0.05 * len(head)


def text_pieces(data: bytes, place: Callable[[int], str], depth: int, inside: Inside) -> Iterator[Found]:
    """Text, and what the base64 in it holds."""
    yield Piece(data, "text", place)
    for at, decoded in base64_runs(data):
        where = joined(place(at), "base64")
        if is_text(decoded) or _has_magic(decoded):
            yield from inside(decoded, where, depth + 1)
        else:
            yield Piece(decoded, "raw", lambda _, where=where: where)  # type: ignore[misc]


def _has_magic(data: bytes) -> bool:
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"\x1f\x8b", b"RIFF", b"II*\0", b"MM\0*"))


def lines(place: str, data: bytes) -> Callable[[int], str]:
    """A place function that counts lines."""

    @functools.cache
    def ends() -> np.ndarray:
        return np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))

    return lambda at: joined(place, f"line {int(np.searchsorted(ends(), at)) + 1}")


def base64_runs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, decoded) of each run of 24 and more base64 digits, standard or URL-safe, wrapped or not; hex is none."""
    for match in _BASE64.finditer(data):
        if _HEX.match(match.group()):
            continue
        run = re.sub(rb"[\r\n]", b"", match.group()).translate(bytes.maketrans(b"-_", b"+/"))
        rest = len(run) % 4
        yield match.start(), base64.b64decode(run[:-1] if rest == 1 else run + b"=" * (-rest % 4))


def cells(values: Sequence[bytes], rows: Sequence[int], place: str, depth: int, inside: Inside) -> Iterator[Found]:
    """Values of a column: texts are searched together, others one by one; `rows` numbers them."""
    texts = [value if is_text(value) else b"" for value in values]
    data = b"\n".join(texts)
    if any(texts):
        yield from text_pieces(data, _row_of(texts, rows, place), depth, inside)
    for value, row, text in zip(values, rows, texts, strict=True):
        if value and not text:
            yield from inside(value, joined(place, f"row {row}"), depth + 1)


def numbers(values: Sequence[int | None], rows: Sequence[int], place: str) -> Iterator[Found]:
    """Whole numbers of a column."""
    texts = [b"" if value is None else str(value).encode() for value in values]
    yield Piece(b"\n".join(texts), "numbers", _row_of(texts, rows, place))


def _row_of(texts: Sequence[bytes], rows: Sequence[int], place: str) -> Callable[[int], str]:
    starts = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
    return lambda at: joined(place, f"row {rows[int(np.searchsorted(starts, at, side='right')) - 1]}")
