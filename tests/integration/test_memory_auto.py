"""Whole runs under `engine.memory: auto`: another plan, the same samples and weights; two ranks decide together."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medclm.curriculum.log import read_log
from medclm.data.testing import write_small_corpus
from medclm.engine import consolidated_state
from medclm.testing import TINY_FLAGS
from tests.ranks import run_ranks
from train.main import main

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
FLAGS = [
    *TINY_FLAGS,
    "--train.global_batch_size=48",
    "--train.micro_batch_size=24",
    "--train.log_every=1",
    "--train.export=false",
    "--train.lr=1e-3",
    "--data.min_side=0",
    "--data.max_tokens=1000",
    "--tracking.uri=off",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


def start(rank, arguments):
    """(exit status, what was printed on this rank)."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    return code, said.getvalue()


def run(json_name, corpus, out, *more, steps=3):
    arguments = ["--deepspeed", str(CONFIGS / f"{json_name}.json"), f"--data.corpus={corpus}", f"--run.output_dir={out}"]
    return run_ranks(2, start, [*arguments, *FLAGS, f"--train.steps={steps}", *more], timeout_s=400)


def weights(out, steps=3):
    return consolidated_state(out / "demo" / "checkpoints" / f"step_{steps:06d}" / "deepspeed", exclude_frozen=False)


def test_a_tighter_limit_cuts_the_batch_otherwise_and_learns_the_same(corpus, tmp_path):
    fixed = run("zero3", corpus, tmp_path / "fixed")
    assert [code for code, _ in fixed] == [0, 0], fixed
    plans, limit = {}, 4.0
    for name in ("wide", "tight"):
        out = tmp_path / name
        done = run("zero_auto", corpus, out, "--engine.memory=auto", f"--engine.memory_limit_gib={limit}")
        assert [code for code, _ in done] == [0, 0], done
        measured = re.search(r"([\d.]+) measured in a dry batch", done[0][1])
        assert measured is not None, done[0][1]
        limit = 0.8 * float(measured.group(1))  # what a process holds besides the model differs from machine to machine
        assert "engine.memory=auto" not in done[1][1]
        recipe = yaml.safe_load((out / "demo" / "recipe.yaml").read_text())
        stage = json.loads((out / "demo" / "ds_config.json").read_text())["zero_optimization"]["stage"]
        plans[name] = (recipe["train"]["micro_batch_size"], recipe["engine"]["recompute"], stage)
        ours, theirs = weights(out), weights(tmp_path / "fixed")
        assert len(ours) > 20
        assert ours.keys() <= theirs.keys()  # stage 3 also files what is frozen
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 2e-4  # of steps of 1e-3
        logs = read_log(out / "demo").rows, read_log(tmp_path / "fixed" / "demo").rows
        np.testing.assert_allclose(*(log["losses"].astype(float) for log in logs), rtol=5e-3)
    assert plans["wide"] == (24, "none", 1)
    assert plans["tight"][0] < 24 or plans["tight"][1] != "none"


def test_nothing_fits(corpus, tmp_path):
    for code, said in run("zero_auto", corpus, tmp_path, "--engine.memory=auto", "--engine.memory_limit_gib=0.001"):
        assert code == 2
        assert "engine.memory=auto: nothing fits into 0.00 GiB a rank" in said


def test_a_resumed_run_keeps_the_stage_of_its_checkpoint(corpus, tmp_path):
    auto = ("--engine.memory=auto", "--engine.memory_limit_gib=4")
    stopped = run("zero_auto", corpus, tmp_path, *auto, "--run.stop_after_min=0.0001", steps=8)
    assert [code for code, _ in stopped] == [0, 0], stopped
    assert json.loads((tmp_path / "demo" / "outcome.json").read_text())["reason"] == "stopped"
    resumed = run(
        "zero_auto", corpus, tmp_path, "--engine.memory=auto", "--engine.memory_limit_gib=0.4", "--resume=auto", steps=8
    )
    assert [code for code, _ in resumed] == [0, 0], resumed
    assert json.loads((tmp_path / "demo" / "outcome.json").read_text())["reason"] == "finished"
    assert json.loads((tmp_path / "demo" / "ds_config.json").read_text())["zero_optimization"]["stage"] == 1
    assert all(torch.isfinite(value).all() for value in weights(tmp_path, steps=8).values())
