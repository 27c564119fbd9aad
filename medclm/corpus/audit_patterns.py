"""Shapes that identifiers have, wherever they come from: dates, UIDs, paths, ages, long numbers and others.

Each is drawn so that what a run writes of itself (hashes, floats, step counts, run lengths of masks) has none of them. Works
on bytes; must not know of files or formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medclm.corpus.audit_pieces import Hit


@dataclass(frozen=True)
class Pattern:
    """A shape that identifiers have.

    Expressions begin with a character or a set, and look behind it afterwards: `re` then skips ahead, ten times as fast.
    """

    kind: str
    expression: re.Pattern[bytes]
    needs: bytes = b""
    """Bytes without which there is no match."""
    binary: bool = False
    """Distinct enough to be looked for in printable runs of binary data."""
    accept: Callable[[bytes, int, int], bool] | None = None
    """(data, start, end) -> whether a match counts."""


_MONTHS = frozenset(
    b"jan feb mar apr may jun jul aug sep sept oct nov dec january february march april june july august september october "
    b"november december".split()
)
_YEAR = rb"(?:19|20)\d\d"
_DAY, _MONTH = rb"(?:0[1-9]|[12]\d|3[01])", rb"(?:0[1-9]|1[0-2])"
_OVER_89 = rb"0?(?:9\d|1[0-4]\d)"
_PLACES = (
    rb"home|Users|root|mnt|media|scratch|tmp|var|srv|opt|data|nfs|gpfs|lustre|export|workspace|storage|Volumes|work|private"
)


def _month_named(data: bytes, start: int, end: int) -> bool:
    return any(word.lower() in _MONTHS for word in re.findall(rb"[A-Za-z]{3,9}", data[start:end]))


def _no_standard(data: bytes, start: int, _: int) -> bool:
    """UIDs below 1.2.840.10008 are DICOM's own: they name formats, not patients."""
    return not data.startswith(b"1.2.840.10008.", start)


def _identifying(data: bytes, start: int, end: int) -> bool:
    """A long number counts in prose and quotes; as a bare value of JSON or YAML only under a key that names an id."""
    before = data[max(0, start - 80) : start]
    if before.endswith(b"-") and not re.search(rb"[A-Za-z]-\Z", before):
        return False
    bare = re.search(rb"[:,\[=]\s*-?\Z", before) and re.match(rb"\s*(?:[,}\]\r\n]|\Z)", data[end : end + 8])
    if not bare:
        return True
    key = re.search(rb"([\w -]{1,40})[\"']?\s*[:=]\s*-?\Z", before)
    return bool(key and _ID_KEY.search(key.group(1)))


_ID_KEY = re.compile(rb"patient|mrn|accession|subject|person|birth|medical|ssn|nhs|insur|\bid\b|_id\b|\bname", re.IGNORECASE)

_FIXED = (
    Pattern(
        "dicom_uid",
        re.compile(
            rb"[12](?<![\w.].)\.(?:(?:(?<=1\.)[23]|(?<=2\.)16)(?:\.(?:0|[1-9]\d*)){4,}(?![\w.]*\d)|(?<=2\.)25\.[1-9]\d{9,})"
        ),
        binary=True,
        accept=_no_standard,
    ),
    Pattern(
        "date",  # 1940-01-31, 1940/01/31, 19400131, 19400131235959
        re.compile(
            rb"[12](?<![\w.].)(?:(?<=1)9|(?<=2)0)\d\d(?:([-/])"
            + _MONTH
            + rb"\1"
            + _DAY
            + rb"(?![\d-])|"
            + _MONTH
            + _DAY
            + rb"(?:[0-2]\d[0-5]\d(?:[0-5]\d)?)?(?!\w|\.\d))"
        ),
    ),
    Pattern(
        "date",  # 31.1.1940, 1/31/1940
        re.compile(rb"\d(?<![\w./-].)\d?([./-])(?:0?[1-9]|[12]\d|3[01])\1" + _YEAR + rb"(?![\w/-]|\.\d)"),
    ),
    Pattern(
        "date",  # 31 January 1940, 31st of Jan. 1940
        re.compile(rb"\d(?<![\w.].)\d?(?:st|nd|rd|th)?(?: of)?[ -][A-Z][a-z]{2,8}\.?,?[ -]" + _YEAR + rb"\b"),
        accept=_month_named,
    ),
    Pattern(
        "date",  # January 31st, 1940, Jan 1940
        re.compile(rb"[JFMASOND](?<!\w.)[A-Za-z]{2,8}\.? (?:\d\d?(?:st|nd|rd|th)?,? )?" + _YEAR + rb"\b"),
        accept=_month_named,
    ),
    Pattern(
        "email",
        re.compile(rb"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        needs=b"@",
        binary=True,
    ),
    Pattern(
        "phone",
        re.compile(
            rb"[+(\d](?<![\w.+-].)(?:(?<=\+)\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]\d{2,4}){2,4}"
            rb"|(?<=\()\d{3}\)[ .-]?\d{3}[ .-]\d{4}|(?<=\d)\d\d-\d{3}-\d{4})(?![\w-]|\.\d)"
        ),
    ),
    Pattern("path", re.compile(rb"/(?<![\w.:/<>~\\-]/)(?:" + _PLACES + rb")/[\w.@%+~ -]{0,200}\w"), binary=True),
    Pattern(
        "path",
        re.compile(rb"/(?<![\w.:/<>~!\\-]/)(?!(?:usr|bin|sbin|lib|etc|dev|proc|sys)/)[A-Za-z0-9_][\w.@+-]*(?:/[\w.@+-]+){2,}"),
        binary=True,
    ),
    Pattern("path", re.compile(rb":///(?<=[a-z0-9]....)/?\w[\w.@%+~/-]*"), needs=b":///", binary=True),
    Pattern(
        "path",
        re.compile(rb"[A-Za-z](?<!\w.):\\{1,2}\w[\w .@$-]{0,200}\\{1,2}[\w.@$-]+"),
        needs=b":\\",
        binary=True,
    ),
    Pattern("path", re.compile(rb"\\\\(?<![\w\\]..)\\{0,2}[\w.-]{2,}\\{1,2}[\w$.-]{2,}"), needs=b"\\\\", binary=True),
    Pattern(
        "age_over_89",  # 93-year-old, 93 y/o, 093Y
        re.compile(
            rb"[019](?<![\w.].)(?:(?<=9)\d|(?<=1)[0-4]\d|(?<=0)(?:9\d|1[0-4]\d))"
            rb"(?:[Yy](?!\w)|[ -]?(?:[Yy]ears?|[Yy]rs?|[Yy][./ ]?[Oo])\b(?:[ -]?(?:old|of age))?)"
        ),
    ),
    Pattern(
        "age_over_89",  # age: 93, aged 93; the decade 90 stands for 90 and older
        re.compile(
            rb"[aA][gG][eE](?<![A-Za-z0-9]...)(?:(?:[dD]|[ _]of)?[\"']?\s{0,2}[:=]?\s{0,2}[\"']?"
            + _OVER_89
            + rb"(?![\d%]|\.\d)|_decade[\"']?\s{0,2}[:=]\s{0,2}[\"']?1\d\d\b)"
        ),
    ),
    Pattern("person_name", re.compile(rb"[A-Z](?<!\w.)[A-Za-z'-]{1,40}\^[A-Z][A-Za-z'-]{1,40}"), needs=b"^"),
    Pattern("key_material", re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"), binary=True),
)


def patterns(long_number: int = 7, extra: Sequence[str] = ()) -> tuple[Pattern, ...]:
    """The shapes that are looked for.

    Args:
        long_number: fewest digits of a number that could be an accession or record number; the most are 20.
        extra: the user's own regular expressions.

    Raises:
        ValueError: `long_number` outside 4..20, or an expression that does not compile.
    """
    if not 4 <= long_number <= 20:
        raise ValueError(f"--digits {long_number}: give 4 to 20, since shorter numbers are everywhere")
    number = rb"\d(?<![\w.+%%\\].)\d{%d,19}(?!\w|\.\d|-\d)" % (long_number - 1)
    every = [*_FIXED, Pattern("long_number", re.compile(number), accept=_identifying)]
    for text in extra:
        try:
            every.append(Pattern("pattern", re.compile(text.encode()), binary=True))
        except re.error as error:
            raise ValueError(f"--pattern {text}: {error}: give a regular expression") from error
    return tuple(every)


_HEX_RUN = re.compile(rb"[0-9A-Fa-f](?<![0-9A-Za-z].)[0-9A-Fa-f-]{15,}(?![0-9A-Za-z])")
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/](?<![A-Za-z0-9+/].)[A-Za-z0-9+/]{119,}={0,2}")
_RUN_LENGTHS = re.compile(rb"\"counts\": ?\"(?:[^\"\\]|\\.)*\"")


def find_patterns(data: bytes, wanted: Sequence[Pattern]) -> list[Hit]:
    """Hits of the shapes in text; hashes, UUIDs, base64 and run lengths of masks have none."""
    clear = _HEX_RUN.sub(_hash_filled, data)
    clear = _BASE64_RUN.sub(_filled, clear)
    if b'"counts"' in clear:
        clear = _RUN_LENGTHS.sub(_filled, clear)
    hits = [
        Hit(match.start(), match.end(), pattern.kind)
        for pattern in wanted
        if pattern.needs in clear
        for match in pattern.expression.finditer(clear)
        if pattern.accept is None or pattern.accept(clear, match.start(), match.end())
    ]
    return _without_covered(hits)


def _filled(match: re.Match[bytes]) -> bytes:
    """As many bytes that match nothing; a short run stays a word, so that what touches it gets no new boundary."""
    length = match.end() - match.start()
    return (b"z" if length <= 64 else b"\1") * length


def _hash_filled(match: re.Match[bytes]) -> bytes:
    found = match.group()
    is_hash = not found.isdigit() and (b"-" not in found or _UUID.fullmatch(found))
    return _filled(match) if is_hash else found


def _without_covered(hits: list[Hit]) -> list[Hit]:
    """Without hits that lie within an earlier listed, longer one: the digits of a UID are no accession number."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.start, -hit.end)):
        if not kept or hit.end > kept[-1].end:
            kept.append(hit)
    return kept


def masked(found: bytes, longest: int = 40) -> str:
    """The shape of what was found: letters as x and X, digits as 9, everything beyond ASCII as x."""
    text = found.replace(b"\0", b"")[:longest].decode("utf-8", errors="replace")
    shape = "".join(
        "9" if c.isdigit() else ("X" if c.isupper() else "x") if c.isalpha() else c if c.isprintable() else "." for c in text
    )
    return shape + ("..." if len(found) > longest else "")
