"""What becomes no picture, by name: other objects, burned-in text, impossible sizes, and two hundred broken files."""

from __future__ import annotations

import logging
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom import reading
from medclm.corpus.dicom.kept import Kept
from medclm.corpus.dicom.reading import looks_like_dicom
from medclm.draws import generator
from medclm.types import Box
from tests.dicom_files import dataset, item, picture, read, reason, recoded, samples, saved, slice_of

GREY = np.full((80, 160), 100, np.uint8)
EXPECTED = {
    "not_dicom": {"LICENSE_highdicom_MIT", "README.md", "README", "no_meta.dcm"},
    "not_an_image": {
        *{"seg_image_cr_binary.dcm", "seg_image_ct_binary.dcm", "sm_annotations.dcm", "sr_document.dcm", "liver_1frame.dcm"},
        *{"rtdose_1frame.dcm", "rtplan.dcm", "rtstruct.dcm", "test-SR.dcm", "waveform_ecg.dcm"},
    },
    "burned_in": {
        *{"JPEG2000.dcm", "JPGExtended.dcm", "examples_jpeg2k.dcm", "examples_palette.dcm", "examples_rgb_color.dcm"},
        "examples_ybr_color.dcm",
    },
}


def test_every_real_file_is_a_picture_or_a_named_reject() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(one for one in samples().rglob("*") if one.is_file()):
        try:
            read(path, 0)
        except RejectedImage as rejection:
            found.setdefault(rejection.reason, set()).add(path.name)
        else:
            found.setdefault("picture", set()).add(path.name)
    pictures = found.pop("picture")
    assert found == EXPECTED
    assert len(pictures) == 29
    assert {"CT_small.dcm", "MR_small_bigendian.dcm", "693_J2KI.dcm", "sm_image.dcm", "6154"} <= pictures


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("KO", "Key Object"),
        ("PR", "Presentation State"),
        ("PDF", "Encapsulated PDF"),
        ("RTSTRUCT", "RT Structure Set"),
        ("SEG", "Segmentation"),
    ],
)
def test_other_objects_are_told_by_their_kind(tmp_path: Path, kind: str, words: str) -> None:
    with pytest.raises(RejectedImage, match="not_an_image") as caught:
        read(saved(tmp_path / "a.dcm", dataset(kind, Rows=4, Columns=4)))
    assert words in caught.value.detail


def test_an_unknown_class_is_a_picture_where_it_has_one(tmp_path: Path) -> None:
    made = picture("DX", GREY)
    made.SOPClassUID = "1.2.840.113619.4.30.123"
    assert reason(saved(tmp_path / "a.dcm", made)) == "picture"
    del made.Rows
    assert reason(saved(tmp_path / "b.dcm", made)) == "not_an_image"


@pytest.mark.parametrize(
    ("kind", "elements", "expected"),
    [
        ("DX", {"BurnedInAnnotation": "YES"}, "burned_in"),
        ("DX", {"BurnedInAnnotation": "NO"}, "picture"),
        ("DX", {}, "picture"),
        ("SC", {"BurnedInAnnotation": "NO"}, "burned_in"),
        ("DX", {"ConversionType": "WSD"}, "burned_in"),
        ("US", {}, "burned_in"),
    ],
)
def test_pictures_that_may_show_a_name_are_refused(tmp_path: Path, kind: str, elements: dict[str, str], expected: str) -> None:
    path = saved(tmp_path / "a.dcm", picture(kind, GREY, **elements))
    assert reason(path) == expected
    assert reason(path, burned_in="mask") == reason(path, burned_in="allow") == "picture"
    whole = read(path, burned_in="allow")
    np.testing.assert_array_equal(whole.pixels, GREY)
    masked = read(path, burned_in="mask").pixels
    inner = np.zeros(GREY.shape, bool)
    inner[10:70, 20:140] = True
    np.testing.assert_array_equal(masked, GREY if expected == "picture" else np.where(inner, GREY, 0))


def region(x0: int, y0: int, x1: int, y1: int, **elements: Any) -> Any:
    corners = {"RegionLocationMinX0": x0, "RegionLocationMinY0": y0, "RegionLocationMaxX1": x1, "RegionLocationMaxY1": y1}
    return item(**corners, **elements)


def test_ultrasound_is_cut_to_its_regions(tmp_path: Path) -> None:
    stored = np.arange(80 * 160, dtype=np.uint32).reshape(80, 160).astype(np.uint8) | 1
    scale = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.02, "PhysicalDeltaY": -0.03}
    path = saved(tmp_path / "a.dcm", picture("US", stored, SequenceOfUltrasoundRegions=[region(30, 20, 99, 59, **scale)]))
    found = read(path)
    np.testing.assert_array_equal(found.pixels, stored[20:60, 30:100])
    assert found.header.original_size == (160, 80)
    assert found.header.spacing_mm == pytest.approx((0.3, 0.2))
    assert found.kept.box(Box(40, 25, 50, 45)) == Box(10, 5, 20, 25)


def test_what_lies_between_two_regions_is_black(tmp_path: Path) -> None:
    regions = [region(10, 10, 49, 49), region(60, 20, 159, 79)]
    found = read(saved(tmp_path / "a.dcm", picture("US", GREY, SequenceOfUltrasoundRegions=regions)))
    expected = np.zeros_like(GREY)
    expected[10:50, 10:50] = 100
    expected[20:80, 60:160] = 100
    np.testing.assert_array_equal(found.pixels, expected[10:80, 10:160])
    assert found.header.spacing_mm is None


@pytest.mark.parametrize("corners", [(30, 20, 200, 59), (30, 20, 30, 59), (170, 20, 180, 59)])
def test_regions_of_another_picture_are_none(tmp_path: Path, corners: tuple[int, int, int, int]) -> None:
    made = picture("US", GREY, SequenceOfUltrasoundRegions=[region(*corners)])
    assert reason(saved(tmp_path / "a.dcm", made)) == "burned_in"


def test_kept_parts_hide_masks_and_values_as_they_hide_pixels() -> None:
    kept = Kept((6, 4), ((1, 1, 5, 3),))
    assert kept.array(np.ones((4, 6), bool)).sum() == 8
    assert np.isnan(kept.array(np.ones((4, 6), np.float32))).sum() == 16
    assert kept.visible_px == Box(1, 1, 5, 3)


def test_sizes_are_judged_before_anything_is_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", picture("DX", GREY))
    assert reason(path, max_pixels=80 * 160) == "picture"
    assert reason(path, max_pixels=80 * 160 - 1) == "image_too_large"
    claims = picture("DX", GREY, NumberOfFrames=900_000)
    assert reason(saved(tmp_path / "b.dcm", claims)) == "image_truncated"
    huge = picture("DX", GREY, NumberOfFrames=2_000_000_000)
    assert reason(saved(tmp_path / "c.dcm", huge)) == "image_header"
    wide = picture("DX", GREY)
    wide.Columns = 65535
    assert reason(saved(tmp_path / "d.dcm", wide)) == "image_too_large"


def test_files_without_a_meta_header_are_read_where_they_parse(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", slice_of("CT", np.ones((8, 8), np.int16), "1.2", 0))
    whole = path.read_bytes()
    length = int.from_bytes(whole[140:144], "little")
    bare = tmp_path / "bare"
    bare.write_bytes(whole[144 + length :])
    assert not looks_like_dicom(bare)
    np.testing.assert_array_equal(read(bare).intensity, np.ones((8, 8)))
    (tmp_path / "text.dcm").write_text("not a picture\n" * 100)
    assert reason(tmp_path / "text.dcm") == "not_dicom"
    (tmp_path / "empty.dcm").write_bytes(b"")
    assert reason(tmp_path / "empty.dcm") == "not_dicom"
    assert reason(tmp_path / "gone.dcm") == "image_missing"


def test_missing_and_cut_pixels_have_their_names(tmp_path: Path) -> None:
    made = picture("DX", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    whole = saved(tmp_path / "a.dcm", made).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-2000])
    assert reason(tmp_path / "cut.dcm") == "image_truncated"
    del made.PixelData
    made.Rows = made.Columns = 4  # so small that the file could hold them
    assert reason(saved(tmp_path / "none.dcm", made)) == "image_pixels_missing"


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = picture("DX", np.zeros((256, 256), np.uint8))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = saved(tmp_path / "a.dcm", made)
    assert reason(path) == "picture"
    monkeypatch.setattr(reading, "MAX_DATASET", 60_000)
    assert reason(path) == "image_too_large"
    assert len(zlib.compress(bytes(1 << 16))) < 200


def test_a_decoder_that_dies_is_one_reject_and_the_next_frame_is_read(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 4000, (32, 32)).astype(np.int16)
    path = recoded(saved(tmp_path / "a.dcm", slice_of("CT", stored, "1.2", 0)), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[whole.index(b"\xff\xd8\xff\xc3") + 6] ^= 0xFF  # a precision of 239 bits, which gdcm does not survive
    (tmp_path / "b.dcm").write_bytes(broken)
    with pytest.raises(RejectedImage, match="image_unreadable: its decoder died"):
        read(tmp_path / "b.dcm")
    np.testing.assert_array_equal(read(path).intensity, stored)


def damaged(draw: np.random.Generator, whole: bytes) -> bytes:
    """Cut, flipped, overwritten with extremes near the header, or with bytes lost or gained."""
    kind, at = int(draw.integers(4)), int(draw.integers(len(whole)))
    if kind == 0:
        return whole[:at]
    out = bytearray(whole)
    if kind == 3:
        out[at : at + int(draw.integers(1, 64))] = draw.bytes(int(draw.integers(64)))
        return bytes(out)
    for _ in range(int(draw.integers(1, 30))):
        place = int(draw.integers(len(out) if kind == 1 else min(len(out), 4000)))
        out[place] = int(draw.choice([0, 128, 255])) if kind == 2 else int(draw.integers(256))
    return bytes(out)


def test_two_hundred_broken_files_end_in_a_picture_or_a_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    noise = np.random.default_rng(6).integers(0, 255, (32, 32)).astype(np.uint8)
    originals = [
        saved(tmp_path / "native.dcm", slice_of("CT", noise.astype(np.int16), "1.2", 0)).read_bytes(),
        saved(tmp_path / "frames.dcm", picture("DX", np.stack([noise] * 3), NumberOfFrames=3)).read_bytes(),
    ]
    for number, syntax in enumerate(
        (gdcm.TransferSyntax.RLELossless, gdcm.TransferSyntax.JPEG2000Lossless, gdcm.TransferSyntax.JPEGLSLossless)
    ):
        originals.append(recoded(saved(tmp_path / f"{number}.dcm", picture("DX", noise)), syntax).read_bytes())
    draw, outcomes, slowest = generator(0, "broken DICOM files"), Counter[str](), 0.0
    with caplog.at_level(logging.DEBUG):
        for number in range(200):
            path = tmp_path / "broken.dcm"
            path.write_bytes(damaged(draw, originals[number % len(originals)]))
            start = time.perf_counter()
            outcomes[reason(path, window=(100, 200))] += 1
            slowest = max(slowest, time.perf_counter() - start)
    assert sum(outcomes.values()) == 200
    assert outcomes["picture"] > 20
    assert len(outcomes) > 5
    assert slowest < 30
    assert not caplog.records
    assert not recwarn.list
