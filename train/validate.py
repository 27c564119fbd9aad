"""Losses on records that nobody learns from, every now and then: the same few of them each time, at every stage they offer.

Teacher forcing, so it costs one forward a sample and changes nothing: weights, averages, random numbers and the order of training
are the same with and without it. Knows nothing of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from medclm.config import Recipe
from medclm.data.loader import Rendered, collate
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.distributed import Ranks
from medclm.engine import Engine
from medclm.models.protocol import Processor
from medclm.models.registry import family
from medclm.types import LossWeights, Stage

Ask = Callable[[nn.Module, Processor], dict[str, float]]
"""A network and its processor -> scores by name."""
MakeExam = Callable[[Recipe, Corpus], Ask]


class Validator:
    """Mean loss by stage over a fixed subset.

    Args:
        stream: of a split that is not trained on.
        samples: records judged, or all of the split where it has fewer.
        micro_batch_size: samples per forward on one rank.
        workers: threads that render.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        stream: Stream,
        *,
        samples: int,
        micro_batch_size: int,
        ranks: Ranks,
        workers: int,
    ) -> None:
        self._engine, self._renderer, self._ranks, self._workers = engine, renderer, ranks, workers
        self._micro = micro_batch_size
        number = min(samples, len(stream.order))
        described = stream.describe(0, number)
        wanted = [
            (int(row), int(position), Stage(stage))
            for row, position, offered in zip(described.record_rows, described.positions, described.offered, strict=True)
            for stage in np.flatnonzero(offered)
        ]
        self.samples = len(wanted)
        # Every rank runs equally many forwards, or a sharded model would wait for ever: what is short is filled up and not counted.
        share = -(-len(wanted) // (ranks.world_size * self._micro)) * self._micro
        ours = wanted[ranks.rank * share : (ranks.rank + 1) * share]
        self._counted = len(ours)
        self._ours = [*ours, *[wanted[0]] * (share - len(ours))]

    def __call__(self) -> dict[str, float]:
        """`validation/loss`, and `validation/loss_STAGE` of the stages that some record offers; the same on every rank."""
        sums, counts = np.zeros(3), np.zeros(3)
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            rendered = pool.map(self._render, self._ours)
            for first in range(0, len(self._ours), self._micro):
                batch = collate([next(rendered) for _ in range(self._micro)])
                real = min(self._micro, max(0, self._counted - first))
                losses = self._engine.judge(batch).sample.double().cpu().numpy()[:real]
                stages = batch.stages.numpy()[:real]
                sums += np.bincount(stages, weights=losses, minlength=3)
                counts += np.bincount(stages, minlength=3)
        table = torch.from_numpy(np.stack([sums, counts])).to(self._engine.device.name)
        if self._ranks.world_size > 1:
            dist.all_reduce(table)
        sums, counts = table.cpu().numpy()
        values = {"validation/loss": float(sums.sum() / counts.sum())}
        return values | {f"validation/loss_{stage.key}": float(sums[stage] / counts[stage]) for stage in Stage if counts[stage]}

    def _render(self, wanted: tuple[int, int, Stage]) -> Rendered:
        sample = self._renderer.sample(*wanted)
        return sample, self._renderer.encode(sample)


class Examination:
    """Questions answered in words by a whole copy of the weights on the main rank, which the other ranks wait for.

    The copy is built at the first use and stays: a second set of weights on that device. A copy, because a sharded network writes
    one token at a time only if all ranks write, and its hooks must not see another forward than training's.
    """

    def __init__(self, engine: Engine, recipe: Recipe, processor: Processor, *, ask: Ask | None, ranks: Ranks) -> None:
        self._engine, self._recipe, self._processor, self._ask, self._ranks = engine, recipe, processor, ask, ranks
        self._copy: nn.Module | None = None

    def __call__(self) -> dict[str, float]:
        """The scores, the same on every rank."""
        if self._ranks.is_main and self._copy is None:
            self._copy = self._built()
        self._engine.copy_weights(self._copy)
        scores: list[dict[str, float] | None] = [None]
        if self._ask is not None and self._copy is not None:
            scores = [self._ask(self._copy.network, self._processor)]
        if self._ranks.world_size > 1:
            dist.broadcast_object_list(scores, src=0)
        assert scores[0] is not None
        return scores[0]

    def _built(self) -> nn.Module:
        """An objective like the one in training, unsharded; the random numbers of training stay where they were."""
        models, device = family(self._recipe.model.family), self._engine.device.name
        dtype = next(self._engine.module.parameters()).dtype
        with torch.random.fork_rng(devices=[] if device == "cpu" else [torch.cuda.current_device()]):
            network = models.build(self._recipe.model, self._processor, dtype, self._recipe.run.seed)
        return models.objective(network, self._processor, LossWeights(answer=1.0, rationale=1.0, hard=1.0)).to(device).eval()
