"""What an exchange file states -> rows of parts. Every format states its records in the same words, and is judged alike.

A picture is read at its first use; a stage that cannot be used is refused by index and field, the rest of its record stays.
What the files do not say stays unknown: no text is made here. Knows no file format, no writers and no anatomy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medclm.corpus.contract import LinkedImage, RejectedImage, SourceImage
from medclm.corpus.exchange.box_text import Size, place
from medclm.corpus.exchange.stated import Refused, StatedRecord, StatedStage, text
from medclm.corpus.ids import Ids
from medclm.corpus.parts import PartRow
from medclm.corpus.pixels import read_picture
from medclm.corpus.rows import image_rows, reject_row
from medclm.corpus.sources.classes import canonical_class
from medclm.corpus.sources.detection import RefusedAnnotation
from medclm.corpus.sources.files import Folder, safe_parts
from medclm.data.schema import BOX_ROLES, QUESTION_KINDS
from medclm.types import Box

_KINDS = (
    ("presence", r"(is|are|does|do|can|has|have)\b"),
    ("count", r"how many\b|count\b|what is the number\b"),
    ("which_organ", r"(in |over )?(which|what) organ\b|name the organ\b"),
    ("where", r"where\b|what is the location\b"),
    ("size", r"how (large|big)\b|what( is the)? size\b"),
    ("compare", r"compare\b"),
    ("describe", r"describe\b|report\b|summari[sz]e\b"),
)
"""First words of a question -> question kind; none of these -> `what`."""
_LISTED = 8
"""A rationale about more boxes counts them instead of listing."""


@dataclass
class Intake:
    """Stated records -> rows; remembers what was taken in."""

    folder: Folder
    ids: Ids
    source: str
    licence: str
    shareable: bool
    writer: str
    """Whose texts these are: the name of the format."""
    splits: Mapping[str, str]
    """Path of a plain picture -> split."""
    _sizes: dict[str, Size] = field(default_factory=dict)
    _annotations: set[str] = field(default_factory=set)

    def rows(self, record: StatedRecord) -> Iterator[PartRow]:
        """The rows of one record: images met for the first time, annotations, the record, its rejects."""
        try:
            image_id, new_rows = self._image(record.plain_field, record.plain, record)
        except Refused as error:
            yield reject_row(error.reject(record.where))
            return
        yield from new_rows
        boxes, rejects, size = list(record.boxes_unit), [], self._sizes[image_id]
        texts: dict[str, dict[str, Any]] = {}
        easy_image: str | None = None
        for name, stage in record.stages.items():
            try:
                body = _stage(record, name, stage, boxes, size)
                if body is None:
                    continue
                if name == "easy" and stage.picture is not None:
                    easy_image, new_rows = self._image(stage.picture_field, stage.picture, record, drawn_on=record.plain)
                    yield from new_rows
                if name == "hard":
                    body["image"], new_rows = self._image(stage.picture_field, stage.picture, record)
                    yield from new_rows
                texts[name] = body
            except Refused as error:
                rejects.append(error.reject(stage.where))
        names = []
        for number, (box, class_source) in enumerate(zip(boxes, record.classes_of(len(boxes)), strict=True)):
            annotation = self._annotation(record, number, box, class_source, image_id)
            names.append(annotation.id)
            if annotation.id not in self._annotations:
                self._annotations.add(annotation.id)
                yield annotation
        yield self._record(record, image_id, easy_image, names, texts)
        yield from map(reject_row, rejects)

    def _image(self, name: str, path: Any, record: StatedRecord, *, drawn_on: str | None = None) -> tuple[str, list[PartRow]]:
        """Id of a picture, and its row when it is new."""
        if not isinstance(path, str):
            raise Refused(name, "image_missing", f"found {type(path).__name__}: give the path of the picture")
        try:
            key = self._key(path)
            owner = key if drawn_on is None else self._key(drawn_on)
            image_key = f"drawn {key}" if drawn_on else key
            image_id = self.ids.make("image", self.source, image_key)
            if image_id in self._sizes:
                return image_id, []
            pixels = read_picture(self.folder.find(key)).pixels
        except RejectedImage as error:
            raise Refused(name, error.reason, error.detail) from error
        self._sizes[image_id] = pixels.shape[1], pixels.shape[0]
        image = SourceImage(
            index=name,
            key=image_key,
            pixels=pixels,
            source=self.source,
            licence=self.licence,
            shareable=self.shareable,
            annotations=(),
            patient=f"path {owner}",
            modality=record.modality,
            technique=record.technique,
            official_split=None if drawn_on else self.splits.get(path),
        )
        return image_id, image_rows(LinkedImage(image=image, annotations=()), [], self.ids)

    def _key(self, path: str) -> str:
        """A path as the folder knows it; an absolute one is fine below the folder."""
        root = self.folder.root.absolute()
        inside = Path(path).is_absolute() and Path(path).is_relative_to(root)
        return "/".join(safe_parts(str(Path(path).relative_to(root)) if inside else path))

    def _annotation(self, record: StatedRecord, number: int, box: Box, class_source: str | None, image_id: str) -> PartRow:
        """Organ and role are stated of the target, which is the first box."""
        lesion_class = canonical_class(class_source or "") or None
        organ, role = (record.host, record.box_role) if number == 0 else (None, None)
        raw = json.dumps([image_id, lesion_class, organ, list(box), role])
        name = self.ids.make("annotation", self.source, raw)
        body = {
            "annotation_id": name,
            "image": image_id,
            "class_source": class_source,
            "lesion_class": lesion_class,
            "box_xyxy_unit": list(box),
            "box_role": role if role in BOX_ROLES else "lesion",
            "mask_rle": None,
            "lesion_3d": None,
            "agreement": None,
            "organ": organ,
            "organ_relation": "unknown",
            "organ_score": None,
            "facts": "{}",
        }
        return PartRow("annotation", name, body)

    def _record(
        self,
        record: StatedRecord,
        image_id: str,
        easy_image: str | None,
        names: list[str],
        texts: Mapping[str, dict[str, Any]],
    ) -> PartRow:
        name = self.ids.make("record", self.source, f"{record.where} {image_id}")
        question = next((texts[stage]["question"] for stage in ("medium", "easy", "hard") if stage in texts), "")
        body = {
            "record_id": name,
            "index": record.where,
            "task": "vqa",
            "image": image_id,
            "annotations": list(dict.fromkeys(names)),
            "easy_image": easy_image if "easy" in texts else None,
            "question_kind": record.question_kind if record.question_kind in QUESTION_KINDS else _kind_of(question),
            "language": "en",
            "domain": record.domain,
            "writer": self.writer,
            "claims": "[]",
            "easy": texts.get("easy"),
            "medium": texts.get("medium"),
            "lend": None,
            "hard": texts.get("hard"),
        }
        return PartRow("record", name, body)


def _stage(record: StatedRecord, name: str, stage: StatedStage, boxes: list[Box], size: Size) -> dict[str, Any] | None:
    """Texts of a stage with boxes as placeholders; None = the stage is not there."""
    texts = {part: text(stage.texts.get(part), field) for part, field in stage.fields.items()}
    if not any(texts.values()):
        return None
    for part, where in stage.fields.items():
        if not texts[part]:
            detail = f"the other fields of {name} are there: fill it, or leave out all of them"
            raise Refused(where, "text_missing", detail)
    if name == "easy" and record.needs_box and not record.boxes_unit:
        raise Refused("bbox", "box_missing", f"Easy shows a box: give it, or leave out {', '.join(stage.fields.values())}")
    found = list(boxes)
    placed = {part: _placed(text or "", found, stage, stage.fields[part], size) for part, text in texts.items()}
    for part in ("question", "answer"):
        if "<box:" in placed[part] and (name == "hard" or (part == "question" and name == "medium")):
            raise Refused(stage.fields[part], "text_gives_box_away", "coordinates may not stand here")
    if name == "easy" and not found and stage.picture is None:
        raise Refused(
            stage.fields["rationale"], "box_missing", "Easy shows a box: state it, or name a picture that has it drawn"
        )
    if name != "hard" and found:
        _check_rationale(placed["rationale"], record, found, stage.fields["rationale"])
    boxes[:] = found  # those found in the texts stay only if the stage does
    answer = placed["answer"]
    return {
        "question": placed["question"],
        "rationale": placed.get("rationale", ""),
        "answer": answer,
        "answers": [answer],
        "answer_type": "closed" if re.match(r"(yes|no)\b", answer.lower()) else "open",
    }


def _placed(text: str, boxes: list[Box], stage: StatedStage, name: str, size: Size) -> str:
    try:
        return place(text, boxes, stage.box_text, size)
    except RefusedAnnotation as error:
        raise Refused(name, error.reason, error.detail) from error


def _check_rationale(text: str, record: StatedRecord, boxes: list[Box], name: str) -> None:
    plain = text.lower().replace("_", " ")
    if "<box:" not in text and len(boxes) <= _LISTED:
        raise Refused(name, "rationale_without_box", "the rationale does not contain bbox")
    if record.box_role != "control":
        if record.lesion_class and record.lesion_class not in plain:
            raise Refused(name, "rationale_without_class", f"the rationale does not name {record.lesion_class!r}")
        if record.host and record.host not in plain:
            raise Refused(name, "rationale_without_organ", f"the rationale does not name {record.host!r}")


def _kind_of(question: str) -> str:
    lowered = question.lower()
    return next((kind for kind, words in _KINDS if re.match(words, lowered)), "what")
