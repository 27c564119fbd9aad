"""Small readings that the layouts of visual questions share: fields of a file, picture names, choices, kinds, ids.

Knows no single benchmark.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.example import Example
from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.files import safe_parts

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
SUFFIXES = (".json", *LINES, *TABLES)
"""Of the files that hold questions."""

LETTERS = "ABCDEFGH"
"""Of the options of a choice; medclm/metrics/parsing.py reads no more."""

_HEAD = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DELIMITERS = ",;\t|"

_KINDS = {
    "organ": "which_organ",
    "abnormality": "what",
    "abn": "what",
    "presence": "presence",
    "pres": "presence",
    "position": "where",
    "pos": "where",
    "quantity": "count",
    "size": "compare",
}
"""Published categories that are one of our kinds. `Size` asks which organ is the largest: its answers are names, not lengths."""


def head_of(file: Path) -> str:
    """The first 64 KiB of a file as text, what cannot be read replaced; "" where there is none. Never raises."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return ""
    return head.decode("utf-16" if head.startswith(_UTF16) else "utf-8-sig", errors="replace")


def fields_of(file: Path) -> frozenset[str]:
    """Names of the fields near the start of a JSON, JSON Lines or CSV file; none where it cannot be read. Never raises."""
    head = head_of(file)
    if file.suffix.lower() not in TABLES:
        return frozenset(re.findall(r'"(\w{1,60})"\s*:', head))
    first = next((line for line in head.split("\n") if line.strip()), "")
    return frozenset(cell.strip().strip('"') for mark in _DELIMITERS for cell in _cells(first, mark))


def _cells(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:
        return []


def tables_in(data: Path) -> list[Path]:
    """The file itself, or the question files directly in a folder, sorted. Never raises."""
    try:
        found = sorted(data.iterdir()) if data.is_dir() else [data]
        return [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
    except OSError:
        return []


def picture_name(file: Path, number: int, name: str) -> str:
    """A picture's name as written in `file`, row `number`.

    Raises:
        ValueError: it is absolute or climbs with `..`.
    """
    try:
        safe_parts(name)
    except RejectedImage as error:
        raise ValueError(f"{file}:{number}: picture {name[:80]!r}: {error.detail}") from error
    return name


def yes_or_no(answer: str) -> bool:
    """Whether an answer is one of the two, in English or Chinese."""
    return answer.strip().lower().rstrip(".。") in ("yes", "no", "是", "否", "有", "没有", "是的", "不是")


def kind_of_category(category: str, answer: str) -> str:
    """Kind of a question from its published category: a yes or no to `organ` or `abnormality` asks for presence; words of the
    benchmark's own stay, in lower case; `other` where there is none."""
    kind = _KINDS.get(category.lower(), category.lower() or "other")
    return "presence" if kind in ("what", "which_organ") and yes_or_no(answer) else kind


def with_options(question: str, options: Sequence[str]) -> str:
    """The question with its options below it, as every scorer reads them: `A) liver`."""
    return "\n".join([question, *(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))])


def one_each(examples: Sequence[Example]) -> list[Example]:
    """The same examples with ids that differ, for benchmarks whose ids name the picture: a second `x` becomes `x.2`."""
    taken, seen = {example.id for example in examples}, Counter[str]()
    found = []
    for example in examples:
        seen[example.id] += 1
        name = example.id
        if seen[name] > 1:
            place = seen[name]
            while f"{name}.{place}" in taken:
                place += 1
            seen[name], name = place, f"{name}.{place}"
            taken.add(name)
        found.append(example if name == example.id else replace(example, id=name))
    return found
