"""What the rest of MedCLM may know of a model family. Nothing outside `medclm/models` knows 576, 336 or an image token id.

A family has two halves. `Processor` turns texts and pictures into arrows of numbers and back: it is cheap to build, needs
no weights and is used by the loader's threads, evaluation and prediction alike, so that a prompt is the same in all three.
`ModelFamily` builds, freezes, adapts and exports the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from medclm.config import BoxTextSection, ModelSection
from medclm.types import LossWeights

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn


class Processor(Protocol):
    """Texts and pictures <-> model inputs. Thread-safe; deterministic."""

    image_size: int
    """Side of the square picture that the model is given, in pixels; that of a view S, or more where it sees several views."""
    patch_size: int
    """Side of a vision patch in pixels of that square, at the finest that the model sees it."""
    image_tokens: int
    """Image tokens that a picture has in a prompt, all its views together."""
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
        """(V, 3, S, S) float32: the V views of an RGB picture that is already the model's square (see data/frame.py).

        Pictures of a batch are concatenated along the first dimension; their views follow each other in order of the prompts.
        """
        ...

    def image_inputs(self, pixels_ichw: torch.Tensor) -> dict[str, torch.Tensor]:
        """The keyword arguments by which the network's forward takes these pictures, on their device.

        Args:
            pixels_ichw: (I, 3, S, S) float32, what `pixel_values` gave, in the order of the image spans of the batch.
        """
        ...

    def position_ids(self, ids_bt: torch.Tensor, places_bt: torch.Tensor) -> torch.Tensor:
        """What the network's forward takes as `position_ids` for rows of whole prompts: (B, T) or, of several numbers, (A, B, T) int64.

        The next token of a row, where that is text, is at the row's last position + 1, in every dimension there is.

        Args:
            ids_bt: (B, T) int64, padded on either side or several samples in a row.
            places_bt: (B, T) int64, each token's place in its own sample.
        """
        ...

    def check_image_span(self, ids: Sequence[int]) -> None:
        """Raise ValueError unless the image token occurs exactly as often as the vision tower gives features of all views."""
        ...

    def save(self, folder: Path) -> None:
        """Write tokenizer and processor files so that `transformers.AutoProcessor` opens them, and how pictures are shown."""
        ...


class Picture(NamedTuple):
    """How a model is shown one picture."""

    side: int
    """Of its square, in pixels."""
    views: int
    """V."""
    view_side: int
    """S, in pixels."""
    tokens: int
    """Image tokens of all views."""


class ModelFamily(Protocol):
    """One family of vision-language models."""

    @property
    def box_text(self) -> BoxTextSection:
        """How its published weights write boxes, so what `data.box_text` is where a recipe does not say."""
        ...

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

    def stand_in(self, section: ModelSection) -> Processor:
        """A processor of the same sizes, for where words do not matter: the real one of a local folder, and nothing is fetched.

        Raises:
            ValueError: a hub id whose sizes are not known here.
        """
        ...

    def count_parameters(self, section: ModelSection) -> dict[str, tuple[int, int]]:
        """Part of the model -> (all, trained) parameters; counted without weights, and without fetching anything."""
        ...

    def picture(self, section: ModelSection) -> Picture:
        """What a picture costs a prompt; told as `count_parameters` does."""
        ...

    def objective(self, model: nn.Module, processor: Processor, weights: LossWeights) -> nn.Module:
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
        """Open such a folder (or any local one of the family) for generation; pictures are shown as they were in training."""
        ...
