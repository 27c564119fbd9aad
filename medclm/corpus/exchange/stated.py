"""What an exchange file states of one record, in the same words for every format; and how its fields are read.

Here a format ends and the common road begins: a format module makes `StatedRecord`s, intake.py makes rows of them. Knows
neither files nor pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medclm.corpus.contract import Reject
from medclm.corpus.exchange.box_text import BoxText
from medclm.corpus.sources.classes import canonical_class, organ_name
from medclm.types import Box

MODALITIES = {
    "x-ray": "DX",
    "xray": "DX",
    "x ray": "DX",
    "chest x-ray": "DX",
    "radiograph": "DX",
    "radiography": "DX",
    "mri": "MR",
    "ultrasound": "US",
    "histopathology": "SM",
    "pathology": "SM",
    "microscopy": "SM",
    "endoscopy": "ES",
    "mammography": "MG",
}
"""Words for modalities -> DICOM codes; a code stays as it is."""


class Refused(Exception):
    """A field, or what it stands for, cannot be used."""

    def __init__(self, name: str, reason: str, detail: str) -> None:
        super().__init__(f"{name}: {reason}: {detail}")
        self.name, self.reason, self.detail = name, reason, detail

    def reject(self, where: str) -> Reject:
        return Reject(f"{where}.{self.name}" if self.name else where, self.reason, self.detail)


@dataclass(frozen=True)
class StatedStage:
    """A record at one stage, as the file has it."""

    where: str
    """For messages: `records[41]`."""
    texts: Mapping[str, Any]
    """question, rationale (not in Hard) and answer -> what stands there, coordinates as `box_text` writes them."""
    fields: Mapping[str, str]
    """Part -> name of the field it stands in, for messages."""
    box_text: BoxText
    picture: Any = None
    """Easy: the picture with the box drawn, None = not there. Hard: the partner's picture."""
    picture_field: str = "image"


@dataclass(frozen=True)
class StatedRecord:
    """One record, as the file has it. Unknown is None."""

    where: str
    plain: Any
    """Path of the record's own picture, without a drawn box."""
    plain_field: str
    stages: Mapping[str, StatedStage]
    class_source: str | None = None
    organ: str | None = None
    modality: str | None = None
    technique: str | None = None
    box_role: Any = None
    question_kind: Any = None
    box_classes: tuple[str | None, ...] = ()
    """Class of every box: of `boxes_unit`, then of those in the texts as they appear, Easy before Medium; () = not stated."""
    boxes_unit: tuple[Box, ...] = ()
    """Boxes that are stated outside of the texts, the target first."""
    needs_box: bool = False
    """Easy without such a box is refused."""

    @property
    def lesion_class(self) -> str | None:
        """What the record is about."""
        return canonical_class(self.class_source or "") or None

    def classes_of(self, boxes: int) -> Sequence[str | None]:
        """The class of each of the boxes that were found, None = unknown: what the record is about is said of one box."""
        if len(self.box_classes) == boxes:
            return self.box_classes
        known = self.class_source if self.boxes_unit or boxes == 1 else None
        return [known, *[None] * (boxes - 1)] if boxes else []

    @property
    def host(self) -> str | None:
        organ = organ_name(self.organ or "")
        return organ if organ not in ("", "unknown") else None

    @property
    def domain(self) -> str:
        technique = self.technique if self.modality == "MR" else None
        return " / ".join(part for part in (self.lesion_class or "unknown", self.modality or "unknown", technique) if part)


def text_of(fields: Mapping[str, Any], name: str) -> str | None:
    """A text field without surrounding space; None where it is missing, null or empty.

    Raises:
        Refused: text_unreadable.
    """
    return text(fields.get(name), name)


def modality_of(fields: Mapping[str, Any]) -> str | None:
    """The DICOM code of the field `modality`."""
    word = text_of(fields, "modality")
    return None if word is None else MODALITIES.get(word.lower(), word if " " in word else word.upper())


def text(value: Any, name: str) -> str | None:
    """`text_of` of a value that was found under `name`."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise Refused(name, "text_unreadable", f"found {type(value).__name__}: give a text")
    return value.strip() or None
