"""One optimizer step of the staged objective: what the loop calls between `take` and `report`.

Another training task (alignment, reinforcement) is another small class with the same two methods; the loop stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from medclm.config import TrainSection
from medclm.distributed import Ranks
from medclm.draws import generator
from medclm.engine import Engine
from medclm.models.objective import Losses, TokenCounts, count_targets
from medclm.types import Batch
from train.spikes import SpikeGuard, batch_sums


@dataclass(frozen=True)
class StepResult:
    """What one step tells the loop."""

    sample_losses: torch.Tensor
    """(accumulation * micro,) float32 on the engine's device, in the order of this rank's slots."""
    applied: bool
    """False when the batch was dropped, or a gradient was not finite on some rank; nothing changed then."""
    dropped: str | None
    """Why the batch was dropped before its update; the same on every rank."""
    tokens: int
    """Real tokens this rank read, image tokens included."""
    target_tokens: int
    """Supervised tokens this rank learned from."""


class StagedStep:
    """Accumulate the micro-batches of one global batch, judge it, then update."""

    def __init__(self, engine: Engine, section: TrainSection, ranks: Ranks, seed: int) -> None:
        self.engine, self.section, self.ranks, self.seed = engine, section, ranks, seed
        self.guard = SpikeGuard(section.spike_sigma)

    def __call__(self, batches: list[Batch], lr: float) -> StepResult:
        counts = self.global_counts(batches) if self.section.normalization == "token" else None
        losses = []
        for batch in batches[:-1]:
            losses.append(self._forward(batch, counts))
            self.engine.backward(losses[-1])
        losses.append(self._forward(batches[-1], counts))
        slots = torch.cat([batch.positions for batch in batches]).argsort()  # of micro-batches, back to the order of this rank
        sample_losses = torch.cat([loss.sample for loss in losses])
        sample_losses = sample_losses[slots.to(sample_losses.device, non_blocking=True)]
        sums = self.global_sums(sample_losses, torch.cat([batch.stages for batch in batches])[slots])
        dropped = self.guard.drops(sums)
        self.engine.backward(losses[-1], drop=dropped)
        applied = self.engine.update(lr)
        # The update has waited for the device, so these are there.
        verdict = self.guard.note(sums.cpu(), dropped=bool(dropped))
        return StepResult(
            sample_losses=sample_losses,
            applied=applied,
            dropped=verdict.reason,
            tokens=sum(len(batch.input_ids) for batch in batches),
            target_tokens=sum(len(batch.targets) for batch in batches),
        )

    def _forward(self, batch: Batch, counts: TokenCounts | None) -> Losses:
        """What dropout leaves out is a draw like any other, named by where the micro-batch begins."""
        torch.manual_seed(int(generator(self.seed, "train.dropout", int(batch.positions[0])).integers(2**63)))
        return self.engine.forward(batch, counts)

    def global_sums(self, sample_losses: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
        """`batch_sums` of the global batch, the same on every rank, on the engine's device."""
        sums = batch_sums(sample_losses, stages.to(sample_losses.device, non_blocking=True))
        if self.ranks.world_size > 1:
            dist.all_reduce(sums)
        return sums

    def global_counts(self, batches: list[Batch]) -> TokenCounts:
        """Target tokens of the whole global batch: token means need them before the first backward."""
        local = torch.tensor([count_targets(batch) for batch in batches], dtype=torch.int64).sum(dim=0)
        counts = local.to(self.engine.device.name)
        if self.ranks.world_size > 1:
            dist.all_reduce(counts)
        answer, rationale = counts.tolist()
        return TokenCounts(answer=answer, rationale=rationale, micro_batches=len(batches) * self.ranks.world_size)


def learning_rate(step: int, section: TrainSection) -> float:
    """Linear warm-up, then a cosine from `lr` to `min_lr` (Loshchilov and Hutter 2017).

    Args:
        step: applied updates so far, 0 .. steps - 1.
    """
    warmup = math.ceil(section.warmup_fraction * section.steps)
    if step < warmup:
        return section.lr * (step + 1) / warmup
    fraction = (step - warmup) / max(1, section.steps - warmup)
    return section.min_lr + 0.5 * (section.lr - section.min_lr) * (1 + math.cos(math.pi * fraction))
