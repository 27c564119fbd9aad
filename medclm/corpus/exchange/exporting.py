"""What every export shares: which records, their pictures, the notice beside them, files that appear whole.

    DIR/  the format's JSON   images/  pictures and NOTICE.txt

Paths in the JSON are relative to DIR, so a folder can be moved. Knows no format.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.exchange.box_text import Size, in_order
from medclm.corpus.outlines import outlined
from medclm.corpus.report import NOTICE
from medclm.data.draw import style_for
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus
from medclm.types import Box

IMAGES = "images"
_PARTS = ("question", "rationale", "answer")
_IMAGE = ("modality", "technique", "width", "height")
_ANNOTATION = ("box_xyxy_unit", "class_source", "lesion_class", "organ", "box_role")


@dataclass(frozen=True)
class ExportOptions:
    """What an export is told besides its corpus."""

    out: Path
    """New or empty folder."""
    splits: Sequence[str] = SPLITS
    seed: int = 0
    """Of the colours of drawn boxes."""
    progress: bool = True


@dataclass(frozen=True)
class RecordView:
    """A record with what its texts refer to."""

    row: int
    record: Mapping[str, Any]
    annotations: Sequence[Mapping[str, Any]]
    image: Mapping[str, Any]
    colour_name: str
    rgb: tuple[int, int, int]

    @property
    def boxes_unit(self) -> list[Box | None]:
        return [None if one["box_xyxy_unit"] is None else Box(*one["box_xyxy_unit"]) for one in self.annotations]

    @property
    def size(self) -> Size:
        """(width, height) of the record's own picture."""
        return self.image["width"], self.image["height"]

    @property
    def lesion_class(self) -> str | None:
        """Of the target; of the domain where there is none; None = unknown."""
        if self.annotations:
            name: str | None = self.annotations[0]["lesion_class"]
            return name
        of_domain = str(self.record["domain"]).partition(" / ")[0]
        return None if of_domain == "unknown" else of_domain

    def named(self, first: Sequence[int] = ()) -> list[int]:
        """Numbers of the boxes that the texts name, in order of appearance, Easy before Medium; `first` before all."""
        texts = [self.text(part, stage) for stage in ("easy", "medium") if self.offers(stage) for part in _PARTS]
        return list(dict.fromkeys([*first, *(k for text in texts for k in in_order(text))]))

    @property
    def is_control(self) -> bool:
        return bool(self.annotations) and self.annotations[0]["box_role"] == "control"

    def text(self, part: str, stage: str) -> str:
        """A stored text with the drawn colour in it."""
        return str(self.record[f"{part}_{stage}"]).replace("{color}", self.colour_name)

    def offers(self, stage: str) -> bool:
        return self.record[f"question_{stage}"] is not None


def views(corpus: Corpus, options: ExportOptions, split: str) -> Iterator[RecordView]:
    """The records of a split in row order; a progress bar shows how far."""
    rows = [row for first, n in corpus.record_files(split) for row in range(first, first + n)]
    for row in tqdm(rows, desc=f"exporting {split}", unit="record", disable=None if options.progress else True):
        record = corpus.row("records", row)
        style = style_for(options.seed, row)
        yield RecordView(
            row=row,
            record=record,
            annotations=corpus.rows("annotations", record["annotation_rows"], _ANNOTATION),
            image=corpus.row("images", record["image_row"], _IMAGE),
            colour_name=style.colour_name,
            rgb=style.rgb,
        )


def wanted_splits(corpus: Corpus, options: ExportOptions) -> list[str]:
    """The asked splits that have records, in the order of SPLITS.

    Raises:
        ValueError: there is no record to write.
    """
    found = [split for split in SPLITS if split in options.splits and corpus.count("records", split)]
    if not found:
        raise ValueError(f"{corpus.folder}: has no record in {', '.join(options.splits)}")
    return found


class Pictures:
    """The folder of pictures of one export: each stored picture once, a drawn one for every Easy record.

    Raises:
        ValueError: `out` is in the way.
    """

    def __init__(self, corpus: Corpus, options: ExportOptions) -> None:
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise ValueError(f"{options.out}: is not an empty folder: give another one")
        self.corpus, self.folder = corpus, options.out / IMAGES
        self.folder.mkdir(parents=True)
        (self.folder / "NOTICE.txt").write_text(notice(corpus), encoding="utf-8")

    def plain(self, image_row: int) -> str:
        """Path, relative to the export, of a stored picture."""
        name = f"image_{image_row:08d}.png"
        if not (self.folder / name).exists():
            (self.folder / name).write_bytes(self.corpus.image_bytes(image_row))
        return f"{IMAGES}/{name}"

    def drawn(self, view: RecordView) -> str:
        """The record's picture with the boxes that the Easy rationale speaks of outlined, or else the first one."""
        if view.record["easy_image_row"] >= 0:
            return self.plain(view.record["easy_image_row"])
        name = f"record_{view.row:08d}_easy.png"
        boxes = view.boxes_unit
        chosen = [boxes[k] for k in dict.fromkeys(in_order(view.record["rationale_easy"]) or [0]) if k < len(boxes)]
        drawn = outlined(self.corpus.picture(view.record["image_row"]), [box for box in chosen if box], view.rgb)
        drawn.save(self.folder / name)
        return f"{IMAGES}/{name}"


def notice(corpus: Corpus) -> str:
    """What must stand beside the pictures: the notice, the licence, and what may not leave this machine."""
    return "\n".join([NOTICE, *licence_lines(corpus)]) + "\n"


def licence_lines(corpus: Corpus) -> list[str]:
    """The strictest licence, each source's, and which sources are not shareable."""
    lines = [f"Strictest licence of the pictures and texts: {corpus.manifest.get('licence', 'unknown')}"]
    for name, source in corpus.manifest.get("sources", {}).items():
        kept = "" if source["shareable"] else "; NOT shareable: its pictures must not leave this machine"
        lines.append(f"Source {name}: {', '.join(source['licences'])}{kept}")
    return lines


class JsonList(AbstractContextManager["JsonList"]):
    """A file of JSON objects that appears under its name only when complete: a list, or one object a line (.jsonl)."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self._lines = path.suffix == ".jsonl"
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._stream = self._temporary.open("w", encoding="utf-8")

    def write(self, entry: Mapping[str, Any]) -> None:
        before = "" if self._lines else ",\n" if self.count else "[\n"
        self._stream.write(before + json.dumps(entry, ensure_ascii=False) + ("\n" if self._lines else ""))
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._lines:
            self._stream.write("\n]\n" if self.count else "[]\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        if kind is None:
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink()
