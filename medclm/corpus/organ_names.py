"""Names of organs: how a segmenter's name is read, what is part of what, which organs come in pairs, which sit on the midline.

The tree is one of truth, not of neighbourhood: a part stands under a whole only where it always lies within it. So the aorta,
trachea and oesophagus have no whole (each leaves the mediastinum), and rows of the plausible-organ table name them one by one.
All 117 structures of TotalSegmentator's task `total`, the 50 of `total_mr` and the chest segmenters' targets are known here.
Knows names alone: no masks, no lesions, no table.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

_VERTEBRAE = {
    "cervical spine": tuple(f"vertebra c{number}" for number in range(1, 8)),
    "thoracic spine": tuple(f"vertebra t{number}" for number in range(1, 13)),
    "lumbar spine": tuple(f"vertebra l{number}" for number in range(1, 6)),
    "sacrum": ("vertebra s1",),
}
_HEART = tuple(f"{side} heart {part}" for side in ("left", "right") for part in ("atrium", "ventricle"))
_MUSCLES = ("gluteus maximus", "gluteus medius", "gluteus minimus", "autochthonous back muscle", "iliopsoas")
_ABDOMINAL = (
    "liver",
    "spleen",
    "kidney",
    "pancreas",
    "stomach",
    "gallbladder",
    "adrenal gland",
    "colon",
    "small bowel",
    "duodenum",
)
_PAIRED_BONES = ("clavicle", "scapula", "humerus", "radius", "ulna", "hip", "femur", "patella", "tibia", "fibula")

PARTS: Mapping[str, tuple[str, ...]] = {
    "thorax": ("lung", "mediastinum", "pleural space"),
    "mediastinum": ("heart", "thymus"),
    "lung": ("lung upper lobe", "lung middle lobe", "lung lower lobe"),
    "heart": (
        *_HEART,
        "heart atrium",
        "heart ventricle",
        "heart myocardium",
        "left atrial appendage",
        "right atrial appendage",
    ),
    "aorta": ("ascending aorta", "aortic arch", "descending aorta"),
    "diaphragm": ("hemidiaphragm",),
    "brain": ("cerebrum", "cerebellum", "brainstem", "brain ventricle"),
    "cerebrum": ("frontal lobe", "parietal lobe", "temporal lobe", "occipital lobe", "hippocampus", "thalamus"),
    "abdomen": (*_ABDOMINAL, "portal vein and splenic vein"),
    "liver": tuple(f"liver segment {number}" for number in range(1, 9)),
    "pelvis": ("urinary bladder", "prostate", "uterus", "ovary", "rectum", "seminal vesicle"),
    "skeleton": ("spine", "rib", "costal cartilages", "sternum", "skull", "mandible", *_PAIRED_BONES),
    "rib": tuple(f"rib {number}" for number in range(1, 13)),
    "spine": ("cervical spine", "thoracic spine", "lumbar spine", "sacrum", "intervertebral discs"),
    "soft tissue": (*_MUSCLES, "breast"),
    **_VERTEBRAE,
}
"""Whole -> parts, nearest level only."""
_PARENT = {part: whole for whole, parts in PARTS.items() for part in parts}

ALONE = frozenset(
    {"aorta", "trachea", "esophagus", "thyroid gland", "spinal cord", "diaphragm", "hilum", "ureter"}
    | {"pulmonary artery", "pulmonary vein", "superior vena cava", "inferior vena cava", "brachiocephalic trunk"}
    | {"left brachiocephalic vein", "right brachiocephalic vein", "subclavian artery", "common carotid artery"}
    | {"iliac artery", "iliac vein", "subdural space", "epidural space", "subarachnoid space"}
)
"""Known organs without a whole of their own."""

PAIRED = frozenset(
    {"lung", "kidney", "adrenal gland", "pleural space", "rib", "hemidiaphragm", "hilum", "ureter", "breast", "ovary", "testis"}
    | {"eye", "orbit", "parotid gland", "thyroid lobe", "hippocampus", "thalamus", *_PAIRED_BONES, *_MUSCLES}
    | {"subclavian artery", "common carotid artery", "iliac artery", "iliac vein"}
)
"""Organs of which each half of the body has its own: their side is part of their address. Their parts are paired too."""
SYMMETRIC = frozenset(
    {"brain", "cerebrum", "cerebellum", "brainstem", "skull", "mandible", "prostate", "uterus", "urinary bladder", "rectum"}
    | {"thyroid gland", "thorax", "mediastinum", "abdomen", "pelvis", "sternum", "costal cartilages", "spinal cord"}
    | {"spine", "intervertebral discs", *_VERTEBRAE, *(each for region in _VERTEBRAE.values() for each in region)}
)
"""Single organs on the midline: their own middle is the patient's."""

_PLAIN = {
    "lungs": "lung",
    "kidneys": "kidney",
    "kidney cyst": "kidney",  # TotalSegmentator cuts cysts out of its kidney; a lesion in one lies in the kidney
    "clavicula": "clavicle",
    "ribs": "rib",
    "bladder": "urinary bladder",
    "oesophagus": "esophagus",
    "iliac vena": "iliac vein",
    "autochthon": "autochthonous back muscle",
    "vertebrae": "spine",
    "gall bladder": "gallbladder",
    "small intestine": "small bowel",
    "suprarenal gland": "adrenal gland",
    "adrenal": "adrenal gland",
    "hilus pulmonis": "hilum",
    "facies diaphragmatica": "diaphragm",
    "rib cartilage": "costal cartilages",
    "cardiomediastinum": "mediastinum",
}
_OWN_SIDE = frozenset({"heart atrium", "heart ventricle", "atrium", "ventricle", "atrial appendage", "brachiocephalic vein"})
"""Here left and right belong to the name of the part, not to the half of the body it lies in."""
_VERTEBRA = re.compile(r"vertebrae? ([ctls]\d{1,2})")
_NUMBERED_RIB = re.compile(r"(?:(?:anterior|posterior) )?(\d{1,2})(?:st|nd|rd|th) rib")


@functools.lru_cache(maxsize=4096)
def read_name(name: str) -> tuple[str, str | None]:
    """Organ without side, and the patient's side in its name: `kidney left` -> (`kidney`, `left`), `rib_left_3` -> (`rib 3`, `left`)."""
    words = re.split(r"[\s_]+", name.strip().lower())
    sides = [word for word in words if word in ("left", "right")]
    organ = _plain(" ".join(word for word in words if word not in ("left", "right")))
    if len(sides) != 1:
        return " ".join(words) if sides else organ, None
    return (f"{sides[0]} {organ}", None) if organ in _OWN_SIDE else (organ, sides[0])


def _plain(organ: str) -> str:
    for pattern, form in ((_VERTEBRA, "vertebra {}"), (_NUMBERED_RIB, "rib {}")):
        found = pattern.fullmatch(organ)
        if found:
            return form.format(found.group(1))
    return _PLAIN.get(organ, organ)


@functools.lru_cache(maxsize=4096)
def side_in_class(lesion_class: str) -> str | None:
    """The patient's side that a class of lesion names: `left lung` -> left, but `left atrial enlargement` -> None.

    Only the side of a paired organ is one; elsewhere left and right may belong to the name of a part.
    """
    organ, side = read_name(lesion_class)
    return side if any(re.search(rf"\b{re.escape(each)}\b", organ) for each in PAIRED) else None


@functools.lru_cache(maxsize=4096)
def structure(lesion_class: str) -> str | None:
    """The organ that a class is, without its side: `left kidney` -> kidney, but `kidney cyst` -> None."""
    organ, _ = read_name(lesion_class)
    words = [word for word in lesion_class.lower().replace("_", " ").split() if word not in ("left", "right")]
    return organ if organ in KNOWN and len(words) <= len(organ.split()) else None


@functools.lru_cache(maxsize=4096)
def ancestors(organ: str) -> tuple[str, ...]:
    """Wholes that the organ is part of, nearest first."""
    found: list[str] = []
    at = organ
    while at in _PARENT:
        at = _PARENT[at]
        found.append(at)
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def related(one: str, other: str) -> bool:
    """Whether they are the same organ or one is part of the other."""
    return one == other or one in ancestors(other) or other in ancestors(one)


@functools.lru_cache(maxsize=4096)
def paired(organ: str) -> bool:
    """Whether each half of the body has its own."""
    return organ in PAIRED or any(whole in PAIRED for whole in ancestors(organ))


KNOWN = frozenset({*PARTS, *_PARENT, *ALONE, *PAIRED, *SYMMETRIC})
"""Every organ that is named here."""
