"""What of a DICOM file may become a picture at all, judged by its header before anything is decoded.

Objects that are no images, sizes that nobody could have meant, and pixels that may show who the patient is. Must not know pixels.
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import UID

from medclm.corpus.contract import RejectedImage
from medclm.corpus.dicom.kept import Kept, Rectangle
from medclm.corpus.dicom.view import FrameView, items

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
MASKED_BORDER = 8
"""`burned_in="mask"` blackens this fraction (an eighth) of the width at the left and right, of the height at top and bottom."""
MAX_FRAMES = 1_000_000

_LEAST_CODE = 8
"""Bytes that one coded frame takes at least: the head of its fragment."""
_SECONDARY_CAPTURE = "Secondary Capture"
_SLACK = 2
"""Pixels by which a region may pass the border: some writers give its last pixel, some the one after."""


def class_uid(header: Dataset) -> str:
    """SOPClassUID; "" where it is not said."""
    return FrameView(header).identity("SOPClassUID") or ""


def kind_of(header: Dataset) -> str:
    """The name that the standard has for the object's class; "" for a class that it does not know."""
    uid = class_uid(header)
    name = UID(uid).name
    return "" if name == uid else name


def check_is_image(header: Dataset, max_pixels: int) -> None:
    """Raises RejectedImage: not_an_image (with the object's kind), image_header (no or impossible sizes), image_too_large."""
    kind = kind_of(header)
    if kind and ("Image Storage" not in kind or kind.startswith("RT ")):
        raise RejectedImage("not_an_image", f"an object of the class {kind}: nothing to show, leave it as it is")
    sizes = _sizes(header)
    if None in sizes:
        if not kind:
            raise RejectedImage("not_an_image", "an object of an unknown class without rows and columns: leave it as it is")
        raise RejectedImage("image_header", "rows, columns, frames or samples are missing or impossible: write the header anew")
    columns, rows, samples, _ = (int(size or 0) for size in sizes)
    if columns * rows > max_pixels or samples > 4:
        raise RejectedImage(
            "image_too_large",
            f"the header claims {columns} x {rows} pixels of {samples} samples, more than {max_pixels}: cut it into tiles or raise the limit",
        )


def check_length(header: Dataset, size: int) -> None:
    """Raises RejectedImage image_truncated where a file of `size` bytes cannot hold the pixels that its header claims.

    Before anything is made of the number of frames, which is a claim like any other.
    """
    syntax = UID(header.file_meta.TransferSyntaxUID)
    columns, rows, samples, frames = (int(one or 0) for one in _sizes(header))
    bits = FrameView(header).number("BitsAllocated") or 1
    chroma = 1 / 2 if (FrameView(header).text("PhotometricInterpretation") or "").endswith(("422", "420")) else 1
    least = frames * _LEAST_CODE if syntax.is_encapsulated else columns * rows * samples * frames * bits / 8 * chroma
    if least > size and not syntax.is_deflated:
        raise RejectedImage("image_truncated", f"{size} bytes cannot hold the {frames} frames of the header: fetch it again")


def frame_count(header: Dataset) -> int:
    """NumberOfFrames of a header that passed `check_is_image`."""
    return _sizes(header)[3] or 1


def _sizes(header: Dataset) -> tuple[int | None, ...]:
    """Columns, rows, samples, frames as positive whole numbers; None = none."""
    view = FrameView(header)
    stated = (
        (view.number("Columns"), 1 << 16),
        (view.number("Rows"), 1 << 16),
        (view.number("SamplesPerPixel") if "SamplesPerPixel" in header else 1, 16),
        (1 if (frames := view.number("NumberOfFrames")) is None else frames, MAX_FRAMES),
    )
    return tuple(int(one) if one is not None and one == int(one) and 0 < one <= most else None for one, most in stated)


def judge_burned_in(header: Dataset, policy: str) -> Kept:
    """What of the picture may be shown.

    Args:
        header: of a picture that passed `check_is_image`.
        policy: reject; mask (an eighth is blackened along every border, see MASKED_BORDER, since text stands there); or allow.

    Returns:
        The whole picture, except: with `mask` what lies within the borders; of ultrasound with fitting regions these regions,
        unless everything is allowed.

    Raises:
        RejectedImage: burned_in.
    """
    columns, rows, _, _ = (int(size or 0) for size in _sizes(header))
    whole = Kept.whole((columns, rows))
    if policy == "allow":
        return whole
    view = FrameView(header)
    ultrasound = view.text("Modality") in ("US", "IVUS") or "Ultrasound" in kind_of(header)
    reason = None
    if view.text("BurnedInAnnotation") == "YES":
        reason = "the header says that text is burned into the pixels"
    elif _SECONDARY_CAPTURE in kind_of(header) or view.text("ConversionType") is not None:
        reason = "a secondary capture may show the patient's name"
    elif ultrasound:
        regions = _regions(header, (columns, rows))
        if regions:
            return Kept((columns, rows), regions, crop=True)
        reason = "ultrasound without regions that fit the picture may show the patient's name"
    if reason is None:
        return whole
    if policy == "reject":
        raise RejectedImage("burned_in", f"{reason}: look at the pictures, then give --burned-in mask or allow")
    beside, above = columns // MASKED_BORDER, rows // MASKED_BORDER
    return Kept((columns, rows), ((beside, above, columns - beside, rows - above),))


def _regions(header: Dataset, size: tuple[int, int]) -> tuple[Rectangle, ...]:
    """The regions of an ultrasound picture; none at all where one does not fit it: then the header speaks of another picture."""
    found = []
    for item in items(header, "SequenceOfUltrasoundRegions"):
        view = FrameView(item)
        corners = [view.number(f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if None in corners:
            return ()
        x0, y0, x1, y1 = (int(corner or 0) for corner in corners)
        inside = 0 <= x0 < x1 <= size[0] + _SLACK and 0 <= y0 < y1 <= size[1] + _SLACK
        if not inside or x0 >= size[0] or y0 >= size[1]:
            return ()
        found.append((x0, y0, min(x1 + 1, size[0]), min(y1 + 1, size[1])))
    return tuple(found)
