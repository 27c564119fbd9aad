"""Writes step folders beside the training: a step waits for a copy to host memory, not for a disk.

Each rank's thread writes its own files under a temporary name, `.step_000500.<attempt>.tmp/`, hashes them on the way, reads them
back, and leaves a note of what it wrote. Rank 0's thread waits for the notes of all ranks, writes the manifest and renames the
folder; then it drops what retention does not keep. No collective is needed: ranks share the folder anyway. A save that fails (a
full disk, no permission) leaves every earlier folder as it was, and is told once it is known.

Knows nothing of DeepSpeed, of the loop, or of what the files mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medclm.checkpoint import BEST, FORMAT, package_versions, step_folder, step_folders, step_of
from medclm.data.manifest import sha256_file, write_json
from medclm.distributed import Ranks

_POLL_S = 0.05
_ASIDE = ".old.tmp"
"""End of the temporary name of a folder that another one of its step replaces."""
_LAST_WAIT_S = 20.0
"""How much longer rank 0 waits for the parts of others when the run has failed: they may be whole, or never come."""


@dataclass(frozen=True)
class Retention:
    """Which step folders stay."""

    last: int
    """The newest ones."""
    every: int = 0
    """All whose step is a multiple of this; 0 = none for that reason. The best one always stays."""


@dataclass(frozen=True)
class Saved:
    """How a save ended."""

    step: int
    seconds: float
    """From its beginning until the folder was there, or until it was given up."""
    fault: str | None
    """Why it was not saved, as far as this rank knows."""
    leftover: str | None = None
    """It was saved, but an older one that retention drops could not be removed."""


class CheckpointWriter:
    """One rank's part of every save. Use `begin` on all ranks with the same step, and `finish` before the process ends.

    Args:
        attempt: a word that all ranks of this start share and no other start has; tells our temporary folders from a dead run's.
        background: write on a thread; else `begin` returns when all is done.
        timeout_s: longest wait of rank 0 for the part of another rank.
    """

    def __init__(
        self, checkpoints: Path, ranks: Ranks, *, attempt: str, retention: Retention, background: bool, timeout_s: float
    ) -> None:
        self.checkpoints, self.ranks, self.attempt, self.retention = checkpoints, ranks, attempt, retention
        self.background, self.timeout_s = background, timeout_s
        self._thread: threading.Thread | None = None
        self._ended: deque[Saved] = deque()
        self._failed_at: float | None = None
        self._begun = 0
        """Saves so far, the same on all ranks."""

    def begin(self, step: int, files: Mapping[str, Any], *, best: int | None = None, fault: str | None = None) -> None:
        """Save `files` as the folder of `step`; waits for an earlier save that is still being written.

        Args:
            files: path in the folder -> bytes, or what torch.save takes; must not change any more. Each rank has other paths.
            best: step of the best checkpoint so far; `checkpoints/best` leads to it, if it could be saved.
            fault: why this rank knows already that the folder must not appear.
        """
        self._join()
        self._begun += 1
        self._thread = threading.Thread(target=self._write, args=(step, files, best, fault), name=f"save step {step}")
        self._thread.start()
        if not self.background:
            self._join()

    def ended(self) -> list[Saved]:
        """The saves that ended since the last call; never waits."""
        return [self._ended.popleft() for _ in range(len(self._ended))]  # the thread may add one meanwhile

    def finish(self) -> list[Saved]:
        """The same, after waiting for the one that is being written."""
        self._join()
        return self.ended()

    def abandon(self) -> None:
        """The run has failed: end what is being written, without waiting long for ranks that may be gone."""
        self._failed_at = time.monotonic()
        self._join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, files: Mapping[str, Any], best: int | None, fault: str | None) -> None:
        began, final = time.monotonic(), step_folder(self.checkpoints, step)
        temporary = final.with_name(f".{final.name}.{self.attempt}-{self._begun}.tmp")
        leftover = None
        try:
            if fault is not None:
                raise RuntimeError(fault)
            temporary.mkdir(parents=True, exist_ok=True)
            entries = [_write_file(temporary / name, name, content) for name, content in sorted(files.items())]
            write_json(self._note(temporary, self.ranks.rank), entries)
            if self.ranks.is_main:
                self._commit(step, temporary, final)
                leftover = self._retain(final, best)
        except Exception as error:  # of the disk, mostly; whatever it is, the run must hear of it instead of losing a thread
            fault = fault or f"{type(error).__name__}: {error}"
            self._give_up(temporary, files)
        self._ended.append(Saved(step, time.monotonic() - began, fault, leftover))

    def _note(self, temporary: Path, rank: int) -> Path:
        return temporary / f".rank_{rank:05d}.json"

    def _given_up(self, temporary: Path, rank: int) -> Path:
        return temporary / f".rank_{rank:05d}.failed"

    def _give_up(self, temporary: Path, files: Mapping[str, Any]) -> None:
        """Rank 0 takes the folder away; another rank its files, and leaves an empty one there, so that rank 0 need not wait."""
        if self.ranks.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            return
        with contextlib.suppress(OSError):  # then rank 0 waits for its timeout
            self._given_up(temporary, self.ranks.rank).touch()
        for name in files:
            with contextlib.suppress(OSError):
                (temporary / name).unlink()

    def _commit(self, step: int, temporary: Path, final: Path) -> None:
        entries: list[dict[str, Any]] = []
        began = time.monotonic()
        for rank in range(self.ranks.world_size):
            note = self._note(temporary, rank)
            while not note.is_file():
                if self._given_up(temporary, rank).exists():
                    raise RuntimeError(f"rank {rank} could not write its part; its log says why")
                if self._failed_at is not None and time.monotonic() > self._failed_at + _LAST_WAIT_S:
                    raise RuntimeError(f"no part of rank {rank}, and the run has failed")
                if time.monotonic() > began + self.timeout_s:
                    raise RuntimeError(
                        f"no part of rank {rank} within {self.timeout_s:g} s: do all ranks see {self.checkpoints}, and is it fast "
                        "enough? curriculum.timeout_s and engine.timeout_s allow twice as much"
                    )
                time.sleep(_POLL_S)
            entries += json.loads(note.read_text(encoding="utf-8"))
        for entry in entries:
            size = (temporary / entry["path"]).stat().st_size
            if size != entry["bytes"]:
                raise RuntimeError(f"{entry['path']} has {size} bytes on disk, {entry['bytes']} were written")
        manifest = {"format": FORMAT, "step": step, "world_size": self.ranks.world_size, "versions": package_versions()}
        write_json(temporary / "manifest.json", {**manifest, "files": sorted(entries, key=lambda entry: str(entry["path"]))})
        for rank in range(self.ranks.world_size):
            self._note(temporary, rank).unlink()
        for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            _sync_folder(folder)
        if final.exists():  # one that did not verify, or that an abandoned continuation wrote
            aside = final.with_name(f".{final.name}{_ASIDE}")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(final, aside)
        os.replace(temporary, final)
        _sync_folder(self.checkpoints)

    def _retain(self, newest: Path, best: int | None) -> str | None:
        """Drop what is not kept; what stands in the way is no fault of the new folder, and is returned."""
        try:
            self._drop(newest, best)
        except OSError as error:
            return str(error)
        return None

    def _drop(self, newest: Path, best: int | None) -> None:
        kept = {newest}
        if best is not None and step_folder(self.checkpoints, best).is_dir():
            kept.add(step_folder(self.checkpoints, best))
            _point_to(self.checkpoints / BEST, step_folder(self.checkpoints, best))
        folders, every = step_folders(self.checkpoints), self.retention.every
        older = folders[: folders.index(newest)]  # newer ones are of a run that this one began again before
        for folder in older[: max(0, len(older) + 1 - self.retention.last)]:
            if folder not in kept and not (every and step_of(folder) % every == 0):
                shutil.rmtree(folder)
        remove_leftovers(self.checkpoints, until=step_of(newest))


def remove_leftovers(checkpoints: Path, until: int | None = None) -> None:
    """Remove temporary folders that saves left which did not come to their end: of steps up to `until`, or all.

    One that was to be replaced, and whose replacement did not get its name, gets it back.
    """
    for aside in checkpoints.glob(f".step_*{_ASIDE}"):
        final = checkpoints / aside.name.removeprefix(".").removesuffix(_ASIDE)
        if not final.exists():
            os.replace(aside, final)
    for path in checkpoints.glob(".step_*.tmp"):
        if until is None or int(path.name.split(".")[1].removeprefix("step_")) <= until:
            shutil.rmtree(path, ignore_errors=True)


def _point_to(link: Path, folder: Path) -> None:
    """Make `link` lead to a folder beside it, in one step: whoever follows it meanwhile finds the old or the new one."""
    fresh = link.with_name(f".{link.name}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.name)
    os.replace(fresh, link)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Sink:
    """What torch.save writes to: straight to the disk, hashed on the way. Other threads run while it does either.

    It raises nothing, since torch's writer ends the process when its file does: the first error is kept for the end.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        self._digest.update(rest)
        self.bytes += len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> str:
        """Everything is on the disk; its sha256.

        Raises:
            OSError: it is not.
        """
        try:
            if self.error is None:
                os.fsync(self._descriptor)
                # forget the pages, so that reading back reads the disk
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(self._descriptor)
        if self.error is not None:
            raise self.error
        return self._digest.hexdigest()


def _write_file(path: Path, name: str, content: Any) -> dict[str, Any]:
    """Write a file and read it back; its entry for the manifest.

    Raises:
        OSError: it could not be written.
        RuntimeError: it reads back differently.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = _Sink(path)
    try:
        if isinstance(content, bytes):
            sink.write(content)
        else:
            torch.save(content, sink)  # type: ignore[arg-type]
    finally:
        written = sink.close()
    if sha256_file(path) != written:
        raise RuntimeError(f"{path}: reads back differently from what was written: the disk or its cache is at fault")
    return {"path": name, "bytes": sink.bytes, "sha256": written}
