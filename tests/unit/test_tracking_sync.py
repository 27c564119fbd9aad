"""What a run's folder has and its store lacks is brought up: once, whatever had arrived before."""

from __future__ import annotations

import json
import math
import shutil
import socket
from pathlib import Path

import pytest

from eval.runs.sync import print_synced, sync_run
from launch.compare import main
from medclm.config import TrackingSection, load_recipe, recipe_yaml
from medclm.tracked_runs import stored_runs
from medclm.tracking import Tracker, open_client, recipe_params, store_uri
from medclm.tracking_lines import METRICS, MetricLines
from medclm.tracking_note import read_note
from tests.mlflow_server import logged, points, same

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An empty store: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(tables, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copy(tables, tmp_path / "runs" / "mlflow.db")
    return tmp_path / "runs"


def files_of_a_run(folder: Path, *keys: str) -> Path:
    """What training leaves in its folder, beside the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(
        [f"--run.output_dir={folder.parent}", f"--run.name={folder.name}", "--tracking.experiment=trial", *keys]
    )
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    (folder / "ds_config.json").write_text("{}")
    (folder / "versions.json").write_text('{"torch": "2.13"}')
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "course.png").write_bytes(b"a picture")
    return folder


def log_some(lines, first: int, last: int) -> None:
    for step in range(first, last):
        values = {"loss": 1.0 / (step + 1), "acc@0.5": 0.5, "norm": math.nan}
        lines.log(step, values) if isinstance(lines, Tracker) else lines.append(step, values)


def test_a_run_whose_store_was_down_throughout(root, capsys):
    section = TrackingSection(experiment="trial")
    (root / "mlflow.db").rename(root / "kept")
    (root / "mlflow.db").mkdir()
    folder = files_of_a_run(root / "demo")
    tracker = Tracker(folder, section, root)
    tracker.start("demo", {})
    log_some(tracker, 0, 450)
    tracker.close("FAILED")
    (root / "mlflow.db").rmdir()
    (root / "kept").rename(root / "mlflow.db")

    uri = store_uri(section, root)
    synced = sync_run(folder)
    assert synced.created
    assert (synced.values, synced.missing, synced.files, len(synced.stored)) == (1350, 1350, 4, 4)
    print_synced(folder, synced)
    printed = capsys.readouterr().out
    assert f"{folder} -> run {synced.note.run_id} of experiment trial in {uri}, made now" in printed
    assert "values: 1,350 of 1,350 in metrics.jsonl were missing and are stored now" in printed
    assert "(recipe.yaml, ds_config.json, versions.json, pictures/course.png)" in printed
    assert printed.endswith("ended: FAILED\n")
    [run] = stored_runs(uri, "trial")
    assert (run.name, run.status, run.tags["torch"]) == ("demo", "FAILED", "2.13")
    assert run.params["train.lr"] == "2e-05"
    assert run.params == recipe_params(load_recipe(config=folder / "recipe.yaml").model_dump(mode="json"))
    stored = logged(folder)
    assert same(points(uri, run.run_id), stored)
    assert run.started < run.ended
    assert run.ended * 1000 == max(ms for _, _, ms, _ in stored)

    before = points(uri, run.run_id)
    again = sync_run(folder)
    assert (again.created, again.missing, again.stored, again.ended) == (False, 0, [], None)
    assert same(points(uri, run.run_id), before)
    assert len(stored_runs(uri, "trial")) == 1
    resumed = Tracker(folder, section, root)  # and training goes on in it
    resumed.start("demo", {}, resumed=True)
    log_some(resumed, 450, 460)
    resumed.close()
    assert resumed.run_id == run.run_id
    assert len(points(uri, run.run_id)) == len(before) + 30


def test_only_what_is_missing_is_sent(root):
    section = TrackingSection(experiment="trial")
    uri, folder = store_uri(section, root), files_of_a_run(root / "demo")
    tracker = Tracker(folder, section, root)
    tracker.start("demo", {})
    log_some(tracker, 0, 10)
    tracker.artifact(folder / "recipe.yaml")
    tracker.artifact(folder / "ds_config.json")
    tracker.close()
    late = MetricLines(folder / METRICS)  # as if the store had not been there any more; a step is written again
    log_some(late, 8, 12)
    late.close()
    with (folder / METRICS).open("a") as stream:
        stream.write("damaged\n")
    (folder / "ds_config.json").write_text('{"changed": 1}')
    synced = sync_run(folder)
    assert (synced.values, synced.missing, synced.damaged, synced.created) == (42, 12, 1, False)
    assert synced.stored == ["ds_config.json", "versions.json", "pictures/course.png"]
    assert same(points(uri, tracker.run_id), logged(folder))
    assert sync_run(folder).missing == 0


def test_a_run_that_was_not_tracked_goes_where_it_is_told(root, tmp_path, capsys):
    folder = files_of_a_run(root / "demo", "--tracking.uri=off")
    lines = MetricLines(folder / METRICS)
    log_some(lines, 0, 3)
    lines.close()
    with pytest.raises(ValueError, match=r"tracking\.uri=off: name the store with --tracking-uri"):
        sync_run(folder)
    uri = f"sqlite:///{root}/mlflow.db"
    for missing in (9, 0):
        assert main(["--sync", str(folder), "--tracking-uri", uri]) == 0
        assert f"values: {missing} of 9" in capsys.readouterr().out
    assert read_note(folder).uri == uri
    [run] = stored_runs(uri, "trial")
    assert run.status == "RUNNING"  # nothing says how it ended

    other = tmp_path / "other.db"  # into a second store, which the folder's note does not follow
    shutil.copy(root / "mlflow.db", other)
    open_client(f"sqlite:///{other}").delete_run(run.run_id)
    for missing in (9, 0):
        assert sync_run(folder, f"sqlite:///{other}").missing == missing
    assert (read_note(folder).uri, read_note(folder).run_id) == (uri, run.run_id)


def test_an_evaluation_joins_its_run(root):
    section = TrackingSection(experiment="trial")
    uri, folder = store_uri(section, root), files_of_a_run(root / "demo")
    tracker = Tracker(folder, section, root)
    tracker.start("demo", {})
    tracker.close()
    out = folder / "eval"
    (out / "vqa-test").mkdir(parents=True)
    (out / "vqa-test" / "results.json").write_text("{}")
    (out / "vqa-test" / "report.html").write_text("patients")
    lines = MetricLines(out / METRICS)
    lines.append(7, {"vqa/answer_accuracy": 0.5})
    lines.close()
    synced = sync_run(out)
    assert synced.note.run_id == tracker.run_id
    assert (synced.missing, synced.stored, synced.ended) == (1, ["vqa-test/results.json", "vqa-test/report.html"], None)
    assert sync_run(out).missing == 0
    assert len(stored_runs(uri, "trial")) == 1
    [run] = stored_runs(uri, "trial")
    assert run.metrics["vqa/answer_accuracy"] == 0.5
    open_client(uri).delete_run(tracker.run_id)
    with pytest.raises(ValueError, match=r"has no run .*: sync the folder of the run that it joined first"):
        sync_run(out)


def test_pictures_of_patients_stay_here(root):
    from eval.runs.sync import _FILES, _PATIENTS, _files

    folder = files_of_a_run(root / "demo")
    (folder / "vqa-test").mkdir()
    (folder / "vqa-test" / "report.html").write_text("patients")
    assert not [path for path in _files(folder, _FILES) if path.suffix == ".html"]
    assert [path.name for path in _files(folder, _PATIENTS)] == ["report.html"]


def test_what_is_wrong_is_told_with_its_cure(root, tmp_path):
    with pytest.raises(ValueError, match=r"no metrics\.jsonl there: give the folder of a run"):
        sync_run(root)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / METRICS).write_text("")
    with pytest.raises(ValueError, match=r"neither recipe\.yaml nor tracking\.json"):
        sync_run(tmp_path / "bare", f"sqlite:///{root}/mlflow.db")
    folder = files_of_a_run(root / "demo")
    (folder / METRICS).write_text("")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RuntimeError, match=rf"tracking store {uri}: .*is it up"):
        sync_run(folder, uri)
    (folder / "tracking.json").write_text("{")
    with pytest.raises(ValueError, match=r"tracking\.json: not what a run writes"):
        sync_run(folder)
    assert json.loads((folder / "versions.json").read_text()) == {"torch": "2.13"}
