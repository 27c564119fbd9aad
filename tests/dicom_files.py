"""Small DICOM files as scanners, viewers and planning systems write them, made with pydicom; and the real samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.picture import DicomPicture, read_dicom
from medclm.corpus.dicom.view import FrameView

SAMPLES = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "dicom_samples"
CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "ENHANCED_CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "KO": "1.2.840.10008.5.1.4.1.1.88.59",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
    "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
}
AXIAL = [1, 0, 0, 0, 1, 0]
PLACE = "1.2.3.999"
"""A frame of reference."""


def samples() -> Path:
    if not SAMPLES.is_dir():
        pytest.skip("needs the real data folder dicom_samples beside the project")
    return SAMPLES


def dataset(kind: str, uid: str = "1.2.3.1", **elements: Any) -> FileDataset:
    """An object of a class of `CLASSES` with these elements; None leaves one out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CLASSES[kind]
    meta.MediaStorageSOPInstanceUID = uid
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CLASSES[kind], uid
    made.Modality = {"ENHANCED_CT": "CT", "SC": "OT"}.get(kind, kind)
    for keyword, value in elements.items():
        if value is not None:
            setattr(made, keyword, value)
    return made


def picture(kind: str, stored: np.ndarray, uid: str = "1.2.3.1", **elements: Any) -> FileDataset:
    """An image of (H, W), (H, W, 3) or, with NumberOfFrames, (N, H, W) or (N, H, W, 3) values of 8, 16 or 32 bits."""
    colour = stored.ndim > 2 and stored.shape[-1] == 3
    rows, columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    bits = 8 * stored.dtype.itemsize
    standard: dict[str, Any] = {
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PlanarConfiguration": 0 if colour else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": elements.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
    }
    made = dataset(kind, uid, **{**standard, **elements})
    made.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    return made


def slice_of(kind: str, stored: np.ndarray, uid: str, z: float, **elements: Any) -> FileDataset:
    """An axial slice of a volume, 2 mm apart, pixels of 1 mm; its HU or signals are the stored values."""
    place = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [0, 0, z],
        "PixelSpacing": [1, 1],
        "SliceThickness": 2,
        "FrameOfReferenceUID": PLACE,
        "SeriesInstanceUID": "1.2.3.50",
        "StudyInstanceUID": "1.2.3.60",
        "PatientID": "P1",
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    return picture(kind, stored, uid, **{**place, **elements})


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def segmentation(
    frames: Sequence[tuple[int, np.ndarray, Mapping[str, Any]]],
    names: Mapping[int, tuple[str, str]],
    *,
    kind: str = "BINARY",
    uid: str = "1.2.3.500",
    **elements: Any,
) -> FileDataset:
    """A SEG.

    Args:
        frames: (segment, (H, W) mask, or values of 0..255 where fractional, {"uid": referenced, "z": height}) each.
        names: segment -> (label, meaning of its type).
    """
    made = dataset("SEG", uid, FrameOfReferenceUID=PLACE, PatientID="P1", **elements)
    rows, columns = frames[0][1].shape
    made.Rows, made.Columns, made.NumberOfFrames, made.SamplesPerPixel = rows, columns, len(frames), 1
    made.PhotometricInterpretation, made.PixelRepresentation, made.SegmentationType = "MONOCHROME2", 0, kind
    made.SegmentSequence = [
        item(
            SegmentNumber=number,
            SegmentLabel=label,
            SegmentedPropertyTypeCodeSequence=[item(CodeMeaning=meaning)] if meaning else [],
        )
        for number, (label, meaning) in names.items()
    ]
    made.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=elements.get("orientation", AXIAL))],
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=2)],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [_frame_groups(segment, where) for segment, _, where in frames]
    stack = np.stack([values for _, values, _ in frames])
    if kind == "BINARY":
        made.BitsAllocated = made.BitsStored = 1
        made.HighBit = 0
        packed = np.packbits(stack.astype(bool).ravel(), bitorder="little").tobytes()
    else:
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit, made.MaximumFractionalValue = 7, 255
        packed = stack.astype(np.uint8).tobytes()
    made.PixelData = packed + b"\0" * (len(packed) % 2)
    return made


def _frame_groups(segment: int, where: Mapping[str, Any]) -> Dataset:
    groups = item(SegmentIdentificationSequence=[item(ReferencedSegmentNumber=segment)])
    if "z" in where:
        groups.PlanePositionSequence = [item(ImagePositionPatient=where.get("origin", [0, 0, where["z"]]))]
    if "uid" in where:
        source = item(ReferencedSOPClassUID=CLASSES["CT"], ReferencedSOPInstanceUID=where["uid"])
        groups.DerivationImageSequence = [item(SourceImageSequence=[source])]
    return groups


def structures(
    rois: Mapping[str, Sequence[tuple[np.ndarray, str | None]]], uid: str = "1.2.3.600", **elements: Any
) -> FileDataset:
    """An RTSTRUCT: name -> contours, each (N, 3) points and the uid of the picture it refers to."""
    made = dataset("RTSTRUCT", uid, **elements)
    made.StructureSetROISequence = [
        item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=PLACE) for number, name in enumerate(rois, 1)
    ]
    made.ROIContourSequence = []
    for number, contours in enumerate(rois.values(), 1):
        sequence = []
        for points, referenced in contours:
            one = item(
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.6g}" for value in np.ravel(points)],
            )
            if referenced:
                one.ContourImageSequence = [item(ReferencedSOPClassUID=CLASSES["CT"], ReferencedSOPInstanceUID=referenced)]
            sequence.append(one)
        made.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=sequence))
    return made


def saved(path: Path, made: FileDataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def recoded(path: Path, syntax: int) -> Path:
    """The file with its pixels coded anew by gdcm (one of gdcm.TransferSyntax), in place."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def read(path: Path, frame: int | None = None, **options: Any) -> DicomPicture:
    defaults: dict[str, Any] = {"burned_in": "reject", "max_pixels": 1_000_000, "window": None}
    return read_dicom(path, frame, **{**defaults, **options})


def reason(path: Path, **options: Any) -> str:
    """Why the file becomes no picture, or `picture`."""
    try:
        read(path, **options)
    except RejectedImage as rejection:
        return rejection.reason
    return "picture"


def view(made: Dataset, frame: int = 0) -> FrameView:
    return FrameView(made, frame)


def real_pictures() -> Iterator[Path]:
    """Real files with pixels that are pictures."""
    for path in sorted(samples().rglob("*")):
        if (
            path.is_file()
            and path.suffix in (".dcm", "")
            and path.name not in ("README", "no_meta.dcm", "LICENSE_highdicom_MIT")
        ):
            header = dcmread(path, stop_before_pixels=True, force=True)
            if "Rows" in header and header.Modality not in ("SEG", "RTDOSE"):
                yield path
