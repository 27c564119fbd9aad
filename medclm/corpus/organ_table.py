"""The plausible-organ table: which organs or compartments may host a class of lesion, each row with its source.

A segmenter finds dozens of organs in one slice; a class of lesion belongs to a few of them. Rows are reviewed one by one, so
that a reader can dispute each; a table of the user's own replaces them (`read_table`). A class without a row may be anywhere.
Knows names only: no masks, no images.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medclm.corpus.organ_names import KNOWN, read_name
from medclm.corpus.sources.classes import canonical_class


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
_NIH = "NIH ChestX-ray14 label list, frontal chest radiographs, CVPR 2017:3462"
_VINDR = "VinDr-CXR list of 22 local labels, frontal chest radiographs, Sci Data 2022;9:429"
_RSNA = "RSNA pneumonia challenge, boxes of lung opacity, Radiol Artif Intell 2019;1:e180041"
_TBX = "TBX11K label list, frontal chest radiographs, CVPR 2020:2646"
_BRATS = "BraTS label definition, IEEE TMI 2015;34:1993"
_RSNA_ICH = "RSNA intracranial haemorrhage label list, Radiol Artif Intell 2020;2:e190211"
_DEEPLESION = "DeepLesion coarse lesion types, J Med Imaging 2018;5:036501"
_LIDC = "LIDC-IDRI, nodules of the lung on CT, Med Phys 2011;38:915"
_LITS = "LiTS, tumours of the liver on CT, Med Image Anal 2023;84:102680"
_KITS = "KiTS, tumours and cysts of the kidney on CT, Med Image Anal 2021;67:101821"
_MSD = "Medical Segmentation Decathlon task list, Nat Commun 2022;13:4128"
_BY_NAME = "the class name states its organ"

_LUNG, _PLEURA, _BRAIN, _LIVER, _KIDNEY = ("lung",), ("pleural space",), ("brain",), ("liver",), ("kidney",)
_GREAT_VESSELS = ("aorta", "pulmonary artery", "pulmonary vein", "superior vena cava", "brachiocephalic trunk")
_MEDIASTINUM = ("mediastinum", "hilum", "trachea", "esophagus", *_GREAT_VESSELS)
_ABDOMEN = ("abdomen", "aorta", "inferior vena cava", "iliac artery", "iliac vein", "ureter")
_PELVIS = ("pelvis", "colon", "small bowel", "ureter", "iliac artery", "iliac vein")
_BONES = ("rib", "clavicle", "scapula", "sternum", "humerus")


def _rows(
    names: str, organs: tuple[str, ...], source: str, *, only_projections: bool = False, state: bool = False
) -> tuple[Plausible, ...]:
    """One row for each class of a comma-separated list."""
    return tuple(Plausible(name.strip(), organs, source, only_projections, state) for name in names.split(","))


_ALL = (
    *_rows("atelectasis, consolidation, ground glass opacity, emphysema, honeycombing, bulla, pneumonia", _LUNG, _FLEISCHNER),
    *_rows("infiltration", _LUNG, _NIH),
    *_rows("interstitial lung disease, pulmonary fibrosis, lung cavity, lung cyst", _LUNG, _VINDR),
    *_rows("lung opacity", _LUNG, _RSNA),
    *_rows("nodule, diffuse nodule, mass, fibrosis", _LUNG, _CHESTX_DET, only_projections=True),
    *_rows("nodule/mass", _LUNG, _VINDR, only_projections=True),
    *_rows("edema", _LUNG, _NIH, only_projections=True),
    *_rows("tuberculosis, active tuberculosis, latent tuberculosis", _LUNG, _TBX, only_projections=True),
    *_rows("pulmonary tuberculosis, obsolete pulmonary tuberculosis", _LUNG, _TBX),
    *_rows("lung nodule, pulmonary nodule", _LUNG, _LIDC),
    *_rows("lung mass, lung tumor, lung lesion", _LUNG, _BY_NAME),
    *_rows("lung cancer", _LUNG, _MSD),
    *_rows("effusion", _PLEURA, _CHESTX_DET, only_projections=True, state=True),
    *_rows("pleural effusion, pneumothorax", _PLEURA, _FLEISCHNER, state=True),
    *_rows("pleural thickening", _PLEURA, _CHESTX_DET, state=True),
    *_rows("cardiomegaly", ("heart",), _CHESTX_DET, state=True),
    *_rows("aortic enlargement", ("aorta",), _VINDR, state=True),
    *_rows("enlarged pulmonary artery", ("pulmonary artery",), _VINDR, state=True),
    *_rows("mediastinal shift", ("mediastinum",), _VINDR, state=True),
    *_rows("calcification", (*_LUNG, *_PLEURA, *_MEDIASTINUM, "costal cartilages"), _VINDR, only_projections=True),
    *_rows("hernia", ("diaphragm", "mediastinum", "stomach", "esophagus"), _NIH, only_projections=True),
    *_rows("fracture", _BONES, _CHESTX_DET, only_projections=True),
    *_rows("rib fracture", ("rib",), _VINDR),
    *_rows("clavicle fracture", ("clavicle",), _VINDR),
    *_rows("whole tumor, tumor core, enhancing tumor", _BRAIN, _BRATS),
    *_rows("non enhancing tumor, peritumoral edema, necrotic tumor core", _BRAIN, _BRATS),
    *_rows("brain tumor, brain metastasis", _BRAIN, _BY_NAME),
    *_rows("intraparenchymal hemorrhage", _BRAIN, _RSNA_ICH),
    *_rows("intraventricular hemorrhage", ("brain ventricle",), _RSNA_ICH, state=True),
    *_rows("subdural hemorrhage", ("subdural space",), _RSNA_ICH, state=True),
    *_rows("epidural hemorrhage", ("epidural space",), _RSNA_ICH, state=True),
    *_rows("subarachnoid hemorrhage", ("subarachnoid space",), _RSNA_ICH, state=True),
    *_rows("liver tumor, hepatic tumor", _LIVER, _LITS),
    *_rows("liver cancer", _LIVER, _MSD),
    *_rows("liver lesion", _LIVER, _DEEPLESION),
    *_rows("liver cyst, liver metastasis", _LIVER, _BY_NAME),
    *_rows("kidney tumor, kidney cyst, renal tumor, renal cyst", _KIDNEY, _KITS),
    *_rows("kidney lesion", _KIDNEY, _DEEPLESION),
    *_rows("kidney stone", ("kidney", "ureter", "urinary bladder"), "calculi occur along the urinary tract"),
    *_rows("pancreas tumor, pancreas cancer, pancreatic tumor, pancreatic cancer", ("pancreas",), _MSD),
    *_rows("pancreas lesion, pancreas cyst", ("pancreas",), _BY_NAME),
    *_rows("colon cancer, colon cancer primaries, colon tumor", ("colon",), _MSD),
    *_rows("thyroid nodule", ("thyroid gland",), _BY_NAME),
    *_rows("bone lesion", ("skeleton",), _DEEPLESION),
    *_rows("abdomen lesion, abdominal lesion", _ABDOMEN, _DEEPLESION),
    *_rows("mediastinum lesion, mediastinal lesion", _MEDIASTINUM, _DEEPLESION),
    *_rows("pelvis lesion, pelvic lesion", _PELVIS, _DEEPLESION),
    *_rows("soft tissue lesion", ("soft tissue",), _DEEPLESION),
)
TABLE: Mapping[str, Plausible] = {row.lesion_class: row for row in _ALL}
"""Class -> row. `{**TABLE, ...}` adds or replaces rows; `read_table` reads another table."""

_COLUMNS = ("class", "organs", "source", "only_projections", "state")
_FLAGS = {"": False, "no": False, "false": False, "0": False, "yes": True, "true": True, "1": True}


def read_table(path: Path) -> Mapping[str, Plausible]:
    """A reviewed table of the user's own, for `anatomy.link(table=...)`; it replaces `TABLE`.

    Args:
        path: CSV with a header of `class,organs,source` and optionally `only_projections,state` (yes or no). `organs` are
            separated by `|`; class names may be written as in the source.

    Raises:
        ValueError: unreadable, another header, or a row that names no class, no organ, a side, an unknown organ, no source, a
            flag that is neither yes nor no, or a class twice; names file:row and the cure.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip().lower() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            if not set(_COLUMNS[:3]) <= set(header) <= set(_COLUMNS) or len(set(header)) != len(header):
                raise ValueError(f"{path}:1: the header is {','.join(header) or 'missing'}: give {','.join(_COLUMNS)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as CSV in UTF-8 ({type(error).__name__}): check --organ-table") from error
    table: dict[str, Plausible] = {}
    for number, cells in rows:
        row = _row({key: value for key, value in cells.items() if key is not None}, None in cells, f"{path}:{number}")
        if row.lesion_class in table:
            raise ValueError(f"{path}:{number}: class {row.lesion_class} has a row already: keep one")
        table[row.lesion_class] = row
    if not table:
        raise ValueError(f"{path}: holds no row: give at least one class, or leave --organ-table out")
    return table


def _row(cells: Mapping[str, str | None], too_long: bool, place: str) -> Plausible:
    given = {key: (value or "").strip() for key, value in cells.items()}
    if too_long:
        raise ValueError(f"{place}: more cells than the header has: put quotes around a text with a comma")
    lesion_class = canonical_class(given["class"])
    for key, value in (("class", lesion_class), ("organs", given["organs"].replace("|", "")), ("source", given["source"])):
        if not value.strip():
            raise ValueError(
                f"{place}: {key} is empty: give {'where a reader can check the row' if key == 'source' else 'one'}"
            )
    flags = {}
    for key in ("only_projections", "state"):
        word = given.get(key, "").lower()
        if word not in _FLAGS:
            raise ValueError(f"{place}: {key} is {word!r}: write yes or no")
        flags[key] = _FLAGS[word]
    organs = tuple(_organ(name, place) for name in given["organs"].split("|") if name.strip())
    return Plausible(lesion_class, organs, given["source"], flags["only_projections"], flags["state"])


def _organ(name: str, place: str) -> str:
    organ, side = read_name(name)
    if side is not None:
        raise ValueError(f"{place}: organ {name.strip()!r} has a side: write {organ}, the mask gives the side")
    if organ not in KNOWN:
        close = difflib.get_close_matches(organ, sorted(KNOWN), n=1)
        hint = f"did you mean {close[0]}?" if close else "known are e.g. lung, liver, kidney, skeleton, pleural space"
        raise ValueError(f"{place}: organ {organ!r} is not known: {hint}")
    return organ
