"""Errors of a running training in the words of who must mend them: which rank, which batch, which knob and by how much."""

from __future__ import annotations

import re

import torch

from medclm.config import ConfigError
from medclm.data.order import largest_micro_batch
from medclm.device_memory import most_held
from medclm.ds_config import batch_plan
from train.run import Run

_PEER = re.compile(r"onnection closed|onnection reset|imed out|timeout|Broken pipe|NCCL|remote process", re.IGNORECASE)
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
GIB = 2**30


def explained(error: Exception, run: Run) -> Exception:
    """The same error, or one that says what to do; the original stays its cause."""
    if isinstance(error, ConfigError) or str(error).startswith(f"rank {run.ranks.rank}"):
        return error  # in such words already
    where = f"rank {run.ranks.rank}, batch {run.batch_index} after step {run.step}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _MEMORY.search(str(error)):
        return RuntimeError(f"{where}: out of memory ({_first_line(error)}). {_smaller(run)}")
    if isinstance(error, RuntimeError) and _PEER.search(str(error)):
        return RuntimeError(
            f"{where}: a collective of the model failed ({_first_line(error)}): another rank hangs, died or raised: look for the first "
            f"error in the logs of all ranks; after {run.recipe.engine.timeout_s:g} s (engine.timeout_s) a silent rank is given up. "
            "Start again with --resume=auto"
        )
    if isinstance(error, ValueError):  # of this rank alone, or it would have come before the first step
        return RuntimeError(f"{where}: {error}")
    return error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _smaller(run: Run) -> str:
    """Which knobs take less memory, by how much, and what they cost."""
    plan = batch_plan(run.recipe, run.ranks.world_size)
    states = run.engine.state_bytes()
    peak = most_held(run.engine.device.name)
    rest = max(0, peak - states)
    cures = []
    if run.recipe.engine.memory == "fixed":
        cures.append("--engine.memory=auto (finds the fastest micro-batch and recomputation that fit, with the same gradient)")
    if plan.micro_batch_size > 1:
        micro = largest_micro_batch(plan.global_batch_size, plan.micro_batch_size // 2, run.ranks.world_size)
        saved = rest * (1 - micro / plan.micro_batch_size)
        cures.append(
            f"--train.micro_batch_size={micro} (about {saved / GIB:.2f} GiB less, the same gradient and the same samples; it may change on a "
            "resume)"
        )
    if run.recipe.engine.recompute != "all":
        cures.append("--engine.recompute=all (keeps one activation a layer instead of all; about a third more compute)")
    if run.engine.device.name != "cpu" and "offload_optimizer" not in run.ds_config["zero_optimization"]:
        cures.append(f"--deepspeed ds_configs/zero3_offload.json (optimizer states, {states / GIB:.2f} GiB, to host memory)")
    cures.append(f"more ranks ({states / GIB:.2f} GiB of weights and optimizer states a rank shrink with their number)")
    return (
        f"The most this rank has held is {peak / GIB:.2f} GiB, of which {states / GIB:.2f} GiB are weights, gradients and optimizer "
        f"states. Cheapest first: {'; '.join(cures)}"
    )
