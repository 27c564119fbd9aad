"""What the rest of MedCLM may know of a model family. Nothing outside `medclm/models` knows 576, 336 or an image token id.

A family has two halves. `Processor` turns texts and pictures into arrows of numbers and back: it is cheap to build, needs
no weights and is used by the loader's threads, evaluation and prediction alike, so that a prompt is the same in all three.
`ModelFamily` builds, freezes, adapts and exports the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medclm.config import ModelSection
from medclm.types import Batch, LossWeights

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn


class Processor(Protocol):
    """Texts and pictures <-> model inputs. Thread-safe; deterministic."""

    image_size: int
    """Side S of the model's square input in pixels."""
    patch_size: int
    """Side of a vision patch in pixels."""
    pad_id: int
    eos_id: int

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the framed prompt (chat template, else the family's own frame), the image span expanded."""
        ...

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a piece of target text, without special tokens. Pieces are tokenised apart and concatenated."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Generated ids as text: special tokens dropped, cut at the first end of sequence."""
        ...

    def pixel_values(self, image: Image.Image) -> np.ndarray:
        """(3, S, S) float32 of an RGB picture that is already S x S (see data/frame.py)."""
        ...

    def check_image_span(self, ids: Sequence[int]) -> None:
        """Raise ValueError unless the image token occurs exactly as often as the vision tower gives features."""
        ...

    def save(self, folder: Path) -> None:
        """Write tokenizer and processor files so that `transformers.AutoProcessor` opens them."""
        ...


class ModelFamily(Protocol):
    """One family of vision-language models."""

    def processor(self, section: ModelSection, texts: Sequence[str] = ()) -> Processor:
        """The processor of `section.path`; for `tiny`, a tokenizer is trained on `texts` (deterministic)."""
        ...

    def build(self, section: ModelSection, processor: Processor, dtype: torch.dtype, seed: int) -> nn.Module:
        """The network: weights of `section.path`, or random ones for `tiny`; frozen and adapted as the section says.

        Raises:
            ValueError: missing folder, another architecture, freeze or LoRA patterns that match nothing, an attention
                kernel that is not installed.
        """
        ...

    def skeleton(self, section: ModelSection, dtype: torch.dtype, processor: Processor | None = None) -> nn.Module:
        """The network of `build` on the meta device, in training mode: shapes without numbers. Fetches nothing.

        Args:
            processor: says how large a tiny model's vocabulary is; without it, its upper bound.

        Raises:
            ValueError: as `build`, weights and attention aside.
        """
        ...

    def example_batch(self, network: nn.Module, size: int, tokens: int) -> Batch:
        """`size` samples as long as they may be, on the CPU: `tokens` tokens each, all behind the picture supervised.

        Raises:
            ValueError: a picture does not fit into so many tokens.
        """
        ...

    def count_parameters(self, section: ModelSection) -> dict[str, tuple[int, int]]:
        """Part of the model -> (all, trained) parameters; counted without weights, and without fetching anything."""
        ...

    def objective(self, model: nn.Module, weights: LossWeights) -> nn.Module:
        """A module whose forward(batch: Batch) is the ONE forward of a mixed-stage batch (models/objective.py)."""
        ...

    def export(
        self, model: nn.Module, processor: Processor, folder: Path, state: dict[str, torch.Tensor], merge_lora: bool = True
    ) -> None:
        """Write `state` (full names of `model`, CPU) as a plain transformers folder with its processor.

        Adapters are merged into the weights they adapt, or else written apart, beside the projector.
        """
        ...

    def load_export(self, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, Processor]:
        """Open such a folder (or any local one of the family) for generation."""
        ...
