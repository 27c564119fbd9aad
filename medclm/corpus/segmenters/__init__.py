"""Plug-in point for tools that find organs: `get_segmenter(name)` and `with_organs(image, segmenter)`.

A segmenter's package is imported when the segmenter is asked for, never before, and is no dependency of this project. A new
tool is a module with a class of the protocol's shape and one line in `_KNOWN`. Knows names of organs; nothing of lesions.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import replace

from medclm.corpus.contract import SourceImage
from medclm.corpus.organs import read_name
from medclm.corpus.segmenters.protocol import AnatomySegmenter, LabelVolume

__all__ = ["AnatomySegmenter", "LabelVolume", "get_segmenter", "segmenter_names", "with_organs"]

_KNOWN = {
    "totalsegmentator": ("medclm.corpus.segmenters.totalsegmentator", "TotalSegmentator"),
    "totalsegmentator_mr": ("medclm.corpus.segmenters.totalsegmentator", "TotalSegmentatorMR"),
    "torchxrayvision": ("medclm.corpus.segmenters.torchxrayvision", "ChestSegmenter"),
    "cxas": ("medclm.corpus.segmenters.cxas", "ChestAnatomy"),
}
"""Name -> module and class."""


def segmenter_names() -> tuple[str, ...]:
    """What `get_segmenter` knows."""
    return tuple(_KNOWN)


def get_segmenter(name: str) -> AnatomySegmenter:
    """The segmenter of that name; its weights are loaded when the first image comes.

    Raises:
        ValueError: no such segmenter, or its package is not installed; names the cure and the licence to read.
    """
    if name not in _KNOWN:
        close = difflib.get_close_matches(name, _KNOWN, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_KNOWN)}"
        raise ValueError(f"segmenter {name!r} is not known: {hint}")
    module, kind = _KNOWN[name]
    made: AnatomySegmenter = getattr(importlib.import_module(module), kind)()
    return made


def with_organs(image: SourceImage, segmenter: AnatomySegmenter) -> SourceImage:
    """The image with the organs that its source does not name, on either side; unchanged where the segmenter is not made for it.

    Raises:
        ValueError: the segmenter works on volumes alone.
    """
    if not segmenter.suits(image):
        return image
    named = {read_name(organ)[0] for organ in image.organs}
    found = {organ: mask for organ, mask in segmenter.segment(image).items() if mask.any() and read_name(organ)[0] not in named}
    return replace(image, organs={**image.organs, **found}) if found else image
