"""LLaMA-Factory's sharegpt format: a list of {messages: [{role: user, content}, {role: assistant, content}], images: [path]}
and a dataset_info.json that names the files.

Sources: github.com/hiyouga/LLaMA-Factory, data/README.md (columns and tags; the user speaks first), and
src/llamafactory/data/mm_plugin.py: as many `<image>` as images, or it stops; pictures are looked up in `media_dir`, by default
the dataset folder. It resizes pictures and leaves coordinates in texts alone, so they are written for the size that the model
sees (box_text.QWEN_2_5; THOUSANDTHS for Qwen2-VL and Qwen3-VL, PADDED for LLaVA-1.5).
Train with `dataset_dir: DIR` and `dataset: medclm_train`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medclm.corpus.exchange.box_text import QWEN_2_5, BoxText, fill
from medclm.corpus.exchange.chat_import import ChatEntry, import_chats, one_pair, one_picture, stated_rule
from medclm.corpus.exchange.chats import IMAGE_TOKEN, ChatSample, export_chats
from medclm.corpus.exchange.exporting import ExportOptions
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.finalise import BuildReport
from medclm.data.manifest import write_json
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus

_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def export_sharegpt(corpus: Corpus, options: ExportOptions, *, rule: BoxText = QWEN_2_5) -> Counter[str]:
    """Write train.json, val.json, test.json and dataset_info.json; see `export_chats`."""

    def entry(sample: ChatSample) -> dict[str, Any]:
        question, reply = (
            fill(text, sample.boxes_unit, lambda box: rule.write(box, sample.size)) for text in (sample.question, sample.reply)
        )
        messages = [{"role": "user", "content": f"{IMAGE_TOKEN}{question}"}, {"role": "assistant", "content": reply}]
        return {"messages": messages, "images": [sample.picture], **sample.about, "box_text": rule.name}

    counts = export_chats(corpus, options, suffix=".json", entry=entry)
    described = {
        f"medclm_{split}": {
            "file_name": f"{split}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": _TAGS,
        }
        for split in SPLITS
        if (options.out / f"{split}.json").exists()
    }
    write_json(options.out / "dataset_info.json", described)
    return counts


def import_sharegpt(files: Sequence[Path], options: ImportOptions, *, rule: BoxText = QWEN_2_5) -> BuildReport:
    """Make a corpus; turns stand in `messages` (role, content) or `conversations` (from, value).

    Entries that say how their boxes are written are read so, others by `rule`; see `import_chats`.
    """

    def entry(where: str, fields: Mapping[str, Any]) -> ChatEntry:
        field = "messages" if "messages" in fields else "conversations"
        turns = fields.get(field)
        names = ("from", "value") if _says_from(turns) else ("role", "content")
        question, reply = one_pair(turns, field, *names)
        picture = one_picture(fields.get("images"), "images")
        return ChatEntry(where, picture, question, reply, field, stated_rule(fields, rule), fields)

    return import_chats(files, options, writer="sharegpt", keys=frozenset({"images"}), entry=entry)


def _says_from(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]
