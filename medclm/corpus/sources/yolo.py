"""YOLO: one text file per picture, with boxes or polygons in shares of the picture's size.

Habits:
- A line is `class cx cy w h`, or `class x y x y x y ...` for a polygon, which becomes mask and box. A sixth number is the
  confidence of a prediction and is refused, and so are key points.
- Files belong to pictures by relative path without ending, where folders named `images` and `labels` do not count. The first
  folder named train, val or test is the official split.
- An empty file says that someone looked and drew nothing; that is no statement on any class unless --exhaustive makes it one. A
  picture without a file was not looked at.
- Class names stand in data.yaml or classes.txt, beside or above the label files or as --classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.detection import (
    Facts,
    PictureSource,
    RefusedAnnotation,
    Stated,
    judge_box,
    refused,
    shown,
)
from medclm.corpus.sources.files import loosely
from medclm.corpus.sources.official import split_of
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.picture_files import SUFFIXES, walk_files
from medclm.corpus.sources.shapes import polygon_box
from medclm.corpus.sources.tables import read_text
from medclm.corpus.sources.vocabulary import check_declared
from medclm.corpus.sources.yolo_names import BESIDE, read_names_file
from medclm.types import Box

_SILENT = ("images", "labels")
"""Folders that stand for the kind of file, not for the picture."""
_FARTHEST = 2.0
"""Shares beyond this were not divided by the picture's size."""


@dataclass(frozen=True)
class _Item:
    labels: tuple[Path, ...]
    pictures: tuple[Path, ...]
    key: str
    split: str | None


class YoloSource(PictureSource):
    """A folder of label files and a folder of pictures (contract.Source), in order of their relative paths."""

    def __init__(self, label_folder: Path, image_root: Path, options: SourceOptions) -> None:
        """Lists both folders and reads the class names.

        Raises:
            ValueError: a folder or the names are missing, there is no label file, the files hold key points, or a declared
                class has no name.
        """
        super().__init__(options, label_folder.parent)
        for folder, flag in ((label_folder, "--annotations"), (image_root, "--image-root")):
            if not folder.is_dir():
                raise ValueError(f"{folder}: no such folder: give {flag}")
        self._names = read_names_file(_names_file(label_folder, options))
        check_declared(label_folder, options, self._names.values())
        self._items = _items(label_folder, image_root)
        self._parsed: tuple[int, list[str]] | None = None
        if not any(item.labels for item in self._items):
            raise ValueError(f"{label_folder}: no .txt file: give the folder of the YOLO labels")

    def __len__(self) -> int:
        return len(self._items)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: no_annotation_file, annotation_file_ambiguous, annotation_file_unreadable, image_missing,
        image_name_ambiguous."""
        item = self._items[index]
        self._lines(index)
        if not item.pictures:
            raise RejectedImage("image_missing", "no picture has the name of this label file: check --image-root")
        if len(item.pictures) > 1:
            raise RejectedImage(
                "image_name_ambiguous", f"{len(item.pictures)} pictures have the name of this label file: keep one"
            )
        return item.pictures[0], None

    def facts(self, index: int) -> Facts:
        item = self._items[index]
        path = item.pictures[0]
        fields = {"stem": path.stem, "file_name": path.name}
        return Facts(index=f"files[{index}]", key=item.key, official_split=item.split, fields=fields)

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        found: list[Stated] = []
        seen: dict[str, int] = {}
        for number, line in enumerate(self._lines(index)):
            class_source = None
            try:
                class_source = self._class(line)
                first = seen.setdefault(line, number)
                if first != number:
                    raise RefusedAnnotation("duplicate_row", f"annotations[{first}] says the same: keep one")
                found.append(_stated(number, class_source, line, size))
            except RefusedAnnotation as refusal:
                found.append(refused(Stated(number, class_source), refusal))
        return found

    def count(self, index: int) -> int:
        try:
            return len(self._lines(index))
        except RejectedImage:
            return 0

    def _class(self, line: str) -> str:
        written = line.split()[0]
        number = written.removesuffix(".0")
        if not (number.isdecimal() and len(number) < 10 and int(number) in self._names):
            raise RefusedAnnotation(
                "class_unknown", f"class {shown(written)}: the names file has {len(self._names)}, from 0 up"
            )
        return self._names[int(number)]

    def _lines(self, index: int) -> list[str]:
        """The lines of a label file with single spaces, blank ones left out."""
        item = self._items[index]
        if not item.labels:
            raise RejectedImage(
                "no_annotation_file", "a picture without a label file is unlabelled, not free of lesions: label it"
            )
        if len(item.labels) > 1:
            raise RejectedImage("annotation_file_ambiguous", f"{len(item.labels)} label files belong to this picture: keep one")
        if self._parsed is None or self._parsed[0] != index:
            try:
                text = read_text(item.labels[0])
            except ValueError as error:
                raise RejectedImage("annotation_file_unreadable", "not UTF-8 text that can be read: save it as such") from error
            self._parsed = index, [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        return self._parsed[1]


def _stated(number: int, class_source: str, line: str, size: tuple[int, int]) -> Stated:
    numbers = _shares(line.split()[1:])
    if len(numbers) == 5:
        raise RefusedAnnotation("prediction", "a sixth number is a model's confidence: give annotations, not predictions")
    if len(numbers) < 4 or len(numbers) % 2:
        raise RefusedAnnotation(
            "box_unreadable", f"a line of {len(numbers) + 1} numbers: give class and 4 of a box, or 6 and more"
        )
    width, height = size
    if len(numbers) == 4:
        x, y, wide, high = numbers
        box_px = Box((x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height)
        return Stated(number, class_source, judge_box(box_px, size))
    points = [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    box_px, mask = polygon_box(points, size)
    return Stated(number, class_source, box_px, mask)


def _shares(texts: list[str]) -> list[float]:
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        raise RefusedAnnotation("box_unreadable", "something on the line is not a number: correct it") from None
    if any(abs(number) > _FARTHEST for number in numbers):
        largest = max(numbers, key=abs)
        raise RefusedAnnotation("box_not_unit", f"{largest:g} is no share of the picture: divide by its width or height")
    return numbers


def _names_file(label_folder: Path, options: SourceOptions) -> Path:
    if options.classes is not None:
        return options.classes
    for folder in (label_folder, label_folder.parent):
        for name in BESIDE:
            if (folder / name).is_file():
                return folder / name
    raise ValueError(f"{label_folder}: no {' or '.join(BESIDE)} beside or above it: give the class names with --classes")


def _items(label_folder: Path, image_root: Path) -> list[_Item]:
    labels = _by_key(label_folder, (".txt",), skip=BESIDE)
    pictures = _by_key(image_root, SUFFIXES)
    items = []
    for key in sorted({*labels, *pictures}):
        shown_key, split = _described((pictures if key in pictures else labels)[key][0])
        found = tuple(path for path, _ in pictures.get(key, ()))
        items.append(_Item(tuple(path for path, _ in labels.get(key, ())), found, shown_key, split))
    return items


def _by_key(root: Path, suffixes: tuple[str, ...], skip: tuple[str, ...] = ()) -> dict[str, list[tuple[Path, PurePath]]]:
    """Relative path without ending and without silent folders, as `loosely` compares it -> files with their relative paths."""
    found: dict[str, list[tuple[Path, PurePath]]] = {}
    for path in walk_files(root, suffixes):
        if path.name.lower() not in skip:
            relative = path.relative_to(root)
            parts = [part for part in relative.parts[:-1] if part.lower() not in _SILENT]
            found.setdefault(loosely("/".join([*parts, path.stem])), []).append((path, relative))
    return found


def _described(found: tuple[Path, PurePath]) -> tuple[str, str | None]:
    """Stable name of an item, and its split by folder."""
    relative = found[1]
    splits = [split for part in relative.parts[:-1] if (split := split_of(part))]
    return relative.as_posix(), splits[0] if splits else None
