"""JSON as people really write it: with comments, trailing commas and a byte order mark. Everything else is refused by line.

Strict JSON is tried first, so the leniency costs nothing where it is not needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from medclm.corpus.sources.tables import read_text

_STRING = r'"(?:\\.|[^"\\\n])*+"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|\#[^\n]*|/\*.*?\*/", re.DOTALL)
_COMMA = re.compile(rf"{_STRING}|,(?=\s*[\]}}])")


def read_json(path: Path) -> Any:
    """The value in a JSON file; `//`, `#` and `/* */` comments and trailing commas are accepted, NaN and Infinity too.

    Raises:
        ValueError: missing, too large, no text or not JSON; names file, line and column, and the cure.
    """
    text = read_text(path, "JSON")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(_COMMA.sub(_blank, _COMMENT.sub(_blank, text)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}: correct that line") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not JSON that can be read ({type(error).__name__}): too deep, or a number too long"
        ) from error


def _blank(match: re.Match[str]) -> str:
    """Strings stay; comments and commas become spaces, so that lines and columns in messages stay true."""
    found = match.group()
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)
