"""Ablations of what is learned: a finished corpus again, its records said differently. Pictures, boxes and splits stay.

| name | rationale | answer |
|---|---|---|
| `answer_only` | none: the own picture is asked as Hard asks a partner's | the same |
| `shuffled` | of another training record with as many boxes; the boxes stay the record's own | the same |
| `box_only` | the boxes alone | the same |
| `no_organ` | without the clause that places the lesion at its organ | the same |
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from medclm.data.manifest import read_manifest, sha256_file, write_json
from medclm.data.schema import MANIFEST
from medclm.draws import generator

STAGES = ("easy", "medium")
_BOX = re.compile(r"<box:\d+>")
Row = dict[str, Any]


def answer_only(rows: list[Row]) -> None:
    """Offer every record at Hard with its own picture, question and answer."""
    for row in rows:
        row["hard_image_row"], row["hard_annotation_row"] = row["image_row"], next(iter(row["annotation_rows"]), -1)
        for column in ("question", "answer", "answers", "answer_type"):
            row[f"{column}_hard"] = row[f"{column}_medium"]


def shuffled(rows: list[Row]) -> None:
    """Exchange the rationales of training records with equally many boxes, in each stage apart."""
    for stage in STAGES:
        by_boxes: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            if row[f"rationale_{stage}"] and row["split"] == "train":
                by_boxes[row[f"rationale_{stage}"].count("<box:")].append(row)
        for boxes, alike in by_boxes.items():
            order = generator(boxes, f"evidence.shuffled.{stage}").permutation(len(alike))
            texts = [alike[other][f"rationale_{stage}"] for other in order]
            for row, text in zip(alike, texts, strict=True):
                row[f"rationale_{stage}"] = text


def box_only(rows: list[Row]) -> None:
    """Keep the box placeholders of each rationale and nothing else."""
    for row in rows:
        for stage in STAGES:
            text = row[f"rationale_{stage}"]
            if text and _BOX.search(text):
                row[f"rationale_{stage}"] = f"{', '.join(_BOX.findall(text))}."


def no_organ(rows: list[Row]) -> None:
    """Replace each clause that places a lesion by its box alone."""
    for row in rows:
        for claim in json.loads(row["claims"] or "[]"):
            column = f"rationale_{claim['stage']}"
            if claim["fact"] == "location" and row.get(column):
                row[column] = row[column].replace(claim["text"], ", ".join(_BOX.findall(claim["text"])))


REWRITES: dict[str, Callable[[list[Row]], None]] = {
    "answer_only": answer_only,
    "shuffled": shuffled,
    "box_only": box_only,
    "no_organ": no_organ,
}


def rewrite(corpus: Path, out: Path, name: str) -> None:
    """Write `corpus` to `out` with its training records changed by `REWRITES[name]`; the other files are linked."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    manifest = read_manifest(corpus)
    for entry in manifest["files"]:
        source, target = corpus / entry["path"], out / entry["path"]
        if entry["kind"] != "records":
            os.link(source, target)
            continue
        with pa.memory_map(str(source)) as stream:
            table = pa.ipc.open_stream(stream).read_all()
        rows = table.to_pylist()
        REWRITES[name](rows)
        with pa.ipc.new_stream(target, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
        entry["bytes"], entry["sha256"] = target.stat().st_size, sha256_file(target)
    write_json(out / MANIFEST, manifest)
