"""A batch that must not be learned from leaves weights, moments and step counts as they were, to the bit, on every rank."""

import numpy as np
import pytest
import torch

from medclm.config import load_recipe
from medclm.data.testing import write_small_corpus
from medclm.distributed import Ranks
from medclm.ds_config import fill, read_json
from medclm.engine import Device, Engine, connect, sharded_weights
from medclm.models.objective import Objective
from medclm.testing import tiny_network, tiny_processor, tiny_section
from medclm.types import LossWeights
from tests.numerics.test_gradients import FLAGS, MICRO, batches_of
from tests.ranks import run_ranks
from train.spikes import LEAST_SAMPLES, LEAST_STEPS, UNIT
from train.steps import StagedStep


def tensors(item, path=""):
    """Every tensor of a snapshot by its path."""
    if isinstance(item, torch.Tensor):
        return {path: item}
    if isinstance(item, dict):
        item = item.items()
    elif isinstance(item, (list, tuple)):
        item = enumerate(item)
    else:
        return {}
    return {name: tensor for key, value in item for name, tensor in tensors(value, f"{path}/{key}").items()}


def same(left, right):
    left, right = tensors(left), tensors(right)
    assert left.keys() == right.keys()
    assert any("exp_avg_sq" in name for name in left)
    assert any("step" in name for name in left)
    return all(torch.equal(left[name], right[name]) for name in left)


def low(guard):
    """A window of batches whose losses were near a hundredth in every stage."""
    draw = np.random.default_rng(0)
    count = LEAST_SAMPLES // LEAST_STEPS + 1
    rows = [
        [*(int(count * UNIT * 0.01 * (1 + 0.01 * draw.standard_normal())) for _ in range(3)), *[count] * 3, 0]
        for _ in range(40)
    ]
    guard.load(rows)


def dropping(rank, world_size, corpus_folder, ds_file):
    """(applied, reason, unchanged) of each kind of fault, with a good step after each one."""
    recipe = load_recipe(FLAGS)
    device = Device(name="cpu", bf16=False)
    connect(recipe.engine, device)
    ds_config = fill(read_json(ds_file), recipe, world_size=world_size, bf16=False, accelerator=False)
    if ds_config["zero_optimization"]["stage"] == 3:
        with sharded_weights(ds_config):
            network = tiny_network(tiny_section())
    else:
        network = tiny_network(tiny_section())
    processor = tiny_processor()
    engine = Engine(Objective(network, processor, LossWeights(0.8, 0.2, 1.0)), recipe, ds_config, device)
    step = StagedStep(engine, recipe.train, Ranks(rank, rank, world_size), recipe.run.seed)
    batches = batches_of(corpus_folder, processor, rank=rank, world_size=world_size, micro=MICRO)
    parameter = next(parameter for parameter in network.parameters() if parameter.requires_grad)
    good = batches[0].pixel_values

    def nan_pixels():
        batches[0].pixel_values = torch.full_like(good, float("nan")) if rank == 1 else good
        return lambda: setattr(batches[0], "pixel_values", good)

    def infinite_gradient():
        hook = parameter.register_hook(lambda gradient: gradient + float("inf") if rank == 1 else gradient)
        return hook.remove

    def spike():
        before = step.guard.state()
        low(step.guard)
        return lambda: step.guard.load(before)

    told = [step(batches, lr=1e-3).applied]
    for fault in (nan_pixels, infinite_gradient, spike):
        mend = fault()
        before = engine.snapshot(exclude_frozen=False)
        result = step(batches, lr=1e-3)
        told.append((result.applied, result.dropped, same(before, engine.snapshot(exclude_frozen=False))))
        mend()
        assert step(batches, lr=1e-3).applied
        assert not same(before, engine.snapshot(exclude_frozen=False))
    return told


@pytest.mark.parametrize("ds_name", ["zero3", "zero2"])
def test_what_is_dropped_changes_nothing(tmp_path, pytestconfig, ds_name):
    corpus = write_small_corpus(tmp_path / "corpus", images=40)
    ds_file = pytestconfig.rootpath / "ds_configs" / f"{ds_name}.json"
    mine, other = run_ranks(2, dropping, 2, corpus, ds_file, timeout_s=180)
    assert mine == other, (mine, other)
    good, nan, infinite, spike = mine
    assert good
    assert nan[0] is False
    assert "of its losses are not finite" in nan[1]
    assert infinite[:2] == (False, None)  # found by DeepSpeed, after the verdict on the losses
    assert spike[0] is False
    assert "times the spread of the last 40 batches (train.spike_sigma=6)" in spike[1]
    assert [one[2] for one in (nan, infinite, spike)] == [True] * 3


def fingerprint(rank, world_size, ds_file, seed):
    recipe = load_recipe(["--train.global_batch_size=12", "--train.micro_batch_size=1", "--train.precision=float32"])
    device = Device(name="cpu", bf16=False)
    connect(recipe.engine, device)
    ds_config = fill(read_json(ds_file), recipe, world_size=world_size, bf16=False, accelerator=False)
    network = tiny_network(tiny_section(freeze_vision_tower=True), seed=seed)
    return Engine(Objective(network, tiny_processor(), LossWeights(0.8, 0.2, 1.0)), recipe, ds_config, device).fingerprint()


def test_the_fingerprint_knows_frozen_weights_at_any_number_of_ranks_and_in_any_layout(pytestconfig):
    layouts = pytestconfig.rootpath / "ds_configs"
    found = []
    for world_size, ds_name, seed in ((1, "zero2", 0), (2, "zero3", 0), (3, "zero3", 0), (2, "zero3", 1)):
        told = run_ranks(world_size, fingerprint, world_size, layouts / f"{ds_name}.json", seed, timeout_s=120)
        assert told == [told[0]] * world_size
        found.append(told[0])
    assert found[0] == found[1] == found[2]
    assert found[3]["network"] == found[0]["network"]
    assert found[3]["frozen"] != found[0]["frozen"]
