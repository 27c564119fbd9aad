"""The endless sequence of training records of one split: which row is at which global position, and what it offers.

Joins the order (arithmetic) with the corpus (rows). Records whose lesion would be too small to see in the model's square are
left out here, once, and counted by class. Rank 0's curriculum reads `describe`; every rank's loader reads `record_rows`.
Knows nothing of pixels, tokens, stages drawn or ranks.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medclm.data.manifest import longest_side
from medclm.data.order import Order, global_batch
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus, first_row
from medclm.types import Stage

_KEPT_BATCHES = 72
"""Described batches kept: more than the longest curriculum.lookahead, 27 bytes a sample each."""
_KEYS = {
    "seed": "run.seed",
    "manifest": "data.corpus",
    "split": "data.split",
    "window": "data.shuffle_window",
    "min_side": "data.min_side",
    "image_size": "the model's image size",
    "fit": "data.fit",
}
"""Part of the state -> where the user sets it."""


@dataclass(frozen=True)
class StreamBatch:
    """What the curriculum knows of a global batch."""

    positions: np.ndarray
    """(G,) int64, global positions."""
    record_rows: np.ndarray
    """(G,) int64, among all records of the corpus."""
    domains: np.ndarray
    """(G,) int64, index into the manifest's domain vocabulary."""
    offered: np.ndarray
    """(G, 3) bool, column = stage."""


class Stream:
    """One split of a corpus as an endless, resumable sequence.

    Args:
        split: train, val or test.
        seed: of the order.
        window: rows shuffled together.
        min_side: boxes with a shorter side, in pixels of the model's square, are not trained on; 0 keeps all.
        image_size: side of that square.
        fit: how an image becomes the square.

    Raises:
        ValueError: unknown or empty split, every record left out, or pictures that were stored smaller than the square; names the key.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        split: str,
        seed: int,
        window: int,
        min_side: float,
        image_size: int,
        fit: Literal["pad", "stretch"],
    ) -> None:
        self.corpus, self._split, self._image_size, self._fit = corpus, split, image_size, fit
        self.dropped: dict[str, int] = {}
        """Records left out because a box of theirs is too small, by class."""
        self.hard_withheld: dict[str, int] = {}
        """Kept records whose Hard stage is not offered because the partner's box is too small, by class."""
        self._state = {
            "seed": seed,
            "manifest": manifest_hash(corpus.manifest),
            "split": split,
            "window": window,
            "min_side": min_side,
            "image_size": image_size,
            "fit": fit,
        }
        stored = longest_side(corpus.manifest)
        if stored is not None and stored < image_size:
            raise ValueError(
                f"data.corpus={corpus.folder}: its pictures were shrunk to {stored} px when it was built, the model looks at "
                f"{image_size} px: build it with --longest-side {image_size} or more, or without, or train a model of a smaller square"
            )
        files = corpus.record_files(split)
        if not files:
            filled = [f"{name} ({corpus.count('records', name)} records)" for name in SPLITS if corpus.count("records", name)]
            raise ValueError(
                f"data.split={split}: {corpus.folder} has no record there: use one of {', '.join(filled) or 'none'}"
            )
        self._first_of_file = np.array([first for first, _ in files])
        rows_of_file = np.array([rows for _, rows in files])
        self._begin_of_file = np.cumsum(rows_of_file) - rows_of_file
        self._small_bits = np.zeros(0, np.uint8)
        left_out = self._leave_out(min_side) if min_side > 0 else np.zeros(0, np.int64)
        if len(left_out) == rows_of_file.sum():
            counts = ", ".join(f"{name}: {count}" for name, count in sorted(self.dropped.items()))
            raise ValueError(
                f"data.min_side={min_side} leaves out every record of data.split={split} ({counts}): lower it, or use a model "
                f"whose square is larger than {image_size} px"
            )
        self.order = Order(rows_of_file.tolist(), seed, window, left_out)
        self._vocabulary = pa.array(corpus.domains, pa.string())
        self._described = functools.lru_cache(maxsize=_KEPT_BATCHES)(self._read_batch)

    def record_rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows (n,) int64, among all records of the corpus, of global positions (n,) int64."""
        rows_n = self.order.rows(positions)
        files_n = np.searchsorted(self._begin_of_file, rows_n, side="right") - 1
        return np.asarray(rows_n - self._begin_of_file[files_n] + self._first_of_file[files_n])

    def describe(self, batch_index: int, global_batch_size: int) -> StreamBatch:
        """What the curriculum needs to know of a global batch; read once and kept from its decision to its report."""
        return self._described(batch_index, global_batch_size)

    def _read_batch(self, batch_index: int, global_batch_size: int) -> StreamBatch:
        return self.look(global_batch(batch_index, global_batch_size))

    def look(self, positions: np.ndarray) -> StreamBatch:
        """What lies at global positions (n,) int64; read anew each time."""
        rows = self.record_rows(positions)
        columns = ["hard_annotation_row", "domain", *(f"question_{stage.key}" for stage in Stage)]
        partner, domain, *questions = self.corpus.take("records", rows, columns)
        offered_G3 = np.stack([_non_empty(question) for question in questions], axis=1)
        offered_G3[:, Stage.HARD] &= ~self._is_small(partner.to_numpy())
        domains = pc.index_in(domain, value_set=self._vocabulary).to_numpy().astype(np.int64)
        for array in (positions, rows, domains, offered_G3):
            array.flags.writeable = False  # shared by whoever asks again
        return StreamBatch(positions=positions, record_rows=rows, domains=domains, offered=offered_G3)

    def state(self) -> dict[str, Any]:
        """What decides the sequence. With a global position (batch_index x global batch size) it is the whole state."""
        return dict(self._state)

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse to go on with another sequence than the one that wrote `state`.

        Raises:
            ValueError: naming every key that differs, with both values.
        """
        differing = [
            f"{_KEYS[name]} was {state.get(name)!r}, is {value!r}"
            for name, value in self._state.items()
            if state.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"the checkpoint was trained on another stream of samples: {'; '.join(differing)}: restore these to resume"
            )

    def _leave_out(self, min_side: float) -> np.ndarray:
        """Rows of the split's concatenated files to leave out, ascending; counts them, and Hard partners, by class.

        Reads the tables in pieces. Takes 9 bytes per image and annotation while it runs, then a bit per annotation.
        """
        small_A = self._small_annotations(min_side)
        self._small_bits = np.packbits(small_A)
        dropped: Counter[str] = Counter()
        withheld: Counter[str] = Counter()
        left_out, begin = [np.zeros(0, np.int64)], 0
        columns = ["annotation_rows", "hard_annotation_row", "question_easy", "question_medium", "question_hard"]
        for batch in self.corpus.scan("records", columns, self._split):
            own_n, partner_n = _first_small(batch.column(0), small_A), batch.column(1).to_numpy()
            has_easy, has_medium, has_hard = (_non_empty(column) for column in batch.columns[2:])
            hard_lost_n = has_hard & self._is_small(partner_n)
            out_n = (own_n >= 0) | (hard_lost_n & ~has_easy & ~has_medium)
            dropped += self._classes(np.where(own_n >= 0, own_n, partner_n)[out_n])
            withheld += self._classes(partner_n[hard_lost_n & ~out_n])
            left_out.append(begin + np.flatnonzero(out_n))
            begin += batch.num_rows
        self.dropped, self.hard_withheld = dict(sorted(dropped.items())), dict(sorted(withheld.items()))
        return np.concatenate(left_out)

    def _small_annotations(self, min_side: float) -> np.ndarray:
        """(annotations,) bool: the box's short side is under `min_side` pixels of the model's square."""
        scale_I2 = np.full((self.corpus.count("images"), 2), self._image_size, np.float32)
        if self._fit == "pad":
            for batch in self.corpus.scan("images", ["width", "height"]):
                size_n2 = np.stack([column.to_numpy() for column in batch.columns], axis=1)
                scale_I2[first_row(batch) :][: len(size_n2)] *= size_n2 / size_n2.max(axis=1, keepdims=True)
        small_A = np.zeros(self.corpus.count("annotations"), bool)
        for batch in self.corpus.scan("annotations", ["image_row", "box_xyxy_unit"]):
            known_n = np.asarray(pc.list_value_length(batch.column(1)).fill_null(0)) == 4
            box_k4 = np.asarray(pc.list_flatten(batch.column(1))).reshape(-1, 4)
            sides_k2 = (box_k4[:, 2:] - box_k4[:, :2]) * scale_I2[batch.column(0).to_numpy()[known_n]]
            small_A[first_row(batch) + np.flatnonzero(known_n)] = sides_k2.min(axis=1) < min_side
        return small_A

    def _is_small(self, annotation_rows: np.ndarray) -> np.ndarray:
        """(n,) bool for annotation rows (n,); False for -1, and for all where nothing is left out."""
        if not len(self._small_bits):
            return np.zeros(len(annotation_rows), bool)
        rows_n = np.maximum(annotation_rows, 0)
        bits_n = self._small_bits[rows_n >> 3] >> (7 - (rows_n & 7)) & 1
        return np.asarray((annotation_rows >= 0) & (bits_n > 0))

    def _classes(self, annotation_rows: np.ndarray) -> Counter[str]:
        found = self.corpus.rows("annotations", annotation_rows.tolist(), ["lesion_class"])
        return Counter(row["lesion_class"] for row in found)


def _first_small(annotation_rows: Any, small_A: np.ndarray) -> np.ndarray:
    """(n,) int64: the first small one among each record's annotation rows (an Arrow list column), -1 where there is none."""
    rows_k, record_k = (np.asarray(part(annotation_rows)) for part in (pc.list_flatten, pc.list_parent_indices))
    found_n = np.full(len(annotation_rows), -1, np.int64)
    hits_k = np.flatnonzero(small_A[rows_k])[::-1]  # backwards, so that the first one stays
    found_n[record_k[hits_k]] = rows_k[hits_k]
    return found_n


def _non_empty(texts: Any) -> np.ndarray:
    """(n,) bool of an Arrow string column: neither null nor empty."""
    return np.asarray(pc.fill_null(pc.utf8_length(texts), 0)) > 0


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Short hash of what a manifest says of files and domains: two corpora with an equal one are read equally."""
    decisive = json.dumps([manifest["files"], manifest["domains"]], sort_keys=True).encode()
    return hashlib.blake2b(decisive, digest_size=16).hexdigest()
