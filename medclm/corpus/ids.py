"""Names that cannot be traced back: keyed hashes of the sources' own ids. Knows nothing of what the ids belong to.

An id is HMAC-SHA256 over (kind, source, raw id), so that nobody without the key can test a guess. The key lives in the
environment or in a file readable by its owner alone, never beside the data. Phantoms show nobody, so theirs is public and
follows from the seed: the same seed gives the same corpus everywhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

KEY_VARIABLE = "MEDCLM_ID_KEY"
_LEAST_KEY_BYTES = 16


@dataclass(frozen=True)
class Ids:
    """Makes ids under one key."""

    key: bytes = field(repr=False)

    def make(self, kind: str, source: str, raw: str) -> str:
        """32 hex digits for a raw id; the kind keeps a patient and a study of equal name apart."""
        message = json.dumps([kind, source, raw]).encode()
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        """Tells two keys apart without giving either away."""
        return self.make("fingerprint", "medclm", "key")


def phantom_ids(seed: int) -> Ids:
    """Ids of phantoms: a public key that follows from the seed."""
    return Ids(hashlib.sha256(f"medclm phantoms {seed}".encode()).digest())


def default_key_file() -> Path:
    """Where the key lives when neither the environment nor a flag names one."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "medclm" / "id.key"


def load_ids(key_file: Path | None, corpus: Path) -> Ids:
    """Ids under the user's key: the named file, else the environment variable, else the default file.

    A file that does not exist is created with mode 0600 and a random key.

    Args:
        key_file: `--id-key`, or None.
        corpus: folder that is built; the key must not lie in it.

    Raises:
        ValueError: key inside the corpus folder, readable by others, or too short.
    """
    if key_file is None and os.environ.get(KEY_VARIABLE):
        return Ids(_checked(os.environ[KEY_VARIABLE].encode(), KEY_VARIABLE))
    path = (key_file or default_key_file()).expanduser()
    if path.resolve().is_relative_to(corpus.resolve()):
        raise ValueError(
            f"--id-key {path}: lies inside the corpus folder {corpus}: whoever gets the corpus would get the key; keep it elsewhere"
        )
    if not path.exists():
        _create(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise ValueError(f"--id-key {path}: mode {mode:04o} lets others read the key: chmod 600 it, or name another file")
    return Ids(_checked(path.read_bytes().strip(), f"--id-key {path}"))


def _create(path: Path) -> None:
    """Make a key of its own; where several processes do so at once, the first one wins and the others use its key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        os.link(temporary, path)  # whole or not at all
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < _LEAST_KEY_BYTES:
        raise ValueError(
            f"{where}: the key has {len(key)} bytes, at least {_LEAST_KEY_BYTES} are needed: delete the file to get a random one"
        )
    return key
