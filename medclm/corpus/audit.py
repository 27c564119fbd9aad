"""Audit: what in finished folders could tell who a patient is, without ever showing it.

Looks through corpora, reports and runs for identifiers of the user's own list and for text of their shape. Stands apart
from building on purpose: it knows no rule of how a folder was made, only bytes (audit_readers.py) and shapes
(audit_patterns.py). Nothing it returns holds what it found in clear: excerpts show shapes, places and names are masked.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.audit_identifiers import Identifiers
from medclm.corpus.audit_patterns import Pattern, find_patterns, masked, patterns
from medclm.corpus.audit_pieces import Found, Hit, Piece, Remark
from medclm.corpus.audit_readers import file_pieces

_MOST_PER_KIND = 20
"""Findings of one kind listed for a file; a last one counts the rest."""
_PRINTABLE = re.compile(rb"[\x20-\x7e]{12,}")
_KEY_NAMES = re.compile(r"(^|/)(id\.key|id_rsa|id_ed25519|[^/]+\.(pem|p12|pfx|key))\Z", re.IGNORECASE)
_KEY_CONTENT = re.compile(rb"\s*[0-9a-fA-F]{32,128}\s*\Z")


@dataclass(frozen=True)
class Finding:
    """One thing found; no field holds it in clear."""

    folder: int
    """Which of the folders, from 0."""
    file: str
    """Relative to the folder, with identifiers in it masked."""
    place: str
    """Column and row, line, member, chunk or byte."""
    kind: str
    """identifier, dicom_uid, date, email, phone, path, age_over_89, person_name, long_number, image_metadata, key_material,
    pattern or not_searched."""
    excerpt: str
    """The shape of what was found, or what was remarked."""
    identifier: int | None = None
    """Line of the user's list, from 1."""


def audit(
    folders: Sequence[Path],
    identifiers: Sequence[str] = (),
    *,
    extra_patterns: Sequence[str] = (),
    long_number: int = 7,
    progress: bool = False,
) -> list[Finding]:
    """Everything in the folders that could identify somebody, in order of folder and file.

    Args:
        folders: searched with all below; links are read but not followed into other folders.
        identifiers: what must not occur, of at least 3 characters each.
        extra_patterns: regular expressions of one's own.
        long_number: fewest digits of a number that could be an accession or record number.

    Raises:
        ValueError: no such folder, an identifier too short, or a pattern that does not compile.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: not a folder: give folders to be searched")
    search = _Search(Identifiers(identifiers), patterns(long_number, extra_patterns))
    files = [(number, name) for number, folder in enumerate(folders) for name in _files(folder)]
    findings: list[Finding] = []
    for number, name in tqdm(files, desc="searching", unit="file", disable=None if progress else True):
        findings += search.file(number, folders[number], name)
    return findings


def _files(folder: Path) -> list[str]:
    """Relative paths of all files, and of links to folders, sorted."""
    names: list[str] = []
    for root, below, files in os.walk(folder):
        links = [name for name in below if (Path(root) / name).is_symlink()]
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in [*files, *links]]
    return sorted(names)


@dataclass(frozen=True)
class _One:
    """A finding before it is counted: its place is worked out only where it is listed."""

    place: Callable[[], str]
    kind: str
    excerpt: str
    identifier: int = 0
    raw: bool = False
    """Found among the bytes of a file that was also opened."""


class _Search:
    """Looks through one file after another for the same things."""

    def __init__(self, identifiers: Identifiers, shapes: Sequence[Pattern]) -> None:
        self.identifiers, self.shapes = identifiers, shapes
        self.of_binary = [shape for shape in shapes if shape.binary]

    def file(self, number: int, folder: Path, name: str) -> list[Finding]:
        """Findings of one file, some of each kind."""
        shown = self.safe(name)
        listed: list[Finding] = []
        counts: Counter[str] = Counter()
        seen: set[int] = set()
        for one in self._found(folder, name):
            if one.raw and one.identifier in seen:
                continue  # the bytes of a file say again what its cells said, without their row
            seen.add(one.identifier)
            counts[one.kind] += 1
            if counts[one.kind] <= _MOST_PER_KIND:
                place = self.safe(one.place())
                listed.append(Finding(number, shown, place, one.kind, one.excerpt, one.identifier or None))
        rest = [(kind, count - _MOST_PER_KIND) for kind, count in counts.items() if count > _MOST_PER_KIND]
        return listed + [Finding(number, shown, "elsewhere in the file", kind, f"{count} more") for kind, count in rest]

    def safe(self, text: str) -> str:
        """A name or place with whatever would be a finding masked."""
        data = text.encode("utf-8", "surrogateescape")
        hits = sorted(self._hits(data, "text"), key=lambda hit: hit.start, reverse=True)
        for hit in hits:
            data = data[: hit.start] + masked(data[hit.start : hit.end]).encode() + data[hit.end :]
        return "".join(letter if letter.isprintable() else "?" for letter in data.decode("utf-8", errors="replace"))

    def _found(self, folder: Path, name: str) -> Iterator[_One]:
        path = folder / name
        yield from self._in(Piece(name.encode("utf-8", "surrogateescape"), "text", lambda _: "file name"))
        if path.is_symlink():
            target = os.readlink(path).encode("utf-8", "surrogateescape")
            yield from self._in(Piece(target, "text", lambda _: "target of a link"))
        if _KEY_NAMES.search(name):
            yield _One(lambda: "file name", "key_material", "a key file")
        if path.is_dir():
            return
        if not path.is_file():
            yield _One(lambda: "", "not_searched", "no regular file")
            return
        try:
            if path.stat().st_size < 256 and _KEY_CONTENT.match(path.read_bytes()):
                mode = path.stat().st_mode & 0o777
                readable = ", readable by others" if mode & 0o077 else ""
                yield _One(lambda: "whole file", "key_material", f"a key in hex, mode {mode:04o}{readable}")
            for found in file_pieces(path):
                yield from self._in(found)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            yield _One(lambda: "", "not_searched", reason)

    def _in(self, found: Found) -> Iterator[_One]:
        if isinstance(found, Remark):
            place = found.place
            yield _One(lambda: place, found.kind, found.detail)
            return
        limit = len(found.data) if found.limit is None else found.limit
        for hit in self._hits(found.data, found.kind):
            if found.first <= hit.start < limit:
                where = functools.partial(found.place, hit.start)
                yield _One(where, hit.kind, masked(found.data[hit.start : hit.end]), hit.number, found.kind == "raw")

    def _hits(self, data: bytes, kind: str) -> list[Hit]:
        hits = self.identifiers.find(data, binary=kind in ("binary", "raw"))
        if kind == "text":
            hits += find_patterns(data, self.shapes)
        elif kind == "binary":
            for run in _PRINTABLE.finditer(data):
                start = run.start()
                hits += [
                    Hit(start + hit.start, start + hit.end, hit.kind) for hit in find_patterns(run.group(), self.of_binary)
                ]
        return hits
