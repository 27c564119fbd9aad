"""The report as lines for a terminal: every table, at most ten rows each, and a few records in full.

Knows tables and records; nothing of HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medclm.corpus.report import NOTICE
from medclm.corpus.report.lesions import ModelSquare
from medclm.corpus.report.summary import STAGES, summarise
from medclm.corpus.report.tables import Row, Table, review_state, tables, warnings
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus

MOST = 10
"""Rows of a table, and warnings, that are printed."""
_WIDEST = 60


def text_report(corpus: Corpus, *, samples: int = 0, square: ModelSquare | None = None) -> str:
    """The summary, and the first `samples` records of the first split that has any, as readable lines."""
    summary = summarise(corpus, square)
    lines = [
        str(corpus.folder),
        f"  {NOTICE}",
        f"  licence: {corpus.manifest.get('licence', 'unknown')}",
        f"  review: {review_state(corpus.manifest)}",
    ]
    for table in tables(summary):
        lines += ["", *_table(table)]
    lines += _limited([f"warning: {warning}" for warning in warnings(summary)])
    for row in _first_records(corpus, samples):
        lines += ["", *_record(corpus, row)]
    return "\n".join(lines)


def _table(table: Table) -> Iterator[str]:
    yield table.title
    shown = [*([table.header] if table.header else []), *table.rows[:MOST]]
    widths = [max(len(_short(row[at])) for row in shown if at < len(row)) for at in range(max(map(len, shown)))]
    yield from (f"  {_line(row, widths)}" for row in shown)
    if len(table.rows) > MOST:
        yield f"  and {len(table.rows) - MOST} more"
    yield from (f"  ({note})" for note in table.notes)


def _line(row: Row, widths: Sequence[int]) -> str:
    return "  ".join(f"{_short(cell):<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _limited(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST else [*lines[:MOST], f"and {len(lines) - MOST} more warnings"]


def _first_records(corpus: Corpus, count: int) -> list[int]:
    """Rows of the first records of train, else val, else test."""
    for split in SPLITS:
        files = corpus.record_files(split)
        if files:
            first, rows = files[0]
            return list(range(first, first + min(rows, count)))
    return []


def _record(corpus: Corpus, row: int) -> Iterator[str]:
    record = corpus.row("records", row)
    yield f"record {row}  {record['domain']}  {record['question_kind']}  {record['split']}  image row {record['image_row']}"
    for stage in STAGES:
        if record[f"question_{stage}"] is None:
            continue
        yield f"  {stage}" + (f" (image row {record['hard_image_row']})" if stage == "hard" else "")
        for part in ("question", "rationale", "answer"):
            if record.get(f"{part}_{stage}"):
                yield f"    {part[0].upper()}: {record[f'{part}_{stage}']}"
