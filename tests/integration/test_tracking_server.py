"""A real MLflow server that comes late, freezes, dies and comes back; afterwards it agrees with metrics.jsonl value by value."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medclm.config import TrackingSection, load_recipe, recipe_yaml
from medclm.tracked_runs import stored_points, stored_runs
from medclm.tracking import Tracker, open_client
from medclm.tracking_lines import METRICS, MetricLines
from medclm.tracking_note import read_note
from tests.mlflow_server import MlflowServer, logged, points, same, wait_for

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _short_patience():
    """A frozen server is given up after 3 s instead of 20."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        yield


def log(tracker: Tracker, first: int, last: int) -> float:
    """Steps first..last-1, and the seconds that they took."""
    began = time.monotonic()
    for step in range(first, last):
        tracker.log(step, {"train/loss": 1.0 / (step + 1), "train/gradient_norm": math.nan, "validation/acc@0.5": 0.5})
    return time.monotonic() - began


def uploaded(folder: Path) -> bool:
    return read_note(folder).uploaded == (folder / METRICS).stat().st_size


def compare(*arguments: object) -> str:
    command = [sys.executable, str(ROOT / "launch" / "compare.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_server_that_comes_late_freezes_dies_and_comes_back(tmp_path, caplog):
    with MlflowServer(tmp_path / "server") as server, caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        section, folder = TrackingSection(uri=server.uri), tmp_path / "run"
        tracker = Tracker(folder, section, tmp_path)
        tracker.start("stormy", {"train.lr": "0.1"}, {"torch": "2.13"})  # nobody there
        spent = log(tracker, 0, 50)
        (folder / "recipe.yaml").write_text("train: {}\n")
        tracker.artifact(folder / "recipe.yaml")
        wait_for(lambda: "tried again" in caplog.text, "the first attempt")
        server.start()
        wait_for(lambda: uploaded(folder), "what was logged before the server came", seconds=120)
        run_id = tracker.run_id
        server.freeze()
        spent += log(tracker, 50, 100)
        wait_for(lambda: caplog.text.count("tried again") == 2, "a request to the frozen server ends")
        spent += log(tracker, 100, 150)
        server.thaw()
        wait_for(lambda: uploaded(folder), "what was logged while the server was frozen", seconds=120)
        server.kill()
        spent += log(tracker, 150, 200)
        wait_for(lambda: caplog.text.count("tried again") == 3, "a request to the dead server ends")
        server.start()
        spent += log(tracker, 200, 250)
        tracker.close()
        assert spent < 5.0  # a request to the frozen server alone takes 3 s
        assert "not stored" not in caplog.text
        assert tracker.run_id == run_id
        assert len(points(server.uri, run_id)) == 750
        assert same(points(server.uri, run_id), logged(folder))
        [run] = stored_runs(server.uri, "medclm")  # one run, though requests that made it may have lost their answers
        assert (run.status, run.params["train.lr"], run.tags["torch"]) == ("FINISHED", "0.1", "2.13")
        assert [entry.path for entry in open_client(server.uri).list_artifacts(run_id)] == ["recipe.yaml"]


def test_a_server_that_freezes_before_the_run_begins_makes_one_run(tmp_path, caplog):
    with MlflowServer(tmp_path / "server") as server, caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        server.start()
        server.freeze()
        folder = tmp_path / "run"
        began = time.monotonic()
        tracker = Tracker(folder, TrackingSection(uri=server.uri), tmp_path)
        tracker.start("frozen", {})
        assert time.monotonic() - began < 2.0
        log(tracker, 0, 10)
        wait_for(lambda: "tried again" in caplog.text, "the first request ends")
        time.sleep(5)  # and a few more are left in the server's queue
        server.thaw()
        wait_for(lambda: uploaded(folder), "the lines", seconds=120)
        tracker.close()
        assert len(stored_runs(server.uri, "medclm")) == 1
        assert same(points(server.uri, tracker.run_id), logged(folder))


def test_what_a_run_left_behind_is_brought_up_by_the_command(tmp_path, caplog):
    with MlflowServer(tmp_path / "server") as server, caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        folder = tmp_path / "runs" / "demo"
        folder.mkdir(parents=True)
        recipe = load_recipe([f"--tracking.uri={server.uri}", "--run.name=demo", f"--run.output_dir={folder.parent}"])
        (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
        tracker = Tracker(folder, recipe.tracking, folder.parent)
        tracker.start("demo", {})
        log(tracker, 0, 50)
        tracker.close()
        assert caplog.records[-1].message.endswith(f"python launch/compare.py --sync {folder}")
        server.start()
        printed = compare("--sync", folder)
        assert f"values: 150 of 150 in {METRICS} were missing" in printed
        assert "made now" in printed
        assert "ended: FINISHED" in printed
        [run] = stored_runs(server.uri, "medclm")
        assert same(points(server.uri, run.run_id), logged(folder))
        assert run.params["run.name"] == "demo"
        assert f"values: 0 of 150 in {METRICS} were missing" in compare("--sync", folder)
        assert same(points(server.uri, run.run_id), logged(folder))


def test_a_long_history_is_read_page_by_page(tmp_path, monkeypatch):
    """The server hands out at most so many values at once; here 100 instead of 25,000."""
    from mlflow.tracking._tracking_service import client

    monkeypatch.setattr(client, "GET_METRIC_HISTORY_MAX_RESULTS", 100)
    with MlflowServer(tmp_path / "server") as server:
        server.start()
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "recipe.yaml").write_text(recipe_yaml(load_recipe([f"--tracking.uri={server.uri}"])))
        lines = MetricLines(folder / METRICS)
        for step in range(950):
            lines.append(step, {"train/loss": 1.0})
        lines.close()
        from eval.runs.sync import sync_run

        assert sync_run(folder).missing == 950
        run_id = read_note(folder).run_id
        assert len(stored_points(server.uri, run_id)["train/loss"]) == 950
        assert sync_run(folder).missing == 0
