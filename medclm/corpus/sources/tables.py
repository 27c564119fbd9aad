"""Tables as files: strict CSV, since a table that is read wrongly by one column still looks like a table.

Encoding, delimiter, header and the width of every row are settled here, and each fault names file and line. Must not know
what any column means; a cell whose value is wrong is for the format that reads it.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 2**30
"""Largest text that is read; compressed files count unpacked."""
_MOST_PACKED, _ALWAYS_UNPACKED = 100, 1 << 24
"""A packed text may grow to so many times its size, and to so many bytes whatever its size: tables shrink thirtyfold at best, zeros
a thousandfold."""
_CHUNK = 1 << 20

_DELIMITERS = ",;\t|"
_BLANK = frozenset({"", "nan", "null"})
"""What tools write where they have nothing, in lower case."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row; cells are stripped, and "" where nothing is stated."""

    line: int
    """Line of the file that it starts on, from 1."""
    number: int
    """Place among the rows below the header, from 0."""
    cells: tuple[str, ...]
    columns: Mapping[str, int]

    def __getitem__(self, column: str) -> str:
        """The cell; "" where it is blank or the table lacks an optional column."""
        place = self.columns.get(column)
        return "" if place is None else self.cells[place]


@dataclass(frozen=True)
class Table:
    """The wanted columns of a table, in order of the file."""

    file: Path
    columns: frozenset[str]
    """Wanted columns that it has."""
    rows: tuple[Row, ...]

    def one_per(self, column: str) -> dict[str, Row]:
        """Cell of `column` -> its row; rows that say the same twice count once.

        Raises:
            ValueError: two rows of one key that differ, or a row without a key.
        """
        found: dict[str, Row] = {}
        for row in self.rows:
            key = row[column]
            if not key:
                raise ValueError(f"{self.file}:{row.line}: {column} is empty: fill it in or remove the row")
            first = found.setdefault(key, row)
            if first.cells != row.cells:
                raise ValueError(
                    f"{self.file}:{row.line}: line {first.line} says something else of the same {column}: keep one"
                )
        return found


def read_text(file: Path, what: str = "text", *, most: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file (or UTF-16 with its mark), unpacked where the name ends in .gz.

    Raises:
        ValueError: missing, unreadable, more than `most` bytes, or not text in that encoding.
    """
    try:
        content = _unpacked(file, most) if file.suffix.lower() == ".gz" else _content(file, most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file}: not a whole gzip file: fetch it again") from error
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or error}: give an existing {what} file") from error
    try:
        return content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not {error.encoding}: save the file as UTF-8") from error


def _content(file: Path, most: int) -> bytes:
    if file.stat().st_size > most:  # before a byte is read: a file with holes takes no room on the disk
        raise ValueError(f"{file}: more than {most} bytes of text: split it")
    return file.read_bytes()


def _unpacked(file: Path, most: int) -> bytes:
    """What a gzip file holds; counted before any of it is kept."""
    most = min(most, max(_ALWAYS_UNPACKED, _MOST_PACKED * file.stat().st_size))
    grown = 0
    with gzip.open(file) as packed:
        while chunk := packed.read(_CHUNK):
            grown += len(chunk)
            if grown > most:
                raise ValueError(f"{file}: it unpacks to more than {most} bytes of text: split it, or give it unpacked")
    with gzip.open(file) as packed:
        return packed.read()


def read_table(
    file: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    mend_header: Callable[[list[str]], list[str]] | None = None,
) -> Table:
    """The wanted columns of a CSV file; the delimiter is the one under which most of them stand in the header.

    Args:
        required: columns that must be there; names count letter by letter.
        optional: columns that may be there. All others are left alone.
        mend_header: from the header as split to one name per column, for files that break the rules in a known way.

    Raises:
        ValueError: no text, no such column (with a did-you-mean), a column twice, quotes that never end, or a row that is
            wider or narrower than the header; names file, line and cure.
    """
    text = read_text(file, "CSV")
    sought = {*required, *optional}
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    delimiter = max(_DELIMITERS, key=lambda mark: len(sought & set(_header(first, mark, mend_header))))
    records = _records(file, text, delimiter)
    line, cells = next(records, (0, []))
    if not cells:
        raise ValueError(f"{file}: empty: give a table with the columns {', '.join(required)}")
    header = mend_header(_stripped(cells)) if mend_header else _stripped(cells)
    wanted = _places(file, line, header, required, optional)
    columns = {name: place for place, name in enumerate(wanted)}
    width = max(place for place, name in enumerate(header, 1) if name)  # nameless columns at the end may be missing in rows
    rows: list[Row] = []
    for line, cells in records:
        if len(cells) < width or any(cell.strip() for cell in cells[width:]):
            raise ValueError(
                f"{file}:{line}: {len(cells)} cells under a header of {width}: quote cells that hold a {delimiter!r}"
            )
        rows.append(Row(line, len(rows), tuple(_cell(cells[place]) for place in wanted.values()), columns))
    return Table(file, frozenset(wanted), tuple(rows))


def _records(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of every record that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{file}:{line}: {error}: close the quotes of that row") from error


def _header(line: str, delimiter: str, mend: Callable[[list[str]], list[str]] | None) -> list[str]:
    try:
        names = _stripped(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return []
    return mend(names) if mend else names


def _stripped(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _places(file: Path, line: int, header: list[str], required: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
    """Wanted column -> its place."""
    for name in required:
        if name not in header:
            close = difflib.get_close_matches(name, header, n=1)
            listed = ", ".join(found[:40] for found in header[:12] if found) or "none"
            hint = f"did you mean {close[0][:40]}?" if close else f"there are {listed}"
            raise ValueError(f"{file}:{line}: no column {name}: {hint}")
    found = {name: header.index(name) for name in (*required, *optional) if name in header}
    for name in found:
        if header.count(name) > 1:
            raise ValueError(f"{file}:{line}: column {name} stands {header.count(name)} times: rename all but one")
    return found


def _cell(text: str) -> str:
    plain = text.strip()
    return "" if plain.casefold() in _BLANK else plain
