"""The split that a dataset's authors made, as they wrote it down. Must not know pictures or annotations."""

from __future__ import annotations

from pathlib import Path

from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.tables import read_text

WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""A split as written, in lower case -> train, val or test."""


def split_of(word: str) -> str | None:
    """train, val or test; None where the word names no split."""
    return WORDS.get(word.strip().lower())


def read_names(file: Path) -> frozenset[str]:
    """The names of a list file, one a line, without folders, as `loosely` compares them.

    Raises:
        ValueError: missing, not UTF-8, or without a name.
    """
    names = frozenset(
        loosely(line.strip().replace("\\", "/").rpartition("/")[2])
        for line in read_text(file, "list").splitlines()
        if line.strip()
    )
    if not names:
        raise ValueError(f"{file}: no name in it: give the dataset's own list, one name a line (--split-list)")
    return names
