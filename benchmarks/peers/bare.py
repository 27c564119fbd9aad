"""What no framework can beat here: our objective's forward and backward and fused AdamW on rendered batches, each rank for itself.

No sharding, no communication, no loader, no log, no curriculum. The ranks run side by side, so they share the machine as the others do.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from benchmarks.peers.job import Job
from benchmarks.peers.meter import Meter
from benchmarks.peers.rendering import renderer_of
from medclm.config import load_recipe
from medclm.data.loader import collate
from medclm.data.order import rank_slots
from medclm.distributed import Ranks
from medclm.ds_config import batch_plan
from medclm.engine import find_device, parameter_groups, wants_bf16
from medclm.models.registry import family
from medclm.types import LossWeights, Stage
from train.steps import learning_rate


def main() -> None:
    job = Job.read(sys.argv[1])
    recipe, ranks = load_recipe(config=job.recipe), Ranks.from_environment()
    section, models, device = recipe.train, family(recipe.model.family), find_device(ranks.local_rank)
    batches, plan = batch_plan(recipe, ranks.world_size), np.load(job.plan)
    meter = Meter(job, rank=ranks.rank, steps=section.steps, micro_batches=batches.accumulation)
    renderer = renderer_of(recipe)
    slots_Am = rank_slots(batches.global_batch_size, batches.micro_batch_size, ranks.rank, ranks.world_size)

    dtype = torch.bfloat16 if wants_bf16(section, device) else torch.float32
    network = models.build(recipe.model, renderer.processor, dtype, recipe.run.seed).to(device.name).train()
    objective = models.objective(network, renderer.processor, LossWeights(answer=0.5, rationale=0.5, hard=0.5))
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameter_groups(objective, section.weight_decay),
        lr=section.lr,
        betas=(section.betas[0], section.betas[1]),
        fused=True,
    )
    if meter.spans is not None:
        meter.spans.wrap(type(objective), "forward", "forward")
        meter.spans.wrap(torch.Tensor, "backward", "backward")
        meter.spans.wrap(torch.optim.AdamW, "step", "optimizer")
    plan_SG3 = plan.reshape(section.steps, batches.global_batch_size, 3)
    ready = []
    for plan_G3 in plan_SG3:
        of_step = []
        for slots_m in slots_Am:
            samples = [renderer.render(row, position, Stage(stage)) for row, position, stage in plan_G3[slots_m].tolist()]
            of_step.append(collate(samples))
        ready.append(of_step)
    for step, micro_batches in enumerate(ready):
        for batch in micro_batches:
            losses = objective(batch.to(device.name))
            (losses.loss / batches.accumulation).backward()
            meter.loss(losses.loss)
        torch.nn.utils.clip_grad_norm_(trained, section.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, section)
        optimizer.step()
        optimizer.zero_grad()
        meter.step()


if __name__ == "__main__":
    main()
