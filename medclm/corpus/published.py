"""The published JSON, read: a list of objects with pictures, one box, and a question and answer per stage -> a corpus.

    image_path (box drawn), image_path2 (plain), image_path3 (Hard), bbox ("[x1, y1, x2, y2]", unit), question, cot, answer,
    question2, cot2, answer2, question3, answer3, lesion_class, organ, modality

What is unambiguous is accepted (comments, boxes as lists, missing stages, a missing drawn picture); everything else is
refused by index and field, and the rest goes on. Our own export adds `question_kind`, `box_role`, `technique` and `split`,
which are honoured. Coordinates in texts become `<box:k>`. Knows nothing of writers or anatomy: no text is made here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.contract import LinkedImage, Reject, RejectedImage, SourceImage
from medclm.corpus.finalise import PARTS, BuildReport, finalise
from medclm.corpus.ids import Ids
from medclm.corpus.parts import PartRow, write_part
from medclm.corpus.pixels import read_picture
from medclm.corpus.rows import image_rows, reject_row
from medclm.corpus.sources.classes import canonical_class, organ_name
from medclm.corpus.sources.detection import RefusedAnnotation, four_numbers, judge_box
from medclm.corpus.sources.files import Folder, safe_parts
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.splits import SplitRule
from medclm.data.schema import BOX_ROLES, QUESTION_KINDS, SPLITS
from medclm.types import Box

STAGE_FIELDS = {
    "easy": {"question": "question", "rationale": "cot", "answer": "answer"},
    "medium": {"question": "question2", "rationale": "cot2", "answer": "answer2"},
    "hard": {"question": "question3", "answer": "answer3"},
}
"""Stage -> part of a sample -> field of the published JSON."""
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
_NUMBER = r"-?(?:\d*\.\d+|\d+\.?)(?:[eE][-+]?\d+)?"
_LITERAL = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
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
_ENTRIES_PER_PART = 64


def import_published(
    json_file: Path,
    image_root: Path | None,
    out: Path,
    *,
    ids: Ids,
    split: str = "train",
    source: str = "published",
    licence: str = "unknown",
    shareable: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Make the corpus folder `out` from a published JSON.

    Args:
        json_file: the list.
        image_root: folder that image paths are relative to; None = the folder of the JSON.
        split: of objects that state none: the format has no splits.
        source, licence, shareable: what the corpus says of the pictures.

    Raises:
        ValueError: not such a file, or `out` is not an empty folder; names file and cure.
        EverythingRejected: no record was left.
    """
    if split not in SPLITS:
        raise ValueError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    entries = read_json(json_file)
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else type(entries).__name__
        raise ValueError(f"{json_file}: expected a list of objects with image_path2, bbox, question, ..., found {found}")
    if not any(isinstance(entry, dict) and entry.keys() & {"image_path", "image_path2"} for entry in entries):
        raise ValueError(f"{json_file}: no object has image_path2 or image_path: this is not the published format")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is not an empty folder: give another one")
    reader = _Reader(Folder(image_root or json_file.parent), ids, source, licence, shareable, _splits(entries, split))
    folder = out / PARTS
    folder.mkdir(parents=True)
    try:
        parts: list[Path] = []
        for start in tqdm(range(0, len(entries), _ENTRIES_PER_PART), desc="importing", disable=None if progress else True):
            rows = [
                row for i in range(start, min(start + _ENTRIES_PER_PART, len(entries))) for row in reader.rows(i, entries[i])
            ]
            parts.append(folder / f"part-{len(parts):06d}.arrow")
            write_part(parts[-1], rows)
        builder = {"source": source, "entries": len(entries), "importer": "published", "id_key": ids.fingerprint}
        return finalise(parts, out, rule=SplitRule(rule="given"), seed=0, builder=builder, balance_pairs=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()
        raise


def _splits(entries: list[Any], split: str) -> dict[str, str]:
    """Plain image -> split, before any is read: an image may serve as a Hard image first."""
    found: dict[str, str] = {}
    for entry in entries:
        path = entry.get("image_path2") if isinstance(entry, dict) else None
        if isinstance(path, str):
            found.setdefault(path, entry["split"] if entry.get("split") in SPLITS else split)
    return found


class _Refused(Exception):
    """A field cannot be used."""

    def __init__(self, name: str, reason: str, detail: str) -> None:
        self.name, self.reason, self.detail = name, reason, detail


@dataclass
class _Entry:
    """One object while it is read."""

    index: int
    fields: Mapping[str, Any]
    lesion_class: str
    organ: str | None
    domain: str
    boxes: list[Box] = field(default_factory=list)
    """bbox, then boxes that the texts state besides."""
    rejects: list[Reject] = field(default_factory=list)


@dataclass
class _Reader:
    """Objects -> rows of parts; a picture is read at its first use."""

    folder: Folder
    ids: Ids
    source: str
    licence: str
    shareable: bool
    splits: Mapping[str, str]
    seen: set[str] = field(default_factory=set)

    def rows(self, index: int, fields: Any) -> Iterator[PartRow]:
        """The rows of one object: images met for the first time, annotations, its record, its rejects."""
        where = f"records[{index}]"
        try:
            if not isinstance(fields, dict):
                raise _Refused("", "not_an_object", f"found {type(fields).__name__}: every element is an object")
            entry = self._entry(index, fields)
            plain = fields.get("image_path2")
            if plain is None and isinstance(fields.get("image_path"), str):
                raise _Refused("image_path2", "image_missing", "only the drawn picture is named: the plain one is needed")
            image_id, new_rows = self._image("image_path2", plain, fields)
        except _Refused as error:
            name = f"{where}.{error.name}" if error.name else where
            yield reject_row(Reject(name, error.reason, error.detail))
            return
        yield from new_rows
        stages: dict[str, dict[str, Any] | None] = {}
        easy_image: str | None = None
        for stage in STAGE_FIELDS:
            try:
                stages[stage] = self._stage(entry, stage)
                if stages[stage] and stage == "easy" and fields.get("image_path") is not None:
                    easy_image, new_rows = self._image("image_path", fields["image_path"], fields, drawn_on=plain)
                    yield from new_rows
                if (texts := stages[stage]) and stage == "hard":
                    texts["image"], new_rows = self._image("image_path3", fields.get("image_path3"), fields)
                    yield from new_rows
            except _Refused as error:
                stages[stage] = None
                entry.rejects.append(Reject(f"{where}.{error.name}", error.reason, error.detail))
        names = []
        for box in entry.boxes:
            annotation = self._annotation(entry, box, image_id)
            names.append(annotation.id)
            if annotation.id not in self.seen:
                self.seen.add(annotation.id)
                yield annotation
        yield self._record(entry, where, image_id, easy_image, names, stages)
        yield from map(reject_row, entry.rejects)

    def _entry(self, index: int, fields: Mapping[str, Any]) -> _Entry:
        name = canonical_class(_text(fields, "lesion_class") or "")
        if not name:
            raise _Refused("lesion_class", "class_missing", "the class of the lesion is needed for the domain")
        modality = _modality(fields)
        technique = _text(fields, "technique") if modality == "MR" else None
        organ = organ_name(_text(fields, "organ") or "")
        domain = " / ".join(part for part in (name, modality or "unknown", technique) if part)
        entry = _Entry(index, fields, name, organ if organ not in ("", "unknown") else None, domain)
        if fields.get("bbox") is not None:
            try:
                numbers = four_numbers(fields["bbox"])
                if max(numbers) > 1.01:
                    raise _Refused("bbox", "box_not_unit", f"{list(numbers)}: give corners as shares of the image, 0 to 1")
                entry.boxes.append(judge_box(Box(*numbers), (1, 1)))
            except RefusedAnnotation as error:
                raise _Refused("bbox", error.reason, error.detail) from error
        return entry

    def _image(
        self, name: str, path: Any, fields: Mapping[str, Any], *, drawn_on: str | None = None
    ) -> tuple[str, list[PartRow]]:
        """Id of a picture, and its row when it is new."""
        if not isinstance(path, str):
            raise _Refused(name, "image_missing", f"found {type(path).__name__}: give the path of the picture")
        try:
            key = self._key(path)
            owner = key if drawn_on is None else self._key(drawn_on)
            image_key = f"drawn {key}" if drawn_on else key
            image_id = self.ids.make("image", self.source, image_key)
            if image_id in self.seen:
                return image_id, []
            pixels = read_picture(self.folder.find(key)).pixels
        except RejectedImage as error:
            raise _Refused(name, error.reason, error.detail) from error
        self.seen.add(image_id)
        image = SourceImage(
            index=name,
            key=image_key,
            pixels=pixels,
            source=self.source,
            licence=self.licence,
            shareable=self.shareable,
            annotations=(),
            patient=f"path {owner}",
            modality=_modality(fields),
            technique=_text(fields, "technique"),
            official_split=None if drawn_on else self.splits.get(path),
        )
        return image_id, image_rows(LinkedImage(image=image, annotations=()), [], self.ids)

    def _key(self, path: str) -> str:
        """A path as the folder knows it; an absolute one is fine below the folder."""
        root = self.folder.root.absolute()
        inside = Path(path).is_absolute() and Path(path).is_relative_to(root)
        return "/".join(safe_parts(str(Path(path).relative_to(root)) if inside else path))

    def _stage(self, entry: _Entry, stage: str) -> dict[str, Any] | None:
        """Texts of a stage with boxes as placeholders; None = the stage is not there."""
        names = STAGE_FIELDS[stage]
        texts = {part: _text(entry.fields, name) for part, name in names.items()}
        if not any(texts.values()):
            return None
        for part, name in names.items():
            if not texts[part]:
                raise _Refused(
                    name, "text_missing", f"the other fields of {stage} are there: fill it, or leave out all of them"
                )
        if stage == "easy" and not entry.boxes:
            raise _Refused("bbox", "box_missing", "Easy shows a box: give it, or leave out question, cot and answer")
        boxes = list(entry.boxes)
        placed = {part: _place_boxes(text or "", boxes, names[part]) for part, text in texts.items()}
        for part in ("question", "answer"):
            if "<box:" in placed[part] and (stage == "hard" or (part == "question" and stage == "medium")):
                raise _Refused(names[part], "text_gives_box_away", "coordinates may not stand here")
        if stage != "hard" and entry.boxes:
            _check_rationale(placed["rationale"], entry, names["rationale"])
        entry.boxes[:] = boxes  # those found in the texts stay only if the stage does
        answer = placed["answer"]
        closed = re.match(r"(yes|no)\b", answer.lower())
        return {
            "question": placed["question"],
            "rationale": placed.get("rationale", ""),
            "answer": answer,
            "answers": [answer],
            "answer_type": "closed" if closed else "open",
        }

    def _annotation(self, entry: _Entry, box: Box, image_id: str) -> PartRow:
        role = entry.fields.get("box_role")
        raw = json.dumps([image_id, entry.lesion_class, entry.organ, list(box), role])
        name = self.ids.make("annotation", self.source, raw)
        body = {
            "annotation_id": name,
            "image": image_id,
            "class_source": _text(entry.fields, "lesion_class"),
            "lesion_class": entry.lesion_class,
            "box_xyxy_unit": list(box),
            "box_role": role if role in BOX_ROLES else "lesion",
            "mask_rle": None,
            "lesion_3d": None,
            "agreement": None,
            "organ": entry.organ,
            "organ_relation": "unknown",
            "organ_score": None,
            "facts": "{}",
        }
        return PartRow("annotation", name, body)

    def _record(
        self,
        entry: _Entry,
        where: str,
        image_id: str,
        easy_image: str | None,
        names: list[str],
        stages: Mapping[str, dict[str, Any] | None],
    ) -> PartRow:
        name = self.ids.make("record", self.source, f"{where} {image_id}")
        question = next((texts["question"] for name in ("medium", "easy", "hard") if (texts := stages[name])), "")
        stated = entry.fields.get("question_kind")
        body = {
            "record_id": name,
            "index": where,
            "task": "vqa",
            "image": image_id,
            "annotations": list(dict.fromkeys(names)),
            "easy_image": easy_image if stages["easy"] else None,
            "question_kind": stated if stated in QUESTION_KINDS else _kind_of(question),
            "language": "en",
            "domain": entry.domain,
            "writer": "published",
            "claims": "[]",
            "easy": stages["easy"],
            "medium": stages["medium"],
            "lend": None,
            "hard": stages["hard"],
        }
        return PartRow("record", name, body)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    """A text field without surrounding space; None where it is missing, null or empty."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _Refused(name, "text_unreadable", f"found {type(value).__name__}: give a text")
    return value.strip() or None


def _modality(fields: Mapping[str, Any]) -> str | None:
    text = _text(fields, "modality")
    return None if text is None else MODALITIES.get(text.lower(), text if " " in text else text.upper())


def _kind_of(question: str) -> str:
    lowered = question.lower()
    return next((kind for kind, words in _KINDS if re.match(words, lowered)), "what")


def _place_boxes(text: str, boxes: list[Box], name: str) -> str:
    """`text` with coordinates as `<box:k>`; boxes that are not known yet are appended.

    Two boxes are the same when they agree to the digits of the coarser one.
    """

    def placeholder(match: re.Match[str]) -> str:
        numbers = [float(number) for number in match.groups()]
        digits = min(len(number.partition(".")[2]) for number in match.groups() if "." in number) if "." in match[0] else 0
        for k, box in enumerate(boxes):
            if max(abs(one - other) for one, other in zip(numbers, box, strict=True)) <= 0.6 * 10.0**-digits:
                return f"<box:{k}>"
        if max(numbers) > 1.01:
            raise _Refused(name, "box_not_unit", f"{match[0]}: coordinates in a text are shares of the image, like bbox")
        try:
            boxes.append(judge_box(Box(*numbers), (1, 1)))
        except RefusedAnnotation as error:
            raise _Refused(name, error.reason, error.detail) from error
        return f"<box:{len(boxes) - 1}>"

    return _LITERAL.sub(placeholder, text)


def _check_rationale(text: str, entry: _Entry, name: str) -> None:
    plain = text.lower().replace("_", " ")
    if "<box:" not in text and len(entry.boxes) <= 8:
        raise _Refused(name, "rationale_without_box", "the rationale does not contain bbox")
    if entry.fields.get("box_role") != "control":
        if entry.lesion_class not in plain:
            raise _Refused(name, "rationale_without_class", f"the rationale does not name {entry.lesion_class!r}")
        if entry.organ and entry.organ not in plain:
            raise _Refused(name, "rationale_without_organ", f"the rationale does not name {entry.organ!r}")
