"""Phantoms as a source of annotated images: what phantoms.py draws, told in the words of corpus/contract.py.

Host organs are not passed on: linking has to find them from the masks. `PhantomSource.truth` gives them to tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from medclm.corpus.contract import Reject, SourceAnnotation, SourceImage
from medclm.corpus.phantom_anatomy import CLASSES, SIDE_LIMITS, Look
from medclm.corpus.phantoms import SMALLEST_SIZE, Lesion, Phantom, draw_phantom
from medclm.types import Box

_FIELD_OF_VIEW_MM = 384.0
LARGEST_SIDE = SIDE_LIMITS[1]
"""Beyond it a lesion finds no place in an organ."""
_PLURALS = {
    "calcification": "calcifications",
    "contusion": "contusions",
    "cyst": "cysts",
    "mass": "masses",
    "nodule": "nodules",
}
_NUMBERS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class LesionTruth:
    """What was drawn: annotation k of `PhantomSource.read(index)` is entry k of `truth(index)`."""

    lesion_class: str
    organ: str
    """Host organ without its side."""
    side: str | None
    """The patient's side of a paired host."""
    box_px: Box


@dataclass
class PhantomSource:
    """`count` procedural pictures; picture i depends on the other arguments and i only.

    Raises:
        ValueError: count under 1, or sizes at which lesions cannot be drawn.
    """

    count: int
    seed: int = 0
    size: int = 128
    """Image side in pixels."""
    small_lesions: bool = False
    """Lesions of 2-6 % of the image side, smaller than a vision patch, instead of 12.5-34.5 %."""
    lesion_sides: tuple[float, float] | None = None
    """Longest side of lesions over the image side, least and largest, instead of either."""
    name: str = field(default="phantoms", init=False)
    rejects: tuple[Reject, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"phantoms: count = {self.count}: ask for at least 1 image")
        if self.size < SMALLEST_SIZE:
            raise ValueError(f"phantoms: size = {self.size}: lesions need at least {SMALLEST_SIZE} pixels a side")
        if self.lesion_sides and (self.small_lesions or not 0 < self.lesion_sides[0] <= self.lesion_sides[1] <= LARGEST_SIDE):
            raise ValueError(
                f"phantoms: lesion_sides = {self.lesion_sides}: give least and largest, above 0 and at most {LARGEST_SIDE}, without "
                "small_lesions"
            )

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> SourceImage:
        """The picture at `index`.

        Raises:
            IndexError: outside 0..count-1.
        """
        phantom = self._draw(index)
        look, patient = phantom.look, phantom.patient
        raw_patient = f"patient-{patient.number:04d}"
        found = {lesion.lesion_class for lesion in phantom.lesions}
        is_section = look.plane != "none" and look.modality in ("CT", "MR")
        spacing = _FIELD_OF_VIEW_MM / self.size
        return SourceImage(
            index=f"images[{index}]",
            key=f"{self.seed}-{self.size}{self._lesions()}-{index}",
            pixels=phantom.pixels,
            source=self.name,
            licence="CC0-1.0",
            shareable=True,
            annotations=tuple(_annotation(number, lesion) for number, lesion in enumerate(phantom.lesions)),
            patient=raw_patient,
            study=f"{raw_patient}-study-{patient.image + 1}",
            order_in_patient=patient.image,
            modality=look.modality,
            technique=look.technique,
            view=look.view,
            plane=look.plane,
            patient_directions=phantom.directions,
            spacing_mm=(spacing, spacing) if is_section else None,
            window=look.window,
            original_size=(self.size, self.size),
            attributes={"sex": patient.sex, "age_decade": patient.age_decade},
            label_scope=CLASSES,
            image_labels={
                **{name: "present" if name in found else "absent" for name in CLASSES},
                "no finding": "absent" if found else "present",
            },
            organs=phantom.organs,
            intensity=phantom.intensity,
            report=_report(phantom),
        )

    def truth(self, index: int) -> tuple[LesionTruth, ...]:
        """What was drawn at `index`, in the order of `read(index).annotations`; for tests, never for a build.

        Raises:
            IndexError: outside 0..count-1.
        """
        return tuple(LesionTruth(one.lesion_class, one.organ, one.side, one.box_px) for one in self._draw(index).lesions)

    def _lesions(self) -> str:
        if self.lesion_sides:
            return "-{:g}-{:g}".format(*self.lesion_sides)
        return "-small" if self.small_lesions else ""

    def _draw(self, index: int) -> Phantom:
        if not 0 <= index < self.count:
            raise IndexError(f"phantoms: image {index} of {self.count}")
        return draw_phantom(
            seed=self.seed, index=index, size=self.size, small_lesions=self.small_lesions, lesion_sides=self.lesion_sides
        )


def _annotation(number: int, lesion: Lesion) -> SourceAnnotation:
    return SourceAnnotation(
        index=f"annotations[{number}]",
        class_source=lesion.lesion_class,
        lesion_class=lesion.lesion_class,
        box_px=lesion.box_px,
        mask=lesion.mask,
    )


def _report(phantom: Phantom) -> Mapping[str, str]:
    """Technique, findings and impression: each statement is one group of equal lesions, or a class in scope that is absent."""
    groups = [
        (name, host, len(list(same)))
        for (name, host), same in groupby(
            sorted(phantom.lesions, key=lambda one: (one.lesion_class, one.organ_mask)),
            key=lambda one: (one.lesion_class, one.organ_mask),
        )
    ]
    present = {name for name, _, _ in groups}
    absent = f"No {_listed([name for name in CLASSES if name not in present])} is seen."
    found = [_sentence(phantom.look, name, host, count) for name, host, count in groups]
    summary = [f"{_counted(name, count)} {_relation(phantom.look)} {_host(host)}.".capitalize() for name, host, count in groups]
    return {
        "technique": phantom.look.title,
        "findings": " ".join([*found, absent]),
        "impression": " ".join(summary or [absent]),
        "language": "en",
    }


def _sentence(look: Look, name: str, host: str, count: int) -> str:
    if look.modality == "DX":
        subject = f"{_NUMBERS[count]} {_PLURALS[name]} project" if count > 1 else f"a {name} projects"
        return f"{subject} over {_host(host)}.".capitalize()
    return f"There {'are' if count > 1 else 'is'} {_counted(name, count, article='a ')} in {_host(host)}."


def _counted(name: str, count: int, *, article: str = "") -> str:
    return f"{_NUMBERS[count]} {_PLURALS[name]}" if count > 1 else f"{article}{name}"


def _relation(look: Look) -> str:
    """A radiograph sums depth: the organ is projected over, not seen into."""
    return "projecting over" if look.modality == "DX" else "in"


def _host(mask_name: str) -> str:
    *organ, last = mask_name.split()
    return f"the {last} {' '.join(organ)}" if last in ("left", "right") else f"the {mask_name}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
