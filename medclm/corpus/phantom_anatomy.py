"""What a phantom shows: tables of looks (X-ray, CT, MR, ultrasound), their organs as ellipses, grey levels and lesion contrast.

Anatomy lives in a square from -1 to 1, x to the image's right and y down, as a standard picture shows it: the patient's
right side has negative x. Organs keep their true place (liver right, spleen and stomach left, right kidney lower than the
left). Only numbers stand here; how they become pixels is for phantoms.py and phantom_lesions.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLASSES = ("calcification", "contusion", "cyst", "mass", "nodule")
"""Every class occurs in every host organ and look equally often, so that neither question nor organ gives the class away."""


@dataclass(frozen=True)
class Ellipse:
    """Centre, half axes, tilt in degrees (clockwise on the screen)."""

    x: float
    y: float
    a: float
    b: float
    tilt: float = 0.0
    cut: bool = False
    """Taken away from the part instead of added."""
    boxy: bool = False
    """Rounded rectangle |u|^4 + |v|^4 < 1."""


@dataclass(frozen=True)
class Part:
    """A union of ellipses of one tissue; with a name it is an organ that gets a mask and may carry lesions."""

    tissue: str
    ellipses: tuple[Ellipse, ...]
    name: str | None = None
    """Mask name as in `SourceImage.organs`."""
    opacity: float = 1.0
    """Below 1 what lies behind shines through (bones on a radiograph)."""


@dataclass(frozen=True)
class Contrast:
    """What a lesion adds to the grey level of its organ."""

    core: float
    rim: float = 0.0
    behind: float = 0.0
    """Ultrasound: relative change of the echo below the lesion (shadow < 0 < enhancement)."""


@dataclass(frozen=True)
class Look:
    """One kind of picture. Grey levels are display units 0..1, for CT Hounsfield units."""

    modality: str
    plane: str
    technique: str | None
    view: str | None
    directions: str | None
    """Patient directions of the plain (not mirrored) picture."""
    title: str
    """How a report names it."""
    parts: tuple[Part, ...]
    """Painted in this order; later ones lie in front."""
    levels: Mapping[str, float]
    contrast: Mapping[str, Contrast]
    host_weights: Mapping[str, float]
    """Organ without side -> how often it carries a lesion."""
    texture: float
    """Standard deviation of slow grey changes within the body."""
    noise: float
    """Standard deviation of pixel noise; for ultrasound relative (speckle)."""
    window: tuple[float, float] | None = None
    """CT: centre and width in HU."""
    sector: bool = False
    """Seen through an ultrasound fan."""


LESION_SIDES = {
    "calcification": (0.19, 0.32),
    "contusion": (0.21, 0.34),
    "cyst": (0.18, 0.32),
    "mass": (0.21, 0.34),
    "nodule": (0.17, 0.31),
}
"""Longest side over image side, drawn evenly between; it shrinks, at most to FLOOR_SIDE, where the organ is too small."""
FLOOR_SIDE = 0.165
SIDE_LIMITS = (0.125, 0.345)
"""No side of a box leaves these; 0.125 is 8 pixels of a 64-pixel model."""
SMALL_SIDES = (0.03, 0.055)
"""The same for small lesions of any class."""
SHORTEST, LONGEST = 2 / 3, 12 / 11
"""No side of their boxes leaves these multiples of the least and the largest of the drawn sides: 2 to 6 % of the image side."""


def _organ(name: str, *ellipses: Ellipse) -> Part:
    return Part(tissue=organ_of(name), ellipses=ellipses, name=name)


def organ_of(mask_name: str) -> str:
    """Organ without its side: `kidney left` -> `kidney`."""
    return mask_name.removesuffix(" left").removesuffix(" right")


def side_of(mask_name: str) -> str | None:
    """`left` or `right` of a side-named mask, else None."""
    last = mask_name.rsplit(" ", 1)[-1]
    return last if last in ("left", "right") else None


_AXIAL = (
    Part("fat", (Ellipse(0, 0, 0.95, 0.80),)),
    Part("muscle", (Ellipse(0, 0, 0.87, 0.72),)),
    Part("belly", (Ellipse(0, -0.06, 0.80, 0.60),)),
    _organ("stomach", Ellipse(0.34, -0.32, 0.29, 0.23, 20), Ellipse(0.16, -0.20, 0.16, 0.13)),
    _organ("liver", Ellipse(-0.46, -0.13, 0.35, 0.42, 12), Ellipse(-0.20, -0.33, 0.28, 0.21, 15)),
    _organ("spleen", Ellipse(0.62, 0.13, 0.20, 0.35, -12), Ellipse(0.33, 0.08, 0.17, 0.22, -12, cut=True)),
    _organ("kidney right", Ellipse(-0.37, 0.43, 0.21, 0.23, -20), Ellipse(-0.14, 0.38, 0.09, 0.07, cut=True)),
    _organ("kidney left", Ellipse(0.35, 0.42, 0.21, 0.23, 20), Ellipse(0.12, 0.37, 0.09, 0.07, cut=True)),
    Part("bone", (Ellipse(0, 0.42, 0.14, 0.12), Ellipse(0, 0.62, 0.05, 0.12))),
    Part("vessel", (Ellipse(0.05, 0.22, 0.065, 0.065),)),
)
_CORONAL = (
    Part("fat", (Ellipse(0, 0, 0.86, 1.05, boxy=True),)),
    Part("muscle", (Ellipse(0, 0, 0.79, 1.05, boxy=True),)),
    Part("belly", (Ellipse(0, -0.02, 0.72, 0.95, boxy=True),)),
    _organ("stomach", Ellipse(0.25, -0.36, 0.20, 0.30, 25), Ellipse(0.06, -0.10, 0.19, 0.13, -15)),
    _organ("liver", Ellipse(-0.40, -0.44, 0.31, 0.38, 8), Ellipse(-0.12, -0.58, 0.26, 0.19, -8)),
    _organ("spleen", Ellipse(0.57, -0.40, 0.18, 0.34, -12), Ellipse(0.34, -0.36, 0.13, 0.18, -12, cut=True)),
    Part("bone", (Ellipse(0, 0.15, 0.11, 1.0, boxy=True),)),
    Part("muscle", (Ellipse(-0.20, 0.60, 0.10, 0.40, 10), Ellipse(0.20, 0.60, 0.10, 0.40, -10))),
    _organ("kidney right", Ellipse(-0.40, 0.30, 0.21, 0.33, 14), Ellipse(-0.16, 0.32, 0.09, 0.10, cut=True)),
    _organ("kidney left", Ellipse(0.40, 0.22, 0.21, 0.33, -14), Ellipse(0.16, 0.24, 0.09, 0.10, cut=True)),
)
_RIBS = tuple(
    Part(
        "bone",
        (Ellipse(sign * 0.36, y, 0.42, 0.20, sign * 14), Ellipse(sign * 0.36, y + 0.05, 0.40, 0.20, sign * 14, cut=True)),
        opacity=0.13,
    )
    for y in (-0.55, -0.33, -0.11, 0.11)
    for sign in (-1, 1)
)
_CHEST = (
    Part("soft", (Ellipse(0, 0.35, 0.90, 1.20, boxy=True), Ellipse(0, -0.9, 0.22, 0.5))),
    _organ("lung right", Ellipse(-0.43, -0.22, 0.31, 0.52, 6)),
    _organ("lung left", Ellipse(0.43, -0.22, 0.30, 0.52, -6)),
    _organ("liver", Ellipse(-0.37, 0.60, 0.43, 0.30, 5), Ellipse(0.0, 0.55, 0.24, 0.16)),
    _organ("stomach", Ellipse(0.44, 0.62, 0.31, 0.27, -10)),
    _organ("heart", Ellipse(0.13, 0.12, 0.33, 0.27, 32), Ellipse(0.0, -0.20, 0.13, 0.30)),
    Part("bone", (Ellipse(0, 0, 0.075, 1.1, boxy=True),), opacity=0.2),
    *_RIBS,
)
_KIDNEY_SINUS = Part("sinus", (Ellipse(0.25, 0.42, 0.20, 0.055, -12),), opacity=0.6)
_US_RIGHT = (
    Part("tissue", (Ellipse(0, 0, 2, 2),)),
    _organ("liver", Ellipse(-0.12, -0.22, 0.66, 0.46, -8), Ellipse(-0.34, 0.12, 0.32, 0.30)),
    _organ("kidney right", Ellipse(0.25, 0.42, 0.43, 0.26, -12)),
    _KIDNEY_SINUS,
)
_US_LEFT = (
    Part("tissue", (Ellipse(0, 0, 2, 2),)),
    _organ("spleen", Ellipse(0.10, -0.25, 0.58, 0.36, 12), Ellipse(0.0, 0.22, 0.42, 0.22, 8, cut=True)),
    _organ("kidney left", Ellipse(-0.20, 0.36, 0.43, 0.26, 14)),
    Part("sinus", (Ellipse(-0.20, 0.36, 0.20, 0.055, 14),), opacity=0.6),
)
_US_MIDDLE = (
    Part("tissue", (Ellipse(0, 0, 2, 2),)),
    _organ("liver", Ellipse(-0.22, -0.28, 0.46, 0.36, 14)),
    _organ("stomach", Ellipse(0.26, 0.26, 0.40, 0.30, -25)),
    Part("vessel", (Ellipse(-0.26, 0.52, 0.10, 0.08),)),
)


_US_SUBCOSTAL = (
    Part("tissue", (Ellipse(0, 0, 2, 2),)),
    _organ("liver", Ellipse(-0.10, -0.50, 0.52, 0.24, -6)),
    _organ("heart", Ellipse(0.05, 0.25, 0.50, 0.42, -28)),
    Part("sinus", (Ellipse(0.05, 0.25, 0.42, 0.03, -28),), opacity=0.5),
)


def _radiograph() -> Look:
    return Look(
        modality="DX",
        plane="frontal",
        technique=None,
        view="PA",
        directions="L\\F",
        title="Frontal radiograph of the chest and upper abdomen.",
        parts=_CHEST,
        levels={"air": 0.04, "soft": 0.34, "lung": 0.15, "heart": 0.40, "liver": 0.42, "stomach": 0.32, "bone": 0.60},
        contrast={
            "calcification": Contrast(0.62),
            "cyst": Contrast(-0.22, 0.50),
            "contusion": Contrast(0.36),
            "mass": Contrast(0.48),
            "nodule": Contrast(0.48),
        },
        host_weights={"lung": 0.6, "heart": 0.4},
        texture=0.02,
        noise=0.02,
    )


def _ct() -> Look:
    return Look(
        modality="CT",
        plane="axial",
        technique=None,
        view=None,
        directions="L\\P",
        title="Axial CT of the abdomen.",
        parts=_AXIAL,
        levels={
            "air": -1000.0,
            "fat": -95.0,
            "muscle": 45.0,
            "belly": -70.0,
            "liver": 80.0,
            "spleen": 95.0,
            "kidney": 115.0,
            "stomach": 52.0,
            "bone": 150.0,
            "vessel": 130.0,
        },
        contrast={
            "calcification": Contrast(480.0),
            "cyst": Contrast(-120.0, 260.0),
            "contusion": Contrast(190.0),
            "mass": Contrast(260.0),
            "nodule": Contrast(260.0),
        },
        host_weights={"liver": 0.22, "spleen": 0.26, "kidney": 0.30, "stomach": 0.22},
        texture=7.0,
        noise=13.0,
        window=(120.0, 560.0),
    )


# Fat-suppressed, so that organs stand out.
_MR_LEVELS = {
    "t1c": {
        "air": 0.02,
        "fat": 0.20,
        "muscle": 0.24,
        "belly": 0.13,
        "liver": 0.37,
        "spleen": 0.31,
        "kidney": 0.42,
        "stomach": 0.26,
        "bone": 0.19,
        "vessel": 0.50,
    },
    "t2": {
        "air": 0.02,
        "fat": 0.19,
        "muscle": 0.12,
        "belly": 0.10,
        "liver": 0.26,
        "spleen": 0.36,
        "kidney": 0.41,
        "stomach": 0.31,
        "bone": 0.22,
        "vessel": 0.03,
    },
}
_MR_CONTRAST = {
    "t1c": {
        "calcification": Contrast(0.60),
        "cyst": Contrast(-0.27, 0.45),
        "contusion": Contrast(0.40),
        "mass": Contrast(0.50),
        "nodule": Contrast(0.50),
    },
    # Fluid is bright on T2, its capsule dark.
    "t2": {
        "calcification": Contrast(-0.40),
        "cyst": Contrast(0.60, -0.34),
        "contusion": Contrast(0.36),
        "mass": Contrast(0.45),
        "nodule": Contrast(0.45),
    },
}


def _mr(technique: str, plane: str) -> Look:
    weighting = {"t1c": "contrast-enhanced T1-weighted", "t2": "T2-weighted"}[technique]
    return Look(
        modality="MR",
        plane=plane,
        technique=technique,
        view=None,
        directions={"axial": "L\\P", "coronal": "L\\F"}[plane],
        title=f"{plane.capitalize()} {weighting} MR of the abdomen.",
        parts={"axial": _AXIAL, "coronal": _CORONAL}[plane],
        levels=_MR_LEVELS[technique],
        contrast=_MR_CONTRAST[technique],
        host_weights={"liver": 0.22, "spleen": 0.26, "kidney": 0.30, "stomach": 0.22},
        texture=0.025,
        noise=0.02,
    )


def _ultrasound(parts: tuple[Part, ...], host_weights: Mapping[str, float]) -> Look:
    return Look(
        modality="US",
        plane="none",
        technique=None,
        view=None,
        directions=None,
        title="Ultrasound of the upper abdomen.",
        parts=parts,
        levels={
            "air": 0.0,
            "tissue": 0.42,
            "liver": 0.37,
            "spleen": 0.40,
            "kidney": 0.27,
            "sinus": 0.50,
            "stomach": 0.30,
            "heart": 0.24,
            "vessel": 0.16,
        },
        contrast={
            "calcification": Contrast(0.70, behind=-0.55),
            "cyst": Contrast(-0.36, 0.45, behind=0.25),
            "contusion": Contrast(0.36),
            "mass": Contrast(0.52),
            "nodule": Contrast(0.52),
        },
        host_weights=host_weights,
        texture=0.02,
        noise=0.08,
        sector=True,
    )


LOOKS: tuple[tuple[Look, ...], ...] = (
    (_radiograph(),),
    (_ct(),),
    (_mr("t1c", "axial"), _mr("t1c", "coronal"), _mr("t2", "axial"), _mr("t2", "coronal")),
    (
        _ultrasound(_US_RIGHT, {"liver": 0.4, "kidney": 0.6}),
        _ultrasound(_US_LEFT, {"spleen": 0.6, "kidney": 0.4}),
        _ultrasound(_US_MIDDLE, {"liver": 0.3, "stomach": 0.7}),
        _ultrasound(_US_SUBCOSTAL, {"liver": 0.3, "heart": 0.7}),
    ),
)
"""Modality -> its pictures; a modality is drawn evenly, then one of its pictures."""
