"""DICOM in and out of prediction: which values are shown, where boxes lie, and that others can read what is written."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from eval.trying.predict_dicom import (
    LABEL,
    RESEARCH,
    DicomFrame,
    Volumes,
    Written,
    check_writer,
    named_in,
    open_frame,
    write_report,
    write_segmentation,
)
from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.marks import open_segmentation
from medclm.corpus.dicom.segmentation import frame_mask
from medclm.corpus.windows import mr_window
from medclm.types import Box
from tests.dicom_files import item, picture, samples, saved, slice_of

highdicom = pytest.importorskip("highdicom", reason="needs the package highdicom")
PRINT = "f0" * 32
REAL = (
    *("highdicom/ct_image.dcm", "highdicom/dx_image.dcm", "pydicom/MR_small.dcm", "pydicom/MR_small_bigendian.dcm"),
    *("pydicom/dicomdirtests/77654033/CR1/6154", "pydicom/dicomdirtests/77654033/CT2/17106", "pydicom/examples_overlay.dcm"),
    "pydicom/dicomdirtests/98892003/MR1/15820",
)
WHOLE = {
    **dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID"), "1.2.3.77"),
    **dict.fromkeys(
        ("PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"), ""
    ),
    "PatientName": "Doe^Jo",
}


def opened(path: Path, question: str = "What is it?", frame: int | None = None, **changes: Any) -> DicomFrame:
    options: dict[str, Any] = {"window": None, "burned_in": "reject", "max_pixels": 1_000_000, **changes}
    return open_frame(path, frame, question, **options)


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(RejectedImage) as caught:
        opened(path, **options)
    return caught.value.reason


def said(boxes_px: list[Box], **changes: Any) -> Written:
    texts = {"question": "Where is the lung nodule?", "rationale": "It is bright.", "answer": "upper left"}
    return Written(**{**texts, "boxes_px": boxes_px, "fingerprint": PRINT, "run": "r", "number": 3, **changes})


def two_boxes(frame: DicomFrame) -> list[Box]:
    """Neither on whole pixels, the second over a part of the first."""
    width, height = frame.kept.stored_size
    unit = (Box(0.25, 0.25, 0.5, 0.75), Box(0.4, 0.3, 0.9, 0.5))
    return [Box(*(value + 0.27 for value in box.scaled(width, height))) for box in unit]


def filled(box: Box, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, pixel by pixel: those that lie within the box by half or more of their width and height."""
    mask = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        mask[y, x] = box.x0 <= x + 0.5 <= box.x1 and box.y0 <= y + 0.5 <= box.y1
    return mask


def same_patient(made: Any, source: Any) -> None:
    for keyword in ("StudyInstanceUID", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber"):
        assert str(made[keyword].value or "") == str(source.get(keyword) or ""), keyword
    assert str(made.PatientName) == str(source.get("PatientName", ""))
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert (made.SeriesDescription, made.InstanceNumber) == (RESEARCH, 3)
    assert made.ContentQualification == "RESEARCH"


@pytest.mark.parametrize("name", REAL)
def test_a_report_on_a_real_picture_is_read_back_with_its_boxes_texts_and_patient(name, tmp_path):
    frame = opened(samples() / name, "Where is the lung nodule?")
    boxes = two_boxes(frame)
    write_report(tmp_path / "a.sr.dcm", frame, said(boxes))
    made, source = highdicom.sr.srread(tmp_path / "a.sr.dcm"), dcmread(samples() / name, stop_before_pixels=True)
    assert made.SOPClassUID.name == "Comprehensive 3D SR Storage"
    assert (made.VerificationFlag, made.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert made.content[0].ContentTemplateSequence[0].TemplateIdentifier == "1500"
    same_patient(made, source)
    [evidence] = made.get_evidence()
    assert evidence == (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID, source.SOPClassUID)
    groups = made.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["model box 1", "model box 2"]
    for group, (x0, y0, x1, y1) in zip(groups, boxes, strict=True):
        assert group.roi.graphic_type.value == "POLYLINE"
        np.testing.assert_allclose(group.roi.value, [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], rtol=1e-6)
        assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert texts(made) == {
        "Comment": RESEARCH,
        "Question": "Where is the lung nodule?",
        "Reasoning": "It is bright.",
        "Finding": "upper left",
    }


def texts(report: Any) -> dict[str, str]:
    container = report.content[0].ContentSequence[-1]
    assert container.name.meaning == "Qualitative Evaluations"
    return {one.name.meaning: one.value for one in container.ContentSequence}


@pytest.mark.parametrize("name", REAL)
def test_a_segmentation_of_a_real_picture_is_read_back_pixel_by_pixel(name, tmp_path):
    frame = opened(samples() / name, "Where is the lung nodule?")
    boxes = two_boxes(frame)
    write_segmentation(tmp_path / "a.seg.dcm", frame, said(boxes))
    made, source = highdicom.seg.segread(tmp_path / "a.seg.dcm"), dcmread(samples() / name, stop_before_pixels=True)
    same_patient(made, source)
    assert (made.SegmentationType, made.ContentLabel, made.ContentDescription) == ("BINARY", LABEL, RESEARCH)
    assert made.get("FrameOfReferenceUID") == source.get("FrameOfReferenceUID")
    assert [one.SegmentLabel for one in made.SegmentSequence] == ["model box 1", "model box 2"]
    stored = made.get_pixels_by_source_instance([source.SOPInstanceUID])[0]
    ours = open_segmentation(tmp_path / "a.seg.dcm")
    for number, box in enumerate(boxes):
        expected = filled(box, (source.Rows, source.Columns))
        assert expected.any()
        np.testing.assert_array_equal(stored[..., number].astype(bool), expected)
        np.testing.assert_array_equal(frame_mask(tmp_path / "a.seg.dcm", ours, number), expected)


def test_an_answer_without_boxes_is_a_report_on_the_whole_image_and_no_segmentation(tmp_path):
    frame = opened(saved(tmp_path / "a.dcm", film(**WHOLE)))
    write_report(tmp_path / "a.sr.dcm", frame, said([], answer="", rationale=""))
    made = highdicom.sr.srread(tmp_path / "a.sr.dcm")
    [group] = made.content.get_image_measurement_groups()
    assert group.tracking_identifier == "whole image"
    assert group.source_images[0].referenced_sop_instance_uid == "1.2.3.1"
    assert texts(made) == {"Comment": RESEARCH, "Question": "Where is the lung nodule?", "Finding": "no answer"}
    with pytest.raises(RejectedImage, match="seg_no_box"):
        write_segmentation(tmp_path / "a.seg.dcm", frame, said([]))
    assert not (tmp_path / "a.seg.dcm").exists()


def film(kind: str = "DX", **elements: Any) -> FileDataset:
    stored = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)
    return picture(kind, stored, **{"BurnedInAnnotation": "NO", **elements})


def test_files_of_one_call_share_a_series_by_source_series_and_kind(tmp_path):
    def series(path: Path, run: str, *, source: str = "1.2.3.77", segmented: bool = False) -> str:
        frame = opened(saved(path, film(**{**WHOLE, "SeriesInstanceUID": source})))
        (write_segmentation if segmented else write_report)(tmp_path / "o.dcm", frame, said([Box(1, 2, 9, 8)], run=run))
        return str(dcmread(tmp_path / "o.dcm").SeriesInstanceUID)

    a, b = tmp_path / "a.dcm", tmp_path / "b.dcm"
    assert series(a, "r") == series(b, "r")
    others = {series(a, "s"), series(a, "r", source="1.2.3.78"), series(a, "r", segmented=True)}
    assert len({series(a, "r"), *others}) == 4


def test_letters_of_every_language_survive_beside_the_patients_own(tmp_path):
    made = film(**{**WHOLE, "PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100"})
    frame = opened(saved(tmp_path / "a.dcm", made))
    write_report(tmp_path / "a.sr.dcm", frame, said([], question="病变在哪里?", answer="左肺 \\ λ"))
    report = highdicom.sr.srread(tmp_path / "a.sr.dcm")
    assert str(report.PatientName) == "Müller^Jürgen"
    assert (texts(report)["Question"], texts(report)["Finding"]) == ("病变在哪里?", "左肺 \\ λ")


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_source_that_nothing_can_refer_to_is_named(missing, tmp_path):
    made = film(**WHOLE)
    frame = opened(saved(tmp_path / "a.dcm", made))
    del frame.header[missing]
    for write in (write_report, write_segmentation):
        with pytest.raises(RejectedImage, match=f"reference_missing: the source states no {missing}"):
            write(tmp_path / "o.dcm", frame, said([Box(1, 2, 9, 8)]))
    header = opened(
        saved(tmp_path / "ct.dcm", slice_of("CT", np.zeros((9, 9), np.int16), "1.2.3.1", 0, FrameOfReferenceUID=None)), "lung"
    ).header
    assert "FrameOfReferenceUID" not in header
    with pytest.raises(RejectedImage, match="no FrameOfReferenceUID, which a SEG needs"):
        write_segmentation(tmp_path / "o.dcm", opened(tmp_path / "ct.dcm", "lung"), said([Box(1, 2, 9, 8)]))


def attempt(write: Callable[..., None], path: Path, frame: DicomFrame) -> str:
    """Why nothing was written; empty where something was. Warnings, which may quote a header, are errors here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write(path, frame, said([Box(1, 2, 9, 8)]))
    except RejectedImage as refusal:
        return str(refusal)
    return ""


def test_malformed_headers_end_in_a_file_or_a_reason_and_never_print_the_patient(tmp_path, capfd):
    draw = random.Random(0)
    wrong = ["", "zealous", "1.2..3", "\\\\", "9" * 80, "^^^", "20201399", "²ß", None]
    keywords = [
        *WHOLE,
        "SOPClassUID",
        "ReferringPhysicianName",
        "PatientAge",
        "StudyDescription",
        "Modality",
        "SpecificCharacterSet",
    ]
    reasons = set()
    for _ in range(150):
        made = film(**WHOLE)
        frame = opened(saved(tmp_path / "a.dcm", made))
        for keyword in draw.sample(keywords, 3):
            value = draw.choice(wrong)
            if value is None:
                frame.header.pop(keyword, None)
                continue
            with warnings.catch_warnings(), suppress(ValueError, TypeError):
                warnings.simplefilter("ignore")
                setattr(frame.header, keyword, value)
        for write in (write_report, write_segmentation):
            refused = attempt(write, tmp_path / "o.dcm", frame)
            reasons.add(refused.partition(":")[0])
            assert "zealous" not in refused
    assert reasons == {"", "reference_missing", "dicom_unwritable"}
    printed = capfd.readouterr()
    assert "zealous" not in printed.out + printed.err
    assert "Doe" not in printed.out + printed.err


# ---- reading


def ramp() -> np.ndarray:
    """(10, 100) int16 from -1000 by 2 to 998."""
    return (np.arange(1000, dtype=np.int16) * 2 - 1000).reshape(10, 100)


def shown(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.rint(np.clip((values - (centre - width / 2)) / width, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("question", "header", "flag", "window", "by"),
    [
        ("Is there a pneumothorax?", (40, 400), None, (-600, 1500), "question"),
        ("Which organ hosts the liver tumors?", (40, 400), None, (60, 160), "question"),
        ("Describe the relationship.", (40, 400), None, (40, 400), "header"),  # holds rib and hip, as letters
        ("Is there a pneumothorax?", (40, 400), (0, 100), (0, 100), "--window"),
        ("What is it?", None, (0, 100), (0, 100), "--window"),
    ],
)
def test_a_ct_is_shown_by_flag_then_question_then_header(question, header, flag, window, by, tmp_path):
    told = {} if header is None else {"WindowCenter": header[0], "WindowWidth": header[1]}
    path = saved(tmp_path / "a.dcm", slice_of("CT", ramp(), "1.2.3.1", 0, **told))
    frame = opened(path, question, window=flag)
    assert (frame.window, frame.window_from) == (window, by)
    difference = np.abs(frame.pixels.astype(int) - shown(ramp(), *window))
    assert difference.max() <= 1  # halves may fall to either side


def test_a_ct_of_which_nothing_says_what_is_visible_is_refused_with_the_cure(tmp_path):
    path = saved(tmp_path / "a.dcm", slice_of("CT", ramp(), "1.2.3.1", 0))
    with pytest.raises(RejectedImage, match=r"window_unknown: .*give --window CENTRE WIDTH, such as -600 1500"):
        opened(path)


def test_names_are_whole_words_in_the_order_of_the_question():
    assert named_in("Describe the relationship of the chip.") == []
    assert named_in("Is the nodule in the LUNGS or the liver?") == ["nodule", "lung", "liver"]


def test_mr_is_shown_by_its_own_values_and_a_flag_goes_before(tmp_path):
    stored = np.arange(4000, dtype=np.uint16).reshape(40, 100)
    path = saved(tmp_path / "a.dcm", slice_of("MR", stored, "1.2.3.1", 0, WindowCenter=5, WindowWidth=10))
    frame = opened(path)
    assert frame.window_from == "values"
    assert 0 < int(frame.pixels[20, 50]) < 255
    assert opened(path, window=(2000, 4000)).pixels[20, 0] == pytest.approx(2000 / 4000 * 255, abs=1)


def test_mr_slices_of_a_folder_are_shown_alike_and_a_lone_one_by_itself(tmp_path):
    stored = np.arange(400, dtype=np.uint16).reshape(20, 20) + 1
    bright, dark, lone = (tmp_path / f"{name}.dcm" for name in ("bright", "dark", "lone"))
    saved(bright, slice_of("MR", 10 * stored, "1.2.3.1", 0))
    saved(dark, slice_of("MR", stored, "1.2.3.2", 2))
    saved(lone, slice_of("MR", stored, "1.2.3.3", 0, SeriesInstanceUID="1.2.3.51"))
    volumes = Volumes(tmp_path, burned_in="reject", max_pixels=1_000_000)
    assert volumes.scale(lone) is None
    frames = [opened(path, scale=volumes.scale(path)) for path in (bright, dark)]
    expected = mr_window(np.concatenate([10 * stored, stored]).astype(np.float32))
    assert [frame.window for frame in frames] == [pytest.approx(expected)] * 2
    assert {frame.window_from for frame in frames} == {"volume"}
    assert frames[1].pixels.max() < 30 < opened(dark).pixels.max()


def test_a_flag_turns_white_to_black_where_the_film_says_so_and_leaves_colour_alone(tmp_path):
    stored = np.array([[0, 1000], [2000, 4000]], np.uint16)
    told = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 4000, "BurnedInAnnotation": "NO"}
    path = saved(tmp_path / "a.dcm", picture("DX", stored, **told))
    assert opened(path, window=(1000, 2000)).pixels.tolist() == [[255, 127], [0, 0]]  # the last is padding: black either way
    colour = np.full((4, 4, 3), 7, np.uint8)
    frame = opened(saved(tmp_path / "b.dcm", picture("DX", colour, BurnedInAnnotation="NO")), window=(1000, 2000))
    assert (frame.window, frame.window_from) == (None, "")
    assert (frame.pixels == 7).all()


def test_one_of_several_frames_is_asked_for_by_number_and_the_report_names_it(tmp_path):
    stored = np.stack([np.full((12, 16), value, np.uint8) for value in (10, 20, 30)])
    told = {"NumberOfFrames": 3, "BurnedInAnnotation": "NO", "Modality": "XA", **WHOLE}
    made = picture("DX", stored, **told)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1"
    path = saved(tmp_path / "a.dcm", made)
    with pytest.raises(RejectedImage, match="image_animated: 3 frames: say which one with --frame 1 to 3"):
        opened(path)
    for frame in (0, 4):
        assert reason(path, frame=frame) == "frame_missing"
    second = opened(path, frame=2)
    assert (second.pixels == 20).all()
    write_report(tmp_path / "a.sr.dcm", second, said([Box(1, 2, 9, 8)]))
    [group] = highdicom.sr.srread(tmp_path / "a.sr.dcm").content.get_planar_roi_measurement_groups()
    assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 2
    with pytest.raises(RejectedImage, match=r"seg_frames: .*take --dicom-sr"):
        write_segmentation(tmp_path / "a.seg.dcm", second, said([Box(1, 2, 9, 8)]))


def test_boxes_on_the_region_of_an_ultrasound_picture_lie_on_the_whole_picture(tmp_path):
    region = item(RegionLocationMinX0=10, RegionLocationMinY0=5, RegionLocationMaxX1=49, RegionLocationMaxY1=34)
    made = picture("US", np.full((40, 60), 90, np.uint8), SequenceOfUltrasoundRegions=[region])
    frame = opened(saved(tmp_path / "a.dcm", made))
    assert frame.pixels.shape == (30, 40)
    assert frame.stored(Box(0, 0, 40, 30)) == Box(10, 5, 50, 35)
    del made.SequenceOfUltrasoundRegions
    path = saved(tmp_path / "b.dcm", made)
    assert reason(path) == "burned_in"
    assert opened(path, burned_in="allow").pixels.shape == (40, 60)


def test_a_missing_package_is_told_with_its_cure(monkeypatch):
    check_writer(["--dicom-sr"])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ValueError, match="--dicom-sr and --dicom-seg need the package highdicom: pip install highdicom"):
        check_writer(["--dicom-sr", "--dicom-seg"])
