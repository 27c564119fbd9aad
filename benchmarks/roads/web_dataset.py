"""webdataset: tar files read in order, shuffled in a buffer. It has no state: a resumed run reads and drops what came before."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset

from benchmarks.roads.content import BATCH, WINDOW, FlatRow, Rendering, Tensors, from_texts
from benchmarks.roads.hugging_face import make_loader
from medclm.data.shards import Corpus

VERSION = webdataset.__version__


def write_flat(rows: Iterator[FlatRow], folder: Path) -> None:
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=64, verbose=0) as writer:
        for row in rows:
            writer.write({"__key__": f"{row.number:08d}", "json": row.texts().encode(), "picture": row.image})


class WebDataset:
    def __init__(self, folder: Path, workers: int, rendering: Rendering) -> None:
        warnings.filterwarnings("ignore", module="webdataset")
        files = sorted(str(path) for path in (folder / "tar").glob("*.tar"))
        shards = webdataset.WebDataset(files, shardshuffle=len(files), detshuffle=True, seed=0)
        self._rows = shards.compose(webdataset.detshuffle(bufsize=WINDOW, initial=WINDOW, seed=0))
        domains = Corpus(folder / "corpus").domains
        self._render = lambda rows: rendering([from_texts(row["json"], row["picture"], domains) for row in rows])
        self._loader = make_loader(self._rows, workers, self._render)

    def batches(self, state: Any = None) -> Iterator[Tensors]:
        if state is not None:
            rows = itertools.islice(iter(self._rows), state * BATCH, None)
            while some := list(itertools.islice(rows, BATCH)):
                yield self._render(some)
        while True:
            yield from self._loader

    def state(self, taken: int) -> Any:
        return taken
