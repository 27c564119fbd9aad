"""What `--dry-run` prints: the resolved recipe, the batch algebra, parameter counts and the stage plan. Starts nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from medclm.config import Recipe, recipe_yaml
from medclm.curriculum.policy import Policy
from medclm.curriculum.registry import make_policy
from medclm.data.render import check_room
from medclm.distributed import Ranks
from medclm.ds_config import batch_plan, fill
from medclm.memory import GIB, Prediction
from medclm.models.registry import family
from medclm.types import Stage
from train.memory_plan import Forecast, choose, stages_of
from train.steps import learning_rate

MILESTONES = (0.0, 0.03, 0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 1.0)


def print_plan(recipe: Recipe, ds_tree: dict[str, Any], *, ds_name: str) -> None:
    """Print everything a person checks before paying for a run.

    Raises:
        ValueError: as the run itself would.
    """
    from medclm.engine import find_device, wants_bf16

    console = Console(width=120, soft_wrap=True)
    ranks = Ranks.from_environment()
    device = find_device(ranks.local_rank)
    bf16 = wants_bf16(recipe.train, device)
    plan = batch_plan(recipe, ranks.world_size)
    auto = recipe.engine.memory == "auto"
    stages = stages_of(ds_tree) if auto else ()
    accelerator = device.name != "cpu"
    forecast = Forecast(recipe, ds_tree, world_size=ranks.world_size, bf16=bf16, accelerator=accelerator)
    if auto and recipe.engine.memory_limit_gib:
        limit = int(recipe.engine.memory_limit_gib * GIB)
        best = choose(recipe, stages, forecast, world_size=ranks.world_size, layers=forecast.layers, limit=limit)
        recipe, plan, stages = best.applied(recipe), batch_plan(best.applied(recipe), ranks.world_size), (best.zero_stage,)
    ds_config = fill(
        ds_tree,
        recipe,
        world_size=ranks.world_size,
        bf16=bf16,
        accelerator=accelerator,
        where=ds_name,
        zero_stage=max(stages, default=None),
    )
    console.rule("recipe")
    console.print(recipe_yaml(recipe), markup=False, highlight=False)
    console.rule(f"{ds_name}, filled")
    console.print(json.dumps(ds_config, indent=1), markup=False, highlight=False)
    console.rule("plan")
    console.print(
        f"batch      {plan.global_batch_size} samples a step = {plan.micro_batch_size} micro-batch x {plan.accumulation} accumulation "
        f"x {plan.world_size} rank(s)",
        f"run        {recipe.train.steps} steps, {recipe.train.steps * plan.global_batch_size} samples",
        f"precision  {'bf16' if bf16 else 'float32'} on {device.name}, ZeRO stage {ds_config['zero_optimization']['stage']}",
        f"picture    {_picture(recipe)}",
        sep="\n",
        highlight=False,
    )
    console.print(_parameters(recipe))
    stage = ds_config["zero_optimization"]["stage"]
    console.print(_memory(forecast(plan.micro_batch_size, recipe.engine.recompute, stage), recipe.data.max_tokens))
    if auto and not recipe.engine.memory_limit_gib:
        console.print(
            "memory     engine.memory=auto: chosen on the machine that trains; engine.memory_limit_gib=N shows the choice here",
            highlight=False,
        )
    if recipe.curriculum.unit == "epochs":
        console.print(
            "stages     no plan: curriculum.unit=epochs, and only the corpus tells how long an epoch is", highlight=False
        )
    else:
        console.print(_stages(recipe))


def _picture(recipe: Recipe) -> str:
    shown = family(recipe.model.family).picture(recipe.model)
    check_room(shown.tokens, recipe.data)
    views = "1 view" if shown.views == 1 else f"{shown.views} views of {shown.view_side} px (the whole and its quarters)"
    return f"{shown.side} px, {views}: {shown.tokens} image tokens of at most {recipe.data.max_tokens} (data.max_tokens)"


def _parameters(recipe: Recipe) -> Table:
    table = Table("part", "parameters", "trained", title="parameters")
    for part, (total, trained) in family(recipe.model.family).count_parameters(recipe.model).items():
        table.add_row(part, f"{total:,}", f"{trained:,}")
    return table


def _memory(prediction: Prediction, tokens: int) -> Table:
    """The predicted peak of one rank, part by part."""
    table = Table(
        "part", "bytes", "GiB", title=f"memory of one rank, samples of {tokens} tokens; the most in: {prediction.highest}"
    )
    for part, count in prediction.parts.items():
        table.add_row(part, f"{count:,}", f"{count / GIB:.3f}")
    table.add_row("total", f"{prediction.peak:,}", f"{prediction.peak / GIB:.3f}")
    if prediction.host:
        table.add_row("in host memory", f"{prediction.host:,}", f"{prediction.host / GIB:.3f}")
    return table


def _stages(recipe: Recipe) -> Table:
    """Chances of the stages before any loss was seen, and the learning rate, along the run."""
    section = recipe.curriculum.in_fractions(total_steps=recipe.train.steps, epoch_steps=None)
    policy: Policy[Any] = make_policy(section, domains=1, total_steps=recipe.train.steps)
    table = Table(
        "step", "learning rate", *(stage.key for stage in Stage), title=f"stage plan of {policy.name} (losses move it)"
    )
    for fraction in MILESTONES:
        step = min(recipe.train.steps - 1, int(fraction * recipe.train.steps))
        chances = policy.probabilities(policy.initial(), np.zeros(1, dtype=np.int64), fraction)[0]
        table.add_row(str(step), f"{learning_rate(step, recipe.train):.2e}", *(f"{chance:.3f}" for chance in chances))
    return table
