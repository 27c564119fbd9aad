"""Which side of the patient a lesion is on: stated first (header, class name, mask name), seen in the directions second.

Here because two sources that contradict each other must end in a reject, never in a choice. Knows one scene, one region and
what is stated of it; nothing of other facts or words.
"""

from __future__ import annotations

from medclm.corpus.contract import SourceImage
from medclm.corpus.hosts import Host, Scene
from medclm.corpus.locations import BAND, IMAGE_ONLY, Axis, Midline, middle_of, side_word
from medclm.corpus.organs import SYMMETRIC
from medclm.corpus.regions import Region

_SHOWING_SIDES = frozenset({"frontal", "axial", "coronal"})
_OPPOSITE = {"left": "right", "right": "left"}


class SideDisagrees(Exception):
    """Two sources of a side contradict each other; the annotation is rejected."""


def patient_side(scene: Scene, region: Region, host: Host, class_side: str | None = None) -> str | None:
    """The side word: left, right, bilateral or midline; None = not known or not shown.

    Args:
        class_side: side in the name of the lesion's class, e.g. of `left lung`.

    Raises:
        SideDisagrees: two of header, class name, mask name and directions name opposite sides.
    """
    header = header_side(scene.image)
    axis = scene.directions.side
    if axis is None and header is None:
        return None  # names without directions stay unsaid: nothing shows that they were written for this picture
    stated = {"the header": header, "the class name": class_side, "the mask's name": host.side}
    sides = {source: side for source, side in stated.items() if side is not None}
    word = _agreed(sides)
    if axis is None:
        return header
    midline = _midline(scene, host, header)
    if midline is None:
        return word
    seen = side_word(region, axis, midline)
    if word is None:
        return seen
    if seen == _OPPOSITE.get(word) and (midline.measured or _wholly_beyond(region, axis, midline)):
        offset = abs(region.centre(axis.image_axis) - midline.position_px)
        source = next(iter(sides))
        raise SideDisagrees(f"{source} says {word}, the directions {seen} ({offset:.0f} px from the midline)")
    return word


def _wholly_beyond(region: Region, axis: Axis, midline: Midline) -> bool:
    """Whether no pixel of a region reaches a guessed middle: then even a guess tells that a stated side is wrong."""
    low, high = region.extent(axis.image_axis)
    band = 2 * BAND * midline.width_px
    return bool(low > midline.position_px + band or high < midline.position_px - band)


def header_side(image: SourceImage) -> str | None:
    """`laterality` of the header where it is the side of what is seen.

    On a lateral film it names the side that lay against the detector, and hand-held pictures are spoken of as pictures only.
    Mammograms are of one breast in every view.
    """
    if image.modality in IMAGE_ONLY or image.laterality not in _OPPOSITE:
        return None
    return image.laterality if image.plane in _SHOWING_SIDES or image.modality == "MG" else None


def _agreed(sides: dict[str, str]) -> str | None:
    """The first stated side."""
    if {"left", "right"} <= set(sides.values()):
        said = ", ".join(f"{source} {side}" for source, side in sides.items())
        raise SideDisagrees(f"the stated sides contradict each other: {said}")
    return next(iter(sides.values()), None)


def _midline(scene: Scene, host: Host, header: str | None) -> Midline | None:
    axis = scene.directions.side
    if axis is not None and host.mask is not None and host.side is None and host.organ in SYMMETRIC:
        return middle_of(axis, host.mask.region)
    # the frame and the outline of a picture of one half (a knee, a breast) show the middle of that half
    return scene.organ_midline if header is not None else scene.midline
