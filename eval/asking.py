"""Ask everything once and keep every reply as it comes: a killed evaluation goes on where it stopped, on any number of ranks.

    OUT/replies-SPLIT/settings.json, rank0.jsonl, rank1.jsonl, ...

Replies are keyed by example and ask, so more suites or a higher limit later ask only what is new. settings.json refuses to mix
replies of another checkpoint or other settings; where no reply was kept, it binds nobody. Knows nothing of suites or scores.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.example import Reply
from eval.pictures import Pictures
from eval.respondent import Asked, Respondent
from medclm.data.manifest import write_json
from medclm.distributed import Ranks
from medclm.types import Box

SETTINGS = "settings.json"
_TUPLES = ("option_scores", "option_tokens", "box_scores")
_UNSAID = asdict(Reply())


class Replies:
    """The kept replies of one evaluation folder.

    Args:
        folder: of this evaluation alone.
        settings: everything that decides a reply.
        overwrite: throw away what the folder holds of other settings.

    Raises:
        ValueError: the folder holds replies under other settings and `overwrite` is off, or is not ours.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, overwrite: bool = False) -> None:
        self.folder = folder
        noted = folder / SETTINGS
        if noted.is_file() and (before := json.loads(noted.read_text(encoding="utf-8"))) != settings:
            differing = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
            if not overwrite and any(path.stat().st_size for path in folder.glob("*.jsonl")):
                raise ValueError(
                    f"{folder}: holds replies under other {', '.join(differing)}: choose another --out, or replace it with --overwrite"
                )
            shutil.rmtree(folder)
        if not noted.is_file() and any(folder.glob("*.jsonl")):
            raise ValueError(f"{folder}: replies without {SETTINGS}: choose another --out or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(noted, settings)

    def read(self) -> dict[str, Reply]:
        """Every kept reply by the id of what was asked; a half-written last line, as a killed process leaves it, is left out."""
        found: dict[str, Reply] = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            content = path.read_bytes()
            for line in content[: content.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]:  # a text may hold U+2028
                stored = json.loads(line)
                key = stored.pop("id")
                if "boxes_unit" in stored:
                    stored["boxes_unit"] = tuple(Box(*box) for box in stored["boxes_unit"])
                found[key] = Reply(**{name: tuple(value) if name in _TUPLES else value for name, value in stored.items()})
        return found

    def append(self, rank: int, made: Iterable[tuple[Asked, Reply]]) -> None:
        """Keep replies in this rank's file as they come."""
        path = self.folder / f"rank{rank}.jsonl"
        if path.is_file():  # cut off what a kill left behind, or the next line would be glued to it
            content = path.read_bytes()
            path.write_bytes(content[: content.rfind(b"\n") + 1])
        with path.open("a", encoding="utf-8") as stream:
            for asked, reply in made:
                stream.write(json.dumps({"id": asked.id} | _said(reply), ensure_ascii=False) + "\n")
                stream.flush()


def _said(reply: Reply) -> dict[str, Any]:
    """What a reply says beyond the silent one."""
    return {one.name: getattr(reply, one.name) for one in fields(reply) if getattr(reply, one.name) != _UNSAID[one.name]}


def ask_all(
    asked: Sequence[Asked], respondent: Respondent, pictures: Pictures | None, replies: Replies, ranks: Ranks
) -> dict[str, Reply]:
    """Every reply by id; what was kept before is not asked again.

    Each rank asks its share of what is missing; the replies of the others are in the returned mapping only after they are done too
    (the caller waits for them and reads again).

    Raises:
        ValueError: two suites ask different things of an example under one name (a fault of ours), or see `Respondent.replies`.
    """
    every: dict[str, Asked] = {}
    for one in asked:
        if every.setdefault(one.id, one).ask != one.ask:
            raise ValueError(f"{one.id}: asked in two ways: give the asks different names")
    known = replies.read()
    share = list(every.values())[
        ranks.rank :: ranks.world_size
    ]  # of everything: what others keep meanwhile moves nobody's share
    ours = [one for one in share if one.id not in known]
    done = len(share) - len(ours)
    with tqdm(
        total=len(share), initial=done, unit="question", desc="evaluate", file=sys.stderr, disable=not ranks.is_main
    ) as bar:
        if ours:
            replies.append(ranks.rank, respondent.replies(ours, pictures, bar.update))
    return replies.read()
