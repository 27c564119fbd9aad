"""Pictures that a dataset names without their folder or ending: `00000013_005.png` lies in `images_001/images`, and
`0a1b2c` may be a .dicom or a .png.

The folder is walked once, and only where a name is not found at once. Must not know what the pictures show.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.files import loosely, safe_parts

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2", ".avif", ".ppm", ".pgm"),
    *(".dcm", ".dicom"),
)
"""Endings of pictures, in lower case."""


def walk_files(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below a folder with one of these endings, sorted; hidden ones are the file system's own. Symbolic links are
    followed, each folder once."""
    found, seen = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        if here in seen:
            below.clear()
            continue
        seen.add(here)
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(folder, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(found)


@dataclass
class PictureFiles:
    """The pictures below a root folder.

    Raises:
        ValueError: the folder does not exist.
    """

    root: Path
    _by_name: dict[str, list[Path]] | None = field(default=None, repr=False)
    _by_stem: dict[str, list[Path]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise ValueError(f"{self.root}: no such folder: give the folder of the pictures (--image-root)")

    def find(self, name: str) -> Path:
        """The picture of that relative name, or the only one below the folder whose path ends in it.

        Raises:
            RejectedImage: path_outside_root, image_missing, image_name_ambiguous. The detail does not hold the name.
        """
        parts = safe_parts(name)
        try:
            direct = self.root.joinpath(*parts)
            if direct.is_file():
                return direct
        except (OSError, ValueError):  # a name that no file system has
            raise RejectedImage("image_missing", "the name cannot be that of a file: correct it") from None
        self._list()
        return self._only((self._by_name or {}).get(loosely(parts[-1]), ()), parts)

    def find_stem(self, stem: str) -> Path:
        """The only picture below the folder with that name before its ending; raises as `find`."""
        parts = safe_parts(stem)
        self._list()
        return self._only(self._by_stem.get(loosely(parts[-1]), ()), parts)

    def _only(self, paths: Iterable[Path], parts: tuple[str, ...]) -> Path:
        folders = tuple(loosely(part) for part in parts[:-1])
        fitting = [path for path in paths if self._folders(path)[-len(folders) :] == folders] if folders else list(paths)
        exact = [path for path in fitting if parts[-1] in (path.name, path.stem)]
        fitting = exact or fitting
        if len(fitting) > 1:
            raise RejectedImage("image_name_ambiguous", f"{len(fitting)} pictures below --image-root have this name: keep one")
        if not fitting:
            raise RejectedImage(
                "image_missing", "there is no such file under the image folder: check the name and --image-root"
            )
        return fitting[0]

    def _folders(self, path: Path) -> tuple[str, ...]:
        return tuple(loosely(part) for part in path.relative_to(self.root).parts[:-1])

    def _list(self) -> None:
        if self._by_name is not None:
            return
        self._by_name = {}
        for path in walk_files(self.root, SUFFIXES):
            self._by_name.setdefault(loosely(path.name), []).append(path)
            self._by_stem.setdefault(loosely(path.stem), []).append(path)

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_by_name": None, "_by_stem": {}}  # each worker lists for itself
