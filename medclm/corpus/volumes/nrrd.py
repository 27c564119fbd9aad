"""NRRD files (.nrrd, .nhdr) and 3D Slicer's segmentations (.seg.nrrd) -> VolumeFile, with the names of segments.

Orientation is known only where `space` names a patient frame; "scanner-xyz" and a bare `space dimension` do not. Segments
that overlap (several layers) are refused, since a voxel then has more than one label. Format: Teem's NRRD definition.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.headers import affine_of, beside, header_bytes, number_list, whole_numbers
from medclm.corpus.volumes.volume import MAX_VOXELS, VolumeFile, judged_shape, patient_axes, to_lps

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names}
_SPACES = {"right": "R", "left": "L", "anterior": "A", "posterior": "P", "superior": "S", "inferior": "I"}
_COMPRESSION = {"raw": None, "gzip": "gzip", "gz": "gzip"}
_END = re.compile(rb"\r?\n\r?\n|\Z")


def open_nrrd(path: Path, *, max_voxels: int = MAX_VOXELS) -> VolumeFile:
    """Reads and judges the header.

    Raises:
        RejectedImage: volume_missing, volume_unreadable, volume_header, volume_data_elsewhere, volume_shape, volume_4d,
            volume_too_large, volume_dtype, affine_not_finite, affine_singular.
    """
    text, end = header_bytes(path, _END)
    if not text.startswith("NRRD000"):
        raise RejectedImage("volume_unreadable", "no NRRD file: convert it")
    fields, pairs = _parsed(text)
    sizes = whole_numbers(fields.get("sizes", ""), "sizes")
    if fields.get("dimension") != str(len(sizes)):
        raise RejectedImage("volume_header", "dimension and sizes do not agree: correct them")
    vectors = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    kept = [axis for axis, size in enumerate(sizes) if not (len(sizes) > 3 and size == 1)]
    if len(vectors) == len(sizes) and vectors.count("none") and len(kept) > 3:
        raise RejectedImage("volume_4d", "several layers or channels per voxel: export one volume of three axes")
    shape = judged_shape([sizes[axis] for axis in kept], max_voxels)
    dtype = _DTYPES.get(fields.get("type", "").lower())
    if dtype is None:
        raise RejectedImage("volume_dtype", "type is none of one number per voxel: convert it")
    encoding = fields.get("encoding", "").lower()
    if encoding not in _COMPRESSION:
        raise RejectedImage("volume_header", "the encoding is neither raw nor gzip: write the file anew")
    if any(fields.get(f"{unit} skip", "0") != "0" for unit in ("line", "byte")):
        raise RejectedImage("volume_header", "data behind skipped lines or bytes: write the file anew")
    endian = fields.get("endian", "little" if dtype[1] == "1" else "")
    if endian not in ("little", "big"):
        raise RejectedImage("volume_header", "the byte order is not stated: write the file anew")
    turn, grid = patient_axes(shape, *_affine(fields, vectors, kept))
    name = fields.get("data file", fields.get("datafile"))
    return VolumeFile(
        path if name is None else beside(path, name),
        grid,
        turn,
        shape,
        np.dtype(dtype).newbyteorder(">" if endian == "big" else "<"),
        start=end if name is None else 0,
        compression=_COMPRESSION[encoding],
        names=_segments(pairs),
    )


def _parsed(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """`field: value` lines and `key:=value` lines; comments left out."""
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        key, equals, value = line.partition(":=")
        if equals:
            pairs[key.strip()] = value.strip()
        elif not line.startswith("#"):
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    return fields, pairs


def _affine(fields: dict[str, str], vectors: list[str], kept: list[int]) -> tuple[np.ndarray | None, list[float] | None]:
    """(voxel -> LPS or None, spacing or None), for the three axes that are kept."""
    if not vectors:
        spacings = fields.get("spacings")
        numbers = number_list(spacings, "spacings") if spacings is not None else []
        return None, ([numbers[axis] for axis in kept] if len(numbers) > max(kept) and len(kept) == 3 else None)
    kept = [axis for axis in kept if axis < len(vectors) and vectors[axis] != "none"]
    columns = [_vector(vectors[axis]) for axis in kept]
    if len(columns) != 3:
        raise RejectedImage("volume_header", "space directions do not have one vector per axis: correct them")
    space = _space(fields.get("space", ""))
    origin = _vector(fields["space origin"]) if "space origin" in fields else [0.0, 0.0, 0.0]
    affine = affine_of(columns, origin)
    if space is None:
        return None, [float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)]
    return to_lps(affine, space), None


def _vector(text: str) -> list[float]:
    return number_list(text.strip("() ").replace(",", " "), "a vector")


def _space(name: str) -> str | None:
    """`left-posterior-superior` or `LPS` -> LPS; None = no patient frame."""
    words = name.lower().split("-")[:3]
    letters = "".join(_SPACES.get(word, "?") for word in words) if len(words) == 3 else name.upper()
    axes = ["RL", "AP", "IS"]
    known = len(letters) == 3 and all(letter in axis for letter, axis in zip(letters, axes, strict=True))
    return letters if known else None


def _segments(pairs: dict[str, str]) -> dict[int, str]:
    """Label value -> name as 3D Slicer writes them: Segment0_LabelValue, Segment0_Name."""
    found: dict[int, str] = {}
    for key, value in pairs.items():
        match = re.fullmatch(r"Segment(\d+)_LabelValue", key)
        name = pairs.get(f"Segment{match.group(1)}_Name", "") if match else ""
        if name and re.fullmatch(r"\d{1,9}", value):
            found[int(value)] = name
    return found
