"""Numbers reach metrics.jsonl whatever the store does, and a real SQLite store whenever there is one."""

from __future__ import annotations

import base64
import json
import logging
import math
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from medclm.config import TrackingSection
from medclm.tracked_runs import histories, stored_runs
from medclm.tracking import Tracker, is_local, open_client, recipe_params, store_uri, stored_run_id
from medclm.tracking_lines import METRICS, read_lines
from medclm.tracking_note import read_note
from medclm.tracking_upload import Pause
from tests.mlflow_server import logged, points, same, wait_for


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_off_writes_metrics_only(tmp_path):
    with Tracker(tmp_path / "run", TrackingSection(uri="off"), tmp_path) as tracker:
        tracker.start("run", {"a": "1"})
        assert tracker.run_id is None
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
    first.start("demo", {"train.lr": "0.1", **{f"key{i}": "x" for i in range(120)}}, {"git": "abc"})
    for step in range(3):
        first.log(step, {"loss": 1.0 - step / 10, "acc@0.3": 0.2})
    first.picture(picture)
    first.close()
    run_id = first.run_id
    again = Tracker(folder, section, root)
    again.start("demo", {"train.lr": "0.2", "new": "1"}, run_id=run_id)
    again.log(3, {"loss": 0.9})
    again.close("FAILED")
    joined = Tracker(root / "eval", section, root)
    joined.attach(stored_run_id(folder / "checkpoints" / "step_000003", joined.uri))
    joined.log(3, {"vqa/answer_accuracy": 0.8})
    joined.close()
    assert first.run_id == again.run_id == joined.run_id
    return root, run_id


def test_sqlite_store_holds_the_run(store):
    root, run_id = store
    uri = store_uri(TrackingSection(), root)
    [run] = stored_runs(uri, "trial")
    assert (run.run_id, run.name, run.status) == (run_id, "demo", "FAILED")  # joining neither reopens nor ends it
    assert run.params["train.lr"] == "0.1"
    assert run.params["new"] == "1"
    assert run.tags["resumed.train.lr"] == "0.2"
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
    assert (noted["uri"], noted["experiment"], noted["run_id"]) == ("sqlite:///../mlflow.db", "trial", run_id)
    assert (noted["begins"], noted["uploaded"]) == (0, (root / "demo" / METRICS).stat().st_size)
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


def test_a_dead_store_costs_no_time_and_is_told_with_the_command_that_mends_it(tmp_path, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        began = time.monotonic()
        tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
        tracker.start("run", {})
        for step in range(5):
            tracker.log(step, {"loss": 1.0})
        tracker.artifact(tmp_path / "picture.png", "pictures")
        tracker.artifact(tmp_path / "picture.png", "pictures")
        assert time.monotonic() - began < 5.0  # an attempt at the store takes longer, were it waited for
        wait_for(lambda: caplog.records, "the first attempt")
        tracker.close()
        tracker.close()
    assert len(lines(tmp_path / "run")) == 5
    first, last = (record.message for record in caplog.records)
    assert first.endswith("the run goes on, and the store is tried again")
    assert last == (
        f"tracking {uri}: not stored: 5 lines of metrics.jsonl, picture.png, the run's end; "
        f"to store it: python launch/compare.py --sync {tmp_path / 'run'}"
    )
    assert read_note(tmp_path / "run").status == "FINISHED"


def test_a_store_that_comes_late_goes_and_comes_back_has_every_line(store, tmp_path, caplog):
    """A SQLite file is in the place of the store's folder first; then there is a store, which another process locks."""
    section, folder = TrackingSection(uri=f"sqlite:///{tmp_path}/late/mlflow.db"), tmp_path / "run"
    (tmp_path / "late").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        tracker = Tracker(folder, section, tmp_path)
        tracker.start("late", {"a": "1"})
        tracker.log(0, {"loss": 1.0, "norm": math.nan})
        wait_for(lambda: caplog.records, "the first attempt")
        assert tracker.run_id is None
        (tmp_path / "late").unlink()
        (tmp_path / "late").mkdir()
        shutil.copy(store[0] / "mlflow.db", tmp_path / "late" / "mlflow.db")  # tables are there
        wait_for(lambda: read_note(folder).uploaded == (folder / METRICS).stat().st_size, "the first line")
        kept = tmp_path / "late" / "kept"
        (tmp_path / "late" / "mlflow.db").rename(kept)
        (tmp_path / "late" / "mlflow.db").mkdir()
        tracker.log(1, {"loss": 0.9})
        wait_for(lambda: sum("tried again" in record.message for record in caplog.records) == 2, "the second outage")
        (tmp_path / "late" / "mlflow.db").rmdir()
        kept.rename(tmp_path / "late" / "mlflow.db")
        tracker.log(2, {"loss": 0.8})
        wait_for(lambda: read_note(folder).uploaded == (folder / METRICS).stat().st_size, "the last line")
        tracker.close()
    assert same(points(section.uri, tracker.run_id), logged(folder))
    assert len(points(section.uri, tracker.run_id)) == 4
    run = next(run for run in stored_runs(section.uri, "medclm") if run.name == "late")
    assert run.status == "FINISHED"
    assert run.started * 1000 <= next(iter(read_lines(folder / METRICS)))[1].time_ms + 1  # not when the store came
    assert sum("answers again" in record.message for record in caplog.records) == 2


def test_a_run_that_never_reached_a_store_is_made_by_its_resumed_attempt(store, tmp_path):
    section, folder = TrackingSection(uri=f"sqlite:///{tmp_path}/late/mlflow.db"), tmp_path / "run"
    (tmp_path / "late").write_text("in the way")
    first = Tracker(folder, section, tmp_path)
    first.start("late", {"a": "1"})
    first.log(0, {"loss": 1.0})
    first.close("FAILED")
    assert first.run_id is None
    (tmp_path / "late").unlink()
    (tmp_path / "late").mkdir()
    shutil.copy(store[0] / "mlflow.db", tmp_path / "late" / "mlflow.db")
    second = Tracker(folder, section, tmp_path)
    second.start("late", {"a": "1"}, run_id=None, resumed=True)
    second.log(1, {"loss": 0.9})
    second.close()
    assert same(points(section.uri, second.run_id), logged(folder))
    assert [line["step"] for line in lines(folder)] == [0, 1]


def test_a_run_begun_anew_in_the_folder_is_another_run_with_its_own_lines(store, tmp_path):
    root, run_id = store
    section, folder = TrackingSection(experiment="trial"), tmp_path / "demo"
    shutil.copytree(root / "demo", folder)
    section = TrackingSection(uri=store_uri(section, root), experiment="trial")
    before = points(section.uri, run_id)
    anew = Tracker(folder, section, tmp_path)
    anew.start("anew", {})
    anew.log(0, {"loss": 7.0})
    anew.close()
    assert anew.run_id != run_id
    assert same(points(section.uri, anew.run_id), logged(folder, read_note(folder).begins))
    assert len(points(section.uri, anew.run_id)) == 1
    assert same(points(section.uri, run_id), before)


def test_a_request_whose_answer_was_lost_makes_no_second_run(store, tmp_path):
    """The store made the run, and the process died before it could note its id."""
    uri = store_uri(TrackingSection(), store[0])
    first = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
    first.start("lost", {"a": "1"})
    first.log(0, {"loss": 1.0})
    first.close()
    note = read_note(tmp_path / "run")
    note.run_id, note.uploaded = None, 0
    note.save(tmp_path / "run")
    second = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
    second.start("lost", {"a": "1"}, resumed=True)
    second.close()
    assert second.run_id == first.run_id
    assert len(points(uri, first.run_id)) == 1  # the line was sent twice


def test_an_evaluation_in_a_runs_own_folder_leaves_its_note(store, tmp_path):
    root, run_id = store
    uri = store_uri(TrackingSection(), root)
    for folder, key in ((tmp_path / "other", True), (tmp_path / "new", False)):
        if key:
            own = Tracker(folder, TrackingSection(uri=uri), tmp_path)
            own.start("other", {})
            own.close()
        joined = Tracker(folder, TrackingSection(uri=uri), tmp_path)
        joined.attach(run_id)
        joined.log(5, {f"joined/{folder.name}": 1.0})
        joined.close()
        assert stored_run_id(folder, uri) == (own.run_id if key else run_id)
        assert bool(read_note(folder).key) == key
    [run] = [run for run in stored_runs(uri, "trial") if run.run_id == run_id]
    assert (run.status, run.metrics["joined/other"], run.metrics["joined/new"]) == ("FAILED", 1.0, 1.0)


def test_a_value_that_the_store_refuses_holds_up_no_other(store, tmp_path, caplog):
    uri = store_uri(TrackingSection(), store[0])
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
        tracker.start("refused", {})
        for step in range(3):
            tracker.log(step, {"loss": 1.0, "domain/mass//gap": 0.1, "gap": 0.2})
        tracker.close()
    assert [(name, step) for name, step, _, _ in points(uri, tracker.run_id)] == [
        (name, step) for name in ("gap", "loss") for step in range(3)
    ]
    assert "refused 3 values (domain/mass//gap)" in caplog.text


def test_a_file_that_cannot_be_stored_holds_up_nothing_but_is_told(store, tmp_path, caplog):
    uri = store_uri(TrackingSection(), store[0])
    (tmp_path / "good.txt").write_text("good")
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
        tracker.start("files", {})
        tracker.artifact(tmp_path / "gone.txt")
        tracker.artifact(tmp_path / "good.txt")
        tracker.log(0, {"loss": 1.0})
        wait_for(lambda: "gone.txt" in caplog.text, "the fault")
        client = open_client(uri)
        wait_for(lambda: client.list_artifacts(tracker.run_id), "the good file")
        tracker.close()
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert ": not stored: gone.txt; to store it: " in caplog.records[-1].message


def test_a_run_that_was_deleted_from_the_store_is_made_again_with_all_its_lines(store, tmp_path):
    uri = store_uri(TrackingSection(), store[0])
    section = TrackingSection(uri=uri)
    first = Tracker(tmp_path / "run", section, tmp_path)
    first.start("deleted", {})
    first.log(0, {"loss": 1.0})
    first.close()
    open_client(uri).delete_run(first.run_id)
    second = Tracker(tmp_path / "run", section, tmp_path)
    second.start("deleted", {}, run_id=first.run_id)
    second.log(1, {"loss": 1.0})
    second.close()
    assert second.run_id != first.run_id
    assert same(points(uri, second.run_id), logged(tmp_path / "run"))


def test_a_run_that_is_deleted_while_it_trains_is_made_again(store, tmp_path, caplog):
    uri = store_uri(TrackingSection(), store[0])
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
        tracker.start("deleted early", {})
        tracker.log(0, {"loss": 1.0})
        wait_for(lambda: read_note(tmp_path / "run").uploaded, "the first line")
        first = tracker.run_id
        open_client(uri).delete_run(first)
        tracker.log(1, {"loss": 0.9})
        wait_for(lambda: "answers again" in caplog.text, "a run that takes lines")
        tracker.close()
    assert tracker.run_id != first
    assert same(points(uri, tracker.run_id), logged(tmp_path / "run"))


def test_a_damaged_note_is_told_and_ends_no_run(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tracking.json").write_text('{"uri": ')
    with caplog.at_level(logging.WARNING, logger="medclm.tracking"):
        tracker = Tracker(tmp_path / "run", TrackingSection(uri="http://127.0.0.1:9"), tmp_path)
        tracker.start("run", {}, run_id="a" * 32)
        assert read_note(tmp_path / "run").run_id == "a" * 32
        tracker.close()
    assert "tracking.json: not what a run writes" in caplog.text
    (tmp_path / "run" / "tracking.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tracking\.json: not what a run writes"):
        stored_run_id(tmp_path / "run", "http://127.0.0.1:9")


def test_histories_keep_their_order_under_a_wall_clock_that_steps_back(store, tmp_path, monkeypatch):
    uri = store_uri(TrackingSection(), store[0])
    jumps, real = iter([0.0, 3600.0, -3600.0, -1e9, 0.0]), time.time
    tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri, experiment="clock"), tmp_path)
    tracker.start("clock", {})
    for value in range(5):  # the same step: only the time tells which was the last
        shift = next(jumps)
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        tracker.log(3, {"loss": float(value)})
    tracker.close()
    [run] = stored_runs(uri, "clock")
    history = histories(uri, [run], ["loss"])["loss"][run.run_id]
    assert history.value.tolist() == [0, 1, 2, 3, 4]
    assert (np.diff(history.time) > 0).all()


def test_waits_do_not_follow_the_wall_clock(monkeypatch):
    pause = Pause()
    pause.grow()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 < pause.left_s() <= 1.0
    lengths = []
    for _ in range(9):
        pause.grow()
        lengths.append(round(pause.left_s()))
    assert lengths == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    pause.end()
    assert pause.left_s() == 0.0


class Talkative(BaseHTTPRequestHandler):
    """Refuses every request, and repeats the password that came with it."""

    def do_POST(self):
        header = self.headers["Authorization"]
        body = f"wrong: {base64.b64decode(header.split()[1]).decode()} ({header})".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_):
        pass


def test_no_secret_is_written_or_said(tmp_path, monkeypatch, caplog, capfd):
    """The password comes from the environment, and a server that repeats it in its errors does not make us repeat it."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-Zq9")
    encoded = base64.b64encode(b"somebody:hunter2-Zq9").decode()
    with ThreadingHTTPServer(("127.0.0.1", 0), Talkative) as server, caplog.at_level(logging.WARNING):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        tracker = Tracker(tmp_path / "run", TrackingSection(uri=uri), tmp_path)
        tracker.start("run", recipe_params({"tracking": {"uri": uri}}))
        tracker.log(0, {"loss": 1.0})
        wait_for(lambda: "tried again" in caplog.text, "the first attempt")
        tracker.close()
        with pytest.raises(RuntimeError, match="403") as caught:
            stored_runs(uri, "medclm")
        server.shutdown()
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    said = "".join(capfd.readouterr()) + caplog.text + str(caught.value)
    assert "wrong: somebody:***" in said
    for secret in ("hunter2-Zq9", encoded):
        assert secret not in written + said


def test_a_recipe_becomes_parameters_by_dotted_keys():
    tree = {"train": {"lr": 0.1, "weights": [1, 2]}, "run": {"name": "a", "ok": True, "none": None}}
    assert recipe_params(tree) == {
        "train.lr": "0.1",
        "train.weights": "[1, 2]",
        "run.name": "a",
        "run.ok": "true",
        "run.none": "null",
    }


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
