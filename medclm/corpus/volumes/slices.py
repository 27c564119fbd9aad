"""What every source of volumes shares: which slices become pictures, and a slice with all that crosses it as a SourceImage.

A format says which volumes there are and where their lesions lie; choosing, cutting, showing and judging is done here. An
index of small tuples is made once, from headers and label maps alone; the voxels of an image are read when its first slice is,
and kept until the next volume's is. A picture carries every lesion that crosses it, however small, so that nothing is missing
on a picture that is called complete; a class that comes nearer than 10 mm without crossing is uncertain there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.contract import Header, Reject, RejectedImage, SourceImage
from medclm.corpus.pixels import ExifTransform
from medclm.corpus.sources.detection import Facts, Stated, assemble, with_loss
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.opened import Opened
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.volumes.choice import FREE_MM, LEAST_VOXELS, free_slices, lesion_slices
from medclm.corpus.volumes.cut import PLANES, Cut, cut_for
from medclm.corpus.volumes.labels import Component
from medclm.corpus.volumes.organ_maps import Organ, check_specs, gather_organs
from medclm.corpus.volumes.tones import Tone, in_body, show, tone_of
from medclm.corpus.volumes.volume import VolumeFile


@dataclass(frozen=True)
class Scan:
    """One volume of the input, its header read."""

    file: VolumeFile
    key: str
    """Identity of the image within the source."""
    patient: str
    """Equal for all volumes of a patient as far as the source tells them."""
    fields: Mapping[str, str]
    """What organ templates may refer to."""


@dataclass(frozen=True)
class Lesion:
    """One lesion in space."""

    component: Component
    """In the turned volume."""
    class_source: str
    lesion_3d: str
    """Equal on all slices and sequences of the patient."""
    agreement: float | None = None


@dataclass(frozen=True)
class Marks:
    """What a source states of one volume."""

    lesions: Sequence[Lesion]
    organs: Sequence[Organ] = ()
    unnamed: Sequence[Component] = ()
    """Marked, but nobody says as what: near them nothing may be called absent."""
    rejects: Sequence[Reject] = ()
    complete: bool = True
    """False where a lesion of unknown place was refused: nothing may be called absent on any slice."""


class _Entry(NamedTuple):
    case: int
    at: int
    lesions: int
    """That cross the slice; 0 = it was chosen for having none."""


@dataclass(frozen=True)
class _Loaded:
    scan: Scan
    cut: Cut
    marks: Marks
    organs: Sequence[Organ]
    rejects: Sequence[Reject]
    values: np.ndarray
    tone: Tone


class SliceSource(ABC):
    """Slices of volumes (contract.Source), those of one volume next to each other."""

    rejects: Sequence[Reject] = ()

    def __init__(self, options: SourceOptions, organ_root: Path, *, least_voxels: int = LEAST_VOXELS) -> None:
        """Checks the options that volumes read; a format then calls `make_index`.

        Raises:
            ValueError: a plane that no volume is cut in, a negative number of slices, or an organ declaration that volumes
                do not read.
        """
        if options.plane not in (None, *PLANES):
            raise ValueError(f"--plane {options.plane}: volumes are cut in {', '.join(PLANES)}: give one of them")
        if options.slices < 0:
            raise ValueError(f"--slices {options.slices}: give 0 or more")
        check_specs(options.organs, {"stem": "", "folder": ""})
        self.name = options.name
        self._options = options
        self._organ_root = Folder(options.organ_root or organ_root)
        self._least_voxels = least_voxels
        self._entries: list[_Entry] = []
        self._loaded: tuple[int, _Loaded | RejectedImage] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_loaded": None}  # each worker reads for itself

    @abstractmethod
    def scan(self, case: int) -> Scan:
        """Volume number `case`, headers only; raises RejectedImage."""

    @abstractmethod
    def marks(self, case: int, scan: Scan) -> Marks:
        """What is stated of it; raises RejectedImage."""

    def check_classes(self) -> None:
        """Called once every volume's marks were seen; raises ValueError for a declared class that none has."""
        return

    def make_index(self, cases: int, rejects: Sequence[Reject], where: Path) -> None:
        """Choose the slices of all volumes; a volume that cannot be read is named in `rejects`.

        Raises:
            ValueError: values of more than 8 bits without --modality or --window, or no slice at all, or of `check_classes`.
        """
        found = list(rejects)
        for case in tqdm(range(cases), unit="volume", desc="choosing slices", disable=None):
            try:
                scan = self.scan(case)
                self._check_declared(scan)
                cut = self._cut(scan)
                marks = self.marks(case, scan)
            except RejectedImage as rejection:
                found.append(Reject(f"volumes[{case}]", rejection.reason, rejection.detail))
                continue
            found += [*marks.rejects, *self._choose(case, cut, marks)]
        self.rejects = tuple(found)
        self.check_classes()
        if not self._entries:
            reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in found).most_common())
            raise ValueError(f"{where}: none of {cases} volumes gives a picture ({reasons or 'no lesion'}): correct the input")

    def read(self, index: int) -> SourceImage:
        """Slice `index` with every lesion and organ that crosses it.

        Raises:
            RejectedImage: a reason of the volume's reader or of `tone_of`, slice_outside_body, window_unknown.
        """
        entry = self._entries[index]
        first = index == 0 or self._entries[index - 1].case != entry.case
        try:
            return self._picture(self._load(entry.case), entry, first)
        except RejectedImage as rejection:
            raise with_loss(rejection, entry.lesions) from rejection

    def _check_declared(self, scan: Scan) -> None:
        if self._options.modality is None and self._options.window is None and not scan.file.eight_bit:
            raise ValueError(
                f"{scan.file.path}: values of more than 8 bits: say --modality CT or MR (or what is visible, --window CENTRE,WIDTH)"
            )

    def _cut(self, scan: Scan) -> Cut:
        options = self._options
        cut = cut_for(scan.file.grid, options.plane or "axial", declared=(options.plane, options.patient_directions))
        if cut.size[0] * cut.size[1] > options.max_pixels:
            raise RejectedImage(
                "image_too_large",
                f"slices of {cut.size[0]} x {cut.size[1]} are more than {options.max_pixels} pixels: crop them",
            )
        return cut

    def _choose(self, case: int, cut: Cut, marks: Marks) -> list[Reject]:
        """Enter the slices of one volume; what is too small to be shown for its own sake."""
        chosen: set[int] = set()
        rejects = []
        for number, lesion in enumerate(marks.lesions):
            if lesion.component.size < self._least_voxels:
                detail = f"{lesion.component.size} voxels: fewer than {self._least_voxels} get no slice of their own"
                rejects.append(Reject(f"volumes[{case}].annotations[{number}]", "lesion_too_small", detail))
            else:
                chosen.update(lesion_slices(lesion.component.areas(cut.normal, cut.count), cut.step_mm, self._options.slices))
        spans = [lesion.component.place[cut.normal] for lesion in marks.lesions]
        entries = [_Entry(case, at, sum(span.start <= at < span.stop for span in spans)) for at in chosen]
        if self._options.exhaustive and marks.complete:
            spans += [component.place[cut.normal] for component in marks.unnamed]
            crossed = {at for span in spans for at in range(span.start, span.stop)}
            entries += [_Entry(case, at, 0) for at in free_slices(crossed, cut.count, cut.step_mm)]
        self._entries += sorted(entries)
        return rejects

    def _load(self, case: int) -> _Loaded:
        if self._loaded is None or self._loaded[0] != case:
            self._loaded = None  # two volumes at once may be more than there is memory for
            try:
                self._loaded = case, self._read(case)
            except RejectedImage as rejection:
                self._loaded = case, rejection
        found = self._loaded[1]
        if isinstance(found, RejectedImage):
            raise RejectedImage(found.reason, found.detail)
        return found

    def _read(self, case: int) -> _Loaded:
        scan = self.scan(case)
        marks = self.marks(case, scan)
        values = scan.file.read()
        tone = tone_of(values, modality=self._options.modality, window=self._options.window)
        organs, rejects = gather_organs(
            self._options.organs, scan.fields, self._organ_root, scan.file.grid, own=marks.organs, index=f"volumes[{case}]"
        )
        return _Loaded(scan, self._cut(scan), marks, organs, rejects, values, tone)

    def _picture(self, loaded: _Loaded, entry: _Entry, first: bool) -> SourceImage:
        cut, at = loaded.cut, entry.at
        values = cut.values(loaded.values, at)
        if not entry.lesions and not in_body(values, loaded.tone):
            raise RejectedImage("slice_outside_body", "chosen as free of lesions, but it shows hardly any tissue")
        shown = show(values, loaded.tone)
        header = Header(
            plane=cut.plane,
            patient_directions=cut.patient_directions,
            spacing_mm=cut.spacing_mm,
            series=loaded.scan.key,
            original_size=cut.raw_size if cut.size != cut.raw_size else None,
        )
        masks = {organ.name: mask for organ in loaded.organs if (mask := organ.on(cut, at)) is not None}
        stated = self._stated(loaded, at)
        uncertain, sure = self._near(loaded, at)
        facts = Facts(
            index=f"volumes[{entry.case}].slices[{at}]",
            key=f"{loaded.scan.key}#{cut.plane or 'stored'}{at}",
            patient=loaded.scan.patient,
            organs=masks,
            rejects=tuple(loaded.rejects) if first else (),
            scope_open=sure and loaded.marks.complete,
            image_labels=uncertain,
        )
        opened = Opened(shown.pixels, ExifTransform(1, cut.size), header, shown.window, shown.intensity)
        # the cut has said all of plane and directions, and organs are here; a declaration must not fill what it left unknown
        options = replace(self._options, organs=(), plane=None, patient_directions=None)
        image = assemble(opened, stated, facts, options, self._organ_root)
        heights = {organ.name: organ.height(cut, at) for organ in loaded.organs if organ.name in masks}
        return replace(image, organ_heights={name: height for name, height in heights.items() if height is not None})

    def _stated(self, loaded: _Loaded, at: int) -> list[Stated]:
        """Lesions that cross the slice, the largest first, since that one decides what must be visible."""
        found = []
        for number, lesion in enumerate(loaded.marks.lesions):
            raw = loaded.cut.piece(lesion.component, at)
            if raw is not None:
                one = Stated(
                    number,
                    lesion.class_source,
                    loaded.cut.box(raw),
                    loaded.cut.mask(raw),
                    lesion.lesion_3d,
                    lesion.agreement,
                )
                found.append((-int(np.count_nonzero(raw)), number, one))
        return [one for _, _, one in sorted(found, key=lambda each: each[:2])]

    def _near(self, loaded: _Loaded, at: int) -> tuple[dict[str, str], bool]:
        """Classes that come near the slice without crossing it, as uncertain, and whether nothing unnamed does."""
        cut = loaded.cut

        def near(component: Component) -> bool:
            place = component.place[cut.normal]
            slices = max(place.start - at, at - (place.stop - 1), 0)
            return cut.step_mm is None or slices * cut.step_mm < FREE_MM - 1e-6

        close = [lesion for lesion in loaded.marks.lesions if near(lesion.component)]
        on = {self._options.canonical(lesion.class_source) for lesion in close if cut.crosses(lesion.component, at)}
        by = {self._options.canonical(lesion.class_source) for lesion in close} - on
        return dict.fromkeys(sorted(by), "uncertain"), not any(near(one) for one in loaded.marks.unnamed)
