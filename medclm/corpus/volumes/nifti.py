"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz) -> VolumeFile. nibabel reads the fields; what they may claim is judged here.

The standard has two orientations in one file (sform, qform). Used is the one of the patient's own space; if both are stated
and name different patient axes, neither can be trusted and the volume is refused. None stated: orientation unknown.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.streams import read_start
from medclm.corpus.volumes.volume import MAX_VOXELS, VolumeFile, judged_dtype, judged_shape, patient_axes, to_lps

_LARGEST_HEADER = 64 << 20
_STANDARD_SPACES = (3, 4, 5)
"""Codes of forms that map into an atlas (Talairach, MNI, other template): its millimetres are not the patient's."""
_MM = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}


def open_nifti(path: Path, *, max_voxels: int = MAX_VOXELS) -> VolumeFile:
    """Reads and judges the header.

    Raises:
        RejectedImage: volume_missing, volume_truncated, volume_unreadable, volume_header, volume_shape, volume_4d,
            volume_too_large, volume_dtype, orientation_disagrees, spacing_disagrees, affine_not_finite, affine_singular.
    """
    gzipped = path.name.lower().endswith(".gz")
    header = _header(read_start(path, 540, gzipped=gzipped))
    try:
        sizes = [int(size) for size in header.get_data_shape()]
        dtype = header.get_data_dtype()
        offset = float(header["vox_offset"])
        slope, intercept = header.get_slope_inter()
        forms = _forms(header)
        units = _MM.get(header.get_xyzt_units()[0], 1.0)
        zooms = [float(zoom) for zoom in header.get_zooms()[:3]]
    except Exception as error:  # on hostile bytes: HeaderDataError, KeyError, ValueError, FloatingPointError, ...
        raise RejectedImage("volume_header", f"a field cannot be read ({type(error).__name__}): write the file anew") from error
    shape = judged_shape(sizes, max_voxels)
    dtype = judged_dtype(dtype)
    if not math.isfinite(offset) or not 348 <= offset <= _LARGEST_HEADER:
        raise RejectedImage("volume_header", f"voxels are said to begin at byte {offset:g}: write the file anew")
    affine = _affine(forms, [*zooms, 1.0, 1.0][:3])
    if affine is not None:
        affine = to_lps(affine, "RAS")
        affine[:3] *= units
    elif all(zoom == 1 for zoom in zooms):
        zooms = [math.nan]  # what writers leave there when nobody told them
    turn, grid = patient_axes(shape, affine, [*(zoom * units for zoom in zooms), 1.0][:3] if affine is None else None)
    scaling = _scaling(slope, intercept)
    if not gzipped:
        return VolumeFile(path, grid, turn, shape, dtype, start=int(offset), scaling=scaling)
    return VolumeFile(path, grid, turn, shape, dtype, skip=int(offset), compression="gzip", scaling=scaling)


def _header(raw: bytes) -> Any:
    if len(raw) < 348:
        raise RejectedImage("volume_truncated", f"{len(raw)} bytes are less than a header: fetch it again")
    size_of_header = {raw[:4]} & {(540).to_bytes(4, "little"), (540).to_bytes(4, "big")}
    magic = raw[4:12] if size_of_header else raw[344:348]
    if magic[:3] not in (b"n+1", b"n+2"):
        raise RejectedImage("volume_unreadable", "no NIfTI file of one piece (a pair, Analyze or something else): convert it")
    try:
        if size_of_header:
            return nibabel.Nifti2Header(raw[:540], check=False)  # type: ignore[no-untyped-call]
        return nibabel.Nifti1Header(raw[:348], check=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # WrapStructError, HeaderDataError: an endianness that is none
        raise RejectedImage("volume_header", "the header cannot be read: write the file anew") from error


def _forms(header: Any) -> list[tuple[int, np.ndarray]]:
    """(code, voxel -> RAS) of sform and qform, those that are stated."""
    found = [(int(header["sform_code"]), header.get_sform)]
    found.append((int(header["qform_code"]), header.get_qform))
    with np.errstate(all="ignore"):
        return [(code, np.asarray(get(), np.float64)) for code, get in found if code > 0]


def _affine(forms: list[tuple[int, np.ndarray]], zooms: list[float]) -> np.ndarray | None:
    if not forms:
        return None
    if len(forms) == 2 and all(np.isfinite(form).all() for _, form in forms):
        first, second = (nibabel.aff2axcodes(form) for _, form in forms)  # type: ignore[no-untyped-call]
        if first != second and None not in (*first, *second):
            raise RejectedImage(
                "orientation_disagrees",
                f"sform says the axes run to {'/'.join(map(str, first))}, qform {'/'.join(map(str, second))}: remove the wrong one",
            )
    own = [form for code, form in forms if code not in _STANDARD_SPACES]
    chosen = own[0] if own else forms[0][1]
    lengths = np.linalg.norm(chosen[:3, :3], axis=0)
    stated = np.array(zooms)
    if np.isfinite(lengths).all() and (stated > 0).all() and np.abs(lengths / stated - 1).max() > 0.01:
        shown = " x ".join(f"{length:.3g}" for length in lengths), " x ".join(f"{zoom:.3g}" for zoom in zooms)
        raise RejectedImage("spacing_disagrees", f"the affine says {shown[0]}, pixdim {shown[1]}: correct the header")
    return chosen


def _scaling(slope: float | None, intercept: float | None) -> tuple[float, float]:
    if slope is None or slope == 0:
        return 1.0, 0.0
    return float(slope), float(intercept or 0.0)
