"""What every road carries, and the rendering that all of them call, so that only the road differs.

Peers get flat rows: a record's texts, its boxes and its encoded picture together, which is the layout that suits them; in our corpus
these are rows of three tables. Knows nothing of files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL import Image, ImageOps

from medclm.config import DataSection
from medclm.data.loader import collate
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.models.protocol import Processor
from medclm.testing import tiny_processor, tiny_section
from medclm.types import Batch, Stage

BATCH, WINDOW, SIDE = 16, 128, 336
"""Samples a batch, rows shuffled together (every road's buffer), and the model's square in pixels."""
COLUMNS = ["record_id", "domain", "image_row", "easy_image_row", "hard_image_row", "annotation_rows"]
COLUMNS += [f"{text}_{stage}" for text in ("question", "rationale", "answer") for stage in ("easy", "medium")]
"""Of a record, what Easy and Medium need."""
Tensors = dict[str, torch.Tensor]
"""A batch; `positions` are record rows, so that roads can be compared."""


@dataclass(frozen=True)
class FlatRow:
    """One record with all that its rendering reads; the renderer asks it as it asks a corpus."""

    number: int
    """Record row in our corpus."""
    record: dict[str, Any]
    boxes: list[list[float] | None]
    image: bytes
    domains: Sequence[str]
    decoded: Image.Image | None = None
    """Shown in place of `image` if given."""

    def row(self, kind: str, row: int, columns: Sequence[str]) -> dict[str, Any]:
        return self.record

    def rows(self, kind: str, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return [{"box_xyxy_unit": box} for box in self.boxes]

    def picture(self, image_row: int, *, keep_grey: bool = False) -> Image.Image:
        if self.decoded is not None:
            return self.decoded
        with Image.open(io.BytesIO(self.image), formats=("PNG", "JPEG")) as picture:
            return picture.convert("L" if keep_grey and picture.mode == "L" else "RGB")

    def texts(self) -> str:
        """All but the picture, as JSON, for formats that keep bytes."""
        return json.dumps([self.number, self.record, self.boxes])


def from_texts(texts: str | bytes, image: bytes, domains: Sequence[str]) -> FlatRow:
    number, record, boxes = json.loads(texts)
    return FlatRow(number, record, boxes, image, domains)


def flat_rows(corpus: Corpus) -> Iterator[FlatRow]:
    for number in range(corpus.count("records")):
        record = corpus.row("records", number, COLUMNS)
        boxes = [row["box_xyxy_unit"] for row in corpus.rows("annotations", record["annotation_rows"], ["box_xyxy_unit"])]
        yield FlatRow(number, record, boxes, corpus.image_bytes(record["image_row"]), corpus.domains)


def stage_of(number: int) -> Stage:
    """Half of the records are drawn and explained, half only explained; every made-up record offers both."""
    return Stage(number % 2)


def make_processor() -> Processor:
    return tiny_processor(tiny_section(image_size=SIDE, patch_size=14))


class Rendering:
    """Flat rows -> a batch, as a peer's `collate_fn`.

    Given decoded pictures too, these are fitted in place of the rows' own by the image processor that transformers ships.
    """

    def __init__(self, processor: Any) -> None:
        self.processor: Processor = processor
        self._fit = processor.inner.image_processor

    def one(self, row: FlatRow) -> Any:
        renderer = Renderer(row, self.processor, DataSection(), seed=0)  # type: ignore[arg-type]
        return renderer.render(0, row.number, stage_of(row.number))

    def __call__(self, rows: Sequence[FlatRow], pictures: Sequence[Image.Image] = ()) -> Tensors:
        if not pictures:
            return tensors(collate([self.one(row) for row in rows]))
        squares = [ImageOps.pad(picture.convert("RGB"), (max(picture.size),) * 2) for picture in pictures]
        fitted = self._fit(images=squares, return_tensors="np")["pixel_values"]
        blank = Image.new("L", (SIDE, SIDE))  # its normalisation, a quarter of a millisecond, is all that is done twice
        texts = [self.one(replace(row, decoded=blank)) for row in rows]
        both = zip(texts, fitted, strict=True)
        return tensors(collate([(sample, replace(one, pixel_values=fit[None])) for (sample, one), fit in both]))


def tensors(batch: Batch) -> Tensors:
    """`positions` first: a peer counts samples by the first entry."""
    return {"positions": batch.positions, **{name: value for name, value in vars(batch).items() if name != "longest"}}


class Road(Protocol):
    """One way of reading, opened in a fresh process."""

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        """Batches without end, from the beginning or from where `state` was taken."""
        ...

    def state(self, taken: int) -> Any:
        """What a checkpoint would keep after `taken` batches."""
        ...
