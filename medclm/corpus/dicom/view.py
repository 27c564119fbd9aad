"""A header as one frame sees it: its own functional groups first, then those shared by all frames, then the file's own level.

Here so that classic and enhanced objects are read alike. A value that is malformed counts as not said where it is a fact, and
stops the reading where pixels depend on it. Must not know what values mean.
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset

_GROUPS = {
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "VOILUTFunction": "FrameVOILUTSequence",
    "VOILUTSequence": "FrameVOILUTSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "FrameLaterality": "FrameAnatomySequence",
    "AnatomicRegionSequence": "FrameAnatomySequence",
}
"""Keyword -> functional group that holds it in enhanced objects (PS3.3 C.7.6.16)."""
_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "XRay3DFrameTypeSequence")


class FrameView:
    """One frame's header."""

    def __init__(self, header: Dataset, frame: int = 0) -> None:
        """`frame` counts from 0; of a classic object every frame sees the same."""
        self.header = header
        self.frame = frame
        own = _item(header, "PerFrameFunctionalGroupsSequence", frame)
        shared = _item(header, "SharedFunctionalGroupsSequence", 0)
        self.groups = [group for group in (own, shared) if group is not None]
        """Functional groups, the frame's own first."""

    def value(self, keyword: str) -> Any:
        """The element's value; None where it is missing or empty. Raises whatever pydicom raises for a malformed one."""
        group = _GROUPS.get(keyword)
        if group is not None:
            for groups in self.groups:
                for item in items(groups, group)[:1]:
                    if keyword in item:
                        return _filled(item[keyword].value)
        return _filled(self.header[keyword].value) if keyword in self.header else None

    def identity(self, keyword: str) -> str | None:
        """As text without blanks around it; the first value of several; None where it is not said or malformed."""
        value = self._lenient(keyword)
        if _is_multiple(value):
            value = value[0] if len(value) else None
        return plain_text(value) or None if isinstance(value, str) else None

    def text(self, keyword: str) -> str | None:
        """As `identity`, in upper case, for coded values."""
        value = self.identity(keyword)
        return None if value is None else value.upper()

    def texts(self, keyword: str) -> tuple[str, ...]:
        """All values as upper-case text; empty where it is not said or malformed."""
        value = self._lenient(keyword)
        values = list(value) if _is_multiple(value) else [value]
        return tuple(plain_text(one).upper() for one in values if isinstance(one, str))

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Exactly `count` finite numbers; None for anything else."""
        value = self._lenient(keyword)
        values = list(value) if _is_multiple(value) else [value]
        try:
            found = tuple(float(one) for one in values)
        except (TypeError, ValueError, OverflowError):
            return None
        return found if len(found) == count and all(math.isfinite(one) for one in found) else None

    def number(self, keyword: str) -> float | None:
        """The first finite number of the element; None where there is none."""
        value = self._lenient(keyword)
        try:
            found = float(value[0] if _is_multiple(value) else value)
        except (TypeError, ValueError, OverflowError, IndexError):
            return None
        return found if math.isfinite(found) else None

    def frame_type(self) -> tuple[str, ...]:
        """The values that say what kind of picture it is (ORIGINAL, PRIMARY, LOCALIZER, ...), the frame's own before the file's."""
        for groups in self.groups:
            for sequence in _FRAME_TYPES:
                for item in items(groups, sequence)[:1]:
                    if found := FrameView(item).texts("FrameType"):
                        return found
        return self.texts("ImageType")

    def _lenient(self, keyword: str) -> Any:
        try:
            return self.value(keyword)
        except Exception:  # a malformed value is not said; pydicom raises anything on it
            return None


def items(dataset: Dataset, sequence: str) -> list[Dataset]:
    """The items of a sequence; empty where it is missing or something else."""
    try:
        found = dataset[sequence].value if sequence in dataset else None
    except Exception:  # malformed bytes of a sequence are parsed only here
        return []
    return [item for item in found if isinstance(item, Dataset)] if found is not None and _is_multiple(found) else []


def _item(dataset: Dataset, sequence: str, number: int) -> Dataset | None:
    """One item; None where there is none. Without a walk over the others, of which there is one for each frame."""
    try:
        found = dataset[sequence].value[number] if sequence in dataset else None
    except Exception:  # malformed bytes, or fewer items than frames
        return None
    return found if isinstance(found, Dataset) else None


def plain_text(value: object) -> str:
    """Text without padding and control characters."""
    return "".join(letter for letter in str(value) if letter.isprintable()).strip()


def _filled(value: Any) -> Any:
    return None if value is None or (isinstance(value, (str, bytes)) and not value) else value


def _is_multiple(value: Any) -> bool:
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, (str, bytes, Dataset))
