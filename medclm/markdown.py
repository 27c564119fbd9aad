"""Plain texts as Markdown: escaped, in lists and tables. Knows nothing of what they say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

LISTED = 12
"""Names that are listed before the rest is only counted."""
_LONGEST = 200


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are already escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def escape(text: object) -> str:
    """A text on one line that Markdown and HTML show as it is, without links; control characters go, a long text is cut."""
    return re.sub(r"([\\`*_{}\[\]#|<>~$&@]|:(?=/)|(?<=www)\.)", r"\\\1", _line(text))


def code(text: object) -> str:
    """The same in code type; backticks go too."""
    line = _line(text).replace("`", "").strip()
    return f"`{line}`".replace("|", "\\|") if line else ""


def _line(text: object) -> str:
    line = "".join(letter for letter in " ".join(str(text).split()) if unicodedata.category(letter)[0] != "C")
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def counted(counts: Mapping[str, int]) -> str:
    shown = [f"{escape(name)} {n:,}" for name, n in list(counts.items())[:LISTED]]
    return ", ".join(shown + ([f"{len(counts) - LISTED} more"] if len(counts) > LISTED else [])) or "unknown"


def listed(names: Iterable[str]) -> str:
    every = [escape(name) for name in names]
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED} more" if len(every) > LISTED else "")


def count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
