"""mosaicml-streaming: MDS shards, a seeded partition, and a state_dict of its loader."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # mosaicml-streaming imports torchvision for classes that are not used here, and torchvision's wheel, made for CUDA, does not import
    # beside a CPU build of torch: two names take its place.
    for _name, _wanted in (("datasets", "VisionDataset"), ("transforms.functional", "to_tensor")):
        _module = types.ModuleType(f"torchvision.{_name}")
        setattr(_module, _wanted, object)
        sys.modules[_module.__name__] = _module

import streaming

from benchmarks.roads.content import BATCH, FlatRow, Rendering, Tensors, from_texts
from medclm.data.shards import Corpus

VERSION = streaming.__version__


def write_flat(rows: Iterator[FlatRow], folder: Path) -> None:
    with streaming.MDSWriter(out=str(folder), columns={"texts": "str", "image": "bytes"}, size_limit=16 << 20) as writer:
        for row in rows:
            writer.write({"texts": row.texts(), "image": row.image})


class Mosaic:
    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        self._domains, self._rendering = Corpus(folder / "corpus").domains, rendering
        rows = streaming.StreamingDataset(local=str(folder / "mds"), shuffle=True, shuffle_seed=0, batch_size=BATCH)
        ahead = {"prefetch_factor": 2, "persistent_workers": True} if workers else {}
        self._loader = streaming.StreamingDataLoader(
            rows, batch_size=BATCH, num_workers=workers, collate_fn=self._render, **ahead
        )

    def _render(self, rows: list[dict[str, Any]]) -> Tensors:
        return self._rendering([from_texts(row["texts"], row["image"], self._domains) for row in rows])

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        if state is not None:
            self._loader.load_state_dict(state)
        while True:
            yield from self._loader

    def state(self, taken: int) -> Any:
        return self._loader.state_dict()
