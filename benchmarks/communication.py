"""What a training step sends: a model for any number of ranks, and a count of what really goes through the process group.

Volumes follow from how DeepSpeed 0.19 carries out each ZeRO stage (Rajbhandari et al. 2020, arXiv 1910.02054, section 7; except that its
stage 2 sums buckets on all ranks where the paper scatters). Ring costs: Thakur, Rabenseifner and Gropp 2005, IJHPCA 19(1).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medclm.memory import Layout, Weight

GATHER, SCATTER, SUM = "all-gather", "reduce-scatter", "all-reduce"


def volumes(weights: list[Weight], layout: Layout, *, recompute: bool = False) -> dict[str, int]:
    """Bytes of whole tensors that one step hands to each kind of collective; every rank takes part in all of them.

    Stage 3 gathers each sharded weight for the forward and, unless it is kept until then, for the backward of each micro-batch. Where
    all weights are kept (`stage3_max_reuse_distance`), the second gathering falls away.

    Args:
        recompute: layers run forward once more in backward, which reads what backward gathers: nothing more is sent.
    """
    if layout.world_size == 1:
        return {}
    trained = sum(weight.count * weight.size for weight in weights if weight.trained)
    if layout.stage < 3:
        return {SUM: trained * (layout.accumulation if layout.stage == 2 else 1), GATHER: trained}
    sharded = [weight for weight in weights if weight.count > layout.persistent]
    total = sum(weight.count for weight in sharded)
    size = max(weight.size for weight in weights)
    again = max(0, total - layout.reuse // 2)
    # What is never sharded is sent after each update, frozen or not
    persistent = sum(weight.count * weight.size for weight in weights if weight.count <= layout.persistent)
    return {GATHER: layout.accumulation * (total + again) * size + persistent, SCATTER: layout.accumulation * trained}


def sent(volume: dict[str, int], ranks: int) -> float:
    """Bytes that one rank puts on the wire under ring algorithms: a gather or scatter passes on all parts but one, a sum does both."""
    return sum(count * (2 if kind == SUM else 1) * (ranks - 1) / ranks for kind, count in volume.items())


@dataclass(frozen=True)
class Network:
    """Links of a cluster, as flags give them."""

    per_node: int
    """GPUs of a node."""
    inside: float
    """Bytes a second that a GPU sends to its neighbour within the node."""
    adapter: float
    """Bytes a second that one network adapter sends; there is one a GPU, and as many rings as adapters share the work."""
    latency_inside: float
    """Seconds of one hop."""
    latency_outside: float


def seconds(volume: dict[str, int], ranks: int, network: Network, *, bucket_bytes: int) -> float:
    """Time that the collectives of a step take if nothing overlaps: a ring is as fast as its slowest link."""
    if ranks == 1:
        return 0.0
    one_node = ranks <= network.per_node
    bandwidth = network.inside if one_node else min(network.inside, network.adapter * network.per_node)
    latency = network.latency_inside if one_node else network.latency_outside
    hops = sum(-(-count // bucket_bytes) * (2 if kind == SUM else 1) * (ranks - 1) for kind, count in volume.items())
    return sent(volume, ranks) / bandwidth + hops * latency


class Carried(TorchDispatchMode):
    """While open, counts the bytes of whole tensors that this rank hands to collectives, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            operation = name.split(".")[1]
            kind = {
                "_allgather_base_": GATHER,
                "allgather_": GATHER,
                "allgather_into_tensor_coalesced_": GATHER,
                "_reduce_scatter_base_": SCATTER,
                "reduce_scatter_": SCATTER,
                "reduce_scatter_tensor_coalesced_": SCATTER,
                "allreduce_": SUM,
                "allreduce_coalesced_": SUM,
            }.get(operation, operation)
            sizes = [
                item.numel() * item.element_size()
                for item in tree_leaves((args[0], args[1] if len(args) > 1 else ()))
                if isinstance(item, torch.Tensor)
            ]
            # the whole is the larger of what goes in and what comes out
            self.bytes[kind] += max(sizes, default=0) if kind in (GATHER, SCATTER) else sum(sizes)
        return func(*args, **(kwargs or {}))
