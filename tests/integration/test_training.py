"""Whole runs under real DeepSpeed: resume, signals, stops, exports, wrong starts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from eval.decoding import Decoding
from eval.runner import Plan, evaluate_checkpoint
from medclm.checkpoint import newest, verify
from medclm.config import load_recipe
from medclm.curriculum.log import read_log, turns
from medclm.curriculum.registry import make_policy
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import write_small_corpus
from medclm.distributed import Ranks
from medclm.engine import consolidated_state
from medclm.exports import exported
from medclm.testing import TINY_FLAGS
from tests.ranks import run_ranks
from train.main import main

ROOT = Path(__file__).resolve().parents[2]
ZERO3 = ROOT / "ds_configs" / "zero3.json"
TINY = [
    *TINY_FLAGS,
    "--train.global_batch_size=12",
    "--train.micro_batch_size=3",
    "--data.min_side=0",
    "--tracking.uri=off",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


def flags(corpus, out, *more):
    return ["--deepspeed", str(ZERO3), f"--data.corpus={corpus}", f"--run.output_dir={out}", *TINY, *more]


def start(rank, arguments):
    return main(arguments)


def run(world_size, arguments):
    codes = run_ranks(world_size, start, arguments, timeout_s=240)
    assert codes == [0] * world_size, codes


def weights(run_folder, step):
    return consolidated_state(run_folder / "checkpoints" / f"step_{step:06d}" / "deepspeed", exclude_frozen=False)


def metrics(run_folder):
    """Step -> all that was noted under it."""
    found = {}
    for line in map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines()):
        found[line["step"]] = found.get(line["step"], {}) | line
    return found


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """20 steps on two ranks, with a checkpoint at 10."""
    out = tmp_path_factory.mktemp("runs")
    run(2, flags(corpus, out, "--train.steps=20", "--train.checkpoint_every=10", "--train.log_every=5"))
    return out / "demo"


def test_ten_steps_resume_ten_steps_equals_twenty(corpus, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "demo")
    shutil.rmtree(tmp_path / "demo" / "checkpoints" / "step_000020")
    run(2, flags(corpus, tmp_path, "--train.steps=20", "--train.checkpoint_every=10", "--train.log_every=5", "--resume=auto"))
    whole, resumed = weights(undisturbed, 20), weights(tmp_path / "demo", 20)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first = weights(undisturbed, 10)
    assert any(not torch.equal(first[name], whole[name]) for name in whole)
    assert metrics(undisturbed)[20]["train/loss"] == metrics(tmp_path / "demo")[20]["train/loss"]
    # Decisions that the dead attempt made after its checkpoint are made again, and are the same.
    np.testing.assert_array_equal(read_log(undisturbed).rows, read_log(tmp_path / "demo").rows)


@pytest.mark.slow
def test_so_does_a_run_with_dropout_in_its_adapters(corpus, tmp_path):
    adapters = ["--model.freeze_language_model=true", "--model.lora.rank=4"]
    plain = [*adapters, "--train.steps=6", "--train.checkpoint_every=3", "--train.log_every=3"]
    steps = [*plain, "--model.lora.dropout=0.3"]
    run(2, flags(corpus, tmp_path / "whole", *steps))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "demo" / "checkpoints" / "step_000006")
    run(2, flags(corpus, tmp_path / "resumed", *steps, "--resume=auto"))
    run(2, flags(corpus, tmp_path / "again", *steps))
    run(2, flags(corpus, tmp_path / "without", *plain, "--model.lora.dropout=0"))
    norms = {
        name: metrics(tmp_path / name / "demo")[6]["train/gradient_norm"] for name in ("whole", "resumed", "again", "without")
    }
    assert norms["whole"] == norms["resumed"] == norms["again"] != norms["without"]


def test_a_real_run_replays_from_its_log(corpus, undisturbed):
    logged = read_log(undisturbed)
    recipe = load_recipe(config=undisturbed / "recipe.yaml")
    opened = Corpus(corpus)
    stream = Stream(opened, split="train", seed=0, window=recipe.data.shuffle_window, min_side=0, image_size=32, fit="pad")
    policy = make_policy(recipe.curriculum, domains=len(opened.domains), total_steps=20)
    again = [turn.decided for turn in turns(logged, policy, lambda batch_index: stream.describe(batch_index, 12))]
    np.testing.assert_array_equal(again, logged.rows["stages"])
    assert np.isfinite(logged.rows["losses"][:19].astype(float)).all()


def test_phases_in_epochs_reach_the_policy_and_the_log_as_fractions(corpus, tmp_path):
    knobs = {"easy_only_until": 0.1, "easy_at_most": 0.2, "ramp": 0.1, "hard_from": 0.3}
    phases = [f"--curriculum.medclm.{knob}={epochs}" for knob, epochs in knobs.items()]
    run(1, flags(corpus, tmp_path, "--train.steps=8", "--curriculum.unit=epochs", *phases))
    header = read_log(tmp_path / "demo").header
    epochs = 8 * 12 / Corpus(corpus).count("records", split="train")
    assert epochs > 0.3  # else a phase would be longer than the run
    found = {knob: header["curriculum"]["medclm"][knob] for knob in knobs}
    assert found == pytest.approx({knob: value / epochs for knob, value in knobs.items()})
    assert header["curriculum"]["unit"] == "fraction"


def test_the_export_holds_the_trained_weights_and_plain_transformers_opens_it(undisturbed):
    from transformers import AutoProcessor, VipLlavaForConditionalGeneration

    folder = exported(undisturbed)
    assert folder == undisturbed / "export"
    network = VipLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    AutoProcessor.from_pretrained(folder)
    trained = weights(undisturbed, 20)
    state = network.state_dict()
    for name, tensor in trained.items():
        assert torch.equal(state[name.removeprefix("network.")], tensor), name
    step = exported(undisturbed / "checkpoints" / "step_000010")
    assert step.parent.name == "step_000010"
    assert exported(step) == step


def judge(rank, world_size, checkpoint, corpus, out):
    plan = Plan(suites=("vqa",), split="val", limit=6)
    return list(
        evaluate_checkpoint(checkpoint, corpus, out, plan, Decoding(8, 4), ranks=Ranks(rank, rank, world_size), timeout_s=60)
    )


def test_several_ranks_may_judge_a_step_that_nobody_has_exported(corpus, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "demo", ignore=shutil.ignore_patterns("export"))
    step = tmp_path / "demo" / "checkpoints" / "step_000010"
    assert run_ranks(2, judge, 2, step, corpus, tmp_path / "eval", timeout_s=120) == [["vqa"], []]
    assert (step / "export" / "config.json").is_file()


def test_a_damaged_checkpoint_is_passed_over_by_name(undisturbed, tmp_path):
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    broken = next((tmp_path / "checkpoints" / "step_000020" / "deepspeed").rglob("*.pt"))
    broken.write_bytes(broken.read_bytes()[:-1])
    assert "its manifest says" in verify(tmp_path / "checkpoints" / "step_000020")
    found = newest(tmp_path / "checkpoints")
    assert found.folder.name == "step_000010"
    assert "step_000020" in found.refused[0]


def test_an_unknown_policy_ends_before_anything_is_opened_or_made(tmp_path, capsys):
    assert main(flags(tmp_path / "no_such_corpus", tmp_path, "--curriculum.policy=mixtur")) == 2
    said = capsys.readouterr().err
    assert "curriculum.policy=mixtur" in said
    assert "mixture" in said
    assert not list(tmp_path.iterdir())


def test_a_run_folder_with_checkpoints_is_not_overwritten(corpus, undisturbed, capsys):
    assert main(flags(corpus, undisturbed.parent, "--train.steps=20")) == 2
    assert "holds checkpoints of an earlier run: give --resume=auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("--model.tiny.width=64", "model.tiny.width=64"),
        ("--curriculum.policy=mixture", "curriculum.policy=mixture"),
        ("--run.seed=5", "run.seed=5"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_key(corpus, undisturbed, tmp_path, capfd, change, key):
    shutil.copytree(undisturbed, tmp_path / "demo")
    kept = [
        flag
        for flag in flags(corpus, tmp_path, "--train.steps=20", "--resume=auto")
        if flag.partition("=")[0] != change.partition("=")[0]
    ]
    assert run_ranks(2, start, [*kept, change], timeout_s=120) == [2, 2]
    assert f"{key}: the checkpoint" in capfd.readouterr().err


def test_a_shard_that_differs_from_its_hash_is_named(tmp_path, capfd):
    corpus = write_small_corpus(tmp_path / "corpus", images=12)
    shard = next(corpus.glob("images-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert run_ranks(1, start, flags(corpus, tmp_path, "--train.steps=2"), timeout_s=120) == [2]
    assert shard.name in capfd.readouterr().err


def test_a_port_in_use_is_one_clear_message(corpus, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {
            **os.environ,
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, str(ROOT / "launch" / "train.py"), *flags(corpus, tmp_path, "--train.steps=2")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr
    assert "Traceback" not in done.stderr


def diverge(rank, arguments):
    try:
        return main(arguments)
    except RuntimeError as error:
        return str(error)


def test_a_run_that_diverges_stops_and_says_what_to_turn(corpus, tmp_path):
    more = [
        "--train.steps=30",
        "--train.lr=1e20",
        "--train.clip=1e30",
        "--train.warmup_fraction=0",
        "--train.max_skipped_in_row=3",
    ]
    (answer,) = run_ranks(1, diverge, flags(corpus, tmp_path, *more), timeout_s=120)
    assert "3 steps in a row were skipped" in answer
    assert "train.lr" in answer


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_same_samples_and_stages_at_any_number_of_ranks(corpus, tmp_path, world_size):
    for ranks in (1, world_size):
        run(ranks, flags(corpus, tmp_path / str(ranks), "--train.steps=4", "--train.shrink_micro_batch=true"))
    alone, together = read_log(tmp_path / "1" / "demo").rows, read_log(tmp_path / str(world_size) / "demo").rows
    np.testing.assert_array_equal(alone["stages"], together["stages"])
    np.testing.assert_allclose(alone["losses"][:4].astype(float), together["losses"][:4].astype(float), rtol=5e-3)


def test_a_stop_signal_saves_and_exits_cleanly(corpus, tmp_path):
    """The real launcher, two ranks; the signal goes to one rank, all stop after the same step."""
    command = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", "2", "--master_port", "29611"]
    command += [str(ROOT / "launch" / "train.py"), *flags(corpus, tmp_path, "--train.steps=100000", "--train.log_every=1")]
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "demo" / "metrics.jsonl").exists() or not (tmp_path / "demo" / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline, (
                process.stdout.read() if process.poll() is not None else "no step in two minutes"
            )
            time.sleep(0.5)
        os.kill(rank_process(process.pid, 1), signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "stopped at step" in output
    found = newest(tmp_path / "demo" / "checkpoints")
    assert found.run_state["step"] == found.run_state["batch_index"] > 0


def rank_process(runner, rank):
    """The process id of a rank below the deepspeed runner."""
    below = psutil.Process(runner).children(recursive=True)
    (found,) = [process.pid for process in below if f"--local_rank={rank}" in process.cmdline()]
    return found


@pytest.mark.parametrize("ds_name", ["zero2", "zero3", "zero3_offload"])
@pytest.mark.parametrize("recipe", ["demo", "vip_llava_7b", "vip_llava_7b_lora", "qwen3_vl_4b_lora"])
def test_every_recipe_plans_with_every_memory_layout(recipe, ds_name, capsys):
    arguments = [
        "--deepspeed",
        str(ROOT / "ds_configs" / f"{ds_name}.json"),
        "--config",
        str(ROOT / "train" / "configs" / f"{recipe}.yaml"),
    ]
    assert main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"name: {recipe}" in shown
    assert "samples a step" in shown
    assert "language_model" in shown
