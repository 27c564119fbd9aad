"""What every detection format shares: judging stated boxes, and putting picture, lesions, organs and labels together.

A format module is a `PictureSource`: it parses its files to `Stated` annotations in the annotator's frame; the rest is done
here, so that every format refuses the same things in the same words. Must not know any file format.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medclm.corpus.contract import Reject, RejectedImage, SourceAnnotation, SourceImage
from medclm.corpus.report_privacy import withheld_rejects
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.opened import Opened as Opened
from medclm.corpus.sources.opened import open_picture, shown_pixels
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.organ_masks import gather_organs
from medclm.corpus.sources.organ_specs import read_spec
from medclm.corpus.sources.reports import Reports, open_reports
from medclm.corpus.sources.vocabulary import in_doubt
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
    agreement: float | None = None
    """Share of readers who marked it, 0..1."""
    refusal: RefusedAnnotation | None = None


@dataclass(frozen=True)
class Facts:
    """What the source says of one image besides its boxes."""

    index: str
    key: str
    patient: str | None = None
    technique: str | None = None
    official_split: str | None = None
    fields: Mapping[str, Any] | None = None
    """What organ templates may refer to."""
    organs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Organ name -> (H, W) bool in the annotator's frame, where the source itself has them; they go before declared ones."""
    rejects: tuple[Reject, ...] = ()
    """What could not be used of the picture besides its annotations: organs, sentences of its report."""
    scope_open: bool = True
    """False where annotations of this image may be missing, so that nothing may be said to be absent."""
    scope: tuple[str, ...] = ()
    """Canonical classes that this image's own labels settle, besides those declared for the whole source."""
    image_labels: Mapping[str, str] = field(default_factory=dict)
    """Canonical class -> present, absent, uncertain or not assessed, as its readers labelled the whole image."""
    view: str | None = None
    plane: str | None = None
    study: str | None = None
    order_in_patient: int | None = None
    spacing_mm: tuple[float, float] | None = None
    """Row spacing, column spacing of the stored picture where a table states it."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None
    origin_patient: str | None = None


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
    clipped, inside = _clipped(box_px, Box(0.0, 0.0, float(width), float(height)))
    if not inside >= MIN_INSIDE:
        raise RefusedAnnotation(
            "box_outside", f"{_numbers(box_px)} (corners) lies {inside:.0%} in a picture of {width} x {height}: check its frame"
        )
    return clipped


def _judge_visible(box_px: Box, visible_px: Box) -> Box:
    """The box clipped to what is shown of the picture; raises RefusedAnnotation box_hidden, with less than MIN_INSIDE of it."""
    clipped, inside = _clipped(box_px, visible_px)
    if not inside >= MIN_INSIDE:
        raise RefusedAnnotation("box_hidden", f"{inside:.0%} of the box lies in the part that is shown: see --burned-in")
    return clipped


def _clipped(box_px: Box, frame: Box) -> tuple[Box, float]:
    """The part of a box within a frame, and its share of the box."""
    clipped = Box(max(box_px.x0, frame.x0), max(box_px.y0, frame.y0), min(box_px.x1, frame.x1), min(box_px.y1, frame.y1))
    if clipped.width <= 0 or clipped.height <= 0:
        return clipped, 0.0
    return clipped, (clipped.width / box_px.width) * (clipped.height / box_px.height)  # areas may underflow to 0


def _numbers(box_px: Box) -> str:
    return "[" + ", ".join(f"{number:g}" for number in box_px) + "]"


class PictureSource(ABC):
    """A dataset of single pictures with annotations (contract.Source); a format says which there are and what is stated."""

    _own_rejects: tuple[Reject, ...] = ()

    def __init__(self, options: SourceOptions, organ_root: Path) -> None:
        self.name = options.name
        self._options = options
        self._organ_root = Folder(options.organ_root or organ_root)
        for spec in options.organs:
            read_spec(spec)
        self._reports = _declared_reports(options)

    @property
    def rejects(self) -> Sequence[Reject]:
        """What belongs to no picture: of the format, then of the reports."""
        return (*self._own_rejects, *(self._reports.rejects if self._reports is not None else ()))

    @rejects.setter
    def rejects(self, found: Sequence[Reject]) -> None:
        self._own_rejects = tuple(found)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture(self, index: int) -> tuple[Path, tuple[int, int] | None]:
        """The file of picture `index` and the (width, height) that its annotations are for; raises RejectedImage."""

    @abstractmethod
    def facts(self, index: int) -> Facts:
        """What is said of picture `index`; raises RejectedImage."""

    @abstractmethod
    def stated(self, index: int, size: tuple[int, int]) -> list[Stated]:
        """Its annotations, boxes in pixels of a frame of `size` (width, height); a faulty one carries its refusal."""

    @abstractmethod
    def count(self, index: int) -> int:
        """How many annotations are lost where the picture is rejected."""

    def opened(self, index: int, path: Path, declared_size: tuple[int, int] | None) -> Opened:
        """The picture itself; for formats whose pixels need more than a picture reader."""
        return open_picture(path, declared_size, self._options)

    def read(self, index: int) -> SourceImage:
        """Picture `index` with everything that may be said of it.

        Raises:
            RejectedImage: a reason of the format, of `read_picture`, or size_mismatch.
        """
        try:
            path, declared_size = self.picture(index)
            facts = self._with_report(self.facts(index))
            opened = self.opened(index, path, declared_size)
            stated = self.stated(index, opened.size)
        except RejectedImage as rejection:
            raise with_loss(rejection, self.count(index)) from rejection
        return assemble(opened, stated, facts, self._options, self._organ_root)

    def _with_report(self, facts: Facts) -> Facts:
        if self._reports is None or facts.report:
            return facts
        study = facts.study or self._reports.study_of(facts.key)
        found = self._reports.screened_of(facts.key, facts.study)
        return replace(
            facts,
            report=found.sections,
            rejects=(*facts.rejects, *withheld_rejects(facts.index, found.withheld)),
            study=study,
            patient=facts.patient or study,  # two views of one report are of one patient, whoever that is
        )


def _declared_reports(options: SourceOptions) -> Reports | None:
    if options.reports is None:
        return None
    require_deidentified(options)
    return open_reports(options.reports)


def require_deidentified(options: SourceOptions) -> None:
    """Reports are stored only where the user says that identifiers were removed; screening by spelling does not find them all.

    Raises:
        ValueError: it was not said; names the flag.
    """
    if not options.reports_deidentified:
        raise ValueError(
            "report texts name people: give --reports-deidentified where identifiers were removed from them, or leave them out"
        )


def assemble(opened: Opened, stated: Sequence[Stated], facts: Facts, options: SourceOptions, organ_root: Folder) -> SourceImage:
    """The SourceImage of one picture: annotations turned upright, refused ones named, organs read, labels only as known.

    What the picture's header says goes before what tables say, and that before what is declared for the whole source.
    """
    header = opened.header
    technique = header.technique or facts.technique or options.technique
    annotations, rejects, doubted = _accept(opened, stated, facts, options, technique)
    declared, organ_rejects = gather_organs(
        options.organs, facts.fields or {}, organ_root, opened.size, index=facts.index, max_pixels=options.max_pixels
    )
    organs = {organ: opened.frame.array(mask) for organ, mask in {**declared, **facts.organs}.items()}
    labels, scope = _labels(annotations, doubted, facts, options, technique)
    # a picture without lesions is shown as one that has what is asked about, or the window would give the answer away
    pixels, window = shown_pixels(opened, [*(one.lesion_class for one in annotations), *scope], organs, options)
    return SourceImage(
        index=facts.index,
        key=facts.key,
        pixels=pixels,
        source=options.name,
        licence=options.licence,
        shareable=options.shareable,
        annotations=tuple(annotations),
        patient=facts.patient if facts.patient is not None else header.patient,
        study=facts.study if facts.study is not None else header.study,
        series=header.series,
        order_in_patient=facts.order_in_patient if facts.order_in_patient is not None else header.order_in_patient,
        modality=header.modality or options.modality,
        technique=technique,
        view=header.view or facts.view,
        plane=header.plane or facts.plane or options.plane,
        patient_directions=header.patient_directions or options.patient_directions,
        laterality=header.laterality,
        spacing_mm=header.spacing_mm or facts.spacing_mm,
        window=window,
        original_size=header.original_size,
        attributes={**facts.attributes, **header.attributes},
        official_split=facts.official_split,
        label_scope=scope,
        image_labels=labels,
        organs={organ: mask for organ, mask in organs.items() if mask.any()},
        intensity=opened.intensity,
        report=facts.report,
        origin=facts.origin,
        origin_patient=facts.origin_patient,
        rejects=(*rejects, *organ_rejects, *facts.rejects),
    )


def _accept(
    opened: Opened, stated: Sequence[Stated], facts: Facts, options: SourceOptions, technique: str | None
) -> tuple[list[SourceAnnotation], list[Reject], set[str | None]]:
    """Accepted annotations, refused ones, and the classes of the refused (None = unknown): of those nothing is sure any more."""
    annotations: list[SourceAnnotation] = []
    rejects: list[Reject] = []
    doubted: set[str | None] = set()
    for one in stated:
        lesion_class = options.canonical(one.class_source) if one.class_source is not None else None
        try:
            annotations.append(_annotation(opened, one, lesion_class, technique, options))
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
    box_px = opened.frame.box(one.box_px)
    mask = None if one.mask is None else opened.frame.array(one.mask)
    if opened.visible_px is not None:
        box_px = _judge_visible(box_px, opened.visible_px)
        if mask is not None and not mask.any():
            raise RefusedAnnotation("box_hidden", "no pixel of its mask lies in the part that is shown: see --burned-in")
    return SourceAnnotation(
        index=f"annotations[{one.number}]",
        class_source=one.class_source,
        lesion_class=lesion_class,
        box_px=box_px,
        mask=mask,
        lesion_3d=one.lesion_3d,
        agreement=one.agreement,
    )


def _labels(
    annotations: Sequence[SourceAnnotation],
    doubted: set[str | None],
    facts: Facts,
    options: SourceOptions,
    technique: str | None,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Image labels, and the known scope less every class of which a refusal or a doubtful label leaves this image in doubt."""
    labels = {annotation.lesion_class: "present" for annotation in annotations}
    unknown = None in doubted or not facts.scope_open
    classes = dict.fromkeys((*options.exhaustive, *facts.scope))
    implied = in_doubt(classes, labels)
    scope = []
    for lesion_class in classes:
        stated = facts.image_labels.get(lesion_class, implied.get(lesion_class, "absent"))
        if not options.is_visible(lesion_class, technique):
            labels.setdefault(lesion_class, "not assessed")
        elif unknown or lesion_class in doubted or stated in ("uncertain", "not assessed"):
            labels.setdefault(lesion_class, "uncertain")
        elif stated == "present" and lesion_class not in labels:
            labels[lesion_class] = "present"  # seen by a reader, but without a box: neither absent nor countable
        else:
            labels.setdefault(lesion_class, "absent")
            scope.append(lesion_class)
    return {**facts.image_labels, **labels}, tuple(scope)


def with_loss(rejection: RejectedImage, annotations: int) -> RejectedImage:
    """The same rejection, saying how many annotations go with the image."""
    if not annotations:
        return rejection
    return RejectedImage(rejection.reason, f"{rejection.detail} (annotations lost with it: {annotations})")


def refused(stated: Stated, refusal: RefusedAnnotation) -> Stated:
    """The annotation as one that was refused while parsing."""
    return replace(stated, box_px=None, mask=None, refusal=refusal)
