"""Texts and pictures of ViP-LLaVA <-> numbers. One frame serves training, evaluation and prediction.

A picture may be shown as several views (models/tiles.py): each has an image span of its own in the prompt, which the network fills
in order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import torch

from medclm.config import Tiles
from medclm.models.processor import WrappedProcessor, is_local, templated
from medclm.models.tiles import COUNTS, WHOLE

PREAMBLE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions."
)
FRAME = PREAMBLE + "###Human: {image}\n{question}###Assistant:"
STORED = "medclm_processor.json"
"""Beside the transformers files of a model that sees several views: how many. Without it, one."""


class VipLlavaProcessor(WrappedProcessor):
    """A `Processor` (models/protocol.py) over a transformers `LlavaProcessor`."""

    def __init__(self, inner: Any, tiles: Tiles = WHOLE) -> None:
        """Read everything once.

        Args:
            inner: what `AutoProcessor.from_pretrained` gives for a ViP-LLaVA folder.
            tiles: the views of a picture.

        Raises:
            ValueError: no image token, no end or pad token, a template that loses the question, sizes that are not stated.
        """
        side = int(inner.image_processor.crop_size["height"])
        patch_size: int = _stated(inner, "patch_size", "14")
        tokens = _count_view_tokens(inner, side // patch_size)
        super().__init__(inner, view_size=side, patch_size=patch_size, view_tokens=tokens, tiles=tiles)

    def framed(self, question: str) -> str:
        """By the chat template if the folder has one, else the family's own frame.

        Several views stand there as several pictures would. What the template puts between pictures, a line break as a rule, tells
        the language model where a view ends, and plain transformers makes the same prompt of as many pictures in one message.
        """
        views = COUNTS[self.tiles]
        if self.inner.chat_template:
            return templated(self.inner, question, views)
        return FRAME.format(image="\n".join([self.inner.image_token] * views), question=question)

    def save(self, folder: Path) -> None:
        """Write tokenizer, image processor and chat template in the transformers layout, and beside them the views."""
        super().save(folder)
        if self.tiles != WHOLE:  # in a file of its own: transformers drops what it does not know from processor_config.json
            (folder / STORED).write_text(json.dumps({"tiles": self.tiles}) + "\n", encoding="utf-8")

    def image_inputs(self, pixels_ichw: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `Processor.image_inputs`: the pixels as they are."""
        return {"pixel_values": pixels_ichw}

    def position_ids(self, ids_bt: torch.Tensor, places_bt: torch.Tensor) -> torch.Tensor:
        """See `Processor.position_ids`: places are positions."""
        return places_bt


def _count_view_tokens(inner: Any, side: int) -> int:
    """Number of image tokens of a view of `side` x `side` patches as transformers' LlavaProcessor counts them."""
    extra = _stated(inner, "num_additional_image_tokens", "1")
    strategy = _stated(inner, "vision_feature_select_strategy", "default", kind=str)
    return int(side * side + extra - (strategy == "default"))


def load_processor(path: str | Path, tiles: Tiles | None = None) -> VipLlavaProcessor:
    """The processor of a local folder, or of a hub id that the user names.

    Args:
        tiles: the views of a picture; None = as the folder's model was trained.

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
    return VipLlavaProcessor(inner, tiles or stored_tiles(Path(path)))


def stored_tiles(folder: Path) -> Tiles:
    """The views that a saved processor of ours shows; one where nothing is said.

    Raises:
        ValueError: the file does not say it, or says what this version does not know.
    """
    if not (folder / STORED).is_file():
        return WHOLE
    try:
        said = json.loads((folder / STORED).read_text(encoding="utf-8"))["tiles"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / STORED}: does not say `tiles`: {error}: export the checkpoint again") from error
    known: tuple[Tiles, ...] = get_args(Tiles)
    for tiles in known:
        if said == tiles:
            return tiles
    raise ValueError(f"{folder / STORED}: tiles={said!r}: this version knows {', '.join(known)}: use the one that wrote it")


def _stated(inner: Any, name: str, usual: str, kind: type = int) -> Any:
    value = getattr(inner, name, None)
    if value is None:
        raise ValueError(f"the processor does not state {name}: write it into processor_config.json ({usual} for ViP-LLaVA 7B)")
    return kind(value)
