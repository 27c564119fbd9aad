"""What passes between the steps of a corpus build; each step is a function from one of these to the next.

    source.read(i) -> SourceImage            (corpus/sources/*.py)
    link(SourceImage) -> LinkedImage         (corpus/anatomy.py: host organs, facts, control boxes)
    draft(LinkedImage, writer) -> [Draft]    (corpus/rationale.py: claims; corpus/writers/*.py: texts; corpus/checks.py)
    finalise([part]) -> corpus               (corpus/finalise.py: splits, pairing, row numbers, shards)

Everything here is picklable, so that worker processes can hand it over. Coordinates say _px (pixels of the stored image)
or _unit (0..1 of it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from medclm.types import Box


@dataclass(frozen=True)
class Reject:
    """One thing that did not enter the corpus, as written to rejects.jsonl. Never holds a source path."""

    index: str
    """Where in the input, by number: `images[12]`, `images[12].annotations[3]`, `files[7]`, `records[41].medium`."""
    reason: str
    """A short key that is counted: `image_unreadable`, `box_zero_area`, `check_no_box`, ..."""
    detail: str
    """The value and what would cure it."""


class RejectedImage(Exception):
    """Raised by `Source.read` when the whole image cannot enter the corpus; the build goes on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[RejectedImage], tuple[str, str]]:
        return type(self), (self.reason, self.detail)  # an exception of two arguments does not pickle by itself


@dataclass(frozen=True)
class SourceAnnotation:
    """One lesion as its source states it."""

    index: str
    """Position in the input, for messages: `annotations[3]`."""
    class_source: str
    """Class as written in the source."""
    lesion_class: str
    """Canonical class: lower case, words separated by spaces."""
    box_px: Box
    """In pixels of `SourceImage.pixels`; inside the image and of positive area (sources reject others)."""
    mask: np.ndarray | None = None
    """(H, W) bool of the lesion, or None."""
    lesion_3d: str | None = None
    """Equal for all slices and sequences of one lesion in space."""
    agreement: float | None = None
    """Share of readers who marked it."""


@dataclass(frozen=True)
class Header:
    """What a picture's own file says of it, on an allow-list; ids are raw here. None = not said."""

    modality: str | None = None
    technique: str | None = None
    view: str | None = None
    plane: str | None = None
    patient_directions: str | None = None
    laterality: str | None = None
    spacing_mm: tuple[float, float] | None = None
    """Row spacing, column spacing."""
    window: tuple[float, float] | None = None
    """(centre, width) that the file recommends."""
    original_size: tuple[int, int] | None = None
    patient: str | None = None
    study: str | None = None
    series: str | None = None
    order_in_patient: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceImage:
    """One picture with everything its source says of it. Ids are raw here; the build turns them into HMACs."""

    index: str
    """Position in the input, for messages: `images[12]`."""
    key: str
    """Stable identity within the source (a file name, an id); only its HMAC is stored."""
    pixels: np.ndarray
    """(H, W) or (H, W, 3) uint8, upright (EXIF orientation applied)."""
    source: str
    """Name of the source, e.g. `phantoms`."""
    licence: str
    shareable: bool
    annotations: tuple[SourceAnnotation, ...]
    patient: str | None = None
    """Raw patient id; None = unknown, and the image counts as its own patient."""
    study: str | None = None
    series: str | None = None
    order_in_patient: int | None = None
    modality: str | None = None
    technique: str | None = None
    view: str | None = None
    plane: str | None = None
    patient_directions: str | None = None
    """Patient direction of +x, backslash, of +y: "L\\P" for a standard axial slice; None = unknown."""
    laterality: str | None = None
    """Side of a paired part that the header states for the whole image: left, right; None = both or unknown."""
    origin: str | None = None
    """Raw id of the picture in the collection it first came from, e.g. `nih:00000013_005`; equal origins split together."""
    origin_patient: str | None = None
    """Raw id of the patient there, e.g. `nih:00000013`; patients of equal origin split together."""
    spacing_mm: tuple[float, float] | None = None
    window: tuple[float, ...] | None = None
    """(centre, width) that made the 8 bits; three pairs where each colour channel shows its own."""
    original_size: tuple[int, int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    official_split: str | None = None
    label_scope: tuple[str, ...] = ()
    """Classes annotated exhaustively on this image; a class with a refused annotation is not among them."""
    image_labels: Mapping[str, str] = field(default_factory=dict)
    organs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Organ name (lower case, spaces; a side-named one ends in ` left` or ` right`) -> (H, W) bool, any non-zero is inside."""
    organ_heights: Mapping[str, float] = field(default_factory=dict)
    """For slices of a volume: organ -> where this slice cuts it, 0 = its lowest, 1 = its highest point along the patient."""
    intensity: np.ndarray | None = None
    """(H, W) float32 of physical or z-scored values for measured facts (HU, z); None = no intensity words."""
    report: Mapping[str, str] = field(default_factory=dict)
    """Any of indication, technique, comparison, findings, impression, language."""
    rejects: tuple[Reject, ...] = ()
    """Annotations that were refused while the image itself is fine."""


class Source(Protocol):
    """A dataset of annotated images. Opened again in every worker process, so it must be cheap and picklable."""

    name: str
    rejects: Sequence[Reject]
    """What belongs to no image and cannot enter the corpus; counted once per build."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> SourceImage:
        """The image at `index`.

        Raises:
            RejectedImage: it cannot enter the corpus; the reason is counted.
        """
        ...


@dataclass(frozen=True)
class LinkedAnnotation:
    """An annotation with its host organ and location facts, or a control box (lesion-free tissue of equal size)."""

    source: SourceAnnotation
    box_role: str
    """`lesion` or `control`; a control carries the class that is asked about and absent there."""
    organ: str | None
    """Host organ without side (`kidney`), None = unknown."""
    organ_relation: str
    """inside, borders, adjacent, projects_over, unknown."""
    organ_score: float | None
    """|lesion & organ| / |lesion|, 0..1."""
    facts: Mapping[str, Any]
    """What may be said: side, position words, relative size, intensity word, ...; keys in corpus/anatomy.py."""


@dataclass(frozen=True)
class LinkedImage:
    image: SourceImage
    annotations: tuple[LinkedAnnotation, ...]
    """Lesions in reading order, then controls."""
    rejects: tuple[Reject, ...] = ()


@dataclass(frozen=True)
class StageText:
    """Texts of one stage; boxes as `<box:k>`, k counting `Draft.annotations`; a drawn colour as `{color}`."""

    question: str
    rationale: str
    """Empty in Hard."""
    answer: str
    answers: tuple[str, ...]
    """Accepted alternatives, the answer itself included."""
    answer_type: str
    """closed, open or choice."""


@dataclass(frozen=True)
class Draft:
    """A record before row numbers: what it offers for its own image, and what it lends to others as their Hard partner."""

    question_kind: str
    domain: str
    """lesion class / modality, or lesion class / modality / technique for MR."""
    annotations: tuple[int, ...]
    """Indices into LinkedImage.annotations."""
    easy: StageText | None
    medium: StageText | None
    lend: StageText | None
    """General question and answer about this record's own image: another record shows them as its Hard stage. None where
    this image does not determine the answer."""
    claims: tuple[Mapping[str, Any], ...]
    """[{stage, fact, text}]: the trace of every clause of the rationales."""
    writer: str
    language: str = "en"
    task: str = "vqa"

    @property
    def key(self) -> DraftKey:
        return self.question_kind, self.domain, self.annotations


DraftKey = tuple[str, str, tuple[int, ...]]
"""(question kind, domain, annotations): the same draft in two attempts."""


@dataclass(frozen=True)
class WriteRequest:
    """One image whose records are to be written, at first or again."""

    linked: LinkedImage
    seed: int
    """Picks among phrasings; another one in every attempt."""
    faults: Mapping[DraftKey, tuple[str, ...]] | None = None
    """What the checks found in the attempt before, for the drafts that are wanted again; None = first attempt, all are wanted."""


class Writer(Protocol):
    """Phrases claims. Gets facts only; what it returns goes through every check."""

    name: str

    def write(self, requests: Sequence[WriteRequest]) -> list[tuple[list[Draft], list[Reject]]]:
        """The records of each request in order; equal input gives equal output. Drafts that are not wanted again may be left out
        or given; they are ignored."""
        ...
