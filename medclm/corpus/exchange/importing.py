"""Exchange files -> a corpus folder: entries are read, stated records become parts, parts are finalised. The same for every
format. Knows no format.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.contract import Reject
from medclm.corpus.exchange.intake import Intake
from medclm.corpus.exchange.stated import StatedRecord
from medclm.corpus.finalise import BuildReport, finalise
from medclm.corpus.ids import Ids
from medclm.corpus.parts import write_part
from medclm.corpus.rows import reject_row
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.tables import read_text
from medclm.corpus.splits import SplitRule
from medclm.corpus.workfolder import PARTS
from medclm.data.schema import SPLITS

_RECORDS_PER_PART = 64


@dataclass(frozen=True)
class ImportOptions:
    """What an import is told besides its files."""

    out: Path
    """Corpus folder: new or empty."""
    ids: Ids
    image_root: Path | None = None
    """Folder that picture paths are relative to; None = the folder of the files."""
    split: str = "train"
    """Of entries that state none."""
    source: str = "published"
    """Name of the source in the corpus."""
    licence: str = "unknown"
    shareable: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"--split {self.split}: expected one of {', '.join(SPLITS)}")


Entry = tuple[str, Any]
"""Where it stands, `records[41]` or `files[1].records[41]`, and the JSON value; a `Reject` where the line is no JSON."""


def read_entries(files: Sequence[Path]) -> list[Entry]:
    """The entries of some files: each a JSON list, or one object a line where the name ends in .jsonl.

    Raises:
        ValueError: missing, not JSON, not a list, or empty; names the file and the cure.
    """
    entries: list[Entry] = []
    for number, file in enumerate(files):
        prefix = f"files[{number}]." if len(files) > 1 else ""
        found = _lines(file) if file.suffix.lower() == ".jsonl" else read_json(file)
        if not isinstance(found, list) or not found:
            kind = "an empty list" if found == [] else type(found).__name__
            raise ValueError(f"{file}: expected a list of objects, found {kind}: give the file that the peer trains on")
        for index, value in enumerate(found):
            where = f"{prefix}records[{index}]"
            broken = isinstance(value, _Broken)
            entries.append(
                (where, Reject(where, "line_unreadable", "not one JSON object: correct the line") if broken else value)
            )
    return entries


class _Broken:
    """Stands for a line that is no JSON."""


def _lines(file: Path) -> list[Any]:
    return [_line(line) for line in read_text(file, "JSON Lines").split("\n") if line.strip()]


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _Broken()


def picture_folder(files: Sequence[Path], image_root: Path | None) -> Path:
    """The folder that picture paths are relative to.

    Raises:
        ValueError: no root is given, and the files lie in several folders.
    """
    if image_root is not None:
        return image_root
    folders = sorted({file.parent for file in files})
    if len(folders) > 1:
        raise ValueError(f"--image-root is needed: the files lie in {len(folders)} folders")
    return folders[0]


def import_stated(
    records: Sequence[StatedRecord | Reject],
    files: Sequence[Path],
    options: ImportOptions,
    *,
    writer: str,
    splits: Mapping[str, str],
) -> BuildReport:
    """Make the corpus folder.

    Args:
        records: in order, refused ones among them.
        files: where they come from.
        writer: name of the format.
        splits: path of a plain picture -> split; known before any is read, since a picture may serve as a Hard one first.

    Raises:
        ValueError: `out` is not an empty folder.
        EverythingRejected: no record was left.
    """
    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is not an empty folder: give another one")
    intake = Intake(
        folder=Folder(picture_folder(files, options.image_root)),
        ids=options.ids,
        source=options.source,
        licence=options.licence,
        shareable=options.shareable,
        writer=writer,
        splits=splits,
    )
    folder = out / PARTS
    folder.mkdir(parents=True)
    try:
        parts: list[Path] = []
        for start in tqdm(
            range(0, len(records), _RECORDS_PER_PART), desc="importing", disable=None if options.progress else True
        ):
            some = records[start : start + _RECORDS_PER_PART]
            rows = [row for one in some for row in ([reject_row(one)] if isinstance(one, Reject) else intake.rows(one))]
            parts.append(folder / f"part-{len(parts):06d}.arrow")
            write_part(parts[-1], rows)
        builder = {"source": options.source, "entries": len(records), "importer": writer, "id_key": options.ids.fingerprint}
        return finalise(parts, out, rule=SplitRule(rule="given"), seed=0, builder=builder, balance_pairs=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()
        raise
