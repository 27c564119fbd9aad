"""The engine of a run; under `engine.memory: auto` one whose largest step fits, found by trying (train/memory_plan.py plans)."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medclm.config import Recipe
from medclm.device_memory import free, held
from medclm.distributed import ControlPlane
from medclm.ds_config import read_json
from medclm.engine import Device, Engine, sharded_weights
from medclm.memory import GIB
from medclm.models.example import example_batch
from medclm.models.protocol import Processor
from medclm.models.recompute import set_recompute
from medclm.models.registry import family
from medclm.types import LossWeights
from train.memory_plan import Forecast, MemoryPlan, Tried, choose

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Fitted:
    """What runs."""

    recipe: Recipe
    ds_config: dict[str, Any]
    engine: Engine


def make_engine(recipe: Recipe, ds_config: dict[str, Any], processor: Processor, *, device: Device, bf16: bool) -> Engine:
    """The network of the recipe, in shards from its birth where ZeRO-3 asks for it, under DeepSpeed."""
    models, section = family(recipe.model.family), recipe.train
    dtype = torch.bfloat16 if bf16 else torch.float32
    shard = ds_config["zero_optimization"]["stage"] == 3
    with sharded_weights(ds_config) if shard else contextlib.nullcontext():
        network = models.build(recipe.model, processor, dtype, recipe.run.seed)
    set_recompute(network, recipe.engine.recompute)
    weights = LossWeights(answer=section.answer_weight, rationale=section.rationale_weight, hard=section.hard_weight)
    return Engine(models.objective(network, processor, weights), recipe, ds_config, device)


def fit(
    recipe: Recipe,
    ds_tree: dict[str, Any],
    stages: tuple[int, ...],
    processor: Processor,
    *,
    plane: ControlPlane,
    device: Device,
    bf16: bool,
    fill_for: Callable[..., dict[str, Any]],
) -> Fitted:
    """Choose a plan on rank 0, build it, go through a dry batch on every rank, and take the next plan where that is too large.

    A rank that alone runs out of memory in the middle of a collective leaves the others waiting for engine.timeout_s: ranks do the
    same work, so that all of them run out, or none. On the CPU what libraries take when they are first used counts as the run's, as it
    does for the machine: some 100 MiB, which only tiny models notice.

    Raises:
        ConfigError: no plan fits.
    """
    ranks, tried = plane.ranks, []
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or ranks.world_size)
    room = int(recipe.engine.memory_limit_gib * GIB) or free(device.name, local_ranks=local)
    limit = -plane.largest(-room, what="how much memory there is")
    forecast = (
        Forecast(recipe, ds_tree, world_size=ranks.world_size, bf16=bf16, accelerator=device.name != "cpu", processor=processor)
        if ranks.is_main
        else None
    )
    before = held(device.name)  # the forecast is not part of the run

    def chosen() -> MemoryPlan:
        assert forecast is not None
        return choose(recipe, stages, forecast, world_size=ranks.world_size, layers=forecast.layers, limit=limit, tried=tried)

    while True:
        plan = plane.from_main(chosen, what="the plan of engine.memory=auto")
        now = plan.applied(recipe)
        ds_config = fill_for(ds_tree, now, zero_stage=plan.zero_stage)
        engine = make_engine(now, ds_config, processor, device=device, bf16=bf16)
        measured = plane.largest(_peak(engine, processor, now, limit) - before, what="the dry batch of engine.memory=auto")
        if measured <= limit:
            if ranks.is_main:
                print(_told(plan, measured, limit, len(tried)), flush=True)
            return Fitted(now, ds_config, engine)
        tried.append(Tried(plan, measured))
        if ranks.is_main:
            print(f"engine.memory=auto: {plan} held {measured / GIB:.2f} GiB, above {limit / GIB:.2f}: the next", flush=True)
        engine.close()
        del engine
        gc.collect()
        if device.name != "cpu":
            torch.cuda.empty_cache()


def _peak(engine: Engine, processor: Processor, recipe: Recipe, limit: int) -> int:
    """Bytes held at most in a dry batch of the longest samples; a tenth above the limit where there was no memory."""
    batch = example_batch(engine.module.network, processor, recipe.train.micro_batch_size, recipe.data.max_tokens)
    try:
        return engine.rehearse(batch)
    except (torch.OutOfMemoryError, MemoryError):
        return int(1.1 * limit)
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        return int(1.1 * limit)


def _told(plan: MemoryPlan, measured: int, limit: int, tried: int) -> str:
    why = "the cheapest predicted to fit" if not tried else f"{tried} cheaper one(s) held more than predicted"
    return (
        f"engine.memory=auto: {plan}: {why}; predicted {plan.predicted / GIB:.2f} GiB a rank, {measured / GIB:.2f} measured in a dry batch, "
        f"{limit / GIB:.2f} allowed"
    )


def as_written(ds_tree: dict[str, Any], checkpoint: Path, *, same_ranks: bool) -> dict[str, Any]:
    """The JSON with what a checkpoint's files depend on: a stage of "auto", and how many numbers stage 3 keeps in one group."""
    zero, then = ds_tree.get("zero_optimization"), read_json(checkpoint / "ds_config.json")["zero_optimization"]
    if not isinstance(zero, dict):
        return ds_tree
    zero = {**zero, "stage": then["stage"] if zero.get("stage") == "auto" else zero.get("stage")}
    if then["stage"] == 3 and same_ranks:
        zero["sub_group_size"] = then.get("sub_group_size", 1_000_000_000)
    return {**ds_tree, "zero_optimization": zero}
