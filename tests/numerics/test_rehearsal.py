"""A dry batch changes nothing, to the bit: weights, moments, counters, random states, and every later update."""

import numpy as np
import pytest
import torch

from medclm.config import load_recipe
from medclm.ds_config import fill
from medclm.engine import Device, Engine, connect
from medclm.models.example import example_batch
from medclm.models.objective import Objective
from medclm.models.registry import family
from medclm.testing import tiny_processor, tiny_section
from medclm.types import LossWeights
from tests.ranks import run_ranks


def flat(item, path=""):
    """Every leaf of a nested state, by its path."""
    if isinstance(item, dict):
        return {name: leaf for key, value in item.items() for name, leaf in flat(value, f"{path}/{key}").items()}
    if isinstance(item, (list, tuple)):
        return {name: leaf for key, value in enumerate(item) for name, leaf in flat(value, f"{path}/{key}").items()}
    if isinstance(item, torch.Tensor):
        return {path: item.contiguous().view(-1).view(torch.uint8).numpy().copy()}
    return {path: item} if isinstance(item, (int, float, str, bool)) else {}


def differences(rank, world_size, stage):
    """Names of what is not the same to the bit with two rehearsals and without, and how much was compared."""
    rehearsed, plain = (states(rank, world_size, stage, rehearsals) for rehearsals in (2, 0))
    moments = [value for name, value in rehearsed.items() if name.startswith("built") and name not in plain]
    assert not any(np.any(value) for value in moments if isinstance(value, np.ndarray))  # made already, and all zeros
    assert plain.keys() <= rehearsed.keys()
    assert all(name.startswith("built") for name in rehearsed.keys() - plain.keys())
    return [name for name in plain if not np.array_equal(rehearsed[name], plain[name])], len(plain)


def states(rank, world_size, stage, rehearsals):
    """All that a checkpoint would hold, as it was built and after each of two updates; the random state; the losses."""
    recipe = load_recipe(
        ["--train.micro_batch_size=1", f"--train.global_batch_size={3 * world_size}", "--train.weight_decay=0.3"]
    )
    device = Device("cpu", bf16=False)
    connect(recipe.engine, device)
    filled = fill(
        {"zero_optimization": {"stage": stage, "reduce_bucket_size": "auto", "overlap_comm": "auto", "sub_group_size": "auto"}},
        recipe,
        world_size=world_size,
        bf16=False,
        accelerator=False,
    )
    section = tiny_section(freeze_language_model=True, lora={"rank": 2, "dropout": 0.2})
    models, processor = family("vip_llava"), tiny_processor(section)
    network = models.build(section, processor, torch.float32, 0)
    with torch.no_grad():
        next(each for each in network.parameters() if each.requires_grad).view(-1)[:4] = torch.tensor([-0.0, 0.0, -0.0, 1e-40])
    engine = Engine(Objective(network, processor, LossWeights(0.1, 0.9, 0.1)), recipe, filled, device)
    torch.manual_seed(3)
    for _ in range(rehearsals):
        assert engine.rehearse(example_batch(network, processor, 1, 40)) > 0
    found = flat(engine.snapshot(exclude_frozen=False), "built") | {"random": torch.get_rng_state().numpy()}
    batch = example_batch(network, processor, 1, 24)
    for update in range(2):
        for _ in range(3):
            losses = engine.forward(batch)
            engine.backward(losses)
        assert engine.update(1e-2)
        found |= flat(engine.snapshot(exclude_frozen=False), f"update {update}") | {f"loss {update}": float(losses.loss)}
    engine.close()
    return found


@pytest.mark.parametrize(("stage", "world_size"), [(1, 1), (1, 2), (2, 2), (3, 1), (3, 2)])
def test_nothing_changes(stage, world_size):
    for found in run_ranks(world_size, differences, world_size, stage, timeout_s=240):
        assert isinstance(found, tuple), found
        different, compared = found
        assert not different
        assert compared > 100
