"""The published JSON, written: a corpus -> pictures and the list of objects described in published.py.

Texts get numbers of the stored image (unit coordinates) for `<box:k>` and the name of the colour that was drawn for
`{color}`. What the format cannot say (masks, facts, accepted alternatives, patients) is left out.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.inspect import NOTICE, outlined
from medclm.corpus.published import STAGE_FIELDS
from medclm.data.draw import style_for
from medclm.data.manifest import write_json
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus
from medclm.types import Box

_PLACEHOLDER = re.compile(r"<box:(\d+)>")


def export_published(
    corpus: Corpus,
    out_json: Path,
    image_folder: Path,
    *,
    splits: Sequence[str] = SPLITS,
    digits: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> Counter[str]:
    """Write the records of some splits as a published JSON, the list last; counts of records and stages.

    Args:
        out_json: the list; must not exist.
        image_folder: gets the pictures and NOTICE.txt; must be empty or missing.
        digits: decimals of coordinates.
        seed: of the colours of drawn boxes.

    Raises:
        ValueError: something is in the way, or there is no record to write; names it and the cure.
    """
    if out_json.exists():
        raise ValueError(f"{out_json}: exists: give another name, or remove it first")
    if image_folder.exists() and (not image_folder.is_dir() or any(image_folder.iterdir())):
        raise ValueError(f"{image_folder}: is not an empty folder: give another one")
    rows = [
        row for split in SPLITS if split in splits for first, n in corpus.record_files(split) for row in range(first, first + n)
    ]
    if not rows:
        raise ValueError(f"{corpus.folder}: has no record in {', '.join(splits)}")
    image_folder.mkdir(parents=True, exist_ok=True)
    out_json.parent.mkdir(parents=True, exist_ok=True)
    licence = corpus.manifest.get("licence", "unknown")
    (image_folder / "NOTICE.txt").write_text(f"{NOTICE}\nLicence of the pictures and texts: {licence}\n", encoding="utf-8")
    exporter = _Exporter(corpus, image_folder, Path(os.path.relpath(image_folder, out_json.parent)), digits, seed)
    entries = [exporter.entry(row) for row in tqdm(rows, desc="exporting", unit="record", disable=None if progress else True)]
    write_json(out_json, entries)
    stages = Counter(stage for entry in entries for stage, fields in STAGE_FIELDS.items() if fields["question"] in entry)
    return Counter(records=len(entries)) + stages


class _Exporter:
    def __init__(self, corpus: Corpus, folder: Path, relative: Path, digits: int, seed: int) -> None:
        self.corpus, self.folder, self.relative, self.digits, self.seed = corpus, folder, relative, digits, seed

    def entry(self, row: int) -> dict[str, Any]:
        """One object; a stage that is not offered has no fields."""
        record = self.corpus.row("records", row)
        names = ["box_xyxy_unit", "class_source", "lesion_class", "organ", "box_role"]
        annotations = self.corpus.rows("annotations", record["annotation_rows"], names)
        boxes = [None if one["box_xyxy_unit"] is None else Box(*one["box_xyxy_unit"]) for one in annotations]
        image = self.corpus.row("images", record["image_row"], ["modality", "technique"])
        first = annotations[0] if annotations else {"lesion_class": record["domain"].partition(" / ")[0], "organ": None}
        style = style_for(self.seed, row)
        entry: dict[str, Any] = {}
        if record["question_easy"] is not None:
            entry["image_path"] = self._drawn(record, row, boxes, style.rgb)
        entry["image_path2"] = self._plain(record["image_row"])
        if record["question_hard"] is not None:
            entry["image_path3"] = self._plain(record["hard_image_row"])
        entry["bbox"] = self._written(boxes[0]) if boxes and boxes[0] else None
        for stage, fields in STAGE_FIELDS.items():
            if record[f"question_{stage}"] is not None:
                for part, name in fields.items():
                    entry[name] = self._filled(record[f"{part}_{stage}"], boxes, style.colour_name)
        entry |= {"lesion_class": first["lesion_class"], "organ": first["organ"] or "", "modality": image["modality"] or ""}
        entry |= {"question_kind": record["question_kind"], "split": record["split"]}
        if image["technique"]:
            entry["technique"] = image["technique"]
        if first.get("box_role") == "control":
            entry["box_role"] = "control"
        return entry

    def _filled(self, text: str, boxes: Sequence[Box | None], colour: str) -> str:
        def number(match: re.Match[str]) -> str:
            box = boxes[int(match[1])]
            assert box is not None, "the checks of the build let no such placeholder through"
            return self._written(box)

        return _PLACEHOLDER.sub(number, text.replace("{color}", colour))

    def _written(self, box: Box) -> str:
        return "[" + ", ".join(f"{edge:.{self.digits}f}" for edge in box) + "]"

    def _plain(self, image_row: int) -> str:
        return self._stored(f"image_{image_row:08d}.png", self.corpus.image_bytes(image_row))

    def _drawn(self, record: dict[str, Any], row: int, boxes: Sequence[Box | None], rgb: tuple[int, int, int]) -> str:
        if record["easy_image_row"] >= 0:
            return self._plain(record["easy_image_row"])
        name = f"record_{row:08d}_easy.png"
        drawn = outlined(self.corpus.picture(record["image_row"]), [box for box in boxes[:1] if box], rgb)
        drawn.save(self.folder / name)
        return (self.relative / name).as_posix()

    def _stored(self, name: str, data: bytes) -> str:
        if not (self.folder / name).exists():
            (self.folder / name).write_bytes(data)
        return (self.relative / name).as_posix()
