"""A frame's header -> the facts of it that may enter a corpus (contract.Header), on an allow-list.

What is free text in DICOM leaves here only as a word of a fixed vocabulary: view, body side, manufacturer, technique. Dates are
never read. Must not know pixels.
"""

from __future__ import annotations

import re
from typing import Any

from medclm.corpus.contract import Header
from medclm.corpus.dicom.orientation import Orientation, as_projection, from_cosines, from_letters, of_projection
from medclm.corpus.dicom.technique import technique_of
from medclm.corpus.dicom.view import FrameView, items
from medclm.corpus.organs import PROJECTIONS

OLDEST = 89
"""Years: above it an age says too much of a person and is left out."""

_VIEWS = {
    **dict.fromkeys(("AP", "PA"), "frontal"),
    **dict.fromkeys(("LL", "RL", "LATERAL"), "lateral"),
    **dict.fromkeys(("RLO", "LLO", "RAO", "LAO", "RPO", "LPO", "RAF", "LAF"), "oblique"),
    **dict.fromkeys(("LLD", "RLD"), None),  # lying on a side: the beam is horizontal, the film's top is a flank
    **dict.fromkeys(("CC", "MLO", "ML", "LM", "LMO", "XCCL", "XCCM", "CV", "AT", "SIO", "FB"), None),
}
"""ViewPosition (PS3.3 C.8.1.2, C.8.11.5) -> plane; views of the breast have none, its directions are those of the gland."""
_SPELLINGS = {
    "LAT": "LATERAL",
    "LLAT": "LL",
    "RLAT": "RL",
    "ANTERO-POSTERIOR": "AP",
    "POSTERO-ANTERIOR": "PA",
    "LEFT LATERAL": "LL",
    "RIGHT LATERAL": "RL",
    "CRANIO-CAUDAL": "CC",
    "MEDIO-LATERAL OBLIQUE": "MLO",
    "MEDIO-LATERAL": "ML",
    "LATERO-MEDIAL": "LM",
}
"""Other spellings of ViewPosition, and code meanings of CID 4010 and 4014."""
_PAIRED = {
    *{"BREAST", "HAND", "FINGER", "THUMB", "WRIST", "FOREARM", "ELBOW", "ARM", "HUMERUS", "SHOULDER", "CLAVICLE", "SCAPULA"},
    *{"FOOT", "TOE", "ANKLE", "LEG", "LOWERLEG", "KNEE", "PATELLA", "FEMUR", "THIGH", "HIP", "CALCANEUS", "RADIUS", "ULNA"},
    *{"TIBIA", "FIBULA", "EYE", "RETINA", "ORBIT", "EAR", "KIDNEY", "TESTIS", "OVARY", "RIB", "EXTREMITY", "UPPEREXTREMITY"},
    *{"LOWEREXTREMITY", "AXILLA"},
}
"""BodyPartExamined of which there are two: only there does a side in the header mean a side of the body. On chest films it
often names the side that stood against the detector."""
_SIDES = {"L": "left", "R": "right"}
_CENTIMETRES = 3
_CALIBRATED = {"GEOMETRY", "FIDUCIAL"}
_MAKERS = (
    *("siemens", "philips", "fujifilm", "canon", "toshiba", "hitachi", "agfa", "carestream", "hologic", "samsung", "medison"),
    *("mindray", "esaote", "shimadzu", "kodak", "varian", "elekta", "bruker", "leica", "hamamatsu", "konica", "sonosite"),
    *("zeiss", "topcon", "heidelberg", "aperio", "olympus", "united imaging", "acuson", "picker", "marconi", "ge"),
)
"""What Manufacturer may say: anything else may name a person or a place."""


def read_facts(view: FrameView) -> Header:
    """What may be said of a frame; ids are raw, and everything that the header leaves open is None."""
    modality = _modality(view)
    position = _view_position(view)
    orientation = _orientation(view, modality, position)
    frames = view.number("NumberOfFrames") or 1
    return Header(
        modality=modality,
        technique=_technique(view) if modality == "MR" else None,
        view=position,
        plane=orientation.plane,
        patient_directions=orientation.directions,
        laterality=_laterality(view, modality),
        spacing_mm=_spacing(view, is_projection(view, modality)),
        window=read_window(view),
        patient=view.identity("PatientID"),
        study=view.identity("StudyInstanceUID"),
        series=view.identity("SeriesInstanceUID"),
        order_in_patient=view.frame + 1 if frames > 1 else _order(view.number("InstanceNumber")),
        attributes=_attributes(view),
    )


def is_localizer(view: FrameView) -> bool:
    """Whether a CT or MR picture is a scout: of CT it is a projection."""
    return "LOCALIZER" in view.frame_type()


def is_projection(view: FrameView, modality: str | None) -> bool:
    """Whether depth is summed in the picture."""
    return modality in PROJECTIONS or modality == "XA" or (modality == "CT" and is_localizer(view))


def read_window(view: FrameView) -> tuple[float, float] | None:
    """(centre, width) of the first window; None where none is stated or its width is none."""
    centre, width = view.number("WindowCenter"), view.number("WindowWidth")
    return (centre, width) if centre is not None and width is not None and width > 0 else None


def region_spacing(view: FrameView) -> tuple[float, float] | None:
    """(row, column) spacing in millimetres of an ultrasound picture with one region, measured in centimetres (PS3.3 C.8.5.5)."""
    regions = [FrameView(item) for item in items(view.header, "SequenceOfUltrasoundRegions")]
    if len(regions) != 1 or any(regions[0].number(f"PhysicalUnits{axis}Direction") != _CENTIMETRES for axis in "XY"):
        return None
    deltas = [abs(regions[0].number(f"PhysicalDelta{axis}") or 0.0) * 10 for axis in "YX"]
    return (deltas[0], deltas[1]) if min(deltas) > 0 else None


def _modality(view: FrameView) -> str | None:
    stated = view.text("Modality")
    return stated if stated is not None and re.fullmatch("[A-Z]{2,16}", stated) and stated != "OT" else None


def _view_position(view: FrameView) -> str | None:
    stated = [view.text("ViewPosition")]
    stated += [FrameView(item).text("CodeMeaning") for item in items(view.header, "ViewCodeSequence")[:1]]
    for one in stated:
        named = _SPELLINGS.get(one or "", one or "")
        if named in _VIEWS:
            return named
    return None


def _orientation(view: FrameView, modality: str | None, position: str | None) -> Orientation:
    cosines = view.numbers("ImageOrientationPatient", 6)
    by_cosines = from_cosines(cosines) if cosines is not None else Orientation()
    animal = view.text("AnatomicalOrientationType") == "QUADRUPED"
    by_letters = Orientation() if animal else from_letters(view.texts("PatientOrientation"))
    if modality == "MG":
        return Orientation()
    if is_projection(view, modality):
        if by_cosines.plane is not None:
            return as_projection(by_cosines)
        return of_projection(_VIEWS.get(position or ""), by_letters)
    return by_cosines if by_cosines.plane is not None else by_letters


def _laterality(view: FrameView, modality: str | None) -> str | None:
    """The side that the header states; sides that disagree, or of a part of which there is one, are none."""
    stated = {view.text(keyword) for keyword in ("FrameLaterality", "ImageLaterality", "Laterality")} - {None, "U"}
    part = re.sub("[^A-Z]", "", view.text("BodyPartExamined") or "")
    if len(stated) != 1 or not (modality in ("MG", "OP", "OPT") or part in _PAIRED):
        return None
    return _SIDES.get(stated.pop() or "")


def _spacing(view: FrameView, projection: bool) -> tuple[float, float] | None:
    """(row, column) spacing in millimetres within the patient.

    On projections PixelSpacing may be that of the detector; it counts where it is declared calibrated or differs from the
    detector's own (PS3.3 10.7.1.3), else the detector's divided by a stated magnification.
    """
    stated, detector = _pair(view, "PixelSpacing"), _pair(view, "ImagerPixelSpacing")
    if not projection:
        return stated
    calibrated = view.text("PixelSpacingCalibrationType") in _CALIBRATED
    if stated is not None and (calibrated or (detector is not None and stated != detector)):
        return stated
    magnification = view.number("EstimatedRadiographicMagnificationFactor")
    if detector is None or magnification is None or not magnification >= 1:
        return None
    return detector[0] / magnification, detector[1] / magnification


def _pair(view: FrameView, keyword: str) -> tuple[float, float] | None:
    found = view.numbers(keyword, 2)
    return (found[0], found[1]) if found is not None and min(found) > 0 else None


def _technique(view: FrameView) -> str | None:
    texts = [text for keyword in ("SeriesDescription", "ProtocolName") if (text := view.text(keyword))]
    agent = view.text("ContrastBolusAgent") not in (None, "NONE", "NO", "N") or items(view.header, "ContrastBolusAgentSequence")
    return technique_of(view.text("AcquisitionContrast"), view.frame_type(), texts, bool(agent))


def _attributes(view: FrameView) -> dict[str, Any]:
    sex = view.text("PatientSex")
    age = re.fullmatch(r"(\d{1,3})([YMWD])", view.text("PatientAge") or "")
    years = None if age is None else int(age.group(1)) if age.group(2) == "Y" else 0
    if age is not None and age.group() == "000Y":  # what is left where an age was taken out; infants are given in months
        years = None
    maker = (view.text("Manufacturer") or "").lower()
    made = next((word for word in _MAKERS if re.search(rf"\b{word}\b", maker)), "")
    found = {
        "sex": sex if sex in ("M", "F") else None,
        "age_decade": years // 10 * 10 if years is not None and years <= OLDEST else None,
        "manufacturer": (made.upper() if made == "ge" else made.title()) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _order(number: float | None) -> int | None:
    return int(number) if number is not None and 0 <= number < 2**31 else None
