"""Arrow and Parquet files -> pieces for an audit: every column of every batch, decompressed, however it is nested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medclm.corpus.audit_pieces import Found, Inside, Piece, Remark, cells, joined, numbers


def arrow_pieces(source: Path | bytes, inside: Inside, place: str = "", depth: int = 0) -> Iterator[Found]:
    """An Arrow stream or file; damage becomes a remark."""
    try:
        with pa.memory_map(str(source)) if isinstance(source, Path) else pa.BufferReader(source) as opened:
            is_file = opened.read(6) == b"ARROW1"
            opened.seek(0)
            if is_file:
                reader = pa.ipc.open_file(opened)
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                reader = pa.ipc.open_stream(opened)
                batches = iter(reader)
            yield from _table(reader.schema, batches, inside, place, depth)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # damaged names and sizes raise those
        yield Remark("not_searched", joined(place, "Arrow"), f"damaged ({type(error).__name__})")


def parquet_pieces(source: Path | bytes, inside: Inside, place: str = "", depth: int = 0) -> Iterator[Found]:
    """A Parquet file; damage becomes a remark."""
    try:
        with pq.ParquetFile(source if isinstance(source, Path) else pa.BufferReader(source)) as opened:
            yield from _table(opened.schema_arrow, opened.iter_batches(), inside, place, depth)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # damaged names and sizes raise those
        yield Remark("not_searched", joined(place, "Parquet"), f"damaged ({type(error).__name__})")


def _table(schema: Any, batches: Iterator[Any], inside: Inside, place: str, depth: int) -> Iterator[Found]:
    metadata = [*(schema.metadata or {}).items(), *(pair for field in schema for pair in (field.metadata or {}).items())]
    for text, what in (
        (b"\n".join(part for pair in metadata for part in pair), "schema metadata"),
        (b"\n".join(name.encode() for name in schema.names), "column names"),
    ):
        yield Piece(text, "text", lambda _, what=what: joined(place, what))  # type: ignore[misc]
    for field in schema:
        if pa.types.is_date(field.type) or pa.types.is_timestamp(field.type):
            yield Remark("date", joined(place, f"column {field.name}"), "a column of dates")
    first = 0
    for batch in batches:
        batch.validate(full=True)  # offsets of a damaged file would be followed out of memory
        rows = np.arange(first, first + batch.num_rows)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            yield from _column(column, rows, joined(place, f"column {name}"), depth, inside)
        first += batch.num_rows


def _column(array: Any, rows: np.ndarray, place: str, depth: int, inside: Inside) -> Iterator[Found]:
    """One column or part of one; `rows` holds the table row of each element."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from _column(array.dictionary_decode(), rows, place, depth, inside)
    elif isinstance(array, pa.ExtensionArray):
        yield from _column(array.storage, rows, place, depth, inside)
    elif pa.types.is_struct(kind):
        for index, field in enumerate(kind):
            yield from _column(array.field(index), rows, f"{place}.{field.name}", depth, inside)
    elif pa.types.is_map(kind) or pa.types.is_union(kind) or _is_view(kind):
        yield from cells([str(value).encode() for value in array.to_pylist()], rows.tolist(), place, depth, inside)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _column(array.flatten(), rows[np.asarray(array.value_parent_indices())], place, depth, inside)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind):
        values = [b"" if value is None else value for value in array.cast(pa.large_binary()).to_pylist()]
        yield from cells(values, rows.tolist(), place, depth, inside)
    elif pa.types.is_integer(kind):
        yield from numbers(array.to_pylist(), rows.tolist(), place)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _is_view(kind: Any) -> bool:
    return "view" in str(kind)
