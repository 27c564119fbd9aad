"""The published JSON, read: a list of objects with pictures, one box, and a question and answer per stage -> a corpus.

    image_path (box drawn), image_path2 (plain), image_path3 (Hard), bbox ("[x1, y1, x2, y2]", unit), question, cot, answer,
    question2, cot2, answer2, question3, answer3, lesion_class, organ, modality

What is unambiguous is accepted (comments, boxes as lists, missing stages, a missing drawn picture); everything else is
refused by index and field, and the rest goes on. Our own export adds `question_kind`, `box_role`, `technique`, `split` and,
where there are several boxes, `box_classes` (of bbox, then of the others as the texts name them), which are honoured. Knows
nothing of writers or anatomy: no text is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medclm.corpus.contract import Reject
from medclm.corpus.exchange.box_text import UNIT
from medclm.corpus.exchange.importing import Entry, ImportOptions, import_stated, read_entries
from medclm.corpus.exchange.stated import Refused, StatedRecord, StatedStage, modality_of, text, text_of
from medclm.corpus.finalise import BuildReport
from medclm.corpus.sources.detection import RefusedAnnotation, four_numbers
from medclm.data.schema import SPLITS
from medclm.types import Box

STAGE_FIELDS = {
    "easy": {"question": "question", "rationale": "cot", "answer": "answer"},
    "medium": {"question": "question2", "rationale": "cot2", "answer": "answer2"},
    "hard": {"question": "question3", "answer": "answer3"},
}
"""Stage -> part of a sample -> field of the published JSON."""
PICTURE_FIELDS = {"easy": "image_path", "medium": "image_path2", "hard": "image_path3"}


def import_published(files: Sequence[Path], options: ImportOptions) -> BuildReport:
    """Make the corpus folder `options.out` from published JSON files.

    Raises:
        ValueError: not such a file, or the folder is not empty; names file and cure.
        EverythingRejected: no record was left.
    """
    entries = read_entries(files)
    if not any(isinstance(value, dict) and value.keys() & {"image_path", "image_path2"} for _, value in entries):
        raise ValueError(f"{files[0]}: no object has image_path2 or image_path: this is not the published format")
    records = [_record(where, value) for where, value in entries]
    return import_stated(records, files, options, writer="published", splits=_splits(entries, options.split))


def _splits(entries: Sequence[Entry], split: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, value in entries:
        path = value.get("image_path2") if isinstance(value, dict) else None
        if isinstance(path, str):
            found.setdefault(path, value["split"] if value.get("split") in SPLITS else split)
    return found


def _record(where: str, fields: Any) -> StatedRecord | Reject:
    if isinstance(fields, Reject):
        return fields
    try:
        if not isinstance(fields, dict):
            raise Refused("", "not_an_object", f"found {type(fields).__name__}: every element is an object")
        return _stated(where, fields)
    except Refused as error:
        return error.reject(where)


def _stated(where: str, fields: Mapping[str, Any]) -> StatedRecord:
    modality = modality_of(fields)
    record = StatedRecord(
        where=where,
        plain=fields.get("image_path2"),
        plain_field="image_path2",
        stages={stage: _stage(where, stage, fields) for stage in STAGE_FIELDS},
        class_source=text_of(fields, "lesion_class"),
        organ=text_of(fields, "organ"),
        modality=modality,
        technique=text_of(fields, "technique"),
        box_role=fields.get("box_role"),
        box_classes=_classes(fields.get("box_classes")),
        question_kind=fields.get("question_kind"),
        boxes_unit=_bbox(fields.get("bbox")),
        needs_box=True,
    )
    if record.lesion_class is None:
        raise Refused("lesion_class", "class_missing", "the class of the lesion is needed for the domain")
    if record.plain is None and isinstance(fields.get("image_path"), str):
        raise Refused("image_path2", "image_missing", "only the drawn picture is named: the plain one is needed")
    return record


def _stage(where: str, stage: str, fields: Mapping[str, Any]) -> StatedStage:
    names = STAGE_FIELDS[stage]
    return StatedStage(
        where=where,
        texts={part: fields.get(name) for part, name in names.items()},
        fields=names,
        box_text=UNIT,
        picture=None if stage == "medium" else fields.get(PICTURE_FIELDS[stage]),
        picture_field=PICTURE_FIELDS[stage],
    )


def _classes(value: Any) -> tuple[str | None, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Refused("box_classes", "text_unreadable", f"found {type(value).__name__}: give a list of texts")
    return tuple(text(name, "box_classes") for name in value)


def _bbox(value: Any) -> tuple[Box, ...]:
    if value is None:
        return ()
    try:
        return (UNIT.judged(four_numbers(value), (1, 1)),)
    except RefusedAnnotation as error:
        raise Refused("bbox", error.reason, error.detail) from error
