"""The `datasets` library: streaming with a shuffle buffer over flat Arrow files, and map-style over the very shards of our corpus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from datasets import Image, load_dataset
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.roads.content import BATCH, COLUMNS, WINDOW, FlatRow, Rendering, Tensors, from_texts
from medclm.data.manifest import read_manifest
from medclm.data.shards import Corpus

VERSION = datasets.__version__
_FILE_ROWS, _BATCH_ROWS = 64, 16


def write_flat(rows: Iterator[FlatRow], folder: Path) -> None:
    """Flat rows as Arrow streams."""
    folder.mkdir()
    schema = pa.schema([("texts", pa.string()), ("image", pa.binary())])
    pending = list(rows)
    for first in range(0, len(pending), _FILE_ROWS):
        with pa.ipc.new_stream(folder / f"flat-{first:06d}.arrow", schema) as writer:
            for row in range(first, min(first + _FILE_ROWS, len(pending)), _BATCH_ROWS):
                some = [{"texts": one.texts(), "image": one.image} for one in pending[row : row + _BATCH_ROWS]]
                writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))


class Streaming:
    """`load_dataset("arrow", streaming=True).shuffle(buffer_size)`; its own state_dict."""

    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        files = sorted(str(path) for path in (folder / "flat").glob("*.arrow"))
        self._rows = load_dataset("arrow", data_files=files, split="train", streaming=True).shuffle(seed=0, buffer_size=WINDOW)
        domains = Corpus(folder / "corpus").domains
        self._loader = make_loader(
            self._rows,
            workers,
            lambda rows: rendering([from_texts(row["texts"], row["image"], domains) for row in rows]),
        )

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        if state is not None:
            self._rows.load_state_dict(state)
        for epoch in itertools.count(1):
            yield from self._loader
            self._rows.set_epoch(epoch)

    def state(self, taken: int) -> Any:
        return self._rows.state_dict()


class Usual(Streaming):
    """As its users have it: the library decodes, the picture is padded to a square and fitted by the transformers image processor."""

    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        super().__init__(folder, workers, rendering)
        self._rows = self._rows.cast_column("image", Image())
        self._domains, self._rendering = Corpus(folder / "corpus").domains, rendering
        self._loader = make_loader(self._rows, workers, self._render)

    def _render(self, rows: list[dict[str, Any]]) -> Tensors:
        return self._rendering([from_texts(row["texts"], b"", self._domains) for row in rows], [row["image"] for row in rows])


class Permutation(Sampler[int]):
    """A seeded permutation of all rows for each epoch, the first one entered at any place."""

    def __init__(self, size: int, first: int) -> None:
        self._size, self._first, self._epoch = size, first, 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self._size, generator=torch.Generator().manual_seed(self._epoch)).tolist()
        first, self._first, self._epoch = self._first, 0, self._epoch + 1
        return iter(order[first:])


class Mapped(Dataset):  # type: ignore[type-arg]
    """Random access to the tables of our corpus, in a seeded permutation."""

    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        self._tables = open_tables(folder)
        self._domains = Corpus(folder / "corpus").domains
        self._workers, self._rendering = workers, rendering

    def __len__(self) -> int:
        return len(self._tables["records"])

    def __getitem__(self, row: int) -> FlatRow:
        record = self._tables["records"][row]
        boxes = self._tables["annotations"][record["annotation_rows"]]["box_xyxy_unit"] if record["annotation_rows"] else []
        image = self._tables["images"][record["image_row"]]["image"]["bytes"]
        return FlatRow(row, record, boxes, image, self._domains)

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        order = Permutation(len(self), (state or 0) * BATCH)
        loader = make_loader(self, self._workers, self._rendering, sampler=order)
        while True:
            yield from loader

    def state(self, taken: int) -> Any:
        return taken


def open_tables(folder: Path) -> dict[str, Any]:
    """The three tables, with the columns that rendering reads; the first call copies them to a cache, as `load_dataset` does."""
    columns = {"records": COLUMNS, "annotations": ["box_xyxy_unit"], "images": ["image"]}
    entries = read_manifest(folder / "corpus")["files"]
    tables = {}
    for kind, names in columns.items():
        files = sorted(str(folder / "corpus" / entry["path"]) for entry in entries if entry["kind"] == kind)
        table = load_dataset("arrow", data_files=files, split="train", cache_dir=str(folder / "cache"))
        tables[kind] = table.select_columns(names)
    tables["images"] = tables["images"].cast_column("image", Image(decode=False))
    return tables


def make_loader(rows: Any, workers: int, collate_fn: Any, sampler: Sampler[int] | None = None) -> DataLoader[Any]:
    """A torch DataLoader as its users set it up."""
    ahead = {"prefetch_factor": 2, "persistent_workers": True} if workers else {}
    return DataLoader(rows, batch_size=BATCH, sampler=sampler, num_workers=workers, collate_fn=collate_fn, **ahead)
