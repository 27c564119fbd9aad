"""Numbers reach metrics.jsonl whatever the store does, and a real SQLite store when there is one."""

from __future__ import annotations

import json
import logging
import math
import shutil
import socket
import time
from pathlib import Path

import pytest

from medclm.config import TrackingSection
from medclm.tracked_runs import histories, stored_runs
from medclm.tracking import Tracker, is_local, store_uri, stored_run_id


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_off_writes_metrics_only(tmp_path):
    with Tracker(tmp_path / "run", TrackingSection(uri="off"), tmp_path) as tracker:
        assert tracker.start("run", {"a": "1"}) is None
        tracker.log(3, {"loss": 0.5, "norm": math.nan})
        assert lines(tmp_path / "run")[0]["loss"] == 0.5  # readable while the run goes on
    assert lines(tmp_path / "run")[0]["norm"] is None
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["metrics.jsonl", "run"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store with a run that was started, ended, resumed and joined: creating tables takes seconds."""
    pytest.importorskip("mlflow")
    root = tmp_path_factory.mktemp("runs")
    section, folder = TrackingSection(experiment="trial"), root / "demo"
    picture = root / "overlay.png"
    picture.write_bytes(b"not really a picture")
    first = Tracker(folder, section, root)
    run_id = first.start("demo", {"train.lr": "0.1", **{f"key{i}": "x" for i in range(120)}}, {"git": "abc"})
    for step in range(3):
        first.log(step, {"loss": 1.0 - step / 10, "acc@0.3": 0.2})
    first.picture(picture)
    first.close()
    again = Tracker(folder, section, root)
    assert again.start("demo", {"train.lr": "0.2", "new": "1"}, run_id=run_id) == run_id
    again.log(3, {"loss": 0.9})
    again.close("FAILED")
    joined = Tracker(root / "eval", section, root)
    assert joined.attach(stored_run_id(folder / "checkpoints" / "step_000003", joined.uri)) == run_id
    joined.log(3, {"vqa/answer_accuracy": 0.8})
    joined.close()
    assert first.lost == again.lost == joined.lost == 0
    return root, run_id


def test_sqlite_store_holds_the_run(store):
    root, run_id = store
    uri = store_uri(TrackingSection(), root)
    [run] = stored_runs(uri, "trial")
    assert (run.run_id, run.name, run.status) == (run_id, "demo", "FAILED")  # joining neither reopens nor ends it
    assert run.params["train.lr"] == "0.1"
    assert run.params["new"] == "1"
    assert len(run.params) == 122
    assert run.metrics["vqa/answer_accuracy"] == 0.8
    assert run.metrics["acc_0.3"] == 0.2
    history = histories(uri, [run], ["loss"])["loss"][run_id]
    assert list(zip(history.step, history.value, strict=True)) == [(0, 1.0), (1, 0.9), (2, 0.8), (3, 0.9)]


def test_everything_lies_under_the_output_folder(store):
    root, _ = store
    assert [path.name for path in root.glob("mlartifacts/**/overlay.png")] == ["overlay.png"]
    assert not Path("mlruns").exists()
    assert len(lines(root / "demo")) == 4


def test_a_run_names_its_store_without_a_home_directory_and_is_still_joined_after_a_move(store, tmp_path):
    root, run_id = store
    noted = json.loads((root / "demo" / "tracking.json").read_text())
    assert noted == {"uri": "sqlite:///../mlflow.db", "experiment": "trial", "run_id": run_id}
    moved = tmp_path / "moved"
    shutil.copytree(root / "demo", moved / "demo")
    uri = store_uri(TrackingSection(), moved)
    assert stored_run_id(moved / "demo" / "checkpoints" / "step_000003", uri) == run_id
    assert stored_run_id(moved / "demo", store_uri(TrackingSection(), root)) is None  # another store, whatever it holds
    (moved / "demo" / "tracking.json").write_text(json.dumps({**noted, "uri": uri}))
    assert stored_run_id(moved / "demo", uri) == run_id


def test_reader_names_what_there_is(store, tmp_path):
    root, _ = store
    with pytest.raises(ValueError, match=r"holds .*trial"):
        stored_runs(store_uri(TrackingSection(), root), "trail")
    with pytest.raises(ValueError, match="no tracking store"):
        stored_runs(store_uri(TrackingSection(), tmp_path), "trial")
    assert not list(tmp_path.iterdir())


def test_dead_store_is_reported_once_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
        assert tracker.start("run", {}) is None
        began = time.monotonic()
        for step in range(5):
            tracker.log(step, {"loss": 1.0})
        assert time.monotonic() - began < 1.0
        tracker.close()
    assert len(lines(tmp_path / "run")) == 5
    assert tracker.lost == 6  # five lines and the end of the run
    assert [record.message.split("; ")[-1] for record in caplog.records] == [
        "the run goes on, metrics.jsonl has every number",
        "metrics.jsonl has every number",
    ]


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("sqlite:////a/b.db", True),
        ("/data/store", True),
        ("http://localhost:5000", True),
        ("http://[::1]:5000", True),
        ("https://tracking.example.org", False),
        ("databricks", False),
        ("databricks://profile", False),
    ],
)
def test_pictures_stay_here(uri, local):
    assert is_local(uri) is local
