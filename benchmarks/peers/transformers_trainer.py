"""transformers.Trainer with DeepSpeed, as its users set it up: a Dataset, a collator, TrainingArguments(deepspeed=...)."""

from __future__ import annotations

import functools
import sys

from transformers import Trainer, TrainingArguments

from benchmarks.peers.hugging_face import Setting, StepEnds, followed
from benchmarks.peers.rendering import PlannedSamples, collate
from medclm.engine import disconnect


def main() -> None:
    setting = Setting.read(sys.argv[1])
    arguments = TrainingArguments(**setting.arguments)  # first: the model is sharded at birth while these live
    trainer = followed(Trainer, setting)(
        model=setting.network(),
        args=arguments,
        data_collator=functools.partial(collate, pad_id=setting.renderer.processor.pad_id),
        train_dataset=PlannedSamples(setting.plan, setting.renderer),
        callbacks=[StepEnds(setting.meter)],
    )
    trainer.train()
    disconnect()


if __name__ == "__main__":
    main()
