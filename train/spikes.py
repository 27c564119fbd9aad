"""Which batch must not be learned from: its loss is not finite, or far above what batches of the same stages have lately had.

A curriculum moves the mean loss of a batch by itself (Easy is easier than Medium), so a batch is judged against the means of its own
stages: residual = mean over its samples of (loss - mean of the sample's stage), over a window of recent batches. It is a spike when
its residual is above `sigmas` times the root mean square of the window's residuals (the rolling rule is that of OLMo's SkipStep
optimizer, 6 sigma over 128 steps; the stages are ours).

Sums are whole numbers (losses in units of 2^-20), so that every rank, and every number of ranks, comes to the same verdict. Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW, LEAST_STEPS, LEAST_SAMPLES = 128, 32, 64
"""Batches that count; batches, and samples of a stage, that must have been seen before anything is called a spike."""
UNIT = 2**20
_LARGEST = 2.0**20


@dataclass(frozen=True)
class Verdict:
    """What becomes of a batch."""

    reason: str | None
    """Why it is dropped; None = it is learned from."""

    @property
    def drop(self) -> bool:
        return self.reason is not None


def batch_sums(losses: np.ndarray, stages: np.ndarray) -> np.ndarray:
    """(7,) int64 of some samples: sum of losses and count per stage, and how many losses are not finite; sums over ranks add up.

    Args:
        losses: (n,) float32.
        stages: (n,) uint8.
    """
    finite = np.isfinite(losses)
    units = np.rint(np.minimum(losses[finite].astype(np.float64), _LARGEST) * UNIT).astype(np.int64)
    sums = np.zeros(7, np.int64)
    np.add.at(sums, stages[finite].astype(np.int64), units)
    sums[3:6] = np.bincount(stages[finite], minlength=3)
    sums[6] = len(losses) - finite.sum()
    return sums


class SpikeGuard:
    """Judges global batches one after another.

    Args:
        sigmas: train.spike_sigma; 0 judges finiteness alone.
    """

    def __init__(self, sigmas: float) -> None:
        self.sigmas = sigmas
        self._window: deque[np.ndarray] = deque(maxlen=WINDOW)

    def judge(self, sums: np.ndarray) -> Verdict:
        """Judge a batch by the `batch_sums` (7,) of all ranks; one that is learned from joins the window."""
        if sums[6]:
            return Verdict(f"{sums[6]} of its losses are not finite")
        reason = self._spike(sums)
        if reason is None:
            self._window.append(sums)
        return Verdict(reason)

    def _spike(self, sums: np.ndarray) -> str | None:
        if not self.sigmas or len(self._window) < LEAST_STEPS:
            return None
        window_W7 = np.stack(self._window)
        seen_3 = window_W7[:, 3:6].sum(axis=0)
        known_3 = seen_3 >= LEAST_SAMPLES
        if 2 * (sums[3:6] * known_3).sum() < sums[3:6].sum():
            return None  # a few samples scatter more than the batches that they would be compared with
        means_3 = np.where(known_3, window_W7[:, :3].sum(axis=0) / np.maximum(seen_3, 1), 0.0) / UNIT
        past_W = _residuals(window_W7, means_3, known_3)
        sigma = float(np.sqrt(np.mean(past_W**2)))
        residual = float(_residuals(sums[None], means_3, known_3)[0])
        if residual <= self.sigmas * sigma:
            return None
        return (
            f"its loss is {residual:.4g} above the mean of its stages, {residual / sigma if sigma else float('inf'):.1f} times the "
            f"spread of the last {len(past_W)} batches (train.spike_sigma={self.sigmas:g})"
        )

    def state(self) -> list[list[int]]:
        """The window, for a checkpoint."""
        return [sums.tolist() for sums in self._window]

    def load(self, state: list[list[int]]) -> None:
        self._window = deque((np.asarray(sums, np.int64) for sums in state), maxlen=WINDOW)


def _residuals(sums_N7: np.ndarray, means_3: np.ndarray, known_3: np.ndarray) -> Any:
    """(N,) float64: mean over a batch's samples of known stages of what is above the mean of their stage."""
    counts_N3 = sums_N7[:, 3:6] * known_3
    above_N3 = sums_N7[:, :3] * known_3 / UNIT - counts_N3 * means_3
    return above_N3.sum(axis=1) / np.maximum(counts_N3.sum(axis=1), 1)
