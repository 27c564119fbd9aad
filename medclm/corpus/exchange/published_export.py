"""The published JSON, written: a corpus -> pictures and the list of objects described in published.py.

Texts get numbers of the stored image (unit coordinates) for `<box:k>` and the name of the colour that was drawn for
`{color}`. What the format cannot say (masks, facts, accepted alternatives, patients) is left out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from medclm.corpus.exchange.box_text import UNIT, BoxText, fill
from medclm.corpus.exchange.exporting import ExportOptions, JsonList, Pictures, RecordView, views, wanted_splits
from medclm.corpus.exchange.published import STAGE_FIELDS
from medclm.data.shards import Corpus

FILE = "published.json"


def export_published(corpus: Corpus, options: ExportOptions, *, rule: BoxText = UNIT) -> Counter[str]:
    """Write `FILE` (every object names its split) and the pictures; counts of records and stages.

    Raises:
        ValueError: something is in the way, or there is no record to write; names it and the cure.
    """
    splits = wanted_splits(corpus, options)
    pictures = Pictures(corpus, options)
    counts: Counter[str] = Counter()
    with JsonList(options.out / FILE) as listing:
        for split in splits:
            for view in views(corpus, options, split):
                listing.write(_entry(view, pictures, rule))
                counts.update(["records", *(stage for stage in STAGE_FIELDS if view.offers(stage))])
    return counts


def _entry(view: RecordView, pictures: Pictures, rule: BoxText) -> dict[str, Any]:
    """One object; a stage that is not offered has no fields."""
    record, boxes = view.record, view.boxes_unit
    entry: dict[str, Any] = {}
    if view.offers("easy"):
        entry["image_path"] = pictures.drawn(view)
    entry["image_path2"] = pictures.plain(record["image_row"])
    if view.offers("hard"):
        entry["image_path3"] = pictures.plain(record["hard_image_row"])
    entry["bbox"] = rule.write(boxes[0], view.size) if boxes and boxes[0] else None
    for stage, fields in STAGE_FIELDS.items():
        if view.offers(stage):
            for part, name in fields.items():
                entry[name] = fill(view.text(part, stage), boxes, lambda box: rule.write(box, view.size))
    organ = view.annotations[0]["organ"] if view.annotations else None
    entry |= {"lesion_class": view.lesion_class or "", "organ": organ or "", "modality": view.image["modality"] or ""}
    entry |= {"question_kind": record["question_kind"], "split": record["split"]}
    if view.image["technique"]:
        entry["technique"] = view.image["technique"]
    named = view.named([0] if boxes and boxes[0] else [])
    if len(named) > 1:
        entry["box_classes"] = [view.annotations[k]["lesion_class"] for k in named]
    if view.is_control:
        entry["box_role"] = "control"
    return entry
