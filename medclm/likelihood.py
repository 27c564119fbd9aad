"""How likely a network finds given continuations of an image question: the score behind choices and labels.

Each prompt is read once; its key-value cache is then copied for every option. Left-padded like generation, so that a request has
the same numbers in any batch. Knows nothing of suites or scores, and of no model family.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medclm.generation import Request, padded_prompts, prompt_ids, prompt_positions
from medclm.models.protocol import Processor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OptionScores:
    """Of one request."""

    id: str
    log_likelihoods: tuple[float, ...]
    """Sum of the natural log-probabilities of each option's tokens, in the order of the options."""
    tokens: tuple[int, ...]
    """Number of tokens of each option."""


@torch.inference_mode()
def option_scores(
    model: nn.Module,
    processor: Processor,
    requests: Sequence[Request],
    options: Sequence[Sequence[str]],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[OptionScores]:
    """Log-likelihoods of each request's options, in the order of the requests.

    Args:
        model: a transformers network with a language-model head; it is put into eval mode for the call.
        options: one list of texts per request, each as it would follow the request's `begin`.
        batch_size: prompts read together; changes speed and memory only.
        progress: called with the number of requests just finished.

    Raises:
        ValueError: fewer than two options, an option without tokens, or a request whose image span or image size is wrong.
    """
    if batch_size < 1:
        raise ValueError(f"{batch_size=}: give at least 1")
    prompts = [prompt_ids(processor, request) for request in requests]
    texts = [_option_ids(processor, request, texts) for request, texts in zip(requests, options, strict=True)]
    order = sorted(range(len(requests)), key=lambda index: (len(texts[index]), len(prompts[index])))
    found: dict[int, OptionScores] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            pixels = np.concatenate([processor.pixel_values(requests[i].image) for i in chosen])
            sums = _score(model, processor, [prompts[i] for i in chosen], pixels, [texts[i] for i in chosen])
            for index, row in zip(chosen, sums, strict=True):
                number = len(texts[index])
                lengths = tuple(len(ids) for ids in texts[index])
                found[index] = OptionScores(requests[index].id, tuple(row[:number]), lengths)
            if progress is not None:
                progress(len(chosen))
    finally:
        model.train(was_training)
    return [found[index] for index in range(len(requests))]


def _option_ids(processor: Processor, request: Request, texts: Sequence[str]) -> list[list[int]]:
    ids = [processor.text_ids(f" {text}") for text in texts]
    if len(ids) < 2 or not all(text.strip() for text in texts):
        raise ValueError(f"request {request.id}: options {list(texts)}: give at least two, none of them empty")
    return ids


def _score(
    model: Any, processor: Processor, prompts: list[list[int]], pixels_ichw: np.ndarray, options: list[list[list[int]]]
) -> list[list[float]]:
    """Sums of each row's options; a row with fewer options than the longest repeats its last one, to be cut off."""
    device = next(model.parameters()).device
    ids_bt, mask_bt = padded_prompts(prompts, processor.pad_id, device)
    positions = prompt_positions(processor, ids_bt, mask_bt)
    out = model(
        input_ids=ids_bt,
        **processor.image_inputs(torch.from_numpy(pixels_ichw).to(device)),
        attention_mask=mask_bt,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    first_bv = out.logits[:, -1].float().log_softmax(-1)
    sums = []
    for number in range(max(map(len, options))):
        texts = [row[min(number, len(row) - 1)] for row in options]
        sums.append(_continue(model, processor.pad_id, out.past_key_values, texts, first_bv, mask_bt, positions[..., -1:]))
    return torch.stack(sums, dim=1).tolist()


def _continue(
    model: Any,
    pad_id: int,
    cache: Any,
    texts: list[list[int]],
    first_bv: torch.Tensor,
    mask_bt: torch.Tensor,
    last: torch.Tensor,
) -> torch.Tensor:
    """(B,) log-likelihood of one option per row, padded on the right, after a cached prompt whose last positions are `last` (..., B, 1)."""
    longest = max(map(len, texts))
    device = first_bv.device
    ids_bk = torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids in texts], device=device)
    real_bk = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts], device=device)
    total_b = first_bv.gather(1, ids_bk[:, :1])[:, 0]
    if longest > 1:
        steps_k = torch.arange(1, longest, device=device)
        out = model(
            input_ids=ids_bk[:, :-1],
            attention_mask=torch.cat([mask_bt, real_bk[:, :-1]], dim=1),
            position_ids=last + steps_k,
            past_key_values=copy.deepcopy(cache),  # a forward appends to its cache
            use_cache=True,
        )
        each_bk = out.logits.float().log_softmax(-1).gather(2, ids_bk[:, 1:, None])[..., 0]
        total_b = total_b + (each_bk * real_bk[:, 1:]).sum(1)
    return total_b


__all__ = ["OptionScores", "option_scores"]
