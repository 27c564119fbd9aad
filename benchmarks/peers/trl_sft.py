"""TRL's SFTTrainer with DeepSpeed. It takes `datasets.Dataset` alone, so rows hold the plan and the collator renders them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from datasets import Dataset
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.hugging_face import Setting, StepEnds, followed, plan_columns
from benchmarks.peers.rendering import collate
from medclm.data.render import Renderer
from medclm.engine import disconnect
from medclm.types import Stage


class RenderingCollator:
    """Planned rows -> a micro-batch."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        samples = [self._renderer.render(row["row"], row["position"], Stage(row["stage"]))[1] for row in rows]
        return collate(samples, self._renderer.processor.pad_id)


def main() -> None:
    setting = Setting.read(sys.argv[1])
    arguments = SFTConfig(
        **setting.arguments,
        max_length=None,  # nothing is cut
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = followed(SFTTrainer, setting)(
        model=setting.network(),
        args=arguments,
        data_collator=RenderingCollator(setting.renderer),
        train_dataset=Dataset.from_dict(dict(plan_columns(setting.plan))),
        processing_class=AutoProcessor.from_pretrained(setting.recipe.model.path, trust_remote_code=False),
        callbacks=[StepEnds(setting.meter)],
    )
    trainer.train()
    disconnect()


if __name__ == "__main__":
    main()
