"""Step folders are whole or absent, whatever the disk does; retention keeps what it says; ranks need no collective."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import torch

from medclm.checkpoint import newest, step_folder, step_folders, verify
from medclm.checkpoint_writer import CheckpointWriter, Retention, remove_leftovers
from medclm.distributed import Ranks
from tests.small_disk import small_disk

STATE = {"weights": torch.arange(1000.0), "moments": [torch.zeros(10), torch.ones(3)]}


def writer(checkpoints, rank=0, world=1, *, last=2, every=0, background=False, timeout_s=5.0, attempt="aa"):
    return CheckpointWriter(
        checkpoints,
        Ranks(rank, rank, world),
        attempt=attempt,
        retention=Retention(last=last, every=every),
        background=background,
        timeout_s=timeout_s,
    )


def files(rank=0, step=0, state=None):
    own = {f"deepspeed/state/rank_{rank}.pt": STATE if state is None else state}
    return own | ({"run_state.json": json.dumps({"step": step}).encode()} if rank == 0 else {})


def save(one, step, **options):
    one.begin(step, files(one.ranks.rank, step), **options)
    (ended,) = one.finish()
    return ended


def names(checkpoints):
    return sorted(path.name for path in checkpoints.iterdir())


def test_what_was_saved_verifies_and_reads_back(tmp_path):
    ended = save(writer(tmp_path), 5)
    assert ended.fault is None
    assert verify(step_folder(tmp_path, 5)) is None
    read = torch.load(tmp_path / "step_000005/deepspeed/state/rank_0.pt")
    assert torch.equal(read["weights"], STATE["weights"])
    manifest = json.loads((tmp_path / "step_000005/manifest.json").read_text())
    assert (manifest["step"], manifest["world_size"]) == (5, 1)
    assert manifest["versions"]["torch"] == torch.__version__
    assert {entry["path"] for entry in manifest["files"]} == {"deepspeed/state/rank_0.pt", "run_state.json"}
    assert names(tmp_path) == ["step_000005"]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_rank_0_waits_for_every_rank_whoever_is_late(tmp_path, late):
    """Three writers of one folder, each on its own thread, with nothing but the folder between them."""
    ranks = [writer(tmp_path, rank, 3, background=True) for rank in range(3)]
    for one in ranks:
        if one.ranks.rank != late:
            one.begin(7, files(one.ranks.rank, 7))
    assert not step_folder(tmp_path, 7).exists()
    ranks[late].begin(7, files(late, 7))
    assert [one.finish()[0].fault for one in ranks] == [None] * 3
    assert verify(step_folder(tmp_path, 7)) is None
    assert len(json.loads((tmp_path / "step_000007/manifest.json").read_text())["files"]) == 4


def test_a_rank_that_never_writes_is_named_and_nothing_is_left(tmp_path):
    save(writer(tmp_path, world=1), 3)
    ended = save(writer(tmp_path, 0, 2, timeout_s=0.3), 6)
    assert "no part of rank 1 within 0.3 s" in ended.fault
    assert names(tmp_path) == ["step_000003"]


def test_a_run_that_failed_does_not_wait_for_the_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr("medclm.checkpoint_writer._LAST_WAIT_S", 0.3)
    one = writer(tmp_path, 0, 2, timeout_s=600, background=True)
    one.begin(6, files(0, 6))
    one.abandon()
    (ended,) = one.ended()
    assert "no part of rank 1, and the run has failed" in ended.fault


def test_a_rank_that_fails_ends_the_wait_of_rank_0_at_once(tmp_path):
    (tmp_path / ".step_000006.aa-1.tmp").mkdir(parents=True)
    (tmp_path / ".step_000006.aa-1.tmp" / "deepspeed").write_text("a file where a folder must be")
    failed = save(writer(tmp_path, 1, 2), 6)
    assert "FileExistsError" in failed.fault or "NotADirectoryError" in failed.fault
    (tmp_path / ".step_000006.aa-1.tmp" / "deepspeed").unlink()
    ended = save(writer(tmp_path, 0, 2, timeout_s=60), 6)
    assert "rank 1 could not write its part" in ended.fault
    assert ended.seconds < 30
    assert names(tmp_path) == []


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", kib=512) as mounted:
        yield mounted


def test_a_full_disk_leaves_the_earlier_checkpoint_and_room_for_the_next(disk):
    one = writer(disk.folder)
    assert save(one, 1).fault is None
    one.begin(2, files(step=2, state={"weights": torch.zeros(1_000_000)}))
    (ended,) = one.finish()
    assert os.strerror(errno.ENOSPC) in ended.fault
    assert names(disk.folder) == ["step_000001"]
    assert newest(disk.folder).folder.name == "step_000001"
    assert save(one, 3).fault is None


def test_a_folder_that_may_not_be_written_is_a_fault_and_not_the_end(disk):
    one = writer(disk.folder)
    save(one, 1)
    disk.remount("ro")
    try:
        assert os.strerror(errno.EROFS) in save(one, 2).fault
        assert verify(step_folder(disk.folder, 1)) is None
    finally:
        disk.remount("rw")
    assert save(one, 2).fault is None


def test_a_disk_that_keeps_other_bytes_than_it_was_given_is_found_out(tmp_path, monkeypatch):
    """The file is changed at the moment when the system has been told to forget its pages."""

    def lie(descriptor, *rest):
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.suffix == ".pt":
            flip(path)

    one = writer(tmp_path)
    save(one, 1)
    monkeypatch.setattr(os, "posix_fadvise", lie)
    assert "reads back differently from what was written" in save(one, 2).fault
    assert names(tmp_path) == ["step_000001"]


def test_retention_keeps_the_last_the_multiples_and_the_best(tmp_path):
    one = writer(tmp_path, last=2, every=4)
    for step in range(1, 10):
        save(one, step, best=3 if step >= 3 else None)
    assert [folder.name for folder in step_folders(tmp_path)] == [f"step_{step:06d}" for step in (3, 4, 8, 9)]
    assert (tmp_path / "best").resolve().name == "step_000003"


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 6, 20])
def test_the_last_ones_stay_however_many_there_are(tmp_path, last):
    one = writer(tmp_path, last=last)
    for step in range(1, 12):
        save(one, step)
        assert len(step_folders(tmp_path)) == min(step, last)


def test_a_best_step_that_was_not_saved_leaves_the_link_as_it_was(tmp_path):
    one = writer(tmp_path)
    save(one, 1, best=1)
    save(one, 2, best=2, fault="no room")
    save(one, 3, best=2)
    assert (tmp_path / "best").resolve().name == "step_000001"


def test_a_folder_that_cannot_be_dropped_is_told_and_the_new_one_is_saved(tmp_path):
    one = writer(tmp_path, last=1)
    save(one, 1)
    (tmp_path / "best").mkdir()  # stands where the link must go
    ended = save(one, 2, best=2)
    assert ended.fault is None
    assert "best" in ended.leftover
    assert newest(tmp_path).folder.name == "step_000002"


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path):
    save(writer(tmp_path), 5)
    (tmp_path / "step_000005").rename(tmp_path / ".step_000005.old.tmp")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["step_000005"]
    assert verify(step_folder(tmp_path, 5)) is None


def test_a_million_steps_and_one_are_in_the_right_order(tmp_path):
    one = writer(tmp_path, last=2)
    for step in (999_999, 1_000_000, 1_000_001):
        save(one, step)
    assert [folder.name for folder in step_folders(tmp_path)] == ["step_1000000", "step_1000001"]


def test_a_damaged_folder_of_the_same_step_is_replaced(tmp_path):
    save(writer(tmp_path), 5)
    (tmp_path / "step_000005/run_state.json").write_text("{}")
    assert verify(step_folder(tmp_path, 5)) is not None
    assert save(writer(tmp_path, attempt="bb"), 5).fault is None
    assert verify(step_folder(tmp_path, 5)) is None
    assert names(tmp_path) == ["step_000005"]


def test_what_dead_saves_left_is_taken_away_and_what_is_being_written_is_not(tmp_path):
    for name in (".step_000004.dead-1.tmp", ".step_000003.aa-1.tmp", ".step_000006.aa-2.tmp"):
        (tmp_path / name).mkdir(parents=True)
    save(writer(tmp_path), 5)
    assert names(tmp_path) == [".step_000006.aa-2.tmp", "step_000005"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["step_000005"]


def test_a_fault_that_is_known_before_keeps_the_folder_from_appearing(tmp_path):
    one = writer(tmp_path)
    save(one, 1)
    assert save(one, 2, fault="the log is not whole").fault == "the log is not whole"
    assert names(tmp_path) == ["step_000001"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("[1"), "no readable manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1, "files": []}'), "format 1, this version reads 2"),
        (lambda folder: (folder / "run_state.json").unlink(), "run_state.json is missing"),
        (lambda folder: (folder / "run_state.json").write_text("{}"), "its manifest says"),
        (lambda folder: flip(folder / "deepspeed/state/rank_0.pt"), "rank_0.pt differs from its manifest"),
        (lambda folder: redirect(folder, "../../secret"), "leads out of the folder"),
        (lambda folder: redirect(folder, "/etc/hostname"), "leads out of the folder"),
    ],
)
def test_damage_is_named_and_the_one_before_is_taken(tmp_path, harm, says):
    one = writer(tmp_path)
    save(one, 1)
    save(one, 2)
    harm(step_folder(tmp_path, 2))
    found = newest(tmp_path)
    assert found.folder.name == "step_000001"
    assert len(found.refused) == 1
    assert says in found.refused[0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def redirect(folder, where):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["path"] = where
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_nothing_that_verifies_is_an_error_that_names_all(tmp_path):
    one = writer(tmp_path)
    for step in (1, 2):
        save(one, step)
        flip(step_folder(tmp_path, step) / "run_state.json")
    with pytest.raises(RuntimeError, match=r"step_000002: run_state.json differs.*step_000001: run_state.json differs"):
        newest(tmp_path)
    assert newest(tmp_path / "nothing") is None


def test_others_go_on_while_a_save_is_written(tmp_path):
    """In the background `begin` returns before the folder is there, and the next `begin` waits for it."""
    other = writer(tmp_path, 0, 2, background=True, timeout_s=20)
    other.begin(1, files(step=1))
    assert other.ended() == []
    rank_1 = writer(tmp_path, 1, 2)
    late = threading.Timer(0.3, lambda: save(rank_1, 1))
    late.start()
    second = threading.Timer(0.9, lambda: save(rank_1, 2))
    second.start()
    other.begin(2, files(step=2))
    assert [saved.step for saved in other.ended()] == [1]
    assert [(saved.step, saved.fault) for saved in other.finish()] == [(2, None)]
    late.join()
    second.join()
