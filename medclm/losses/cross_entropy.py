"""Cross entropy of supervised tokens, per token and per sample, in float32 (method: loss). Pure functions; mean taken by the caller.

N target tokens of a micro-batch, B samples, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def token_losses(logits_nv: torch.Tensor, targets_n: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target], (N,) float32, whatever the precision of `logits_nv` (N, V); N may be 0."""
    return functional.cross_entropy(logits_nv.float(), targets_n, reduction="none")


def sums_by_sample(
    values_n: torch.Tensor, samples_n: torch.Tensor, mask_n: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of `values_n` where `mask_n`, and number of such tokens, for each of `count` samples.

    Args:
        values_n: (N,) float32.
        samples_n: (N,) int64, the sample of each token.
        mask_n: (N,) bool.

    Returns:
        (B,) float32 sums and (B,) float32 counts.
    """
    chosen_n = mask_n.to(values_n.dtype)
    zeros_b = values_n.new_zeros(count)
    return zeros_b.index_add(0, samples_n, values_n * chosen_n), zeros_b.index_add(0, samples_n, chosen_n)


def mean_or_zero(sums_b: torch.Tensor, counts_b: torch.Tensor) -> torch.Tensor:
    """Per-sample means; 0 for a sample without such tokens."""
    return sums_b / counts_b.clamp(min=1)
