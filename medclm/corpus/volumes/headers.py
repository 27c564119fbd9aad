"""What the text headers of MetaImage and NRRD share: reading them within bounds, their numbers, and the file they point to.

Both formats are read here rather than by ITK: on a damaged compressed stream its MetaImage reader gives voxels of garbage
without an error. Knows neither format.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.volumes.streams import named_errors

LARGEST_HEADER = 4 << 20
"""Bytes; segmentations list their segments there."""


def header_bytes(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """The text up to and with the match of `end`, and the number of its bytes.

    Raises:
        RejectedImage: volume_missing, volume_unreadable, volume_header (no end within LARGEST_HEADER).
    """
    with named_errors(), path.open("rb") as file:
        start = file.read(LARGEST_HEADER)
    found = end.search(start)
    if found is None:
        raise RejectedImage("volume_header", "the header has no end: write the file anew")
    return start[: found.end()].decode("utf-8", errors="replace"), found.end()


def number_list(text: str, what: str) -> list[float]:
    """Numbers separated by white space.

    Raises:
        RejectedImage: volume_header.
    """
    try:
        return [float(part) for part in text.split()]
    except ValueError as error:
        raise RejectedImage("volume_header", f"{what} is not a list of numbers: correct it") from error


def whole_numbers(text: str, what: str) -> list[int]:
    """As `number_list`, whole ones only."""
    numbers = number_list(text, what)
    if not all(math.isfinite(number) and number == int(number) and abs(number) < 1e12 for number in numbers):
        raise RejectedImage("volume_header", f"{what} is not a list of whole numbers: correct it")
    return [int(number) for number in numbers]


def affine_of(columns: list[list[float]], origin: list[float]) -> np.ndarray:
    """(4, 4) from three axis vectors and the position of the first voxel; raises RejectedImage volume_header."""
    if len(columns) != 3 or len(origin) != 3 or any(len(column) != 3 for column in columns):
        raise RejectedImage("volume_header", "orientation or position do not have three numbers per axis: correct them")
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = origin
    return affine


def beside(path: Path, name: str) -> Path:
    """The data file that a header names, which must lie beside the header.

    Raises:
        RejectedImage: volume_data_elsewhere, volume_missing.
    """
    if not name or re.search(r"[/\\:%\0]", name) or name.startswith(".") or name.split()[0] == "LIST":
        raise RejectedImage(
            "volume_data_elsewhere", "the header points to several files or out of its folder: give one data file beside it"
        )
    data = path.parent / name
    if not data.is_file():
        raise RejectedImage("volume_missing", "the header's data file is not beside it: fetch it as well")
    return data
