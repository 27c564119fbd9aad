"""ms-swift's grounding format, one object a line:

    {"messages": [{"role": "user", "content": "<image>..."}, {"role": "assistant", "content": "... <bbox> ..."}],
     "images": [path], "objects": {"ref": [], "bbox": [[x0, y0, x1, y1]], "bbox_type": "real"}}

Source: github.com/modelscope/ms-swift, docs/source_en/Customization/Custom-dataset.md (Grounding) and
swift/llm/template/base.py: the n-th `<bbox>` of the messages is replaced by the n-th box and the n-th `<ref-object>` by the n-th
ref, each list on its own; `real` (the default) are pixels of the picture as it lies on disk, `norm1` shares of it; ms-swift
rescales and rounds them for the model. Our texts name findings in plain words, so `ref` is empty, as the documentation allows.
Pictures are found from the working folder or from ROOT_IMAGE_DIR: `ROOT_IMAGE_DIR=DIR swift sft --dataset DIR/train.jsonl`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medclm.corpus.exchange.box_text import PIXELS, UNIT, fill
from medclm.corpus.exchange.chat_import import ChatEntry, import_chats, one_pair, one_picture
from medclm.corpus.exchange.chats import IMAGE_TOKEN, ChatSample, export_chats
from medclm.corpus.exchange.exporting import ExportOptions
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.exchange.stated import Refused
from medclm.corpus.finalise import BuildReport
from medclm.corpus.sources.detection import RefusedAnnotation, four_numbers
from medclm.data.shards import Corpus
from medclm.types import Box

_BOX, _REF = "<bbox>", "<ref-object>"
_TYPES = {"real": PIXELS, "norm1": UNIT}
"""bbox_type -> what its numbers mean."""
_DIGITS = 9
"""Decimals that a box keeps between its list and its place in a text."""


def export_ms_swift(corpus: Corpus, options: ExportOptions) -> Counter[str]:
    """Write train.jsonl, val.jsonl and test.jsonl; boxes are exact; see `export_chats`."""
    return export_chats(corpus, options, suffix=".jsonl", entry=_entry)


def _entry(sample: ChatSample) -> dict[str, Any]:
    boxes_px: list[list[float]] = []

    def listed(box: Box) -> str:
        boxes_px.append(list(box.scaled(*sample.size)))
        return _BOX

    question, reply = (fill(text, sample.boxes_unit, listed) for text in (sample.question, sample.reply))
    return {
        "messages": [{"role": "user", "content": f"{IMAGE_TOKEN}{question}"}, {"role": "assistant", "content": reply}],
        "images": [sample.picture],
        "objects": {"ref": [], "bbox": boxes_px, "bbox_type": "real"},
        **sample.about,
    }


def import_ms_swift(files: Sequence[Path], options: ImportOptions) -> BuildReport:
    """Make a corpus; see `import_chats`."""
    return import_chats(files, options, writer="ms-swift", keys=frozenset({"messages"}), entry=_read)


def _read(where: str, fields: Mapping[str, Any]) -> ChatEntry:
    question, reply = one_pair(fields.get("messages"), "messages", "role", "content")
    picture = one_picture(fields.get("images"), "images")
    objects = _objects(fields.get("objects"))
    kind = objects.get("bbox_type") or "real"
    if kind not in _TYPES:
        raise Refused("objects.bbox_type", "bbox_type_unknown", f"give one of {', '.join(_TYPES)}, or leave it out")
    literals = [_literal(box) for box in _listed(objects, "bbox")]
    refs = _listed(objects, "ref")
    if not all(isinstance(ref, str) for ref in refs):
        raise Refused("objects.ref", "text_unreadable", "give a list of texts")
    for token, found, name in ((_BOX, literals, "objects.bbox"), (_REF, refs, "objects.ref")):
        placed = (question + reply).count(token)
        if placed != len(found):
            raise Refused(name, "placeholders_differ", f"{len(found)} listed, {placed} times {token} in the messages: one each")
        question, reply = _replaced([question, reply], token, found)
    return ChatEntry(where, picture, question, reply, "messages", _TYPES[kind], fields)


def _objects(value: Any) -> Mapping[str, Any]:
    """The field `objects`, also as a JSON text; empty where it is not there."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Refused("objects", "objects_unreadable", "the text is not JSON") from None
    if value is not None and not isinstance(value, dict):
        raise Refused("objects", "objects_unreadable", f"found {type(value).__name__}: give an object with ref and bbox")
    return value or {}


def _listed(objects: Mapping[str, Any], name: str) -> list[Any]:
    value = objects.get(name)
    if value is not None and not isinstance(value, list):
        raise Refused(f"objects.{name}", "objects_unreadable", f"found {type(value).__name__}: give a list")
    return value or []


def _literal(value: Any) -> str:
    try:
        numbers = four_numbers(value)
    except RefusedAnnotation as error:
        raise Refused("objects.bbox", error.reason, error.detail) from error
    if not all(math.isfinite(number) for number in numbers):
        raise Refused("objects.bbox", "box_not_finite", f"{list(numbers)}: give finite numbers")
    return "[" + ", ".join(f"{number:.{_DIGITS}f}" for number in numbers) + "]"


def _replaced(texts: list[str], token: str, found: Sequence[str]) -> list[str]:
    remaining = iter(found)
    return [re.sub(re.escape(token), lambda _: next(remaining), text) for text in texts]
