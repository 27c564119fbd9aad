"""A small stored corpus written straight to disk, for tests and benchmarks of what reads one. Deterministic.

Every image has a bright rectangle where its box is, so that what is drawn and written can be checked on pixels. It is not a
build: nothing here is linked, phrased or checked (medclm/corpus does that).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from medclm.data.manifest import sha256_file
from medclm.data.schema import COLUMNS, MANIFEST, SCHEMA_VERSION, features
from medclm.draws import generator

DOMAINS = ("mass / CT", "nodule / DX")
Row = dict[str, Any]


def write_small_corpus(
    folder: Path,
    images: int = 24,
    *,
    sizes: Sequence[tuple[int, int]] = ((96, 64), (64, 64), (60, 120)),
    rows_per_file: int = 10,
    batch_rows: int = 4,
    format: str | Sequence[str] = "PNG",
    texture: int = 12,
    pictures: Sequence[bytes] = (),
    no_finding_every: int = 5,
    records: Iterable[Row] | None = None,
    splits: Sequence[str] = ("train", "train", "train", "val"),
) -> Path:
    """Write a corpus of one record and two annotations per image; returns `folder`.

    One record in `no_finding_every` (0: none) is a "no finding" without Easy, every seventh has no Hard. Images alternate over
    `sizes` (width, height) and `splits`; `texture` is the amplitude of their noise in grey levels.

    Args:
        format: PNG or JPEG, of all or of each of `sizes`.
        pictures: encoded pictures that images alternate over in place of the made ones; the boxes stay where they were.
        records: rows to store instead of the made ones; `record_row` makes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    formats = [format] * len(sizes) if isinstance(format, str) else format
    given = [(data, _size(data)) for data in pictures]
    if given:
        sizes = [size for _, size in given]
    geometry = [_geometry(index, sizes[index % len(sizes)]) for index in range(images)]
    made = list(records) if records is not None else []
    for i in range(images if records is None else 0):
        made.append(record_row(i, images=images, split=splits[i % len(splits)], no_finding_every=no_finding_every))
    shown = (
        _image_row(i, size, given[i % len(given)][0] if given else _drawn(i, size, boxes, formats[i % len(sizes)], texture))
        for i, (size, boxes) in enumerate(geometry)
    )
    lesions = (_annotation_row(i, k, boxes[k]) for i, (_, boxes) in enumerate(geometry) for k in range(2))
    files = _write(folder, "images", shown, rows_per_file, batch_rows)
    files += _write(folder, "studies", [], rows_per_file, batch_rows)
    files += _write(folder, "annotations", lesions, rows_per_file, batch_rows)
    for split in sorted({row["split"] for row in made}):
        rows = [row for row in made if row["split"] == split]
        files += _write(folder, "records", rows, rows_per_file, batch_rows, split=split)
    manifest = {"schema_version": SCHEMA_VERSION, "files": files, "domains": [{"name": name} for name in DOMAINS]}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def record_row(index: int, *, images: int, split: str = "train", no_finding_every: int = 5, **changes: Any) -> Row:
    """The record of image `index`; `changes` are columns that differ."""
    partner = (index + len(DOMAINS)) % images
    row = dict.fromkeys(COLUMNS["records"])
    row |= {
        "record_id": f"r{index:05d}",
        "task": "vqa",
        "image_row": index,
        "annotation_rows": [2 * index, 2 * index + 1],
        "easy_image_row": -1,
        "question_kind": "what",
        "language": "en",
        "domain": DOMAINS[index % len(DOMAINS)],
        "split": split,
        "hard_image_row": partner,
        "hard_annotation_row": 2 * partner,
        "question_easy": "What does the {color} box show?",
        "rationale_easy": "The {color} box <box:0> holds a bright region.",
        "answer_easy": "mass",
        "question_medium": "What is seen in the image?",
        "rationale_medium": "Bright regions lie at <box:0> and <box:1>.",
        "answer_medium": "mass",
        "question_hard": "Which lesion is present?",
        "answer_hard": "nodule",
    }
    if no_finding_every and index % no_finding_every == no_finding_every - 1:
        row |= {"question_easy": None, "rationale_easy": None, "answer_easy": None, "annotation_rows": []}
        row |= {"rationale_medium": "No bright region is seen.", "answer_medium": "no finding"}
    if index % 7 == 6:
        row |= {"question_hard": None, "answer_hard": None, "hard_image_row": -1, "hard_annotation_row": -1}
    return row | changes


def box_unit(index: int, k: int, sizes: Sequence[tuple[int, int]] = ((96, 64), (64, 64), (60, 120))) -> tuple[float, ...]:
    """The k-th box of image `index`, as stored."""
    return _geometry(index, sizes[index % len(sizes)])[1][k]


def _geometry(index: int, size: tuple[int, int]) -> tuple[tuple[int, int], list[tuple[float, ...]]]:
    """Size of an image and its two unit boxes: one left, bright, of 20 to 40 % of each side; one right, a little smaller."""
    draw = generator(0, "testing.corpus", index)
    boxes: list[tuple[float, ...]] = []
    for left in (0.05, 0.55):
        (x, y), (w, h) = draw.uniform((left, 0.05), (left + 0.05, 0.5)), draw.uniform(0.2, 0.4, size=2)
        x0, y0, x1, y1 = (round(edge * side) / side for edge, side in zip((x, y, x + w, y + h), size * 2, strict=True))
        boxes.append((x0, y0, x1, y1))
    return size, boxes


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        return picture.size


def _drawn(index: int, size: tuple[int, int], boxes: list[tuple[float, ...]], format: str, texture: int) -> bytes:
    """An encoded grey picture: noise, and a bright rectangle where each box is."""
    width, height = size
    noise = generator(0, "testing.noise", index).integers(0, max(texture, 1), size=(height, width), dtype=np.uint8)
    pixels = noise + np.uint8(40)
    for grey, box in zip((220, 150), boxes, strict=True):
        x0, y0, x1, y1 = (round(edge * side) for edge, side in zip(box, size * 2, strict=True))
        pixels[y0:y1, x0:x1] = grey
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def _image_row(index: int, size: tuple[int, int], data: bytes) -> Row:
    width, height = size
    row = dict.fromkeys(COLUMNS["images"])
    image = {"bytes": data, "path": None}
    return row | {"image_id": f"i{index:05d}", "image": image, "width": width, "height": height, "patient": f"p{index}"}


def _annotation_row(image: int, k: int, box: tuple[float, ...]) -> Row:
    row = dict.fromkeys(COLUMNS["annotations"])
    row |= {"annotation_id": f"a{image:05d}-{k}", "image_row": image, "box_xyxy_unit": list(box), "box_role": "lesion"}
    return row | {"lesion_class": DOMAINS[image % len(DOMAINS)].partition(" / ")[0]}


def _write(
    folder: Path, kind: str, rows: Iterable[Row], rows_per_file: int, batch_rows: int, split: str | None = None
) -> list[Row]:
    """The rows as numbered Arrow streams, and their manifest entries."""
    schema, entries = features(kind).arrow_schema, []
    for number, part in enumerate(_parts(rows, rows_per_file)):
        path = folder / f"{kind}{f'-{split}' if split else ''}-{number:05d}.arrow"
        with pa.ipc.new_stream(path, schema) as writer:
            for chunk in _parts(part, batch_rows):
                writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))
        entry = {"path": path.name, "kind": kind, "rows": len(part), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        entries.append(entry | ({"split": split} if split else {}))
    return entries


def _parts(rows: Iterable[Row], size: int) -> Iterable[list[Row]]:
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
