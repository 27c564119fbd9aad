"""Where numbers go: metrics.jsonl always, MLflow beside it. The only file that imports mlflow, and only when a store is used.

Training must never wait for a store or die of one: everything for MLflow goes through a bounded queue to one background
thread; what the store did not take is reported once and counted, and stands in metrics.jsonl all the same. Knows nothing
of what the numbers mean.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

from medclm.config import TrackingSection

OFF = "off"
RUN_FILE = "tracking.json"
"""In a tracked folder: uri, experiment and run id, so that an evaluation joins the run that trained its checkpoint. A SQLite store
is named relative to the folder: both can be moved together, and no home directory names its user. MLflow itself makes every local
place absolute (resolve_uri_if_local in mlflow/utils/uri.py), so the store knows the folder that its artifacts lie in."""

_log = logging.getLogger("medclm.tracking")
_QUEUE = 2000
_START_S = 60.0
"""Longest wait for the store at start: it makes its tables then, before any step."""
_CLOSE_S = 60.0
_BATCH = 100
_LONGEST = 6000
"""MLflow's bounds: parameters or tags in a request, characters of a parameter."""
FORBIDDEN = re.compile(r"[^/\w.\- :]")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
SQLITE = "sqlite:///"


def store_uri(section: TrackingSection, output_dir: Path) -> str:
    """The tracking URI a section means; empty = SQLite file mlflow.db under `output_dir`."""
    return section.uri or f"{SQLITE}{(output_dir / 'mlflow.db').resolve()}"


def is_local(uri: str) -> bool:
    """Whether the store lies on this machine, so that pictures may go there."""
    parsed = urlparse(uri)
    return (parsed.scheme in ("", "file", "sqlite") and uri != "databricks") or parsed.hostname in _LOOPBACK


def stored_run_id(path: Path, uri: str) -> str | None:
    """The id of the run in store `uri` that tracked `path` or a folder up to three levels above it; None if there is none."""
    for folder in (path, *path.resolve().parents[:3]):
        if (folder / RUN_FILE).is_file():
            noted = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
            return str(noted["run_id"]) if _absolute(noted.get("uri") or "", folder) == _absolute(uri, Path()) else None
    return None


def _absolute(uri: str, folder: Path) -> str:
    """A store's URI with the path of a SQLite file made absolute; one that is relative counts from `folder`."""
    return f"{SQLITE}{(folder / uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def _relative(uri: str, folder: Path) -> str:
    """The same with that path relative to `folder`."""
    if not uri.startswith(SQLITE):
        return uri
    return f"{SQLITE}{Path(os.path.relpath(Path(uri.removeprefix(SQLITE)).resolve(), folder.resolve())).as_posix()}"


def open_client(uri: str) -> Any:
    """An MLflow client that reports nothing about its user and gives up on a dead server in seconds, not minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


class Tracker:
    """Numbers of one folder and of one MLflow run.

    Args:
        folder: gets metrics.jsonl (appended to).
        section: store, experiment, whether pictures may leave the machine.
        output_dir: where runs are kept: default store and artifacts.
    """

    def __init__(self, folder: Path, section: TrackingSection, output_dir: Path) -> None:
        self.folder, self.section, self.output_dir = folder, section, output_dir
        self.uri = store_uri(section, output_dir)
        self.run_id: str | None = None
        """Id of the MLflow run; None while there is no store."""
        self.lost = 0
        """Items that the store did not take."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._queue: queue.Queue[Callable[[Any, str], None] | None] = queue.Queue(maxsize=_QUEUE)
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._owner = False
        self._reported = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close("FAILED" if kind else "FINISHED")

    def start(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str] | None = None, *, run_id: str | None = None
    ) -> str | None:
        """Begin an MLflow run, or go on with `run_id`; waits at most a minute for the store.

        Returns:
            The run id, or None: tracking is off, or the store is dead or slow, which is reported and does not raise.
        """
        self._owner = True
        return self._launch(lambda client: self._begin(client, name=name, params=params, tags=tags or {}, run_id=run_id))

    def attach(self, run_id: str) -> str | None:
        """Log into a run that something else began and ends, such as an evaluation into its training run."""
        return self._launch(lambda client: str(client.get_run(run_id).info.run_id))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl and hand the values to the store; never waits, never raises for the store.

        A value that is not finite is null in metrics.jsonl, since NaN is not JSON.
        """
        now = time.time()
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(now, 3), **finite}) + "\n")
        self._lines.flush()

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Metric

            stamp = int(now * 1000)
            metrics = [Metric(FORBIDDEN.sub("_", name), float(value), stamp, step) for name, value in values.items()]
            for first in range(0, len(metrics), _BATCH):
                client.log_batch(run_id, metrics=metrics[first : first + _BATCH])

        self._put(send)

    def artifact(self, path: Path, under: str | None = None) -> None:
        """Store a file with the run; `under` is a folder among its artifacts."""
        self._put(lambda client, run_id: client.log_artifact(run_id, str(path), under))

    def picture(self, path: Path, under: str = "pictures") -> None:
        """Store a picture, but only if the store is local or `tracking.log_images` is set: pictures are patient data."""
        if is_local(self.uri) or self.section.log_images:
            self.artifact(path, under)

    def close(self, status: str = "FINISHED") -> None:
        """Wait at most a minute for the queue, and end the run if `start` began it (FINISHED, FAILED or KILLED)."""
        if self._lines.closed:
            return
        self._lines.close()
        if self._thread is None:
            return
        if self._owner:
            self._put(lambda client, run_id: client.set_terminated(run_id, status))
        deadline = time.monotonic() + _CLOSE_S
        try:
            self._queue.put(None, timeout=_CLOSE_S)
        except queue.Full:
            self._fault("the queue is full")
        self._thread.join(timeout=max(deadline - time.monotonic(), 0.0))
        self.lost += sum(item is not None for item in list(self._queue.queue))
        if self.lost:
            _log.warning("tracking %s: %d items were not stored; metrics.jsonl has every number", self.uri, self.lost)

    def _launch(self, begin: Callable[[Any], str]) -> str | None:
        assert self._thread is None, "a Tracker is started once"
        if self.uri == OFF:
            return None
        self._thread = threading.Thread(target=self._work, args=(begin,), name="tracking", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_S):
            self._fault(f"no run after {_START_S:.0f} s; numbers wait in a queue")
        return self.run_id

    def _put(self, item: Callable[[Any, str], None]) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.lost += 1
            self._fault("the queue is full: the store is slower than training")

    def _work(self, begin: Callable[[Any], str]) -> None:
        """The background thread: opens the run, then takes items until the closing None."""
        client = None
        try:
            client = open_client(self.uri)
            self.run_id = begin(client)
            self._note_run()
        except Exception as error:  # whatever a store can raise must not reach training
            self._fault(f"{type(error).__name__}: {error}")
        self._ready.set()
        while (item := self._queue.get()) is not None:
            try:
                if client is None or self.run_id is None:
                    self.lost += 1
                else:
                    item(client, self.run_id)
            except Exception as error:
                self.lost += 1
                self._fault(f"{type(error).__name__}: {error}")

    def _note_run(self) -> None:
        if self._owner:
            note = {"uri": _relative(self.uri, self.folder), "experiment": self.section.experiment, "run_id": self.run_id}
            (self.folder / RUN_FILE).write_text(json.dumps(note) + "\n", encoding="utf-8")

    def _fault(self, reason: str) -> None:
        if not self._reported:
            self._reported = True
            first_line = reason.splitlines()[0][:300] if reason else "unknown"
            _log.warning("tracking %s: %s; the run goes on, metrics.jsonl has every number", self.uri, first_line)

    def _begin(self, client: Any, *, name: str, params: Mapping[str, str], tags: Mapping[str, str], run_id: str | None) -> str:
        if run_id is not None:
            return self._resume(client, run_id, params)
        run = client.create_run(self._experiment(client), tags=dict(tags), run_name=name)
        self._log_params(client, run.info.run_id, params)
        return str(run.info.run_id)

    def _experiment(self, client: Any) -> str:
        name = self.section.experiment
        found = client.get_experiment_by_name(name)
        if found is None:
            # MLflow would put artifacts of a SQLite store into ./mlruns of whatever folder the run was started in
            place = (self.output_dir / "mlartifacts").resolve().as_uri() if self.uri.startswith("sqlite") else None
            try:
                return str(client.create_experiment(name, artifact_location=place))
            except Exception:  # another run of the same minute may have made it
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _resume(self, client: Any, run_id: str, params: Mapping[str, str]) -> str:
        """Reopen a run; MLflow refuses to change a parameter, so one that differs now is kept as a tag `resumed.KEY`."""
        stored = client.get_run(run_id).data.params
        client.update_run(run_id, status="RUNNING")
        self._log_params(client, run_id, {key: value for key, value in params.items() if key not in stored})
        for key, value in params.items():
            if key in stored and stored[key] != value[:_LONGEST]:
                client.set_tag(run_id, f"resumed.{key}", value[:_LONGEST])
        return run_id

    def _log_params(self, client: Any, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(FORBIDDEN.sub("_", key), str(value)[:_LONGEST]) for key, value in params.items()]
        for first in range(0, len(entries), _BATCH):
            client.log_batch(run_id, params=entries[first : first + _BATCH])
