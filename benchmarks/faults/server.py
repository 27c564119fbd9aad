"""A real MLflow server on this machine, started for a case of a lost tracker and ended after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.faults.processes import free_port

START_S = 120.0


class TrackingServer:
    """`mlflow server` over a SQLite file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def group(self) -> int | None:
        """Its process group, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Return once it answers.

        Raises:
            RuntimeError: it does not; names its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        store = f"sqlite:///{(self.folder / 'mlflow.db').resolve()}"
        command = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store, "--default-artifact-root", str(self.folder / "artifacts")]
        with (self.folder / "server.txt").open("ab") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        self.stop()
        raise RuntimeError(f"{self.folder}/server.txt: the tracking server did not answer within {START_S:g} s")

    def stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait(timeout=30)
