"""Causal attention over samples that lie end to end: each token sees the earlier tokens of its own sample, and nothing is padded.

flash-attn does this by itself from the bounds of the samples; here is the same for PyTorch's own kernels, under a name that
transformers looks up. A call without bounds (generation, the vision tower) is transformers' own `sdpa`. Knows nothing of model families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "packed_sdpa"


def takes_packed(kernel: str) -> str:
    """The kernel's transformers name under which a network takes packed samples; registers ours where it is needed."""
    if kernel != "sdpa":
        return kernel  # flash kernels read the bounds; eager gets a block-diagonal mask from the positions, the slow oracle
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    return NAME


def _mask(*, attention_mask: torch.Tensor | None = None, q_length: int, kv_length: int, **rest: Any) -> torch.Tensor | None:
    """No mask where nothing is padded and nothing cached: `_attend` is causal by itself."""
    if attention_mask is None and q_length == kv_length:
        return None
    mask: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, q_length=q_length, kv_length=kv_length, **rest)
    return mask


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. `query` is (1, heads, N, head size), the result (1, N, heads, head size)."""
    if cu_seq_lens_q is None:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return attended, None
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        q_nhd, k_nhd, v_nhd = (states[0].transpose(0, 1) for states in (query, key, value))
        bounds, longest = cu_seq_lens_q, int(max_length_q or 0)
        packed = varlen_attn(
            q_nhd, k_nhd, v_nhd, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=grouped
        )
        assert isinstance(packed, torch.Tensor)
        return packed[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [
        functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped)
        for q, k, v in zip(*(torch.split(states, lengths, dim=2) for states in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None
