"""Where numbers go: metrics.jsonl always, MLflow beside it. The only file that imports mlflow, and only when a store is used.

Training must never wait for a store or die of one: everything for MLflow goes through a bounded queue to one background
thread; what the store did not take is reported once and counted, and stands in metrics.jsonl all the same. Knows nothing
of what the numbers mean.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

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
_ANSWER_S = 30.0
"""Longest wait of a reader for the first answer of a store."""
_READERS = 8
"""Requests to a server at once."""
_BATCH = 100
_LONGEST = 6000
"""MLflow's bounds: parameters or tags in a request, characters of a parameter."""
_FORBIDDEN = re.compile(r"[^/\w.\- :]")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SQLITE = "sqlite:///"


def store_uri(section: TrackingSection, output_dir: Path) -> str:
    """The tracking URI a section means; empty = SQLite file mlflow.db under `output_dir`."""
    return section.uri or f"{_SQLITE}{(output_dir / 'mlflow.db').resolve()}"


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
    return f"{_SQLITE}{(folder / uri.removeprefix(_SQLITE)).resolve()}" if uri.startswith(_SQLITE) else uri


def _relative(uri: str, folder: Path) -> str:
    """The same with that path relative to `folder`."""
    if not uri.startswith(_SQLITE):
        return uri
    return f"{_SQLITE}{Path(os.path.relpath(Path(uri.removeprefix(_SQLITE)).resolve(), folder.resolve())).as_posix()}"


def _client(uri: str) -> Any:
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
            metrics = [Metric(_FORBIDDEN.sub("_", name), float(value), stamp, step) for name, value in values.items()]
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
            client = _client(self.uri)
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

        entries = [Param(_FORBIDDEN.sub("_", key), str(value)[:_LONGEST]) for key, value in params.items()]
        for first in range(0, len(entries), _BATCH):
            client.log_batch(run_id, params=entries[first : first + _BATCH])


@dataclass(frozen=True)
class RunSummary:
    """One stored run, for comparing."""

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of each metric."""
    tags: dict[str, str] = field(default_factory=dict)
    started: float | None = None
    """When it was first begun, in Unix seconds."""
    ended: float | None = None
    """When it last ended; None while it runs, or if it was killed."""
    artifacts: str = ""
    """URI of the folder of its artifacts."""


@dataclass(frozen=True)
class History:
    """One metric of one run, in order of steps and, where a resumed run logged a step again, of time."""

    step: np.ndarray
    """(N,) int64."""
    time: np.ndarray
    """(N,) float64, Unix seconds."""
    value: np.ndarray
    """(N,) float64; NaN and infinities as they were logged."""


def stored_name(metric: str) -> str:
    """A metric's name as MLflow keeps it: `acc@0.5` is stored as `acc_0.5`."""
    return _FORBIDDEN.sub("_", metric)


def stored_runs(uri: str, experiment: str) -> list[RunSummary]:
    """Runs of an experiment, oldest first.

    Raises:
        ValueError: no store at a SQLite URI, or no such experiment; names those there are.
        RuntimeError: the store cannot be read, or does not answer within half a minute.
    """
    _refuse_missing(uri)
    with _reading(uri):
        client = _first_answer(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = sorted(entry.name for entry in client.search_experiments())
            close = difflib.get_close_matches(experiment, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ";"
            raise ValueError(f"--experiment {experiment}: not in {uri}{hint} it holds {', '.join(names) or 'none'}")
        summaries: list[RunSummary] = []
        token = None
        while True:
            page = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], page_token=token)
            summaries += [_summary(run) for run in page]
            token = page.token
            if not token:
                return summaries


def _summary(run: Any) -> RunSummary:
    info, data = run.info, run.data
    return RunSummary(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        params=dict(data.params),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
        started=None if info.start_time is None else info.start_time / 1000,
        ended=None if info.end_time is None else info.end_time / 1000,
        artifacts=info.artifact_uri or "",
    )


def histories(uri: str, runs: Sequence[RunSummary], metrics: Sequence[str]) -> dict[str, dict[str, History]]:
    """metric -> run id -> its history, for the runs that have the metric.

    MLflow's client takes about 20 ms for a metric of a run, whatever its length.

    Raises:
        RuntimeError: the store cannot be read.
    """
    _refuse_missing(uri)
    client = _client(uri)

    def one(pair: tuple[str, str]) -> History:
        entries = client.get_metric_history(*pair)
        columns = [(entry.step, entry.timestamp, entry.value) for entry in entries]
        step, stamp, value = np.array(columns, dtype=np.float64).reshape(-1, 3).T
        return _history(step.astype(np.int64), stamp, value)

    found: dict[str, dict[str, History]] = {metric: {} for metric in metrics}
    pairs = [(run.run_id, metric) for metric in metrics for run in runs if metric in run.metrics]
    with _reading(uri), ThreadPoolExecutor(_READERS) as pool:
        for (run_id, metric), history in zip(pairs, pool.map(one, pairs), strict=True):
            found[metric][run_id] = history
    return found


def _history(step: np.ndarray, stamp: np.ndarray, value: np.ndarray) -> History:
    order = np.lexsort((stamp, step))
    value = np.where(
        np.abs(value) >= np.finfo(np.float64).max, np.copysign(np.inf, value), value
    )  # so SQL stores keep infinity
    return History(step=step[order], time=stamp[order] / 1000, value=value[order])


def stored_json(uri: str, runs: Sequence[RunSummary], name: str) -> dict[str, dict[str, Any]]:
    """run id -> artifact folder -> content of the file `name` in it, such as each evaluation's results.json.

    Raises:
        ValueError: such a file is not JSON; names run and folder.
        RuntimeError: the store cannot be read.
    """

    def one(run: RunSummary) -> dict[str, Any]:
        found = {}
        for folder, text in _artifact_texts(uri, run, name):
            try:
                found[folder] = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"run {run.run_id}: artifact {folder}/{name} is not JSON ({error.msg}): evaluate again"
                ) from None
        return found

    with _reading(uri), ThreadPoolExecutor(_READERS) as pool:
        return {run.run_id: found for run, found in zip(runs, pool.map(one, runs), strict=True)}


def _artifact_texts(uri: str, run: RunSummary, name: str) -> Iterator[tuple[str, str]]:
    parsed = urlparse(run.artifacts)
    if parsed.scheme in ("", "file"):
        place = Path(unquote(parsed.path))
        if not place.is_dir() and uri.startswith(_SQLITE):  # the store was moved, and knows its artifacts by their old place
            place = Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts" / run.run_id / "artifacts"
        for path in sorted(place.glob(f"*/{name}")):
            yield path.parent.name, path.read_text(encoding="utf-8")
        return
    client = _client(uri)
    for folder in client.list_artifacts(run.run_id):
        if folder.is_dir and any(
            entry.path == f"{folder.path}/{name}" for entry in client.list_artifacts(run.run_id, folder.path)
        ):
            yield folder.path, Path(client.download_artifacts(run.run_id, f"{folder.path}/{name}")).read_text(encoding="utf-8")


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Whatever a store can raise becomes a RuntimeError of one line that names it."""
    try:
        yield
    except (ValueError, AssertionError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        raise RuntimeError(
            f"tracking store {uri}: {type(error).__name__}: {reason}: is it up? name another with --tracking-uri"
        ) from error


def _first_answer(uri: str) -> Any:
    """A client whose store has answered once. A thread that waits for a dead store is left behind, and ends with the process."""
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            client = _client(uri)
            client.search_experiments(max_results=1)
            answers.put(client)
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, name="first answer", daemon=True).start()
    try:
        answer = answers.get(timeout=_ANSWER_S)
    except queue.Empty:
        raise TimeoutError(f"no answer within {_ANSWER_S:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _refuse_missing(uri: str) -> None:
    """Reading must not make an empty store where there is none."""
    if uri == OFF:
        raise ValueError("--tracking-uri off: that is no store: name the one that the runs were logged to")
    parsed = urlparse(uri)
    if uri.startswith(_SQLITE):
        found = Path(uri.removeprefix(_SQLITE)).is_file()
    else:
        found = parsed.scheme not in ("", "file") or uri == "databricks" or Path(unquote(parsed.path)).is_dir()
    if not found:
        raise ValueError(f"no tracking store at {uri}: train first, or name the store with --tracking-uri")
