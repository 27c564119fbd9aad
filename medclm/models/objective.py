"""One forward of a mixed-stage micro-batch -> losses. The hot path of training.

The inner network gives hidden states; only those that predict a target token go through the language-model head. All of it
happens inside one forward, so that under ZeRO-3 every rank calls the same modules, also a rank without targets. Knows
nothing of DeepSpeed or the curriculum: stages arrive as numbers in the batch.

Legend: B samples, N tokens, M target tokens, D hidden units, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from medclm.losses.cross_entropy import mean_or_zero, sums_by_sample, token_losses
from medclm.models.protocol import Processor
from medclm.types import Batch, LossWeights, Segment, Stage


class Losses(NamedTuple):
    """What one micro-batch gives. A tuple, because DeepSpeed looks for the tensors in a module's output."""

    loss: torch.Tensor
    """() float32, to call backward on."""
    answer: torch.Tensor
    """(B,) float32, mean over the sample's answer tokens, 0 if it has none; detached."""
    rationale: torch.Tensor
    """(B,) float32, mean over the sample's rationale tokens, 0 if it has none; detached."""
    sample: torch.Tensor
    """(B,) float32, the sample's loss by its stage; detached."""
    target_tokens: torch.Tensor
    """() int64, number of supervised tokens."""


class TokenCounts(NamedTuple):
    """What `train.normalization: token` needs to know before the first backward of a step."""

    answer: float
    """Answer tokens of the global batch."""
    rationale: float
    """Rationale tokens of the global batch."""
    micro_batches: int
    """Micro-batches in the global batch: ranks times accumulation."""


class Objective(nn.Module):
    """forward(batch) of a network with `.model` (inner, gives hidden states) and `.lm_head`."""

    def __init__(self, network: nn.Module, processor: Processor, weights: LossWeights) -> None:
        super().__init__()
        self.network: Any = network
        self.processor = processor
        self.weights = weights

    def forward(self, batch: Batch, counts: TokenCounts | None = None) -> Losses:
        """Losses of a micro-batch on the network's device.

        Args:
            batch: samples end to end; `targets` says what is supervised.
            counts: None = mean of per-sample losses; given = means over all answer and all rationale tokens of the global batch.
        """
        # Bounds instead of a padding mask: samples lie end to end and see only themselves (models/packed_attention.py).
        # They are the samples' alone, so the vision tower, which has bounds of its own, runs before and apart.
        pictures = self.network.model.get_image_features(**self.processor.image_inputs(batch.pixel_values), return_dict=True)
        hidden_nd = self.network.model(
            input_ids=batch.input_ids[None],
            position_ids=self.position_ids(batch),
            mm_encoder_outputs={"image": pictures},
            use_cache=False,
            cu_seq_lens_q=batch.bounds,
            cu_seq_lens_k=batch.bounds,
            max_length_q=batch.longest,
            max_length_k=batch.longest,
        ).last_hidden_state[0]
        logits_mv = self.network.lm_head(hidden_nd[batch.targets - 1])  # the token before a target predicts it
        losses_m = token_losses(logits_mv, batch.input_ids[batch.targets])
        samples_m, answers_m = batch.target_samples, batch.segments[batch.targets] == Segment.ANSWER

        size = len(batch.stages)
        answer_sums_b, answer_counts_b = sums_by_sample(losses_m, samples_m, answers_m, size)
        rationale_sums_b, rationale_counts_b = sums_by_sample(losses_m, samples_m, ~answers_m, size)
        answer_b = mean_or_zero(answer_sums_b, answer_counts_b)
        rationale_b = mean_or_zero(rationale_sums_b, rationale_counts_b)

        hard_b = batch.stages == Stage.HARD
        answer_weight_b = torch.where(hard_b, self.weights.hard, self.weights.answer)
        rationale_weight_b = torch.where(hard_b, 0.0, self.weights.rationale)
        sample_b = answer_weight_b * answer_b + rationale_weight_b * rationale_b
        if counts is None:
            loss = sample_b.mean()
        else:
            loss = (answer_weight_b * answer_sums_b).sum() / max(counts.answer, 1)
            loss = loss + (rationale_weight_b * rationale_sums_b).sum() / max(counts.rationale, 1)
            # The counts are global already, and DeepSpeed will divide by ranks and accumulation: undo that division once.
            loss = loss * counts.micro_batches
        return Losses(
            loss,
            answer_b.detach(),
            rationale_b.detach(),
            sample_b.detach(),
            torch.tensor(len(batch.targets)),
        )

    def position_ids(self, batch: Batch) -> torch.Tensor:
        """(1, N) int64, or (1 + A, 1, N) of a network that turns by A numbers: places first, by which transformers tells samples apart."""
        ids_1n, places_1n = batch.input_ids[None], batch.places[None]
        turns = self.processor.position_ids(ids_1n, places_1n)
        return turns if turns.ndim == 2 else torch.cat([places_1n[None], turns])


def count_targets(batch: Batch) -> tuple[int, int]:
    """(answer, rationale) tokens that a micro-batch supervises."""
    answers = int((batch.segments[batch.targets] == Segment.ANSWER).sum())
    return answers, len(batch.targets) - answers


def network_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of an `Objective` under the names of its network, as `ModelFamily.export` takes it.

    Raises:
        ValueError: a name that is not the objective's.
    """
    strange = next((name for name in state if not name.startswith("network.")), None)
    if strange is not None:
        raise ValueError(f"{strange} is no parameter of an Objective: the state belongs to something else")
    return {name.removeprefix("network."): value for name, value in state.items()}
