"""TBX11K: the COCO files of annotations/json, with `imgs` as --image-root.

Habits:
- The folder of a picture is its group: health and sick have no tuberculosis, tb has; extra holds other collections with labels
  of whole pictures alone, test has none.
- The boxes of the JSON files are for the 512-pixel pictures. Those of annotations/xml are for the originals, which are not given
  out: read as VOC they are refused by size.
- Active and obsolete (healed) tuberculosis are settled on health, sick and tb. A picture of tb without a box says only that
  something was seen. `PulmonaryTuberculosis` is of unknown activity: its box is refused and both classes are in doubt.
- The official split is that of TBX11K_train.json and TBX11K_val.json, by their own names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.coco_file import identity
from medclm.corpus.sources.detection import Facts, RefusedAnnotation, Stated, refused
from medclm.corpus.sources.files import safe_parts
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.vocabulary import of_dataset

SETTLED = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis")
UNCERTAIN = "PulmonaryTuberculosis"
_SPLITS = {"tbx11k_train.json": "train", "tbx11k_val.json": "val"}


class Tbx11kSource(CocoSource):
    """One of the COCO files and its pictures (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the file; raises ValueError as `CocoSource` does."""
        super().__init__(annotations, image_root, of_dataset(options, modality="DX"))
        self._settled = tuple(self._options.canonical(name) for name in SETTLED)
        self._uncertain = self._options.canonical(UNCERTAIN)
        self._split = _SPLITS.get(annotations.name.lower())

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: image_unlabelled (group test), or as `CocoSource`."""
        found = super().picture(index)
        if self._group_of(index) == "test":
            raise RejectedImage("image_unlabelled", "the labels of the test pictures were not given out")
        return found

    def facts(self, index: int) -> Facts:
        group, classes = self._group_of(index), self._classes_at(index)
        facts = super().facts(index)
        free = group in ("health", "sick")
        settled = (free and not classes) or (group == "tb" and bool(classes) and self._uncertain not in classes)
        return replace(
            facts,
            official_split=self._split or facts.official_split,
            scope=self._settled,
            scope_open=facts.scope_open and settled,
            image_labels={} if settled else dict.fromkeys(self._settled, "uncertain"),
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        return [self._judged(stated) for stated in super().stated(index, size)]

    def _judged(self, stated: Stated) -> Stated:
        if stated.class_source is None or self._options.canonical(stated.class_source) != self._uncertain:
            return stated
        detail = "tuberculosis of unknown activity: neither of the two classes can be asked about"
        return refused(stated, RefusedAnnotation("class_uncertain", detail))

    def _group_of(self, index: int) -> str:
        return safe_parts(self._entries[index]["file_name"])[0].lower()

    def _classes_at(self, index: int) -> set[str]:
        """Classes of its annotations, whether or not their boxes can be used."""
        ids = (identity(self._annotations[number].get("category_id")) for number in self._of_image[index])
        return {self._options.canonical(self._classes[one]) for one in ids if one in self._classes}
