"""A checkpoint opened for asking, and its completions read back: the same for evaluation and for prediction.

Knows nothing of suites or scores.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.suite import Prediction, Square
from medclm.config import BoxTextSection, DataSection
from medclm.data.frame import ImageFrame
from medclm.metrics.parsing import split_completion

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medclm.models.protocol import Processor

_HASHED = 1 << 20


@dataclass(frozen=True)
class OpenModel:
    """A model ready to be asked, with what its boxes mean."""

    network: nn.Module
    processor: Processor
    fit: Any
    box_text: BoxTextSection

    @property
    def square(self) -> Square:
        return Square(side=self.processor.image_size, patch_size=self.processor.patch_size, fit=self.fit)

    def frame(self, width: int, height: int) -> ImageFrame:
        return ImageFrame(width, height, side=self.processor.image_size, fit=self.fit)


def open_checkpoint(checkpoint: Path) -> tuple[OpenModel, Path]:
    """The model of a run folder, a step folder or an export, on the best device, and its export folder.

    Raises:
        ValueError: none of these, or not a model of a known family.
    """
    import torch

    from medclm.checkpoint import export_settings, exported
    from medclm.models.registry import family

    folder = exported(checkpoint)
    settings = export_settings(folder)
    device, dtype = _device(torch.cuda.is_available())
    network, processor = family(settings.get("family", "vip_llava")).load_export(folder, dtype)
    fit = settings.get("fit", DataSection().fit)
    box_text = BoxTextSection(**settings.get("box_text", {}))
    return OpenModel(network=network.to(device).eval(), processor=processor, fit=fit, box_text=box_text), folder


def _device(has_gpu: bool) -> tuple[torch.device, torch.dtype]:
    import torch

    if has_gpu:
        return torch.device("cuda"), torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.device("cpu"), torch.float32


def read_prediction(text: str, frame: ImageFrame, box_text: BoxTextSection) -> Prediction:
    """A completion taken apart; a box written twice is one box."""
    parsed = split_completion(text)
    boxes = tuple(dict.fromkeys(frame.find_boxes(text, box_text)))
    inside = len(frame.find_boxes(parsed.rationale, box_text))
    return Prediction(text=text, answer=parsed.answer, boxes_unit=boxes, boxes_in_rationale=inside)


def fingerprint(folder: Path) -> str:
    """Tells one export's weights from another's without reading gigabytes: sizes, and both ends of every weight file."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            digest.update(f"{path.name} {size}".encode() + stream.read(_HASHED))
            stream.seek(max(0, size - _HASHED))
            digest.update(stream.read(_HASHED))
    return digest.hexdigest()
