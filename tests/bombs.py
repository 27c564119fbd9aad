"""Small files that would become gigabytes, or recursions without end, for the tests of what may come from strangers."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_ZEROS = bytes(1 << 24)


def packed_zeros(count: int, *, wbits: int, lead: bytes = b"") -> bytes:
    """`lead` and then `count` zeros, a multiple of 16 MiB, as a deflate stream (-15), zlib (15) or gzip (31): a thousandth of it."""

    def packed(data: bytes, mode: int) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(data) + packer.flush(mode)

    repeats = count // len(_ZEROS)
    stream = packed(lead, zlib.Z_FULL_FLUSH) + packed(_ZEROS, zlib.Z_FULL_FLUSH) * repeats + packed(b"", zlib.Z_FINISH)
    check, start = (zlib.adler32, 1) if wbits == 15 else (zlib.crc32, 0)
    total = check(lead, start)
    for _ in range(repeats if wbits > 0 else 0):
        total = check(_ZEROS, total)
    if wbits == 31:
        return b"\x1f\x8b\x08" + bytes(7) + stream + struct.pack("<LL", total, (len(lead) + count) & 0xFFFFFFFF)
    return b"\x78\xda" + stream + struct.pack(">L", total) if wbits == 15 else stream


def png(path: Path, width: int, height: int, *, text: bytes = b"") -> Path:
    """A whole PNG of one bit a pixel, all black; `text` is unpacked text for a compressed comment."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = packed_zeros(((width + 7) // 8 + 1) * height // len(_ZEROS) * len(_ZEROS) + len(_ZEROS), wbits=15)
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text, 9)) if text else b""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + comment + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def webp(path: Path) -> Path:
    """A small picture on the largest canvas that the format knows."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, format="WEBP", lossless=True)
    coded = stream.getvalue()[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + 2 * (16382).to_bytes(3, "little")
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(coded)) + b"WEBP" + canvas + coded)
    return path


def jp2(path: Path) -> Path:
    """A JPEG 2000 whose file header says 16 x 16 and whose code says 60000 x 60000."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, format="JPEG2000")
    content = bytearray(stream.getvalue())
    at = content.index(b"\xff\x4f\xff\x51") + 8
    for place in (at, at + 4, at + 16, at + 20):  # right, bottom, and the size of a tile
        content[place : place + 4] = struct.pack(">I", 60_000)
    path.write_bytes(content)
    return path


def gif(path: Path) -> Path:
    """A screen of 65535 x 65535 around one pixel."""
    stream = io.BytesIO()
    Image.new("P", (1, 1)).save(stream, format="GIF")
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", 65535, 65535)
    path.write_bytes(content)
    return path


def tiff(path: Path) -> Path:
    """A strip of packed zeros that is 40000 x 40000."""
    stream = io.BytesIO()
    Image.new("L", (40, 40)).save(stream, format="TIFF", compression="tiff_adobe_deflate")
    content = stream.getvalue()
    for tag, kind in ((256, "<HHI"), (257, "<HHI")):
        for code in (3, 4):
            head = struct.pack(kind, tag, code, 1)
            at = content.find(head)
            if at >= 0:
                content = content[: at + 2] + struct.pack("<HII", 4, 1, 40_000) + content[at + 12 :]
    path.write_bytes(content)
    return path


def nifti(path: Path, shape: tuple[int, int, int], *, held: int) -> Path:
    """A header for `shape` bytes before `held` zeros."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    path.write_bytes(packed_zeros(held, wbits=31, lead=header.binaryblock + bytes(4)))
    return path


def metaimage(path: Path, side: int, *, held: int) -> Path:
    text = (
        f"ObjectType = Image\nNDims = 3\nDimSize = {side} {side} {side}\nElementType = MET_UCHAR\nBinaryData = True\n"
        "BinaryDataByteOrderMSB = False\nCompressedData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        "ElementSpacing = 1 1 1\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(text.encode() + packed_zeros(held, wbits=15))
    return path


def nrrd(path: Path, side: int, *, held: int) -> Path:
    text = (
        f"NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: {side} {side} {side}\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nkinds: domain domain domain\nencoding: gzip\n\n"
    )
    path.write_bytes(text.encode() + packed_zeros(held, wbits=31))
    return path


def _element(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    size = b"\0\0" + struct.pack("<L", len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", *tag) + vr + size + value


def _dicom_start(syntax: bytes) -> bytes:
    meta = _element((2, 1), b"OB", b"\0\1") + _element((2, 2), b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    meta += _element((2, 3), b"UI", b"1.2.3") + _element((2, 0x10), b"UI", syntax)
    return bytes(128) + b"DICM" + _element((2, 0), b"UL", struct.pack("<L", len(meta))) + meta


def deflated_dicom(path: Path, held: int) -> Path:
    """One private element of `held` zeros."""
    lead = _element((8, 0x16), b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    lead += struct.pack("<HH", 9, 0x1010) + b"OB\0\0" + struct.pack("<L", held)
    path.write_bytes(_dicom_start(b"1.2.840.10008.1.2.1.99") + packed_zeros(held, wbits=-15, lead=lead))
    return path


def sparse_dicom(path: Path, held: int) -> Path:
    """A private element of `held` bytes that take no room on the disk, before the pixels."""
    head = _dicom_start(b"1.2.840.10008.1.2.1") + _element((8, 0x16), b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    with path.open("wb") as stream:
        stream.write(head + struct.pack("<HH", 9, 0x1010) + b"OB\0\0" + struct.pack("<L", held))
        stream.truncate(stream.tell() + held)
    return path


def sparse_frame(path: Path, held: int) -> Path:
    """A picture of 8 x 8 pixels whose only coded frame has `held` bytes that take no room on the disk."""
    head = _dicom_start(b"1.2.840.10008.1.2.4.50") + _element((8, 0x16), b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    head += _element((0x28, 2), b"US", b"\1\0") + _element((0x28, 4), b"CS", b"MONOCHROME2 ")
    numbers = ((0x10, 8), (0x11, 8), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0))
    head += b"".join(_element((0x28, tag), b"US", struct.pack("<H", value)) for tag, value in numbers)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, held)
    with path.open("wb") as stream:
        stream.write(head + struct.pack("<HH", 0x7FE0, 0x10) + b"OB\0\0\xff\xff\xff\xff" + item)
        stream.truncate(stream.tell() + held)
    return path


def sparse_text(path: Path, size: int) -> Path:
    """A file that says to have `size` bytes and takes no room on the disk."""
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def packed_text(path: Path, held: int) -> Path:
    path.write_bytes(packed_zeros(held, wbits=31, lead=b"image,question\n"))
    return path


def deep_json(path: Path, depth: int) -> Path:
    path.write_text("[" * depth)
    return path


def deep_xml(path: Path, depth: int) -> Path:
    path.write_text("<annotation>" + "<a>" * depth)
    return path


def wide_xml(path: Path, count: int) -> Path:
    path.write_text(f"<annotation>{'<a/>' * count}</annotation>")
    return path


def entities_xml(path: Path) -> Path:
    """Nine entities, each ten of the one before: a billion of the first."""
    lines = ['<!ENTITY a0 "lol">'] + [f'<!ENTITY a{n} "{10 * f"&a{n - 1};"}">' for n in range(1, 10)]
    path.write_text(f"<?xml version='1.0'?><!DOCTYPE annotation [{''.join(lines)}]><annotation>&a9;</annotation>")
    return path


def aliases_yaml(path: Path) -> Path:
    """Lists of ten references to the list before, as names of classes."""
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join([*lines, "names: *a11"]))
    return path


def repeated_parquet(path: Path) -> Path:
    """One picture and one question of 10 MiB each that a thousand rows point to."""
    rows, size = 1000, 10 << 20
    places = pa.array(np.zeros(rows, np.int32))
    content = pa.DictionaryArray.from_arrays(places, pa.array([np.random.default_rng(0).bytes(size)], pa.binary()))
    question = pa.DictionaryArray.from_arrays(places, pa.array(["?" * size]))
    pictures = pa.StructArray.from_arrays([content, pa.nulls(rows, pa.string())], ["bytes", "path"])
    pq.write_table(pa.table({"image": pictures, "question": question}), path, store_schema=False)
    return path


def packed_parquet(path: Path) -> Path:
    """Sixty pictures of 16 MiB of zeros, packed."""
    table = pa.table({"image": pa.array([bytes(16 << 20)])})
    with pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(pa.concat_tables([table] * 60))
    return path
