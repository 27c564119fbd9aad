"""Which batch must not be learned from: its loss is not finite, or far above what batches of the same stages have lately had.

A curriculum moves the mean loss of a batch by itself (Easy is easier than Medium), so a batch is judged against the means of its own
stages: residual = mean over its samples of (loss - mean of the sample's stage), over a window of recent batches. It is a spike when
its residual is above `sigmas` times the root mean square of the window's residuals (the rolling rule is that of OLMo's SkipStep
optimizer, 6 sigma over 128 steps; the stages are ours).

Sums are whole numbers (losses in units of 2^-20), so that every rank, and every number of ranks, comes to the same verdict. Pure.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

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


def batch_sums(losses: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
    """(7,) int64 of some samples: sum of losses and count per stage, and how many losses are not finite; sums over ranks add up.

    Args:
        losses: (n,) float32, on any device; nothing waits for it.
        stages: (n,) uint8, on the same.
    """
    finite = torch.isfinite(losses)
    units = (torch.where(finite, losses, 0.0).double().clamp(max=_LARGEST) * UNIT).round().long()
    sums = torch.zeros(7, dtype=torch.int64, device=losses.device)
    sums.index_add_(0, stages.long(), units)
    sums.index_add_(0, 3 + stages.long(), finite.long())
    sums[6] = (~finite).sum()
    return sums


@dataclass(frozen=True)
class Bar:
    """What the next batch is measured against."""

    means: tuple[float, ...]
    """(3,) mean loss of each stage over the window; 0 where it is not known."""
    known: tuple[bool, ...]
    """(3,) stages with enough samples in the window."""
    spread: float
    """Root mean square of the window's residuals."""
    batches: int
    """In the window."""

    def residual(self, sums: torch.Tensor) -> torch.Tensor:
        """() float64: mean over a batch's samples of known stages of what is above the mean of their stage.

        -inf where most of its samples are of unknown stages: a few samples scatter more than the batches they would be compared with.
        """
        stages = [stage for stage in range(3) if self.known[stage]]
        above: torch.Tensor = sum((sums[s] / UNIT - sums[3 + s] * self.means[s] for s in stages), torch.zeros_like(sums[0]))
        count = sum((sums[3 + s] for s in stages), torch.zeros_like(sums[0]))
        return torch.where(2 * count < sums[3:6].sum(), -math.inf, above.double() / count.clamp(min=1))


class SpikeGuard:
    """Judges global batches one after another: `drops` before the update, where the losses are; `note` after it, on the host.

    Args:
        sigmas: train.spike_sigma; 0 judges finiteness alone.
    """

    def __init__(self, sigmas: float) -> None:
        self.sigmas = sigmas
        self._window: deque[np.ndarray] = deque(maxlen=WINDOW)

    def drops(self, sums: torch.Tensor) -> torch.Tensor:
        """() bool, on the device of `sums` (7,), the `batch_sums` of all ranks; nothing waits for it."""
        broken, bar = sums[6] > 0, self._bar()
        return broken if bar is None else broken | (bar.residual(sums) > self.sigmas * bar.spread)

    def note(self, sums: torch.Tensor, *, dropped: bool) -> Verdict:
        """What became of a batch that `drops` has judged; one that was learned from joins the window.

        Args:
            sums: on the CPU.
        """
        if not dropped:
            self._window.append(sums.numpy())
            return Verdict(None)
        if sums[6]:
            return Verdict(f"{int(sums[6])} of its losses are not finite")
        bar = self._bar()
        assert bar is not None
        residual = float(bar.residual(sums))
        return Verdict(
            f"its loss is {residual:.4g} above the mean of its stages, {residual / bar.spread if bar.spread else math.inf:.1f} times "
            f"the spread of the last {bar.batches} batches (train.spike_sigma={self.sigmas:g})"
        )

    def judge(self, sums: torch.Tensor) -> Verdict:
        """Both at once, for sums that are on the CPU already."""
        return self.note(sums, dropped=bool(self.drops(sums)))

    def _bar(self) -> Bar | None:
        if not self.sigmas or len(self._window) < LEAST_STEPS:
            return None
        window_W7 = np.stack(self._window)
        seen_3 = window_W7[:, 3:6].sum(axis=0)
        known_3 = seen_3 >= LEAST_SAMPLES
        means_3 = np.where(known_3, window_W7[:, :3].sum(axis=0) / np.maximum(seen_3, 1), 0.0) / UNIT
        past_W = _residuals(window_W7, means_3, known_3)
        return Bar(tuple(means_3.tolist()), tuple(known_3.tolist()), float(np.sqrt(np.mean(past_W**2))), len(past_W))

    def state(self) -> list[list[int]]:
        """The window, for a checkpoint."""
        return [sums.tolist() for sums in self._window]

    def load(self, state: list[list[int]]) -> None:
        self._window = deque((np.asarray(sums, np.int64) for sums in state), maxlen=WINDOW)


def _residuals(sums_N7: np.ndarray, means_3: np.ndarray, known_3: np.ndarray) -> Any:
    """(N,) float64: `Bar.residual` of the window's own batches."""
    counts_N3 = sums_N7[:, 3:6] * known_3
    above_N3 = sums_N7[:, :3] * known_3 / UNIT - counts_N3 * means_3
    return above_N3.sum(axis=1) / np.maximum(counts_N3.sum(axis=1), 1)
