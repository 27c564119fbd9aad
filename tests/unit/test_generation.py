"""Generation against a loop without cache or batch, and its independence of the batch it happens in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from medclm.data.loader import collate
from medclm.generation import Request, generate
from medclm.models.objective import Objective
from medclm.testing import tiny_network, tiny_processor
from medclm.types import EncodedSample, LossWeights, Sample, Stage

PROCESSOR = tiny_processor()
QUESTIONS = ("Where?", "What is the highlighted region? Reason, give the box, then answer.", "Which organ hosts the lesion?")


def requests(count: int = 6) -> list[Request]:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]
    return [Request(f"r{i}", f"{QUESTIONS[i % 3]} {i}", pictures[i]) for i in range(count)]


def taught() -> torch.nn.Module:
    """A network that has learned to answer with texts of different lengths and to stop."""
    network = tiny_network(processor=PROCESSOR, seed=1)
    objective = Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    rows = [(request, " left kidney" * (1 + i % 3)) for i, request in enumerate(requests())]
    encoded = [
        (PROCESSOR.prompt_ids(request.question), [*PROCESSOR.text_ids(text), PROCESSOR.eos_id]) for request, text in rows
    ]
    batch = collate(
        [
            (
                Sample(request.id, row, 0, Stage.HARD, request.image, request.question, "", text),
                EncodedSample(
                    input_ids=np.array(prompt + target),
                    segments=np.array([0] * len(prompt) + [2] * len(target), dtype=np.uint8),
                    pixel_values=PROCESSOR.pixel_values(request.image),
                ),
            )
            for row, ((request, text), (prompt, target)) in enumerate(zip(rows, encoded, strict=True))
        ]
    )
    for _ in range(80):
        optimizer.zero_grad()
        objective(batch).loss.backward()
        optimizer.step()
    return network


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return taught()


def slow_greedy(network: torch.nn.Module, ids: list[int], request: Request, limit: int) -> list[int]:
    pixels = torch.from_numpy(PROCESSOR.pixel_values(request.image))
    written: list[int] = []
    while len(written) < limit and (not written or written[-1] != PROCESSOR.eos_id):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([ids + written]), pixel_values=pixels).logits
        written.append(int(logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6])
def test_greedy_equals_a_loop_without_cache_at_any_batch_size(network: torch.nn.Module, batch_size: int) -> None:
    done: list[int] = []
    asked = requests()
    found = generate(network, PROCESSOR, asked, max_new_tokens=12, batch_size=batch_size, progress=done.append)
    for request, completion in zip(asked, found, strict=True):
        ids = slow_greedy(network, PROCESSOR.prompt_ids(request.question), request, 12)
        assert completion.id == request.id
        assert completion.text == PROCESSOR.decode(ids)
        assert completion.tokens == len(ids)
        assert completion.stopped == (ids[-1] == PROCESSOR.eos_id)
    assert sum(done) == len(asked)
    assert any(completion.stopped for completion in found)
    assert len({completion.tokens for completion in found}) > 1


def test_max_new_tokens_cuts_and_says_so(network: torch.nn.Module) -> None:
    for completion in generate(network, PROCESSOR, requests(2), max_new_tokens=1, batch_size=2):
        assert completion.tokens == 1
        assert not completion.stopped


def test_a_sample_depends_on_seed_and_request_only() -> None:
    network = tiny_network(processor=PROCESSOR)
    asked = requests()
    settings = {"max_new_tokens": 8, "temperature": 1.5}
    together = {c.id: c.text for c in generate(network, PROCESSOR, asked, batch_size=6, seed=3, **settings)}
    torch.manual_seed(99)
    apart = {c.id: c.text for c in generate(network, PROCESSOR, asked[::-1], batch_size=2, seed=3, **settings)}
    other = {c.id: c.text for c in generate(network, PROCESSOR, asked, batch_size=6, seed=4, **settings)}
    assert together == apart
    assert together != other


def test_samples_follow_the_softmax() -> None:
    network = tiny_network(processor=PROCESSOR)
    request = requests(1)[0]
    asked = [Request(f"{i}", request.question, request.image) for i in range(400)]
    with torch.no_grad():
        logits = network(
            input_ids=torch.tensor([PROCESSOR.prompt_ids(request.question)]),
            pixel_values=torch.from_numpy(PROCESSOR.pixel_values(request.image)),
        ).logits[0, -1]
    scale = float(logits.std()) / 3  # sharp enough that a few tokens carry the mass
    likely = torch.softmax(logits / scale, -1)
    assert likely.max() > 0.05
    texts = [c.text for c in generate(network, PROCESSOR, asked, max_new_tokens=1, batch_size=100, temperature=scale)]
    best = int(likely.argmax())
    share = sum(text == PROCESSOR.decode([best]) for text in texts) / len(texts)
    assert share == pytest.approx(float(likely[best]), abs=4 * (0.25 / 400) ** 0.5)


def test_a_given_beginning_is_read_and_shown_but_not_generated(network: torch.nn.Module) -> None:
    asked = [replace(request, begin="Answer:") for request in requests()]
    plain = generate(network, PROCESSOR, requests(), max_new_tokens=5, batch_size=3)
    for request, completion, other in zip(
        asked, generate(network, PROCESSOR, asked, max_new_tokens=5, batch_size=3), plain, strict=True
    ):
        begun = [*PROCESSOR.prompt_ids(request.question), *PROCESSOR.text_ids("Answer:")]
        assert list(completion.ids) == slow_greedy(network, begun, request, 5)
        assert completion.text.startswith("Answer:")
        assert completion.text == PROCESSOR.decode([*PROCESSOR.text_ids("Answer:"), *completion.ids])
        assert not other.text.startswith("Answer:")


def test_a_wrong_request_is_named_and_the_mode_comes_back(network: torch.nn.Module) -> None:
    image = requests(1)[0].image
    network.train()
    with pytest.raises(ValueError, match=r"request odd: .*<image>"):
        generate(network, PROCESSOR, [Request("odd", "a <image> too many", image)], max_new_tokens=2, batch_size=1)
    with pytest.raises(ValueError, match="31 x 32"):
        generate(network, PROCESSOR, [Request("odd", "Why?", image.resize((31, 32)))], max_new_tokens=2, batch_size=1)
    assert network.training
    assert generate(network, PROCESSOR, [], max_new_tokens=2, batch_size=1) == []
    with pytest.raises(ValueError, match="batch_size=0"):
        generate(network, PROCESSOR, [], max_new_tokens=2, batch_size=0)
