"""Whose activations are thrown away in the forward pass and computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174).

The first decoder layers are taken, not the last: when backward reaches them, the kept activations of the later ones are gone,
so that what a recomputed layer needs for a moment finds room. Knows nothing of budgets (train/memory_plan.py does).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from medclm.config import ConfigError

Recompute = Literal["none", "all"] | int


def decoder_layers(network: Any) -> list[GradientCheckpointingLayer]:
    """The language model's layers, from the one that reads the embeddings on."""
    return [layer for layer in network.get_decoder().modules() if isinstance(layer, GradientCheckpointingLayer)]


def set_recompute(network: nn.Module, what: Recompute) -> None:
    """Recompute nothing, the first `what` decoder layers, or every layer of every tower; replaces what was set before.

    The recomputation is non-reentrant and draws the same dropout again, so that the gradient is the same to the bit. Every rank
    must be given the same: under ZeRO-3 a recomputed layer gathers its weights once more.

    Raises:
        ConfigError: more decoder layers than there are.
    """
    layers = decoder_layers(network)
    if isinstance(what, int) and what > len(layers):
        raise ConfigError(f"engine.recompute={what}: the language model has {len(layers)} layers: give at most that, or all")
    chosen = {id(layer) for layer in layers[:what]} if isinstance(what, int) else set()
    again = partial(checkpoint, use_reentrant=False)
    for module in network.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.gradient_checkpointing = what == "all" or id(module) in chosen
            module._gradient_checkpointing_func = again
