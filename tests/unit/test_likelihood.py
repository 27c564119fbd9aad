"""Likelihoods of options against whole forwards without cache, padding or batch; scores of written tokens likewise."""

import numpy as np
import pytest
import torch
from PIL import Image

from medclm.generation import Request, generate
from medclm.likelihood import option_scores
from medclm.testing import tiny_network, tiny_processor

PROCESSOR = tiny_processor()
OPTIONS = [("left", "right"), ("yes", "no", "the left kidney"), ("cyst", "mass"), ("a", "left lung", "no finding", "right")]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return tiny_network(processor=PROCESSOR, seed=3).eval()


def requests(begin: str = "") -> list[Request]:
    rng = np.random.default_rng(0)
    questions = ("Where?", "Is there a cyst in the picture of the kidney?", "What?", "Which side is it on?")
    return [
        Request(f"r{i}", question, Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), begin)
        for i, question in enumerate(questions)
    ]


def slow(network: torch.nn.Module, request: Request, before: list[int], ids: list[int]) -> list[float]:
    """Log-probability of each of `ids` after the prompt and `before`, from one forward over everything."""
    prompt = [*PROCESSOR.prompt_ids(request.question), *before]
    with torch.no_grad():
        pixels = torch.from_numpy(PROCESSOR.pixel_values(request.image))
        logits = network(input_ids=torch.tensor([prompt + ids]), pixel_values=pixels).logits[0].float()
    scores = logits.log_softmax(-1)
    return [float(scores[len(prompt) - 1 + at, token]) for at, token in enumerate(ids)]


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_an_options_score_is_the_sum_over_its_tokens_in_any_batch(network, batch_size):
    done: list[int] = []
    found = option_scores(network, PROCESSOR, requests("Answer:"), OPTIONS, batch_size=batch_size, progress=done.append)
    for request, options, one in zip(requests(), OPTIONS, found, strict=True):
        ids = [PROCESSOR.text_ids(f" {option}") for option in options]
        expected = [sum(slow(network, request, PROCESSOR.text_ids("Answer:"), each)) for each in ids]
        assert one.id == request.id
        assert one.log_likelihoods == pytest.approx(expected, abs=1e-4)
        assert one.tokens == tuple(len(each) for each in ids)
    assert len({len(one.tokens) for one in found}) > 1
    assert max(max(one.tokens) for one in found) > 1
    assert sum(done) == len(OPTIONS)


def test_a_single_or_empty_option_is_refused_by_name(network):
    for options in (("left",), ("left", "")):
        with pytest.raises(ValueError, match=r"request r0: .*at least two, none of them empty"):
            option_scores(network, PROCESSOR, requests()[:1], [options], batch_size=1)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_written_tokens_carry_the_networks_own_log_probability(network, temperature):
    found = generate(network, PROCESSOR, requests(), max_new_tokens=6, batch_size=4, temperature=temperature)
    for request, completion in zip(requests(), found, strict=True):
        assert completion.scores == pytest.approx(slow(network, request, [], list(completion.ids)), abs=1e-4)
        assert len(completion.scores) == completion.tokens
