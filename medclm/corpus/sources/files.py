"""Names written in annotation files -> files under a folder, never outside it.

Datasets move between systems, so a name may differ from the file in letter case or Unicode form; one match is accepted,
several are refused. Symbolic links below the folder are followed: an annotation file cannot make one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from medclm.corpus.contract import RejectedImage


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path as written in an annotation file; backslashes count as separators where no slash stands.

    Raises:
        RejectedImage: path_outside_root, for an absolute path, a drive letter or `..`; image_missing, for an empty name.
    """
    slashed = name if "/" in name else name.replace("\\", "/")
    parts = tuple(part for part in slashed.split("/") if part not in ("", "."))
    if slashed.startswith("/") or re.match("[A-Za-z]:", slashed) or ".." in parts:
        raise RejectedImage(
            "path_outside_root", "the name is absolute or climbs with `..`: give names relative to the image folder"
        )
    if not parts or "\0" in name:
        raise RejectedImage("image_missing", "the name is empty: give the file name of the picture")
    return parts


def loosely(name: str) -> str:
    """A file name as case-blind, composition-blind systems compare it."""
    return unicodedata.normalize("NFC", name.casefold())


@dataclass
class Folder:
    """A root folder; remembers listings, since a dataset in the wrong letter case misses on every name."""

    root: Path
    _listings: dict[Path, dict[str, list[str]]] = field(default_factory=dict, repr=False)

    def find(self, name: str) -> Path:
        """The file or folder of that relative name.

        Raises:
            RejectedImage: path_outside_root, image_missing, image_name_ambiguous. The detail does not hold the name.
        """
        path = self.root
        for part in safe_parts(name):
            path = path / self._match(path, part)
        return path

    def _match(self, folder: Path, part: str) -> str:
        try:
            if (folder / part).exists():
                return part
        except OSError:  # a name longer than the file system allows
            raise RejectedImage("image_missing", "the name is longer than a file name can be") from None
        matches = self._listing(folder).get(loosely(part), [])
        if len(matches) > 1:
            raise RejectedImage(
                "image_name_ambiguous",
                f"{len(matches)} files differ from the name only in letter case: rename or remove all but one",
            )
        if not matches:
            raise RejectedImage(
                "image_missing", "there is no such file under the image folder: check the name and --image-root"
            )
        return matches[0]

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
                listing.setdefault(loosely(entry.name), []).append(entry.name)
            self._listings[folder] = listing
        return self._listings[folder]

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_listings": {}}  # each worker lists for itself
