"""Organs of a volume: from its own label map, from a second one, or from one mask file per organ.

Declared as for pictures (sources/organ_specs.py, below --organ-root), with volumes as files:

    lung left=masks/{stem}_left.nii.gz               any value but zero is inside
    *=organs/{stem}                                  a folder with one mask per organ; file name = organ
    labels:totalsegmentator=organs/{stem}.nii.gz     a label map with its class map; names in the file itself go first

{stem} and {folder} are those of the case. Knows names and arrays; nothing of lesions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.sources.classes import organ_name
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.organ_specs import OrganSpec, read_spec
from medclm.corpus.sources.picture_files import walk_files
from medclm.corpus.volumes.cases import filled, stem_of
from medclm.corpus.volumes.cut import Cut
from medclm.corpus.volumes.files import ENDINGS, open_volume
from medclm.corpus.volumes.labels import LabelMap, name_labels
from medclm.corpus.volumes.volume import Grid


@dataclass(frozen=True)
class Organ:
    """One organ of a volume."""

    name: str
    """Lower case, side last."""
    labels: LabelMap
    number: int
    """Its class in `labels`."""

    def on(self, cut: Cut, at: int) -> np.ndarray | None:
        """(H, W) bool on slice `at`, pixels made square; None where it is not there."""
        raw = cut.raw(self.labels.codes, at) == self.number + 1
        return cut.mask(raw) if raw.any() else None

    def height(self, cut: Cut, at: int) -> float | None:
        """Where an axial slice cuts it, 0 at its lowest and 1 at its highest point.

        None for other planes, and where the organ touches the first or last slice: it may go on outside the volume.
        """
        place = self.labels.places[self.number]
        if cut.plane != "axial" or cut.patient_directions is None or place is None:
            return None
        low, high = place[2].start, place[2].stop
        if low == 0 or high == self.labels.codes.shape[2]:
            return None
        return float((at + 0.5 - low) / (high - low))


def organs_of(labels: LabelMap, numbers: Iterable[int]) -> list[Organ]:
    """Classes of a label map as organs; those without a name are none."""
    named = [(number, labels.classes[number]) for number in numbers if number < len(labels.classes)]
    return [Organ(organ_name(name), labels, number) for number, name in named if name is not None and organ_name(name)]


def gather_organs(
    specs: Sequence[str], fields: Mapping[str, str], root: Folder, grid: Grid, *, own: Sequence[Organ], index: str
) -> tuple[list[Organ], list[Reject]]:
    """The organs of one volume; a file that cannot be used is named and the volume stays.

    Args:
        specs: declarations as in the module's docstring, checked by `check_specs`.
        fields: of the case.
        grid: that masks must share.
        own: organs of the volume's own label map, which go first.
        index: place in the input, for rejects.
    """
    found: dict[str, Organ] = {}
    rejects: list[Reject] = []
    for organ in own:
        _add(organ, found, rejects, index)
    for spec in specs:
        declared = read_spec(spec)
        try:
            organs = _read(declared, fields, root, grid)
        except RejectedImage as rejection:
            what = declared.name if declared.kind == "mask" else declared.kind
            reason = rejection.reason.removeprefix("image_").removeprefix("volume_").removeprefix("organ_mask_")
            rejects.append(Reject(f"{index}.organs[{what}]", f"organ_mask_{reason}", rejection.detail))
            continue
        for organ in organs:
            _add(organ, found, rejects, index)
    return list(found.values()), rejects


def check_specs(specs: Sequence[str], fields: Mapping[str, str]) -> None:
    """Refuse declarations that volumes do not read.

    Raises:
        ValueError: boxes, an unknown placeholder, or what `read_spec` raises.
    """
    for spec in specs:
        declared = read_spec(spec)
        if declared.kind == "boxes":
            raise ValueError(f"--organ {spec}: volumes have no organ boxes: give masks or labels:CLASSES=TEMPLATE")
        filled(declared.template, fields)


def _add(organ: Organ, found: dict[str, Organ], rejects: list[Reject], index: str) -> None:
    if organ.name in found:
        detail = "a second mask of this organ, or two classes that are one organ: keep one"
        rejects.append(Reject(f"{index}.organs[{organ.name}]", "organ_mask_duplicate", detail))
    else:
        found[organ.name] = organ


def _read(spec: OrganSpec, fields: Mapping[str, str], root: Folder, grid: Grid) -> list[Organ]:
    path = root.find(filled(spec.template, fields))
    if spec.kind == "labels":
        labels = _labels(path, grid, spec.class_map, None)
        return organs_of(labels, range(len(labels.classes)))
    if spec.name != "*":
        return organs_of(_labels(path, grid, {}, spec.name), [0])
    if not path.is_dir():
        raise RejectedImage("organ_mask_missing", "there is no such folder of organ masks: check --organ and --organ-root")
    files = {stem_of(one, path, ENDINGS): one for one in walk_files(path, ENDINGS)}
    return [organ for stem, one in files.items() for organ in organs_of(_labels(one, grid, {}, stem), [0])]


def _labels(path: Path, grid: Grid, names: Mapping[int, str], everything: str | None) -> LabelMap:
    file = open_volume(path)
    if not file.grid.same_as(grid):
        raise RejectedImage("organ_mask_grid", "the mask's voxels are not those of the volume: resample it (nearest)")
    return name_labels(file.read(), file.names or names, everything=everything)
