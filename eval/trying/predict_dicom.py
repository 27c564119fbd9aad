"""DICOM in and out of prediction: a frame as it is asked about, and the answer as a structured report or a segmentation.

Reading follows the corpus (medclm/corpus/dicom), so that a model sees what it was trained on. What is written belongs to the
study and patient of its source, as the standard requires, and says in every place the standard has for it that it is research.
Knows nothing of models and questions beyond their texts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from medclm import __version__
from medclm.corpus.box_masks import box_mask
from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.colour import GREY
from medclm.corpus.dicom.index import Picture, index_folder, volume_sample
from medclm.corpus.dicom.kept import Kept
from medclm.corpus.dicom.picture import DicomPicture, Scale, is_signal, mr_scale, read_dicom, signal_values
from medclm.corpus.dicom.reading import guarded, read_header
from medclm.corpus.dicom.refuse import check_is_image, frame_count
from medclm.corpus.dicom.view import FrameView
from medclm.corpus.organs import TABLE, host_names
from medclm.corpus.sources.dicom_folder import SAMPLED
from medclm.corpus.windows import Window, apply_window, choose_window
from medclm.types import Box

if TYPE_CHECKING:
    from highdicom.sr import MeasurementReport

RESEARCH = "RESEARCH ONLY - not for clinical use"
"""Series description, content description and comment of everything written; at most 64 characters (VR LO)."""
LABEL = "RESEARCH ONLY"
"""ContentLabel, a code string: at most 16 capitals, digits, blanks and underscores (PS3.5 6.2)."""
MAKER = "MedCLM"
_BLACK = -1e5
"""Below every window: what is not measured is black."""
_CHARACTERS = "ISO_IR 192"
"""UTF-8: the model's words may hold letters that the source's character set has not."""
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
    "ReferringPhysicianName",
)
"""Type 2 of the patient and study modules: must be there, may say nothing (PS3.3 C.7.1.1, C.7.2.1)."""
_SERIES_NUMBER = {"sr": 9301, "seg": 9302}


@dataclass(frozen=True)
class DicomFrame:
    """A frame of a DICOM file as it is asked about."""

    header: Dataset
    frame: int
    """Counting from 0."""
    frames: int
    """Of the file."""
    pixels: np.ndarray
    """(H, W) or (H, W, 3) uint8."""
    kept: Kept
    """The part of the stored frame that `pixels` shows."""
    window: Window | None
    """None = the header's table, 8 bits as stored, or colour."""
    window_from: str
    """`--window`, question, header, or values or volume (MR: percentiles of the foreground); empty without a window."""

    def stored(self, box_px: Box) -> Box:
        """A box in pixels of `pixels` -> in pixels of the stored frame."""
        corner = self.kept.box(Box(0, 0, 0, 0))
        return Box(box_px.x0 - corner.x0, box_px.y0 - corner.y0, box_px.x1 - corner.x0, box_px.y1 - corner.y0)


def open_frame(
    path: Path,
    frame: int | None,
    question: str,
    *,
    window: Window | None,
    burned_in: str,
    max_pixels: int,
    scale: Scale | None = None,
) -> DicomFrame:
    """A frame ready to be asked about.

    Args:
        frame: counting from 1; None = the only one.
        question: of a CT, the class or organ that it names decides the window, as in training.
        window: (centre, width) that goes before everything else; of grey pictures only.
        burned_in: reject, mask or allow.
        scale: of the MR volume that the frame belongs to; None = the frame is all there is of it.

    Raises:
        RejectedImage: a reason of `read_dicom`, image_animated (which of several frames?), frame_missing, window_unknown.
    """
    header = read_header(path)
    with guarded():
        check_is_image(header, max_pixels)
        frames = frame_count(header)
    if frame is None and frames > 1:
        raise RejectedImage("image_animated", f"{frames} frames: say which one with --frame 1 to {frames}")
    if frame is not None and not 1 <= frame <= frames:
        raise RejectedImage("frame_missing", f"frame {frame} of {frames}: give --frame 1 to {frames}")
    at = (frame or 1) - 1
    picture = read_dicom(path, at, burned_in=burned_in, max_pixels=max_pixels, window=window, scale=scale)
    view = FrameView(header, at)
    if window is not None and view.text("PhotometricInterpretation") in GREY:
        pixels = picture.kept.array(_by_hand(signal_values(path, at), window, view))
        return DicomFrame(header, at, frames, pixels, picture.kept, window, "--window")
    if picture.pixels is not None:
        by_values = is_signal(header)
        said = "" if picture.window is None else "header" if not by_values else "values" if scale is None else "volume"
        return DicomFrame(header, at, frames, picture.pixels, picture.kept, picture.window, said)
    chosen, said = _ct_window(picture, question)
    pixels = apply_window(np.nan_to_num(picture.intensity, nan=_BLACK), chosen)
    return DicomFrame(header, at, frames, pixels, picture.kept, chosen, said)


class Volumes:
    """The MR volumes of a folder: their pictures are shown alike, as in a corpus. Reads every header below the folder once."""

    def __init__(self, folder: Path, *, burned_in: str, max_pixels: int) -> None:
        self._index = index_folder(folder, burned_in=burned_in, max_pixels=max_pixels)
        self._pictures: dict[str, list[Picture]] = {}
        for picture in self._index.pictures:
            if picture.volume is not None:
                self._pictures.setdefault(picture.volume, []).append(picture)
        self._volume = {self._index.files[one.file]: name for name, every in self._pictures.items() for one in every}
        self._scales: dict[str, Scale | None] = {}

    def scale(self, path: Path) -> Scale | None:
        """How the pictures of a file's volume are shown; None where it is of none, or alone in it."""
        name = self._volume.get(path)
        if name is None or len(self._pictures[name]) == 1:
            return None
        if name not in self._scales:
            self._scales[name] = self._measured(self._pictures[name])
        return self._scales[name]

    def _measured(self, pictures: Sequence[Picture]) -> Scale | None:
        values = []
        for one in volume_sample(pictures, SAMPLED):
            with suppress(RejectedImage):  # named when it is asked about
                values.append(signal_values(self._index.files[one.file], one.placed.frame))
        return mr_scale(values) if values else None


def _by_hand(values: np.ndarray, window: Window, view: FrameView) -> np.ndarray:
    """(H, W) values after the modality LUT, NaN where padded -> uint8."""
    pixels = apply_window(np.nan_to_num(values, nan=_BLACK), window)
    if view.text("PhotometricInterpretation") == "MONOCHROME1":
        pixels = 255 - pixels
    pixels[np.isnan(values)] = 0
    return pixels


def _ct_window(picture: DicomPicture, question: str) -> tuple[Window, str]:
    by_question = choose_window(named_in(question), (), None)
    if by_question is not None:
        return by_question, "question"
    if picture.header.window is None:
        raise RejectedImage(
            "window_unknown",
            "neither the header nor the question says which values of the CT are visible: give --window CENTRE WIDTH, "
            "such as -600 1500 (lung) or 40 400 (soft tissue), or name the organ in the question",
        )
    return picture.header.window, "header"


def named_in(question: str) -> list[str]:
    """Lesion classes and organs of the project's tables that a question names, in its order, the longer first."""
    asked = question.lower()
    found = [
        (match.start(), -len(name), name)
        for name in {*TABLE, *host_names()}
        if (match := re.search(rf"\b{re.escape(name)}(?:e?s)?\b", asked))
    ]
    return [name for *_, name in sorted(found)]


def check_writer(flags: Sequence[str]) -> None:
    """Raises ValueError where what writes reports and segmentations is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{' and '.join(flags)} need the package highdicom: pip install highdicom ({error})") from None


@dataclass(frozen=True)
class Written:
    """What is written of an answer; boxes in pixels of the stored frame."""

    question: str
    rationale: str
    answer: str
    """Empty where there was none."""
    boxes_px: Sequence[Box]
    fingerprint: str
    """Of the model."""
    run: str
    """Equal for all files of one call: one new series per source series and kind."""
    number: int
    """Of the file within its call, from 1."""


def write_report(path: Path, source: DicomFrame, written: Written) -> None:
    """A Comprehensive 3D SR by TID 1500 (PS3.16): each box a planar region as a closed polyline, the texts as evaluations.

    Raises:
        RejectedImage: reference_missing, dicom_unwritable.
    """
    with _writing("sr"):
        from highdicom.sr import Comprehensive3DSR

        header = _citable(source.header)
        content = _measurement_report(header, source, written)
        Comprehensive3DSR(
            evidence=[header],
            content=content[0],
            sop_instance_uid=generate_uid(),
            is_complete=True,  # nothing will be added; nobody has verified it
            **_document("sr", header, written),
        ).save_as(path, enforce_file_format=True)


def write_segmentation(path: Path, source: DicomFrame, written: Written) -> None:
    """A binary SEG: each box one segment, filled.

    Raises:
        RejectedImage: seg_no_box, seg_frames, reference_missing, dicom_unwritable.
    """
    if not written.boxes_px:
        raise RejectedImage("seg_no_box", "the model named no box: there is nothing to segment")
    if source.frames > 1:
        raise RejectedImage("seg_frames", f"a SEG of one of {source.frames} frames is not written: take --dicom-sr")
    if "ImageOrientationPatient" in source.header and "FrameOfReferenceUID" not in source.header:
        raise RejectedImage("reference_missing", "the source states no FrameOfReferenceUID, which a SEG needs: take --dicom-sr")
    with _writing("seg"):
        from highdicom import AlgorithmIdentificationSequence
        from highdicom.seg import Segmentation, SegmentDescription

        header = _citable(source.header)
        if "SliceThickness" not in header and "ImageOrientationPatient" not in header:
            header.pop("PixelSpacing", None)  # a projection has no grid in space, and half a one is not read back
        algorithm = AlgorithmIdentificationSequence(MAKER, Code("123110", "DCM", "Artificial Intelligence"), __version__)
        size = source.kept.stored_size
        Segmentation(
            source_images=[header],
            pixel_array=np.stack([box_mask(box, size) != 0 for box in written.boxes_px], axis=-1)[None],
            segmentation_type="BINARY",
            segment_descriptions=[
                SegmentDescription(
                    segment_number=number,
                    segment_label=f"model box {number}",
                    segmented_property_category=Code("309825002", "SCT", "Spatial and Relational Concept"),
                    segmented_property_type=Code("111099", "DCM", "Selected region"),
                    algorithm_type="AUTOMATIC",
                    algorithm_identification=algorithm,
                )
                for number in range(1, len(written.boxes_px) + 1)
            ],
            sop_instance_uid=generate_uid(),
            content_label=LABEL,
            content_description=RESEARCH,
            omit_empty_frames=False,
            **_document("seg", header, written),
        ).save_as(path, enforce_file_format=True)


def _measurement_report(header: Dataset, source: DicomFrame, written: Written) -> MeasurementReport:
    from highdicom import sr

    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[MAKER, written.fingerprint]), name=MAKER, model_name=written.fingerprint
    )
    device = sr.ObserverContext(Code("121007", "DCM", "Device"), observer)
    algorithm = sr.AlgorithmIdentification(MAKER, __version__, parameters=[f"weights {written.fingerprint}"])
    frame_numbers = [source.frame + 1] if source.frames > 1 else None
    groups: list[Any] = [
        sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(generate_uid(), f"model box {number}"),
            referenced_region=sr.ImageRegion(
                "POLYLINE",
                _outline(box),
                sr.SourceImageForRegion.from_source_image(header, frame_numbers),
                pixel_origin_interpretation="FRAME" if frame_numbers else None,
            ),
            algorithm_id=algorithm,
        )
        for number, box in enumerate(written.boxes_px, start=1)
    ]
    if not groups:
        whole = sr.SourceImageForMeasurementGroup.from_source_image(header, frame_numbers)
        tracked = sr.TrackingIdentifier(generate_uid(), "whole image")
        groups.append(sr.MeasurementsAndQualitativeEvaluations(tracked, algorithm_id=algorithm, source_images=[whole]))
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=Code("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
    )
    report[0].ContentSequence.append(_evaluations(written))
    return report


def _evaluations(written: Written) -> Any:
    """The container of TID 1500 row 12 with what was asked and said, as text: an answer has no code of its own."""
    from highdicom import sr

    container = sr.ContainerContentItem(
        Code("C0034375", "UMLS", "Qualitative Evaluations"), relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    texts = (
        (Code("121106", "DCM", "Comment"), RESEARCH),
        (Code("QUESTION", "99MEDCLM", "Question"), written.question),
        (Code("REASONING", "99MEDCLM", "Reasoning"), written.rationale),
        (Code("121071", "DCM", "Finding"), written.answer or "no answer"),
    )
    container.ContentSequence = sr.ContentSequence(
        sr.TextContentItem(name, text, relationship_type=sr.RelationshipTypeValues.CONTAINS) for name, text in texts if text
    )
    return container


def _outline(box_px: Box) -> np.ndarray:
    """(5, 2) columns and rows of the corners, the first again at the end: PS3.3 C.18.6.1.1 counts as we do, from the corner."""
    x0, y0, x1, y1 = box_px
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], np.float64)


def _document(kind: str, header: Dataset, written: Written) -> dict[str, Any]:
    """What both kinds of objects say of themselves."""
    return {
        "series_instance_uid": generate_uid(entropy_srcs=[written.run, kind, str(header.SeriesInstanceUID)]),
        "series_number": _SERIES_NUMBER[kind],
        "series_description": RESEARCH,
        "instance_number": written.number,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": written.fingerprint,
        "content_qualification": "RESEARCH",
        "specific_character_set": _CHARACTERS,
    }


def _citable(header: Dataset) -> Dataset:
    """A copy that others can refer to: what the standard requires of patient and study is there, empty where the source is silent."""
    for keyword in _IDENTITY:
        if FrameView(header).identity(keyword) is None:
            raise RejectedImage("reference_missing", f"the source states no {keyword}: nothing can refer to it")
    cited = deepcopy(header)
    for keyword in _MAY_BE_EMPTY:
        if keyword not in cited:
            setattr(cited, keyword, "")
    return cited


@contextmanager
def _writing(kind: str) -> Iterator[None]:
    """Whatever a source's malformed header brings highdicom to becomes a reason; what it would print of the patient is not."""
    logger, silence = logging.getLogger("highdicom"), logging.NullHandler()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(silence)
    try:
        with guarded():
            yield
    except RejectedImage as rejection:
        if rejection.reason == "reference_missing":
            raise
        cause = rejection.__cause__ or rejection
        raise RejectedImage(
            "dicom_unwritable", f"the {kind.upper()} was not written ({type(cause).__name__}): correct the header of its source"
        ) from rejection
    finally:
        logger.propagate = propagated
        logger.removeHandler(silence)
