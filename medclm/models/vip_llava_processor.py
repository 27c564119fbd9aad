"""Texts and pictures of ViP-LLaVA <-> numbers. One frame serves training, evaluation and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medclm.models.processor import WrappedProcessor, is_local, templated

PREAMBLE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions."
)
FRAME = PREAMBLE + "###Human: {image}\n{question}###Assistant:"


class VipLlavaProcessor(WrappedProcessor):
    """A `Processor` (models/protocol.py) over a transformers `LlavaProcessor`."""

    def __init__(self, inner: Any) -> None:
        """Read everything once.

        Args:
            inner: what `AutoProcessor.from_pretrained` gives for a ViP-LLaVA folder.

        Raises:
            ValueError: no image token, no end or pad token, a template that loses the question, sizes that are not stated.
        """
        image_size = int(inner.image_processor.crop_size["height"])
        patch_size: int = _stated(inner, "patch_size", "14")
        tokens = _count_image_tokens(inner, image_size // patch_size)
        super().__init__(inner, image_size=image_size, patch_size=patch_size, image_tokens=tokens)

    def framed(self, question: str) -> str:
        """By the chat template if the folder has one, else the family's own frame."""
        if self.inner.chat_template:
            return templated(self.inner, question)
        return FRAME.format(image=self.inner.image_token, question=question)

    def image_inputs(self, pixels_ichw: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `Processor.image_inputs`: the pixels as they are."""
        return {"pixel_values": pixels_ichw}

    def position_ids(self, ids_bt: torch.Tensor, places_bt: torch.Tensor | None = None) -> torch.Tensor | None:
        """See `Processor.position_ids`: places are positions."""
        return places_bt


def _count_image_tokens(inner: Any, side: int) -> int:
    """Number of image tokens of `side` x `side` patches as transformers' LlavaProcessor counts them."""
    extra = _stated(inner, "num_additional_image_tokens", "1")
    strategy = _stated(inner, "vision_feature_select_strategy", "default", kind=str)
    return int(side * side + extra - (strategy == "default"))


def load_processor(path: str | Path) -> VipLlavaProcessor:
    """The processor of a local folder, or of a hub id that the user names.

    Raises:
        ValueError: no such folder, or its files are not a ViP-LLaVA processor's.
    """
    from transformers import AutoProcessor

    local = is_local(path)
    try:
        inner = AutoProcessor.from_pretrained(str(path), local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.path={path}: its processor cannot be opened: {error}") from error
    if not all(hasattr(inner, part) for part in ("image_processor", "tokenizer", "image_token_id", "patch_size")):
        raise ValueError(
            f"model.path={path}: expected a LlavaProcessor, found {type(inner).__name__}: add processor_config.json"
        )
    return VipLlavaProcessor(inner)


def _stated(inner: Any, name: str, usual: str, kind: type = int) -> Any:
    value = getattr(inner, name, None)
    if value is None:
        raise ValueError(f"the processor does not state {name}: write it into processor_config.json ({usual} for ViP-LLaVA 7B)")
    return kind(value)
