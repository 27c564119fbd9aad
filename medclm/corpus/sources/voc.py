"""Detection datasets in Pascal VOC's format: one XML file per picture, both with the same stem.

VOC counts pixels from 1 and includes the last one: xmin..xmax covers the pixels xmin-1 up to and with xmax-1, so the box is
[xmin - 1, xmax) in our half-open coordinates. A box with xmin = xmax could be one pixel wide by that rule; in practice it is
a slip of the mouse and is refused as box_zero_area. `<path>` and `<folder>` (the annotator's machine) are never read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.detection import (
    Facts,
    PictureSource,
    RefusedAnnotation,
    Stated,
    four_numbers,
    judge_box,
    refused,
)
from medclm.corpus.sources.files import loosely, safe_parts
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.xml_file import XmlTooLarge, parse_xml
from medclm.types import Box

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2", ".avif", ".ppm", ".pgm")


@dataclass(frozen=True)
class _Item:
    stem: str
    xml: Path | None
    """None = a picture that no XML file belongs to."""
    pictures: tuple[Path, ...]
    """Pictures of that stem."""


class VocSource(PictureSource):
    """A folder of VOC files and a folder of pictures (contract.Source), in order of file name."""

    def __init__(self, annotation_folder: Path, image_root: Path, options: SourceOptions) -> None:
        """Lists both folders.

        Raises:
            ValueError: a folder is missing, or has no XML; or an option names a class that is never annotated.
        """
        super().__init__(options, annotation_folder.parent)
        for folder, flag in ((annotation_folder, "the annotation folder"), (image_root, "--image-root")):
            if not folder.is_dir():
                raise ValueError(f"{folder}: no such folder: give {flag}")
        self._items = _items(annotation_folder, image_root)
        self._parsed: tuple[int, Element] | None = None
        if not any(item.xml for item in self._items):
            raise ValueError(f"{annotation_folder}: no .xml file: give the folder of the Pascal VOC annotations")
        self._check_classes(annotation_folder)

    def __len__(self) -> int:
        return len(self._items)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """The picture at `index` of the sorted file names.

        Raises:
            RejectedImage: no_annotation_file, xml_forbidden (entities or a document type), xml_too_large, xml_unreadable or
                image_name_ambiguous.
        """
        root = self._root(index)
        return _picture(self._items[index], root), _declared_size(root)

    def facts(self, index: int) -> Facts:
        path, _ = self.picture(index)
        return Facts(index=f"files[{index}]", key=path.name, fields={"stem": path.stem, "file_name": path.name})

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        return [_stated(number, one, size) for number, one in enumerate(self._root(index).findall("object"))]

    def count(self, index: int) -> int:
        try:
            return len(self._root(index).findall("object"))
        except RejectedImage:
            return 0

    def _root(self, index: int) -> Element:
        item = self._items[index]
        if item.xml is None:
            raise RejectedImage(
                "no_annotation_file", "a picture without an XML file is unlabelled, not free of lesions: label it"
            )
        if self._parsed is None or self._parsed[0] != index:
            self._parsed = index, _parse(item.xml)
        return self._parsed[1]

    def _check_classes(self, annotation_folder: Path) -> None:
        """A mistyped class in scope would be called absent everywhere, so declared ones must occur; else no file is opened."""
        declared = (*self._options.exhaustive, *self._options.visible_on)
        if not declared:
            return
        known = {self._options.canonical(name) for item in self._items for name in _class_names(item)}
        for name in declared:
            if name not in known:
                close = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known)) or 'none'}"
                raise ValueError(f"{annotation_folder}: {name} is never annotated: {hint}")


def _items(annotation_folder: Path, image_root: Path) -> list[_Item]:
    annotations = _visible(annotation_folder, (".xml",))
    pictures: dict[str, list[Path]] = {}
    for path in _visible(image_root, _PICTURES):
        pictures.setdefault(loosely(path.stem), []).append(path)
    items = [_Item(xml.stem, xml, tuple(pictures.pop(loosely(xml.stem), ()))) for xml in annotations]
    astray = [item for item in items if not item.pictures]
    if astray and pictures:  # only then can an XML of another stem own one of the pictures left
        items = [_by_file_name(item, pictures) if not item.pictures else item for item in items]
    items += [_Item(found[0].stem, None, tuple(found)) for found in pictures.values()]
    return sorted(items, key=lambda item: (item.stem, item.xml is None))


def _visible(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of these endings; names with a leading dot are the file system's own."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))


def _by_file_name(item: _Item, pictures: dict[str, list[Path]]) -> _Item:
    """The item with the picture that its `<filename>` names, taken out of `pictures`."""
    assert item.xml is not None
    try:
        name = _parse(item.xml).findtext("filename", "").strip()
        stem = loosely(Path(safe_parts(name)[-1]).stem)
    except RejectedImage:
        return item
    return _Item(item.stem, item.xml, tuple(pictures.pop(stem, ())))


def _parse(path: Path) -> Element:
    try:
        root = parse_xml(path)
    except XmlTooLarge as error:
        raise RejectedImage("xml_too_large", str(error)) from error
    except DefusedXmlException as error:
        detail = f"{type(error).__name__}: annotation files need no entities or document type: remove them"
        raise RejectedImage("xml_forbidden", detail) from error
    except ParseError as error:
        line, column = error.position
        raise RejectedImage("xml_unreadable", f"line {line}, column {column}: not well-formed XML: correct it") from error
    except (OSError, ValueError, LookupError) as error:  # unreadable file; unknown or wrong encoding
        raise RejectedImage("xml_unreadable", f"{type(error).__name__}: save the file as UTF-8 XML") from error
    if root is None or root.tag != "annotation":
        raise RejectedImage("xml_unreadable", "not Pascal VOC: the outermost element is not <annotation>")
    return root


def _picture(item: _Item, root: Element) -> Path:
    """The picture of an XML file: that of its stem; among several the one that `<filename>` names exactly."""
    if not item.pictures:
        raise RejectedImage("image_missing", "no picture has the name of this XML file: check --image-root")
    if len(item.pictures) == 1:
        return item.pictures[0]
    named = [path for path in item.pictures if path.name == root.findtext("filename", "").strip()]
    if len(named) != 1:
        raise RejectedImage("image_name_ambiguous", f"{len(item.pictures)} pictures have the name of this XML file: keep one")
    return named[0]


def _stated(number: int, one: Element, size: tuple[int, int]) -> Stated:
    class_source = one.findtext("name", "").strip() or None
    try:
        if class_source is None:
            raise RefusedAnnotation("class_missing", "the object has no <name>: give one")
        corners = one.find("bndbox")
        if corners is None:
            raise RefusedAnnotation("box_missing", "the object has no <bndbox>: give one")
        box_px = _box([corners.findtext(name, "").strip() for name in ("xmin", "ymin", "xmax", "ymax")], size)
    except RefusedAnnotation as refusal:
        return refused(Stated(number, class_source), refusal)
    return Stated(number, class_source, box_px)


def _box(texts: list[str], size: tuple[int, int]) -> Box:
    x0, y0, x1, y1 = four_numbers(texts)
    if x1 <= x0 or y1 <= y0:  # judged as written: see the module's docstring
        return judge_box(Box(x0, y0, x1, y1), size)
    return judge_box(Box(x0 - 1, y0 - 1, x1, y1), size)


def _declared_size(root: Element) -> tuple[int, int] | None:
    """(width, height) as stated; None where none is (0 is how some tools write that)."""
    try:
        width, height = (int(float(root.findtext(f"size/{side}", "0"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _class_names(item: _Item) -> Iterator[str]:
    """Class names of one file; a file that cannot be parsed is named when it is read."""
    if item.xml is not None:
        try:
            yield from (one.findtext("name", "").strip() for one in _parse(item.xml).findall("object"))
        except RejectedImage:
            return
