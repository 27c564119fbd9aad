"""A real tracking server for tests: `mlflow server` over SQLite on a free port of this machine; and what a store holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from medclm.tracking import FORBIDDEN, open_client
from medclm.tracking_lines import METRICS, read_lines
from tests.ranks import free_port

Points = list[tuple[str, int, int, float]]
"""Values as (metric, step, milliseconds, value), sorted."""


class MlflowServer:
    """Started, stopped (slow), killed (down) and started again at one address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MlflowServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder / "server.log"
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command, stdout=stream, stderr=stream, env=environment, cwd=self.folder, start_new_session=True
            )
        wait_for(lambda: self._answers(), "the server's first answer", seconds=300)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def freeze(self) -> None:
        """Takes connections and answers none."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(timeout=60)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)  # the server and its workers, a session of their own


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def points(uri: str, run_id: str) -> Points:
    """Every value that a store has of a run."""
    client = open_client(uri)
    found = [
        (name, entry.step, entry.timestamp, entry.value)
        for name in client.get_run(run_id).data.metrics
        for entry in client.get_metric_history(run_id, name)
    ]
    return sorted(found, key=repr)


def logged(folder: Path, begin: int = 0) -> Points:
    """Every value that a folder's metrics.jsonl has from byte `begin` on, under the name that MLflow keeps."""
    found = [line for _, line in read_lines(folder / METRICS, begin) if line is not None]
    values = [
        (FORBIDDEN.sub("_", name), line.step, line.time_ms, value) for line in found for name, value in line.values.items()
    ]
    return sorted(values, key=repr)


def same(first: Points, second: Points) -> bool:
    """Equal one by one, NaN being equal to NaN."""
    return repr(first) == repr(second)
