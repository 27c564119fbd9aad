"""Small real objects for tests: a tiny network of 32 px and width 32, its processor and an export of both; ViP-LLaVA if not said.

Everything is deterministic and takes well under a second after the imports. Imported by tests only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclm.config import ModelSection, TinySection

if TYPE_CHECKING:
    from torch import nn

    from medclm.models.processor import WrappedProcessor

DEFAULT_TEXTS = (
    "What is the highlighted region? Reason, give the box, then answer.",
    "Is there a nodule in the image? Answer directly.",
    "Which organ hosts the lesion? Reason, give the box, then answer.",
    "Reasoning: The region [0.125, 0.250, 0.500, 0.750] lies in the left kidney.\n\nAnswer: mass",
    "Reasoning: A bright lesion at [0.310, 0.420, 0.530, 0.640] projects over the right lung.\n\nAnswer: nodule",
    "Answer: kidney",
    "Answer: yes",
    "Answer: no",
)

_SIZES = {"image_size": 32, "vision_width": 32, "vision_layers": 2, "width": 32, "layers": 2, "heads": 2}
TINY_FLAGS = tuple(f"--model.tiny.{key}={size}" for key, size in _SIZES.items())
"""The same sizes for a whole run, whose tokenizer is made from its corpus."""


def tiny_section(**overrides: Any) -> ModelSection:
    """The `model` section of the test model; `overrides` are keys of `model.tiny` or of `model` itself."""
    sizes = {key: overrides.pop(key) for key in list(overrides) if key in TinySection.model_fields}
    return ModelSection(
        tiny=TinySection(**{**_SIZES, "vocab_size": 512, **sizes}), **{"freeze_vision_tower": False, **overrides}
    )


def tiny_processor(section: ModelSection | None = None, texts: Sequence[str] = DEFAULT_TEXTS) -> Any:
    """A processor whose tokenizer was trained on `texts`; 16 image tokens (Qwen3-VL: 4) unless the section says otherwise."""
    from medclm.models.registry import family

    section = section or tiny_section()
    return family(section.family).processor(section, texts)


def tiny_network(section: ModelSection | None = None, processor: WrappedProcessor | None = None, seed: int = 0) -> nn.Module:
    """A float32 network on the CPU; equal arguments give equal weights."""
    import torch

    from medclm.models.registry import family

    section = section or tiny_section()
    return family(section.family).build(section, processor or tiny_processor(section), torch.float32, seed)


def tiny_export(folder: Path, section: ModelSection | None = None) -> Path:
    """A plain transformers folder of the tiny network and its processor, written to `folder`, which is returned."""
    from medclm.models.registry import family

    section = section or tiny_section()
    processor = tiny_processor(section)
    network = tiny_network(section, processor)
    family(section.family).export(network, processor, folder, dict(network.state_dict()))
    return folder
