"""A model with tiles, from training on two ranks to answers: nobody after training says how pictures are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.decoding import Decoding
from eval.model import open_checkpoint
from eval.runner import Plan, evaluate_checkpoint
from medclm.config import load_recipe
from medclm.data.testing import write_small_corpus
from medclm.engine import consolidated_state
from medclm.models.vip_llava import VipLlavaProcessor
from medclm.testing import TINY_FLAGS
from tests.ranks import run_ranks
from train.main import main

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *TINY_FLAGS,
    *("--model.tiles=1+4", "--train.global_batch_size=12", "--train.micro_batch_size=3", "--data.min_side=0"),
    *("--train.steps=4", "--train.checkpoint_every=2", "--train.log_every=2", "--tracking.uri=off"),
)


def start(rank: int, arguments: list[str]) -> int:
    return main(arguments)


def flags(corpus: Path, out: Path, *more: str) -> list[str]:
    zero3 = ROOT / "ds_configs" / "zero3.json"
    return ["--deepspeed", str(zero3), f"--data.corpus={corpus}", f"--run.output_dir={out}", *TINY, *more]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert run_ranks(2, start, flags(corpus, out), timeout_s=400) == [0, 0]
    return out / "demo"


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(run: Path, corpus: Path, tmp_path: Path) -> None:
    assert run_ranks(1, start, flags(corpus, tmp_path), timeout_s=400) == [0]
    two, one = (
        consolidated_state(folder / "checkpoints" / "step_000004" / "deepspeed", exclude_frozen=False)
        for folder in (run, tmp_path / "demo")
    )
    assert two.keys() == one.keys()
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], atol=2e-4, rtol=0, msg=name)
    losses = [
        [line["train/loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if "train/loss" in line]
        for folder in (run, tmp_path / "demo")
    ]
    np.testing.assert_allclose(*losses, atol=1e-3)


@pytest.mark.slow
def test_whoever_asks_the_model_need_not_know_of_its_tiles(run: Path, corpus: Path, tmp_path: Path) -> None:
    for checkpoint in (run, run / "export", run / "checkpoints" / "step_000002"):
        model = open_checkpoint(checkpoint, Decoding())
        assert isinstance(model.processor, VipLlavaProcessor)
        assert (model.processor.tiles, model.square.side, model.square.patch_size) == ("1+4", 64, 8)
    results = evaluate_checkpoint(
        run / "export",
        corpus,
        tmp_path / "eval",
        Plan(suites=("vqa", "grounding"), split="val", limit=6),
        Decoding(max_new_tokens=8),
    )
    assert all(result["n"] for result in results.values())
    card = (run / "export" / "README.md").read_text()
    assert "The model sees it as five pictures of 32 x 32" in card
    assert load_recipe(config=run / "recipe.yaml").model.tiles == "1+4"


@pytest.mark.slow
def test_a_resumed_run_keeps_its_tiles(run: Path, corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = [flag for flag in flags(corpus, run.parent, "--resume=auto") if flag != "--model.tiles=1+4"]
    assert run_ranks(1, start, other, timeout_s=200) == [2]
    said = capfd.readouterr().err
    assert "model.tiles=1: the checkpoint" in said
    assert "was written with 1+4: use that, or start another run.name" in said
