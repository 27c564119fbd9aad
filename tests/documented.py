"""The commands of docs/clusters.md, so that tests run what people read."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clusters.md"


def commands() -> list[list[str]]:
    """Words of every indented command."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]


def documented(*begin: str, instead: Mapping[str, Sequence[object]]) -> list[str]:
    """The one command that begins so.

    Args:
        begin: its first words.
        instead: word of the page -> what a test gives in its place, maybe nothing; every one of them must be there.

    Raises:
        ValueError: the page has no such command, or several, or a word is not in it.
    """
    found = [words for words in commands() if words[: len(begin)] == list(begin)]
    if len(found) != 1:
        raise ValueError(f"{PAGE.name}: {len(found)} commands begin with {' '.join(begin)}")
    (words,) = found
    if absent := instead.keys() - set(words):
        raise ValueError(f"{PAGE.name}: {' '.join(words)}: has no {', '.join(sorted(absent))}")
    return [str(given) for word in words for given in instead.get(word, [word])]
