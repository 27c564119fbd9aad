"""Brings up what a run's folder holds and its store does not: values of metrics.jsonl, files, the run itself and its end.

A value is known by metric, step and time, so a second call finds nothing to do, and one beside a running training does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from medclm.config import TrackingSection
from medclm.tracked_runs import answering, stored_name, stored_points
from medclm.tracking import OFF, NewRun, StoredRun, is_local, open_run, recipe_params, store_uri
from medclm.tracking_lines import METRICS, Line, read_lines
from medclm.tracking_note import RunNote, absolute, noted_above, read_note

_LINES_AT_ONCE = 200
_FILES = ("recipe.yaml", "ds_config.json", "versions.json", "pictures/*", "*/results.json")
_PATIENTS = ("*/report.html",)
"""Hold pictures of patients: only for a store on this machine, or with `tracking.log_images`."""


@dataclass(frozen=True)
class Synced:
    """What `sync_run` found and did."""

    note: RunNote
    created: bool
    """The store had no such run."""
    values: int
    """In metrics.jsonl."""
    missing: int
    """Of these, not in the store before."""
    refused: list[str]
    """Metrics of values that the store does not take."""
    damaged: int
    """Lines that cannot be read."""
    files: int
    stored: list[str]
    """Names of the files that were missing or had another size."""
    ended: str | None
    """Status that the run got now."""


def sync_run(folder: Path, uri: str = "") -> Synced:
    """Store what is missing of a run's or an evaluation's folder.

    Args:
        uri: store; empty = the one that the folder was tracked in, or its recipe names.

    Raises:
        ValueError: the folder is not tracked, or joined a run that the store does not have.
        RuntimeError: the store does not answer.
    """
    if not (folder / METRICS).is_file():
        raise ValueError(f"--sync {folder}: no {METRICS} there: give the folder of a run, such as runs/demo")
    recipe = _read(folder / "recipe.yaml")
    note = _note(folder, uri, recipe)
    with answering(note.uri):
        try:
            run = open_run(note, _new_run(folder, note, recipe) if note.key else None, folder.resolve().parent)
        except LookupError as error:
            raise ValueError(f"--sync {folder}: {error.args[0]}: sync the folder of the run that it joined first") from None
        if note.key:
            run.add_params(recipe_params(recipe))
        values, missing, refused, damaged = _send_lines(run, folder, note)
        known, stored = _send_files(run, folder, note.uri, recipe)
        ended = note.status if note.key and run.status == "RUNNING" else None
        if ended is not None:
            run.end(ended, _last_ms(folder))
    ours = read_note(folder)
    if ours is None or ours.uri == note.uri:
        note.save(folder)
    return Synced(note, run.created, values, missing, refused, damaged, known, stored, ended)


def print_synced(folder: Path, synced: Synced) -> None:
    note = synced.note
    made = ", made now" if synced.created else ""
    print(f"{folder} -> run {note.run_id} of experiment {note.experiment} in {note.uri}{made}")
    print(f"values: {synced.missing:,} of {synced.values:,} in {METRICS} were missing and are stored now")
    if synced.refused:
        names = ", ".join(sorted(set(synced.refused)))
        print(f"refused by the store: {len(synced.refused):,} of them ({names})")
    if synced.damaged:
        print(f"damaged lines, left out: {synced.damaged:,}")
    which = f" ({', '.join(synced.stored)})" if synced.stored else ""
    print(f"files: {len(synced.stored)} of {synced.files} were missing and are stored now{which}")
    if synced.ended:
        print(f"ended: {synced.ended}")


def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _note(folder: Path, uri: str, recipe: dict[str, Any]) -> RunNote:
    """What to bring where: the folder's own note, that of the run above it, or a new one made of its recipe."""
    found = noted_above(folder)
    wanted = absolute(uri or (found[1].uri if found else _recipe_uri(folder, recipe)), Path())
    if found is not None and found[0] == folder:
        return found[1] if found[1].uri == wanted else replace(found[1], uri=wanted, run_id=None)
    if found is not None and not recipe and found[1].uri == wanted:
        return replace(found[1], key="", begins=0, uploaded=0, status=None)
    if not recipe:
        raise ValueError(f"--sync {folder}: neither recipe.yaml nor tracking.json of {wanted} there: give the folder of a run")
    first = next((line.time_ms for _, line in read_lines(folder / METRICS) if line is not None), None)
    note = RunNote(wanted, recipe["tracking"]["experiment"])
    return note if first is None else replace(note, started_ms=first)


def _recipe_uri(folder: Path, recipe: dict[str, Any]) -> str:
    section = TrackingSection(uri=recipe.get("tracking", {}).get("uri", ""))
    if section.uri == OFF:
        raise ValueError(f"--sync {folder}: its recipe says tracking.uri=off: name the store with --tracking-uri")
    return store_uri(section, folder.resolve().parent)


def _new_run(folder: Path, note: RunNote, recipe: dict[str, Any]) -> NewRun:
    versions = folder / "versions.json"
    tags = json.loads(versions.read_text(encoding="utf-8")) if versions.is_file() else {}
    name = recipe.get("run", {}).get("name", folder.resolve().name)
    return NewRun(name, recipe_params(recipe), {key: str(value) for key, value in tags.items()}, note.started_ms)


def _send_lines(run: StoredRun, folder: Path, note: RunNote) -> tuple[int, int, list[str], int]:
    """Values in the file, those that were missing, metrics of those that were refused, damaged lines."""
    known = stored_points(note.uri, run.run_id)
    values = missing = damaged = 0
    refused: list[str] = []
    part: list[Line] = []
    for end, line in read_lines(folder / METRICS, note.begins):
        note.uploaded = end
        if line is None:
            damaged += 1
            continue
        point = (line.step, line.time_ms)
        absent = {name: value for name, value in line.values.items() if point not in known.get(stored_name(name), ())}
        values, missing = values + len(line.values), missing + len(absent)
        part.append(replace(line, values=absent))
        if len(part) == _LINES_AT_ONCE:
            refused += run.send(part)
            part = []
    refused += run.send(part)
    return values, missing - len(refused), refused, damaged


def _send_files(run: StoredRun, folder: Path, uri: str, recipe: dict[str, Any]) -> tuple[int, list[str]]:
    """How many there are, and names of those that were stored now."""
    patients = is_local(uri) or recipe.get("tracking", {}).get("log_images", False)
    there: dict[str | None, dict[str, int]] = {}
    known, stored = 0, []
    for path in _files(folder, _FILES + (_PATIENTS if patients else ())):
        under = None if path.parent == folder else path.parent.name
        if under not in there:
            there[under] = run.files(under)
        known += 1
        if there[under].get(path.name) != path.stat().st_size:
            run.file(path, under)
            stored.append(path.name if under is None else f"{under}/{path.name}")
    return known, stored


def _files(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def _last_ms(folder: Path) -> int | None:
    last = None
    for _, line in read_lines(folder / METRICS):
        last = line.time_ms if line is not None else last
    return last
