"""Recomputed activations give the gradient of kept ones to the bit: none, some or all layers, dropout included, also under ZeRO-3."""

import pytest
import torch

from medclm.config import ConfigError, load_recipe
from medclm.data.testing import write_small_corpus
from medclm.ds_config import fill, read_json
from medclm.engine import Device, Engine, connect, sharded_weights
from medclm.models.objective import Objective
from medclm.models.recompute import decoder_layers, set_recompute
from medclm.models.registry import family
from medclm.testing import tiny_export, tiny_network, tiny_processor, tiny_section
from medclm.types import LossWeights
from tests.numerics.test_gradients import FLAGS, MICRO, G, batches_of
from tests.ranks import run_ranks

PROCESSOR = tiny_processor()
CHOICES = ("none", 1, "all")
LORA = {"freeze_language_model": True, "lora": {"rank": 4, "dropout": 0.3}}


def network_of(folder, lora):
    section = tiny_section(path=str(folder), **(LORA if lora else {}))
    models = family("vip_llava")
    return models.build(section, models.processor(section), torch.float32, 0)


def plain_gradients(corpus, model, lora, what):
    network = network_of(model, lora).train()
    set_recompute(network, what)
    torch.manual_seed(5)  # of dropout
    Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(
        batches_of(corpus, PROCESSOR, rank=0, world_size=1, micro=G)[0]
    ).loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def sharded_gradients(rank, world_size, corpus, model, ds_file, lora):
    from deepspeed.utils import safe_get_full_grad

    recipe = load_recipe(FLAGS)
    device = Device(name="cpu", bf16=False)
    connect(recipe.engine, device)
    ds_config = fill(read_json(ds_file), recipe, world_size=world_size, bf16=False, accelerator=False)
    found = {}
    for what in CHOICES:
        with sharded_weights(ds_config):
            network = network_of(model, lora)
        set_recompute(network, what)
        engine = Engine(Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0)), recipe, ds_config, device)
        torch.manual_seed(5)
        for batch in batches_of(corpus, PROCESSOR, rank=rank, world_size=world_size, micro=MICRO):
            engine.backward(engine.forward(batch))
        found[what] = {
            name: safe_get_full_grad(parameter).clone()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        assert engine.update(1e-3)
        engine.close()
    return {what: {name: each.numpy() for name, each in gradients.items()} for what, gradients in found.items()}


@pytest.mark.parametrize("lora", [False, True])
def test_one_process(tmp_path, lora):
    corpus, model = write_small_corpus(tmp_path / "corpus", images=40), tiny_export(tmp_path / "model")
    kept, some, every = (plain_gradients(corpus, model, lora, what) for what in CHOICES)
    assert kept.keys() == some.keys() == every.keys()
    assert all(torch.equal(kept[name], some[name]) and torch.equal(kept[name], every[name]) for name in kept)
    assert max(float(gradient.abs().max()) for gradient in kept.values()) > 1e-3


@pytest.mark.parametrize("lora", [False, True])
def test_two_ranks_under_zero3(tmp_path, pytestconfig, lora):
    corpus, model = write_small_corpus(tmp_path / "corpus", images=40), tiny_export(tmp_path / "model")
    ds_file = pytestconfig.rootpath / "ds_configs" / "zero3.json"
    for found in run_ranks(2, sharded_gradients, 2, corpus, model, ds_file, lora, timeout_s=120):
        assert isinstance(found, dict), found
        kept = found["none"]
        assert all((kept[name] == found[what][name]).all() for what in CHOICES for name in kept)
        assert max(float(abs(gradient).max()) for gradient in kept.values()) > 1e-3


def test_which_layers():
    network = tiny_network(tiny_section(layers=3))

    def chosen():
        return [layer.gradient_checkpointing for layer in decoder_layers(network)]

    set_recompute(network, 2)
    assert chosen() == [True, True, False]
    set_recompute(network, "all")
    towers = [module for module in network.modules() if hasattr(module, "_gradient_checkpointing_func")]
    assert len(towers) == 5  # three decoder and two vision layers
    assert all(module.gradient_checkpointing for module in towers)
    set_recompute(network, "none")
    assert not any(module.gradient_checkpointing for module in towers)
    with pytest.raises(ConfigError, match=r"engine\.recompute=4: the language model has 3 layers: give at most that, or all"):
        set_recompute(network, 4)
