"""Floating-point operations of one optimizer step, counted as a model needs them: recomputation and padding do not count.

A matrix product of m x k by k x n takes 2mkn; its backward takes the same once for the gradient of its input, where something before it
learns, and once for that of its weights, where they learn. Causal attention counts half of the square. Norms, activations and the
optimizer are left out: under 1 % at these sizes. Pure; checked against torch's own counter in tests/unit/test_flops.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Learns:
    """What a run trains."""

    vision_tower: bool
    projector: bool
    language_model: bool
    adapter_rank: int = 0
    """Of LoRA adapters on all linear layers of the language model's blocks; 0 = none."""


def step_flops(config: Any, lengths: Sequence[int], targets: int, learns: Learns) -> float:
    """Of a ViP-LLaVA.

    Args:
        config: a transformers `VipLlavaConfig`.
        lengths: tokens of each sample of the global batch, image tokens included.
        targets: supervised tokens of the global batch.
    """
    vision, text = config.vision_config, config.text_config
    pictures, patches = len(lengths), (vision.image_size // vision.patch_size) ** 2
    chosen = config.vision_feature_layers
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    used = max(index if index >= 0 else vision.num_hidden_layers + 1 + index for index in chosen)

    # forward = 1 part; each gradient that is needed is one more
    tower_parts = 3 if learns.vision_tower else 1
    block = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    tower = used * (2 * block * (patches + 1) + 4 * vision.hidden_size * (patches + 1) ** 2)
    embed = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    total: float = pictures * (tower * tower_parts + embed * (2 if learns.vision_tower else 1))

    first = len(chosen) * vision.hidden_size * text.hidden_size
    second = text.hidden_size**2
    total += 2 * pictures * patches * first * (1 + learns.projector + learns.vision_tower)
    total += 2 * pictures * patches * second * (1 + learns.projector + (learns.vision_tower or learns.projector))

    before = learns.vision_tower or learns.projector  # something before the language model learns
    through = before or learns.language_model or learns.adapter_rank > 0
    head_size = text.hidden_size // text.num_attention_heads
    keys = 2 * text.hidden_size * text.num_key_value_heads * head_size
    linear = 2 * text.hidden_size**2 + keys + 3 * text.hidden_size * text.intermediate_size
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    parts = 1 + through + learns.language_model
    total += text.num_hidden_layers * 2 * linear * tokens * parts
    total += text.num_hidden_layers * 2 * text.hidden_size * squares * (3 if through else 1)
    if learns.adapter_rank:
        inputs = 5 * text.hidden_size + text.hidden_size + text.intermediate_size
        outputs = 2 * text.hidden_size + keys // text.hidden_size + 2 * text.intermediate_size + text.hidden_size
        total += text.num_hidden_layers * 2 * learns.adapter_rank * (inputs + outputs) * tokens * 3
    return total + 2 * text.hidden_size * text.vocab_size * targets * parts
