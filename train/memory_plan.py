"""`engine.memory: auto`: which micro-batch, recomputation and ZeRO stage fit this device, found before the run.

A plan is predicted (medclm/memory.py), then tried with one dry batch of the longest sample on every rank. It changes how the global
batch is cut and what is kept, never what is in it, so the gradient stays that of the recipe up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medclm.config import ConfigError, Recipe
from medclm.data.order import largest_micro_batch
from medclm.ds_config import STAGES, fill
from medclm.memory import GIB, Layout, Prediction, predict, trace_micro_batch, weights_of
from medclm.models.example import example_batch
from medclm.models.protocol import Processor
from medclm.models.recompute import Recompute, decoder_layers, set_recompute
from medclm.models.registry import family
from medclm.types import LossWeights

MARGIN = 0.05
"""Part of the limit that a prediction must leave free: allocators keep more than is asked of them."""
HALF_SPEED_TOKENS = 128
"""Tokens of a micro-batch at which what does not grow with it (launches, gathering weights) takes as long as the rest: a guess."""
STAGE_COST = {1: 1.0, 2: 1.02, 3: 1.1}
"""Relative time of a step on several ranks: stage 3 gathers weights twice where stages 1 and 2 send them once."""


@dataclass(frozen=True)
class MemoryPlan:
    """One way to run the recipe."""

    micro_batch_size: int
    recompute: Recompute
    zero_stage: int
    predicted: int
    """Bytes of the peak on one rank."""

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe that runs so."""
        train = recipe.train.model_copy(update={"micro_batch_size": self.micro_batch_size})
        engine = recipe.engine.model_copy(update={"recompute": self.recompute})
        return recipe.model_copy(update={"train": train, "engine": engine})

    def __str__(self) -> str:
        return f"micro-batch {self.micro_batch_size}, recompute {self.recompute}, ZeRO stage {self.zero_stage}"


@dataclass(frozen=True)
class Tried:
    """A plan whose dry batch did not fit."""

    plan: MemoryPlan
    measured: int
    """Bytes of the largest rank; where memory ran out, a tenth more than there was."""


class Forecast:
    """Predictions of a recipe's peak under any plan; each shape is traced once."""

    def __init__(
        self,
        recipe: Recipe,
        ds_tree: dict[str, Any],
        *,
        world_size: int,
        bf16: bool,
        accelerator: bool,
        processor: Processor | None = None,
    ) -> None:
        self._recipe, self._tree, self._world_size = recipe, ds_tree, world_size
        self._bf16, self._accelerator = bf16, accelerator
        self._models = family(recipe.model.family)
        self.network = self._models.skeleton(recipe.model, torch.bfloat16 if bf16 else torch.float32, processor)
        """Shapes without numbers."""
        section = recipe.train
        weights = LossWeights(answer=section.answer_weight, rationale=section.rationale_weight, hard=section.hard_weight)
        self._processor = processor or self._models.stand_in(recipe.model)
        self._objective = self._models.objective(self.network, self._processor, weights)
        self._weights = weights_of(self.network)
        self.layers = len(decoder_layers(self.network))
        self._traced: dict[Any, Any] = {}

    def __call__(self, micro_batch_size: int, recompute: Recompute, zero_stage: int) -> Prediction:
        """Of the longest samples that data.max_tokens allows."""
        recipe = MemoryPlan(micro_batch_size, recompute, zero_stage, 0).applied(self._recipe)
        filled = fill(
            self._tree,
            recipe,
            world_size=self._world_size,
            bf16=self._bf16,
            accelerator=self._accelerator,
            zero_stage=zero_stage,
        )
        layout = Layout.of(filled, world_size=self._world_size, fused=True)
        key = (micro_batch_size, recompute, layout.bucket, zero_stage == 1 and layout.accumulation)
        if key not in self._traced:
            set_recompute(self.network, recompute)
            batch = example_batch(self.network, self._processor, micro_batch_size, recipe.data.max_tokens)
            self._traced[key] = trace_micro_batch(self._objective, batch, layout)
        return predict(self._weights, layout, self._traced[key], accelerator=self._accelerator)


def choices(recipe: Recipe, stages: tuple[int, ...], *, world_size: int, layers: int) -> list[tuple[int, Recompute, int]]:
    """(micro-batch, recomputation, ZeRO stage) by rising cost: none recomputed and large micro-batches first.

    The cost ranks plans and predicts no time: recomputing all layers takes a third more compute, a micro-batch has a part that does
    not grow with it, and a higher stage communicates more.
    """
    per_rank = largest_micro_batch(recipe.train.global_batch_size, recipe.train.global_batch_size, world_size)
    micros = [micro for micro in range(1, min(recipe.train.micro_batch_size, per_rank) + 1) if per_rank % micro == 0]
    kept: list[tuple[Recompute, float]] = [("none", 0.0), ("all", 1.0)]
    kept += [
        (count, count / layers) for count in sorted({layers * quarter // 4 for quarter in (1, 2, 3)}) if 0 < count < layers
    ]

    def cost(micro: int, share: float, stage: int) -> float:
        communication = STAGE_COST[stage] if world_size > 1 else 1.0
        return (1 + share / 3) * (1 + HALF_SPEED_TOKENS / (micro * recipe.data.max_tokens)) * communication

    found = [(cost(micro, share, stage), stage, micro, what) for micro in micros for what, share in kept for stage in stages]
    return [(micro, what, stage) for _, stage, micro, what in sorted(found, key=lambda each: each[:2])]


def choose(
    recipe: Recipe,
    stages: tuple[int, ...],
    predicted: Callable[[int, Recompute, int], Prediction],
    *,
    world_size: int,
    layers: int,
    limit: int,
    tried: Sequence[Tried] = (),
) -> MemoryPlan:
    """The cheapest plan whose predicted peak leaves the margin.

    Args:
        predicted: a `Forecast`, or its like.
        layers: decoder layers of the language model.
        limit: bytes of one rank.
        tried: plans that were measured and did not fit; by how much they were above their predictions counts for the others too.

    Raises:
        ConfigError: not even the smallest does; says what it would need and what helps.
    """
    factor = max([1.0, *(one.measured / one.plan.predicted for one in tried)])
    room = limit * (1 - MARGIN) / factor
    smallest: MemoryPlan | None = None
    too_large: list[tuple[int, float, int]] = []
    for micro, what, stage in choices(recipe, stages, world_size=world_size, layers=layers):
        kept = {"none": layers + 1, "all": 0}.get(str(what)) if isinstance(what, str) else layers + 1 - what
        assert kept is not None
        if any(micro >= m and kept >= k and stage <= s for m, k, s in too_large):
            continue  # it holds all that a plan which is too large holds
        plan = MemoryPlan(micro, what, stage, predicted(micro, what, stage).peak)
        if plan.predicted <= room and plan not in [one.plan for one in tried]:
            return plan
        too_large.append((micro, kept, stage))
        if smallest is None or plan.predicted < smallest.predicted:
            smallest = plan
    assert smallest is not None
    raise ConfigError(
        f"engine.memory=auto: nothing fits into {limit / GIB:.2f} GiB a rank; the smallest plan ({smallest}) needs "
        f"{factor * smallest.predicted / GIB:.2f} GiB and {MARGIN:.0%} to spare: take more ranks, --deepspeed ds_configs/zero3_offload.json, "
        "model.lora.rank, a smaller data.max_tokens, or raise engine.memory_limit_gib"
    )


def stages_of(ds_tree: dict[str, Any]) -> tuple[int, ...]:
    """The ZeRO stages that a JSON leaves open."""
    stage = ds_tree.get("zero_optimization", {}).get("stage")
    return STAGES if stage == "auto" else (stage,)
