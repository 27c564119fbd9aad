"""What may host what: the reviewed table of plausible organs, the part-of hierarchy, and how organ names are read.

A segmenter finds dozens of organs in one slice; a class of lesion belongs to a few of them. Rows are reviewed one by one
and carry their source, so that a reader can dispute each. Knows names only: no masks, no images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PROJECTIONS = frozenset({"DX", "CR", "XR", "RG", "RF", "PX", "MG"})
"""Modalities whose picture is a sum along the ray: an organ is projected over, never seen into."""


@dataclass(frozen=True)
class Plausible:
    """One row: a lesion class and where it can be."""

    lesion_class: str
    organs: tuple[str, ...]
    """Organs or compartments without side, parts included implicitly."""
    source: str
    """Where a reader can check the row."""
    only_projections: bool = False
    """The row speaks of radiographs alone; on other pictures the class may be anywhere."""
    state: bool = False
    """A state of an organ or a compartment rather than a thing in it: the table names the organ, a mask only the side."""


_FLEISCHNER = "Fleischner Society glossary of terms for thoracic imaging, Radiology 2008;246:697"
_CHESTX_DET = "ChestX-Det class list, frontal chest radiographs"
_VINDR = "VinDr-CXR label list, frontal chest radiographs"
_BRATS = "BraTS label definition, IEEE TMI 2015;34:1993"
_RSNA_ICH = "RSNA intracranial haemorrhage label list, Radiol Artif Intell 2020;2:e190211"
_BY_NAME = "the class name states its organ"

_LUNG = ("lung",)
_ROWS = (
    Plausible("atelectasis", _LUNG, _FLEISCHNER),
    Plausible("consolidation", _LUNG, _FLEISCHNER),
    Plausible("ground glass opacity", _LUNG, _FLEISCHNER),
    Plausible("emphysema", _LUNG, _FLEISCHNER),
    Plausible("honeycombing", _LUNG, _FLEISCHNER),
    Plausible("bulla", _LUNG, _FLEISCHNER),
    Plausible("infiltration", _LUNG, _VINDR),
    Plausible("interstitial lung disease", _LUNG, _VINDR),
    Plausible("pulmonary fibrosis", _LUNG, _VINDR),
    Plausible("lung opacity", _LUNG, _VINDR),
    Plausible("lung nodule", _LUNG, _BY_NAME),
    Plausible("lung mass", _LUNG, _BY_NAME),
    Plausible("lung tumor", _LUNG, _BY_NAME),
    Plausible("pneumonia", _LUNG, _FLEISCHNER),
    Plausible("nodule", _LUNG, _CHESTX_DET, only_projections=True),
    Plausible("diffuse nodule", _LUNG, _CHESTX_DET, only_projections=True),
    Plausible("mass", _LUNG, _CHESTX_DET, only_projections=True),
    Plausible("fibrosis", _LUNG, _CHESTX_DET, only_projections=True),
    Plausible("effusion", ("pleural space",), _CHESTX_DET, only_projections=True, state=True),
    Plausible("pleural effusion", ("pleural space",), _FLEISCHNER, state=True),
    Plausible("pleural thickening", ("pleural space",), _CHESTX_DET, state=True),
    Plausible("pneumothorax", ("pleural space",), _FLEISCHNER, state=True),
    Plausible("cardiomegaly", ("heart",), _CHESTX_DET, state=True),
    Plausible("aortic enlargement", ("aorta",), _VINDR, state=True),
    Plausible("fracture", ("rib", "clavicle", "scapula", "sternum", "humerus"), _CHESTX_DET, only_projections=True),
    Plausible("rib fracture", ("rib",), _BY_NAME),
    Plausible("clavicle fracture", ("clavicle",), _BY_NAME),
    Plausible("whole tumor", ("brain",), _BRATS),
    Plausible("tumor core", ("brain",), _BRATS),
    Plausible("enhancing tumor", ("brain",), _BRATS),
    Plausible("brain tumor", ("brain",), _BY_NAME),
    Plausible("intraparenchymal hemorrhage", ("brain",), _RSNA_ICH),
    Plausible("intraventricular hemorrhage", ("brain ventricle",), _RSNA_ICH, state=True),
    Plausible("subdural hemorrhage", ("subdural space",), _RSNA_ICH, state=True),
    Plausible("epidural hemorrhage", ("epidural space",), _RSNA_ICH, state=True),
    Plausible("subarachnoid hemorrhage", ("subarachnoid space",), _RSNA_ICH, state=True),
    Plausible("liver tumor", ("liver",), _BY_NAME),
    Plausible("liver lesion", ("liver",), _BY_NAME),
    Plausible("liver cyst", ("liver",), _BY_NAME),
    Plausible("kidney tumor", ("kidney",), _BY_NAME),
    Plausible("kidney stone", ("kidney", "ureter", "urinary bladder"), "calculi occur along the urinary tract"),
    Plausible("kidney cyst", ("kidney",), _BY_NAME),
    Plausible("pancreas tumor", ("pancreas",), _BY_NAME),
    Plausible("colon tumor", ("colon",), _BY_NAME),
    Plausible("thyroid nodule", ("thyroid gland",), _BY_NAME),
)
TABLE: Mapping[str, Plausible] = {row.lesion_class: row for row in _ROWS}
"""Class -> row. Pass `{**TABLE, ...}` to `anatomy.link` to add or replace rows."""

ANY_ORGAN_SOURCES = frozenset({"phantoms"})
"""Sources whose classes are invented shapes that occur in every organ, whatever a real class of that name would do."""

_PARTS = {
    "lung": ("lung upper lobe", "lung middle lobe", "lung lower lobe"),
    "heart": ("heart atrium", "heart ventricle", "heart myocardium", "atrial appendage"),
    "brain": ("cerebrum", "cerebellum", "brainstem", "brain ventricle", "frontal lobe", "temporal lobe"),
    "mediastinum": ("heart", "esophagus", "trachea", "aorta", "thymus"),
    "thorax": ("lung", "mediastinum", "pleural space", "rib", "sternum"),
    "abdomen": (
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
    ),
    "liver": tuple(f"liver segment {number}" for number in range(1, 9)),
    "rib": tuple(f"rib {number}" for number in range(1, 13)),
    "vertebrae": tuple(
        f"vertebrae {letter}{number}" for letter, last in (("c", 7), ("t", 12), ("l", 5)) for number in range(1, last + 1)
    ),
    "skeleton": ("rib", "vertebrae", "sternum", "clavicle", "scapula", "skull"),
}
_PARENT = {
    part: whole
    for whole in ("skeleton", "thorax", "abdomen", "mediastinum", "lung", "heart", "brain", "liver", "rib", "vertebrae")
    for part in _PARTS[whole]
}

_PLAIN = {"lungs": "lung", "kidneys": "kidney", "clavicula": "clavicle", "ribs": "rib", "bladder": "urinary bladder"}
_OWN_SIDE = frozenset({"heart atrium", "heart ventricle", "atrium", "ventricle", "atrial appendage", "brachiocephalic vein"})
"""Here left and right belong to the name of the part, not to the half of the body it lies in."""

PAIRED = frozenset(
    {"lung", "lung upper lobe", "lung lower lobe", "lung middle lobe", "kidney", "adrenal gland", "pleural space", "rib"}
    | {"clavicle", "scapula", "humerus", "femur", "hip", "breast", "ovary", "testis", "ureter", "eye", "orbit", "thyroid lobe"}
)
"""Organs of which each half of the body has its own: their side is part of their address."""
SYMMETRIC = frozenset(
    {"brain", "cerebrum", "cerebellum", "brainstem", "skull", "prostate", "uterus", "urinary bladder", "thyroid gland"}
    | {"thorax", "mediastinum", "abdomen", "pelvis", "vertebrae", "sternum", "spinal cord", "mandible"}
)
"""Single organs on the midline: their own middle is the patient's."""
SHADOWED: Mapping[str, tuple[str, ...]] = {
    "lung": ("heart", "mediastinum", "aorta", "diaphragm", "liver", "stomach", "spleen"),
    "pleural space": ("heart", "mediastinum", "aorta", "diaphragm", "liver", "stomach", "spleen"),
}
"""Organ -> whose shadow covers parts of it on a radiograph, where segmenters leave it out (Fleischner glossary: silhouette sign)."""


def read_name(name: str) -> tuple[str, str | None]:
    """Organ without side, and the patient's side in its name: `kidney left` -> (`kidney`, `left`), `rib left 3` -> (`rib 3`, `left`)."""
    words = name.lower().replace("_", " ").split()
    sides = [word for word in words if word in ("left", "right")]
    organ = " ".join(word for word in words if word not in ("left", "right"))
    organ = _PLAIN.get(organ, organ)
    if len(sides) != 1:
        return " ".join(words) if sides else organ, None
    return (f"{sides[0]} {organ}", None) if organ in _OWN_SIDE else (organ, sides[0])


def ancestors(organ: str) -> tuple[str, ...]:
    """Wholes that the organ is part of, nearest first."""
    found: list[str] = []
    at = organ
    while at in _PARENT:
        at = _PARENT[at]
        found.append(at)
    return tuple(found)


def paired(organ: str) -> bool:
    """Whether each half of the body has its own."""
    return organ in PAIRED or any(whole in PAIRED for whole in ancestors(organ))


def is_projection(modality: str | None, plane: str | None) -> bool:
    """Whether depth is summed in this picture, so that organs are projected over."""
    return modality in PROJECTIONS or plane in ("frontal", "lateral")


def row_for(lesion_class: str, *, source: str, projection: bool, table: Mapping[str, Plausible] = TABLE) -> Plausible | None:
    """The table's row for a class, None where it says nothing: then every organ is a candidate."""
    row = None if source in ANY_ORGAN_SOURCES else table.get(lesion_class)
    if row is not None and row.only_projections and not projection:
        return None
    return row


def allows(row: Plausible | None, organ: str) -> bool:
    """Whether `organ` or a whole that it is part of is plausible."""
    return row is None or bool({organ, *ancestors(organ)} & set(row.organs))


def host_names(table: Mapping[str, Plausible] = TABLE) -> frozenset[str]:
    """Every organ name this page knows, for checks of texts."""
    named = {organ for row in table.values() for organ in row.organs}
    return frozenset(named | set(_PARTS) | set(_PARENT) | PAIRED | SYMMETRIC)
