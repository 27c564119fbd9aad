"""The sides of benchmarks/throughput.py do the same work: the same loss at every step, on real processes, with accumulation."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.peers.job import ROOT, Job, run
from benchmarks.peers.preparation import prepare
from benchmarks.peers.shapes import Shape
from medclm.curriculum.log import read_log

STEPS, RANKS = 3, 2
SIZES = {"image_size": 32, "vision_width": 32, "vision_layers": 2, "width": 32, "layers": 2, "heads": 2, "vocab_size": 512}
FLAGS = ("--train.global_batch_size=12", "--train.micro_batch_size=3")
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl (benchmarks/requirements.txt)")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("throughput")
    prepare(Shape(SIZES, flags=FLAGS), folder, steps=STEPS, phantoms=40, flags=["--data.min_side=0", "--train.lr=1e-3"])
    return folder


def losses_of(side: str, work: Path) -> list[float]:
    """Loss of the global batch at each step."""
    job = Job(
        side=side,
        name=side,
        folder=work,
        recipe=work / "recipe.yaml",
        ds_config=ROOT / "ds_configs" / "zero3.json",
        plan=work / "plan.npy",
        warmup=1,
        loader_workers=0,
        breakdown=False,
    )
    ranks = run(job, ranks=RANKS, device="cpu", timeout_s=600)
    return [sum(of_step) / RANKS for of_step in zip(*(rank["losses"] for rank in ranks), strict=True)]


@pytest.fixture(scope="module")
def ours(work) -> list[float]:
    return losses_of("ours", work)


@pytest.mark.slow
def test_our_loop_reads_what_was_planned(work, ours):
    import numpy as np

    planned = np.load(work / "plan.npy")[:, 2].reshape(STEPS, -1)
    np.testing.assert_array_equal(read_log(work / "ours").rows["stages"][:STEPS], planned)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["transformers", pytest.param("trl", marks=needs_trl)])
def test_a_peer_has_our_loss_at_every_step(peer, work, ours):
    theirs = losses_of(peer, work)
    assert len(set(ours)) == STEPS  # it learns, so that a step made otherwise would show in the next loss
    assert theirs == pytest.approx(ours, abs=2e-5)
