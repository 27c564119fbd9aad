"""The plain objects that cross module walls, with shapes and units. Knows nothing of models, files or processes.

Shape legend used everywhere: B samples of a micro-batch, T tokens, C channels, S side of a view (what the vision tower takes) in
pixels, G samples of a global batch, D hidden units, V vocabulary (of pixels: views of a picture), K boxes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from PIL import Image


class Stage(enum.IntEnum):
    """A curriculum stage. The integer is what is sent between ranks and written to logs."""

    EASY = 0
    MEDIUM = 1
    HARD = 2

    @property
    def key(self) -> str:
        """Lower-case name, as in the column `question_easy`."""
        return self.name.lower()


class Box(NamedTuple):
    """An axis-aligned rectangle (x0, y0, x1, y1), x to the right and y down; the variable name says _unit or _px."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    def scaled(self, x: float, y: float) -> Box:
        """The box with horizontal coordinates times `x` and vertical ones times `y`."""
        return Box(self.x0 * x, self.y0 * y, self.x1 * x, self.y1 * y)


class Segment(enum.IntEnum):
    """What a token of a training sequence is; only RATIONALE and ANSWER tokens are supervised."""

    CONTEXT = 0
    """Prompt, image, padding, and the leading "Answer:" of a Hard target."""
    RATIONALE = 1
    ANSWER = 2


@dataclass(frozen=True)
class Sample:
    """A record seen at one stage: what `data.render` makes and `data.loader` collates."""

    record_id: str
    position: int
    """Global position g in the endless stream of samples (see data/order.py)."""
    domain: int
    """Index into the manifest's domain vocabulary."""
    stage: Stage
    image: Image.Image
    """RGB, the model's square, box drawn only in Easy."""
    question: str
    """With its response instruction, without the prompt's frame."""
    rationale: str
    """Boxes already written in the model's frame; empty in Hard."""
    answer: str


@dataclass(frozen=True)
class EncodedSample:
    """A sample as arrays, ready to pack."""

    input_ids: np.ndarray
    """(T,) int64: prompt with its image span, then target, then end of sequence."""
    segments: np.ndarray
    """(T,) uint8 of `Segment`: what each token is."""
    pixel_values: np.ndarray
    """(V, C, S, S) float32, the picture's views normalised for the vision tower."""


@dataclass
class Batch:
    """One micro-batch of one rank: B samples end to end, N tokens, no padding. On the CPU until the engine moves it."""

    input_ids: torch.Tensor
    """(N,) int64."""
    places: torch.Tensor
    """(N,) int64, each token's place in its own sample."""
    segments: torch.Tensor
    """(N,) uint8 of `Segment`."""
    bounds: torch.Tensor
    """(B + 1,) int32: where each sample begins, then N."""
    longest: int
    """Tokens of the longest sample."""
    targets: torch.Tensor
    """(M,) int64, ascending: where the supervised tokens stand among the N. Found here, so that no accelerator is waited for."""
    target_samples: torch.Tensor
    """(M,) int64: the sample, 0 .. B - 1, of each of them."""
    pixel_values: torch.Tensor
    """(B * V, C, S, S) float32: the views of sample 0, then of sample 1, ..."""
    stages: torch.Tensor
    """(B,) uint8 of `Stage`."""
    domains: torch.Tensor
    """(B,) int64."""
    positions: torch.Tensor
    """(B,) int64, global positions."""

    def to(self, device: torch.device | str) -> Batch:
        """A copy with every tensor on `device`; asynchronous where the source is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Batch:
        """A copy in page-locked memory, so that `to` overlaps with compute on an accelerator."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        moved: dict[str, Any] = {name: value if name == "longest" else change(value) for name, value in vars(self).items()}
        return Batch(**moved)


class LossWeights(NamedTuple):
    """What a sample's mean losses count."""

    answer: float
    """Answer, in Easy and Medium."""
    rationale: float
    """Rationale, in Easy and Medium."""
    hard: float
    """Answer in Hard, where it is all there is."""


@dataclass(frozen=True)
class Assignment:
    """Rank 0's decision for one global batch, equal on every rank."""

    batch_index: int
    stages: np.ndarray
    """(G,) uint8 of `Stage`, in order of global position."""
    stop: bool
    """All ranks stop after the step in which they received this."""


@dataclass(frozen=True)
class Observation:
    """What the policy learns from one global batch: the losses of its samples, rounded to float16 before use."""

    batch_index: int
    progress: float
    """Fraction of the planned run done when the batch was consumed, 0..1."""
    domains: np.ndarray
    """(G,) int64."""
    stages: np.ndarray
    """(G,) uint8 of `Stage`."""
    losses: np.ndarray
    """(G,) float16; not finite where the step was skipped."""
