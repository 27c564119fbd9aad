"""DICOM files to headers and frames as they are stored, safely.

The only place that opens a DICOM file. pydicom parses and hands frames to its decoders (gdcm, Pillow, its own); whatever they
raise on a hostile file ends in one named reason. Must not know what a header means beyond where its pixels are.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.codestream import frame_size
from medclm.corpus.dicom.isolated import decode_elsewhere

SUFFIXES = (".dcm", ".dicom")
"""Endings of DICOM pictures, in lower case; most of them have none at all."""
MAX_DATASET = 1 << 28
"""Bytes of one file that are held at once: what a deflated one grows to, all elements before the pixels, a coded frame."""

_PREAMBLE = 128
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_BARE_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""Group of the first element of a file without preamble: 0002 or 0008, in either byte order."""
_SAFE = ("pillow", "pydicom")
"""Decoders that end in an error on any broken frame; gdcm, the other one, may end the process."""
_PIXELS = {(0x7FE0, 0x0010): "PixelData", (0x7FE0, 0x0008): "FloatPixelData", (0x7FE0, 0x0009): "DoubleFloatPixelData"}


class _Bounded:
    """A stream of which at most MAX_DATASET bytes are read: an element may claim any length, and holes in a file take no room on
    the disk."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MAX_DATASET
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """As of any stream; raises RejectedImage image_too_large."""
        content = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            detail = f"more than {MAX_DATASET} bytes before the pixels or in one frame: take out what is no picture"
            raise RejectedImage("image_too_large", detail)
        return content


def looks_like_dicom(path: Path) -> bool:
    """Whether the file has a DICOM ending or preamble; False for a file that cannot be opened."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Dataset:
    """Everything before the pixels.

    Raises:
        RejectedImage: image_missing, not_dicom, dicom_unreadable, image_too_large (a deflated bomb).
    """
    with guarded(), _opened(path) as stream:
        return _header(stream)


def read_dataset(path: Path, limit: int) -> Dataset:
    """The whole of a file without pixels, such as a structure set; raises as `read_header`, and image_too_large above `limit` bytes."""
    with guarded(), _opened(path) as stream:
        if path.stat().st_size > limit:
            raise RejectedImage("image_too_large", f"the file has more than {limit} bytes: split it")
        return _header(stream)


def read_frame(path: Path, frame: int) -> np.ndarray:
    """One frame as stored: (H, W) or (H, W, 3) of the decoder's type, YBR made RGB, a palette left as indices.

    Only the frame's own bytes are read where the file says where they are. The size is not judged: see refuse.py.

    Raises:
        RejectedImage: as `read_header`, or image_pixels_missing, image_truncated, transfer_syntax_unsupported, size_mismatch (the
            coded picture has another size than the header says), image_unreadable.
    """
    with guarded(), _opened(path) as stream:
        header = _header(stream)
        syntax = UID(header.file_meta.TransferSyntaxUID)
        if syntax.is_deflated:
            stream.seek(0)
            return np.asarray(pixel_array(dcmread(stream), index=frame))
        keyword, vr = _at_pixels(stream, syntax)
        options = as_pixel_options(header, pixel_keyword=keyword, pixel_vr=vr)
        decoder = _decoder(syntax)
        if not syntax.is_encapsulated and (options.get("bits_allocated"), options.get("samples_per_pixel")) == (1, 1):
            return _bits(stream, frame, (int(header.Rows), int(header.Columns)))
        if not syntax.is_encapsulated:
            stored, _ = decoder.as_array(stream, index=frame, transfer_syntax_uid=syntax, **options)
            return np.asarray(stored)
        offsets = options.pop("extended_offsets", None)
        frames = options["number_of_frames"]
        code = get_frame(_Bounded(stream), frame, extended_offsets=offsets, number_of_frames=frames)
        _check_size(code, (int(header.Columns), int(header.Rows)))
        # the frame alone, so that its decoder never sees the others
        code, options["number_of_frames"] = _encapsulated(code), 1
        plugin = next((name for name in _SAFE if name in decoder.available_plugins), None)
        if plugin is None:
            return decode_elsewhere(code, str(syntax), options)
        stored, _ = decoder.as_array(code, index=0, decoding_plugin=plugin, transfer_syntax_uid=syntax, **options)
        return np.asarray(stored)


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever is raised inside becomes RejectedImage; nothing that pydicom quotes of a header reaches a log or a terminal."""
    logger = logging.getLogger("pydicom")
    silence, propagated = logging.NullHandler(), logger.propagate  # child loggers hand on to this one
    logger.addHandler(silence)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RejectedImage, MemoryError):
        raise
    except Exception as error:  # on hostile bytes pydicom raises anything, from struct.error to RecursionError
        raise _rejection(error) from error
    finally:
        logger.propagate = propagated
        logger.removeHandler(silence)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.is_file():
        raise RejectedImage("image_missing", "there is no such file: check the image folder")
    with path.open("rb") as stream:
        start = stream.read(2048)
        stream.seek(0)
        if start[_PREAMBLE : _PREAMBLE + 4] != b"DICM" and start[:2] not in _BARE_STARTS:
            raise RejectedImage("not_dicom", "neither a DICOM preamble nor elements of DICOM: convert it or leave it out")
        if _DEFLATED in start:
            _check_deflated(stream)
        yield stream


def _header(stream: BinaryIO) -> Dataset:
    """The header, its transfer syntax filled in where a file without meta header leaves it to be inferred; the stream then
    stands at the pixels."""
    header = dcmread(_Bounded(stream), stop_before_pixels=True, force=True)
    if "SOPClassUID" not in header and not ("Rows" in header and "Columns" in header):
        raise RejectedImage("not_dicom", "its elements are not those of a DICOM object: convert it or leave it out")
    if not header.file_meta.get("TransferSyntaxUID"):
        implicit, little = header.original_encoding
        syntax = ExplicitVRBigEndian if not little else ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        header.file_meta.TransferSyntaxUID = syntax
    return header


def _at_pixels(stream: BinaryIO, syntax: UID) -> tuple[str, str]:
    """Keyword and VR of the pixel element; the stream then stands at its value."""
    order = "<" if syntax.is_little_endian else ">"
    start = stream.read(8)
    keyword = _PIXELS.get(struct.unpack(f"{order}HH", start[:4])) if len(start) == 8 else None
    if keyword is None:
        raise RejectedImage("image_pixels_missing", "the file ends where its pixels should begin: fetch it again")
    if syntax.is_implicit_VR:
        return keyword, "OW"
    stream.read(4)
    return keyword, start[4:6].decode("ascii")


def _bits(stream: BinaryIO, frame: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of one frame of single bits, which may begin and end within a byte (PS3.5 8.1.1); pydicom reads only those
    that do not."""
    first = frame * shape[0] * shape[1]
    last = first + shape[0] * shape[1]
    stream.seek(first // 8, 1)
    packed = np.frombuffer(stream.read(-(-last // 8) - first // 8), np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: last - first]
    if len(bits) < last - first:
        raise RejectedImage("image_truncated", "the file ends before its pixels do: fetch it again")
    return bits.reshape(shape)


def _decoder(syntax: UID) -> Any:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        # the dictionary's name, never the text of the file
        name = syntax.name if syntax.name != str(syntax) else "an unknown one"
        raise RejectedImage("transfer_syntax_unsupported", f"pixels are coded as {name}: convert it to another transfer syntax")
    return decoder


def _check_size(code: bytes, stated: tuple[int, int]) -> None:
    """A decoder allocates what the coded picture claims, so that must be what was judged; raises RejectedImage."""
    coded = frame_size(code)
    if coded is not None and coded != stated:
        raise RejectedImage(
            "size_mismatch",
            f"{coded[0]} x {coded[1]} pixels are coded, the header says {stated[0]} x {stated[1]}: fetch it again",
        )


def _encapsulated(code: bytes) -> bytes:
    """One frame as the value of a pixel element: an empty offset table and one fragment (PS3.5 A.4)."""
    code += b"\0" * (len(code) % 2)
    return struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, len(code)) + code


def _check_deflated(stream: BinaryIO) -> None:
    """Inflates up to the limit, keeping nothing; raises RejectedImage for a file that claims more."""
    start = stream.read(_PREAMBLE + 16)
    length = struct.unpack("<L", start[-4:])[0]  # of the meta header, stated in its first element
    stream.seek(_PREAMBLE + 16 + min(length, 1 << 20))
    inflater, grown = zlib.decompressobj(-zlib.MAX_WBITS), 0
    pending = _Bounded(stream).read()
    while pending and not inflater.eof:
        grown += len(inflater.decompress(pending, 1 << 24))
        pending = inflater.unconsumed_tail
        if grown > MAX_DATASET:
            raise RejectedImage("image_too_large", f"deflated, it grows to more than {MAX_DATASET} bytes: convert it")
    stream.seek(0)


def _rejection(error: Exception) -> RejectedImage:
    """A library's error as a reason; its own words stay out where they may quote the header or the path."""
    text = str(error).lower()
    if "does not support" in text:
        return RejectedImage("transfer_syntax_unsupported", "no decoder for this kind of coding: convert it to another syntax")
    if isinstance(error, EOFError) or any(
        word in text for word in ("less than expected", "truncated", "end of file", "fewer", "insufficient", "not enough")
    ):
        return RejectedImage("image_truncated", "the file ends before its content does: fetch it again")
    if isinstance(error, OSError) and error.errno is not None:
        return RejectedImage("image_unreadable", f"{error.strerror}: check the file's permissions and the disk")
    return RejectedImage("dicom_unreadable", f"its parser or decoder stopped with {type(error).__name__}: fetch it again")
