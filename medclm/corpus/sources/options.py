"""What a user declares about a dataset, since its files do not say it: one set of options for every format.

Which of them a format reads stands in sources/registry.py; one that it does not read is refused there.

Unknown stays None; nothing is read from a path's words. Checked once here, so that sources can trust it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medclm.corpus.pixels import MAX_PIXELS
from medclm.corpus.sources.classes import canonical_class, organ_name

PLANES = ("frontal", "lateral", "axial", "coronal", "sagittal", "oblique", "none")
_AXES = {"L": "side", "R": "side", "A": "depth", "P": "depth", "H": "height", "F": "height"}
_AXES_OF_PLANE = {
    "axial": {"side", "depth"},
    "frontal": {"side", "height"},
    "coronal": {"side", "height"},
    "sagittal": {"depth", "height"},
    "lateral": {"depth", "height"},
}


@dataclass(frozen=True)
class SourceOptions:
    """Declarations about one dataset; class names here may be written as in the source and are made canonical."""

    name: str
    """Name of the source in the corpus, e.g. `brats`."""
    modality: str | None = None
    """DICOM code: DX, CT, MR, US, SM, ES, ..."""
    plane: str | None = None
    """One of PLANES."""
    patient_directions: str | None = None
    """--orientation: patient direction of +x, backslash, of +y, e.g. "L\\P"; None = unknown, and no side is ever named."""
    technique: str | None = None
    """Technique of every image, e.g. `t1c`; excludes technique_field."""
    patient_field: str | None = None
    """Field of a COCO image entry that holds the patient id."""
    technique_field: str | None = None
    """Field of a COCO image entry that holds the technique, e.g. `sequence`."""
    split_field: str | None = None
    """Field of a COCO image entry that holds the official split (train, val or test)."""
    lesion_3d_field: str | None = None
    """Field of a COCO annotation that is equal for all slices and sequences of one lesion of a patient."""
    organs: tuple[str, ...] = ()
    """NAME=TEMPLATE, see organ_masks.py."""
    organ_root: Path | None = None
    """Folder that TEMPLATE is relative to; None = the folder of the annotation file (VOC: of the annotation folder)."""
    exhaustive: tuple[str, ...] = ()
    """Classes that were annotated on every image wherever they occur; only they may be said to be absent."""
    visible_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class -> techniques on which it can be seen; a class that is not a key is visible on all."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Class as written -> canonical name, before the built-in aliases."""
    licence: str = "unknown"
    shareable: bool = False
    """Whether the pictures may leave this machine."""
    box_format: str = "auto"
    """COCO only: auto (the standard's corner and size, refused where the numbers speak for two corners), xywh or xyxy."""
    box_frame: str = "auto"
    """Frame of annotations on pictures with an EXIF orientation: auto (by the declared size), stored or upright."""
    window: tuple[float, float] | None = None
    """(centre, width) for grey pictures of more than 8 bits."""
    window_mode: str = "single"
    """CT only: single, or multi3 (lung, soft tissue and bone window in the three colour channels)."""
    burned_in: str = "reject"
    """Pictures that may hold an identifier in their pixels (BurnedInAnnotation, secondary capture, ultrasound without regions):
    reject, mask (black over the borders where such text stands) or allow."""
    classes: Path | None = None
    """File of class names: YOLO's names, or value -> name of label maps (see corpus/class_maps.py)."""
    image_labels: Path | None = None
    """Table with labels of whole images: RSNA's detailed class info, NIH's Data_Entry, VinDr's image labels."""
    split_list: Path | None = None
    """The dataset's own split: NIH's test list, MIMIC's split table."""
    reports: Path | None = None
    """Folder or table of reports that belong to the images."""
    reports_deidentified: bool = False
    """The user's word that identifiers were removed from the reports; without it none is stored."""
    readers: str = "fuse"
    """Several readers per image: fuse (overlapping boxes become one), majority (at least half of them marked it) or all."""
    lesions: tuple[str, ...] = ()
    """Classes of a label map that are annotations; the others are organs. Empty = all are annotations."""
    slices: int = 2
    """Volumes: slices per lesion besides the one of largest area."""
    max_pixels: int = MAX_PIXELS
    """Largest picture that is decoded."""

    def __post_init__(self) -> None:
        for option, allowed in (
            ("plane", (None, *PLANES)),
            ("box_format", ("auto", "xywh", "xyxy")),
            ("box_frame", ("auto", "stored", "upright")),
            ("window_mode", ("single", "multi3")),
            ("burned_in", ("reject", "mask", "allow")),
            ("readers", ("fuse", "majority", "all")),
        ):
            if getattr(self, option) not in allowed:
                raise ValueError(f"{option}={getattr(self, option)!r}: give one of {', '.join(str(one) for one in allowed)}")
        if not self.name.strip():
            raise ValueError("name is empty: give the source a name")
        if self.modality is not None and not re.fullmatch(r"[A-Z]{2,16}", self.modality):
            raise ValueError(f"modality={self.modality!r}: give a DICOM code such as CT, MR, DX, US, SM")
        if self.technique is not None and self.technique_field is not None:
            raise ValueError("technique and technique_field are both set: give one of them")
        if self.window is not None and not self.window[1] > 0:
            raise ValueError(f"window={self.window}: give CENTRE,WIDTH with a width above 0")
        self._check_directions()
        for spec in self.organs:
            organ_template(spec)
        for name in ("exhaustive", "lesions"):
            object.__setattr__(self, name, tuple(dict.fromkeys(self.canonical(one) for one in getattr(self, name))))
        visible = {self.canonical(one): tuple(found) for one, found in self.visible_on.items()}
        object.__setattr__(self, "visible_on", visible)

    def _check_directions(self) -> None:
        if self.patient_directions is None:
            return
        parts = self.patient_directions.split("\\")
        if len(parts) != 2 or not all(re.fullmatch("[LRAPHF]{1,3}", part) for part in parts):
            raise ValueError(
                f"orientation={self.patient_directions!r}: give the patient direction of +x and of +y, such as L\\P (letters "
                "L R A P H F)"
            )
        axes = {_AXES[part[0]] for part in parts}
        if len(axes) < 2 or axes != _AXES_OF_PLANE.get(self.plane or "", axes):
            raise ValueError(
                f"orientation={self.patient_directions!r} cannot be that of plane={self.plane}: correct one of them"
            )

    def canonical(self, class_source: str) -> str:
        """The canonical name of a class of this source."""
        return canonical_class(class_source, self.aliases)

    def is_visible(self, lesion_class: str, technique: str | None) -> bool:
        """Whether a canonical class can be seen on images of that technique; on an unknown technique only an unlisted one."""
        techniques = self.visible_on.get(lesion_class)
        if techniques is None:
            return True
        return technique is not None and technique.casefold() in {one.casefold() for one in techniques}


def parse_visible_on(values: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`CLASS=TECHNIQUE[,TECHNIQUE...]` flags -> `SourceOptions.visible_on`.

    Raises:
        ValueError: not of that form, or a class given twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        name, _, right = value.partition("=")
        techniques = tuple(part.strip() for part in right.split(",") if part.strip())
        if not name.strip() or not techniques or name.strip() in found:
            raise ValueError(f"--visible-on {value}: give CLASS=TECHNIQUE[,TECHNIQUE...], each class once")
        found[name.strip()] = techniques
    return found


def organ_template(spec: str) -> tuple[str, str]:
    """`NAME=TEMPLATE` -> (organ name or `*`, template).

    Raises:
        ValueError: not of that form.
    """
    name, equals, template = spec.partition("=")
    organ = "*" if name.strip() == "*" else organ_name(name)
    if not equals or not organ or not template.strip():
        raise ValueError(f"--organ {spec}: give NAME=TEMPLATE, e.g. brain=masks/{{stem}}.png, or *=masks/{{stem}} for a folder")
    if "{organ}" in template and organ != "*":
        raise ValueError(f"--organ {spec}: {{organ}} stands for any name, so write *={template}")
    return organ, template.strip()
