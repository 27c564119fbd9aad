"""The file of verdicts: one JSON line each, appended and forced to disk, so that no judgement is lost with the machine.

    {"schema": 1, "corpus": HASH, "record_id": ID, "stage": "easy", "reader": "A", "verdict": "wrong_side", "seconds": 12.5, "note": "..."}

A reader is a label such as `A`; who that is stays with the people who ran the review. A later line of the same reader about
the same record and stage replaces the earlier one. Knows nothing of pages or rates.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medclm.corpus.review.sample import STAGES

SCHEMA = 1
RIGHT, UNANSWERABLE = "right", "unanswerable"
WRONG = ("wrong_text", "wrong_box", "wrong_side")
"""Verdicts that say a fact is wrong."""
VERDICTS = (RIGHT, *WRONG, UNANSWERABLE)
_GRAVEST = ("wrong_side", "wrong_box", "wrong_text", UNANSWERABLE, RIGHT)
"""Which verdict counts where readers disagree: a wrong side does the most harm to a patient."""
LONGEST_NOTE = 500
_READER = re.compile(r"[A-Za-z0-9_-]{1,16}")
_FIELDS = {"schema", "corpus", "record_id", "stage", "reader", "verdict", "seconds", "note"}

Key = tuple[str, str, str]
"""(reader, record_id, stage)."""


@dataclass(frozen=True)
class Verdict:
    """What one reader says of one record at one stage."""

    corpus: str
    """`manifest_hash` of the corpus that was shown."""
    record_id: str
    stage: str
    reader: str
    verdict: str
    seconds: float | None = None
    """From showing the sample to the verdict; None = not known."""
    note: str | None = None


def check_reader(label: str) -> str:
    """The label itself.

    Raises:
        ValueError: not 1 to 16 letters, digits, `_` or `-`.
    """
    if not _READER.fullmatch(label):
        raise ValueError(f"--reader {label!r}: give a short label such as A: 1 to 16 letters, digits, - or _, no name")
    return label


def gravest(verdicts: Iterable[str]) -> str:
    """The verdict that counts where several readers judged: any fault outweighs `right`."""
    return min(verdicts, key=_GRAVEST.index)


def append_verdict(path: Path, verdict: Verdict) -> None:
    """Add a line and force it to disk. Several readers may write to one file at the same time."""
    line = {"schema": SCHEMA, **{name: value for name, value in vars(verdict).items() if value is not None}}
    data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # edited by hand, or cut off: never continue that line
            data = b"\n" + data
        written = os.write(descriptor, data)
        if written != len(data):
            raise OSError(f"{path}: only {written} of {len(data)} bytes of a verdict were written: is the disk full?")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_verdicts(path: Path) -> list[Verdict]:
    """All lines, in order.

    Raises:
        ValueError: the file cannot be read, or a line is not a verdict; names file and line and the cure.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}): name a verdict file that corpus.py review wrote") from error
    return [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def latest(verdicts: Iterable[Verdict]) -> dict[Key, Verdict]:
    """The last verdict of each reader about each record and stage."""
    return {(verdict.reader, verdict.record_id, verdict.stage): verdict for verdict in verdicts}


def exclusions(verdict_file: Path) -> Mapping[str, str]:
    """What the next build leaves out: record_id -> reason of its reject.

    A record is left out if, at any stage, the last verdict of any reader is not `right`; the reason is `review_` and the
    gravest verdict (side, box, text, unanswerable). Verdicts about every earlier build count, since a record id is a keyed
    hash of image, place in the image's drafts and question kind: it names the same record in any build with the same id key,
    source and writer settings. So a build must apply this after the ids are made (dropping a draft earlier would shift the
    ids of those behind it), and a file must be set aside when a writer or its settings changed, or when the fault was cured.

    Raises:
        ValueError: the file cannot be read; see `read_verdicts`.
    """
    faults: dict[str, list[str]] = {}
    for verdict in latest(read_verdicts(verdict_file)).values():
        if verdict.verdict != RIGHT:
            faults.setdefault(verdict.record_id, []).append(verdict.verdict)
    return {record_id: f"review_{gravest(found)}" for record_id, found in sorted(faults.items())}


def _parsed(line: str, where: str) -> Verdict:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}): correct or delete the line") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, found {type(value).__name__}: correct or delete the line")
    if value.get("schema") != SCHEMA:
        raise ValueError(
            f"{where}: schema={value.get('schema')!r}, this version reads {SCHEMA}: update medclm or delete the line"
        )
    if unknown := sorted(value.keys() - _FIELDS):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}: fields are {', '.join(sorted(_FIELDS))}")
    for name in ("corpus", "record_id", "reader"):
        if not isinstance(value.get(name), str) or not value[name]:
            raise ValueError(f"{where}: {name}={value.get(name)!r}: expected a text: correct or delete the line")
    for name, allowed in (("stage", STAGES), ("verdict", VERDICTS)):
        if value.get(name) not in allowed:
            raise ValueError(f"{where}: {name}={value.get(name)!r}: expected one of {', '.join(allowed)}")
    return _with_optional(value, where)


def _with_optional(value: dict[str, Any], where: str) -> Verdict:
    seconds, note = value.get("seconds"), value.get("note")
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds) and seconds >= 0
    if seconds is not None and not number:
        raise ValueError(f"{where}: seconds={seconds!r}: expected a number of seconds, or none")
    if note is not None and not isinstance(note, str):
        raise ValueError(f"{where}: note={note!r}: expected a text, or none")
    names = ("corpus", "record_id", "stage", "reader", "verdict")
    return Verdict(**{name: value[name] for name in names}, seconds=seconds, note=note)
