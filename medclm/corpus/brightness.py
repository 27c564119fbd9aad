"""Measured words of brightness: a lesion against the rest of its organ, in the words of the modality.

A word needs physical or z-scored values, an organ with an outline, enough of it without lesions and a clear difference. Knows
one scene and its lesions; nothing of places or of other facts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medclm.corpus.hosts import Host, Scene
from medclm.corpus.regions import OrganMask, Region

REFERENCE_PX, EFFECT_SD = 200, 0.5
"""Least reference area and least difference for an intensity word."""

_WORDS = {
    "CT": ("hyperattenuating", "hypoattenuating"),
    "MR": ("hyperintense", "hypointense"),
    "US": ("hyperechoic", "hypoechoic"),
}
_RADIOGRAPH = ("opacity", "lucency")


class Brightness:
    """What may be said of the brightness of one image's lesions."""

    def __init__(self, scene: Scene, lesions: np.ndarray) -> None:
        """`lesions` is (H, W) bool of all lesions of the image: none of them is part of a reference."""
        image = scene.image
        words = _WORDS.get(image.modality or "", _RADIOGRAPH if scene.projection else None)
        unnamed = image.modality == "MR" and not image.technique  # a word without its sequence says nothing
        self._words = None if image.intensity is None or unnamed else words
        self._values = image.intensity if image.intensity is not None else np.zeros(0, np.float32)
        self._sequence = image.technique if image.modality == "MR" else None
        self._lesions = lesions
        self._references: dict[OrganMask, tuple[float, float] | None] = {}

    def facts(self, region: Region, host: Host) -> dict[str, Any]:
        """`intensity`, `intensity_effect`, `intensity_reference` and `sequence`, or nothing."""
        if self._words is None or host.mask is None or host.mask.is_box or host.score == 0:
            return {}
        reference = self._reference(host.mask)
        if reference is None:
            return {}
        mean, deviation = reference
        effect = float((self._values[region.window.slices][region.inside].mean() - mean) / deviation)
        if not abs(effect) >= EFFECT_SD:
            return {}
        facts: dict[str, Any] = {
            "intensity": self._words[0 if effect > 0 else 1],
            "intensity_effect": round(effect, 2),
            "intensity_reference": f"rest of the {host.organ}",
        }
        return facts | ({"sequence": self._sequence} if self._sequence else {})

    def _reference(self, organ: OrganMask) -> tuple[float, float] | None:
        """Mean and standard deviation of the organ without lesions; None = too small, or all of one value."""
        if organ not in self._references:
            closed = organ.closed
            window = closed.window.slices
            values = self._values[window][closed.inside & ~self._lesions[window]]
            deviation = float(values.std()) if values.size >= REFERENCE_PX else 0.0
            self._references[organ] = (float(values.mean()), deviation) if deviation > 0 else None
        return self._references[organ]
