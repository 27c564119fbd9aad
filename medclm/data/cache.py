"""A copy of a corpus on a disk of this node (`data.cache`): made once, verified, shared by all processes and jobs of the node.

    CACHE/<manifest hash>/       manifest.json, shards, verified.json: what each file was when its sha256 was found right
    CACHE/<manifest hash>.lock   held by whoever looks the copy over; its text says who that is and how far it is

Whoever comes first copies, the others wait for the lock. It is the kernel's (flock), so a process that dies leaves none behind.
Knows nothing of ranks, rows or records.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medclm.data.manifest import read_manifest, sha256_file, write_json
from medclm.data.schema import MANIFEST
from medclm.data.shards import check_files, check_hash
from medclm.data.stream import manifest_hash

VERIFIED = "verified.json"
_CHUNK = 8 << 20
_LOOK_EVERY_S = 0.2
_CURE = "give data.cache another folder, or none to read the corpus from where it lies"


def cached(corpus: Path, cache: Path, *, timeout_s: float) -> Path:
    """The folder of a whole and verified copy of `corpus` under `cache`; copies what is missing or damaged there.

    A file whose size, time or inode is not as it was when its hash was found right is hashed again, and copied again if it
    differs. Call it in every process of a node that reads the corpus.

    Args:
        corpus: holds manifest.json and the Arrow files.
        cache: a folder on a disk of this node; made if need be.
        timeout_s: longest wait for another process without a sign of progress.

    Raises:
        ValueError: `corpus` is not whole, or there is no room for the copy; names the files or sizes and the cure.
        RuntimeError: the disk of the copy is full, fails or may not be written, or the process that copies gives no sign of life.
    """
    manifest = read_manifest(corpus)
    check_files(corpus, manifest)
    folder = cache / manifest_hash(manifest)
    with _named(cache):
        cache.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)  # pictures of patients, on a disk that others of the node can reach
    with _alone(cache / f"{folder.name}.lock", timeout_s, what=f"the copy of {corpus} in {folder}") as say:
        _complete(corpus, folder, manifest["files"], say)
        with _named(cache):
            stated, copy = (corpus / MANIFEST).read_bytes(), folder / MANIFEST
            if not copy.is_file() or copy.read_bytes() != stated:  # a review may have been written into it since
                (folder / ".manifest.tmp").write_bytes(stated)
                os.replace(folder / ".manifest.tmp", copy)
    return folder


def _complete(corpus: Path, folder: Path, entries: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Copy what is missing or damaged, and remember what was found right. Only under the lock."""
    with _named(folder):
        verified = _read_verified(folder)
        missing = []
        for entry in entries:
            say(f"looks over {entry['path']}")
            now = _state(folder / entry["path"])
            if now is not None and now == verified.get(entry["path"]):
                continue
            if now is not None and now[0] == entry["bytes"] and sha256_file(folder / entry["path"]) == entry["sha256"]:
                verified[entry["path"]] = now
            else:
                missing.append(entry)
        for left in [*folder.glob(".*.tmp"), *(folder / entry["path"] for entry in missing)]:  # of who died; damaged
            left.unlink(missing_ok=True)
    if missing:
        size, done, free = sum(entry["bytes"] for entry in missing), 0, shutil.disk_usage(folder).free
        if size > free:
            raise ValueError(
                f"data.cache={folder.parent}: the corpus needs {_gb(size)} there and {_gb(free)} are free: make room, or {_CURE}"
            )
        print(f"data.cache: copying {len(missing)} of {len(entries)} files, {_gb(size)}, to {folder}", flush=True)
        for entry in missing:
            for copied in _copy(corpus / entry["path"], folder, entry):
                say(f"copies {entry['path']}: {_gb(done + copied)} of {_gb(size)}")
            done += entry["bytes"]
            verified[entry["path"]] = _state(folder / entry["path"])
    if verified != _read_verified(folder):
        with _named(folder):
            write_json(folder / VERIFIED, verified)


def _copy(source: Path, folder: Path, entry: dict[str, Any]) -> Iterator[int]:
    """Copy one file under a temporary name, check its hash, rename; yields the bytes copied so far."""
    temporary, digest, copied = folder / f".{source.name}.tmp", hashlib.sha256(), 0
    try:
        with _named(folder), temporary.open("wb") as target:
            for chunk in _chunks(source):
                digest.update(chunk)
                target.write(chunk)
                copied += len(chunk)
                yield copied
            target.flush()
            os.fsync(target.fileno())
        check_hash(source, digest.hexdigest(), entry)
        with _named(folder):
            os.replace(temporary, folder / source.name)
    finally:
        with contextlib.suppress(OSError):  # whoever comes next removes it
            temporary.unlink()


def _chunks(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise RuntimeError(f"{source}: {error.strerror}: restore the file") from error


@contextlib.contextmanager
def _alone(path: Path, timeout_s: float, *, what: str) -> Iterator[Callable[[str], None]]:
    """Hold a lock file; yields a function that writes into it what the holder does, at most once a second.

    Raises:
        RuntimeError: the holder's words did not change for `timeout_s`; names it, what it did and the cure.
    """
    with _named(path.parent):
        stream = path.open("a+", encoding="utf-8")
    with stream:
        words, since = "", time.monotonic()
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as error:
                raise RuntimeError(f"{path}: cannot be locked ({error.strerror}): {_CURE}") from error
            now = path.read_text(encoding="utf-8")
            if now != words:
                words, since = now, time.monotonic()
            if time.monotonic() - since > timeout_s:
                raise RuntimeError(
                    f"waited {timeout_s:g} s for {what} without a sign of progress; {path} is held by {words or 'another process'}: "
                    "see whether that process hangs (end it, the copy goes on where it was), or whether the disks do"
                )
            time.sleep(_LOOK_EVERY_S)
        said = 0.0

        def say(does: str) -> None:
            nonlocal said
            if time.monotonic() - said >= 1.0:
                said = time.monotonic()
                with _named(path.parent):
                    path.write_text(f"process {os.getpid()} on {socket.gethostname()}, which {does}", encoding="utf-8")

        yield say


def _state(path: Path) -> list[int] | None:
    """Size, time and inode; None where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _read_verified(folder: Path) -> dict[str, list[int] | None]:
    """File -> `_state` when its hash was found right; empty where nothing was, or the note is damaged."""
    try:
        found: dict[str, list[int] | None] = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


@contextlib.contextmanager
def _named(where: Path) -> Iterator[None]:
    """Errors of the cache's disk say what is at stake and what to do."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(
            f"data.cache: {error.filename or where}: {error.strerror}: see to the disk, its room and rights (whole files are kept), or {_CURE}"
        ) from error


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
