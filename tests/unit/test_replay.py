"""Logs of real services on a stored corpus: replayed, damaged, resumed, moved, and asked why."""

import errno
import json
import logging
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.runs.replay import audit, open_run, print_audit
from eval.runs.why import print_why
from launch.compare import arguments
from medclm.config import load_recipe, recipe_yaml
from medclm.curriculum.course import Fate
from medclm.curriculum.log import ROWS, AssignmentLog, describe_in_order, progresses, read_log
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService, Report
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import write_small_corpus
from medclm.distributed import ControlPlane, Ranks
from medclm.types import Observation
from tests.small_disk import small_disk
from train import record
from train.record import draw_course

ROOT = Path(__file__).resolve().parents[2]
G, STEPS, LOOKAHEAD = 12, 60, 2
SKIPPED = (7, 8, 30)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("data") / "corpus", images=60)


def recipe_of(corpus, folder):
    keys = [f"--data.corpus={corpus}", f"--run.output_dir={folder.parent}", f"--run.name={folder.name}"]
    return load_recipe([*keys, f"--train.steps={STEPS}", f"--train.global_batch_size={G}", "--curriculum.medclm.hard_from=0.1"])


def stream_of(corpus):
    return Stream(Corpus(corpus), split="train", seed=0, window=8, min_side=0.0, image_size=32, fit="pad")


def service_of(corpus, folder):
    """A real service with its log, as train/build.py makes it."""
    recipe, stream = recipe_of(corpus, folder), stream_of(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    header = {
        "global_batch_size": G,
        "lookahead": LOOKAHEAD,
        "seed": 0,
        "total_steps": STEPS,
        "curriculum": recipe.curriculum.model_dump(mode="json"),
        "domains": stream.corpus.domains,
        "stream": stream.state(),
    }
    ranks = Ranks(0, 0, 1)
    return CurriculumService(
        policy=make_policy(recipe.curriculum, domains=len(stream.corpus.domains), total_steps=STEPS),
        describe=lambda index: stream.describe(index, G),
        ranks=ranks,
        plane=ControlPlane(ranks, timeout_s=10.0),
        global_batch_size=G,
        micro_batch_size=G,
        lookahead=LOOKAHEAD,
        total_steps=STEPS,
        seed=0,
        log=AssignmentLog(folder, header),
    )


def drive(service, *, first, last, shift=0.0):
    """Batches first..last-1; `shift` makes the losses of another attempt."""
    known = {assignment.batch_index: assignment for assignment in service.start()}
    for index in range(first, last):
        ahead = service.exchange()
        known[ahead.batch_index] = ahead
        losses = np.array([0.3, 0.5, 0.9])[known[index].stages] + 2 * np.exp(-index / 20) + shift
        if index in SKIPPED:
            losses[:] = np.nan
        service.report(Report(index, torch.from_numpy(losses), applied=index not in SKIPPED, stop_wanted=False))


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    service = service_of(corpus, folder)
    drive(service, first=0, last=STEPS + len(SKIPPED))
    service.state_dict()
    service.log.close()
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "small"))


def change(folder, name, batch, edit):
    """Edit one field of one row of a log in place."""
    rows = read_log(folder).rows.copy()
    rows[name][batch] = edit(rows[name][batch])
    (folder / "assignments.bin").write_bytes(rows.tobytes())


def test_a_run_with_skipped_steps_and_batches_in_flight_is_equal(finished, capsys):
    run = open_run(finished, None)
    found, course = audit(run)
    assert found.equal
    assert found.fates == {Fate.APPLIED: STEPS, Fate.SKIPPED: 3, Fate.IN_FLIGHT: LOOKAHEAD}
    assert course.samples.sum() == STEPS * G
    assert course.skipped.sum() == 3
    print_audit(run, found)
    printed = capsys.readouterr().out
    assert "65 batches of 12 = 780 samples (2 in flight, 60 applied, 3 skipped)" in printed
    assert "\nequal: every stage and every progress" in printed
    assert "planned updates" not in printed


def test_progress_counts_applied_steps_and_those_in_flight(finished):
    decision, observation = progresses(read_log(finished))
    assert decision[[0, 1, 2, 7]].tolist() == [0, 1 / STEPS, 2 / STEPS, 7 / STEPS]
    # Batches 7 and 8 were skipped: the decision for 10 (after 7) and for 11 (after 8) both count 7 applied ones and 2 to come.
    assert decision[[9, 10, 11, 12]].tolist() == [9 / STEPS, 9 / STEPS, 9 / STEPS, 10 / STEPS]
    assert observation[[7, 8, 9, 10]].tolist() == [7 / STEPS, 7 / STEPS, 7 / STEPS, 8 / STEPS]
    assert decision.max() == 1.0


@pytest.mark.parametrize(
    ("name", "batch", "edit", "said"),
    [
        ("stages", 20, lambda stages: np.where(np.arange(G) == 5, (stages + 1) % 3, stages), "position 245"),
        ("progress", 20, lambda progress: progress + 1e-9, "batch 20 .*progress 0.3"),
        ("observed_progress", 21, lambda progress: 0.5, "batch 21 .*0.5 was logged when it was observed"),
        ("losses", 20, lambda losses: losses * 30, r"first at batch 2\d .*position"),
    ],
)
def test_a_changed_log_is_named(copied, capsys, name, batch, edit, said):
    change(copied, name, batch, edit)
    run = open_run(copied, None)
    found, _ = audit(run)
    assert not found.equal
    print_audit(run, found)
    printed = capsys.readouterr().out
    assert "NOT EQUAL, first at batch" in printed
    assert re.search(said, printed), printed


def test_a_number_that_is_no_stage_is_named(copied):
    change(copied, "stages", 20, lambda stages: np.where(np.arange(G) == 5, 9, stages))
    with pytest.raises(ValueError, match="batch 20 holds a stage 9: the file is damaged"):
        open_run(copied, None)


def test_what_a_crash_cut_off_is_left_out(copied):
    data = (copied / "assignments.bin").read_bytes()
    (copied / "assignments.bin").write_bytes(data[:-7])
    assert audit(open_run(copied, None))[0].batches == 64
    (copied / "assignments.bin").write_bytes(data + bytes(2 * len(data) // 65))
    assert audit(open_run(copied, None))[0].batches == 65


def test_a_log_that_ends_between_two_batches_is_equal_and_said_to_be_short(copied, capsys):
    data = (copied / "assignments.bin").read_bytes()
    (copied / "assignments.bin").write_bytes(data[: len(data) // 65 * 40])
    run = open_run(copied, None)
    found, _ = audit(run)
    assert found.equal
    print_audit(run, found)
    printed = capsys.readouterr().out
    assert f"37 of {STEPS} planned updates: the run was stopped or still runs, or the log was cut\n" in printed


def test_a_number_that_is_no_fate_is_named(copied):
    change(copied, "observed", 20, lambda _: 7)
    with pytest.raises(ValueError, match=r"assignments\.bin: batch 20 holds a fate 7: the file is damaged"):
        read_log(copied)


def test_a_hole_in_a_log_is_named(copied):
    change(copied, "observed", 12, lambda _: 0)
    with pytest.raises(ValueError, match="decision for batch 15 rests on the losses of batch 12"):
        audit(open_run(copied, None))
    rows = np.array(read_log(copied).rows)
    rows["decided"][40] = 0
    (copied / "assignments.bin").write_bytes(rows.tobytes())
    with pytest.raises(ValueError, match="batch 40 has no decision although later ones have"):
        open_run(copied, None)


def test_a_resumed_run_forgets_what_the_attempt_that_died_wrote(corpus, tmp_path):
    folder = tmp_path / "resumed"
    first = service_of(corpus, folder)
    drive(first, first=0, last=25)
    state = first.state_dict()
    drive(first, first=25, last=50)  # dies here, and had other losses than the next attempt will have
    first.state_dict()
    first.log.close()
    assert len(read_log(folder).rows) == 52
    second = service_of(corpus, folder)
    second.load_state_dict(state)
    drive(second, first=25, last=30, shift=0.7)
    second.state_dict()
    rows = read_log(folder).rows
    assert len(rows) == 32
    assert rows["observed"][24:].tolist() == [1] * 6 + [0] * 2
    assert audit(open_run(folder, None))[0].equal
    third = service_of(corpus, folder)  # started anew in the same folder
    third.start()
    third.log.flush()
    assert len(read_log(folder).rows) == LOOKAHEAD


def test_a_resumed_run_whose_log_was_lost_is_not_called_equal(corpus, tmp_path):
    folder = tmp_path / "lost"
    first = service_of(corpus, folder)
    drive(first, first=0, last=10)
    state = first.state_dict()
    first.log.close()
    (folder / "assignments.bin").unlink()
    second = service_of(corpus, folder)
    second.load_state_dict(state)
    drive(second, first=10, last=14)
    second.state_dict()
    with pytest.raises(ValueError, match="batch 0 has no decision although later ones have"):
        read_log(folder)


def test_a_folder_without_a_readable_log_is_named(copied, tmp_path):
    with pytest.raises(ValueError, match=r"no assignments\.json: give the folder of a training run"):
        open_run(tmp_path / "nothing", None)
    header = json.loads((copied / "assignments.json").read_text())

    def written(**changed):
        (copied / "assignments.json").write_text(json.dumps({**header, **changed}))
        return copied

    with pytest.raises(ValueError, match="format 0, this version reads 1"):
        open_run(written(format=0), None)
    for key in ("global_batch_size", "lookahead", "seed", "total_steps"):
        (copied / "assignments.json").write_text(json.dumps({name: header[name] for name in header if name != key}))
        with pytest.raises(ValueError, match=rf"assignments\.json: {key} missing"):
            read_log(copied)
    with pytest.raises(ValueError, match=r"curriculum\.nonsense: .*use the version of medclm"):
        open_run(written(curriculum={**header["curriculum"], "nonsense": 1}), None)
    (written() / "assignments.bin").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="no complete batch yet"):
        open_run(copied, None)
    (copied / "assignments.json").write_text('{"format": 1')
    with pytest.raises(ValueError, match="not JSON"):
        open_run(copied, None)


def test_the_corpus_is_found_where_it_is_and_refused_where_it_changed(finished, copied, corpus, tmp_path):
    assert open_run(finished, None).stream.corpus.folder == corpus
    moved = Path(shutil.copytree(corpus, tmp_path / "moved"))
    recipe = (copied / "recipe.yaml").read_text()
    (copied / "recipe.yaml").write_text(recipe.replace(str(corpus), "gone/corpus"))
    with pytest.raises(ValueError, match=r"data\.corpus=gone/corpus.*not found.*name it with --data"):
        open_run(copied, None)
    assert audit(open_run(copied, moved))[0].equal
    other = write_small_corpus(tmp_path / "other", images=48)
    with pytest.raises(ValueError, match=r"--data .*other: not the corpus this run was trained on"):
        open_run(copied, other)
    (copied / "recipe.yaml").write_text(recipe.replace(str(corpus), str(other)))
    with pytest.raises(ValueError, match=r"other is another one or was changed since"):
        open_run(copied, None)


def test_relative_paths_count_from_where_training_was_started(finished, corpus, tmp_path, monkeypatch):
    started = tmp_path / "started"
    shutil.copytree(corpus, started / "data" / "corpus")
    folder = Path(shutil.copytree(finished, started / "runs" / "small"))
    recipe = recipe_of("data/corpus", Path("runs/small"))
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    monkeypatch.chdir(started)
    assert open_run(Path("runs/small"), None).stream.corpus.folder == Path("data/corpus")
    monkeypatch.chdir(tmp_path)
    assert open_run(Path("started/runs/small"), None).stream.corpus.folder == started / "data" / "corpus"
    (folder / "recipe.yaml").write_text(recipe_yaml(load_recipe(["--run.output_dir=runs", "--run.name=small"])))
    with pytest.raises(ValueError, match=r"data\.phantoms=4000.*not found"):
        open_run(folder, None)
    shutil.move(started / "data" / "corpus", started / "runs" / "phantoms-4000")
    assert open_run(folder, None).stream.corpus.folder == started / "runs" / "phantoms-4000"


def test_batches_read_together_are_the_batches_read_alone(corpus):
    stream = stream_of(corpus)
    together = describe_in_order(stream, G, samples_at_once=5 * G + 1)
    for index in (0, 4, 5, 17):
        alone = stream.describe(index, G)
        for name in ("positions", "record_rows", "domains", "offered"):
            np.testing.assert_array_equal(getattr(together(index), name), getattr(alone, name))


class Asked:
    """A stream that notes how many samples it was asked for at once."""

    def __init__(self, stream):
        self._stream, self.sizes = stream, set()

    def describe(self, batch_index, global_batch_size):
        self.sizes.add(global_batch_size)
        return self._stream.describe(batch_index, global_batch_size)


@pytest.mark.parametrize(("size", "at_once"), [(48, 2016), (2048, 2048), (5000, 5000)])
def test_a_replay_of_large_batches_reads_one_at_a_time(corpus, size, at_once):
    asked = Asked(stream_of(corpus))
    describe = describe_in_order(asked, size)
    assert [len(describe(index).positions) for index in (0, 1)] == [size, size]
    assert asked.sizes == {at_once}


def test_why_tells_averages_chances_draw_and_fallback(finished, capsys):
    run = open_run(finished, None)
    print_why(run, str(40 * G + 3), None)
    told = capsys.readouterr().out
    assert f"at position {40 * G + 3}: sample 3 of batch 40, step 37 (applied); 3 batches before it were skipped" in told
    assert "on the losses of batches 0 to 37 (35 applied); lookahead 2" in told
    record, given = told.split()[1], run.log.rows["stages"][40][3]
    chances = dict(pair.split() for pair in told.split("chances")[1].splitlines()[0].split(", "))
    assert sum(map(float, chances.values())) == pytest.approx(1, abs=1e-3)
    drawn = float(told.split("drawn")[1].split(":")[0])
    wanted = "Hard" if drawn < float(chances["hard"]) else "Easy" if drawn >= 1 - float(chances["easy"]) else "Medium"
    assert f"else Easy -> {wanted}" in told
    assert f"given: {['Easy', 'Medium', 'Hard'][given]}, its loss was {float(run.log.rows['losses'][40][3]):.4g}" in told
    for word in ("state of medclm", "hard_budget", "ramp", "domain ", "gap", "updates of averages"):
        assert word in told

    print_why(run, record, None)
    seen = capsys.readouterr().out
    visits = [line.split() for line in seen.splitlines()[2:-1]]
    assert [str(40 * G + 3), "40", "37"] in [visit[1:4] for visit in visits]
    assert f"seen {len(visits)} times" in seen
    rows = np.concatenate([run.stream.describe(index, G).record_rows for index in range(65)])
    assert [int(visit[1]) for visit in visits] == np.flatnonzero(rows == rows[40 * G + 3]).tolist()

    print_why(run, record, 37)
    assert capsys.readouterr().out == told
    with pytest.raises(ValueError, match=rf"--why {record}: not in step 38; in this run it was at step \d+, \d+, .*in all\)"):
        print_why(run, record, 38)
    with pytest.raises(ValueError, match=r"--step 99: this run has steps 0 to 60"):
        print_why(run, None, 99)
    print_why(run, "779", None)
    assert "step 60 (not consumed yet, or the run ended before)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--why 780: the log holds positions 0 to 779"):
        print_why(run, "780", None)
    with pytest.raises(ValueError, match="--why nobody: no such record"):
        print_why(run, "nobody", None)


def test_why_tells_a_fallback_and_a_whole_batch(finished, capsys):
    run = open_run(finished, None)
    fallen = next(
        (int(turn.batch.positions[slot]), int(turn.wanted[slot]), int(turn.given[slot]))
        for turn in run.turns()
        for slot in np.flatnonzero(turn.wanted != turn.given)
    )
    names = ["Easy", "Medium", "Hard"]
    print_why(run, str(fallen[0]), None)
    assert f"{names[fallen[1]]} is not offered: {names[fallen[2]]} (the first offered of Medium" in capsys.readouterr().out
    print_why(run, None, 7)  # batches 7 and 8 were skipped here, 9 made the update
    told = capsys.readouterr().out
    assert told.startswith("batch 9, step 7 (applied); 2 batches before it were skipped")
    given = np.bincount(run.log.rows["stages"][9], minlength=3)
    assert f"easy {given[0]}, medium {given[1]}, hard {given[2]}" in told.split("samples given")[1]


def test_a_million_samples_take_about_three_megabytes(tmp_path):
    batches, size = 200, 48
    log = AssignmentLog(tmp_path, {"global_batch_size": size, "lookahead": 2, "seed": 0, "total_steps": batches})
    for index in range(batches):
        stages = np.zeros(size, np.uint8)
        log.decision(index, progress=0.5, stages=stages)
        log.observation(Observation(index, 0.5, np.zeros(size, int), stages, np.ones(size, np.float16)))
    log.close()
    row = (tmp_path / "assignments.bin").stat().st_size / batches
    assert row == 3 * size + 18
    assert row / size * 1e6 <= 3.4e6
    assert (tmp_path / "assignments.json").stat().st_size < 200


def test_one_infinite_loss_is_no_skipped_step(tmp_path):
    """float16 ends at 65,504; the policy saw the batch, so a replay must."""
    log = AssignmentLog(tmp_path, {"global_batch_size": 2, "lookahead": 0, "seed": 0, "total_steps": 2})
    for index, losses in enumerate(([1, np.inf], [np.nan, np.nan])):
        log.decision(index, progress=0.0, stages=np.zeros(2, np.uint8))
        log.observation(Observation(index, 0.0, np.zeros(2, int), np.zeros(2, np.uint8), np.array(losses, np.float16)))
    log.close()
    assert read_log(tmp_path).rows["observed"].tolist() == [Fate.APPLIED, Fate.SKIPPED]


def test_rows_wait_while_the_disk_is_full_and_a_checkpoint_says_so(corpus, finished, tmp_path, caplog):
    """A real service goes on over a full disk; only what needs the log whole fails, and only for as long."""
    with small_disk(tmp_path / "small") as disk, caplog.at_level(logging.WARNING):
        folder = disk.folder / "run"
        service = service_of(corpus, folder)
        disk.fill()
        drive(service, first=0, last=STEPS + len(SKIPPED))
        service.state_dict()
        with pytest.raises(OSError, match=r"rows wait in memory \(No space left on device\): make room") as caught:
            service.log.flush()
        assert caught.value.errno == errno.ENOSPC
        assert len(caplog.records) == 1
        disk.make_room()
        service.log.flush()
        service.log.close()
        service.log.close()
        assert len(caplog.records) == 2
        assert (folder / ROWS).read_bytes() == (finished / ROWS).read_bytes()


def test_a_log_is_readable_up_to_where_the_disk_was_full(tmp_path):
    with small_disk(tmp_path / "small") as disk:
        size, stages = 100, np.ones(100, np.uint8)
        log = AssignmentLog(disk.folder / "run", {"global_batch_size": size, "lookahead": 0, "seed": 0, "total_steps": 90})
        disk.fill(leave=8192)
        for index in range(90):
            log.decision(index, progress=0.5, stages=stages)
            log.observation(Observation(index, 0.5, np.zeros(size, int), stages, np.ones(size, np.float16)))
        full = read_log(disk.folder / "run").rows
        disk.make_room(pages=2)
        log.decision(90, progress=0.5, stages=stages)
        rows = read_log(disk.folder / "run").rows  # room for the earliest rows, not for the newest
        assert 0 < len(full) < len(rows) < 90
        assert (rows["observed"] == Fate.APPLIED).all()
        log.close()


def test_what_a_disk_never_took_is_counted_at_the_end(tmp_path, caplog):
    with small_disk(tmp_path / "small") as disk, caplog.at_level(logging.WARNING):
        log = AssignmentLog(disk.folder / "run", {"global_batch_size": 2, "lookahead": 0, "seed": 0, "total_steps": 2})
        disk.fill()
        for index in range(3):
            log.decision(index, progress=0.0, stages=np.zeros(2, np.uint8))
        log.close()
    assert caplog.records[-1].message.endswith("3 rows could not be written and are lost")


def test_a_resumed_log_over_a_file_that_may_not_grow(corpus, tmp_path):
    """What the attempt that died wrote is still cut off first, once the disk takes anything."""
    folder = tmp_path / "resumed"
    first = service_of(corpus, folder)
    drive(first, first=0, last=25)
    state = first.state_dict()
    drive(first, first=25, last=50)
    first.state_dict()
    first.log.close()
    second = service_of(corpus, folder)
    second.load_state_dict(state)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        drive(second, first=25, last=30, shift=0.7)
        second.state_dict()
        with pytest.raises(OSError, match=r"rows wait in memory \(File too large\)"):
            second.log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    second.log.flush()
    assert len(read_log(folder).rows) == 32
    assert audit(open_run(folder, None))[0].equal


class Store:
    """Takes artifacts as a tracker does."""

    def __init__(self):
        self.taken = []

    def artifact(self, path, under):
        self.taken.append((path.name, under))


def test_a_finished_run_leaves_pictures_and_a_failure_is_said_not_raised(copied, corpus, capsys):
    run, store = open_run(copied, None), Store()
    draw_course(copied, policy=run.policy, stream=run.stream, tracker=store)
    assert store.taken == [(f"{name}.png", "pictures") for name in ("course", "domains", "domain_stages")]
    assert capsys.readouterr().out == ""
    shutil.rmtree(copied / "pictures")
    (copied / "pictures").write_text("in the way")
    draw_course(copied, policy=run.policy, stream=run.stream, tracker=store)
    assert f"to try again: python launch/compare.py --replay {copied} --out" in capsys.readouterr().out


def test_the_pictures_of_a_long_run_are_left_to_the_command(copied, capsys, monkeypatch):
    run, store = open_run(copied, None), Store()
    monkeypatch.setattr(record, "MOST_REPLAYED", 65 * G - 1)
    draw_course(copied, policy=run.policy, stream=run.stream, tracker=store)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert f"780 samples, more than 779: python launch/compare.py --replay {copied} --out {copied / 'pictures'}" in printed
    assert (store.taken, (copied / "pictures").exists()) == ([], False)
    monkeypatch.setattr(record, "MOST_REPLAYED", 65 * G)
    draw_course(copied, policy=run.policy, stream=run.stream, tracker=store)
    assert len(store.taken) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--replay", "runs/a", "--metric", "train/loss"], "--metric: only with --experiment or --paired"),
        (["--simulate", "mixture", "--metric", "train/loss"], "--metric: only with --experiment or --paired"),
        (["--replay", "runs/a", "--learner", "plateau"], "--learner: only with --simulate"),
        (["--paired", "a", "b", "--runs", "runs"], "--runs: only with --experiment"),
        (["--replay", "runs/a", "--tracking-uri", "x"], "--tracking-uri: only with --experiment or --sync"),
        (["--sync", "runs/a", "--runs", "runs"], "--runs: only with --experiment"),
        (["--sync", "runs/a", "--out", "x"], "--out: only with --experiment, --paired, --simulate, or --replay .*"),
        (["--experiment", "medclm", "--config", "x"], "--config: only with --simulate"),
        (["--simulate", "mixture", "--step", "3"], "--step: only with --replay"),
    ],
)
def test_a_flag_of_another_mode_is_refused(given, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        arguments(given)


def test_the_flags_of_a_mode_are_taken():
    chosen, _ = arguments(["--experiment", "e", "--metric", "a", "--metric", "b", "--runs", "r", "--tracking-uri", "u"])
    assert (chosen.metric, chosen.runs, chosen.tracking_uri) == (["a", "b"], Path("r"), "u")
    assert arguments(["--simulate", "mixture", "--learner", "plateau"])[0].learner == "plateau"
    assert arguments(["--sync", "runs/a", "--tracking-uri", "u"])[0].sync == Path("runs/a")


def compare(*arguments):
    command = [sys.executable, str(ROOT / "launch" / "compare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_equal_0_different_1_and_the_users_fault_2(copied, tmp_path):
    equal = compare("--replay", copied, "--out", tmp_path / "drawn")
    assert (equal.returncode, equal.stderr) == (0, "")
    assert (tmp_path / "drawn" / "course.png").is_file()
    (tmp_path / "file").write_text("in the way")
    blocked = compare("--replay", copied, "--out", tmp_path / "file")
    assert blocked.returncode == 2  # the log is equal, only its pictures have no place
    assert re.fullmatch(r"compare: .*File exists.*file'\n", blocked.stderr)
    change(copied, "stages", 3, lambda stages: stages + 1)
    assert compare("--replay", copied).returncode == 1
    fault = compare("--replay", tmp_path / "nothing")
    assert fault.returncode == 2
    assert fault.stderr.startswith("compare: ")
    assert len(fault.stderr.splitlines()) == 1
    wrong = compare("--simulate", "mixture", "--step", "3")
    assert (wrong.returncode, wrong.stderr) == (2, "compare: --step: only with --replay\n")
