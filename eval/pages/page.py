"""What our HTML pages share: one file that opens from disk, its content policy, escaped texts, tables, the look in light and dark.

Nothing is fetched and no script runs but the page's own, whose hash the policy names: text that slipped through as a script or
as an attribute could neither run nor send. Knows nothing of what a page shows.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterable
from pathlib import Path

NOTICE = "Research use only, not a medical device"


def shell(title: str, *, style: str, script: str, body: Iterable[str]) -> str:
    """A whole page: `body` is HTML, `title` is text.

    The policy forbids every address, form and foreign script; pictures may stand in the file as data. Style attributes are
    forbidden too, so sizes are attributes of SVG or classes.
    """
    style, script = LOOK + style, PRELUDE + script
    sources = f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{sources}; base-uri 'none'; form-action 'none'\">"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{text(title)}</title><style>{style}</style></head><body>{''.join(body)}<script>{script}</script></body></html>\n"
    )


def _sha256(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def text(value: object) -> str:
    """Escaped for elements and for quoted attributes."""
    return html.escape(str(value))


def scrolling(label: str, table: str) -> str:
    """A table wider or longer than its place scrolls by itself, and by keyboard."""
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{text(label)}'><table>{table}</table></div>"


def column(name: str, *, numeric: bool) -> str:
    """Head of a column; a click sorts by it."""
    return f"<th scope='col'{' class=n' if numeric else ''}><button type='button'>{text(name)}</button></th>"


def cell(shown: str, value: float | None, kind: str = "") -> str:
    """A number, set flush right; what cannot be sorted by number sorts last."""
    known = f" data-v='{value:.10g}'" if value is not None and math.isfinite(value) else ""
    return f"<td class='{f'n {kind}'.strip()}'{known}>{text(shown)}</td>"


LOOK = """
:root { color-scheme: light dark; --ink: #1a1a1e; --soft: #5c5c66; --line: #d9d9e0; --ground: #fff; --raised: #f5f5f8; --mark: #ffe7a3;
  --alert: #b00020; --link: #2a5d9f; --good: #00704f; --doubt: #855300; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e8e8ee; --soft: #a0a0ac; --line: #3a3a44; --ground: #16161a; --raised: #212127; --mark: #5e4a10;
  --alert: #ff8a9a; --link: #8ab8f0; --good: #4fd3a5; --doubt: #ffb85c; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 1.6rem auto; max-width: 100rem; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; } code { font-size: .9em; }
.notice { color: var(--alert); font-weight: 600; } .note { color: var(--soft); font-size: .85rem; max-width: 60rem; } .soft { color: var(--soft); font-weight: 400; font-size: .9em; }
.scroll { overflow: auto; max-height: 75vh; max-width: 100%; width: fit-content; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; width: max-content; } td, tbody th { padding: .25rem .7rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead { position: sticky; top: 0; z-index: 2; } thead th, thead td { background: var(--raised); padding: .3rem .7rem; text-align: left; border: 0; vertical-align: bottom; }
thead th.group { border-left: 1px solid var(--line); white-space: nowrap; } thead button { all: unset; cursor: pointer; white-space: nowrap; color: var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--ground); }
.n, thead .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px; }
"""

PRELUDE = """
'use strict';
const all = (selector, under = document) => [...under.querySelectorAll(selector)];
for (const button of all('thead button')) button.addEventListener('click', () => {
  const head = button.parentElement, table = button.closest('table'), body = table.tBodies[0];
  const column = [...head.parentElement.children].indexOf(head);
  const direction = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  const value = (row) => row.children[column].dataset.v;
  const rows = [...body.rows].sort((one, two) => {
    const first = value(one), second = value(two);
    if ((first === undefined) !== (second === undefined)) return first === undefined ? 1 : -1;
    if (first !== undefined) return direction * (first - second);
    return direction * one.children[column].textContent.localeCompare(two.children[column].textContent);
  });
  for (const other of all('th[aria-sort]', table)) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', direction > 0 ? 'ascending' : 'descending');
  body.append(...rows);
});
"""


def check_page(path: Path) -> None:
    """Before the work that a page is made of.

    Raises:
        ValueError: no page can be written to `path`; says why.
    """
    if path.is_dir():
        why = "is a folder"
    elif not path.absolute().parent.is_dir():
        why = "its folder is not there"
    elif path.suffix.lower() not in (".html", ".htm"):
        why = "does not end in .html"
    else:
        return
    raise ValueError(f"--out {path}: {why}: name an HTML file")
