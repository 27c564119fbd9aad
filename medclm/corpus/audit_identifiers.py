"""Finds the identifiers of a list in bytes, in the many spellings that files give them.

Each is found by its first three bytes with one table look-up per position, so that a list of thousands costs little more
than a list of one. Works on bytes alone, since a leak may sit in anything; must not know of files or formats.
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

import numpy as np

from medclm.corpus.audit_pieces import Hit

LEAST_CHARACTERS = 3
"""Shorter identifiers would be found everywhere."""
_WORD_BELOW = 6
"""Identifiers of fewer characters must stand as words of their own, and are not looked for in binary data or as base64."""
_SEPARATORS = b" \t-_.,;:^/\\'\"+|=~*&()[]{}<>"
_NUMBER_SEPARATORS = b" -_/"
_MOST_BETWEEN = 2
_PREFIX = 3


@dataclass(frozen=True)
class _Needle:
    form: bytes
    number: int
    digits: bool
    word: bool
    coded: bool
    """Base64, UTF-16 or hex: bytes beside it tell nothing."""


class Identifiers:
    """Finds the identifiers of a list.

    Each is looked for as written, in any case, with separators removed or others in their place, with the parts of a name
    exchanged, in UTF-8, Latin-1 and UTF-16, URL-, HTML- and JSON-escaped, as base64 and as hex. A number is found only as
    a whole number: not within a longer one, in the decimals of a float or in a hash.

    Raises:
        ValueError: an identifier of fewer than 3 characters; names its place in the list, not its text.
    """

    def __init__(self, listed: Sequence[str]) -> None:
        lowered: dict[bytes, _Needle] = {}
        compact: dict[bytes, _Needle] = {}
        exact: dict[bytes, _Needle] = {}
        for number, text in enumerate(map(str.strip, listed), 1):
            if len(text) < LEAST_CHARACTERS:
                raise ValueError(
                    f"identifier {number} of the list has {len(text)} characters, at least 3 are needed: remove it"
                )
            digits, word = _plain(text).isdigit(), len(text) < _WORD_BELOW
            for form in _forms(text):
                lowered.setdefault(form.lower(), _Needle(form.lower(), number, digits, word, False))
            for form in _coded(text):
                lowered.setdefault(form.lower(), _Needle(form.lower(), number, digits, word, True))
            for form in _compact(text):
                if len(form) >= LEAST_CHARACTERS:
                    compact.setdefault(form, _Needle(form, number, digits, word, False))
                    lowered.setdefault(form, _Needle(form, number, digits, word, False))
            for form in _base64_forms(text):
                exact.setdefault(form, _Needle(form, number, digits, word, True))
        self._lowered, self._compact, self._exact = _Table(lowered), _Table(compact), _Table(exact)

    def find(self, data: bytes, *, binary: bool) -> list[Hit]:
        """Hits in order; overlapping ones of one identifier are one.

        Args:
            binary: not text, so that short identifiers are left out.
        """
        low = data.lower()
        found = [
            Hit(at, at + len(needle.form), "identifier", needle.number)
            for at, needle in self._lowered.find(low)
            if _plausible(low, at, at + len(needle.form), needle, binary)
        ]
        found += [
            Hit(at, at + len(needle.form), "identifier", needle.number)
            for at, needle in self._exact.find(data)
            if not needle.word
        ]
        found += self._with_separators(low, binary)
        return _merged(found)

    def _with_separators(self, low: bytes, binary: bool) -> Iterator[Hit]:
        squeezed = low.translate(None, _SEPARATORS)
        if len(squeezed) == len(low):
            return
        kept: np.ndarray | None = None
        for at, needle in self._compact.find(squeezed):
            if kept is None:
                kept = np.flatnonzero(_is_kept()[np.frombuffer(low, np.uint8)])
            places = kept[at : at + len(needle.form)]
            start, end = int(places[0]), int(places[-1]) + 1
            gaps = np.diff(places) - 1
            if gaps.max(initial=0) > _MOST_BETWEEN or not gaps.any():
                continue
            if needle.digits and set(low[start:end].translate(None, b"0123456789")) - set(_NUMBER_SEPARATORS):
                continue
            strict = _Needle(needle.form, needle.number, needle.digits, True, False)
            if _plausible(low, start, end, strict, False) and not (binary and needle.word):
                yield Hit(start, end, "identifier", needle.number)


class _Table:
    """Needles by their first three bytes."""

    def __init__(self, needles: dict[bytes, _Needle]) -> None:
        self._known: np.ndarray | None = None
        self._by_prefix: dict[bytes, list[_Needle]] = defaultdict(list)
        for needle in needles.values():
            self._by_prefix[needle.form[:_PREFIX]].append(needle)
        if needles:
            self._known = np.zeros(1 << 24, bool)
            for prefix in self._by_prefix:
                self._known[prefix[0] | prefix[1] << 8 | prefix[2] << 16] = True

    def find(self, data: bytes) -> Iterator[tuple[int, _Needle]]:
        if self._known is None or len(data) < _PREFIX:
            return
        octets = np.frombuffer(data, np.uint8)
        codes = octets[:-2].astype(np.uint32)
        codes |= octets[1:-1].astype(np.uint32) << 8
        codes |= octets[2:].astype(np.uint32) << 16
        for at in np.flatnonzero(self._known[codes]).tolist():
            for needle in self._by_prefix[data[at : at + _PREFIX]]:
                if data.startswith(needle.form, at):
                    yield at, needle


def _is_kept() -> np.ndarray:
    kept = np.ones(256, bool)
    kept[list(_SEPARATORS)] = False
    return kept


def _plausible(low: bytes, start: int, end: int, needle: _Needle, binary: bool) -> bool:
    """Whether what stands around a match lets it be the identifier."""
    if (needle.coded or binary) and (needle.word or end - start < _WORD_BELOW):
        return False
    if needle.coded:
        return True
    before, after = low[start - 1 : start] if start else b"", low[end : end + 1]
    if needle.digits:
        decimals = before == b"." and low[start - 2 : start - 1].isdigit()
        return not (before.isdigit() or after.isdigit() or decimals or _in_hash(low, start, end))
    return not needle.word or not (before.isalnum() or after.isalnum())


def _in_hash(low: bytes, start: int, end: int) -> bool:
    """Whether a number is part of a run of at least 16 hex digits with letters among them."""
    left = re.search(rb"[0-9a-f]*\Z", low[max(0, start - 64) : start])
    right = re.match(rb"[0-9a-f]*", low[end : end + 64])
    run = (left.group() if left else b"") + low[start:end] + (right.group() if right else b"")
    return len(run) >= 16 and re.search(rb"[a-f]", run) is not None  # a UID has dots in it, and is no hash


def _merged(hits: list[Hit]) -> list[Hit]:
    merged: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.number, hit.start, -hit.end)):
        if merged and merged[-1].number == hit.number and hit.start < merged[-1].end:
            continue
        merged.append(hit)
    return sorted(merged, key=lambda hit: (hit.start, hit.number))


def _plain(text: str) -> str:
    """Letters and digits only."""
    return "".join(letter for letter in text if letter.isalnum())


def _forms(text: str) -> set[bytes]:
    """Spellings as bytes; upper case too, since the lower case of bytes is that of ASCII alone."""
    forms: set[bytes] = set()
    for cased in {text, text.lower(), text.upper(), text.title()}:
        for normal in ("NFC", "NFD"):
            written = unicodedata.normalize(normal, cased)
            forms |= {written.encode(), quote(written, safe="").encode(), quote_plus(written).encode()}
            forms |= {html.escape(written).encode(), json.dumps(written)[1:-1].encode(), quote(written).encode()}
            forms.add(written.encode("latin-1", errors="ignore") if written.isascii() else _latin(written))
    return {form for form in forms if len(form) >= LEAST_CHARACTERS}


def _latin(text: str) -> bytes:
    try:
        return text.encode("cp1252")
    except UnicodeEncodeError:
        return b""


def _coded(text: str) -> set[bytes]:
    forms: set[bytes] = set()
    for cased in {text, text.lower(), text.upper(), text.title()}:
        forms |= {cased.encode("utf-16-le"), cased.encode("utf-16-be"), cased.encode().hex().encode()}
    return forms


def _compact(text: str) -> set[bytes]:
    """Without separators, also with the parts of a name exchanged ("Doe^John" -> johndoe)."""
    parts = [part for part in re.split(r"[\^,\s]+", text) if part]
    orders = [text] + (["".join(reversed(parts[:2]))] if len(parts) > 1 and not _plain(text).isdigit() else [])
    forms: set[bytes] = set()
    for order in orders:
        for cased in {order, order.upper()}:
            form = cased.encode().lower().translate(None, _SEPARATORS)
            forms.add(form)
    return forms


def _base64_forms(text: str) -> set[bytes]:
    """What base64 shows of the text at each of its three alignments, without the digits that its neighbours share."""
    forms: set[bytes] = set()
    for cased in {text, text.lower(), text.upper(), text.title()}:
        for lead in range(3):
            coded = base64.b64encode(b"\0" * lead + cased.encode()).rstrip(b"=")
            length = lead + len(cased.encode())
            form = coded[(0, 2, 3)[lead] : length * 4 // 3]
            forms |= {form, form.translate(bytes.maketrans(b"+/", b"-_"))}
    return {form for form in forms if len(form) >= _WORD_BELOW}
