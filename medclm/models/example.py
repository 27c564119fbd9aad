"""Samples as long as they may be, to see what a step takes: without words, with a black picture."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from medclm.models.protocol import Processor
from medclm.types import Batch, Segment


def example_batch(network: Any, processor: Processor, size: int, tokens: int) -> Batch:
    """`size` samples of `tokens` tokens each, on the CPU; all behind the picture are supervised.

    Raises:
        ValueError: a picture does not fit into so many tokens.
    """
    pictured = processor.image_tokens
    if tokens < pictured + 3:
        raise ValueError(f"data.max_tokens={tokens}: a picture alone takes {pictured}: give more")
    image_id = int(network.config.image_token_id)
    ids_BT = torch.full((size, tokens), 0 if image_id else 1)
    ids_BT[:, 1 : 1 + pictured] = image_id
    segments_BT = torch.full((size, tokens), Segment.CONTEXT, dtype=torch.uint8)
    segments_BT[:, 1 + pictured :] = Segment.RATIONALE
    segments_BT[:, -1] = Segment.ANSWER
    segments_N = segments_BT.flatten()
    targets_M = (segments_N != Segment.CONTEXT).nonzero()[:, 0]
    views_vchw = torch.from_numpy(processor.pixel_values(Image.new("RGB", (processor.image_size,) * 2)))
    return Batch(
        input_ids=ids_BT.flatten(),
        places=torch.arange(tokens).repeat(size),
        segments=segments_N,
        bounds=torch.arange(0, size * tokens + 1, tokens, dtype=torch.int32),
        longest=tokens,
        targets=targets_M,
        target_samples=targets_M // tokens,
        pixel_values=views_vchw.repeat(size, 1, 1, 1),
        stages=torch.zeros(size, dtype=torch.uint8),
        domains=torch.zeros(size, dtype=torch.int64),
        positions=torch.zeros(size, dtype=torch.int64),
    )
