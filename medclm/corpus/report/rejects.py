"""What did not enter a corpus: the lines of rejects.jsonl, counted by reason, by what was lost, and by writer.

Read line by line, so that a source of a million faults costs no memory. Knows the file alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from medclm.data.shards import Corpus

REJECTS = "rejects.jsonl"
LEVELS = ("image", "entry", "annotation", "record", "other")
"""What a reject took out: a whole image, a whole imported entry, one lesion, one record or stage of it, or something that is
none of them (a file, a row, an organ mask, a note that a template's words stand in for a model's)."""
CHECK = "check_"
UNSUPPORTED = "check_unsupported_claim"
_RECORD = re.compile(r"\.drafts\[\d+\]|\.(easy|medium|hard)$")
_ENTRY = re.compile(r"(^|\.)records\[\d+\]$")
_ANNOTATION = re.compile(r"(^|\.)annotations\[\d+\]$")


@dataclass
class Reason:
    """Rejects of one reason at one level."""

    count: int = 0
    index: str = ""
    """Of the first one, as an example."""
    detail: str = ""


@dataclass
class Rejected:
    """Everything that went out."""

    reasons: dict[tuple[str, str], Reason] = field(default_factory=dict)
    """(level, reason), in order of first appearance."""
    checks: dict[str, Counter[str]] = field(default_factory=dict)
    """Writer -> reason of a failed check -> records; the writer is "" where the reject does not name one."""

    def at(self, level: str) -> dict[str, int]:
        """Reason -> count of one level, the commonest first."""
        found = {reason: one.count for (where, reason), one in self.reasons.items() if where == level}
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def level_of(index: str, reason: str) -> str:
    """One of `LEVELS`. The reason decides first: a record that is dropped late carries the index of its image."""
    if reason.endswith("_template_kept"):
        return "other"
    if reason.startswith((CHECK, "writer_", "review_")) or reason == "no_stage_offered" or _RECORD.search(index):
        return "entry" if _ENTRY.search(index) else "record"
    if reason == "image_duplicate" or re.fullmatch(r"images\[\d+\]", index):
        return "image"
    if _ENTRY.search(index):
        return "entry"
    return "annotation" if _ANNOTATION.search(index) else "other"


def stream_rejects(corpus: Corpus) -> Iterator[dict[str, str]]:
    """The lines of rejects.jsonl, one at a time; none where there is no file.

    Raises:
        ValueError: a line that is not an object of index, reason and detail; names file and line.
    """
    path = corpus.folder / REJECTS
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg}): copy or build the corpus again") from None
            if not isinstance(found, dict) or not {"index", "reason", "detail"} <= found.keys():
                raise ValueError(f"{path}:{number}: needs index, reason and detail: copy or build the corpus again")
            yield {name: str(found[name]) for name in ("index", "reason", "detail")}


def rejects_of(corpus: Corpus) -> list[dict[str, str]]:
    """All of `stream_rejects`."""
    return list(stream_rejects(corpus))


def count_rejects(corpus: Corpus, writers: Sequence[str]) -> Rejected:
    """Count once.

    Args:
        writers: names that the detail of a failed check may begin with, followed by a colon.
    """
    found = Rejected()
    longest_first = sorted(writers, key=lambda name: (-len(name), name))
    for line in stream_rejects(corpus):
        index, reason, detail = line["index"], line["reason"], line["detail"]
        one = found.reasons.setdefault((level_of(index, reason), reason), Reason(index=index, detail=detail))
        one.count += 1
        if reason.startswith(CHECK):
            writer = next((name for name in longest_first if detail.startswith(f"{name}: ")), "")
            found.checks.setdefault(writer, Counter())[reason] += 1
    return found
