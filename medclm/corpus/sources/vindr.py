"""VinDr-CXR: annotations_train.csv or annotations_test.csv, with image_labels_*.csv as --image-labels.

Habits:
- image_id,rad_id,class_name,x_min,y_min,x_max,y_max: one row for each box of each reader, or for a reader's `No finding`; Kaggle's
  table has class_id as well. Corners are in pixels of the original picture (IMAGE_ID.dicom); columns width and height, where a
  table has them, say of which.
- Three readers saw each training picture. `--readers fuse` (default): boxes of one class from different readers with an IoU of
  at least 0.5 become their mean, `agreement` is the share of readers; `majority`: of these, those that at least half of the
  readers marked; `all`: every box by itself.
- "No finding" is known only where all readers say so. A class that some readers marked and some did not is uncertain; one that
  none marked is absent, where all three looked and it is on the list of local labels and used somewhere in the table.
- A table without rad_id is the test set: a consensus, without `agreement`.
- `Other lesion` names nothing, so its absence is never asked; `Lung Opacity` is not absent where a consolidation is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medclm.corpus.sources.detection import Facts, RefusedAnnotation, Stated, four_numbers, judge_box, refused
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.readers import Marked, fuse
from medclm.corpus.sources.row_source import RowSource
from medclm.corpus.sources.tables import Row, read_table
from medclm.corpus.sources.vindr_labels import LOCAL_LABELS, ReaderLabels, read_image_labels
from medclm.corpus.sources.vocabulary import NO_FINDING, check_declared, in_doubt, of_dataset
from medclm.types import Box

READERS = 3
"""Of each training picture."""
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_CONSENSUS = "consensus"


class VindrSource(RowSource):
    """The box table and its pictures (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path, options: SourceOptions) -> None:
        """Reads the tables.

        Raises:
            ValueError: a table is missing or not of this layout, or a declared class does not occur.
        """
        options = of_dataset(options, modality="DX", plane="frontal")
        table = read_table(annotations, ("image_id", "class_name", *_CORNERS), ("rad_id", "width", "height"))
        super().__init__(table, "image_id", image_root, options)
        self._has_readers = "rad_id" in table.columns
        used = {row["class_name"] for row in table.rows}
        check_declared(annotations, options, used | set(LOCAL_LABELS))
        known = {options.canonical(name) for name in used}
        self._local = tuple(name for name in map(options.canonical, LOCAL_LABELS) if name in known)
        self._labels = read_image_labels(options.image_labels, options) if options.image_labels else {}

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: path_outside_root, image_missing, image_name_ambiguous."""
        row = self._of(index)[0]
        sides = [row[side].removesuffix(".0") for side in ("width", "height")]
        stated = all(re.fullmatch("[1-9][0-9]{0,5}", side) for side in sides)
        return self._pictures.find_stem(self._names[index]), (int(sides[0]), int(sides[1])) if stated else None

    def facts(self, index: int) -> Facts:
        name = self._names[index]
        readers = self._readers(index)
        per_reader = [self._classes_of(index, reader) for reader in readers]
        labels = {lesion_class: _joint(lesion_class, per_reader) for lesion_class in (*self._local, NO_FINDING)}
        whole = self._labels.get(loosely(name), ReaderLabels(0, {}))
        for lesion_class, said in whole.labels.items():
            labels[lesion_class] = said if labels.get(lesion_class, said) == said else "uncertain"
        labels |= dict.fromkeys(self._miscounted(index), "uncertain")
        labels |= in_doubt(self._local, [lesion_class for lesion_class, said in labels.items() if said != "absent"])
        scope = self._local if self._all_looked(readers) else ()
        if whole.readers >= (READERS if self._has_readers else 1):
            scope = tuple(dict.fromkeys((*scope, *(found for found in whole.labels if found != NO_FINDING))))
        elif not scope:  # the readers who are missing may have seen what these did not
            labels = dict.fromkeys(labels, "uncertain")
        contradicts = any(NO_FINDING in classes and len(classes) > 1 for classes in per_reader)
        return Facts(
            index=f"images[{index}]",
            key=name,
            official_split="train" if self._has_readers else "test",
            fields={"stem": name, "file_name": name},
            scope=() if contradicts else scope,
            image_labels=labels,
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        found = []
        boxes: dict[str, list[tuple[Row, Box]]] = {}
        for stated in super().stated(index, size):
            if stated.refusal is not None or stated.box_px is None or stated.class_source is None:
                found.append(stated)
                continue
            row = next(row for row in self._of(index) if row.number == stated.number)
            boxes.setdefault(stated.class_source, []).append((row, stated.box_px))
        readers = len(self._readers(index))
        for class_source, marked in boxes.items():
            found += self._lesions(class_source, marked, readers)
        return sorted(found, key=lambda stated: stated.number)

    def is_lesion(self, row: Row) -> bool:
        return not self._says_nothing(row) or (any(row[corner] for corner in _CORNERS) and not _is_placeholder(row))

    def class_of(self, row: Row) -> str | None:
        return row["class_name"] or None

    def lesion(self, row: Row, size: tuple[int, int]) -> Stated:
        if self.class_of(row) is None:
            raise RefusedAnnotation("class_missing", f"line {row.line} has no class_name: fill it in")
        if self._says_nothing(row):
            raise RefusedAnnotation("box_of_no_finding", f"line {row.line} has a box of no finding: name what it shows")
        return Stated(row.number, self.class_of(row), judge_box(Box(*four_numbers([row[name] for name in _CORNERS])), size))

    def _lesions(self, class_source: str, marked: list[tuple[Row, Box]], readers: int) -> Iterator[Stated]:
        """The lesions of one class by the rule of --readers; a consensus has nothing to join."""
        by_reader = [(self._reader(row), box_px) for row, box_px in marked]
        if not self._has_readers or self._options.readers == "all":
            groups = [Marked(box_px, frozenset({reader}), (place,)) for place, (reader, box_px) in enumerate(by_reader)]
        else:
            groups = fuse(by_reader)
        for group in groups:
            agreement = len(group.readers) / readers if self._has_readers else None
            stated = Stated(marked[group.members[0]][0].number, class_source, group.box_px, agreement=agreement)
            if self._options.readers == "majority" and agreement is not None and agreement < 0.5:
                detail = f"{len(group.readers)} of {readers} readers marked it: see --readers"
                stated = refused(stated, RefusedAnnotation("too_few_readers", detail))
            yield stated

    def _miscounted(self, index: int) -> set[str]:
        """Classes whose lesions not every reader marked one by one, or that are not joined: their number is not known."""
        if not self._has_readers:
            return set()
        readers = len(self._readers(index))
        boxes: dict[str, list[tuple[str, Box]]] = {}
        doubtful: set[str] = set()
        for row in self._of(index):
            if not self.is_lesion(row):
                continue
            lesion_class = self._options.canonical(row["class_name"])
            try:
                box_px = Box(*four_numbers([row[name] for name in _CORNERS]))
            except RefusedAnnotation:
                box_px = Box(0, 0, 0, 0)
            if box_px.width > 0 and box_px.height > 0:
                boxes.setdefault(lesion_class, []).append((self._reader(row), box_px))
            else:
                doubtful.add(lesion_class)
        for lesion_class, marked in boxes.items():
            agreed = self._options.readers != "all" and all(len(one.readers) == readers for one in fuse(marked))
            if not agreed:
                doubtful.add(lesion_class)
        return doubtful

    def _readers(self, index: int) -> list[str]:
        return list(dict.fromkeys(self._reader(row) for row in self._of(index)))

    def _all_looked(self, readers: Sequence[str]) -> bool:
        return not self._has_readers or (len(readers) >= READERS and all(readers))

    def _reader(self, row: Row) -> str:
        return row["rad_id"] if self._has_readers else _CONSENSUS

    def _classes_of(self, index: int, reader: str) -> frozenset[str]:
        rows = (row for row in self._of(index) if self._reader(row) == reader)
        return frozenset(self._options.canonical(row["class_name"]) for row in rows)

    def _says_nothing(self, row: Row) -> bool:
        return self._options.canonical(row["class_name"]) == NO_FINDING


def _joint(lesion_class: str, per_reader: Sequence[frozenset[str]]) -> str:
    """What the readers say together of one class, each by the classes it named; a reader who names findings and none is in
    doubt."""
    said = {lesion_class in classes for classes in per_reader}
    if lesion_class == NO_FINDING and any(lesion_class in classes and len(classes) > 1 for classes in per_reader):
        return "uncertain"
    return "uncertain" if len(said) > 1 else "present" if said == {True} else "absent"


def _is_placeholder(row: Row) -> bool:
    """The box that some copies of the table give to rows without one."""
    return [row[corner].removesuffix(".0") for corner in _CORNERS] == ["0", "0", "1", "1"]
