"""Pictures with label maps or masks as pictures (PNG, TIFF, BMP): every connected part of a class is a lesion.

    source = LabelPictureSource(Path("labels"), Path("images/{stem}_flair.png"), SourceOptions(name="set", classes=Path("map.json")))

Pairs by name as volumes do (volumes/cases.py). Values are named by --classes; without it every value but 0 is the one class of
--lesions. Classes outside --lesions are organs. A picture without a part is free of the classes that are exhaustive. Must not
know volumes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.classes import organ_name
from medclm.corpus.sources.detection import Facts, PictureSource, RefusedAnnotation, Stated
from medclm.corpus.sources.label_maps import read_label_map
from medclm.corpus.sources.label_names import LabelNames
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.picture_files import SUFFIXES
from medclm.corpus.volumes.cases import find_cases
from medclm.corpus.volumes.labels import LabelMap, components, name_labels
from medclm.types import Box

LEAST_PIXELS = 4
"""A part of fewer pixels is a slip of the pen; its class is in doubt on that picture."""


class LabelPictureSource(PictureSource):
    """A folder of label maps and a folder of pictures, or one file of each (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Pairs the files.

        Raises:
            ValueError: paths, options or class maps that do not fit.
        """
        super().__init__(options, annotations if annotations.is_dir() else annotations.parent)
        endings = [ending for ending in SUFFIXES if ending not in (".dcm", ".dicom")]
        self._cases, self.rejects = find_cases(annotations, image_root, endings)
        self._names = LabelNames(options)
        self._arguments = self._names.arguments({}, annotations)
        self._names.check(annotations)
        self._last: tuple[int, LabelMap] | None = None

    def __len__(self) -> int:
        return len(self._cases)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_last": None}

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """The picture of a label map, and the size of that map.

        Raises:
            RejectedImage: label_map_lossy, label_map_mode, label_map_values, or a reason of `read_picture` about the map, its
                image_ being label_map_.
        """
        height, width = self._labels(index).codes.shape
        return self._cases[index].image, (width, height)

    def facts(self, index: int) -> Facts:
        case, labels = self._cases[index], self._labels(index)
        organs: dict[str, np.ndarray] = {}
        for number, name in enumerate(labels.classes):
            organ = organ_name(name) if name is not None and not self._names.is_lesion(name) else ""
            if organ:
                mask = labels.codes == number + 1
                organs[organ] = organs[organ] | mask if organ in organs else mask
        return Facts(
            index=f"images[{index}]",
            key=case.image_key,
            fields={**case.fields, "file_name": case.image.name},
            organs=organs,
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        labels = self._labels(index)
        found: list[Stated] = []
        for number, name in enumerate(labels.classes):
            if name is None:
                detail = f"value {labels.values[number]} has no name: add it to --classes"
                found.append(Stated(len(found), None, refusal=RefusedAnnotation("label_value_unknown", detail)))
            elif self._names.is_lesion(name):
                found += self._parts(labels, number, name, len(found))
        return found

    def count(self, index: int) -> int:
        """0 where the label map itself cannot be read."""
        try:
            return len(self.stated(index, (0, 0)))
        except RejectedImage:
            return 0

    def _parts(self, labels: LabelMap, number: int, name: str, first: int) -> list[Stated]:
        found = []
        for at, part in enumerate(components(labels, number), start=first):
            if part.size < LEAST_PIXELS:
                detail = f"{part.size} pixels that touch no other of their class: join or remove them"
                found.append(Stated(at, name, refusal=RefusedAnnotation("lesion_too_small", detail)))
                continue
            mask = np.zeros(labels.codes.shape, bool)
            mask[part.place] = part.inside
            rows, columns = part.place
            box_px = Box(float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            found.append(Stated(at, name, box_px, mask))
        return found

    def _labels(self, index: int) -> LabelMap:
        if self._last is None or self._last[0] != index:
            path = self._cases[index].labels
            names, everything = self._arguments
            try:
                values = read_label_map(path, max_pixels=self._options.max_pixels)
                self._last = index, name_labels(values, names, everything=everything)
            except RejectedImage as rejection:
                reason = rejection.reason
                for prefix in ("organ_mask_", "organ_labels_", "image_", "label_map_"):
                    reason = reason.removeprefix(prefix)
                raise RejectedImage(f"label_map_{reason}", rejection.detail) from rejection
        return self._last[1]
