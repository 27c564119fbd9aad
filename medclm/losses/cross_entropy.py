"""Cross entropy of supervised tokens, per token and per sample, in float32 (method: loss). Pure functions; mean taken by the caller.

M target tokens of a micro-batch, B samples, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ELEMENTS = 1 << 24
"""Logits that are held in float32 at a time: 64 MiB."""


def token_losses(logits_mv: torch.Tensor, targets_m: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target], (M,) float32, whatever the precision of `logits_mv` (M, V); M may be 0.

    Computed in float32 a few rows at a time, forward and backward: of all rows only the logits, as given, and their gradient are held.
    """
    losses: torch.Tensor = _TokenLosses.apply(logits_mv, targets_m)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    """loss = log sum exp(logits) - logits[target];  d loss / d logits = softmax(logits) - onehot(target)."""

    @staticmethod
    def forward(ctx: Any, logits_mv: torch.Tensor, targets_m: torch.Tensor) -> torch.Tensor:
        normalisers = [rows_nv.float().logsumexp(dim=1) for rows_nv in _chunks(logits_mv)]
        normaliser_m = torch.cat(normalisers) if normalisers else logits_mv.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(logits_mv, targets_m, normaliser_m)
        return normaliser_m - logits_mv.gather(1, targets_m[:, None])[:, 0].float()

    @staticmethod
    def backward(ctx: Any, gradient_m: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits_mv, targets_m, normaliser_m = ctx.saved_tensors
        gradient_mv, first = torch.empty_like(logits_mv), 0
        for rows_nv in _chunks(logits_mv):
            here = slice(first, first + len(rows_nv))
            softmax_nv = (rows_nv.float() - normaliser_m[here, None]).exp_()
            softmax_nv.scatter_add_(1, targets_m[here, None], -torch.ones_like(softmax_nv[:, :1]))
            gradient_mv[here] = softmax_nv.mul_(gradient_m[here, None])
            first += len(rows_nv)
        return gradient_mv, None


def _chunks(logits_mv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    rows = max(1, CHUNK_ELEMENTS // max(1, logits_mv.shape[1]))
    return torch.split(logits_mv, rows) if len(logits_mv) else ()


def sums_by_sample(
    values_m: torch.Tensor, samples_m: torch.Tensor, mask_m: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of `values_m` where `mask_m`, and number of such tokens, for each of `count` samples.

    Args:
        values_m: (M,) float32.
        samples_m: (M,) int64, the sample of each token.
        mask_m: (M,) bool.

    Returns:
        (B,) float32 sums and (B,) float32 counts.
    """
    chosen_m = mask_m.to(values_m.dtype)
    zeros_b = values_m.new_zeros(count)
    return zeros_b.index_add(0, samples_m, values_m * chosen_m), zeros_b.index_add(0, samples_m, chosen_m)


def mean_or_zero(sums_b: torch.Tensor, counts_b: torch.Tensor) -> torch.Tensor:
    """Per-sample means; 0 for a sample without such tokens."""
    return sums_b / counts_b.clamp(min=1)
