"""What a tracking store holds of finished and running trainings, read for comparing: runs, histories, artifacts.

Writes nothing, and makes no empty store where there is none. medclm/tracking.py writes, and is the file that imports mlflow.
"""

from __future__ import annotations

import difflib
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np

from medclm.credentials import reason
from medclm.tracking import FORBIDDEN, OFF, open_client
from medclm.tracking_note import SQLITE

_ANSWER_S = 30.0
"""Longest wait for the first answer of a store."""
_READERS = 8
"""Requests to a server at once."""


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
    return FORBIDDEN.sub("_", metric)


def stored_runs(uri: str, experiment: str) -> list[RunSummary]:
    """Runs of an experiment, oldest first.

    Raises:
        ValueError: no store at a SQLite URI, or no such experiment; names those there are.
        RuntimeError: the store cannot be read, or does not answer within half a minute.
    """
    _refuse_missing(uri)
    with answering(uri):
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
    client = open_client(uri)

    def one(pair: tuple[str, str]) -> History:
        entries = client.get_metric_history(*pair)
        columns = [(entry.step, entry.timestamp, entry.value) for entry in entries]
        step, stamp, value = np.array(columns, dtype=np.float64).reshape(-1, 3).T
        return _history(step.astype(np.int64), stamp, value)

    found: dict[str, dict[str, History]] = {metric: {} for metric in metrics}
    pairs = [(run.run_id, metric) for metric in metrics for run in runs if metric in run.metrics]
    with answering(uri), ThreadPoolExecutor(_READERS) as pool:
        for (run_id, metric), history in zip(pairs, pool.map(one, pairs), strict=True):
            found[metric][run_id] = history
    return found


def _history(step: np.ndarray, stamp: np.ndarray, value: np.ndarray) -> History:
    order = np.lexsort((stamp, step))
    # SQL stores keep infinity as the largest number.
    value = np.where(np.abs(value) >= np.finfo(np.float64).max, np.copysign(np.inf, value), value)
    return History(step=step[order], time=stamp[order] / 1000, value=value[order])


def stored_points(uri: str, run_id: str) -> dict[str, set[tuple[int, int]]]:
    """Metric -> the steps and times (Unix, milliseconds) at which a run has a value of it.

    Raises:
        RuntimeError: the store cannot be read.
    """
    with answering(uri):
        run = _summary(open_client(uri).get_run(run_id))
    found = histories(uri, [run], list(run.metrics))
    return {
        metric: set(zip(history.step.tolist(), np.rint(history.time * 1000).astype(np.int64).tolist(), strict=True))
        for metric, by_run in found.items()
        for history in by_run.values()
    }


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

    with answering(uri), ThreadPoolExecutor(_READERS) as pool:
        return {run.run_id: found for run, found in zip(runs, pool.map(one, runs), strict=True)}


def _artifact_texts(uri: str, run: RunSummary, name: str) -> Iterator[tuple[str, str]]:
    parsed = urlparse(run.artifacts)
    if parsed.scheme in ("", "file"):
        place = Path(unquote(parsed.path))
        if not place.is_dir() and uri.startswith(SQLITE):  # the store was moved, and knows its artifacts by their old place
            place = Path(uri.removeprefix(SQLITE)).parent / "mlartifacts" / run.run_id / "artifacts"
        for path in sorted(place.glob(f"*/{name}")):
            yield path.parent.name, path.read_text(encoding="utf-8")
        return
    client = open_client(uri)
    for folder in client.list_artifacts(run.run_id):
        if folder.is_dir and any(
            entry.path == f"{folder.path}/{name}" for entry in client.list_artifacts(run.run_id, folder.path)
        ):
            yield folder.path, Path(client.download_artifacts(run.run_id, f"{folder.path}/{name}")).read_text(encoding="utf-8")


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Whatever a store can raise becomes a RuntimeError of one line that names it."""
    try:
        yield
    except (ValueError, AssertionError):
        raise
    except Exception as error:
        raise RuntimeError(f"tracking store {uri}: {reason(error)}: is it up? name another with --tracking-uri") from None


def _first_answer(uri: str) -> Any:
    """A client whose store has answered once. A thread that waits for a dead store is left behind, and ends with the process."""
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            client = open_client(uri)
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
    if uri.startswith(SQLITE):
        found = Path(uri.removeprefix(SQLITE)).is_file()
    else:
        found = parsed.scheme not in ("", "file") or uri == "databricks" or Path(unquote(parsed.path)).is_dir()
    if not found:
        raise ValueError(f"no tracking store at {uri}: train first, or name the store with --tracking-uri")
