"""The manifest of a corpus: which files it has, what they hold, under which rules and licences it was made.

It is written last, with a rename, so a folder without one is not a corpus. Knows nothing of Arrow or of building.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medclm.data.schema import KINDS, MANIFEST, SCHEMA_VERSION, SPLITS

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON under a temporary name, then rename: readers see the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of `folder`.

    Raises:
        ValueError: no manifest, not JSON, a field missing, or a newer major version; names the file and the cure.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: is a file: give the folder of the corpus")
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        cure = "rerun the same build to finish it" if (folder / ".parts").is_dir() else "build one with launch/corpus.py"
        raise ValueError(f"{path}: missing, so {folder} is not a finished corpus: {cure}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}): copy or build the corpus again") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: expected an object, found {type(manifest).__name__}: build the corpus again")
    missing = [key for key in ("schema_version", "files", "domains") if key not in manifest]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}: build the corpus again")
    _check_version(path, str(manifest["schema_version"]))
    for position, entry in enumerate(manifest["files"]):
        _check_entry(path, position, entry)
    return manifest


def longest_side(manifest: dict[str, Any]) -> int | None:
    """The side in pixels to which larger pictures were shrunk when the corpus was built, the least of several builds; None: to none."""
    builder = manifest.get("builder", {})
    sides = [build["longest_side"] for build in builder.get("builds", [builder]) if build.get("longest_side")]
    return min(sides, default=None)


def _check_version(path: Path, version: str) -> None:
    major = version.partition(".")[0]
    ours = SCHEMA_VERSION.partition(".")[0]
    if not major.isdigit() or int(major) > int(ours):
        raise ValueError(f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}: update medclm to read this corpus")


def _check_entry(path: Path, position: int, entry: Any) -> None:
    where = f"{path}: files[{position}]"
    if not isinstance(entry, dict) or not {"path", "kind", "rows", "bytes", "sha256"} <= entry.keys():
        raise ValueError(f"{where}: needs path, kind, rows, bytes and sha256: build the corpus again")
    if entry["kind"] not in KINDS:
        raise ValueError(f"{where}.kind={entry['kind']!r}: expected one of {', '.join(KINDS)}")
    if Path(entry["path"]).name != entry["path"] or entry["path"] == "..":
        raise ValueError(f"{where}.path={entry['path']!r}: files lie in the corpus folder itself")
    if entry["kind"] == "records" and entry.get("split") not in SPLITS:
        raise ValueError(f"{where}.split={entry.get('split')!r}: expected one of {', '.join(SPLITS)}")


_LICENCES: tuple[tuple[int, str], ...] = (
    (9, r"unknown|credential|data use|dua|research only|proprietary|restricted"),
    (8, r"nc.*nd|nd.*nc"),
    (7, r"nc.*sa|non.?commercial.*share"),
    (6, r"\bnc\b|by-nc|non.?commercial"),
    (5, r"by[ -]nd|no.?deriv"),
    (4, r"by[ -]sa|share.?alike|gpl|odbl"),
    (3, r"cc[ -]by|attribution|odc-by"),
    (2, r"apache|mit\b|bsd"),
    (1, r"cc0|public.?domain|pddl"),
)
"""How much a licence asks, by words in its name; the first match counts."""


def licence_strictness(licence: str, shareable: bool) -> int:
    """Rank of a licence, higher = stricter; one whose words are not known, or that may not be shared, ranks highest."""
    if not shareable:
        return 10
    lowered = licence.lower()
    return next((rank for rank, pattern in _LICENCES if re.search(pattern, lowered)), 9)


def strictest_licence(licences: Iterable[tuple[str, bool]]) -> str:
    """The strictest of (licence, shareable) pairs; ties by name, so that the answer does not depend on order."""
    return max(licences, key=lambda pair: (licence_strictness(*pair), pair[0]))[0]
