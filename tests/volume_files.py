"""Small volumes with label maps for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medclm.corpus.contract import SourceImage
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.volume import VolumeSource

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Stored as LPS: no turn, so that array indices are those of the pictures."""


def saved(path: Path, values: np.ndarray, affine: np.ndarray = RAS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def body(shape: tuple[int, int, int] = (32, 24, 60), seed: int = 0) -> np.ndarray:
    """A CT of soft tissue with air around it."""
    values = np.full(shape, -1000, np.int16)
    values[3:-3, 3:-3] = np.random.default_rng(seed).integers(20, 60, (shape[0] - 6, shape[1] - 6, shape[2]))
    return values


def made(folder: Path, labels: np.ndarray, values: np.ndarray | None = None, **declared: Any) -> VolumeSource:
    """One case with classes 1 = nodule, 2 = liver tumor, 9 = spleen."""
    saved(folder / "labels" / "case7.nii.gz", labels)
    saved(folder / "images" / "case7.nii.gz", body(labels.shape) if values is None else values)
    names = folder / "names.json"
    names.write_text(json.dumps({"1": "nodule", "2": "liver tumor", "9": "spleen"}))
    options = {"modality": "CT", "classes": names, "lesions": ("nodule", "liver tumor"), "window": (40, 400)}
    options |= declared
    return VolumeSource(folder / "labels", folder / "images", SourceOptions(name="made", **options))


def block(*ranges: tuple[int, int, int, int, int, int, int], shape: tuple[int, int, int] = (32, 24, 60)) -> np.ndarray:
    """Labels with boxes (value, x0, x1, y0, y1, z0, z1)."""
    labels = np.zeros(shape, np.uint8)
    for value, x0, x1, y0, y1, z0, z1 in ranges:
        labels[x0:x1, y0:y1, z0:z1] = value
    return labels


def slices_of(source: VolumeSource) -> list[int]:
    return [entry.at for entry in source._entries]


def pictures(source: VolumeSource) -> dict[int, SourceImage]:
    return {entry.at: source.read(index) for index, entry in enumerate(source._entries)}
