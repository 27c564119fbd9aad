"""From stored values to 8 bits: against pydicom's own transforms on real and made files, one test per habit of scanners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.codestream import frame_size
from medclm.corpus.dicom.picture import mr_scale
from medclm.corpus.dicom.reading import read_frame, read_header
from medclm.corpus.windows import mr_window
from tests.dicom_files import item, picture, read, real_pictures, reason, recoded, samples, saved, slice_of

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SYNTAX = gdcm.TransferSyntax


def shown(root: Path, stored: np.ndarray, kind: str = "DX", frame: int | None = None, **elements: Any) -> np.ndarray:
    found = read(saved(root / "a.dcm", picture(kind, stored, **elements)), frame)
    assert found.pixels is not None
    return found.pixels


def as_pydicom(stored: np.ndarray, **elements: Any) -> np.ndarray:
    """The same by pydicom: VOI output scaled from its range to 0..255."""
    made = picture("DX", stored, **elements)
    values = apply_voi_lut(apply_modality_lut(stored, made), made)
    low, high = 0.0, float((1 << int(made.BitsStored)) - 1)
    if "VOILUTSequence" in made:
        high = float((1 << int(made.VOILUTSequence[0].LUTDescriptor[2])) - 1)
    elif "RescaleSlope" in made:
        low, high = float(made.RescaleIntercept), high * float(made.RescaleSlope) + float(made.RescaleIntercept)
    return np.clip((np.asarray(values, np.float64) - low) / (high - low) * 255, 0, 255)


def test_every_real_frame_is_decoded_as_pydicom_decodes_it() -> None:
    compared = 0
    for path in real_pictures():
        whole = dcmread(path)
        if whole.file_meta.TransferSyntaxUID.name.startswith("JPEG Extended"):
            assert reason(path, burned_in="allow") == "transfer_syntax_unsupported"
            continue
        frames = int(whole.get("NumberOfFrames", 1))
        expected = whole.pixel_array.reshape(frames, *read_frame(path, 0).shape)
        for frame in range(frames):
            np.testing.assert_array_equal(read_frame(path, frame), expected[frame])
            compared += 1
    assert compared > 80


def test_real_slices_of_ct_are_in_the_hounsfield_units_of_pydicom() -> None:
    compared = 0
    for path in real_pictures():
        header = dcmread(path)
        if header.Modality != "CT" or "LOCALIZER" in header.ImageType:
            continue
        found = read(path)
        expected = apply_modality_lut(header.pixel_array, header)
        assert found.pixels is None
        assert found.intensity is not None
        measured = np.isfinite(found.intensity)
        np.testing.assert_allclose(found.intensity[measured], expected[measured], atol=1e-3)
        np.testing.assert_array_equal(~measured, header.pixel_array == header.get("PixelPaddingValue", 10**6))
        compared += 1
    assert compared == 9


def test_a_real_film_is_windowed_and_turned_as_pydicom_would() -> None:
    path = samples() / "highdicom" / "dx_image.dcm"
    header = dcmread(path)
    by_pydicom = 255 - np.asarray(apply_voi_lut(apply_modality_lut(header.pixel_array, header), header))
    np.testing.assert_allclose(read(path).pixels, by_pydicom, atol=1)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 1000, "WindowWidth": 900},
        {"WindowCenter": 1000, "WindowWidth": 900, "VOILUTFunction": "LINEAR"},
        {"WindowCenter": 1000, "WindowWidth": 900, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 1000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": [1000, 5], "WindowWidth": [900, 6]},
        {"WindowCenter": 100.5, "WindowWidth": 1},
        {"WindowCenter": -50, "WindowWidth": 400, "RescaleSlope": 0.5, "RescaleIntercept": -500},
    ],
    ids=str,
)
def test_windows_are_those_of_the_standard(tmp_path: Path, elements: dict[str, Any]) -> None:
    elements = {**elements, "BitsStored": 12}
    np.testing.assert_allclose(shown(tmp_path, RAMP, **elements), as_pydicom(RAMP, **elements), atol=0.51)


def voi_table(entries: np.ndarray, first: int, bits: int) -> Any:
    return [item(LUTDescriptor=[len(entries), first, bits], LUTData=entries.astype("<u2").tobytes())]


def test_a_voi_table_goes_before_a_window(tmp_path: Path) -> None:
    table = voi_table(np.linspace(0, 1023, 3000) ** 0.5 * 32, 500, 10)
    elements = {"VOILUTSequence": table, "WindowCenter": 5, "WindowWidth": 6, "BitsStored": 12}
    np.testing.assert_allclose(shown(tmp_path, RAMP, **elements), as_pydicom(RAMP, **elements), atol=0.51)
    assert read(tmp_path / "a.dcm").window is None


def test_a_modality_table_is_applied_first(tmp_path: Path) -> None:
    table = [item(LUTDescriptor=[4096, 0, 16], LUTData=(RAMP.ravel()[::-1] * 2).astype("<u2").tobytes())]
    pixels = shown(
        tmp_path, RAMP, ModalityLUTSequence=table, WindowCenter=4096, WindowWidth=8192, VOILUTFunction="LINEAR_EXACT"
    )
    np.testing.assert_allclose(pixels, (4095.0 - RAMP) * 2 / 8192 * 255, atol=0.51)


def test_monochrome1_is_turned_after_its_window(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    plain = shown(tmp_path, RAMP, **window)
    np.testing.assert_array_equal(shown(tmp_path, RAMP, PhotometricInterpretation="MONOCHROME1", **window), 255 - plain)
    assert plain[0, 0] == 0
    assert plain[-1, -1] == 255


def test_eight_bits_without_a_window_are_shown_as_they_are(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(shown(tmp_path, grey), grey)
    np.testing.assert_array_equal(shown(tmp_path, grey // 16, BitsStored=4), grey // 16 * 17)


def test_more_bits_without_a_window_need_a_declared_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", picture("DX", RAMP, BitsStored=12))
    assert reason(path) == "image_16_bit"
    found = read(path, window=(2048, 4096))
    assert (found.window, int(found.pixels[32, 0])) == ((2048, 4096), 128)


def test_signed_values_keep_their_sign(tmp_path: Path) -> None:
    stored = (np.arange(256, dtype=np.int16) - 128).reshape(16, 16)
    pixels = shown(tmp_path, stored, WindowCenter=0, WindowWidth=256, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(pixels.ravel(), np.arange(256) / 256 * 255, atol=0.51)


def test_overlays_in_unused_bits_and_in_their_own_group_are_never_drawn(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    plain = shown(tmp_path, RAMP, **window)
    drawn = RAMP | np.where(np.eye(64, dtype=bool), 0xF000, 0).astype(np.uint16)
    made = picture("DX", drawn, **window)
    for element, vr, value in ((0x10, "US", 64), (0x11, "US", 64), (0x40, "CS", "G"), (0x100, "US", 16), (0x102, "US", 12)):
        made.add_new(0x60000000 | element, vr, value)
    made.add_new(0x60003000, "OW", b"\xff" * 512)
    np.testing.assert_array_equal(read(saved(tmp_path / "b.dcm", made)).pixels, plain)
    real = samples() / "pydicom" / "examples_overlay.dcm"
    header = dcmread(real)
    scale = mr_scale([header.pixel_array.astype(np.float32)])
    np.testing.assert_array_equal(read(real, scale=scale).pixels, read(real).pixels)


def test_padding_is_black_and_counts_for_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signal = rng.integers(200, 1000, (32, 32)).astype(np.int16)
    padded = signal.copy()
    padded[:, :8] = -2000
    padded[:, 8:10] = -1500
    path = saved(tmp_path / "a.dcm", picture("MR", padded, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1400))
    found = read(path)
    inside = signal[:, 10:].astype(np.float32)
    assert found.window == mr_window(inside)
    assert found.intensity is not None
    np.testing.assert_array_equal(np.isnan(found.intensity), padded < 0)
    assert abs(float(np.nanmean(found.intensity))) < 1e-4
    assert abs(float(np.nanstd(found.intensity)) - 1) < 1e-4
    assert not found.pixels[padded < 0].any()


def test_an_unsigned_reading_of_a_negative_padding_value_is_understood(tmp_path: Path) -> None:
    made = slice_of("CT", np.full((4, 4), -2000, np.int16), "1.2", 0)
    made.add_new(0x00280120, "US", 63536)
    found = read(saved(tmp_path / "a.dcm", made))
    assert found.intensity is not None
    assert np.isnan(found.intensity).all()


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleType": "Z_EFF"},
        {"RescaleType": "US", "ImageType": ["DERIVED", "SECONDARY"]},
        {"RescaleIntercept": None},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    ],
    ids=str,
)
def test_ct_that_is_not_in_hounsfield_units_is_shown_by_its_header(tmp_path: Path, elements: dict[str, Any]) -> None:
    made = slice_of("CT", RAMP.astype(np.int16), "1.2", 0, **elements, WindowCenter=40, WindowWidth=400)
    found = read(saved(tmp_path / "a.dcm", made))
    assert (found.intensity, found.window) == (None, (40, 400))
    assert found.pixels is not None
    original = slice_of("CT", RAMP.astype(np.int16), "1.2", 0, RescaleType="US")
    assert read(saved(tmp_path / "b.dcm", original)).intensity is not None


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_come_out_in_their_order(tmp_path: Path, planar: int) -> None:
    colours = np.zeros((8, 10, 3), np.uint8)
    colours[..., 0], colours[..., 1], colours[2:, :, 2] = 200, 100, 50
    made = picture("DX", colours, PlanarConfiguration=planar)
    if planar:
        made.PixelData = np.ascontiguousarray(colours.transpose(2, 0, 1)).tobytes()
    np.testing.assert_array_equal(read(saved(tmp_path / "a.dcm", made)).pixels, colours)


def test_full_ybr_becomes_rgb_by_the_standard_formula(tmp_path: Path) -> None:
    ybr = np.random.default_rng(1).integers(60, 180, (6, 6, 3)).astype(np.uint8)
    y, cb, cr = (ybr[..., channel].astype(float) - (0, 128, 128)[channel] for channel in range(3))
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)  # PS3.3 C.7.6.3.1.2
    pixels = shown(tmp_path, ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(pixels, np.clip(expected, 0, 255), atol=1)


@pytest.mark.parametrize(("bits", "factor"), [(16, 257), (16, 1), (8, 1)])
def test_palettes_of_8_and_16_bits_give_the_same_colours(tmp_path: Path, bits: int, factor: int) -> None:
    entries = np.random.default_rng(2).integers(0, 256, (3, 256))
    entries[0, 0] = 255
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, column in zip(("Red", "Green", "Blue"), entries, strict=True):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        values = (column * factor).astype("<u2" if bits == 16 else "u1")
        elements[f"{colour}PaletteColorLookupTableData"] = values.tobytes()
    np.testing.assert_array_equal(shown(tmp_path, indices, **elements), entries.T.reshape(16, 16, 3))


def test_other_colours_are_refused_by_name(tmp_path: Path) -> None:
    deep = np.zeros((4, 4, 3), np.uint16)
    assert reason(saved(tmp_path / "a.dcm", picture("DX", deep))) == "image_16_bit"
    strange = picture("DX", deep.astype(np.uint8), PhotometricInterpretation="HSV")
    assert reason(saved(tmp_path / "b.dcm", strange)) in ("image_mode", "dicom_unreadable")


CODINGS = {
    "RLE": SYNTAX.RLELossless,
    "JPEG-LS": SYNTAX.JPEGLSLossless,
    "JPEG 2000": SYNTAX.JPEG2000Lossless,
    "JPEG lossless": SYNTAX.JPEGLosslessProcess14,
    "JPEG lossless SV1": SYNTAX.JPEGLosslessProcess14_1,
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("values", ["unsigned", "signed", "12 bits", "8 bits", "colour"])
def test_lossless_codings_give_the_stored_values(tmp_path: Path, coding: str, values: str) -> None:
    noise = np.random.default_rng(3).integers(0, 4096, (22, 18))
    stored = {
        "unsigned": (noise * 16).astype(np.uint16),
        "signed": (noise - 2000).astype(np.int16),
        "12 bits": noise.astype(np.uint16),
        "8 bits": (noise // 16).astype(np.uint8),
        "colour": np.stack([noise // 16, noise % 256, noise // 64], axis=2).astype(np.uint8),
    }[values]
    elements: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": 0} if stored.ndim == 2 else {}
    elements |= {"BitsStored": 12} if values == "12 bits" else {}
    path = saved(tmp_path / "a.dcm", picture("CT", stored, **elements))
    recoded(path, CODINGS[coding])
    assert read_header(path).file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_array_equal(read_frame(path, 0), stored)


def test_frames_of_a_file_are_read_one_by_one(tmp_path: Path) -> None:
    stack = np.random.default_rng(4).integers(0, 255, (5, 10, 8)).astype(np.uint8)
    path = saved(tmp_path / "a.dcm", picture("DX", stack, NumberOfFrames=5))
    for frame in range(5):
        np.testing.assert_array_equal(read(path, frame).pixels, stack[frame])
    assert reason(path) == "image_animated"
    with pytest.raises(RejectedImage, match="image_truncated"):
        read(path, 5)
    recoded(path, SYNTAX.RLELossless)
    np.testing.assert_array_equal(read(path, 3).pixels, stack[3])


def test_a_declared_scale_shows_every_slice_of_a_volume_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    slices = [rng.integers(100, 900, (16, 16)).astype(np.int16), rng.integers(100, 300, (16, 16)).astype(np.int16)]
    scale = mr_scale([one.astype(np.float32) for one in slices])
    found = [
        read(saved(tmp_path / f"{number}.dcm", slice_of("MR", one, f"1.{number}", number)), scale=scale)
        for number, one in enumerate(slices)
    ]
    assert found[0].window == found[1].window == scale.window
    assert found[1].pixels.mean() < found[0].pixels.mean() - 50


def test_the_size_of_a_coded_frame_is_read_without_decoding_it() -> None:
    assert frame_size(b"") is None
    assert frame_size(b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x0b\x08\x01\x02\x03\x04\x01") == (0x304, 0x102)
    assert frame_size(b"\xff\xd8\xff\xf7\x00\x0b\x08\x01\x02\x03\x04\x01\x01") == (0x304, 0x102)
    assert frame_size(b"\xff\xd8\xff\xff\xff\xe0\x00") is None
    assert frame_size(
        b"\xff\x4f\xff\x51\x00\x2f\x00\x00" + b"\0\0\1\0" + b"\0\0\2\0" + b"\0\0\0\1" + b"\0\0\0\0" + b"\0" * 9
    ) == (255, 512)


def test_a_coded_frame_of_another_size_than_its_header_is_not_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", picture("DX", np.zeros((32, 32), np.uint8)))
    recoded(path, SYNTAX.JPEG2000Lossless)
    made = dcmread(path)
    made.Rows = 31
    assert reason(saved(path, made)) == "size_mismatch"
