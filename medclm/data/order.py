"""Which samples form global batch t: arithmetic on arrays, the same on every rank and for any number of ranks.

Global position g belongs to epoch g // N at permutation index g % N. Nothing is dropped and nothing is padded: a batch may
cross the end of an epoch. Rank, micro-batch and slot only choose which g a rank reads, so they are not arguments of the
order. Knows nothing of records, pictures or torch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from medclm.draws import generator


class Order:
    """The endless sequence of row numbers of one split: files shuffled per epoch, then rows shuffled within windows.

    Args:
        file_rows: rows of each file of the split, in manifest order.
        seed: of every permutation.
        window: rows shuffled together. Memory grows with this and the number of files, not with the number of rows.
        left_out: (D,) int64, ascending and unique: rows of the concatenated files that are never read.

    Raises:
        ValueError: no row to read, or `left_out` is not ascending row numbers.
    """

    def __init__(self, file_rows: Sequence[int], seed: int, window: int, left_out: np.ndarray | None = None) -> None:
        rows_F = np.asarray(file_rows, dtype=np.int64)
        first_F = np.cumsum(rows_F) - rows_F
        total = int(rows_F.sum())
        out_D = np.zeros(0, np.int64) if left_out is None else np.asarray(left_out, dtype=np.int64)
        if len(out_D) and (out_D[0] < 0 or out_D[-1] >= total or (np.diff(out_D) <= 0).any()):
            raise ValueError(f"left_out: expected ascending row numbers in 0..{total - 1}")
        if total <= len(out_D):
            raise ValueError(f"no row to read: {len(out_D)} of {total} are left out")
        if window < 1:
            raise ValueError(f"data.shuffle_window={window}: give 1 (no shuffling) or more")
        self._seed, self._window, self._size = seed, window, total - len(out_D)
        # A kept row's index among the kept rows is its row minus the rows left out before it; this is where that jumps.
        self._jumps_D = out_D - np.arange(len(out_D))
        out_before_F = np.searchsorted(out_D, first_F)
        out_within_F = np.searchsorted(out_D, first_F + rows_F) - out_before_F
        self._kept_F, self._first_kept_F = rows_F - out_within_F, first_F - out_before_F
        self._epoch_files = functools.lru_cache(maxsize=2)(self._shuffle_files)
        self._window_rows = functools.lru_cache(maxsize=4)(self._shuffle_window)

    def __len__(self) -> int:
        return self._size

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Row numbers (n,) int64, counted over the split's concatenated files, of global positions (n,) int64 >= 0."""
        positions_n = np.asarray(positions, dtype=np.int64)
        epochs_n, indices_n = np.divmod(positions_n, self._size)
        windows_n, places_n = np.divmod(indices_n, self._window)
        rows_n = np.empty_like(positions_n)
        for epoch, window in sorted(set(zip(epochs_n.tolist(), windows_n.tolist(), strict=True))):
            here_n = (epochs_n == epoch) & (windows_n == window)
            rows_n[here_n] = self._window_rows(epoch, window)[places_n[here_n]]
        return rows_n

    def _shuffle_files(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Shuffled file numbers (F,), where each begins in the epoch's sequence (F,), and where the first window begins.

        The drawn beginning moves window borders from epoch to epoch, so that even the rows of one large file meet others.
        """
        draw = generator(self._seed, "order.files", epoch)
        files_F = draw.permutation(len(self._kept_F))
        kept_F = self._kept_F[files_F]
        return files_F, np.cumsum(kept_F) - kept_F, int(draw.integers(self._size))

    def _shuffle_window(self, epoch: int, window: int) -> np.ndarray:
        files_F, begins_F, offset = self._epoch_files(epoch)
        first = window * self._window
        size = min(self._window, self._size - first)
        places_w = (offset + first + generator(self._seed, "order.window", epoch, window).permutation(size)) % self._size
        slots_w = np.searchsorted(begins_F, places_w, side="right") - 1
        kept_w = self._first_kept_F[files_F[slots_w]] + places_w - begins_F[slots_w]
        return np.asarray(kept_w + np.searchsorted(self._jumps_D, kept_w, side="right"))


def global_batch(batch_index: int, global_batch_size: int) -> np.ndarray:
    """Global positions (G,) int64 of the samples of one optimizer step."""
    return np.arange(batch_index * global_batch_size, (batch_index + 1) * global_batch_size, dtype=np.int64)


def rank_slots(global_batch_size: int, micro_batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Which places (accumulation, micro_batch_size) int64 of a global batch one rank reads; all ranks together read each once.

    Raises:
        ValueError: the accumulation would not be whole; names the keys and values near by that work.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size} ranks: expected 0..{world_size - 1}")
    per_pass = micro_batch_size * world_size
    if global_batch_size < per_pass or global_batch_size % per_pass:
        raise ValueError(_not_whole(global_batch_size, micro_batch_size, world_size))
    slots_ARm = np.arange(global_batch_size, dtype=np.int64).reshape(-1, world_size, micro_batch_size)
    return slots_ARm[:, rank]


def largest_micro_batch(global_batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """The largest micro-batch up to `micro_batch_size` that makes the accumulation whole (train.shrink_micro_batch).

    Raises:
        ValueError: not even 1 does: the ranks do not divide the global batch.
    """
    per_rank, rest = divmod(global_batch_size, world_size)
    if rest or not per_rank:
        raise ValueError(_not_whole(global_batch_size, micro_batch_size, world_size))
    return next(micro for micro in range(min(micro_batch_size, per_rank), 0, -1) if per_rank % micro == 0)


def _not_whole(global_batch_size: int, micro_batch_size: int, world_size: int) -> str:
    per_pass = micro_batch_size * world_size
    below = global_batch_size // per_pass * per_pass
    cures = [f"train.global_batch_size={size}" for size in (below, below + per_pass) if size]
    if global_batch_size % world_size == 0:
        micro = largest_micro_batch(global_batch_size, micro_batch_size, world_size)
        cures.append(f"train.micro_batch_size={micro} (train.shrink_micro_batch=true finds it)")
    divisors = [ranks for ranks in range(1, global_batch_size + 1) if global_batch_size % (ranks * micro_batch_size) == 0]
    if divisors:
        cures.append(f"{min(divisors, key=lambda ranks: (abs(ranks - world_size), ranks))} rank(s)")
    return (
        f"train.global_batch_size={global_batch_size} is not a multiple of train.micro_batch_size={micro_batch_size} "
        f"x {world_size} rank(s) = {per_pass}, so the accumulation is not whole: use {' or '.join(cures)}"
    )
