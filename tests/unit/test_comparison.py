"""Runs side by side, from a real MLflow store in SQLite."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from eval.runs.comparison import Group, Row, Score, _interval, gather, lower_is_better, number
from eval.runs.comparison_page import MOST_POINTS, thinned, write_page
from eval.runs.comparison_text import print_comparison
from eval.runs.experiment import compare_experiment
from launch.compare import arguments
from medclm import tracked_runs
from medclm.tracked_runs import RunSummary, histories, stored_runs
from medclm.tracking import open_client

pytest.importorskip("mlflow")
EVIL = "<script>window.owned = 1</script> [red]b[/red] & \"'"
START = 1_790_000_000_000
"""Milliseconds."""


class Store:
    """Writes runs as training and evaluation do."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, f"sqlite:///{root}/mlflow.db"
        self.client = open_client(self.uri)
        self.start = START

    def experiment(self, name: str) -> str:
        return self.client.create_experiment(name, artifact_location=(self.root / "mlartifacts").as_uri())

    def run(self, experiment: str, name: str, recipe: dict[str, str], metrics: list[tuple], *, status="FINISHED", tags=None):
        """`metrics`: (name, value, step, seconds after the start)."""
        from mlflow.entities import Metric, Param

        self.start += 1_000_000  # runs are listed by it
        run_id = self.client.create_run(experiment, start_time=self.start, run_name=name, tags=tags).info.run_id
        self.client.log_batch(run_id, params=[Param(key, value) for key, value in recipe.items()])
        entries = [Metric(key, value, self.start + int(1000 * after), step) for key, value, step, after in metrics]
        for first in range(0, len(entries), 1000):
            self.client.log_batch(run_id, metrics=entries[first : first + 1000])
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, end_time=self.start + 500_000)
        return run_id

    def evaluation(self, run_id: str, folder: str, scores: dict[str, tuple[float, list[float] | None]]) -> None:
        place = self.root / "mlartifacts" / run_id / "artifacts" / folder
        place.mkdir(parents=True)
        content = {name: {"value": value, "ci95": ci95, "floor": None, "n": 9} for name, (value, ci95) in scores.items()}
        (place / "results.json").write_text(json.dumps({"suite": "vqa", "n": 9, "scores": content}))


def recipe(seed: int, **changes: str) -> dict[str, str]:
    keys = {
        "run.name": f"r{seed}",
        "run.seed": str(seed),
        "curriculum.policy": "medclm",
        "train.steps": "40",
        "train.lr": "0.1",
    }
    return {**keys, **{key.replace("__", "."): value for key, value in changes.items()}}


LOSS = [("train/loss", value, step, step * 2.0) for value, step in ((4.0, 10), (1.0, 20), (0.05, 30), (0.5, 40))]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six runs of four recipes: making the tables takes seconds."""
    made = Store(tmp_path_factory.mktemp("runs"))
    trial = made.experiment("trial")
    accuracy = [("vqa/answer_accuracy", 0.7, 40, 9000.0), ("vqa/acc@0.5".replace("@", "_"), 0.25, 40, 9000.0)]
    first = made.run(trial, "same", recipe(0), [*LOSS, *accuracy])
    made.evaluation(first, "vqa-test", {"answer_accuracy": (0.7, [0.6, 0.8]), "acc@0.5": (0.25, None)})
    made.evaluation(first, "vqa-other", {"answer_accuracy": (0.7, [0.1, 0.9]), "acc@0.5": (0.5, None)})
    made.evaluation(first, "vqa-test-blank", {"answer_accuracy": (0.7, [0.2, 0.3])})
    second = made.run(trial, "same", recipe(1), [*LOSS[:3], ("vqa/answer_accuracy", 0.5, 40, 9000.0)])
    made.evaluation(second, "vqa-test", {"answer_accuracy": (0.4, [0.3, 0.5])})  # of another evaluation than the value
    made.run(trial, "third seed, not done", recipe(2), LOSS[:1], status="RUNNING")
    odd = [("train/loss", math.nan, 10, 20.0), ("train/loss", 3.0, 20, 40.0), ("train/loss", math.inf, 30, 60.0)]
    changed = recipe(0, train__lr="0.2", data__new="1")
    made.run(trial, EVIL, changed, [*odd, ("train/loss", math.nan, 40, 80.0)], status="FAILED")
    again = [("train/loss", 2.0, 20, 100.0), ("train/loss", 1.5, 30, 120.0)]
    made.run(trial, "resumed", recipe(0), [*LOSS[:3], *again], tags={"resumed.train.steps": "80", "note": "x"})
    made.run(trial, "eval step_40", {"checkpoint": "x", "split": "test"}, [("vqa/answer_accuracy", 0.6, 40, 1.0)])
    made.experiment("empty")
    return made


@pytest.fixture(scope="module")
def compared(store):
    return gather("trial", uri=store.uri, metrics=["train/loss", "vqa/answer_accuracy"])


def rows(comparison):
    return {row.label.split(" (")[0] + row.seed: row for row in comparison.rows}


def test_histories_keep_what_is_not_finite_and_leave_out_who_lacks_the_metric(store):
    runs = stored_runs(store.uri, "trial")
    found = histories(store.uri, runs, ["train/loss", "vqa/unknown"])
    assert len(found["train/loss"]) == 5
    assert not found["vqa/unknown"]
    evil = next(run for run in runs if run.name == EVIL)
    np.testing.assert_array_equal(found["train/loss"][evil.run_id].value, [math.nan, 3.0, math.inf, math.nan])


def test_a_resumed_runs_points_are_in_order_of_steps_then_of_time(store):
    run = next(run for run in stored_runs(store.uri, "trial") if run.name == "resumed")
    history = histories(store.uri, [run], ["train/loss"])["train/loss"][run.run_id]
    assert history.step.tolist() == [10, 20, 20, 30, 30]
    assert history.value.tolist() == [4.0, 1.0, 2.0, 0.05, 1.5]


def test_only_the_asked_runs_are_read(store):
    [first, *_] = stored_runs(store.uri, "trial")
    assert set(histories(store.uri, [first], ["train/loss"])["train/loss"]) == {first.run_id}


def test_final_and_best_value_with_the_evaluations_interval(compared):
    score = rows(compared)["same0"].scores
    assert (score["train/loss"].final, score["train/loss"].best, score["train/loss"].best_step) == (0.5, 0.05, 30)
    assert (score["vqa/answer_accuracy"].final, score["vqa/answer_accuracy"].best) == (0.7, 0.7)
    # vqa-other has the very value too, but another acc@0.5 than the run; -blank is another metric
    assert (score["vqa/answer_accuracy"].evaluation, score["vqa/answer_accuracy"].ci95) == ("vqa-test", (0.6, 0.8))
    other = rows(compared)["same1"].scores["vqa/answer_accuracy"]
    assert (other.final, other.ci95, other.evaluation) == (0.5, None, "")
    assert compared.leader("train/loss") == 0.05
    assert compared.leader("vqa/answer_accuracy") == 0.7


def test_an_interval_is_lent_only_by_an_evaluation_that_agrees_in_all_the_run_has():
    run = RunSummary("abc", "run", "FINISHED", metrics={"vqa/answer_accuracy": 0.7, "vqa/acc_0.5": 0.25, "vqa/unasked": 0.3})

    def results(accuracy_ci95, **others):
        scores = {"answer_accuracy": (0.7, accuracy_ci95), **others}
        return {"scores": {name: {"value": value, "ci95": ci95} for name, (value, ci95) in scores.items()}}

    def found(**folders):
        return _interval("vqa/answer_accuracy", run, {name.replace("_", "-"): result for name, result in folders.items()})

    test = results([0.6, 0.8], **{"acc@0.5": (0.25, None), "kappa": (0.1, None), "unasked": (None, None)})
    coinciding = results([0.1, 0.9], **{"acc@0.5": (0.5, None)})
    assert found(vqa_test=test, vqa_val=coinciding) == ("vqa-test", (0.6, 0.8))
    assert found(vqa_val=coinciding) == ("", None)  # by chance the same accuracy: it gave the run nothing
    assert found(vqa_test=test, vqa_val=results([0.6, 0.8])) == ("vqa-test", (0.6, 0.8))
    assert found(vqa_test=test, vqa_val=results([0.5, 0.9])) == ("", None)  # nobody can say which of them it was
    assert found(vqa_test=results(None), vqa_val=results(None)) == ("vqa-test", None)


def made_row(name, seed, loss, status="FINISHED"):
    score = Score(final=loss, step=40, best=None, best_step=None, ci95=None, evaluation="", reached=None)
    run = RunSummary(name, name, status)
    return Row(run, name, {"run.seed": str(seed)}, step=40, seconds=None, scores={"train/loss": score})


def shown(comparison):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(comparison, console)
    return console.export_text()


def test_only_finished_runs_lead(compared, tmp_path):
    rows = (made_row("a", 0, 0.5), made_row("b", 1, 0.125, "RUNNING"), made_row("c", 2, 0.25, "FAILED"))
    rows += (made_row("d", 3, 0.5, "RUNNING"), made_row("e", 4, math.nan))
    comparison = replace(compared, metrics=("train/loss",), rows=rows, groups=(), curves={})
    assert comparison.leader("train/loss") == 0.5
    assert [row.label for row in rows if comparison.leads(row, "train/loss")] == ["a"]
    write_page(comparison, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("<td class='n best'") == 1


def test_what_is_not_finite_and_what_is_repeated_is_told(compared, tmp_path):
    rows = tuple(
        made_row(f"r{at}", seed, loss) for at, (seed, loss) in enumerate([(0, 1.0), (1, 2.0), (1, 3.0), (2, math.inf)])
    )
    group = Group(1, {}, (*rows, made_row("r4", 3, 9.0, "RUNNING")))
    finals = group.finals("train/loss")
    assert (finals.values, finals.not_finite, finals.repeated) == ([1.0, 2.0, 3.0], 1, 1)
    assert finals.n == "3 of 4, 1 not finite, 1 repeated"
    assert Group(1, {}, rows[:2]).finals("train/loss").n == "2"
    assert Group(1, {}, rows[3:]).finals("train/loss").n == "0 of 1, 1 not finite"
    comparison = replace(compared, metrics=("train/loss",), rows=group.rows, groups=(group,), curves={})
    assert comparison.sentence == "5 runs, 1 recipe; recipe 1: 5 runs of seeds 0, 1, 2, 3 (1 repeated)"
    text = re.sub(r"[\s│]+", " ", shown(comparison))
    assert "n = 3 of 4" in text
    assert "1 not finite" in text
    write_page(comparison, tmp_path / "page.html")
    assert finals.n in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "metric",
    [
        "train/loss_easy",
        "speed/step_s",
        "speed/data_wait_s",
        "speed/curriculum_share",
        "memory/peak_bytes",
        "curriculum/median_gap",
        "curriculum/fallbacks",
        "train/skipped_steps",
    ],
)
def test_what_is_better_when_lower(metric):
    assert lower_is_better(metric)
    assert not any(map(lower_is_better, ("speed/samples_per_s", "speed/tokens_per_s", "curriculum/hard_budget")))


def test_what_is_not_finite_is_final_but_never_best(compared):
    row = rows(compared)[EVIL + "0"]
    assert math.isnan(row.scores["train/loss"].final)
    assert (row.scores["train/loss"].best, row.scores["train/loss"].best_step) == (3.0, 20)
    assert "vqa/answer_accuracy" not in row.scores
    assert number(math.nan) == "NaN"


def test_steps_and_seconds(compared):
    found = {name: (row.run.status, row.steps, row.seconds) for name, row in rows(compared).items()}
    assert found["same0"] == ("FINISHED", "40", 500.0)
    assert found["third seed, not done2"] == ("RUNNING", "10 of 40", 20.0)
    assert found["resumed0"] == ("FINISHED", "30 of 80", 500.0)
    assert found["eval step_40–"][1] == "40"


def test_the_first_step_at_a_target_and_its_seconds(store):
    loss = rows(gather("trial", uri=store.uri, metrics=["train/loss"], target=1.0))
    assert loss["same0"].scores["train/loss"].reached == (20, 40.0)
    assert loss["third seed, not done2"].scores["train/loss"].reached is None
    assert loss[EVIL + "0"].scores["train/loss"].reached is None
    higher = rows(gather("trial", uri=store.uri, metrics=["vqa/answer_accuracy"], target=0.6))
    # when training was at the step, not when the checkpoint was evaluated
    assert higher["same0"].scores["vqa/answer_accuracy"].reached == (40, 80.0)
    assert higher["same1"].scores["vqa/answer_accuracy"].reached is None
    assert lower_is_better("train/loss_easy")
    assert not lower_is_better("grounding/mean_iou")


def test_runs_that_differ_by_seed_are_one_recipe(compared):
    same, evil, resumed = compared.groups
    assert [row.run.name for row in same.rows] == ["same", "same", "third seed, not done"]
    assert same.seeds == ["0", "1", "2"]
    assert same.finals("train/loss").values == [0.5, 0.05]  # the running one would move the mean
    assert evil.finals("train/loss").values == []
    assert compared.differing == ["data.new", "train.lr", "train.steps"]
    assert [evil.recipe.get("data.new"), same.recipe.get("data.new")] == ["1", None]
    assert resumed.recipe["train.steps"] == "40 → 80"
    assert compared.sentence == (
        "6 runs, 3 recipes; recipe 1: 3 runs that differ by seed only (0, 1, 2); 1 run without a recipe"
    )


def test_runs_of_one_name_are_told_apart(compared):
    labels = [row.label for row in compared.rows if row.run.name == "same"]
    assert len(set(labels)) == 2
    assert all(re.fullmatch(r"same \([0-9a-f]{6}\)", label) for label in labels)


def test_metrics_are_chosen_by_default_and_by_their_written_name(store):
    comparison = gather("trial", uri=store.uri)
    assert comparison.metrics == ("vqa/answer_accuracy", "train/loss")
    assert list(comparison.curves) == ["train/loss"]  # one point is no curve
    assert gather("trial", uri=store.uri, metrics=["vqa/acc@0.5"]).metrics == ("vqa/acc_0.5",)


def test_a_moved_store_keeps_its_intervals(store, tmp_path):
    shutil.copytree(store.root, tmp_path / "moved")
    gone = store.root.with_name("gone")
    store.root.rename(gone)
    try:
        moved = gather("trial", uri=f"sqlite:///{tmp_path}/moved/mlflow.db", metrics=["vqa/answer_accuracy"])
    finally:
        gone.rename(store.root)
    assert rows(moved)["same0"].scores["vqa/answer_accuracy"].ci95 == (0.6, 0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "trail"}, r"did you mean trial\? it holds .*empty"),
        ({"experiment": "empty"}, "holds no runs"),
        ({"metrics": ["vqa/anser_accuracy"]}, r"did you mean vqa/answer_accuracy\? known: train/loss"),
        ({"metrics": ["other/loss"]}, r"did you mean train/loss\?"),
        ({"target": 0.5}, "with --metric the one metric"),
        ({"metrics": ["train/loss"], "target": math.nan}, "give a number"),
        ({"uri": "off"}, "that is no store"),
        ({"uri": "nowhere/mlruns"}, "no tracking store"),
    ],
)
def test_what_is_wrong_is_told_with_its_cure(store, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        compare_experiment(**{"experiment": "trial", "uri": store.uri, **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "why"), [("missing/a.html", "its folder is not there"), (".", "is a folder"), ("a.txt", "does not end in .html")]
)
def test_a_page_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, out, why):
    monkeypatch.chdir(tmp_path)
    for what in (["--experiment", "trial"], ["--paired", "first", "second"]):
        with pytest.raises(ValueError, match=rf"--out {re.escape(out)}: {why}: name an HTML file"):
            arguments([*what, "--out", out])
    assert not list(tmp_path.iterdir())
    assert arguments(["--experiment", "trial", "--out", "a.html"])[0].out == Path("a.html")


def test_a_broken_evaluation_is_named(store, tmp_path):
    (tmp_path / "vqa-test").mkdir()
    (tmp_path / "vqa-test" / "results.json").write_text("{")
    broken = RunSummary("abc", "run", "FINISHED", artifacts=tmp_path.as_uri())
    with pytest.raises(ValueError, match=r"run abc: artifact vqa-test/results\.json is not JSON"):
        tracked_runs.stored_json(store.uri, [broken], "results.json")


def test_a_store_that_is_dead_or_silent_ends_soon(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracked_runs, "_ANSWER_S", 3.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=f"tracking store {uri}: .*--tracking-uri"):
            gather("trial", uri=uri)
        free.listen()  # takes connections and never answers
        with pytest.raises(RuntimeError, match="no answer within 3 s"):
            gather("trial", uri=uri)
    (tmp_path / "mlflow.db").write_text("no database at all, only text")
    with pytest.raises(RuntimeError, match="not a database"):
        gather("trial", uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("width", [100, 140, 240])
def test_the_terminal_shows_every_run_and_no_run_writes_markup(compared, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(replace(compared, target=None), console)
    text = console.export_text()
    joined = re.sub(r"\s+|│", "", text)
    assert max(map(len, text.splitlines())) <= width
    assert joined.count("[red]b[/red]") == len(re.findall(r"^(?:Runs|Keys|Curves)\b", text, re.MULTILINE)) >= 3
    assert "recipe1:3runsthatdifferbyseedonly" in joined
    for expected in ("0.600 to 0.800", "best 0.05 at 30", "40 → 80", "* 1", "n = 2", "█"):
        assert expected.replace(" ", "") in joined


def test_the_terminal_says_what_reached_the_target(store):
    comparison = gather("trial", uri=store.uri, metrics=["train/loss"], target=1.0)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(comparison, console)
    text = console.export_text()
    assert "≤ 1 at 20, 40 s" in text
    assert text.count("≤ 1: not reached") == 2


def test_the_page_is_one_file_whose_texts_are_texts(store, compared, tmp_path, capsys):
    compare_experiment("trial", uri=store.uri, metrics=["train/loss", "vqa/answer_accuracy"], out=tmp_path / "a.html")
    assert "page: " in capsys.readouterr().out
    write_page(compared, tmp_path / "b.html")
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    assert page.count("<script") == 1
    assert page.count("&lt;script&gt;window.owned = 1&lt;/script&gt; [red]b[/red] &amp; &quot;&#x27;") >= 3
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:https?:)?//\w|(?:src|href)=|url\(|@import", page.split("<script>")[0])
    assert str(store.root) not in page  # a page that is sent on names no folder of its writer
    assert "<mark class='name narrow'>40 → 80</mark>" in page
    assert "0.600 to 0.800" in page
    assert "data-v='nan'" not in page


def test_a_long_run_is_drawn_with_few_points_and_all_its_peaks():
    step = np.arange(100_000)
    value = np.sin(step / 9000)
    value[[12_345, 77_777]] = 9.0, -9.0
    value[50_000:52_000] = np.nan
    x, y = thinned(step, value)
    assert len(x) <= MOST_POINTS
    assert (np.diff(x) > 0).all()
    assert (x[0], x[-1], np.nanmax(y), np.nanmin(y)) == (0, 99_999, 9.0, -9.0)
    np.testing.assert_array_equal(y, np.where(np.isfinite(value[x]), value[x], np.nan))
    assert np.isnan(y[(x >= 50_000) & (x < 52_000)]).any()
    short = np.array([1.0, np.inf, 2.0])
    np.testing.assert_array_equal(thinned(np.arange(3), short)[1], [1.0, np.nan, 2.0])
