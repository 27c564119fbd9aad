"""Where something is, in words that the picture's plane allows, and the noun phrases made of those words.

Here because a wrong side is the one fault no reader forgives: every word comes from declared patient directions and pixel
counts, and without directions there is no patient word at all, only a place in the image. Knows masks and names; nothing of
classes, questions or models.

Location facts (each key is present only where it is known):
    image_position   one of nine places of the picture, always present
    side             left | right | bilateral | midline, of the patient
    side_of          organ | patient: what `side` halves; only an organ's own side is part of its address
    vertical         upper | mid | lower (frontal), superior | middle | inferior (coronal, sagittal, lateral)
    depth            anterior | central | posterior (axial, sagittal, lateral)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from medclm.corpus.organs import SYMMETRIC, ancestors, paired

BAND = 0.05
"""Half-width of the midline, as a share of the organ's (or pair's, or body's) width."""
BOTH = 0.25
"""Least share of a lesion beyond the midline band on each side for `bilateral`."""
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


@dataclass(frozen=True)
class OrganMask:
    """An organ of the picture, its name already read."""

    name: str
    side: str | None
    mask: np.ndarray
    """(H, W) bool."""


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


def profile(region: np.ndarray, image_axis: int) -> np.ndarray:
    """(W,) or (H,) pixel counts of an (H, W) bool region along x (0) or y (1)."""
    return np.asarray(region.sum(axis=image_axis, dtype=np.int64))


def centre(counts: np.ndarray) -> float:
    """Mean pixel coordinate of a profile, pixel i covering [i, i + 1]."""
    return float((np.arange(len(counts)) + 0.5) @ counts / counts.sum())


def extent(counts: np.ndarray) -> tuple[int, int]:
    """First and one past the last coordinate with a pixel."""
    filled = np.flatnonzero(counts)
    return int(filled[0]), int(filled[-1]) + 1


def third(counts: np.ndarray, within: np.ndarray) -> int:
    """0, 1 or 2: the third of the extent of profile `within` that holds the centre of profile `counts`."""
    low, high = extent(within)
    return int(np.clip(np.floor(3 * (centre(counts) - low) / (high - low)), 0, 2))


def image_position(region: np.ndarray) -> str:
    """One of nine places of the picture that holds the region's centre, as the viewer sees it."""
    column, row = (int(3 * centre(profile(region, axis)) / region.shape[1 - axis]) for axis in (0, 1))
    if (row, column) == (1, 1):
        return "centre"
    return f"{('upper', 'middle', 'lower')[min(row, 2)]} {('left', 'middle', 'right')[min(column, 2)]}".replace(
        "middle middle", "centre"
    )


def side_word(counts: np.ndarray, axis: Axis, midline: Midline) -> str:
    """Patient side of a profile along the side axis: left, right, bilateral or midline."""
    towards_left = (np.arange(len(counts)) + 0.5 - midline.position_px) * axis.sign
    band = (BAND if midline.measured else 2 * BAND) * midline.width_px
    total = counts.sum()
    left, right = counts[towards_left > band].sum() / total, counts[towards_left < -band].sum() / total
    if left >= BOTH and right >= BOTH:
        return "bilateral"
    offset = (centre(counts) - midline.position_px) * axis.sign
    if abs(offset) <= band:
        return "midline"
    return "left" if offset > 0 else "right"


def body(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels clearly brighter than black, the only body outline a bare picture gives."""
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return np.asarray(grey > max(8, 0.05 * float(grey.max())))


def find_midline(axis: Axis, organs: Sequence[OrganMask], pixels: np.ndarray, plane: str | None) -> Midline | None:
    """The patient's middle: between the two masks of a pair, else of a midline organ, else of a whole body outline.

    A body that runs out of the picture gives a guess on frontal pictures (the frame's middle, twice the band) and None
    elsewhere: a slice may be cropped to one half of the patient.
    """
    counts = [(organ, profile(organ.mask, axis.image_axis)) for organ in organs]
    counts = [(organ, each) for organ, each in counts if each.any()]
    by_name: dict[str, dict[str | None, np.ndarray]] = {}
    for organ, each in counts:
        by_name.setdefault(organ.name, {})[organ.side] = each
    pairs = [sides for sides in by_name.values() if "left" in sides and "right" in sides]
    if pairs:
        widest = max(pairs, key=lambda sides: int((sides["left"] + sides["right"]).sum()))
        low, high = extent(widest["left"] + widest["right"])
        return Midline((centre(widest["left"]) + centre(widest["right"])) / 2, high - low, True)
    whole = [each for organ, each in counts if organ.side is None and (organ.name in SYMMETRIC or paired(organ.name))]
    if whole:
        low, high = extent(max(whole, key=lambda each: int(each.sum())))
        return Midline((low + high) / 2, high - low, True)
    outline = profile(body(pixels), axis.image_axis)
    filled = outline > 0.02 * pixels.shape[axis.image_axis]
    if filled.any():
        low, high = extent(filled)
        if low > 0 and high < len(filled):
            return Midline((low + high) / 2, high - low, True)
    return Midline(len(filled) / 2, len(filled), False) if plane == "frontal" else None


def part_words(region: np.ndarray, organ: np.ndarray, directions: Directions, plane: str | None) -> dict[str, str]:
    """`vertical` and `depth` of a region within the extent of its organ, by thirds; both (H, W) bool, not empty."""
    words: dict[str, str] = {}
    heights = ("upper", "mid", "lower") if plane == "frontal" else ("superior", "middle", "inferior")
    for key, axis, names in (("vertical", directions.vertical, heights), ("depth", directions.depth, _DEPTH)):
        if axis is not None:
            at = third(profile(region, axis.image_axis), profile(organ, axis.image_axis))
            words[key] = names[at if axis.sign > 0 else 2 - at]
    return words


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
    if facts.get("vertical") in ("upper", "mid", "lower") and "lung" in (organ, *ancestors(organ)):
        return f"{facts['vertical']} zone"
    middle = "central" if "central" in words else "middle"
    return f"{' '.join(outer) or middle} part"
