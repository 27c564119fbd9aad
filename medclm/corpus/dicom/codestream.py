"""The size that a coded frame claims for itself, read from its first bytes without decoding it.

Here because decoders allocate by what the code says, while limits are judged by what the header says.
"""

from __future__ import annotations

import struct

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame header: ITU-T T.81 table B.1, and 0xF7 of JPEG-LS (T.87)."""
_BARE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a length."""


def frame_size(code: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG, lossless JPEG, JPEG-LS or JPEG 2000 frame; None where the bytes say none (RLE, or broken)."""
    if code.startswith(_JP2_BOX):
        at = code.find(_JPEG_2000)
        code = code[at:] if at >= 0 else b""
    if code.startswith(_JPEG_2000):
        return _siz(code)
    return _start_of_frame(code) if code.startswith(_JPEG) else None


def _siz(code: bytes) -> tuple[int, int] | None:
    """Size of the reference grid less its offset (ISO 15444-1 A.5.1)."""
    if len(code) < 24:
        return None
    right, bottom, left, top = struct.unpack(">4L", code[8:24])
    return right - left, bottom - top


def _start_of_frame(code: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(code):
        if code[at] != 0xFF:
            return None
        marker = code[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAME_HEADERS:
            height, width = struct.unpack(">HH", code[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + max(2, struct.unpack(">H", code[at + 2 : at + 4])[0])
    return None
