"""torchxrayvision's chest segmenter (PSPNet trained on ChestX-Det): 14 structures of frontal chest radiographs.

Written for `torchxrayvision.baseline_models.chestx_det.PSPNet`: input (1, 1, 512, 512) from -1024 to 1024, output one logit map
for each of `targets`. Neither the package nor its weights were run here: the adapter's own part is tested against a module of
the same shape. The package fetches its weights at the first image (on a machine without a network put them under
~/.torchxrayvision/models_data). Its target `Weasand` is left out: the word means both gullet and windpipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medclm.corpus.contract import SourceImage
from medclm.corpus.segmenters.protocol import LabelVolume, Square, is_frontal_film, need
from medclm.corpus.sources.classes import organ_name

_LICENCE = "code: Apache-2.0; weights: trained on ChestX-Det, whose pictures are those of NIH ChestX-ray14"
_SIDE = 512
_LEFT_OUT = frozenset({"weasand"})


class ChestSegmenter:
    """AnatomySegmenter of frontal chest radiographs."""

    name = "torchxrayvision"
    works_on = "pictures"

    def __init__(self) -> None:
        """Raises ValueError where the package is missing."""
        self._package = need("torchxrayvision", package="torchxrayvision", licence=_LICENCE)
        self._model: Any = None

    def suits(self, image: SourceImage) -> bool:
        return is_frontal_film(image)

    def segment(self, image: SourceImage) -> Mapping[str, np.ndarray]:
        """See AnatomySegmenter."""
        import torch  # a heavy import, and only images need it

        if self._model is None:
            self._model = self._package.baseline_models.chestx_det.PSPNet().eval()
        height, width = image.pixels.shape[:2]
        square = Square(_SIDE, (height, width))
        values = square.lay(image.pixels).astype(np.float32) / 255 * 2048 - 1024
        with torch.inference_mode():
            logits = self._model(torch.from_numpy(values)[None, None])
        found = logits[0].float().cpu().numpy() > 0  # a probability above one half
        names = [organ_name(target) for target in self._model.targets]
        if found.shape != (len(names), _SIDE, _SIDE):
            raise RuntimeError(f"segmenter {self.name}: gave {found.shape} for {len(names)} targets of {_SIDE} x {_SIDE}")
        return {name: square.back(mask) for name, mask in zip(names, found, strict=True) if name not in _LEFT_OUT}

    def segment_volume(self, values: np.ndarray, affine: np.ndarray) -> LabelVolume:
        raise ValueError(f"segmenter {self.name} works on frontal chest radiographs, not on volumes: use totalsegmentator")
