"""A folder of DICOM files, headers only: its pictures, its segmentations and structure sets, and what else lies there.

Made once, small enough to cross to worker processes. Must not know which masks are lesions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.dicom.geometry import read_plane
from medclm.corpus.dicom.header import read_facts
from medclm.corpus.dicom.picture import is_signal
from medclm.corpus.dicom.placing import Placed
from medclm.corpus.dicom.reading import guarded, read_header
from medclm.corpus.dicom.refuse import (
    SEGMENTATION,
    STRUCTURE_SET,
    check_is_image,
    check_length,
    class_uid,
    frame_count,
    judge_burned_in,
)
from medclm.corpus.dicom.view import FrameView


@dataclass(frozen=True)
class Picture:
    """One frame of one file."""

    file: int
    """Its number among the folder's files."""
    placed: Placed
    volume: str | None
    """MR only: pictures of equal volume are shown alike."""
    patient: str | None

    @property
    def index(self) -> str:
        """Place in the input, for messages."""
        return f"files[{self.file}]" + (f".frames[{self.placed.frame}]" if self.placed.frames > 1 else "")


@dataclass(frozen=True)
class Index:
    """What a folder holds."""

    files: tuple[Path, ...]
    """Every file below the folder, in order of name."""
    pictures: tuple[Picture, ...]
    """By series and number within it, so that a volume's pictures follow each other."""
    segmentations: tuple[int, ...]
    """Numbers of files."""
    structures: tuple[int, ...]
    rejects: tuple[Reject, ...]


def index_folder(folder: Path, *, burned_in: str, max_pixels: int) -> Index:
    """Reads every header below a folder.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder: give the folder of the DICOM files (--image-root)")
    files = _files(folder)
    found: list[tuple[tuple[str, str, int, int, int], Picture]] = []
    rejects: list[Reject] = []
    masks: dict[str, list[int]] = {SEGMENTATION: [], STRUCTURE_SET: []}
    seen: set[str] = set()
    for number, path in enumerate(files):
        try:
            header = read_header(path)
            with guarded():
                kind = class_uid(header)
                if kind in masks:
                    masks[kind].append(number)
                    continue
                check_is_image(header, max_pixels)
                check_length(header, path.stat().st_size)
                judge_burned_in(header, burned_in)
                pictures = _pictures(header, number, path)
            uid = pictures[0][1].placed.uid
            if uid in seen:
                raise RejectedImage("duplicate_image", "an earlier file has the same SOPInstanceUID: keep one of them")
            seen.add(uid)
            found += pictures
        except RejectedImage as rejection:
            rejects.append(Reject(f"files[{number}]", rejection.reason, rejection.detail))
    found.sort(key=lambda pair: pair[0])
    return Index(
        files, tuple(picture for _, picture in found), tuple(masks[SEGMENTATION]), tuple(masks[STRUCTURE_SET]), tuple(rejects)
    )


def _files(folder: Path) -> tuple[Path, ...]:
    """Hidden files are the system's own; symbolic links to folders are not followed, since they may lead in circles."""
    found: list[Path] = []
    for here, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(here, name) for name in names if not name.startswith(".")]
    return tuple(sorted(path for path in found if path.is_file()))


def _pictures(header: Dataset, number: int, path: Path) -> list[tuple[tuple[str, str, int, int, int], Picture]]:
    """The frames of a file with the key they are ordered by."""
    view = FrameView(header)
    facts = read_facts(view)
    frames = frame_count(header)
    uid = view.identity("SOPInstanceUID") or f"file {path.name}"
    place = view.identity("FrameOfReferenceUID")
    signal = is_signal(header)
    enhanced = "SharedFunctionalGroupsSequence" in header or "PerFrameFunctionalGroupsSequence" in header
    plane = None if enhanced else read_plane(view)
    found = []
    for frame in range(frames):
        plane = read_plane(FrameView(header, frame)) if enhanced else plane
        placed = Placed(uid, frame, frames, facts.series, place, plane if enhanced or frames == 1 else None)
        volume = f"{facts.series or uid}/{facts.technique or ''}" if signal else None
        key = (facts.patient or "", facts.series or uid, facts.order_in_patient or 0 if frames == 1 else 0, number, frame)
        found.append((key, Picture(number, placed, volume, facts.patient)))
    return found


def volume_sample(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most `most` pictures of a volume, evenly spread; the same for the same volume."""
    count = min(most, len(pictures))
    return [pictures[(2 * number + 1) * len(pictures) // (2 * count)] for number in range(count)]
