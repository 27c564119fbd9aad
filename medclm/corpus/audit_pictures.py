"""What a picture file holds beside its pixels -> pieces and remarks for an audit.

A stored picture holds pixels and nothing else (pixels.py writes it so), hence any text, EXIF, profile or trailing data in
one is a finding by itself, whatever it says; the remark never repeats it. Text in the pixels is not read.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

from PIL import Image

from medclm.corpus.audit_pieces import Found, Piece, Remark, joined

_PNG_PIXELS = frozenset(
    (
        b"IHDR",
        b"PLTE",
        b"IDAT",
        b"IEND",
        b"tRNS",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"pHYs",
        b"bKGD",
        b"sBIT",
        b"acTL",
        b"fcTL",
        b"fdAT",
    )
)
_PNG_NAMES = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"eXIf": "EXIF", b"iCCP": "colour profile", b"tIME": "a date"}
_JPEG_NAMES = {0xE1: "EXIF or XMP", 0xE2: "colour profile", 0xED: "IPTC", 0xFE: "comment"}
_MOST_INFLATED = 16 << 20


def picture_pieces(data: bytes, place: str) -> Iterator[Found]:
    """Metadata of a PNG, JPEG, GIF, TIFF or WEBP file."""
    if data.startswith(b"\x89PNG"):
        parts = _png(data)
    elif data.startswith(b"\xff\xd8\xff"):
        parts = _jpeg(data)
    else:
        parts = _other(data)
    for name, content in parts:
        where = joined(place, f"picture {name}")
        yield Remark("image_metadata", where, f"{len(content)} bytes")
        yield Piece(content, "text", lambda _, where=where: where)  # type: ignore[misc]
        yield Piece(content, "raw", lambda _, where=where: where)  # type: ignore[misc]


def _png(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(what, content) of every chunk that is no part of the pixels; PNG specification, third edition, 5.3 and 11.3."""
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind not in _PNG_PIXELS:
            yield _PNG_NAMES.get(kind, "unknown chunk"), _inflated(kind, data[at + 8 : at + 8 + length])
        at += 12 + length
        if kind == b"IEND":
            break
    if at < len(data):
        yield "trailing data", data[at:]


def _inflated(kind: bytes, content: bytes) -> bytes:
    """Content with its compressed part unpacked behind it."""
    if kind not in (b"zTXt", b"iTXt", b"iCCP"):
        return content
    for start in range(content.find(b"\0") + 1, min(len(content), content.find(b"\0") + 200)):
        try:
            return content + b"\n" + zlib.decompressobj().decompress(content[start:], _MOST_INFLATED)
        except zlib.error:
            continue
    return content


def _jpeg(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(what, content) of application and comment segments; ITU-T T.81, B.2."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : at + 2 + length]
        frame_only = (marker == 0xE0 and content[:5] == b"JFIF\0" and len(content) <= 14) or (
            marker == 0xEE and content[:5] == b"Adobe"
        )
        if (0xE0 <= marker <= 0xEF or marker == 0xFE) and not frame_only:
            yield _JPEG_NAMES.get(marker, "application segment"), content
        at += 2 + length
    behind = data[data.rfind(b"\xff\xd9") + 2 :]
    if behind.strip(b"\0"):
        yield "trailing data", behind


def _other(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(what, content) of what Pillow reads beside the pixels."""
    try:
        with Image.open(io.BytesIO(data), formats=("GIF", "TIFF", "WEBP")) as image:
            for name in ("exif", "xmp", "icc_profile", "comment", "photoshop"):
                content = image.info.get(name)
                if content:
                    yield name, content if isinstance(content, bytes) else str(content).encode()
            for tag in (
                270,
                271,
                272,
                305,
                306,
                315,
                316,
                33432,
            ):  # TIFF 6.0: description, make, model, software, date, artist, host, copyright
                value = getattr(image, "tag_v2", {}).get(tag)
                if value:
                    yield f"TIFF tag {tag}", str(value).encode()
    except Exception:  # a broken picture holds what its raw bytes hold, and those are searched with the file
        return
