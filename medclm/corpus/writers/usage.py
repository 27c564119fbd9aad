"""What a language-model writer has asked, waited for and spent; one small file per process, summed for the report.

Every request that a draft needs is answered once: `asked` = `cache_hits` + `replies` + the failures. Every request that went
out, repeated ones included, is a `reply` or an `error`: `requests` = `replies` + `errors`. Knows nothing of servers.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections import Counter
from pathlib import Path

from medclm.corpus.writers.cache import write_whole

_FOLDER = "usage"


class Usage:
    """Counts of one process, safe among threads; unpickled in another process it starts from nothing.

    Args:
        folder: of the reply cache; the counts go to a file in its `usage`. None = they are only kept in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._name = ""

    def __reduce__(self) -> tuple[type[Usage], tuple[Path | None]]:
        return type(self), (self._folder,)

    def add(self, **counts: int) -> None:
        """Add to counts by name: asked, requests, replies, errors, cache_hits, cache_damaged, prompt_tokens,
        completion_tokens, uncounted_replies (their server gave no token counts), or a reason of writers/replies.py."""
        with self._lock:
            self._counts.update(counts)

    def totals(self) -> dict[str, int]:
        with self._lock:
            return {name: count for name, count in sorted(self._counts.items()) if count}

    def log(self) -> None:
        """Write the counts so far to this process's file."""
        if self._folder is None or not self.totals():
            return
        folder = self._folder / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # process numbers come again, in later runs and on other machines
        self._name = self._name or f"{os.getpid()}-{secrets.token_hex(4)}.json"
        write_whole(folder / self._name, json.dumps(self.totals()).encode())


def read_usage(folder: Path) -> dict[str, int]:
    """Sum over every process that ever used the reply cache in `folder`; compare before and after a build for its own share."""
    total: Counter[str] = Counter()
    for path in sorted((folder / _FOLDER).glob("*.json")):
        total.update({str(name): int(count) for name, count in json.loads(path.read_bytes()).items()})
    return dict(sorted(total.items()))
