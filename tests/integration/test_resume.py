"""What a resumed run accepts and refuses, how a run ends early, and what it says when something breaks; real DeepSpeed throughout."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from medclm.checkpoint import newest, step_folders
from medclm.data.testing import write_small_corpus
from medclm.testing import tiny_network, tiny_processor, tiny_section
from tests.integration.test_training import flags, metrics, run, start, weights
from tests.ranks import run_ranks
from tests.small_disk import small_disk
from train.main import main

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--train.steps=4", "--train.checkpoint_every=2", "--train.log_every=1", "--train.export=false"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """4 steps on one rank, with a checkpoint at 2."""
    out = tmp_path_factory.mktemp("runs")
    run(1, flags(corpus, out, *FEW))
    return out / "demo"


def half(undisturbed, folder):
    """The run as it was after its first checkpoint."""
    shutil.copytree(undisturbed, folder / "demo")
    shutil.rmtree(folder / "demo" / "checkpoints" / "step_000004")
    return folder


def replaced(arguments, *changes):
    keys = {change.partition("=")[0] for change in changes}
    return [*(argument for argument in arguments if argument.partition("=")[0] not in keys), *changes]


def test_what_may_change_is_told_and_accepted_wherever_the_corpus_lies_now(corpus, undisturbed, tmp_path, capfd):
    moved = shutil.copytree(corpus, tmp_path / "moved")
    arguments = replaced(
        flags(moved, half(undisturbed, tmp_path), *FEW, "--resume=auto"), "--train.micro_batch_size=6", "--train.lr=1e-4"
    )
    run(1, arguments)
    told = capfd.readouterr().out
    assert "resume: train.lr=0.0001, was 0.0012" in told
    assert "resume: train.micro_batch_size=6, was 3" in told
    assert metrics(tmp_path / "demo")[4]["train/learning_rate"] <= 1e-4
    assert json.loads((tmp_path / "demo" / "outcome.json").read_text()) == {"reason": "finished", "step": 4, "steps": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--train.global_batch_size=24", "train.global_batch_size=24: the checkpoint"),
        ("--data.fit=stretch", "data.fit=stretch: the checkpoint"),
        ("--deepspeed=" + str(ROOT / "ds_configs" / "zero2.json"), "zero_optimization.stage=2: the checkpoint"),
    ],
)
def test_what_would_be_another_run_is_refused_by_key(corpus, undisturbed, tmp_path, capfd, change, says):
    arguments = flags(corpus, half(undisturbed, tmp_path), *FEW, "--resume=auto")
    arguments = [change, *arguments[2:]] if change.startswith("--deepspeed") else replaced(arguments, change)
    assert run_ranks(1, start, arguments, timeout_s=120) == [2]
    assert says in capfd.readouterr().err


def test_another_corpus_is_refused(undisturbed, tmp_path, capfd):
    other = write_small_corpus(tmp_path / "other", images=61)
    assert run_ranks(1, start, flags(other, half(undisturbed, tmp_path), *FEW, "--resume=auto"), timeout_s=120) == [2]
    assert "data.corpus was " in capfd.readouterr().err


def base(folder, seed):
    """Weights to start from, in the folder layout of transformers."""
    from medclm.models.vip_llava import VipLlavaFamily

    processor = tiny_processor()
    network = tiny_network(tiny_section(), processor, seed)
    VipLlavaFamily().export(network, processor, folder, dict(network.state_dict()))
    return folder


def test_adapters_go_on_from_a_base_that_was_moved_and_not_from_another_one(corpus, tmp_path, capfd):
    adapters = [*FEW, "--model.freeze_language_model=true", "--model.lora.rank=4"]
    first = base(tmp_path / "base", seed=0)
    run(1, flags(corpus, tmp_path, *adapters, f"--model.path={first}"))
    shutil.rmtree(tmp_path / "demo" / "checkpoints" / "step_000004")
    other = base(tmp_path / "other", seed=1)
    again = flags(corpus, tmp_path, *adapters, "--resume=auto")
    assert run_ranks(1, start, [*again, f"--model.path={other}"], timeout_s=120) == [2]
    assert "other frozen weights" in capfd.readouterr().err
    run(1, [*again, f"--model.path={first.rename(tmp_path / 'moved')}"])
    assert newest(tmp_path / "demo" / "checkpoints").run_state["step"] == 4


def raised(rank, arguments):
    try:
        return main(arguments)
    except RuntimeError as error:
        return str(error)


def test_a_folder_that_another_process_trains_in_is_left_alone(corpus, undisturbed, tmp_path):
    half(undisturbed, tmp_path)
    with (tmp_path / "demo" / "run.lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (said,) = run_ranks(1, raised, flags(corpus, tmp_path, *FEW, "--resume=auto"), timeout_s=120)
    assert "is training there: wait for its end, or give another run.name" in said
    assert "process " in said
    run(1, flags(corpus, tmp_path, *FEW, "--resume=auto"))


def test_a_time_limit_stops_the_run_which_then_goes_on_to_the_same_end(corpus, undisturbed, tmp_path):
    run(1, flags(corpus, tmp_path, *FEW, "--run.stop_after_min=0.0001"))
    outcome = json.loads((tmp_path / "demo" / "outcome.json").read_text())
    assert outcome["reason"] == "stopped"
    assert 0 < outcome["step"] < 4
    run(1, flags(corpus, tmp_path, *FEW, "--resume=auto"))
    assert json.loads((tmp_path / "demo" / "outcome.json").read_text())["reason"] == "finished"
    whole, resumed = weights(undisturbed, 4), weights(tmp_path / "demo", 4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def starved(rank, arguments):
    """A run whose process may not take more memory than the imports and a small model need."""
    from medclm.engine import Engine

    held = psutil.Process().memory_info().vms
    Engine.__init__  # noqa: B018 - imports torch and deepspeed before the limit
    resource.setrlimit(resource.RLIMIT_AS, (held + (3 << 30), resource.RLIM_INFINITY))
    return raised(rank, arguments)


def test_out_of_memory_says_which_knobs_and_by_how_much(corpus, tmp_path):
    large = ["--train.global_batch_size=6000", "--train.micro_batch_size=6000", "--data.workers=0", "--data.shuffle_window=100"]
    (said,) = run_ranks(1, starved, replaced(flags(corpus, tmp_path, *FEW), *large), timeout_s=300)
    assert "rank 0, batch 0 after step 0: out of memory" in said
    assert "--train.micro_batch_size=3000 (about " in said
    assert "--engine.recompute=all" in said


def launched(corpus, out, *more):
    """The real launcher with two ranks that would train for a long time; returned when they have logged a step."""
    command = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2", "--master_port", "29617"]
    command += [str(ROOT / "launch" / "train.py"), *flags(corpus, out, "--train.steps=100000", "--train.log_every=1", *more)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (out / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    until(lambda: (out / "demo" / "metrics.jsonl").exists() and (out / "demo" / "metrics.jsonl").read_text(), out, 180)
    return process


def until(condition, out, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (out / "log").read_text()[-3000:]
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_whose_launcher_is_gone_save_and_end(corpus, tmp_path, number):
    """SIGTERM ends the `deepspeed` runner alone and SIGKILL tells nobody: the launcher and the ranks would live on."""
    runner = launched(corpus, tmp_path)
    below = psutil.Process(runner.pid).children(recursive=True)
    try:
        runner.send_signal(number)
        runner.wait(timeout=30)
        _, alive = psutil.wait_procs(below, timeout=90)
        assert not alive, (tmp_path / "log").read_text()[-3000:]
        assert "the launcher that started this process is gone" in (tmp_path / "log").read_text()
        saved = newest(tmp_path / "demo" / "checkpoints").run_state["step"]
        assert json.loads((tmp_path / "demo" / "outcome.json").read_text()) == {
            "reason": "stopped",
            "step": saved,
            "steps": 100000,
        }
    finally:
        for process in below:
            if process.is_running():
                process.kill()


@pytest.mark.slow
def test_a_full_disk_is_survived_and_the_last_save_decides(corpus, tmp_path):
    """Checkpoints into a small file system that is full for a while; then full at the end."""
    with small_disk(tmp_path / "disk", kib=6144) as disk:
        run(1, flags(corpus, disk.folder, *FEW))
        checkpoints = disk.folder / "demo" / "checkpoints"
        assert [folder.name for folder in step_folders(checkpoints)] == ["step_000002", "step_000004"]
        shutil.rmtree(checkpoints / "step_000004")
        disk.fill(leave=100 * 1024)
        (said,) = run_ranks(1, raised, flags(corpus, disk.folder, *FEW, "--resume=auto"), timeout_s=120)
        assert "the last checkpoint, step 4, was not saved" in said
        assert "No space left on device" in said
        assert newest(checkpoints).folder.name == "step_000002"
        disk.make_room()
        run(1, flags(corpus, disk.folder, *FEW, "--resume=auto"))
        assert newest(checkpoints).folder.name == "step_000004"
