"""Completions of image questions: batched, with a key-value cache, greedy or sampled. Works on any network behind the protocol.

A request gets the same text in any batch: prompts are padded on the left and masked, and a sampled token depends on
(seed, request id, token position) only. Knows nothing of suites or scores, and of no model family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medclm.draws import generator
from medclm.models.protocol import Processor

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn


@dataclass(frozen=True)
class Request:
    """One question about one picture."""

    id: str
    question: str
    """With its response instruction, without the prompt's frame."""
    image: Image.Image
    """RGB, the model's square (`Processor.image_size`)."""
    begin: str = ""
    """What the completion begins with: read with the prompt, not generated; `data.render.begin_of`."""


@dataclass(frozen=True)
class Completion:
    """What the network wrote; `text` begins with the request's `begin`, the rest is about generated tokens."""

    id: str
    text: str
    tokens: int
    """Number of generated tokens, the end of sequence included."""
    stopped: bool
    """Ended by itself; False = cut at `max_new_tokens`."""
    ids: tuple[int, ...]
    """Of the generated tokens."""
    scores: tuple[float, ...]
    """Natural log-probability of each generated token under the network (not under the temperature)."""


@torch.inference_mode()
def generate(
    model: nn.Module,
    processor: Processor,
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """One completion per request, in the order of the requests.

    Args:
        model: a transformers network with a language-model head; it is put into eval mode for the call.
        max_new_tokens: longest completion.
        batch_size: prompts decoded together; changes speed and memory only.
        temperature: 0 = the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        seed: of those draws.
        progress: called with the number of requests just finished.

    Raises:
        ValueError: a request whose image span or image size is wrong, or numbers out of range.
    """
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0:
        raise ValueError(f"{max_new_tokens=}, {batch_size=}, {temperature=}: give at least 1, 1 and 0")
    prompts = [prompt_ids(processor, request) for request in requests]
    order = sorted(range(len(requests)), key=lambda index: len(prompts[index]))  # neighbours of one length: little padding
    completions: dict[int, Completion] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            pick = _greedy if temperature == 0 else _sampler([requests[i].id for i in chosen], temperature, seed)
            pixels = np.concatenate([processor.pixel_values(requests[i].image) for i in chosen])
            written = _decode(model, processor, [prompts[i] for i in chosen], pixels, pick, max_new_tokens)
            for index, (ids, scores) in zip(chosen, written, strict=True):
                completions[index] = Completion(
                    id=requests[index].id,
                    text=processor.decode([*begin_ids(processor, requests[index].begin), *ids]),
                    tokens=len(ids),
                    stopped=ids[-1] == processor.eos_id,
                    ids=tuple(ids),
                    scores=tuple(scores),
                )
            if progress is not None:
                progress(len(chosen))
    finally:
        model.train(was_training)
    return [completions[index] for index in range(len(requests))]


def prompt_ids(processor: Processor, request: Request) -> list[int]:
    """Token ids of a request's framed question and of what its completion begins with.

    Raises:
        ValueError: the question spoils the image span; names the request.
    """
    try:
        ids = processor.prompt_ids(request.question)
        processor.check_image_span(ids)
    except ValueError as error:
        raise ValueError(f"request {request.id}: {error}") from error
    return [*ids, *begin_ids(processor, request.begin)]


def begin_ids(processor: Processor, begin: str) -> list[int]:
    """Token ids of what a completion begins with; none where that is nothing."""
    return processor.text_ids(begin) if begin else []


def padded_prompts(prompts: list[list[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) int64 ids padded on the left, so that all prompts end together, and the (B, T) int64 mask of the real ones."""
    longest = max(map(len, prompts))
    ids_bt = torch.tensor([[pad_id] * (longest - len(ids)) + ids for ids in prompts], device=device)
    mask_bt = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    return ids_bt, mask_bt


def prompt_positions(processor: Processor, ids_bt: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
    """(..., B, T) int64 positions of prompts that `padded_prompts` made, as the network takes them."""
    places_bt = (mask_bt.cumsum(1) - 1).clamp(min=0)
    return processor.position_ids(ids_bt, places_bt)


def _decode(
    model: Any,
    processor: Processor,
    prompts: list[list[int]],
    pixels_ichw: np.ndarray,
    pick: Callable[[torch.Tensor, int], torch.Tensor],
    max_new_tokens: int,
) -> list[tuple[list[int], list[float]]]:
    """Generated ids of one batch, each up to and including its end of sequence, and their log-probabilities."""
    device = next(model.parameters()).device
    ids_bt, mask_bt = padded_prompts(prompts, processor.pad_id, device)
    positions = prompt_positions(processor, ids_bt, mask_bt)
    inputs: dict[str, Any] = {"input_ids": ids_bt, **processor.image_inputs(torch.from_numpy(pixels_ichw).to(device))}
    cache = None
    running_b = torch.ones(len(prompts), dtype=torch.bool, device=device)
    written: list[torch.Tensor] = []
    scored: list[torch.Tensor] = []
    for step in range(max_new_tokens):
        out = model(
            **inputs,
            attention_mask=mask_bt,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        logits_bv = out.logits[:, -1].float()
        next_b = pick(logits_bv, step).masked_fill(~running_b, processor.eos_id)
        written.append(next_b)
        scored.append(logits_bv.gather(1, next_b[:, None])[:, 0] - logits_bv.logsumexp(-1))
        running_b = running_b & (next_b != processor.eos_id)
        if not running_b.any():
            break
        inputs = {"input_ids": next_b[:, None]}
        mask_bt = torch.cat([mask_bt, mask_bt.new_ones(len(prompts), 1)], dim=1)
        positions = positions[..., -1:] + 1
    rows = [_cut(row, processor.eos_id) for row in torch.stack(written, dim=1).tolist()]
    return [(ids, found[: len(ids)]) for ids, found in zip(rows, torch.stack(scored, dim=1).tolist(), strict=True)]


def _cut(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids


def _greedy(logits_bv: torch.Tensor, step: int) -> torch.Tensor:
    return logits_bv.argmax(-1)


def _sampler(ids: list[str], temperature: float, seed: int) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Inverse-CDF sampling with one uniform number per (seed, request id, token position)."""
    streams = [
        generator(seed, "generation.sample", int(hashlib.blake2b(i.encode(), digest_size=8).hexdigest(), 16)) for i in ids
    ]

    def pick(logits_bv: torch.Tensor, step: int) -> torch.Tensor:
        cumulative_bv = torch.softmax(logits_bv.double() / temperature, dim=-1).cumsum(-1)
        draws = torch.tensor([stream.random() for stream in streams], dtype=torch.float64, device=logits_bv.device)
        thresholds_b1 = draws[:, None] * cumulative_bv[:, -1:]
        return torch.searchsorted(cumulative_bv, thresholds_b1, right=True)[:, 0].clamp(max=logits_bv.shape[-1] - 1)

    return pick


__all__ = ["Completion", "Request", "begin_ids", "generate", "padded_prompts", "prompt_ids", "prompt_positions"]
