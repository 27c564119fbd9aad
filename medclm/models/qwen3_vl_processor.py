"""Texts and pictures of Qwen3-VL <-> numbers. One frame serves training, evaluation and prediction.

Qwen3-VL takes pictures of any size that is a multiple of 32 px, as patches in a list with the grid they came from. Here every
picture is one square, so the grid is constant and everything that follows from it is arithmetic on whole tensors: nothing
waits for the device, where transformers' own way to positions asks it for every sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medclm.data.manifest import write_json
from medclm.models.processor import WrappedProcessor, is_local, templated

IMAGE = "<|image_pad|>"
FALLBACK_SIDE = 512
"""Side in pixels where neither the folder nor `model.image_size` says one: 256 tokens at the published 32 px per token."""


@dataclass(frozen=True)
class Qwen3VlParts:
    """Tokenizer and image processor of a folder. Not transformers' own processor of both, which needs torchvision for its videos."""

    tokenizer: Any
    image_processor: Any

    @property
    def image_token(self) -> str:
        """What stands for one piece of a picture."""
        return str(getattr(self.tokenizer, "image_token", None) or IMAGE)

    @property
    def image_token_id(self) -> int:
        """Its id."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def save_pretrained(self, folder: Path) -> None:
        """Write both, and what `transformers.AutoProcessor` needs beside them where torchvision is installed."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        pictures = self.image_processor.to_dict()
        stated = ("patch_size", "merge_size", "temporal_patch_size", "size", "image_mean", "image_std")
        videos = {"video_processor_type": "Qwen3VLVideoProcessor", **{key: pictures[key] for key in stated}}
        write_json(folder / "video_preprocessor_config.json", videos)
        write_json(folder / "processor_config.json", {"processor_class": "Qwen3VLProcessor"})


class Qwen3VlProcessor(WrappedProcessor):
    """A `Processor` (models/protocol.py) over the parts of a Qwen3-VL folder."""

    def __init__(self, inner: Qwen3VlParts, image_size: int = 0) -> None:
        """Read everything once.

        Args:
            image_size: `model.image_size`; 0 = the side that the folder states, else 512. From here on `inner` states it.

        Raises:
            ValueError: a side that the patches do not divide, no chat template, no end or pad token, no image token.
        """
        pictures, tokenizer = inner.image_processor, inner.tokenizer
        self.merge, self.frames = int(pictures.merge_size), int(pictures.temporal_patch_size)
        patch = int(pictures.patch_size)
        side = image_size or stated_side(pictures) or FALLBACK_SIDE
        if side % (patch * self.merge):
            raise ValueError(
                f"model.image_size={side}: {self.merge} x {self.merge} patches of {patch} px make a token: give a multiple of "
                f"{patch * self.merge}"
            )
        # Least = most = this many pixels: whoever opens an export sees a square at the side that it was trained at.
        pictures.size = {"shortest_edge": side * side, "longest_edge": side * side}
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: add chat_template.jinja of the published folder")
        if inner.image_token not in tokenizer.get_vocab():
            raise ValueError(f"the tokenizer has no {inner.image_token}: this is not a Qwen3-VL tokenizer")
        self.grid = side // patch
        """Patches along a side."""
        super().__init__(inner, view_size=side, patch_size=patch, view_tokens=(self.grid // self.merge) ** 2)

    def framed(self, question: str) -> str:
        """By the folder's chat template."""
        return templated(self.tokenizer, question)

    def image_inputs(self, pixels_ichw: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `Processor.image_inputs`.

        `pixel_values` (I * G * G, 3 * F * P * P): patches of P x P pixels, of G along a side, the same for the F frames that a patch
        spans, in the order in which M x M neighbours become a token; `image_grid_thw` (I, 3) int64.
        """
        count, patch, tokens = len(pixels_ichw), self.patch_size, self.grid // self.merge
        cut = pixels_ichw.reshape(count, 3, tokens, self.merge, patch, tokens, self.merge, patch)
        patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, self.frames, -1, -1)
        # where pixels have a shape alone, the grid must still have numbers: shapes follow from it
        grid_3 = torch.tensor([1, self.grid, self.grid], device="cpu" if pixels_ichw.is_meta else pixels_ichw.device)
        return {
            "pixel_values": patches.reshape(count * self.grid**2, 3 * self.frames * patch * patch),
            "image_grid_thw": grid_3.expand(count, 3),
        }

    def position_ids(self, ids_bt: torch.Tensor, places_bt: torch.Tensor) -> torch.Tensor:
        """(3, B, T) int64: time, row and column of every token, as the model's get_rope_index counts them.

        A text token is one further than the one before it, in all three. A picture of g x g tokens stands at the time of its first one
        and spreads over g rows and columns from there; what follows it is g further.
        """
        columns_t = torch.arange(ids_bt.shape[1], device=ids_bt.device)
        side = self.grid // self.merge
        picture_bt = (ids_bt == self.image_token_id).long()
        before_bt = picture_bt.cumsum(1) - picture_bt  # image tokens on the left, also those of samples before this one
        before_bt = before_bt - before_bt.gather(1, columns_t - places_bt)
        start_bt = places_bt - before_bt + before_bt // side**2 * side
        within_bt = before_bt % side**2 * picture_bt
        return torch.stack([start_bt, start_bt + within_bt // side, start_bt + within_bt % side])


def stated_side(image_processor: Any) -> int:
    """The only side of a square that an image processor's limits leave, or 0."""
    least, most = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
    side = math.isqrt(least or 0)
    return side if least == most and side * side == least else 0


def load_processor(path: str | Path, image_size: int = 0) -> Qwen3VlProcessor:
    """The processor of a local folder, or of a hub id that the user names.

    Raises:
        ValueError: no such folder, or its files are not a Qwen3-VL processor's; see `Qwen3VlProcessor` too.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    local = is_local(path)
    try:
        parts = Qwen3VlParts(
            AutoTokenizer.from_pretrained(str(path), local_files_only=local, trust_remote_code=False),
            AutoImageProcessor.from_pretrained(str(path), local_files_only=local, trust_remote_code=False),
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.path={path}: its processor cannot be opened: {error}") from error
    if not all(hasattr(parts.image_processor, part) for part in ("patch_size", "merge_size", "temporal_patch_size")):
        raise ValueError(
            f"model.path={path}: expected a Qwen image processor, found {type(parts.image_processor).__name__}: "
            "add preprocessor_config.json of a Qwen3-VL folder"
        )
    return Qwen3VlProcessor(parts, image_size)
