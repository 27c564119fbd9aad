"""TotalSegmentator: 117 structures on CT, 50 on MR, in volumes.

Written for the package's `totalsegmentator.python_api.totalsegmentator(input, output, ml, task, quiet, device)`, which takes
and gives nibabel images. Neither the package nor its weights were run here: the adapter's own part is tested against a module
of the same shape. The package fetches its weights at the first run (put them under TOTALSEG_WEIGHTS_PATH on a machine without
a network) and would report every run to its makers: that is switched off before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medclm.corpus.class_maps import TOTALSEGMENTATOR, TOTALSEGMENTATOR_MR
from medclm.corpus.contract import SourceImage
from medclm.corpus.segmenters.protocol import LabelVolume, need

_LICENCE = "code and the tasks total and total_mr: Apache-2.0; other tasks ask for a licence of their own"


class TotalSegmentator:
    """AnatomySegmenter of CT volumes."""

    name = "totalsegmentator"
    works_on = "volumes"
    _task, _modality = "total", "CT"
    _class_map: Mapping[int, str] = TOTALSEGMENTATOR

    def __init__(self) -> None:
        """Raises ValueError where the package is missing."""
        self._api = need("totalsegmentator.python_api", package="TotalSegmentator", licence=_LICENCE)
        self._config = need("totalsegmentator.config", package="TotalSegmentator", licence=_LICENCE)
        self._nibabel = need("nibabel", package="nibabel", licence="MIT")

    def suits(self, image: SourceImage) -> bool:
        return image.modality == self._modality

    def segment(self, image: SourceImage) -> Mapping[str, np.ndarray]:
        raise ValueError(
            f"segmenter {self.name} works on volumes, {image.index} is a single picture: give the volumes (NIfTI or a DICOM "
            "series), or masks with --organ"
        )

    def segment_volume(self, values: np.ndarray, affine: np.ndarray) -> LabelVolume:
        """See AnatomySegmenter.

        Raises:
            RuntimeError: the package could not silence its reports or gave another grid than it was given.
        """
        self._be_silent()
        given = self._nibabel.Nifti1Image(np.asarray(values, np.float32), affine)
        result: Any = self._api.totalsegmentator(given, None, ml=True, task=self._task, quiet=True, device=self._device())
        labels = np.asarray(result.dataobj)
        if labels.shape != values.shape or not np.allclose(result.affine, affine, atol=1e-3):
            raise RuntimeError(f"segmenter {self.name}: gave {labels.shape} for {values.shape}, or turned the volume")
        return LabelVolume(np.rint(labels).astype(np.uint8), self._class_map)

    def _be_silent(self) -> None:
        """No run is reported anywhere."""
        self._config.setup_totalseg()
        self._config.set_config_key("send_usage_stats", False)
        if self._config.get_config_key("send_usage_stats") is not False:
            raise RuntimeError(f"segmenter {self.name}: its usage reports cannot be switched off: see its config.json")

    @staticmethod
    def _device() -> str:
        import torch  # a heavy import, and only volumes need it

        return "gpu" if torch.cuda.is_available() else "cpu"


class TotalSegmentatorMR(TotalSegmentator):
    """AnatomySegmenter of MR volumes."""

    name = "totalsegmentator_mr"
    _task, _modality = "total_mr", "MR"
    _class_map = TOTALSEGMENTATOR_MR
