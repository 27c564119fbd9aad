"""Samples that lie end to end attend as they do alone, with grouped heads too; calls without bounds are transformers' own."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from medclm.models.packed_attention import NAME, takes_packed

HEADS, SIZE = 4, 8


def states(length, heads, seed=0):
    return torch.randn(1, heads, length, SIZE, generator=torch.Generator().manual_seed(seed))


def attention(kernel="sdpa"):
    return ALL_ATTENTION_FUNCTIONS[takes_packed(kernel)]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", [(5,), (1, 7, 3), (4, 4, 4, 4)])
def test_each_sample_attends_as_it_does_alone(key_heads, lengths):
    module = SimpleNamespace(num_key_value_groups=HEADS // key_heads, is_causal=True)
    total = sum(lengths)
    query, key, value = states(total, HEADS, 1), states(total, key_heads, 2), states(total, key_heads, 3)
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    packed, _ = attention()(
        module, query, key, value, None, scaling=0.3, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=max(lengths)
    )
    alone = [
        sdpa_attention_forward(module, query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], None, scaling=0.3)[0]
        for a, b in itertools.pairwise(bounds.tolist())
    ]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-6)


def test_a_call_without_bounds_is_transformers_own():
    module = SimpleNamespace(num_key_value_groups=1, is_causal=True)
    query, key, value = (states(6, HEADS, seed) for seed in range(3))
    mask = torch.rand(1, 1, 6, 6) > 0.3
    mask |= torch.eye(6, dtype=torch.bool)
    for given in (None, mask):
        found, _ = attention()(module, query, key, value, given)
        assert torch.equal(found, sdpa_attention_forward(module, query, key, value, given)[0])


def test_a_padding_mask_is_kept_and_no_mask_is_made_for_nothing():
    takes_packed("sdpa")
    make = ALL_MASK_ATTENTION_FUNCTIONS[NAME]
    shape = {"batch_size": 2, "q_offset": 0, "kv_offset": 0}
    assert make(**shape, q_length=5, kv_length=5, attention_mask=None) is None
    padded = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    masked = make(**shape, q_length=5, kv_length=5, attention_mask=padded)
    assert masked.shape == (2, 1, 5, 5)
    assert not masked[0, 0, 4, :2].any()
    continued = make(**{**shape, "q_offset": 3}, q_length=2, kv_length=5, attention_mask=None)
    assert continued[0, 0].tolist() == [[True] * 4 + [False], [True] * 5]


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3", "eager"])
def test_kernels_that_read_bounds_or_positions_keep_their_name(kernel):
    assert takes_packed(kernel) == kernel
