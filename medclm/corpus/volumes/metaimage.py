"""MetaImage files (.mhd with .raw or .zraw, .mha) -> VolumeFile. Positions are LPS in millimetres by convention of ITK.

No TransformMatrix, no orientation: readers that assume the identity there invent a side. AnatomicalOrientation, where it
is stated, must agree with the matrix. Format: MetaIO documentation of the Insight Toolkit.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.headers import affine_of, beside, header_bytes, number_list, whole_numbers
from medclm.corpus.volumes.volume import MAX_VOXELS, VolumeFile, judged_shape, patient_axes, to_lps

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_END = re.compile(rb"(?m)^\s*ElementDataFile\s*=[^\n]*\n?")
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "I": "S", "S": "I"}


def open_metaimage(path: Path, *, max_voxels: int = MAX_VOXELS) -> VolumeFile:
    """Reads and judges the header.

    Raises:
        RejectedImage: volume_missing, volume_unreadable, volume_header, volume_data_elsewhere, volume_shape, volume_4d,
            volume_too_large, volume_dtype, orientation_disagrees, affine_not_finite, affine_singular.
    """
    text, end = header_bytes(path, _END)
    fields = {key.strip().lower(): value.strip() for key, equals, value in (line.partition("=") for line in text.splitlines())}
    sizes = whole_numbers(fields.get("dimsize", ""), "DimSize")
    shape = judged_shape(sizes, max_voxels)
    if fields.get("elementnumberofchannels", "1") != "1":
        raise RejectedImage("volume_4d", "several channels per voxel: give one volume of three axes")
    _refuse_other_kinds(fields)
    dtype = np.dtype(_TYPES[fields["elementtype"]])
    big = _first(fields, "elementbyteordermsb", "binarydatabyteordermsb") or "False"
    turn, grid = patient_axes(shape, *_affine(fields, len(sizes)))
    local = fields["elementdatafile"].upper() == "LOCAL"
    data = path if local else beside(path, fields["elementdatafile"])
    start = end if local else whole_numbers(fields.get("headersize", "0"), "HeaderSize")[0]
    compressed = fields.get("compresseddata", "False").lower() == "true"
    if start == -1 and not compressed:  # the data stands at the end of the file
        start = data.stat().st_size - int(np.prod(sizes)) * dtype.itemsize
    if start < 0:
        raise RejectedImage("volume_truncated", "the data file is shorter than its header says: fetch it again")
    return VolumeFile(
        data,
        grid,
        turn,
        shape,
        dtype.newbyteorder(">" if big.lower() == "true" else "<"),
        start=start,
        compression="zlib" if compressed else None,
    )


def _first(fields: dict[str, str], *names: str) -> str | None:
    """The first of these fields that is stated: the format has several names for one thing."""
    return next((fields[name] for name in names if name in fields), None)


def _refuse_other_kinds(fields: dict[str, str]) -> None:
    if fields.get("elementtype") not in _TYPES:
        raise RejectedImage("volume_dtype", "ElementType is none of one number per voxel: convert it")
    if fields.get("binarydata", "True").lower() != "true":
        raise RejectedImage("volume_header", "voxels as text: write the file with binary data")
    scaling = [fields.get(f"elementtointensityfunction{name}", str(plain)) for name, plain in (("slope", 1), ("offset", 0))]
    if [number_list(one, "ElementToIntensityFunction")[:1] for one in scaling] != [[1.0], [0.0]]:
        raise RejectedImage("volume_header", "voxels with a scaling that readers ignore: apply it and write the file anew")


def _affine(fields: dict[str, str], axes: int) -> tuple[np.ndarray | None, list[float] | None]:
    """(voxel -> LPS or None, spacing or None); of a fourth axis with one element nothing is used."""
    stated = _first(fields, "elementspacing", "elementsize")
    spacing = number_list(stated, "ElementSpacing") if stated is not None else None
    matrix = _first(fields, "transformmatrix", "rotation", "orientation")
    position = _first(fields, "offset", "position", "origin")
    if spacing is not None and len(spacing) != axes:
        raise RejectedImage("volume_header", f"ElementSpacing has {len(spacing)} numbers for {axes} axes: correct it")
    if matrix is None or spacing is None or axes < 3:
        return None, ([*spacing, 1.0][:3] if spacing is not None else None)
    numbers = number_list(matrix, "TransformMatrix")
    if len(numbers) != axes * axes:
        raise RejectedImage("volume_header", f"TransformMatrix has {len(numbers)} numbers for {axes} axes: correct it")
    directions = np.array(numbers).reshape(axes, axes)[:3, :3]  # one axis after the other
    origin = number_list(position, "Offset")[:3] if position is not None else [0.0, 0.0, 0.0]
    affine = to_lps(affine_of((directions * np.array(spacing)[:3, None]).tolist(), origin), "LPS")
    _compare(fields.get("anatomicalorientation", ""), directions)
    return affine, None


def _compare(letters: str, directions: np.ndarray) -> None:
    """AnatomicalOrientation names where each axis begins: RAI = from right, anterior and inferior = the identity."""
    if len(letters) != 3 or not set(letters.upper()) <= set(_OPPOSITE) or not np.isfinite(directions).all():
        return
    nearest = np.abs(directions).argmax(axis=1)
    if len(set(nearest.tolist())) < 3:  # no frame at all, which is told elsewhere
        return
    ends = ["LPS"[axis] if directions[row, axis] > 0 else _OPPOSITE["LPS"[axis]] for row, axis in enumerate(nearest)]
    begins = "".join(_OPPOSITE[end] for end in ends)
    if begins != letters.upper():
        raise RejectedImage(
            "orientation_disagrees",
            f"TransformMatrix begins at {begins}, AnatomicalOrientation at {letters.upper()}: remove the wrong one",
        )
