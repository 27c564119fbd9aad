"""The formats that a corpus can be built from: one line of documentation each, and how each is opened.

A format is a class `NAME(annotations, image_root, options)` that implements `contract.Source`. Modules are imported when
they are opened, so that `--help` does not wait for libraries of formats that nobody asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from medclm.corpus.contract import Source
from medclm.corpus.sources.options import SourceOptions

_COMMON = frozenset(
    {
        "name",
        "modality",
        "plane",
        "patient_directions",
        "technique",
        "organs",
        "organ_root",
        "exhaustive",
        "visible_on",
        "aliases",
        "licence",
        "shareable",
        "window",
        "window_mode",
        "burned_in",
        "max_pixels",
        "box_frame",
        "reports",
        "reports_deidentified",
    }
)
"""Options that every format reads."""


@dataclass(frozen=True)
class SourceKind:
    """One format."""

    where: str
    """`module:Class` below medclm.corpus.sources."""
    habit: str
    """One line: what it reads and what is particular about it."""
    annotations: str | None
    """What --annotations is; None = it takes none."""
    image_root: str | None = "folder of the pictures"
    """What --image-root is; None = it takes none."""
    optional_root: bool = False
    """Whether --image-root may be left out."""
    reads: frozenset[str] = frozenset()
    """Options that it reads besides the common ones."""


KINDS: Mapping[str, SourceKind] = {
    "coco": SourceKind(
        "coco:CocoSource",
        "COCO JSON: boxes as corner and size, polygons or RLE; crowd regions are refused",
        "the JSON file",
        reads=frozenset({"patient_field", "technique_field", "split_field", "lesion_3d_field", "box_format"}),
    ),
    "voc": SourceKind(
        "voc:VocSource",
        "Pascal VOC XML, one per picture: pixels count from 1 and include the last one",
        "folder of XML files",
    ),
    "detection_json": SourceKind(
        "detection_json:DetectionJsonSource",
        "the published detection input: list of image_path, anatomy_path (folder of masks) and boxes as two corners in pixels",
        "the JSON file",
        image_root="folder that image_path is relative to (default: that of the file)",
        optional_root=True,
    ),
    "yolo": SourceKind(
        "yolo:YoloSource",
        "YOLO text files: boxes or polygons in shares of the picture; empty = nothing drawn, no file = unlabelled",
        "folder of label files",
        reads=frozenset({"classes"}),
    ),
    "cvat": SourceKind(
        "cvat:CvatSource",
        "CVAT for images 1.1 XML: boxes, polygons and masks; rotated boxes and other shapes are refused",
        "the XML file",
        reads=frozenset({"lesion_3d_field"}),
    ),
    "nih": SourceKind(
        "nih:NihSource",
        "NIH ChestX-ray14: `Infiltrate` is infiltration; absence is known for `No Finding` alone (Data_Entry as --image-labels)",
        "BBox_List_2017.csv",
        reads=frozenset({"image_labels", "split_list"}),
    ),
    "rsna": SourceKind(
        "rsna:RsnaSource",
        "RSNA pneumonia: Target settles pneumonia on all; no finding for `Normal` alone (detailed class info as --image-labels)",
        "stage_2_train_labels.csv",
        reads=frozenset({"image_labels"}),
    ),
    "vindr": SourceKind(
        "vindr:VindrSource",
        "VinDr-CXR: three readers, joined by --readers with their agreement; a class that only some marked is uncertain",
        "annotations_train.csv or annotations_test.csv",
        reads=frozenset({"image_labels", "readers"}),
    ),
    "deeplesion": SourceKind(
        "deeplesion:DeepLesionSource",
        "DeepLesion: HU = value - 32768, official split, noisy boxes dropped, untyped ones stay `lesion`, never exhaustive",
        "DL_info.csv",
        "folder of Images_png",
    ),
    "chestx_det": SourceKind(
        "chestx_det:ChestXDetSource",
        "ChestX-Det JSON: boxes with polygons; its 13 classes were looked for on every picture, `no finding` was not asked",
        "ChestX_Det_train.json or ChestX_Det_test.json",
    ),
    "tbx11k": SourceKind(
        "tbx11k:Tbx11kSource",
        "TBX11K COCO JSON: healthy and sick pictures have no tuberculosis; its uncertain class is refused",
        "a file of annotations/json",
        "the folder imgs",
    ),
    "reports": SourceKind(
        "report_source:ReportSource",
        "pictures with reports, no boxes: Open-i XML or JSON Lines; MIMIC texts with metadata (--image-labels) and split table",
        "folder or file of reports",
        reads=frozenset({"image_labels", "split_list"}),
    ),
    "dicom": SourceKind(
        "dicom_folder:DicomSource",
        "DICOM folder: every frame is a picture, SEG and RTSTRUCT among them are masks (--lesions or organs); CT window by class",
        None,
        "folder of DICOM files, in any order and with any ending",
        reads=frozenset({"lesions"}),
    ),
    "volume": SourceKind(
        "volume:VolumeSource",
        "NIfTI, MetaImage, NRRD with label maps: a connected part is a lesion, shown on its largest slice and --slices more",
        "folder of label maps, or one file",
        "folder of volumes, one file, or a template such as scans/{folder}/{stem}_t1c.nii.gz",
        reads=frozenset({"classes", "lesions", "slices"}),
    ),
    "label_maps": SourceKind(
        "label_pictures:LabelPictureSource",
        "pictures with label maps or masks as PNG, TIFF, BMP: a connected part is a lesion, other classes than --lesions are organs",
        "folder of label maps, or one file",
        "folder of the pictures, one file, or a template such as images/{stem}_flair.png",
        reads=frozenset({"classes", "lesions"}),
    ),
    "luna": SourceKind(
        "luna:LunaSource",
        "LUNA16: CT as .mhd, nodules as centre and diameter in mm; a column readers (of four) becomes the agreement",
        "annotations.csv",
        "folder of the volumes, with subfolders",
        reads=frozenset({"slices"}),
    ),
}


def open_source(kind: str, annotations: Path | None, image_root: Path | None, options: SourceOptions) -> Source:
    """The source of that kind.

    Raises:
        ValueError: an unknown kind, a missing or superfluous path, an option that the kind does not read, or what the format
            itself raises.
    """
    if kind not in KINDS:
        raise ValueError(f"--source {kind}: choose from {', '.join(KINDS)}")
    found = KINDS[kind]
    for flag, value, what in (
        ("--annotations", annotations, found.annotations),
        ("--image-root", image_root, found.image_root),
    ):
        if what is not None and value is None and not (flag == "--image-root" and found.optional_root):
            raise ValueError(f"--source {kind} needs {flag}: {what}")
        if what is None and value is not None:
            raise ValueError(f"{flag} {value}: --source {kind} reads none: leave it out")
    for field in fields(SourceOptions):
        value = getattr(options, field.name)
        if field.name not in _COMMON | found.reads and value != field.default:
            readers = [name for name, one in KINDS.items() if field.name in one.reads]
            raise ValueError(f"{field.name}={value}: --source {kind} does not read it ({', '.join(readers)} do): leave it out")
    module, _, name = found.where.partition(":")
    opened = getattr(importlib.import_module(f"medclm.corpus.sources.{module}"), name)
    return cast(Source, opened(annotations, image_root, options))
