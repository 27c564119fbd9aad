"""The report as one HTML file without scripts or references: the tables, then contact sheets by stage and plane.

Every text is escaped; equal corpora give equal bytes. Knows tables and sheets, no rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medclm.corpus.report import NOTICE
from medclm.corpus.report.lesions import ModelSquare
from medclm.corpus.report.sheets import Sheet, choose_sheets, escape, figures
from medclm.corpus.report.summary import summarise
from medclm.corpus.report.tables import Table, review_state, tables, warnings
from medclm.data.shards import Corpus

_OPEN_ROWS = 12
"""Rows of a table that are shown before the rest is folded."""
_OPEN_WARNINGS = 5
_NUMBER = re.compile(r"-?\d+(\.\d+)?%?|unknown|not known|none")
_STAGE = {
    "easy": "Easy: the boxes that the rationale speaks of are drawn, or else the first one",
    "medium": "Medium: the same image without boxes",
    "hard": "Hard: another patient's image, no rationale",
}
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1b1f;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.05rem;margin:0 0 .4rem}h2.stage{margin-top:2.4rem;font-size:1.2rem}h3{font-size:1rem;margin:1.2rem 0 .5rem}
.notice,.warning,.review{border-left:4px solid #b3261e;padding:.3rem .8rem;margin:.4rem 0;background:#fdf0ef}
.warning{border-color:#b06f00;background:#fdf6e7}.review{border-color:#3d5a80;background:#eef3f9}
table{border-collapse:collapse;font-size:.88rem}td,th{padding:.18rem 1rem .18rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{font-weight:600;color:#5f5f68;border-bottom:1px solid #d6d6dc}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td:first-child{min-width:6rem}.bar{display:block;height:.7rem;background:#5b84b1;min-width:1px}td.bars{width:14rem;vertical-align:middle}
.tables{display:flex;flex-wrap:wrap;gap:1.6rem 3.5rem;margin-top:1.4rem}section{max-width:100%;overflow-x:auto}.note{font-size:.82rem;color:#5f5f68;margin:.3rem 0;max-width:44rem}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem}summary{cursor:pointer;color:#3d5a80;font-size:.88rem}
figure{margin:0;border:1px solid #d6d6dc;border-radius:6px;overflow:hidden}.view{background:#111;display:flex;justify-content:center;padding:.4rem}
.frame{position:relative;line-height:0}.frame img{max-width:100%}.frame span{position:absolute;font:600 13px/1 system-ui,sans-serif;color:#fff;text-shadow:0 0 3px #000,0 0 3px #000}
.left{left:3px;top:calc(50% - 7px)}.right{right:3px;top:calc(50% - 7px)}.top{top:3px;left:0;right:0;text-align:center}.bottom{bottom:3px;left:0;right:0;text-align:center}
.frame .number{transform:translate(-1px,-14px);color:#ff5c5c}figcaption{font-size:.82rem;padding:.2rem .6rem .4rem}figcaption p{margin:.3rem 0;overflow-wrap:anywhere}.head{color:#5f5f68}"""


def write_report(corpus: Corpus, path: Path, *, samples_per_sheet: int = 8, square: ModelSquare | None = None) -> None:
    """Write the page of a corpus.

    Raises:
        ValueError: a damaged corpus; names file and row.
        OSError: the file cannot be written.
    """
    path.write_text("".join(_page(corpus, samples_per_sheet, square)), encoding="utf-8")


def _page(corpus: Corpus, samples_per_sheet: int, square: ModelSquare | None) -> Iterator[str]:
    summary = summarise(corpus, square)
    yield "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    yield f"<title>Corpus report</title><style>{_STYLE}</style></head><body><h1>Corpus report</h1>"
    yield f"<p class='notice'><b>{NOTICE}</b> Strictest licence: {escape(corpus.manifest.get('licence', 'unknown'))}.</p>"
    yield f"<p class='review'>{escape(review_state(corpus.manifest))}</p>"
    yield from _warnings(warnings(summary))
    yield "<div class='tables'>"
    for table in tables(summary):
        yield from _table(table)
    yield "</div>"
    stage = ""
    for sheet in choose_sheets(corpus, samples_per_sheet):
        yield f"<h2 class='stage'>{escape(_STAGE[sheet.stage])}</h2>" if sheet.stage != stage else ""
        stage = sheet.stage
        yield from _sheet(corpus, sheet)
    yield "</body></html>\n"


def _warnings(found: Sequence[str]) -> Iterator[str]:
    lines = [f"<p class='warning'>{escape(warning)}</p>" for warning in found]
    yield from lines[:_OPEN_WARNINGS]
    if len(lines) > _OPEN_WARNINGS:
        more = lines[_OPEN_WARNINGS:]
        yield f"<details><summary>{len(more)} more warnings</summary>{''.join(more)}</details>"


def _table(table: Table) -> Iterator[str]:
    yield f"<section><h2>{escape(table.title[:1].upper() + table.title[1:])}</h2>"
    yield from (f"<p class='note'>{escape(note)}</p>" for note in table.notes)
    numeric = _numeric_columns(table)
    head = _cells(table.header, numeric, "th") if table.header else ""
    rows = [f"<tr>{_cells(row, numeric, 'td')}{_bar(table, at)}</tr>" for at, row in enumerate(table.rows)]
    yield f"<table>{f'<tr>{head}</tr>' if head else ''}{''.join(rows[:_OPEN_ROWS])}</table>"
    if len(rows) > _OPEN_ROWS:
        more = rows[_OPEN_ROWS:]
        yield f"<details><summary>{len(more)} more rows</summary><table><tr>{head}</tr>{''.join(more)}</table></details>"
    yield "</section>"


def _numeric_columns(table: Table) -> set[int]:
    """Columns after the first that hold numbers, or say that there is none; they are set flush right."""
    widest = max((len(row) for row in table.rows), default=0)
    return {at for at in range(1, widest) if all(_NUMBER.fullmatch(row[at]) for row in table.rows if at < len(row))}


def _cells(row: Sequence[str], numeric: set[int], tag: str) -> str:
    return "".join(f"<{tag}{' class=n' if at in numeric else ''}>{escape(cell)}</{tag}>" for at, cell in enumerate(row))


def _bar(table: Table, at: int) -> str:
    return f"<td class='bars'><span class='bar' style='width:{100 * table.bars[at]:.1f}%'></span></td>" if table.bars else ""


def _sheet(corpus: Corpus, sheet: Sheet) -> Iterator[str]:
    plane = "plane not known" if sheet.plane == "unknown" else "no anatomical plane" if sheet.plane == "none" else sheet.plane
    yield f"<h3>{escape(plane)} <span class='note'>({len(sheet.rows)} of {sheet.offered} samples)</span></h3><div class='sheet'>"
    yield from figures(corpus, sheet)
    yield "</div>"
