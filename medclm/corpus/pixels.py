"""Picture files to upright 8-bit pixels and back, safely.

Every source reads its pictures here, so that a hostile, broken or unusual file ends in one named reason instead of a crash,
a full memory or a silently wrong picture. Must not know of annotations files, organs or datasets; boxes only to turn them
with the pixels.

Colour: palette and CMYK become RGB, transparency is laid over black, colour profiles are ignored. Nothing but the pixels
leaves this module: no EXIF, no text chunks.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from medclm.corpus.contract import RejectedImage
from medclm.types import Box

MAX_PIXELS = 64_000_000

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""Formats that Pillow decodes by itself; others are left out since some start programs (EPS runs Ghostscript)."""

_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""EXIF orientation -> (transpose, then mirror in x, then mirror in y), from stored to upright; EXIF 2.32, tag 0x0112."""


@dataclass(frozen=True)
class ExifTransform:
    """The way from stored pixels to upright ones; one object turns pixels, masks and boxes."""

    orientation: int
    """EXIF orientation, 1..8; 1 = stored upright."""
    stored_size: tuple[int, int]
    """(width, height) as stored."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        width, height = self.stored_size
        return (height, width) if _TURNS[self.orientation][0] else (width, height)

    def array(self, stored: np.ndarray) -> np.ndarray:
        """(H, W, ...) stored pixels or mask -> the same upright."""
        transpose, mirror_x, mirror_y = _TURNS[self.orientation]
        turned = stored.swapaxes(0, 1) if transpose else stored
        turned = turned[:, ::-1] if mirror_x else turned
        turned = turned[::-1] if mirror_y else turned
        return np.ascontiguousarray(turned)

    def box(self, box_px: Box) -> Box:
        """A box in pixels of the stored picture -> in pixels of the upright one."""
        transpose, mirror_x, mirror_y = _TURNS[self.orientation]
        width, height = self.upright_size
        x0, y0, x1, y1 = (box_px.y0, box_px.x0, box_px.y1, box_px.x1) if transpose else box_px
        x0, x1 = (width - x1, width - x0) if mirror_x else (x0, x1)
        y0, y1 = (height - y1, height - y0) if mirror_y else (y0, y1)
        return Box(x0, y0, x1, y1)

    def for_annotations(self, declared_size: tuple[int, int] | None, frame: str = "auto") -> ExifTransform:
        """The transform that annotations made on a picture of `declared_size` need to fit the upright pixels.

        The declared size tells whether the annotator saw the stored picture (then annotations are turned with it) or the
        upright one (then they stay). Where it cannot tell (square, mirrored, nothing declared) they are taken as stored,
        unless `frame` is `stored` or `upright`.

        Raises:
            RejectedImage: size_mismatch, where the declared size is neither.
        """
        if declared_size is not None and declared_size not in (self.stored_size, self.upright_size):
            raise RejectedImage(
                "size_mismatch",
                f"annotations are for {_by(declared_size)}, the picture has {_by(self.upright_size)} pixels: give the picture "
                "that was annotated",
            )
        if frame == "auto":
            frame = "stored" if declared_size in (None, self.stored_size) else "upright"
        return self if frame == "stored" else ExifTransform(1, self.upright_size)


@dataclass(frozen=True)
class Picture:
    """One picture, ready to be stored."""

    pixels: np.ndarray
    """(H, W) or (H, W, 3) uint8, upright."""
    exif_transform: ExifTransform
    windowed: bool = False
    """True where more than 8 bits were mapped to 8 with the declared window."""

    def orient_box(self, box_px: Box, declared_size: tuple[int, int] | None = None) -> Box:
        """A box of an annotation made on a picture of `declared_size` -> in upright pixels (see `for_annotations`).

        Raises:
            RejectedImage: size_mismatch.
        """
        return self.exif_transform.for_annotations(declared_size).box(box_px)


def read_picture(path: Path, *, max_pixels: int = MAX_PIXELS, sixteen_bit: tuple[float, float] | None = None) -> Picture:
    """The picture at `path`, upright and in 8 bits.

    Args:
        path: a PNG, JPEG, TIFF, BMP, GIF, WEBP, PNM, JPEG 2000 or AVIF file with one frame.
        max_pixels: largest width x height; checked in the header, before anything is decoded.
        sixteen_bit: (centre, width) that maps grey pictures of more than 8 bits linearly to 0..255 and clips; None refuses
            them, since any guess would change what is visible.

    Raises:
        RejectedImage: image_missing, image_unreadable, image_truncated, image_too_large, image_16_bit, image_animated or
            image_mode. The detail never holds the path.
    """
    with _opened(path, max_pixels) as image:
        colour_16 = _is_deep_colour(image)
        image, transform, turned = _loaded(image)
        if colour_16:
            raise RejectedImage("image_16_bit", "colour of 16 bits a channel: convert it to 8 bits first")
        deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
        pixels = _windowed(np.asarray(image), image.mode, sixteen_bit) if deep else np.asarray(_eight_bit(image))
    return Picture(pixels if turned else transform.array(pixels), transform, windowed=deep)


def read_values(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of a label picture as stored, (H, W) or (H, W, channels), upright; any bit depth is fine.

    A palette counts by index; transparent pixels are zero.

    Raises:
        RejectedImage: as `read_picture`, except image_16_bit.
    """
    with _opened(path, max_pixels) as image:
        image, transform, turned = _loaded(image)
        if image.mode in ("RGBA", "LA", "RGBa", "La", "PA"):
            image = _eight_bit(image)
        values = np.asarray(image)
    return values if turned else transform.array(values)


def read_mask(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A mask file as (H, W) bool, upright: any value but zero is inside, in any channel; else as `read_values`."""
    values = read_values(path, max_pixels=max_pixels)
    return np.asarray(values != 0 if values.ndim == 2 else (values != 0).any(axis=2))


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 -> PNG bytes that hold the pixels and nothing else; equal pixels give equal bytes.

    Run lengths alone (zlib's Z_RLE): on radiographs six times as fast as the usual strategy at level 6, and no larger
    (benchmarks/corpus.py).
    """
    buffer = io.BytesIO()
    _as_image(pixels).save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def encode_jpeg(pixels: np.ndarray, *, quality: int = 95) -> bytes:
    """(H, W) or (H, W, 3) uint8 -> JPEG bytes without EXIF or comments; `quality` 1..95, chroma kept at full resolution."""
    buffer = io.BytesIO()
    _as_image(pixels).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _as_image(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"pixels of {pixels.dtype} {pixels.shape}: give uint8 (H, W) or (H, W, 3)")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The file with its header read and judged; whatever a decoder raises while it is open becomes a RejectedImage."""
    try:
        if not path.is_file():
            raise RejectedImage("image_missing", "there is no such file: check the image folder")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise RejectedImage(
                        "image_too_large",
                        f"{_by(image.size)} pixels are more than {max_pixels}: cut it into tiles or raise the limit",
                    )
                if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photo with its preview behind it
                    raise RejectedImage("image_animated", "more than one frame or page: give one file per picture")
                yield image
    except (RejectedImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedImage("image_too_large", "the header claims a decompression bomb: cut it into tiles") from error
    except Exception as error:  # on hostile bytes decoders raise anything: OSError, SyntaxError, struct.error, IndexError, ...
        raise _rejection(error) from error


def _rejection(error: Exception) -> RejectedImage:
    """A decoder's error as a reason; its own words stay out where they may hold the path."""
    if isinstance(error, UnidentifiedImageError):
        return RejectedImage("image_unreadable", f"not one of {', '.join(_FORMATS)}, or a broken header: convert it to PNG")
    text = str(error).lower()
    if isinstance(error, EOFError) or any(
        word in text for word in ("truncated", "broken data stream", "premature", "not enough")
    ):
        return RejectedImage("image_truncated", "the file ends before its picture does: fetch it again")
    if isinstance(error, OSError) and error.errno is not None:
        return RejectedImage("image_unreadable", f"{error.strerror}: check the file's permissions and the disk")
    return RejectedImage("image_unreadable", f"its decoder stopped with {type(error).__name__}: fetch or convert it again")


def _loaded(image: Image.Image) -> tuple[Image.Image, ExifTransform, bool]:
    """The decoded image, its transform, and whether Pillow has already turned the pixels (it does so for TIFF)."""
    turned = image.format == "TIFF"
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if turned else 1
    image.load()
    if not turned:  # after loading, since a PNG may carry EXIF behind its pixels
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if not isinstance(orientation, int) or orientation not in _TURNS:
        orientation = 1  # undefined values are ignored, as viewers do
    swapped = turned and _TURNS[orientation][0]
    stored_size = (image.height, image.width) if swapped else (image.width, image.height)
    return image, ExifTransform(orientation, stored_size), turned


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would silently keep only the upper byte of 16-bit channels; only its tile table tells."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return False
    for tile in getattr(image, "tile", ()):
        parts = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(part, str) and ";16" in part for part in parts):
            return True
        if tile[0] == "ppm" and any(isinstance(part, int) and part > 255 for part in parts):
            return True
    return False


def _windowed(values: np.ndarray, mode: str, window: tuple[float, float] | None) -> np.ndarray:
    if window is None:
        raise RejectedImage(
            "image_16_bit",
            f"grey of more than 8 bits (values {values.min():g} to {values.max():g}): say which of them are visible with "
            "--window CENTRE,WIDTH",
        )
    if not np.isfinite(values).all():
        raise RejectedImage("image_mode", f"mode {mode} with values that are not finite: convert it to 8 bits")
    centre, width = window
    scaled = (values.astype(np.float64) - (centre - width / 2)) / width * 255
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _eight_bit(image: Image.Image) -> Image.Image:
    """As mode L or RGB, transparency over black."""
    if image.mode == "1":
        return image.convert("L")
    transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if transparent:
        grey = image.mode in ("L", "LA", "La")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, _with_alpha(image)).convert("L" if grey else "RGB")
    try:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    except ValueError as error:
        raise RejectedImage("image_mode", f"mode {image.mode} has no way to RGB: convert it to PNG") from error


def _with_alpha(image: Image.Image) -> Image.Image:
    straight = image.convert("LA") if image.mode == "La" else image  # premultiplied grey has no direct way
    return straight.convert("RGBA")
