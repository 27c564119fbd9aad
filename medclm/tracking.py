"""Where numbers go: metrics.jsonl always, MLflow beside it. The only file that imports mlflow, and only when a store is used.

Training must never wait for a store or die of one: numbers are written to metrics.jsonl (tracking_lines.py) and a background
thread copies them into the store (tracking_upload.py), whenever there is one. What it did not get to before the run's end,
`launch/compare.py --sync` brings up. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

from medclm.config import TrackingSection
from medclm.credentials import reason
from medclm.tracking_lines import METRICS, Line, MetricLines
from medclm.tracking_note import SQLITE, RunNote, absolute, joined_note, new_note, noted_above, resumed_note
from medclm.tracking_upload import Uploader

OFF = "off"
RUN_TAG = "medclm.run"
"""Tag of a store's run that holds its note's key."""
FORBIDDEN = re.compile(r"[^/\w.\- :]")

_log = logging.getLogger("medclm.tracking")
_CLOSE_S = 30.0
_METRICS_AT_ONCE, _PARAMS_AT_ONCE, _LONGEST = 1000, 100, 6000
"""MLflow's bounds: metrics and parameters in a request, characters of a parameter."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def store_uri(section: TrackingSection, output_dir: Path) -> str:
    """The tracking URI a section means; empty = SQLite file mlflow.db under `output_dir`."""
    return section.uri or f"{SQLITE}{(output_dir / 'mlflow.db').resolve()}"


def is_local(uri: str) -> bool:
    """Whether the store lies on this machine, so that pictures may go there."""
    parsed = urlparse(uri)
    return (parsed.scheme in ("", "file", "sqlite") and uri != "databricks") or parsed.hostname in _LOOPBACK


def stored_run_id(path: Path, uri: str) -> str | None:
    """The id of the run in store `uri` that tracked `path` or a folder up to three levels above it; None if there is none."""
    found = noted_above(path)
    return found[1].run_id if found is not None and found[1].uri == absolute(uri, Path()) else None


def recipe_params(tree: Any, prefix: str = "") -> dict[str, str]:
    """A resolved recipe, as the tree that recipe.yaml holds, as MLflow parameters: dotted keys and texts."""
    if isinstance(tree, dict):
        return {key: text for name, value in tree.items() for key, text in recipe_params(value, f"{prefix}.{name}").items()}
    return {prefix[1:]: tree if isinstance(tree, str) else json.dumps(tree)}


def open_client(uri: str) -> Any:
    """An MLflow client that reports nothing about its user and gives up on a dead server in seconds, not minutes.

    It asks once: who calls it tries again with pauses of its own, and a repeated request to a stopped server would be
    answered twice when that goes on.
    """
    if uri.startswith(SQLITE):
        _check_opens(Path(uri.removeprefix(SQLITE)))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _check_opens(path: Path) -> None:
    """Raise at once where a SQLite file cannot be opened: MLflow would try ten times over a minute, and print each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA schema_version")


@dataclass(frozen=True)
class NewRun:
    """What a run is made with where the store has none."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    started_ms: int
    """Unix time in milliseconds."""


class StoredRun:
    """One run of a store. Every method asks the store, and raises what that raises."""

    def __init__(self, client: Any, run: Any, *, created: bool) -> None:
        self.client, self.run_id, self.created = client, str(run.info.run_id), created
        self.status = str(run.info.status)
        self._params: dict[str, str] = dict(run.data.params)

    def send(self, lines: Iterable[Line]) -> list[str]:
        """Store the values of some lines; what is stored already stays as it is. Returns the metrics of values it refused."""
        from mlflow.entities import Metric

        metrics = [
            Metric(FORBIDDEN.sub("_", name), value, line.time_ms, line.step)
            for line in lines
            for name, value in line.values.items()
        ]
        parts = (metrics[first : first + _METRICS_AT_ONCE] for first in range(0, len(metrics), _METRICS_AT_ONCE))
        return [refused for part in parts for refused in self._send(part)]

    def _send(self, metrics: list[Any]) -> list[str]:
        """One request; where the store refuses a value (a name that it cannot have), it still gets all the others."""
        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except Exception as error:
            if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE" or _active(self.client, self.run_id) is None:
                raise
            if len(metrics) == 1:
                return [metrics[0].key]
            half = len(metrics) // 2
            return self._send(metrics[:half]) + self._send(metrics[half:])
        return []

    def file(self, path: Path, under: str | None) -> None:
        self.client.log_artifact(self.run_id, str(path), under)

    def files(self, under: str | None = None) -> dict[str, int]:
        """Name -> bytes of the files in a folder of the run's artifacts."""
        found = self.client.list_artifacts(self.run_id, under)
        return {Path(entry.path).name: entry.file_size for entry in found if not entry.is_dir}

    def add_params(self, params: Mapping[str, str]) -> dict[str, str]:
        """Store those that are missing. Returns those that differ: MLflow refuses to change a parameter."""
        from mlflow.entities import Param

        wanted = {FORBIDDEN.sub("_", key): str(value)[:_LONGEST] for key, value in params.items()}
        missing = [Param(key, value) for key, value in wanted.items() if key not in self._params]
        for first in range(0, len(missing), _PARAMS_AT_ONCE):
            self.client.log_batch(self.run_id, params=missing[first : first + _PARAMS_AT_ONCE])
        return {key: value for key, value in wanted.items() if self._params.get(key, value) != value}

    def go_on(self, params: Mapping[str, str]) -> None:
        """Mark it as running, with these parameters; one that differs from the stored one becomes a tag `resumed.KEY`."""
        self.client.update_run(self.run_id, status="RUNNING")
        for key, value in self.add_params(params).items():
            self.client.set_tag(self.run_id, f"resumed.{key}", value)

    def end(self, status: str, at_ms: int | None = None) -> None:
        """Mark it as ended, now or at a Unix time in milliseconds."""
        self.client.set_terminated(self.run_id, status, at_ms)


def open_run(note: RunNote, new: NewRun | None, output_dir: Path) -> StoredRun:
    """The run a note means, made where the store has none (unless `new` is None); the note gets its id.

    Raises:
        LookupError: the store has no such run, and none is to be made.
        Exception: whatever a store that does not answer raises.
    """
    client = open_client(note.uri)
    found, created = _active(client, note.run_id) if note.run_id else None, False
    if found is None and note.key:
        experiment = _experiment(client, note, output_dir, make=new is not None)
        found = _keyed(client, experiment, note.key) if experiment else None
        if found is None and new is not None:
            tags = {**new.tags, RUN_TAG: note.key}
            found = client.create_run(experiment, start_time=new.started_ms, tags=tags, run_name=new.name)
            created = True
    if found is None:
        raise LookupError(f"{note.uri} has no run {note.run_id or f'of experiment {note.experiment}'}")
    if note.run_id != found.info.run_id:
        note.run_id, note.uploaded = str(found.info.run_id), note.begins
    return StoredRun(client, found, created=created)


def _active(client: Any, run_id: str) -> Any:
    """A run that is there and not deleted, or None."""
    try:
        found = client.get_run(run_id)
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return found if found.info.lifecycle_stage == "active" else None


def _keyed(client: Any, experiment: str, key: str) -> Any:
    """The oldest run that carries a note's key, or None."""
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{key}'", order_by=["attributes.start_time ASC"])
    return found[0] if found else None


def _experiment(client: Any, note: RunNote, output_dir: Path, *, make: bool) -> str | None:
    name = note.experiment
    found = client.get_experiment_by_name(name)
    if found is None and make:
        # MLflow would put artifacts of a SQLite store into ./mlruns of whatever folder the run was started in
        place = (output_dir / "mlartifacts").resolve().as_uri() if note.uri.startswith(SQLITE) else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except Exception:  # another run of the same minute may have made it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return None if found is None else str(found.experiment_id)


class Tracker:
    """Numbers of one folder and of one MLflow run.

    Args:
        folder: gets metrics.jsonl (appended to) and, where there is a store, tracking.json.
        section: store, experiment, whether pictures may leave the machine.
        output_dir: where runs are kept: default store and artifacts.
    """

    def __init__(self, folder: Path, section: TrackingSection, output_dir: Path) -> None:
        self.folder, self.section, self.output_dir = folder, section, output_dir
        self.uri = absolute(store_uri(section, output_dir), Path())
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = MetricLines(folder / METRICS)
        self._uploader: Uploader | None = None
        self._note: RunNote | None = None
        self._note_kept = True
        self._owner = self._faulty = self._closed = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close("FAILED" if kind else "FINISHED")

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; None while the store has not made it."""
        return self._note.run_id if self._note else None

    def start(
        self,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str] | None = None,
        *,
        run_id: str | None = None,
        resumed: bool = False,
    ) -> None:
        """Begin an MLflow run, in the background and whenever the store is there.

        Args:
            run_id: go on with this run of the store, as a checkpoint knows it.
            resumed: go on with the folder's run (tracking.json), also where the store has not made it yet; else what
                metrics.jsonl holds already belongs to an earlier run.
        """
        where = self.folder, self.uri, self.section.experiment
        note = resumed_note(*where, run_id) if resumed or run_id else new_note(*where)
        new = NewRun(name, params, tags or {}, note.started_ms)

        def begin() -> StoredRun:
            run = open_run(note, new, self.output_dir)
            run.go_on(params)
            return run

        self._owner = True
        self._upload(note, begin)

    def attach(self, run_id: str) -> None:
        """Log into a run that something else began and ends, such as an evaluation into its training run."""
        note, self._note_kept = joined_note(self.folder, self.uri, self.section.experiment, run_id)
        self._upload(note, lambda: open_run(note, None, self.output_dir))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, which goes to the store; never waits, never raises for the disk or the store.

        A value that is not finite is null in metrics.jsonl, since NaN is not JSON, and NaN in the store.
        """
        self._lines.append(step, values)
        if self._uploader is not None:
            self._uploader.wake()

    def artifact(self, path: Path, under: str | None = None) -> None:
        """Store a file with the run; `under` is a folder among its artifacts."""
        if self._uploader is not None:
            self._uploader.file(path, under)

    def picture(self, path: Path, under: str = "pictures") -> None:
        """Store a picture, but only if the store is local or `tracking.log_images` is set: pictures are patient data."""
        if is_local(self.uri) or self.section.log_images:
            self.artifact(path, under)

    def close(self, status: str = "FINISHED") -> None:
        """Wait at most half a minute for the store, end the run if `start` began it (FINISHED, FAILED or KILLED), say what is left."""
        if self._closed:
            return
        self._closed = True
        self._lines.close()
        if self._uploader is None:
            return
        if self._owner:
            self._uploader.note.status = status
        self._uploader.close(status if self._owner else None, _CLOSE_S)
        self._save()
        self._say_what_is_left(self._uploader)

    def _say_what_is_left(self, uploader: Uploader) -> None:
        if uploader.refused:
            names = ", ".join(sorted(set(uploader.refused))[:5])
            _log.warning(
                "tracking %s: refused %d values (%s); they are in metrics.jsonl", self.uri, len(uploader.refused), names
            )
        left = uploader.left()
        if self._owner and not uploader.ended:
            left.append("the run's end")
        if left:
            command = f"python launch/compare.py --sync {self.folder}"
            _log.warning("tracking %s: not stored: %s; to store it: %s", self.uri, ", ".join(left), command)

    def _upload(self, note: RunNote, begin: Callable[[], StoredRun]) -> None:
        assert self._uploader is None, "a Tracker is started once"
        if self.uri == OFF:
            return
        self._note = note
        self._save()
        metrics = self.folder / METRICS
        self._uploader = Uploader(metrics, note, open_run=begin, save=self._save, report=self._report)

    def _save(self) -> None:
        """A full disk, of which metrics.jsonl tells, costs no more than lines sent again: a store takes them as the same."""
        if self._note is None or not self._note_kept:
            return
        with suppress(OSError):
            self._note.save(self.folder)

    def _report(self, error: Exception | None) -> None:
        """Once for each outage."""
        if error is None:
            _log.warning("tracking %s: the store answers again and has every line", self.uri)
        elif not self._faulty:
            _log.warning("tracking %s: %s; the run goes on, and the store is tried again", self.uri, reason(error))
        self._faulty = error is not None
