"""A folder of DICOM files: every frame of every image is a picture, segmentations and structure sets among them are its masks.

    source = DicomSource(None, Path("study"), SourceOptions(name="study", lesions=("tumor",)))

Files lie in any order, with or without an ending. Headers are read once; pictures follow each other by series and number.
A segment or region whose name is among the declared lesions is an annotation, the others are organs; with none declared all are
annotations. Exhaustive classes count as absent only on pictures of a series that was segmented, further than NEAR_MM from any
slice that shows them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medclm.corpus.contract import Reject, RejectedImage, SourceImage
from medclm.corpus.dicom.drawing import Drawings
from medclm.corpus.dicom.index import Picture, index_folder, volume_sample
from medclm.corpus.dicom.marks import Mark, find_marks
from medclm.corpus.dicom.picture import Scale, mr_scale, signal_values
from medclm.corpus.organs import TABLE, structure
from medclm.corpus.sources.classes import ALIASES, organ_name
from medclm.corpus.sources.detection import (
    Facts,
    RefusedAnnotation,
    Stated,
    assemble,
    refused,
    with_loss,
)
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.opened import open_dicom
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.shapes import mask_extent
from medclm.recent import Recent

NEAR_MM = 10.0
"""A slice nearer than this to one that shows a class may show a little of it, and is no negative for it."""
_PLAIN_FINDINGS = frozenset({*ALIASES.values(), "tumor", "lymph node"})
"""Names of findings that the table of organs has no row for."""
SAMPLED = 24
"""Pictures that the window of an MR volume is computed from."""


class DicomSource:
    """A folder of DICOM files (contract.Source)."""

    def __init__(self, annotations: None, image_root: Path, options: SourceOptions) -> None:
        """Reads every header below `image_root`; what becomes no picture stands in `rejects`.

        Args:
            annotations: None, since masks lie among the pictures.

        Raises:
            ValueError: no such folder, no picture in it, or an option names a class that no mask has.
        """
        self.name = options.name
        self._options = options
        self._organ_root = Folder(options.organ_root or image_root)
        index = index_folder(image_root, burned_in=options.burned_in, max_pixels=options.max_pixels)
        marks = find_marks(index)
        self.rejects: Sequence[Reject] = (*index.rejects, *marks.rejects)
        if not index.pictures:
            reasons = ", ".join(sorted({reject.reason for reject in self.rejects})) or "there is none"
            raise ValueError(f"{image_root}: no file of {len(index.files)} becomes a picture ({reasons}): give another folder")
        self._files, self._pictures, self._marks = index.files, index.pictures, marks.of_picture
        self._check_classes(image_root, [name for named in marks.names for name in (*named.names, named.organ)])
        self._volumes: dict[str, list[Picture]] = {}
        for picture in index.pictures:
            if picture.volume is not None:
                self._volumes.setdefault(picture.volume, []).append(picture)
        self._segmented = {self._pictures[number].placed.series for number in self._marks}
        self._doubts = self._near_lesions() if options.exhaustive else {}
        self._drawings, self._scales = Drawings(index.files), Recent(4)

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, index: int) -> SourceImage:
        """Frame `index` of the folder with its masks.

        Raises:
            RejectedImage: a reason of `read_dicom`, or window_unknown.
        """
        picture, marks = self._pictures[index], self._marks.get(index, ())
        path, placed = self._files[picture.file], picture.placed
        lesions = [(mark, name) for mark in marks if (name := self._lesion(mark)) is not None]
        try:
            opened = open_dicom(path, placed.frame, self._options, scale=self._scale(picture))
            stated: list[Stated] = []
            for mark, name in lesions:
                stated += self._stated(mark, name, picture, opened.size, len(stated))
            organs, rejects = self._organs([mark for mark in marks if self._lesion(mark) is None], picture, opened.size)
            seen = {self._options.canonical(one.class_source or "") for one in stated}
            facts = Facts(
                index=picture.index,
                key=f"{placed.uid}#{placed.frame}",
                fields={"stem": path.stem, "file_name": path.name},
                organs=organs,
                rejects=tuple(rejects),
                scope_open=placed.series in self._segmented,
                image_labels=dict.fromkeys(sorted(self._doubts.get(index, set()) - seen), "uncertain"),
            )
            return assemble(opened, stated, facts, self._options, self._organ_root)
        except RejectedImage as rejection:
            raise with_loss(rejection, len(lesions)) from rejection

    def _lesion(self, mark: Mark) -> str | None:
        """The canonical class of a mark; None = it is an organ, or has no name that may be stored."""
        wanted = self._options.lesions
        for name in (*mark.named.names, mark.named.organ):
            lesion_class = self._options.canonical(name)
            if lesion_class in wanted or (not wanted and self._may_store(name, mark)):
                return lesion_class
        return None

    def _may_store(self, name: str, mark: Mark) -> bool:
        """Whether a name is coded, declared or known: what was typed by hand may hold the name of a person."""
        options = self._options
        known = options.canonical(name)
        declared = {*(options.canonical(target) for target in options.aliases.values()), *options.exhaustive}
        if not known or name == mark.named.coded or known in declared:
            return bool(known)
        return known in TABLE or known in _PLAIN_FINDINGS or structure(known) is not None

    def _stated(self, mark: Mark, name: str, picture: Picture, size: tuple[int, int], first: int) -> list[Stated]:
        """One annotation for each connected part of a segment, one for a region of contours."""
        try:
            parts = self._drawings.parts(mark, picture.placed.plane, size)
        except RejectedImage as rejection:
            return [refused(Stated(first, name), RefusedAnnotation(rejection.reason, rejection.detail))]
        return [
            Stated(first + number, name, mask_extent(mask), mask, identity) for number, (identity, mask) in enumerate(parts)
        ]

    def _organs(
        self, marks: Sequence[Mark], picture: Picture, size: tuple[int, int]
    ) -> tuple[dict[str, np.ndarray], list[Reject]]:
        """Organ name -> (H, W) bool; a mask that cannot be used is named and the picture stays."""
        organs: dict[str, np.ndarray] = {}
        rejects = []
        for number, mark in enumerate(marks):
            organ = organ_name(mark.named.organ)
            try:
                if not organ:
                    raise RejectedImage("class_missing", "the segment or region has no name: give it one")
                if not any(self._may_store(name, mark) for name in (*mark.named.names, mark.named.organ)):
                    detail = "a name typed by hand that is no known organ or class: declare it with --lesions or --alias"
                    raise RejectedImage("name_undeclared", detail)
                mask = self._drawings.mask(mark, picture.placed.plane, size)
            except RejectedImage as rejection:
                rejects.append(Reject(f"{picture.index}.organs[{number}]", rejection.reason, rejection.detail))
                continue
            organs[organ] = organs[organ] | mask if organ in organs else mask
        return organs, rejects

    def _scale(self, picture: Picture) -> Scale | None:
        """How the MR volume of a picture is shown; None where it is no such picture."""
        if picture.volume is None:
            return None
        volume = self._volumes[picture.volume]
        return self._scales.get(picture.volume, lambda: self._measure(volume))

    def _measure(self, volume: Sequence[Picture]) -> Scale | None:
        values = []
        for picture in volume_sample(volume, SAMPLED):
            try:
                values.append(signal_values(self._files[picture.file], picture.placed.frame))
            except RejectedImage:  # named when that picture is read
                continue
        return mr_scale(values) if values else None

    def _near_lesions(self) -> dict[int, set[str]]:
        """Picture -> classes that it or a slice of its series nearer than NEAR_MM is marked with."""
        stacks: dict[tuple[str | None, tuple[float, ...]], list[int]] = {}
        for number, picture in enumerate(self._pictures):
            plane = picture.placed.plane
            if plane is not None:
                turned = tuple(float(one) for one in np.round(plane.normal, 2) + 0.0)
                stacks.setdefault((picture.placed.series, turned), []).append(number)
        doubts: dict[int, set[str]] = {}
        for stack in stacks.values():
            planes = [plane for number in stack if (plane := self._pictures[number].placed.plane) is not None]
            heights = np.array([float(planes[0].normal @ np.asarray(plane.origin)) for plane in planes])
            shown: dict[str, list[float]] = {}
            for number, height in zip(stack, heights.tolist(), strict=True):
                for mark in self._marks.get(number, ()):
                    if (name := self._lesion(mark)) is not None:
                        shown.setdefault(self._options.canonical(name), []).append(height)
            for lesion_class, at in shown.items():
                near = np.abs(heights[:, None] - np.array(at)[None]).min(axis=1) < NEAR_MM
                for number in np.array(stack)[near].tolist():
                    doubts.setdefault(number, set()).add(lesion_class)
        return doubts

    def _check_classes(self, image_root: Path, names: Sequence[str]) -> None:
        """A mistyped class in scope would be called absent everywhere, and so would one that counts as an organ."""
        options = self._options
        known = {options.canonical(name) for name in names}
        for name in (*options.lesions, *options.exhaustive, *options.visible_on):
            if name not in known:
                close = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known)) or 'none'}"
                raise ValueError(f"{image_root}: no segment or region is named {name}: {hint}")
            if options.lesions and name not in options.lesions:
                raise ValueError(f"{image_root}: {name} is not among --lesions, so it counts as an organ: add it there")
