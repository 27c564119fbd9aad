"""The gradient of a mixed-stage global batch is the same under ZeRO on two ranks as in one plain process."""

import numpy as np
import pytest
import torch

from medclm.config import DataSection, load_recipe
from medclm.data.loader import Loader
from medclm.data.order import global_batch
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import write_small_corpus
from medclm.distributed import Ranks
from medclm.ds_config import fill, read_json
from medclm.engine import Device, Engine, connect, sharded_weights
from medclm.models.objective import Objective
from medclm.models.registry import family
from medclm.testing import tiny_export, tiny_section
from medclm.types import Assignment, LossWeights
from tests.ranks import run_ranks
from tests.tiny_runs import with_one_table
from train.spikes import batch_sums
from train.steps import StagedStep

G, MICRO = 8, 2
FLAGS = [
    f"--train.global_batch_size={G}",
    f"--train.micro_batch_size={MICRO}",
    "--train.clip=1000",
    "--train.precision=float32",
]


FAMILIES = {"vip_llava": {}, "qwen3_vl": {"family": "qwen3_vl", "image_size": 64}}
"""Family -> what its tiny section says beside the test model's sizes."""


def batches_of(corpus_folder, processor, *, rank, world_size, micro):
    """The micro-batches of global batch 0, with every stage among them."""
    corpus = Corpus(corpus_folder)
    stream = Stream(corpus, split="train", seed=0, window=64, min_side=0, image_size=processor.image_size, fit="pad")
    renderer = Renderer(corpus, processor, DataSection(), seed=0)
    loader = Loader(renderer, stream, global_batch_size=G, micro_batch_size=micro, rank=rank, world_size=world_size, workers=0)
    offered = stream.describe(0, G).offered
    stages = np.array([np.flatnonzero(row)[index % row.sum()] for index, row in enumerate(offered)], dtype=np.uint8)
    assert len(set(stages.tolist())) == 3
    assert len(global_batch(0, G)) == G
    loader.submit(Assignment(0, stages, stop=False))
    return loader.take(0)


def opened(folder, name):
    """The saved tiny network and its processor, opened as a real checkpoint would be."""
    section = tiny_section(**FAMILIES[name], path=str(folder)).model_copy(update={"image_size": 0})
    models = family(name)
    processor = models.processor(section)
    return models.build(section, processor, torch.float32, 0), processor


def staged_step(rank, world_size, model_folder, name, ds_file, normalization):
    """One rank's step over an engine as the JSON has it, the network, and the processor."""
    recipe = load_recipe([*FLAGS, f"--train.normalization={normalization}"])
    device = Device(name="cpu", bf16=False)
    connect(recipe.engine, device)
    ds_config = fill(read_json(ds_file), recipe, world_size=world_size, bf16=False, accelerator=False)
    if ds_config["zero_optimization"]["stage"] == 3:
        with sharded_weights(ds_config):
            network, processor = opened(model_folder, name)
    else:
        network, processor = opened(model_folder, name)
    engine = Engine(Objective(network, processor, LossWeights(0.8, 0.2, 1.0)), recipe, ds_config, device)
    return StagedStep(engine, recipe.train, Ranks(rank, rank, world_size), recipe.run.seed), network, processor


def sharded_gradients(rank, world_size, corpus_folder, model_folder, name, ds_file, normalization):
    from deepspeed.utils import safe_get_full_grad

    step, network, processor = staged_step(rank, world_size, model_folder, name, ds_file, normalization)
    engine = step.engine
    batches = batches_of(corpus_folder, processor, rank=rank, world_size=world_size, micro=MICRO)
    counts = step.global_counts(batches) if normalization == "token" else None
    for batch in batches:
        engine.backward(engine.forward(batch, counts))
    found = {name: safe_get_full_grad(parameter) for name, parameter in network.named_parameters() if parameter.requires_grad}
    result = {name: gradient.clone().numpy() for name, gradient in found.items()} if rank == 0 else None
    assert engine.update(1e-3)
    return result


def plain_gradients(corpus_folder, model_folder, name, normalization):
    network, processor = opened(model_folder, name)
    objective = Objective(network, processor, LossWeights(0.8, 0.2, 1.0))
    batch = batches_of(corpus_folder, processor, rank=0, world_size=1, micro=G)[0]
    if normalization == "token":
        from medclm.models.objective import TokenCounts, count_targets

        answer, rationale = count_targets(batch)
        objective(batch, TokenCounts(answer=answer, rationale=rationale, micro_batches=1)).loss.backward()
    else:
        objective(batch).loss.backward()
    return {name: parameter.grad.numpy() for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    ("name", "ds_name", "normalization", "tied"),
    [
        ("vip_llava", "zero3", "sample", False),
        ("vip_llava", "zero3", "token", False),
        ("vip_llava", "zero2", "sample", False),
        ("qwen3_vl", "zero3", "sample", False),
        ("qwen3_vl", "zero3", "sample", True),
    ],
)
def test_two_ranks_with_accumulation_equal_one_process(tmp_path, pytestconfig, name, ds_name, normalization, tied):
    corpus = write_small_corpus(tmp_path / "corpus", images=40)
    model = tiny_export(tmp_path / "model", tiny_section(**FAMILIES[name]))
    if tied:
        with_one_table(model)
    ds_file = pytestconfig.rootpath / "ds_configs" / f"{ds_name}.json"
    sharded = run_ranks(2, sharded_gradients, 2, corpus, model, name, ds_file, normalization, timeout_s=400)
    assert isinstance(sharded[0], dict), sharded[0]
    plain = plain_gradients(corpus, model, name, normalization)
    assert set(plain) <= set(sharded[0])
    assert ("lm_head.weight" in plain) is not tied
    worst = max(float(np.abs(plain[name] - sharded[0][name]).max()) for name in plain)
    largest = max(float(np.abs(gradient).max()) for gradient in plain.values())
    print(f"{name}, {ds_name}, {normalization}: largest difference {worst:.1e}, largest gradient {largest:.1e}")
    assert worst < 1e-6 * max(1.0, largest)
    assert largest > 1e-3


def losses_of_slots(rank, world_size, corpus_folder, model_folder, ds_file):
    """What a whole step says of each slot of this rank, what its spike guard was shown, and the order that its samples were read in."""
    step, _, processor = staged_step(rank, world_size, model_folder, "vip_llava", ds_file, "sample")
    batches = batches_of(corpus_folder, processor, rank=rank, world_size=world_size, micro=MICRO)
    shown, drops = [], step.guard.drops
    step.guard.drops = lambda sums: (shown.append(sums.clone()), drops(sums))[1]
    result = step(batches, lr=1e-3)
    return result.sample_losses.numpy(), shown[0].numpy(), torch.cat([batch.positions for batch in batches]).numpy()


def test_losses_come_back_in_the_order_of_the_slots_though_samples_are_read_by_length(tmp_path, pytestconfig):
    corpus = write_small_corpus(tmp_path / "corpus", images=40)
    model = tiny_export(tmp_path / "model", tiny_section(**FAMILIES["vip_llava"]))
    ds_file = pytestconfig.rootpath / "ds_configs" / "zero3.json"
    by_rank = run_ranks(2, losses_of_slots, 2, corpus, model, ds_file, timeout_s=400)
    assert all(isinstance(found, tuple) for found in by_rank), by_rank
    assert any((np.diff(read) < 0).any() for _, _, read in by_rank)  # else nothing was out of order
    network, processor = opened(model, "vip_llava")
    (batch,) = batches_of(corpus, processor, rank=0, world_size=1, micro=G)
    with torch.no_grad():
        alone = Objective(network, processor, LossWeights(0.8, 0.2, 1.0))(batch).sample
    by_position = dict(zip(batch.positions.tolist(), alone.tolist(), strict=True))
    sums = batch_sums(alone, batch.stages).numpy()
    for rank, (losses, shown, _) in enumerate(by_rank):
        slots = np.arange(G).reshape(-1, 2, MICRO)[:, rank].ravel()
        np.testing.assert_allclose(losses, [by_position[slot] for slot in slots.tolist()], rtol=1e-5)
        np.testing.assert_allclose(shown, sums, rtol=1e-5)
