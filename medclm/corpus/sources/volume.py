"""Volumes with label maps (NIfTI, MetaImage, NRRD): every connected part of a class is a lesion, shown on a few slices.

    source = VolumeSource(Path("labels"), Path("images"), SourceOptions(name="set", modality="CT", classes=Path("classes.json")))

Pairs by name (volumes/cases.py). Values are named by the label map itself (3D Slicer), else by --classes, else every value but
0 is the one class of --lesions. Classes outside --lesions are organs. Must not know file formats or patient axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.sources.label_names import LabelNames
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.volumes.cases import find_cases
from medclm.corpus.volumes.files import ENDINGS, open_volume
from medclm.corpus.volumes.labels import LabelMap, components, name_labels
from medclm.corpus.volumes.organ_maps import organs_of
from medclm.corpus.volumes.slices import Lesion, Marks, Scan, SliceSource


class VolumeSource(SliceSource):
    """A folder of label maps and a folder of volumes, or one file of each (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Pairs the files and reads every label map once.

        Raises:
            ValueError: paths, options or class maps that do not fit; or no picture at all.
        """
        super().__init__(options, annotations if annotations.is_dir() else annotations.parent)
        self._cases, rejects = find_cases(annotations, image_root, ENDINGS)
        self._names = LabelNames(options)
        self._where = annotations
        self.make_index(len(self._cases), rejects, annotations)

    def check_classes(self) -> None:
        self._names.check(self._where)

    def scan(self, case: int) -> Scan:
        """The image of a case; raises RejectedImage of its reader."""
        found = self._cases[case]
        return Scan(open_volume(found.image), found.image_key, found.key, found.fields)

    def marks(self, case: int, scan: Scan) -> Marks:
        """The components of its label map.

        Raises:
            RejectedImage: label_map_grid, label_map_not_whole, label_map_values, or a reason of the reader with label_map_ before it.
        """
        path = self._cases[case].labels
        try:
            file = open_volume(path)
            if not file.grid.same_as(scan.file.grid):
                raise RejectedImage(
                    "label_map_grid",
                    f"the label map ({_by(file.grid.shape)}) does not have its voxels where the image ({_by(scan.file.grid.shape)}) "
                    "has its own: resample it (nearest), or give it the image's header",
                )
            names, everything = self._names.arguments(file.names, path)
            labels = name_labels(file.read(), names, everything=everything)
        except RejectedImage as rejection:
            reason = rejection.reason.removeprefix("volume_")
            reason = reason if reason.startswith("label_map_") else f"label_map_{reason}"
            raise RejectedImage(reason, rejection.detail) from rejection
        self._names.meet(labels)
        return self._sorted(case, labels)

    def _sorted(self, case: int, labels: LabelMap) -> Marks:
        """Lesions, organs and what has no name."""
        lesions, organs, unnamed, rejects = [], [], [], []
        for number, name in enumerate(labels.classes):
            if name is None:
                parts = components(labels, number)
                unnamed += parts
                detail = f"value {labels.values[number]} ({len(parts)} parts) has no name: add it to --classes"
                rejects.append(Reject(f"volumes[{case}].labels[{labels.values[number]}]", "label_value_unknown", detail))
            elif self._names.is_lesion(name):
                lesions += [Lesion(part, name, f"{name}#{at}") for at, part in enumerate(components(labels, number))]
            else:
                organs.append(number)
        return Marks(lesions, organs_of(labels, organs), unnamed, rejects)


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(str(size) for size in sizes)
