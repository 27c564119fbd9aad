"""Five hundred broken benchmarks: each is read, or refused by a ValueError that names the file and the cure.

A tiny valid benchmark of every form is mutated by seeded draws: bytes, lines, words, fields, types. What may never happen is another
exception, or a layout that raises while it only looks whether a folder is its own.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.layouts.layout import find_layouts, open_pool
from medclm.draws import generator
from tests.unit import layout_fixtures
from tests.unit.test_sources_malformed import of_bytes, of_lines, of_tokens

FIXTURES = {**layout_fixtures.FIXTURES}
"""Name of a form -> how to write it; further forms are added here."""

EACH = -(-500 // len(FIXTURES))
"""Broken benchmarks of each form."""
CURES = re.compile(
    r"expected|give|correct|choose|remove|rename|fill in|fill it|save|close|quote|did you mean|there (?:is|are)|fetch|make|keep|put|"
    r"write|divide|too deep|export|ids must"
)
OTHER_TYPES: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    "text",
    "",
    -1,
    10**40,
    0.5,
    float("nan"),
    float("inf"),
    [[]],
    {"a": 1},
    ["a", 2],
)

Mutation = Callable[[bytes, np.random.Generator], bytes]


def of_fields(content: bytes, draw: np.random.Generator) -> bytes:
    """A field missing, under another name, or of another type: in one row, or in all."""
    text = content.decode()
    try:
        return json.dumps(_changed(json.loads(text), draw)).encode()
    except ValueError:
        pass
    if text.lstrip().startswith("{"):
        rows = [json.loads(line) for line in text.splitlines()]
        return "".join(json.dumps(row) + "\n" for row in _changed(rows, draw)).encode()
    mark = "|" if "|" in text else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    column = int(draw.integers(max(map(len, rows))))
    for row in rows if draw.integers(2) else [rows[int(draw.integers(len(rows)))]]:
        if draw.integers(2):
            del row[column : column + 1]
        else:
            row[column : column + 1] = [str(OTHER_TYPES[int(draw.integers(len(OTHER_TYPES)))])]
    table = io.StringIO()
    csv.writer(table, delimiter=mark, lineterminator="\n").writerows(rows)
    return table.getvalue().encode()


def _changed(rows: list[Any], draw: np.random.Generator) -> list[Any]:
    names = sorted({name for row in rows if isinstance(row, dict) for name in row})
    name = names[int(draw.integers(len(names)))]
    value = OTHER_TYPES[int(draw.integers(len(OTHER_TYPES)))]
    how = int(draw.integers(4))
    for row in rows if draw.integers(2) else [rows[int(draw.integers(len(rows)))]]:
        if how == 0:
            row.pop(name, None)
        elif how == 1 and name in row:
            row[name.upper()] = row.pop(name)
        else:
            row[name] = value
    return [value] * len(rows) if draw.integers(12) == 0 else rows


def of_parquet(content: bytes, draw: np.random.Generator) -> bytes:
    """A column missing or of another type, or other bytes."""
    match int(draw.integers(6)):
        case 0:
            return b""
        case 1:
            return content[: int(draw.integers(len(content)))]
        case 2:
            flipped = bytearray(content)
            for at in draw.integers(len(content), size=4):
                flipped[int(at)] = int(draw.integers(256))
            return bytes(flipped)
        case 3:
            return b"image,question,answer\na.png,what?,that\n"
    table = pq.read_table(io.BytesIO(content))
    name = table.column_names[int(draw.integers(3))]
    place = table.column_names.index(name)
    others: tuple[pa.Array, ...] = (
        pa.nulls(len(table)),
        pa.array(range(len(table))),
        pa.array([[1]] * len(table)),
        pa.array([b"\xff"] * len(table)),
        pa.array([""] * len(table)),
        pa.array([{"bytes": None, "path": "a.png"}] * len(table)),
    )
    chosen = others[int(draw.integers(len(others)))]
    changed = table.drop_columns(name) if draw.integers(3) == 0 else table.set_column(place, name, chosen)
    stream = io.BytesIO()
    pq.write_table(changed, stream)
    return stream.getvalue()


def mutations(path: Path) -> tuple[Mutation, ...]:
    return (of_parquet,) if path.suffix == ".parquet" else (of_bytes, of_lines, of_tokens, of_fields, of_fields)


def outcome_of(fixture: layout_fixtures.Fixture, root: Path) -> str:
    """read or refused; anything else fails."""
    for layout in find_layouts().values():
        assert layout.recognises(fixture.data) in (True, False)
    try:
        pool = open_pool(fixture.data, fixture.split, layout=fixture.layout)
    except ValueError as error:
        message = str(error)
        assert str(root) in message, message
        assert CURES.search(message), message
        return "refused"
    for example in pool.asked:
        assert all(isinstance(text, str) and text for text in (example.id, example.patient, example.question_kind))
        assert example.answer_type in ("closed", "open", "choice")
        "".join((example.id, example.question, *example.answers, str(example.picture))).encode()  # can be written to a file
        if pool.pictures:
            try:
                pool.pictures.open(example.picture)
            except ValueError as error:
                message = str(error)
                assert str(example.picture) in message, message
                return "picture refused"
    return "read"


@pytest.mark.parametrize("name", FIXTURES)
def test_broken_benchmarks_are_read_or_refused_by_file(name: str, tmp_path: Path) -> None:
    fixture = FIXTURES[name](tmp_path)
    assert outcome_of(fixture, tmp_path) == "read"
    valid = {path: path.read_bytes() for path in fixture.files}
    outcomes: Counter[str] = Counter()
    for number in range(EACH):
        draw = generator(21, f"malformed layout {name} {number}")
        path = fixture.files[number % len(fixture.files)]
        choices = mutations(path)
        mutate = choices[int(draw.integers(len(choices)))]
        path.write_bytes(mutate(valid[path], draw))
        try:
            outcomes[outcome_of(fixture, tmp_path)] += 1
        except Exception as error:
            error.add_note(f"{name} {number}: {mutate.__name__} of {path.name}: {path.read_bytes()[:2000]!r}")
            raise
        path.write_bytes(valid[path])
    assert outcomes.total() == EACH
    assert outcomes["read"] < 0.9 * EACH  # the mutations do break things


def test_every_form_is_broken_five_hundred_times_in_all() -> None:
    assert EACH * len(FIXTURES) >= 500
    assert {"plain", "vqa_rad", "slake", "path_vqa", "pmc_vqa", "vqa_med", "llava_med"} <= set(find_layouts())
