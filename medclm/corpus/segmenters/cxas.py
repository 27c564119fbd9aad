"""CXAS: fine chest anatomy on frontal radiographs (PAX-Ray++), 159 overlapping structures.

Written for `cxas.CXAS(model_name, gpus)`, called with {"data": (1, 3, 512, 512) ImageNet-normalised} and giving
`segmentation_preds` (1, 159, 512, 512) bool in the order of `cxas.label_mapper.id2label_dict`. Neither the package nor its
weights were run here: the adapter's own part is tested against a module of the same shape. The package fetches its weights when
the model is made (on a machine without a network put them under $CXAS_PATH/.cxas/weights).

Zones and levels (`right upper zone lung`, `upper mediastinum`), joined pairs (`lung`, `clavicles`, `3rd rib` without a side) and
points (`tracheal bifurcation`) are left out: the words for zones come from measured positions, and sides from sided masks. The
anterior and posterior part of a rib are one rib.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from medclm.corpus.contract import SourceImage
from medclm.corpus.organs import paired, read_name
from medclm.corpus.segmenters.protocol import LabelVolume, Square, is_frontal_film, need
from medclm.corpus.sources.classes import organ_name

_LICENCE = "free for non-commercial use only, weights included"
_SIDE = 512
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LEFT_OUT = re.compile(r"zone|lung base|(upper|lower|anterior|middle|posterior) mediastinum|bifurcation|^scapulas$|^clavicles$")


class ChestAnatomy:
    """AnatomySegmenter of frontal chest radiographs."""

    name = "cxas"
    works_on = "pictures"

    def __init__(self) -> None:
        """Raises ValueError where the package is missing."""
        self._package = need("cxas", package="cxas", licence=_LICENCE)
        labels: Mapping[str, str] = need("cxas.label_mapper", package="cxas", licence=_LICENCE).id2label_dict
        self._organs = {int(number): organ for number, name in labels.items() if (organ := _organ(name)) is not None}
        self._count = len(labels)
        self._model: Any = None

    def suits(self, image: SourceImage) -> bool:
        return is_frontal_film(image)

    def segment(self, image: SourceImage) -> Mapping[str, np.ndarray]:
        """See AnatomySegmenter."""
        import torch  # a heavy import, and only images need it

        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        if self._model is None:
            self._model = self._package.CXAS(model_name="UNet_ResNet50_default", gpus="0" if device != "cpu" else "cpu")
        height, width = image.pixels.shape[:2]
        square = Square(_SIDE, (height, width))
        grey = square.lay(image.pixels).astype(np.float32) / 255
        channels = np.stack([(grey - mean) / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)])
        with torch.inference_mode():
            found = self._model({"data": torch.from_numpy(channels.astype(np.float32))[None].to(device)})["segmentation_preds"]
        masks = found[0].cpu().numpy() != 0
        if masks.shape != (self._count, _SIDE, _SIDE):
            raise RuntimeError(f"segmenter {self.name}: gave {masks.shape} for {self._count} labels of {_SIDE} x {_SIDE}")
        organs: dict[str, np.ndarray] = {}
        for number, organ in self._organs.items():
            organs[organ] = organs[organ] | masks[number] if organ in organs else masks[number]
        return {organ: square.back(mask) for organ, mask in organs.items() if mask.any()}

    def segment_volume(self, values: np.ndarray, affine: np.ndarray) -> LabelVolume:
        raise ValueError(f"segmenter {self.name} works on frontal chest radiographs, not on volumes: use totalsegmentator")


def _organ(name: str) -> str | None:
    """The organ of a label, side last; None = left out."""
    written = organ_name(name)
    if _LEFT_OUT.search(written):
        return None
    organ, side = read_name(written)
    if side is None and paired(organ):
        return None
    return f"{organ} {side}" if side is not None else organ
