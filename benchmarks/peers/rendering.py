"""What the peers read: our planned samples as a torch data set, rendered by our renderer, so that content is equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from medclm.config import Recipe
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.models.registry import family
from medclm.types import EncodedSample, Segment, Stage

IGNORED = -100
"""Label of a token that is no target."""


class PlannedSamples(Dataset[EncodedSample]):
    """Sample i of the run, in order of global position, rendered when it is asked for.

    Accelerate hands whole micro-batches to the ranks in turn, which is how data/order.py cuts a global batch: read in sequence, every
    rank gets the samples that it has in our loop.
    """

    def __init__(self, plan: np.ndarray, renderer: Renderer) -> None:
        """`plan`: (n, 3) int64, record row, position, stage."""
        self._plan, self._renderer = plan, renderer

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> EncodedSample:
        row, position, stage = self._plan[index].tolist()
        return self._renderer.render(row, position, Stage(stage))[1]


def renderer_of(recipe: Recipe) -> Renderer:
    """The renderer of a recipe that names its corpus and its model's folder."""
    assert recipe.data.corpus is not None
    processor = family(recipe.model.family).processor(recipe.model)
    return Renderer(corpus=Corpus(recipe.data.corpus), processor=processor, data=recipe.data, seed=recipe.run.seed)


def collate(samples: Sequence[EncodedSample], pad_id: int) -> dict[str, torch.Tensor]:
    """A right-padded micro-batch as transformers' models take it.

    Returns:
        input_ids, attention_mask, labels (B, T) int64 with T the longest length; pixel_values (B, C, S, S) float32.
    """
    shape = (len(samples), max(len(sample.input_ids) for sample in samples))
    input_ids, mask = torch.full(shape, pad_id, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        input_ids[row, :length] = torch.from_numpy(sample.input_ids)
        mask[row, :length] = 1
        targets = np.where(sample.segments != Segment.CONTEXT, sample.input_ids, IGNORED)
        labels[row, :length] = torch.from_numpy(targets)
    pixels = torch.from_numpy(np.concatenate([sample.pixel_values for sample in samples]))
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels}
