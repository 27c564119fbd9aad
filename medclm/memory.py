"""How many bytes one rank needs at most, part by part, before anything is built: the arithmetic of ZeRO as DeepSpeed 0.19 carries it out.

States follow from counts of parameters, activations from a trace without numbers (medclm/models/tracing.py), and buffers from the
DeepSpeed JSON. Three moments can be the highest: the model being cut into shards, backward, and the update. Imports no deepspeed.

Counts: n trained parameters, W ranks, e bytes of a number in the run's precision (Rajbhandari et al. 2020, arXiv 1910.02054).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medclm.models.tracing import Traced, trace
from medclm.types import Batch

FLOAT32 = 4
GIB = 2**30
STATES = ("weights", "gradients", "moments", "float32 weights")
"""Parts of a prediction that stay for the whole run."""


@dataclass(frozen=True)
class Weight:
    """One parameter."""

    count: int
    """Numbers in the whole parameter, wherever its parts lie."""
    size: int
    """Bytes of a number."""
    trained: bool


def weights_of(module: nn.Module) -> list[Weight]:
    """Every parameter once; of a module that ZeRO-3 has cut into parts, the whole ones."""
    return [
        Weight(int(getattr(each, "ds_numel", each.numel())), each.element_size(), each.requires_grad)
        for each in module.parameters()
    ]


@dataclass(frozen=True)
class Layout:
    """What of a filled DeepSpeed JSON decides about memory."""

    stage: int
    world_size: int
    accumulation: int
    bucket: int
    """Gradients reduced together, in numbers."""
    double_buffer: bool
    """Communication overlaps with compute, so stages 1 and 2 fill a second bucket meanwhile."""
    sub_group: int
    """Numbers per rank that stage 3 updates together."""
    persistent: int
    """Parameters of up to so many numbers are never sharded by stage 3."""
    reuse: int
    """Stage 3 keeps a gathered parameter that is used again within so many numbers."""
    prefetch: int
    """Numbers that stage 3 gathers ahead."""
    offload_optimizer: bool
    offload_weights: bool
    fused: bool
    """The optimizer works in one kernel without intermediate tensors."""

    @classmethod
    def of(cls, ds_config: dict[str, Any], *, world_size: int, fused: bool) -> Layout:
        """That of a JSON that `ds_config.fill` has filled; what it does not say is DeepSpeed's default."""
        zero = ds_config["zero_optimization"]

        def number(key: str, default: float) -> int:
            return int(zero.get(key, default))

        return cls(
            stage=zero["stage"],
            world_size=world_size,
            accumulation=ds_config["gradient_accumulation_steps"],
            bucket=number("reduce_bucket_size", 5e8),
            double_buffer=bool(zero.get("overlap_comm", zero["stage"] == 3)),
            sub_group=number("sub_group_size", 1e9),
            persistent=number("stage3_param_persistence_threshold", 1e5),
            reuse=number("stage3_max_reuse_distance", 1e9),
            prefetch=number("stage3_prefetch_bucket_size", 5e7),
            offload_optimizer=zero.get("offload_optimizer", {}).get("device", "none") != "none",
            offload_weights=zero.get("offload_param", {}).get("device", "none") != "none",
            fused=fused,
        )

    def share(self, count: int) -> int:
        """Numbers of a sharded parameter on one rank, padding included."""
        return -(-count // self.world_size)


def state_parts(weights: Iterable[Weight], layout: Layout) -> dict[str, int]:
    """Bytes on one rank that stay for the whole run, wherever they are held.

    Stages 1 and 2, and offloading, update a float32 copy of the weights also where the weights are float32 themselves.
    """
    parts = dict.fromkeys(STATES, 0)
    for weight in weights:
        share = layout.share(weight.count)
        whole = layout.stage < 3 or (weight.count <= layout.persistent and layout.world_size > 1)
        parts["weights"] += weight.size * (weight.count if whole else share)
        if whole and layout.stage == 3:
            parts["weights"] += weight.size * share  # the persistent one is gathered beside its shards
        if weight.trained:
            parts["gradients"] += weight.size * share
            parts["moments"] += 2 * FLOAT32 * share
            if weight.size < FLOAT32 or layout.stage < 3 or layout.offload_optimizer:
                parts["float32 weights"] += FLOAT32 * share
    return parts


@dataclass(frozen=True)
class Prediction:
    """The peak of one rank and what it is made of."""

    parts: dict[str, int]
    """Part -> bytes at the highest moment; they add up to `peak`."""
    moments: dict[str, int]
    """`building`, `backward`, `update` -> bytes held then."""
    host: int
    """Bytes that are offloaded to host memory; not in `parts` where an accelerator computes."""
    ideal: int
    """States over ranks and the activations kept for backward, and nothing else: what no layout of this stage can go below."""

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    @property
    def highest(self) -> str:
        """The moment at which the peak is reached."""
        return max(self.moments, key=lambda moment: self.moments[moment])


def predict(weights: list[Weight], layout: Layout, traced: Traced, *, accelerator: bool) -> Prediction:
    """The peak of one rank.

    Args:
        traced: of the micro-batch, by `trace_micro_batch` with the same layout.
        accelerator: a GPU computes, so that what is offloaded is not in its memory.
    """
    states = state_parts(weights, layout)
    trained = [weight for weight in weights if weight.trained]
    size = max((weight.size for weight in trained), default=FLOAT32)
    shared = sum(layout.share(weight.count) for weight in trained)
    whole = sum(weight.count * weight.size for weight in weights)
    offloaded = {part for part in STATES[1:] if layout.offload_optimizer} | ({"weights"} if layout.offload_weights else set())
    host = sum(states[part] for part in offloaded) if accelerator else 0
    held = {part: count for part, count in states.items() if not (accelerator and part in offloaded)}
    group = min(shared, layout.sub_group) if layout.stage == 3 else shared
    scratch = 0 if layout.fused else 2 * FLOAT32 * group  # denominator of AdamW and its square root
    bucket = size * layout.bucket * (1 + (layout.double_buffer and layout.stage < 3))

    # The whole model is made before it is sharded; stages 1 and 2 copy it to one flat tensor then.
    building = whole + (held["weights"] + held.get("float32 weights", 0) if layout.stage < 3 else 0)
    backward = {
        **held,
        "activations kept": traced.kept,
        "passing tensors": traced.peak - traced.kept,
        "bucket": bucket,
        "gathered weights": gathered(weights, layout),
    }
    if layout.stage < 3 and layout.accumulation > 1:
        # Stage 2 adds each micro-batch's shards to those of the ones before, stage 1 whole gradients in place
        backward["gradients so far"] = (size * shared) if layout.stage == 2 else sum(w.count * w.size for w in trained)
    if not accelerator and (layout.stage == 2 or (layout.stage == 1 and layout.accumulation > 1)):
        # The buffer for a rank's gradients is touched page by page while activations go, so the CPU holds the larger of the two
        backward["gradients"] = max(0, held["gradients"] - traced.kept)
    # Gradients are copied to one flat float32 tensor to be stepped with, a sub-group at a time
    update = {**held, "flat gradients": FLOAT32 * group, "AdamW's own": scratch}
    if layout.stage == 3:
        update["bucket"] = bucket
    sums = {"building": building, "backward": sum(backward.values()), "update": sum(update.values())}
    parts = {"building": {"weights": building}, "backward": backward, "update": update}[max(sums, key=lambda key: sums[key])]
    return Prediction(
        parts={part: count for part, count in parts.items() if count},
        moments=sums,
        host=host,
        ideal=ideal_states(weights, layout) - host + traced.kept,
    )


def ideal_states(weights: Iterable[Weight], layout: Layout) -> int:
    """Bytes of states on one rank with each thing held once: what this stage shards over the ranks, what it does not whole."""
    total = 0.0
    for weight in weights:
        total += weight.count * weight.size / (layout.world_size if layout.stage == 3 else 1)
        if weight.trained:
            update = 2 * FLOAT32 + (FLOAT32 if weight.size < FLOAT32 else 0)
            total += weight.count * update / layout.world_size
            total += weight.count * weight.size / (layout.world_size if layout.stage > 1 else 1)
    return math.ceil(total)


def gathered(weights: list[Weight], layout: Layout) -> int:
    """Bytes of whole weights that stage 3 has beside its shards where backward begins.

    A parameter whose next use is within `reuse` numbers is kept; in the middle, where backward begins, those are the ones of half that
    distance. The largest one must be there in any case, beside what is gathered ahead. With prefetching DeepSpeed keeps what it passes
    over while it looks ahead, so that a short distance alone gives back nothing: both must be 0 for that.
    """
    if layout.stage < 3 or layout.world_size == 1:
        return 0
    sharded = [weight for weight in weights if weight.count > layout.persistent]
    total = sum(weight.count for weight in sharded)
    largest = max((weight.count for weight in sharded), default=0)
    kept = layout.reuse // 2 if layout.reuse or not layout.prefetch else total
    count = min(total, kept + largest + layout.prefetch)
    size = max((weight.size for weight in sharded), default=0)
    return count * size


def trace_micro_batch(objective: nn.Module, batch: Batch, layout: Layout) -> Traced:
    """What one micro-batch holds, weights aside, with gradients taken away as ZeRO does.

    A gradient is copied to the bucket as soon as it is complete and its memory given back; one that is larger than the bucket stays
    until the next reduction. Each reduction makes one copy of what is reduced. Stage 1 without accumulation keeps all gradients.

    Args:
        objective: of a `ModelFamily.skeleton`.
    """
    waiting: list[nn.Parameter] = []
    filled = 0

    def reduce() -> None:
        nonlocal filled
        if filled:
            torch.empty(filled, dtype=waiting[-1].dtype, device="meta")  # alive for a moment: the copy that is sent
        for parameter in waiting:
            parameter.grad = None
        waiting.clear()
        filled = 0

    def take(parameter: nn.Parameter) -> None:
        nonlocal filled
        if layout.stage == 1 and layout.accumulation == 1:
            return
        if layout.stage == 1:
            parameter.grad = None  # added to the whole gradients, which are counted as states
            return
        if filled + parameter.numel() > layout.bucket:
            reduce()
        waiting.append(parameter)
        filled += parameter.numel()
        if parameter.numel() <= layout.bucket:
            parameter.grad = None

    return trace(objective, batch, take)
