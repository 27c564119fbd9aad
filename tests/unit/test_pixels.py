"""Pictures in: every habit of real and hostile files is one named reason or the right pixels; pictures out: pixels alone."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from medclm.corpus.contract import RejectedImage
from medclm.corpus.pixels import ExifTransform, encode_jpeg, encode_png, read_mask, read_picture
from medclm.types import Box

ORIENTATION = 274
REASONS = (
    "image_missing",
    "image_unreadable",
    "image_truncated",
    "image_too_large",
    "image_16_bit",
    "image_animated",
    "image_mode",
)


def noise(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=7)).integers(0, 256, size=shape, dtype=np.uint8)


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand, for headers and depths that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def outcome(path: Path) -> str:
    """`pixels`, or the reason."""
    try:
        return "pixels" if read_picture(path).pixels.dtype == np.uint8 else "another type"
    except RejectedImage as fault:
        return fault.reason


def refusal(path: Path, **options: object) -> RejectedImage:
    with pytest.raises(RejectedImage) as caught:
        read_picture(path, **options)  # type: ignore[arg-type]
    assert str(path.name) not in caught.value.detail
    assert str(path.parent) not in caught.value.detail
    return caught.value


def test_grey_and_colour_come_back_as_they_are(tmp_path: Path) -> None:
    for pixels in (noise(5, 7), noise(5, 7, 3)):
        picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(pixels)))
        assert picture.pixels.dtype == np.uint8
        assert not picture.windowed
        np.testing.assert_array_equal(picture.pixels, pixels)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.png").reason == "image_missing"
    assert refusal(tmp_path).reason == "image_missing"


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal(tmp_path / "pipe.png").reason == "image_missing"


@pytest.mark.parametrize(
    "content", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png").reason == "image_unreadable"


def test_only_named_formats_are_opened(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(noise(4, 4)), format="PCX")  # Pillow could, we do not
    assert refusal(path).reason == "image_unreadable"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF"])
def test_truncated(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "a.bin", Image.fromarray(noise(64, 64)), format=form)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).reason in ({"image_truncated", "image_unreadable"} if form == "TIFF" else {"image_truncated"})


def test_too_large_is_refused_by_the_header_alone(tmp_path: Path) -> None:
    # the pixels are not even there: decoding would say "truncated"
    for width, height in ((20_000, 9_000), (200_000, 200_000)):  # over our limit, over Pillow's own
        (tmp_path / "bomb.png").write_bytes(raw_png(width, height, 8, 0, b""))
        assert refusal(tmp_path / "bomb.png").reason == "image_too_large"
    path = saved(tmp_path / "small.png", Image.fromarray(noise(10, 11)))
    assert refusal(path, max_pixels=109).reason == "image_too_large"
    assert read_picture(path, max_pixels=110).pixels.shape == (10, 11)


def test_the_guard_of_pillow_is_an_error_even_under_a_raised_limit(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(raw_png(10_000, 10_000, 8, 0, b""))
    assert refusal(tmp_path / "bomb.png", max_pixels=10**9).reason == "image_too_large"


def test_a_compressed_text_bomb_ends_in_a_reason(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 80_000_000, zip=True)
    saved(tmp_path / "a.png", Image.fromarray(noise(4, 4)), pnginfo=info)
    assert refusal(tmp_path / "a.png").reason == "image_unreadable"


def test_sixteen_bits_need_a_declared_window(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200], [300, 1000, 65535]], dtype=np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    fault = refusal(path)
    assert fault.reason == "image_16_bit"
    assert "--window CENTRE,WIDTH" in fault.detail
    picture = read_picture(path, sixteen_bit=(200, 200))
    assert picture.windowed
    np.testing.assert_array_equal(picture.pixels, [[0, 0, 128], [255, 255, 255]])


@pytest.mark.parametrize("form", ["int32", "float32"])
def test_deeper_grey_is_treated_alike(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[-1000, 0], [40, 1000]], dtype=form)))
    assert refusal(path).reason == "image_16_bit"
    np.testing.assert_array_equal(read_picture(path, sixteen_bit=(0, 2000)).pixels, [[0, 128], [133, 255]])


def test_float_pixels_that_are_not_finite(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[np.nan, 0]], dtype=np.float32)))
    assert refusal(path, sixteen_bit=(0, 1)).reason == "image_mode"


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour_is_not_silently_cut_to_its_upper_byte(tmp_path: Path, colour: int, channels: int) -> None:
    (tmp_path / "a.png").write_bytes(raw_png(2, 2, 16, colour, (b"\0" + b"\1\2" * 2 * channels) * 2))
    assert refusal(tmp_path / "a.png").reason == "image_16_bit"
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + b"\1\2" * 12)
    assert refusal(tmp_path / "a.ppm", sixteen_bit=(1, 1)).reason == "image_16_bit"


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_animated(tmp_path: Path, form: str) -> None:
    frames = [Image.fromarray(noise(8, 8, 3)), Image.fromarray(255 - noise(8, 8, 3))]
    path = saved(tmp_path / "a.bin", frames[0], format=form, save_all=True, append_images=frames[1:])
    assert refusal(path).reason == "image_animated"


def test_a_photo_with_its_preview_is_one_picture(tmp_path: Path) -> None:
    photo = Image.fromarray(noise(8, 8, 3))
    path = saved(tmp_path / "a.jpg", photo, format="MPO", save_all=True, append_images=[photo.resize((4, 4))])
    assert read_picture(path).pixels.shape == (8, 8, 3)


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], dtype=np.uint8)
    pixels = read_picture(saved(tmp_path / "a.png", Image.fromarray(rgba))).pixels
    np.testing.assert_array_equal(pixels[0, :2], [[200, 100, 50], [0, 0, 0]])
    np.testing.assert_allclose(pixels[0, 2], [100, 50, 25], atol=1)
    grey = np.array([[[200, 255], [200, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "b.png", Image.fromarray(grey))).pixels, [[200, 0]])


def test_palette_and_its_transparent_entry(tmp_path: Path) -> None:
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 250, 240, 230])
    indexed.putdata([0, 1])
    plain = read_picture(saved(tmp_path / "a.png", indexed)).pixels
    np.testing.assert_array_equal(plain, [[[10, 20, 30], [250, 240, 230]]])
    clear = read_picture(saved(tmp_path / "b.png", indexed, transparency=1)).pixels
    np.testing.assert_array_equal(clear, [[[10, 20, 30], [0, 0, 0]]])


def test_one_bit_and_cmyk(tmp_path: Path) -> None:
    bilevel = saved(tmp_path / "a.png", Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1"))
    np.testing.assert_array_equal(read_picture(bilevel).pixels, [[0, 255]])
    inks = Image.merge("CMYK", [Image.new("L", (4, 4), value) for value in (255, 0, 0, 0)])  # pure cyan
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "a.tif", inks)).pixels[0, 0], [0, 255, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_turns_pixels_and_boxes(tmp_path: Path, orientation: int, form: str) -> None:
    stored = np.zeros((9, 14, 3), dtype=np.uint8)
    stored[1:4, 2:8] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "a.bin"
    options: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(stored).save(path, format=form, exif=exif, **options)

    picture = read_picture(path)
    flat = Image.fromarray(stored)
    flat.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(flat))  # Pillow's own, as oracle
    np.testing.assert_array_equal(picture.pixels, upright)
    assert picture.exif_transform.upright_size == (upright.shape[1], upright.shape[0])

    box = picture.orient_box(Box(2, 1, 8, 4), (14, 9))
    rows, columns = np.nonzero(upright[..., 0])
    assert box == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_compressed_tiff_is_turned_once(tmp_path: Path) -> None:
    stored = noise(9, 14)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "a.tif"
    Image.fromarray(stored).save(path, exif=exif, compression="tiff_lzw")
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels, np.rot90(stored, -1))
    assert picture.exif_transform.stored_size == (14, 9)


def test_declared_size_tells_the_frame_of_boxes() -> None:
    transform = ExifTransform(orientation=6, stored_size=(14, 9))
    box = Box(1, 2, 3, 4)
    assert transform.for_annotations((14, 9)).box(box) == Box(5, 1, 7, 3)  # a quarter turn clockwise
    assert transform.for_annotations((9, 14)).box(box) == box
    assert transform.for_annotations(None).box(box) == Box(5, 1, 7, 3)
    assert transform.for_annotations(None, "upright").box(box) == box
    with pytest.raises(RejectedImage) as caught:
        transform.for_annotations((28, 18))
    assert caught.value.reason == "size_mismatch"
    square = ExifTransform(orientation=3, stored_size=(10, 10))
    assert square.for_annotations((10, 10)).box(box) == Box(7, 6, 9, 8)  # taken as stored
    assert square.for_annotations((10, 10), "upright").box(box) == box


def test_an_undefined_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 99
    pixels = noise(3, 4)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    np.testing.assert_array_equal(read_picture(path).pixels, pixels)


@given(
    orientation=st.integers(1, 8),
    corners=st.tuples(st.integers(0, 13), st.integers(0, 8), st.integers(1, 6), st.integers(1, 4)),
)
def test_a_turned_box_covers_the_turned_pixels(orientation: int, corners: tuple[int, int, int, int]) -> None:
    x0, y0, width, height = corners
    box = Box(x0, y0, min(x0 + width, 14), min(y0 + height, 9))
    painted = np.zeros((9, 14), dtype=bool)
    painted[y0 : int(box.y1), x0 : int(box.x1)] = True
    transform = ExifTransform(orientation, (14, 9))
    turned = transform.box(box)
    expected = np.zeros(transform.upright_size[::-1], dtype=bool)
    expected[int(turned.y0) : int(turned.y1), int(turned.x0) : int(turned.x1)] = True
    np.testing.assert_array_equal(transform.array(painted), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")  # TIFF tags past the end of the file
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "GIF", "WEBP"])
@given(data=st.data())
@settings(max_examples=40)
def test_any_damage_ends_in_pixels_or_in_a_reason(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(12, 12, 3)).save(buffer, format=form)
    content = bytearray(buffer.getvalue())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)):
        content[place] = value
    path = tmp_path_factory.mktemp("fuzz") / "a.bin"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    assert outcome(path) in ("pixels", *REASONS)


def test_masks_of_any_kind_mean_not_zero(tmp_path: Path) -> None:
    expected = np.array([[False, True, True]])
    indexed = Image.new("P", (3, 1))
    indexed.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])  # index 0 is white, and still outside
    indexed.putdata([0, 1, 2])
    rgba = np.array([[[255, 255, 255, 0], [0, 1, 0, 255], [255, 0, 0, 255]]], dtype=np.uint8)
    for image in (
        Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8)),
        Image.fromarray(np.array([[0, 1, 4000]], dtype=np.uint16)),
        Image.fromarray(np.array([[0, 255, 1]], dtype=np.uint8)).point(lambda value: value and 255).convert("1"),
        Image.fromarray(rgba),
        indexed,
    ):
        np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", image)), expected)


def test_encoding_keeps_pixels_and_nothing_else(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", "planted identifier")
    exif = Image.Exif()
    exif[0x010E] = "planted identifier"
    path = tmp_path / "a.png"
    Image.fromarray(noise(20, 30, 3)).save(path, pnginfo=info, exif=exif)
    pixels = read_picture(path).pixels
    for encoded in (encode_png(pixels), encode_jpeg(pixels)):
        assert b"planted" not in encoded
        assert b"Exif" not in encoded
        reopened = Image.open(io.BytesIO(encoded))
        assert not reopened.getexif()
        assert not set(reopened.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)
    assert encode_png(pixels) == encode_png(pixels.copy(order="F"))
    with pytest.raises(ValueError, match="uint8"):
        encode_png(pixels.astype(np.float32))
