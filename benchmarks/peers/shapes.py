"""The models that are compared. Imports nothing heavy: the corpus builder's workers read the main program again."""

from __future__ import annotations

from dataclasses import dataclass, field

PUBLISHED_VOCABULARY = 32064
"""Rows of the embedding of the published 7B model."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and the batch that suits them."""

    tiny: dict[str, int] = field(default_factory=dict)
    """Keys of model.tiny over the demo's; for the published layout only its picture and patch."""
    vocabulary: int = 0
    """Rows of the embedding where they are more than the tokenizer has."""
    published: bool = False
    """The public 7B model's configuration."""
    flags: tuple[str, ...] = ()
    """Recipe flags over the demo's."""


MIDDLE = {"image_size": 112, "patch_size": 14, "vision_width": 256, "width": 256, "layers": 4, "heads": 4, "vocab_size": 8192}
SHAPES = {
    "tiny": Shape(),
    "middle": Shape(MIDDLE, vocabulary=8192, flags=("--train.global_batch_size=24", "--train.micro_batch_size=12")),
    "7b": Shape(
        {"image_size": 336, "patch_size": 14},
        vocabulary=PUBLISHED_VOCABULARY,
        published=True,
        flags=("--model.freeze_vision_tower=true", "--train.global_batch_size=16", "--train.micro_batch_size=8"),
    ),
}
