"""What both peers share: the recipe as TrainingArguments, the model opened as their users open it, and a trainer that is timed."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, VipLlavaForConditionalGeneration

from benchmarks.peers.job import Job
from benchmarks.peers.meter import Meter, Spans
from benchmarks.peers.rendering import renderer_of
from medclm.config import Recipe, load_recipe
from medclm.data.render import Renderer
from medclm.distributed import Ranks
from medclm.ds_config import batch_plan, fill, read_json
from medclm.engine import connect, find_device, parameter_groups, wants_bf16
from medclm.models.freezing import freeze
from medclm.models.lora import add_adapters
from medclm.models.transformers_family import LANGUAGE_MODEL
from train.steps import learning_rate


@dataclass(frozen=True)
class Setting:
    """One rank of a peer."""

    job: Job
    recipe: Recipe
    meter: Meter
    renderer: Renderer
    plan: np.ndarray
    """(steps * G, 3) int64: record row, position, stage."""
    bf16: bool
    arguments: dict[str, Any]
    """Of TrainingArguments, and so of SFTConfig."""

    @staticmethod
    def read(path: str) -> Setting:
        """The setting of this process. It joins the process group as our engine does, before accelerate would in its own way: the
        same backend for all sides, and DeepSpeed's shared-memory op is not compiled.
        """
        job = Job.read(path)
        recipe, ranks = load_recipe(config=job.recipe), Ranks.from_environment()
        device, batches = find_device(ranks.local_rank), batch_plan(recipe, ranks.world_size)
        on_cpu, bf16 = device.name == "cpu", wants_bf16(recipe.train, device)
        ds_config = fill(read_json(job.ds_config), recipe, world_size=ranks.world_size, bf16=bf16, accelerator=not on_cpu)
        meter = Meter(job, rank=ranks.rank, steps=recipe.train.steps, micro_batches=batches.accumulation)
        if meter.spans is not None:
            wrap_parts(meter.spans)
            meter.spans.wrap_training()
        connect(recipe.engine, device)
        section = recipe.train
        arguments = {
            "output_dir": str(job.folder / job.name),
            "deepspeed": ds_config,
            "max_steps": section.steps,
            "per_device_train_batch_size": batches.micro_batch_size,
            "gradient_accumulation_steps": batches.accumulation,
            "learning_rate": section.lr,
            "weight_decay": section.weight_decay,
            "adam_beta1": section.betas[0],
            "adam_beta2": section.betas[1],
            "max_grad_norm": section.clip,
            "bf16": bf16,
            "activation_checkpointing": recipe.engine.recompute == "all",
            "train_sampling_strategy": "sequential",
            "dataloader_num_workers": job.loader_workers,
            "use_cpu": on_cpu,  # or accelerate takes a machine without a GPU for a single process
            "dataloader_pin_memory": not on_cpu,
            "remove_unused_columns": False,
            "logging_steps": section.log_every,
            "save_strategy": "no",
            "report_to": "none",
            "seed": recipe.run.seed,
        }
        return Setting(job, recipe, meter, renderer_of(recipe), np.load(job.plan), bf16, arguments)

    def network(self) -> Any:
        """The same weights as ours; sharded at birth, since the arguments with their DeepSpeed part are alive. Frozen alike."""
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        network = VipLlavaForConditionalGeneration.from_pretrained(
            Path(self.recipe.model.path), dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        if self.recipe.model.lora.rank:
            add_adapters(network, self.recipe.model.lora, inside=LANGUAGE_MODEL)
        freeze(network, self.recipe.model)
        return network


def wrap_parts(spans: Spans) -> None:
    """The peers' own parts of a step."""
    spans.wrap(Trainer, "get_batch_samples", "data wait")
    spans.wrap(Trainer, "_maybe_log_save_evaluate", "logging")
    spans.wrap(Trainer, "training_step", "the step's rest")


class StepEnds(TrainerCallback):
    """Tells the meter of every step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._meter.step()


def followed(trainer_class: type[Trainer], setting: Setting) -> type[Trainer]:
    """A trainer class with our parameter groups and our schedule, whose losses the meter sees; nothing else is changed."""

    class Followed(trainer_class):  # type: ignore[misc, valid-type]
        def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
            section = setting.recipe.train
            if self.optimizer is None:
                self.optimizer = torch.optim.AdamW(
                    parameter_groups(self.model, section.weight_decay),
                    lr=section.lr,
                    betas=(section.betas[0], section.betas[1]),
                    fused=True,  # their default (adamw_torch_fused)
                )
            return self.optimizer

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
            section = setting.recipe.train
            scale = functools.partial(_scale, recipe=setting.recipe)
            assert math.isclose(scale(0) * section.lr, learning_rate(0, section))
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, scale)
            self._created_lr_scheduler = True
            return self.lr_scheduler

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            loss = super().training_step(model, inputs, num_items_in_batch)
            setting.meter.loss(loss)
            return loss

    return Followed


def _scale(step: int, recipe: Recipe) -> float:
    return learning_rate(min(step, recipe.train.steps - 1), recipe.train) / recipe.train.lr


def plan_columns(plan: np.ndarray) -> Iterator[tuple[str, list[int]]]:
    """Name and values of the plan's columns."""
    for index, name in enumerate(("row", "position", "stage")):
        yield name, plan[:, index].tolist()
