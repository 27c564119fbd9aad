"""Conversations back into records: entries that name their record and stage join again, others stand alone.

An entry of others has no stage: with coordinates in its question it is Easy (the box will be drawn), else Medium. Both train a
rationale before the answer, so a reply that does not tell them apart is refused by name. Knows no format: each makes
`ChatEntry`s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medclm.corpus.contract import Reject
from medclm.corpus.exchange.box_text import RULES, BoxText, states_box
from medclm.corpus.exchange.chats import CLASSES_JOINED_BY, IMAGE_TOKEN
from medclm.corpus.exchange.importing import ImportOptions, import_stated, read_entries
from medclm.corpus.exchange.stated import Refused, StatedRecord, StatedStage, modality_of, text_of
from medclm.corpus.finalise import BuildReport
from medclm.data.render import INSTRUCTIONS
from medclm.data.schema import SPLITS
from medclm.metrics.parsing import split_completion

_STAGES = ("easy", "medium", "hard")
_REASONED = re.compile(r"Reasoning: (.*?)\n\nAnswer: (.*)", re.DOTALL)
_DIRECT = re.compile(r"Answer: (.*)", re.DOTALL)
_ASSISTANTS = ("gpt", "assistant", "bot")
_USERS = ("human", "user")


@dataclass(frozen=True)
class ChatEntry:
    """One question and its reply, as a format has them."""

    where: str
    picture: str
    question: str
    """Without the image token."""
    reply: str
    field: str
    """Name of the list of turns, for messages."""
    box_text: BoxText
    fields: Mapping[str, Any]
    """The whole object: our own export's keys, see chats.py."""


def import_chats(
    files: Sequence[Path],
    options: ImportOptions,
    *,
    writer: str,
    keys: frozenset[str],
    entry: Callable[[str, Mapping[str, Any]], ChatEntry],
) -> BuildReport:
    """Make the corpus folder from files of conversations.

    Args:
        writer: name of the format.
        keys: any of them tells the format.
        entry: reads one object; raises Refused.

    Raises:
        ValueError: not such a file, or the folder is not empty; names file and cure.
        EverythingRejected: no record was left.
    """
    values = read_entries(files)
    if not any(isinstance(value, dict) and value.keys() & keys for _, value in values):
        found = sorted({key for _, value in values if isinstance(value, dict) for key in value})
        raise ValueError(
            f"{files[0]}: no object has {' or '.join(sorted(keys))}: this is not the {writer} format; found {', '.join(found[:8])}"
        )
    entries: list[ChatEntry | Reject] = []
    for where, value in values:
        try:
            if isinstance(value, Reject):
                entries.append(value)
            elif not isinstance(value, dict):
                raise Refused("", "not_an_object", f"found {type(value).__name__}: every element is an object")
            else:
                entries.append(entry(where, value))
        except Refused as error:
            entries.append(error.reject(where))
    records = _records(entries)
    splits = _splits(records, entries, options.split)
    return import_stated(records, files, options, writer=writer, splits=splits)


def one_pair(turns: Any, field: str, role: str, content: str) -> tuple[str, str]:
    """The question, without the image token, and the reply of a conversation of one pair; a system turn before is left out.

    Raises:
        Refused: turns_unreadable, several_turns, image_tokens.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Refused(field, "turns_unreadable", f"found {type(turns).__name__}: give a list of turns")
    said = [turn for number, turn in enumerate(turns) if number or turn.get(role) != "system"]
    if len(said) > 2:
        raise Refused(field, "several_turns", f"{len(said)} turns: give each question and its reply an entry of its own")
    expected = [turn.get(role) in names for turn, names in zip(said, (_USERS, _ASSISTANTS), strict=False)]
    if len(said) != 2 or not all(expected):
        raise Refused(field, "turns_unreadable", f"{len(said)} turns: give a question of the user and a reply of the assistant")
    question, reply = (text_of(turn, content) or "" for turn in said)
    if question.count(IMAGE_TOKEN) > 1 or IMAGE_TOKEN in reply:
        raise Refused(
            field, "image_tokens", f"{(question + reply).count(IMAGE_TOKEN)} image tokens: one picture has one, in the question"
        )
    return question.replace(IMAGE_TOKEN, "").strip(), reply


def one_picture(value: Any, field: str) -> str:
    """The path of the only picture, given as a text or a list of one.

    Raises:
        Refused: image_missing, several_images.
    """
    if isinstance(value, list) and len(value) > 1:
        raise Refused(field, "several_images", f"{len(value)} pictures: a record shows one")
    path = value[0] if isinstance(value, list) and value else value
    if not isinstance(path, str) or not path.strip():
        raise Refused(field, "image_missing", "give the path of one picture")
    return path


def stated_rule(fields: Mapping[str, Any], default: BoxText) -> BoxText:
    """How the entry says that its boxes are written, else `default`.

    Raises:
        Refused: box_text_unknown.
    """
    name = text_of(fields, "box_text")
    if name is not None and name not in RULES:
        raise Refused("box_text", "box_text_unknown", f"give one of {', '.join(RULES)}, or leave it out")
    return default if name is None else RULES[name]


def _records(entries: Sequence[ChatEntry | Reject]) -> list[StatedRecord | Reject]:
    """Entries of one record joined, in order of its first entry."""
    found: list[list[tuple[str, ChatEntry]] | Reject] = []
    groups: dict[str, list[tuple[str, ChatEntry]]] = {}
    for entry in entries:
        if isinstance(entry, Reject):
            found.append(entry)
            continue
        try:
            name, stage = text_of(entry.fields, "record"), _stage_of(entry)
            if name is None or name not in groups:
                group = [(stage, entry)]
                found.append(group)
                if name is not None:
                    groups[name] = group
            elif any(other == stage for other, _ in groups[name]):
                raise Refused(
                    "stage", "stage_repeated", f"an earlier entry of the same record is {stage}: give it its own record"
                )
            else:
                groups[name].append((stage, entry))
        except Refused as error:
            found.append(error.reject(entry.where))
    return [item for group in found for item in ([group] if isinstance(group, Reject) else _joined(group))]


def _joined(group: Sequence[tuple[str, ChatEntry]]) -> list[StatedRecord | Reject]:
    first = group[0][1]
    rejects: list[StatedRecord | Reject] = []
    stages: dict[str, StatedStage] = {}
    for stage, entry in sorted(group, key=lambda item: _STAGES.index(item[0])):
        try:
            stages[stage] = _stage(stage, entry)
        except Refused as error:
            rejects.append(error.reject(entry.where))
    if not stages:
        return rejects
    try:
        fields = first.fields
        record = StatedRecord(
            where=first.where,
            plain=_plain(group),
            plain_field="image",
            stages=stages,
            class_source=text_of(fields, "lesion_class"),
            modality=modality_of(fields),
            technique=text_of(fields, "technique"),
            box_role=text_of(fields, "box_role"),
            box_classes=_classes(text_of(fields, "box_classes")),
            question_kind=text_of(fields, "question_kind"),
        )
    except Refused as error:
        return [*rejects, error.reject(first.where)]
    return [record, *rejects]


def _classes(joined: str | None) -> tuple[str | None, ...]:
    return tuple(name.strip() or None for name in joined.split(CLASSES_JOINED_BY)) if joined else ()


def _stage_of(entry: ChatEntry) -> str:
    stage = text_of(entry.fields, "stage")
    if stage is None:
        return "easy" if states_box(entry.question) else "medium"
    if stage not in _STAGES:
        raise Refused("stage", "stage_unknown", f"give one of {', '.join(_STAGES)}, or leave it out")
    return stage


def _stage(stage: str, entry: ChatEntry) -> StatedStage:
    question = entry.question
    for line in INSTRUCTIONS.values():
        question = question.removesuffix(line).rstrip()
    rationale, answer = _taken_apart(entry.reply)
    if not answer:
        detail = "the reply has no `Answer:`: where its rationale ends is not known"
        raise Refused(entry.field, "answer_missing", detail)
    if not rationale and stage != "hard":
        raise Refused(entry.field, "rationale_missing", f"nothing stands before `Answer:`, and {stage} trains a rationale")
    parts = ("question", "rationale", "answer") if stage != "hard" else ("question", "answer")
    texts = {"question": question, "rationale": rationale, "answer": answer}
    drawn = entry.picture if entry.picture != text_of(entry.fields, "plain") and text_of(entry.fields, "plain") else None
    return StatedStage(
        where=entry.where,
        texts={part: texts[part] for part in parts},
        fields=dict.fromkeys(parts, entry.field),
        box_text=entry.box_text,
        picture={"easy": drawn, "medium": None, "hard": entry.picture}[stage],
        picture_field="image",
    )


def _taken_apart(reply: str) -> tuple[str, str]:
    """Rationale and answer; our own form exactly, any other by its last `Answer:`."""
    if match := _REASONED.fullmatch(reply):
        return match[1].strip(), match[2].strip()
    if match := _DIRECT.fullmatch(reply):
        return "", match[1].strip()
    parsed = split_completion(reply)
    return parsed.rationale, parsed.answer or ""


def _plain(group: Sequence[tuple[str, ChatEntry]]) -> str | None:
    """The record's own picture: named, or shown by an entry that shows no other."""
    named = next((name for _, entry in group if (name := text_of(entry.fields, "plain"))), None)
    return named or next((entry.picture for stage, entry in group if stage != "hard"), None)


def _splits(records: Sequence[StatedRecord | Reject], entries: Sequence[ChatEntry | Reject], default: str) -> dict[str, str]:
    by_where = {entry.where: entry.fields.get("split") for entry in entries if isinstance(entry, ChatEntry)}
    found: dict[str, str] = {}
    for record in records:
        if isinstance(record, StatedRecord) and isinstance(record.plain, str):
            stated = by_where[record.where]
            found.setdefault(record.plain, stated if stated in SPLITS else default)
    return found
