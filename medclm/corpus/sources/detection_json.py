"""The published detection input: a JSON list of {image_path, anatomy_path, annotations: [{bbox, class}]}.

Habits:
- `bbox` holds two corners in pixels, as a list or as one string.
- Paths are relative to the file, or to --image-root where that is given.
- `anatomy_path` is a folder of organ masks, file name = organ; it may be missing.
- No annotations means none were stated, not that there is nothing: only --exhaustive opens negatives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.vocabulary import check_declared
from medclm.types import Box


class DetectionJsonSource(PictureSource):
    """The file and its pictures (contract.Source)."""

    def __init__(self, annotations: Path, image_root: Path | None, options: SourceOptions) -> None:
        """Reads the file.

        Raises:
            ValueError: it is missing, not JSON or not a list, the folder is missing, or a declared class does not occur.
        """
        entries = read_json(annotations)
        if not isinstance(entries, list):
            raise ValueError(f"{annotations}: expected a list of objects with image_path and annotations")
        root = image_root or annotations.parent
        if any(isinstance(entry, dict) and entry.get("anatomy_path") for entry in entries):
            options = replace(options, organs=(*options.organs, "*={anatomy_path}"))
        super().__init__(options, root)
        if not root.is_dir():
            raise ValueError(f"{root}: no such folder: give the folder that image_path is relative to (--image-root)")
        self._entries: list[Any] = entries
        self._files = Folder(root)
        names = [one.get("class") for number in range(len(entries)) for one in self._objects(number) if isinstance(one, dict)]
        check_declared(annotations, options, [name for name in names if isinstance(name, str)])

    def __len__(self) -> int:
        return len(self._entries)

    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """Raises RejectedImage: image_entry_unreadable, or a reason of `Folder.find`."""
        return self._files.find(self._path(index, "image_path")), None

    def facts(self, index: int) -> Facts:
        name = self._path(index, "image_path")
        stem = Path(name.replace("\\", "/")).stem
        entry = self._entries[index]
        scope_open = isinstance(entry.get("annotations"), list)
        return Facts(
            index=f"images[{index}]",
            key=name,
            fields={"stem": stem, "file_name": name, "anatomy_path": entry.get("anatomy_path")},
            scope_open=scope_open,
        )

    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        return [_stated(number, one, size) for number, one in enumerate(self._objects(index))]

    def count(self, index: int) -> int:
        return len(self._objects(index))

    def _objects(self, index: int) -> list[Any]:
        entry = self._entries[index]
        found = entry.get("annotations") if isinstance(entry, dict) else None
        return found if isinstance(found, list) else []

    def _path(self, index: int, field: str) -> str:
        entry = self._entries[index]
        name = entry.get(field) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise RejectedImage("image_entry_unreadable", f"expected an object with a text {field}")
        return name.strip()


def _stated(number: int, one: Any, size: tuple[int, int]) -> Stated:
    name = one.get("class") if isinstance(one, dict) else None
    stated = Stated(number, name.strip() if isinstance(name, str) and name.strip() else None)
    try:
        if stated.class_source is None:
            raise RefusedAnnotation("class_missing", "the annotation has no class: give one")
        return Stated(number, stated.class_source, judge_box(Box(*four_numbers(one.get("bbox"))), size))
    except RefusedAnnotation as refusal:
        return refused(stated, refusal)
