"""Records as conversations: one question and one reply a stage, in the words of our own training. What the chat formats share.

A trainer of conversations takes a whole file, so every split is a file of its own. Beside what its format asks for, an entry
carries the keys of `about` (peers drop unknown ones), always all of them and always texts, since a peer's loader infers
columns from the first rows; "" = not known. Knows no format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medclm.corpus.exchange.box_text import Size
from medclm.corpus.exchange.exporting import ExportOptions, JsonList, Pictures, RecordView, views, wanted_splits
from medclm.curriculum.stages import STAGE_RULES
from medclm.data.render import target_pieces, with_instruction
from medclm.data.shards import Corpus
from medclm.types import Box, Stage

IMAGE_TOKEN = "<image>"
CLASSES_JOINED_BY = ";"


@dataclass(frozen=True)
class ChatSample:
    """A record at one stage; texts with `<box:k>`, k counting `boxes_unit`."""

    picture: str
    """Path relative to the export."""
    size: Size
    """(width, height) of the record's own picture, which its boxes belong to."""
    question: str
    """With its response instruction."""
    reply: str
    """What training makes the model say."""
    boxes_unit: list[Box | None]
    about: Mapping[str, str]
    """id, record, stage, split, question_kind, lesion_class, modality, technique, box_role, box_classes (as the record's texts name
    the boxes, Easy before Medium), plain (the record's own picture)."""


def export_chats(
    corpus: Corpus, options: ExportOptions, *, suffix: str, entry: Callable[[ChatSample], dict[str, Any]]
) -> Counter[str]:
    """Write one file a split, `train.json` or `train.jsonl`, and the pictures; counts of records and stages.

    Args:
        suffix: `.json` or `.jsonl`.
        entry: makes the format's object.

    Raises:
        ValueError: something is in the way, or there is no record to write; names it and the cure.
    """
    splits = wanted_splits(corpus, options)
    pictures = Pictures(corpus, options)
    counts: Counter[str] = Counter()
    for split in splits:
        with JsonList(options.out / f"{split}{suffix}") as listing:
            for view in views(corpus, options, split):
                counts["records"] += 1
                for stage, sample in _samples(view, pictures):
                    listing.write(entry(sample))
                    counts[stage.key] += 1
    return counts


def _samples(view: RecordView, pictures: Pictures) -> Iterator[tuple[Stage, ChatSample]]:
    plain = pictures.plain(view.record["image_row"])
    for stage, rule in STAGE_RULES.items():
        if not view.offers(stage.key):
            continue
        if rule.box_drawn:
            picture = pictures.drawn(view)
        else:
            picture = pictures.plain(view.record["hard_image_row"]) if rule.partner_image else plain
        rationale = view.text("rationale", stage.key) if rule.rationale else ""
        pieces = target_pieces(stage, rationale, view.text("answer", stage.key))
        yield (
            stage,
            ChatSample(
                picture=picture,
                size=view.size,
                question=with_instruction(view.text("question", stage.key), rule.instruction),
                reply="".join(text for text, _ in pieces),
                boxes_unit=view.boxes_unit,
                about=_about(view, stage, plain),
            ),
        )


def _about(view: RecordView, stage: Stage, plain: str) -> dict[str, str]:
    record = view.record
    return {
        "id": f"{record['record_id']}-{stage.key}",
        "record": record["record_id"],
        "stage": stage.key,
        "split": record["split"],
        "question_kind": record["question_kind"],
        "lesion_class": view.lesion_class or "",
        "modality": view.image["modality"] or "",
        "technique": view.image["technique"] or "",
        "box_classes": CLASSES_JOINED_BY.join(view.annotations[k]["lesion_class"] or "" for k in view.named()),
        "box_role": "control" if view.is_control else "",
        "plain": plain,
    }
