"""Model replies on disk, so that a rerun asks nothing twice: one small JSON file per request, named by the request's hash.

Files appear whole (written aside, then renamed), so any number of processes share a folder; one that is damaged all the same
is noticed by its checksum and asked for again. Holds replies and token counts, no prompt, picture or key. Knows nothing of
drafts or servers.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medclm.chat.replies import Reply


class DamagedReply(Exception):
    """A file that is not what was written; ask again and `put` the new reply in its place."""


def cache_key(fields: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a reply; `fields` are JSON values and bytes, which count by their own hash."""
    plain = {name: hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value for name, value in fields.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """Replies by key in `folder`, which is made when the first one is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Reply | None:
        """The reply kept under `key`, None where there is none.

        Raises:
            DamagedReply: the file was changed or cut.
        """
        try:
            kept = json.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise DamagedReply from error
        try:
            reply = Reply(kept["text"], kept["finish"], kept["prompt_tokens"], kept["completion_tokens"])
            if kept["sha256"] != _checksum(key, reply):
                raise DamagedReply
        except (KeyError, TypeError) as error:
            raise DamagedReply from error
        return reply

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; the last of several equal keys stays."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {
            "text": reply.text,
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "sha256": _checksum(key, reply),
        }
        write_whole(path, json.dumps(body).encode())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _checksum(key: str, reply: Reply) -> str:
    held = [key, reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()
