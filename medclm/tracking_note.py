"""tracking.json in a tracked folder: which run of which store its metrics.jsonl goes to, and how far that has come.

An evaluation joins the run that trained its checkpoint by it, and a resumed attempt goes on where the last one stopped. A
SQLite store is named relative to the folder: both can be moved together, and no home directory names its user. MLflow itself
makes every local place absolute (resolve_uri_if_local in mlflow/utils/uri.py), so the store knows the folder of its artifacts.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from medclm.tracking_lines import METRICS, size_in_lines

RUN_FILE = "tracking.json"
SQLITE = "sqlite:///"

_log = logging.getLogger("medclm.tracking")


def new_key() -> str:
    """A key that no other run has."""
    return uuid.uuid4().hex


@dataclass
class RunNote:
    """What tracking.json says; `uri` is absolute here."""

    uri: str
    experiment: str
    run_id: str | None = None
    """None until the store has made the run."""
    key: str = field(default_factory=new_key)
    """The store's run carries it as the tag `medclm.run`: a request whose answer was lost makes no second run. Empty: the run
    is another folder's, which this one only joined."""
    started_ms: int = field(default_factory=lambda: round(time.time() * 1000))
    """Unix time in milliseconds at which the run began, which may be long before the store made it."""
    begins: int = 0
    """Byte of metrics.jsonl at which this run's lines begin: those before belong to an earlier run of this folder."""
    uploaded: int = 0
    """Byte up to which the store has them."""
    status: str | None = None
    """How the run ended: FINISHED, FAILED or KILLED; None while it runs, or if its process was killed."""

    def save(self, folder: Path) -> None:
        """Write tracking.json in one step: a reader finds the old one or the new one."""
        temporary = folder / f".{RUN_FILE}.{new_key()}.tmp"
        try:
            temporary.write_text(json.dumps({**asdict(self), "uri": _relative(self.uri, folder)}) + "\n", encoding="utf-8")
            os.replace(temporary, folder / RUN_FILE)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def read_note(folder: Path) -> RunNote | None:
    """The note of a folder, or None if it has none.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return RunNote(**{**found, "uri": absolute(found["uri"], folder)})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not what a run writes ({error}): restore it, or remove it") from error


def noted_above(path: Path) -> tuple[Path, RunNote] | None:
    """The nearest note at `path` or up to three folders above it, with its folder."""
    for folder in (path, *path.resolve().parents[:3]):
        if (note := read_note(folder)) is not None:
            return folder, note
    return None


def new_note(folder: Path, uri: str, experiment: str) -> RunNote:
    """For a run whose lines begin here: those that metrics.jsonl has already belong to an earlier one."""
    size = size_in_lines(folder / METRICS)
    return RunNote(uri, experiment, begins=size, uploaded=size)


def resumed_note(folder: Path, uri: str, experiment: str, run_id: str | None) -> RunNote:
    """The folder's note; where it has none of this store, one for `run_id` (None: not made yet) and all of metrics.jsonl."""
    found = _readable_note(folder)
    note = found if found is not None and found.uri == uri else RunNote(uri, experiment)
    note.run_id, note.status = note.run_id or run_id, None
    if note.uploaded > size_in_lines(folder / METRICS):  # an older metrics.jsonl was put back
        note.uploaded = note.begins
    return note


def joined_note(folder: Path, uri: str, experiment: str, run_id: str) -> tuple[RunNote, bool]:
    """A note for lines that go to a run of another folder, and whether it may be saved: never over that of a run of this one."""
    found = _readable_note(folder)
    if found is not None and (found.uri, found.run_id) == (uri, run_id):
        return found, True
    return replace(new_note(folder, uri, experiment), run_id=run_id, key=""), found is None or not found.key


def _readable_note(folder: Path) -> RunNote | None:
    """The folder's note; a damaged one is told and ends no run."""
    try:
        return read_note(folder)
    except ValueError as error:
        _log.warning("%s; a new one is begun", error)
        return None


def absolute(uri: str, folder: Path) -> str:
    """A store's URI with the path of a SQLite file made absolute; one that is relative counts from `folder`."""
    return f"{SQLITE}{(folder / uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def _relative(uri: str, folder: Path) -> str:
    """The same with that path relative to `folder`."""
    if not uri.startswith(SQLITE):
        return uri
    return f"{SQLITE}{Path(os.path.relpath(Path(uri.removeprefix(SQLITE)).resolve(), folder.resolve())).as_posix()}"
