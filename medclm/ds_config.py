"""Fills the "auto" places of a DeepSpeed JSON from the recipe and refuses contradictions. Imports neither torch nor deepspeed.

The JSON owns memory layout, offload and buckets. The recipe owns batch sizes, precision, clipping, optimizer and schedule;
for those the JSON says "auto" (or nothing), so that one zero3.json serves an H100 node and a laptop.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medclm.config import ConfigError, Recipe
from medclm.data.order import largest_micro_batch, rank_slots

BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
"""Elements sent together."""
STAGES = (1, 2, 3)
"""ZeRO stages that work here."""


@dataclass(frozen=True)
class BatchPlan:
    """The batch algebra of a run: global = micro x accumulation x world."""

    global_batch_size: int
    micro_batch_size: int
    accumulation: int
    world_size: int


def batch_plan(recipe: Recipe, world_size: int) -> BatchPlan:
    """How the global batch is cut.

    Raises:
        ValueError: not whole; names values that would be.
    """
    total, micro = recipe.train.global_batch_size, recipe.train.micro_batch_size
    if recipe.train.shrink_micro_batch:
        micro = largest_micro_batch(total, micro, world_size)
    accumulation = len(rank_slots(total, micro, 0, world_size))
    return BatchPlan(total, micro, accumulation, world_size)


def fill(
    tree: dict[str, Any],
    recipe: Recipe,
    *,
    world_size: int,
    bf16: bool,
    accelerator: bool,
    where: str = "DeepSpeed JSON",
    zero_stage: int | None = None,
) -> dict[str, Any]:
    """The DeepSpeed configuration of this run.

    Args:
        tree: the JSON as read; not changed.
        bf16: whether the run computes in bfloat16 (the recipe's precision, resolved for this machine).
        accelerator: a GPU computes; decides what "auto" means for buckets, overlap and page-locked buffers.
        where: name of the file, for messages.
        zero_stage: what a stage of "auto" means, which engine.memory=auto finds out.

    Raises:
        ConfigError: the JSON states a value that the recipe owns, or a feature that does not work here.
    """
    plan = batch_plan(recipe, world_size)
    owned: dict[str, tuple[Any, str]] = {
        "train_batch_size": (plan.global_batch_size, "train.global_batch_size"),
        "train_micro_batch_size_per_gpu": (plan.micro_batch_size, "train.micro_batch_size"),
        "gradient_accumulation_steps": (plan.accumulation, "train.global_batch_size / (micro_batch_size x ranks)"),
        "gradient_clipping": (recipe.train.clip, "train.clip"),
    }
    filled = copy.deepcopy(tree)
    for key, (value, recipe_key) in owned.items():
        stated = filled.get(key, "auto")
        if stated not in ("auto", value):
            raise ConfigError(
                f'{where}: {key}={stated} contradicts {recipe_key} = {value}: write "auto" there, the recipe owns it'
            )
        filled[key] = value
    if isinstance(zero := filled.get("zero_optimization"), dict) and zero.get("stage") == "auto":
        if zero_stage is None:
            raise ConfigError(
                f'{where}: zero_optimization.stage="auto" is decided by engine.memory=auto: give that, or a stage of 1, 2 or 3'
            )
        zero["stage"] = zero_stage
    _refuse(filled, where)
    precision = filled.setdefault("bf16", {})
    if precision.get("enabled", "auto") not in ("auto", bf16):
        raise ConfigError(
            f'{where}: bf16.enabled={precision["enabled"]} contradicts train.precision ({"bf16" if bf16 else "float32"}): write "auto"'
        )
    precision["enabled"] = bf16
    if bf16:
        precision.setdefault("check_grad_overflow", True)  # a non-finite gradient skips the step on all ranks
    _fill_memory(filled["zero_optimization"], accelerator)
    # Our optimizer is torch's AdamW: nothing is compiled, and ZeRO wraps it like its own.
    filled.setdefault("zero_allow_untested_optimizer", True)
    filled.setdefault("steps_per_print", 2**31 - 1)  # the loop logs
    return filled


def _fill_memory(zero: dict[str, Any], accelerator: bool) -> None:
    """Large buckets and overlap pay on a GPU. On the CPU there is no stream to overlap with, and a bucket of 200 MB only costs."""
    auto = {"overlap_comm": accelerator} | dict.fromkeys(BUCKETS, 50_000_000 if accelerator else 2_000_000)
    # Gradients are copied for the update a sub-group at a time; DeepSpeed's 10^9 would copy all of a rank's at once.
    auto["sub_group_size"] = 50_000_000 if accelerator else 2_000_000
    for key, value in auto.items():
        if zero.get(key) == "auto":
            zero[key] = value
    for section in ("offload_optimizer", "offload_param"):
        if zero.get(section, {}).get("pin_memory") == "auto":
            zero[section]["pin_memory"] = accelerator


def _refuse(tree: dict[str, Any], where: str) -> None:
    for key, recipe_keys in (
        ("optimizer", "train.lr, train.betas, train.weight_decay"),
        ("scheduler", "train.lr, train.min_lr, train.warmup_fraction"),
    ):
        if key in tree:
            raise ConfigError(f"{where}: remove the section {key}: the recipe owns it ({recipe_keys})")
    if tree.get("fp16", {}).get("enabled", False):
        raise ConfigError(f"{where}: fp16.enabled=true is not supported: use train.precision=bf16 or float32")
    zero = tree.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in STAGES:
        raise ConfigError(
            f"{where}: zero_optimization.stage must be 1, 2 or 3, found {zero.get('stage') if isinstance(zero, dict) else zero!r}"
        )
    if zero["stage"] == 3 and tree.get("gradient_allreduce_op", "avg") == "sum":
        raise ConfigError(f"{where}: gradient_allreduce_op=sum is refused for ZeRO stage 3: remove it")


def read_json(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON as a tree.

    Raises:
        ConfigError: missing or not a JSON object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--deepspeed {path}: {error.strerror or error}: give a file of ds_configs/") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--deepspeed {path}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--deepspeed {path}: expected an object, found {type(tree).__name__}")
    return tree
