"""Where something is, in words that the picture's plane allows, and the noun phrases made of those words.

Here because a wrong side is the one fault no reader forgives: every word comes from declared patient directions and pixel
counts, and without directions there is no patient word at all, only a place in the image. Knows masks and names; nothing of
classes, questions or models.

Location facts (each key is present only where it is known):
    image_position   one of nine places of the picture, always present
    side             left | right | bilateral | midline, of the patient
    side_of          organ | patient: what `side` halves; only an organ's own side is part of its address
    vertical         upper | mid | lower (frontal), superior | middle | inferior (coronal, sagittal, lateral; axial only where
                     the source says at what height the slice cuts the organ)
    depth            anterior | central | posterior (axial, sagittal, lateral)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from medclm.corpus.organs import SYMMETRIC, ancestors, paired
from medclm.corpus.regions import OrganMask, Region

BAND = 0.05
"""Half-width of the midline, as a share of the organ's (or pair's, or body's) width."""
BOTH = 0.25
"""Least share of a lesion beyond the midline band on each side for `bilateral`."""
_TIE = 1e-6
"""Below this a difference is rounding: borders then fall to the middle, whichever way the picture is written."""
IMAGE_ONLY = frozenset({"US", "ES", "SM", "GM", "OP", "OPT", "XC"})
"""Hand-held probes, scopes, slides and photographs: the picture has no fixed patient frame."""

_AXIS_OF = {
    "L": ("side", 1),
    "R": ("side", -1),
    "P": ("depth", 1),
    "A": ("depth", -1),
    "F": ("vertical", 1),
    "H": ("vertical", -1),
}
_AXIS_OF |= {"I": _AXIS_OF["F"], "S": _AXIS_OF["H"]}
_ALLOWED = {
    "frontal": {"side", "vertical"},
    "coronal": {"side", "vertical"},
    "axial": {"side", "depth"},
    "sagittal": {"depth", "vertical"},
    "lateral": {"depth", "vertical"},
}
_DEPTH = ("anterior", "central", "posterior")
_ZONES, _HEIGHTS = ("upper", "mid", "lower"), ("superior", "middle", "inferior")
_CENTRAL = frozenset({"central", "middle", "mid"})


class Axis(NamedTuple):
    """A patient axis in the picture."""

    image_axis: int
    """0 = x (columns), 1 = y (rows)."""
    sign: int
    """+1 where the pixel index grows towards the patient's left, posterior or feet."""


@dataclass(frozen=True)
class Directions:
    """Patient axes that the picture's plane lets us speak of; None = not shown or not known."""

    side: Axis | None = None
    depth: Axis | None = None
    vertical: Axis | None = None

    @property
    def known(self) -> bool:
        return bool(self.side or self.depth or self.vertical)


class Midline(NamedTuple):
    """The patient's middle along the side axis."""

    position_px: float
    width_px: float
    """Width that `BAND` is a share of."""
    measured: bool
    """From organs or a whole body outline; else guessed from the frame of a frontal picture."""


def read_directions(plane: str | None, patient_directions: str | None, modality: str | None) -> Directions:
    """The axes that may be spoken of.

    Args:
        plane: frontal, lateral, axial, coronal, sagittal; others and None allow nothing.
        patient_directions: patient direction of +x, backslash, of +y (DICOM PatientOrientation; S and I read as H and F).
            Of a compound such as `LA` the first letter counts.

    Raises:
        ValueError: not two directions along two different patient axes.
    """
    if patient_directions is None or modality in IMAGE_ONLY or plane not in _ALLOWED:
        return Directions()
    letters = [part.strip().upper()[:1] for part in patient_directions.split("\\")]
    named = [_AXIS_OF.get(letter) for letter in letters]
    if len(named) != 2 or named[0] is None or named[1] is None or named[0][0] == named[1][0]:
        raise ValueError(
            f"patient_directions={patient_directions!r}: give the patient directions of +x and +y, such as 'L\\P', or leave unknown"
        )
    if {named[0][0], named[1][0]} != _ALLOWED[plane]:
        return Directions()  # the plane contradicts the directions: neither is to be trusted
    return Directions(**{name: Axis(image_axis, sign) for image_axis, (name, sign) in enumerate(filter(None, named))})


def third(region: Region, organ: Region, image_axis: int) -> int:
    """0, 1 or 2: the third of the organ's extent that holds the region's centre; on a border the middle one."""
    low, high = organ.extent(image_axis)
    at = 3 * (region.centre(image_axis) - low) / (high - low)
    return 0 if at < 1 - _TIE else 2 if at > 2 + _TIE else 1


def image_position(region: Region) -> str:
    """One of nine places of the picture that holds the region's centre, as the viewer sees it."""
    column, row = (min(int(3 * region.centre(axis) / region.mask.shape[1 - axis]), 2) for axis in (0, 1))
    if (row, column) == (1, 1):
        return "centre"
    return f"{('upper', 'middle', 'lower')[row]} {('left', 'middle', 'right')[column]}"


def side_word(region: Region, axis: Axis, midline: Midline) -> str:
    """Patient side of a region: left, right, bilateral or midline."""
    at, counts = region.counts(axis.image_axis)
    towards_left = (at - midline.position_px) * axis.sign
    band = (BAND if midline.measured else 2 * BAND) * midline.width_px + _TIE
    left, right = counts[towards_left > band].sum() / region.area, counts[towards_left < -band].sum() / region.area
    if left >= BOTH and right >= BOTH:
        return "bilateral"
    offset = (region.centre(axis.image_axis) - midline.position_px) * axis.sign
    if abs(offset) <= band:
        return "midline"
    return "left" if offset > 0 else "right"


def body(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels clearly brighter than black, the only body outline a bare picture gives."""
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return np.asarray(grey > max(8, 0.05 * float(grey.max())))


def organ_midline(axis: Axis, organs: Sequence[OrganMask]) -> Midline | None:
    """The patient's middle as organs show it: between the two masks of a pair, else of a midline organ or a whole pair."""
    by_name: dict[str, dict[str | None, Region]] = {}
    for organ in organs:
        by_name.setdefault(organ.name, {})[organ.side] = organ.region
    pairs = [sides for sides in by_name.values() if "left" in sides and "right" in sides]
    if pairs:
        widest = max(pairs, key=lambda sides: sides["left"].area + sides["right"].area)
        left, right = widest["left"], widest["right"]
        ends = (*left.extent(axis.image_axis), *right.extent(axis.image_axis))
        return Midline((left.centre(axis.image_axis) + right.centre(axis.image_axis)) / 2, max(ends) - min(ends), True)
    whole = [organ.region for organ in organs if organ.side is None and (organ.name in SYMMETRIC or paired(organ.name))]
    return middle_of(axis, max(whole, key=lambda region: region.area)) if whole else None


def middle_of(axis: Axis, region: Region) -> Midline:
    """The middle of one region's own extent."""
    low, high = region.extent(axis.image_axis)
    return Midline((low + high) / 2, high - low, True)


def find_midline(axis: Axis, organs: Sequence[OrganMask], pixels: np.ndarray, plane: str | None) -> Midline | None:
    """The patient's middle: of the organs, else of a whole body outline.

    A body that runs out of the picture gives a guess on frontal pictures (the frame's middle, twice the band) and None
    elsewhere: a slice may be cropped to one half of the patient.
    """
    measured = organ_midline(axis, organs)
    if measured is not None:
        return measured
    outline = np.count_nonzero(body(pixels), axis=axis.image_axis)
    filled = np.flatnonzero(outline > 0.02 * pixels.shape[axis.image_axis])
    if len(filled) and filled[0] > 0 and filled[-1] + 1 < len(outline):
        low, high = int(filled[0]), int(filled[-1]) + 1
        return Midline((low + high) / 2, high - low, True)
    return Midline(len(outline) / 2, len(outline), False) if plane == "frontal" else None


def part_words(region: Region, organ: Region, directions: Directions, plane: str | None) -> dict[str, str]:
    """`vertical` and `depth` of a region within the extent of its organ, by thirds."""
    words: dict[str, str] = {}
    heights = _ZONES if plane == "frontal" else _HEIGHTS
    for key, axis, names in (("vertical", directions.vertical, heights), ("depth", directions.depth, _DEPTH)):
        if axis is not None:
            at = third(region, organ, axis.image_axis)
            words[key] = names[at if axis.sign > 0 else 2 - at]
    return words


def height_word(height: float) -> str:
    """superior, middle or inferior, of a cut through an organ at 0 (its lowest) .. 1 (its highest point along the patient)."""
    return _HEIGHTS[0 if height > 2 / 3 + _TIE else 2 if height < 1 / 3 - _TIE else 1]


def owns_side(organ: str | None) -> bool:
    """Whether left and right halve this organ (or name one of a pair), so that a side belongs to its address."""
    return organ is None or paired(organ) or organ in SYMMETRIC


def place(facts: Mapping[str, Any]) -> str:
    """The address as a noun phrase without article: `anterior part of the left kidney`, `upper left of the image`."""
    organ, in_image = facts.get("organ"), f"{facts['image_position']} of the image"
    side = facts.get("side") if facts.get("side_of") != "patient" or organ is None else None
    if organ is None:
        return in_image + {None: "", "bilateral": ", on both sides", "midline": ", at the midline"}.get(
            side, f", on the patient's {side}"
        )
    parts = _parts(facts, organ)
    adjective = f"{side} " if side in ("left", "right") else ""
    suffix = {"bilateral": ", on both sides", "midline": ", at the midline"}.get(side or "", "")
    if paired(organ):
        named = f"left and right {organ}" if side == "bilateral" else f"{adjective}{organ}"
        suffix = "" if side == "bilateral" else suffix
        text = f"{parts} of the {named}" if parts else named
    elif parts or adjective:
        text = f"{adjective}{parts or 'side'} of the {organ}"
    else:
        text = organ
    return text + suffix + ("" if parts or side else f", {in_image}")


def _parts(facts: Mapping[str, Any], organ: str) -> str:
    """`upper zone`, `anterior superior part`, or nothing; a middle word stands only where no outer one does."""
    words = [facts[key] for key in ("depth", "vertical") if key in facts]
    outer = [word for word in words if word not in _CENTRAL]
    if not words:
        return ""
    if facts.get("vertical") in _ZONES and "lung" in (organ, *ancestors(organ)):
        return f"{facts['vertical']} zone"
    middle = "central" if "central" in words else "middle"
    return f"{' '.join(outer) or middle} part"
