"""Counted operations of a step against torch's own counter on a real forward and backward, for everything that can learn."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import Learns, step_flops
from medclm.models.example import example_batch
from medclm.models.objective import Objective
from medclm.models.vip_llava import VipLlavaFamily
from medclm.testing import tiny_processor, tiny_section
from medclm.types import LossWeights

SIZES = {"width": 128, "vision_width": 96, "layers": 3, "vision_layers": 4, "image_size": 64, "heads": 4}


@pytest.mark.parametrize(
    ("change", "learns"),
    [
        ({}, Learns(vision_tower=True, projector=True, language_model=True)),
        ({"freeze_vision_tower": True}, Learns(vision_tower=False, projector=True, language_model=True)),
        (
            {"freeze_vision_tower": True, "freeze_language_model": True, "lora": {"rank": 8, "dropout": 0.0}},
            Learns(vision_tower=False, projector=True, language_model=False, adapter_rank=8),
        ),
    ],
)
def test_the_arithmetic_is_what_torch_counts(change, learns):
    section = tiny_section(**SIZES, attention="eager", **change)  # whose attention the counter sees as matrix products
    processor = tiny_processor(section)
    network = VipLlavaFamily().build(section, processor, torch.float32, 0).train()
    objective = Objective(network, processor, LossWeights(0.1, 0.9, 0.1))
    batch = example_batch(
        network, processor, 1, 120
    )  # one sample: eager attention computes the whole square of all that lie together
    with FlopCounterMode(display=False) as counter:
        objective(batch).loss.backward()
    text = network.config.text_config
    ours = step_flops(network.config, batch.bounds.diff().tolist(), len(batch.targets), learns)
    # eager computes both halves of the square, we count the one that is needed
    ours += text.num_hidden_layers * 2 * text.hidden_size * 120**2 * 3
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)
