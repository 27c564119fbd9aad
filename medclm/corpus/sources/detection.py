"""What every detection format shares: judging stated boxes, and putting picture, lesions, organs and labels together.

A format module parses its file to `Stated` annotations in the annotator's frame; `assemble` does the rest, so that COCO and
VOC refuse the same things in the same words. Must not know any file format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medclm.corpus.contract import Reject, RejectedImage, SourceAnnotation, SourceImage
from medclm.corpus.pixels import ExifTransform, read_picture
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.organ_masks import gather_organs
from medclm.types import Box

MIN_INSIDE = 0.5
"""A box with at least this share of its area inside the picture is clipped to it; with less it is refused."""


class RefusedAnnotation(Exception):
    """One annotation cannot enter the corpus; the image can."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Stated:
    """One annotation as parsed: either box, or the refusal that ended the parsing."""

    number: int
    """Position in the input's list of annotations."""
    class_source: str | None
    """None = the class itself is unknown."""
    box_px: Box | None = None
    """Two corners in pixels of the annotator's frame, as judged by `judge_box`."""
    mask: np.ndarray | None = None
    """(H, W) bool in the same frame."""
    lesion_3d: str | None = None
    refusal: RefusedAnnotation | None = None


@dataclass(frozen=True)
class Facts:
    """What the source says of one image besides its boxes."""

    index: str
    key: str
    declared_size: tuple[int, int] | None = None
    """(width, height) the annotations were made for."""
    patient: str | None = None
    technique: str | None = None
    official_split: str | None = None
    fields: Mapping[str, Any] | None = None
    """What organ templates may refer to."""
    scope_open: bool = True
    """False where annotations of this image may be missing, so that nothing may be said to be absent."""


def shown(value: object) -> str:
    """A value for a reject's detail: numbers as they are, other text by its length, since it might name a person."""
    text = str(value)
    numeric = re.fullmatch(r"(?:[-+.,;:()\[\]'\s\deE]|nan|NaN|inf|Infinity|None)*", text)
    return text[:80] if numeric else f"a text of {len(text)} characters"


def four_numbers(value: object) -> tuple[float, float, float, float]:
    """A box written as a list of four numbers, or as one string of them.

    Raises:
        RefusedAnnotation: box_unreadable.
    """
    parts: Sequence[object] = value if isinstance(value, list) else ()
    if isinstance(value, str):
        parts = re.split(r"\s*[,;]\s*|\s+", value.strip().strip("[]()").strip())
    try:
        numbers = [float(part) for part in parts if isinstance(part, (int, float, str)) and not isinstance(part, bool)]
    except (ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4 or len(parts) != 4:
        raise RefusedAnnotation("box_unreadable", f"{shown(value)}: give four numbers")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def judge_box(box_px: Box, size: tuple[int, int]) -> Box:
    """The box clipped to a picture of `size` (width, height).

    Raises:
        RefusedAnnotation: box_not_finite, box_zero_area (also a negative one), or box_outside (less than MIN_INSIDE of its
            area is in the picture).
    """
    width, height = size
    if not all(math.isfinite(number) for number in box_px):
        raise RefusedAnnotation("box_not_finite", f"{_numbers(box_px)}: give finite numbers")
    if box_px.width <= 0 or box_px.height <= 0:
        raise RefusedAnnotation(
            "box_zero_area",
            f"{_numbers(box_px)} (corners) is {box_px.width:g} wide and {box_px.height:g} high: remove or redraw it",
        )
    clipped = Box(max(box_px.x0, 0.0), max(box_px.y0, 0.0), min(box_px.x1, float(width)), min(box_px.y1, float(height)))
    inside = 0.0 if clipped.width <= 0 or clipped.height <= 0 else clipped.area / box_px.area
    if not inside >= MIN_INSIDE:
        raise RefusedAnnotation(
            "box_outside", f"{_numbers(box_px)} (corners) lies {inside:.0%} in a picture of {width} x {height}: check its frame"
        )
    return clipped


def _numbers(box_px: Box) -> str:
    return "[" + ", ".join(f"{number:g}" for number in box_px) + "]"


@dataclass(frozen=True)
class Opened:
    """A picture with the frame its annotations are in."""

    pixels: np.ndarray
    windowed: bool
    frame: ExifTransform
    """From the annotations' frame to the pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the annotations' frame."""
        return self.frame.stored_size


def open_picture(path: Path, declared_size: tuple[int, int] | None, options: SourceOptions) -> Opened:
    """Raises RejectedImage as `read_picture` does, and size_mismatch."""
    picture = read_picture(path, max_pixels=options.max_pixels, sixteen_bit=options.window)
    frame = picture.exif_transform.for_annotations(declared_size, options.box_frame)
    return Opened(picture.pixels, picture.windowed, frame)


def assemble(opened: Opened, stated: Sequence[Stated], facts: Facts, options: SourceOptions, organ_root: Folder) -> SourceImage:
    """The SourceImage of one picture: annotations turned upright, refused ones named, organs read, labels only as known."""
    annotations, rejects, doubted = _accept(opened, stated, facts, options)
    organs, organ_rejects = gather_organs(
        options.organs, facts.fields or {}, organ_root, opened.size, index=facts.index, max_pixels=options.max_pixels
    )
    labels, scope = _labels(annotations, doubted, facts, options)
    return SourceImage(
        index=facts.index,
        key=facts.key,
        pixels=opened.pixels,
        source=options.name,
        licence=options.licence,
        shareable=options.shareable,
        annotations=tuple(annotations),
        patient=facts.patient,
        modality=options.modality,
        technique=facts.technique,
        plane=options.plane,
        patient_directions=options.patient_directions,
        window=options.window if opened.windowed else None,
        official_split=facts.official_split,
        label_scope=scope,
        image_labels=labels,
        organs={organ: opened.frame.array(mask) for organ, mask in organs.items()},
        rejects=(*rejects, *organ_rejects),
    )


def _accept(
    opened: Opened, stated: Sequence[Stated], facts: Facts, options: SourceOptions
) -> tuple[list[SourceAnnotation], list[Reject], set[str | None]]:
    """Accepted annotations, refused ones, and the classes of the refused (None = unknown): of those nothing is sure any more."""
    annotations: list[SourceAnnotation] = []
    rejects: list[Reject] = []
    doubted: set[str | None] = set()
    for one in stated:
        lesion_class = options.canonical(one.class_source) if one.class_source is not None else None
        try:
            annotations.append(_annotation(opened, one, lesion_class, facts.technique, options))
        except RefusedAnnotation as refusal:
            rejects.append(Reject(f"{facts.index}.annotations[{one.number}]", refusal.reason, refusal.detail))
            doubted.add(lesion_class or None)
    return annotations, rejects, doubted


def _annotation(
    opened: Opened, one: Stated, lesion_class: str | None, technique: str | None, options: SourceOptions
) -> SourceAnnotation:
    if one.refusal is not None:
        raise one.refusal
    if not lesion_class or one.class_source is None or one.box_px is None:
        raise RefusedAnnotation("class_missing", "the annotation has no class name: give one")
    if not options.is_visible(lesion_class, technique):
        seen = ", ".join(options.visible_on[lesion_class])
        raise RefusedAnnotation(
            "not_visible_on_technique",
            f"{lesion_class} is declared visible on {seen}, this image is {technique or 'of unknown technique'}: see --visible-on",
        )
    return SourceAnnotation(
        index=f"annotations[{one.number}]",
        class_source=one.class_source,
        lesion_class=lesion_class,
        box_px=opened.frame.box(one.box_px),
        mask=None if one.mask is None else opened.frame.array(one.mask),
        lesion_3d=one.lesion_3d,
    )


def _labels(
    annotations: Sequence[SourceAnnotation], doubted: set[str | None], facts: Facts, options: SourceOptions
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Image labels, and the declared scope less every class of which a refusal leaves this image in doubt."""
    labels = {annotation.lesion_class: "present" for annotation in annotations}
    in_doubt = None in doubted or not facts.scope_open
    scope = []
    for lesion_class in options.exhaustive:
        if not options.is_visible(lesion_class, facts.technique):
            labels.setdefault(lesion_class, "not assessed")
        elif in_doubt or lesion_class in doubted:
            labels.setdefault(lesion_class, "uncertain")
        else:
            labels.setdefault(lesion_class, "absent")
            scope.append(lesion_class)
    return labels, tuple(scope)


def with_loss(rejection: RejectedImage, annotations: int) -> RejectedImage:
    """The same rejection, saying how many annotations go with the image."""
    if not annotations:
        return rejection
    return RejectedImage(rejection.reason, f"{rejection.detail} (annotations lost with it: {annotations})")


def refused(stated: Stated, refusal: RefusedAnnotation) -> Stated:
    """The annotation as one that was refused while parsing."""
    return replace(stated, box_px=None, mask=None, refusal=refusal)
