"""LLaVA's conversations: a list of {id, image, conversations: [{from: human, value}, {from: gpt, value}]}.

Source: github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md; `<image>` stands once, in the first human turn. LLaVA-1.5
trains with `--image_aspect_ratio pad`, so boxes in its texts are shares of the picture padded to a square (box_text.PADDED).
Train with `--data_path DIR/train.json --image_folder DIR`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medclm.corpus.exchange.box_text import PADDED, BoxText, fill
from medclm.corpus.exchange.chat_import import ChatEntry, import_chats, one_pair, one_picture, stated_rule
from medclm.corpus.exchange.chats import IMAGE_TOKEN, ChatSample, export_chats
from medclm.corpus.exchange.exporting import ExportOptions
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.finalise import BuildReport
from medclm.data.shards import Corpus


def export_llava(corpus: Corpus, options: ExportOptions, *, rule: BoxText = PADDED) -> Counter[str]:
    """Write train.json, val.json and test.json; see `export_chats`."""

    def entry(sample: ChatSample) -> dict[str, Any]:
        question, reply = (
            fill(text, sample.boxes_unit, lambda box: rule.write(box, sample.size)) for text in (sample.question, sample.reply)
        )
        turns = [{"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"}, {"from": "gpt", "value": reply}]
        about = {**sample.about, "box_text": rule.name}
        return {"id": about.pop("id"), "image": sample.picture, "conversations": turns, **about}

    return export_chats(corpus, options, suffix=".json", entry=entry)


def import_llava(files: Sequence[Path], options: ImportOptions, *, rule: BoxText = PADDED) -> BuildReport:
    """Make a corpus; entries that say how their boxes are written are read so, others by `rule`; see `import_chats`."""

    def entry(where: str, fields: Mapping[str, Any]) -> ChatEntry:
        question, reply = one_pair(fields.get("conversations"), "conversations", "from", "value")
        picture = one_picture(fields.get("image"), "image")
        return ChatEntry(where, picture, question, reply, "conversations", stated_rule(fields, rule), fields)

    return import_chats(files, options, writer="llava", keys=frozenset({"conversations"}), entry=entry)
