"""One side of a leak comparison: a corpus, or any folder of picture files, as numbered pictures with what is known of them.

Must not know how sides are compared. A picture is named by its number alone: the image row of a corpus, the position among
the picture files of a folder sorted by relative path. Paths leave this module only for the user's own key file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medclm.corpus.contract import RejectedImage
from medclm.corpus.fingerprints import Fingerprint, Fingerprints, fingerprint
from medclm.corpus.near_duplicates import Pixels
from medclm.corpus.pixels import read_picture
from medclm.data.manifest import read_manifest
from medclm.data.schema import MANIFEST, SPLITS
from medclm.data.shards import Corpus, first_row

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".avif")
)
_UNREAD = Fingerprint(b"\0" * 16, np.zeros(4, np.uint64), True)
_AT_ONCE = 256


@dataclass
class Side:
    """Numbered pictures. What a side does not state is None."""

    kind: str
    """`corpus` or `folder`."""
    pixels: Pixels
    """Raises RejectedImage for a file that cannot be read."""
    count: int
    id_key: str | None = None
    """Fingerprint of the key that hashed the ids; ids of two sides compare only where it is equal."""
    patients: list[str | None] | None = None
    origin_patients: list[str | None] | None = None
    """As the collection names them that the picture first came from."""
    image_ids: list[str | None] | None = None
    origins: list[str | None] | None = None
    splits: np.ndarray | None = None
    """(count,) uint8 bit masks: bit k is set where a record of SPLITS[k] uses the picture."""
    prints: Fingerprints | None = None
    unread: Counter[str] = field(default_factory=Counter)
    """Pictures that could not be compared, by reason."""
    other_files: int = 0
    paths: list[str] | None = None

    def read(self, workers: int, tick: Callable[[int], object]) -> Fingerprints:
        """Decode every picture once; `tick` gets the number done since the last call."""

        def one(number: int) -> Fingerprint | str:
            try:
                return fingerprint(self.pixels(number))
            except RejectedImage as error:
                return error.reason

        def every() -> Iterator[Fingerprint]:
            with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding leaves the interpreter lock
                for start in range(0, self.count, _AT_ONCE):
                    block = range(start, min(start + _AT_ONCE, self.count))
                    for found in pool.map(one, block):
                        if isinstance(found, str):
                            self.unread[found] += 1
                        yield _UNREAD if isinstance(found, str) else found
                    tick(len(block))

        self.prints = Fingerprints.stack(every())
        return self.prints

    def mask(self, splits: tuple[str, ...]) -> np.ndarray:
        """(count,) bool: pictures of these splits; all where none is named.

        Raises:
            ValueError: a folder has no splits, or there is no such split.
        """
        if not splits:
            return np.ones(self.count, bool)
        if self.splits is None or set(splits) - set(SPLITS):
            raise ValueError(f"--splits {','.join(splits)}: only a corpus has splits, and they are {', '.join(SPLITS)}")
        wanted = sum(1 << SPLITS.index(split) for split in set(splits))
        return np.asarray((self.splits & wanted) != 0)


def open_side(folder: Path, *, window: tuple[float, float] | None = None) -> Side:
    """A corpus where the folder is one, else its picture files.

    Args:
        window: (centre, width) for picture files of more than 8 bits, which are otherwise counted as unread.

    Raises:
        ValueError: no such folder, no picture in it, or a damaged or unfinished corpus.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder: give a corpus or a folder of picture files")
    if (folder / ".parts").is_dir() or any(folder.glob("images-*.arrow")) or _has_manifest(folder):
        return _corpus_side(Corpus(folder))
    return _folder_side(folder, window)


def _has_manifest(folder: Path) -> bool:
    """Whether manifest.json is one of ours; a benchmark may have a file of that name."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return True


def _corpus_side(corpus: Corpus) -> Side:
    side = Side(
        kind="corpus",
        pixels=lambda row: np.asarray(corpus.picture(row)),
        count=corpus.count("images"),
        id_key=corpus.manifest.get("builder", {}).get("id_key"),
        patients=_column(corpus, "patient"),
        image_ids=_column(corpus, "image_id"),
        splits=np.zeros(corpus.count("images"), np.uint8),
    )
    if side.count and "origin" in corpus.row("images", 0):  # since schema 1.1
        side.origins, side.origin_patients = _column(corpus, "origin"), _column(corpus, "origin_patient")
    assert side.splits is not None
    for bit, split in enumerate(SPLITS):
        for batch in corpus.scan("records", ["image_row", "easy_image_row", "hard_image_row"], split):
            for column in batch.columns:
                rows = np.asarray(column)
                side.splits[rows[rows >= 0]] |= 1 << bit
    return side


def _column(corpus: Corpus, name: str) -> list[str | None]:
    values: list[str | None] = []
    for batch in corpus.scan("images", [name]):
        assert first_row(batch) == len(values)
        values += batch.column(0).to_pylist()
    return values


def _folder_side(folder: Path, window: tuple[float, float] | None) -> Side:
    paths: list[str] = []
    others = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in SUFFIXES:
                paths.append(path.relative_to(folder).as_posix())
            else:
                others += 1
    if not paths:
        raise ValueError(f"{folder}: no picture file in it ({others} other files): give a corpus or a folder of pictures")
    paths.sort()
    return Side(
        kind="folder",
        pixels=lambda number: read_picture(folder / paths[number], sixteen_bit=window).pixels,
        count=len(paths),
        other_files=others,
        paths=paths,
    )
