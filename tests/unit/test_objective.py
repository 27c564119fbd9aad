"""The one forward against a slow oracle: each sample alone through transformers, full logits, Python loops over tokens."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medclm.data import loader
from medclm.losses import cross_entropy
from medclm.losses.cross_entropy import mean_or_zero, sums_by_sample, token_losses
from medclm.models.objective import Losses, Objective, TokenCounts, count_targets
from medclm.models.vip_llava import VipLlavaFamily
from medclm.testing import tiny_network, tiny_processor, tiny_section
from medclm.types import Batch, EncodedSample, LossWeights, Sample, Segment, Stage

PROCESSOR = tiny_processor()
NETWORK = tiny_network(processor=PROCESSOR)
TEXTS = [
    (Stage.EASY, "What is the highlighted region?", "Reasoning: at [0.125, 0.250, 0.500, 0.750].\n\nAnswer:", " mass"),
    (Stage.HARD, "Which organ?", "", " left kidney"),
    (Stage.MEDIUM, "Is there a nodule?", "Reasoning: a bright lesion.\n\nAnswer:", " yes"),
    (Stage.HARD, "Is there a nodule in the image? Answer directly.", "", " no"),
]


def encode(stage: Stage, question: str, rationale: str, answer: str) -> tuple[list[int], list[int]]:
    prompt = PROCESSOR.prompt_ids(question) + ([] if rationale else PROCESSOR.text_ids("Answer:"))
    reason, said = PROCESSOR.text_ids(rationale), [*PROCESSOR.text_ids(answer), PROCESSOR.eos_id]
    kinds = [Segment.CONTEXT] * len(prompt) + [Segment.RATIONALE] * len(reason) + [Segment.ANSWER] * len(said)
    return prompt + reason + said, [int(kind) for kind in kinds]


def collate(samples: Sequence[tuple[Stage, str, str, str]]) -> Batch:
    return loader.collate([rendered(at, *sample) for at, sample in enumerate(samples)])


def rendered(position: int, stage: Stage, question: str, rationale: str, answer: str) -> loader.Rendered:
    ids, kinds = encode(stage, question, rationale, answer)
    sample = Sample(str(position), position, 0, stage, Image.new("RGB", (32, 32)), question, rationale, answer)
    return sample, EncodedSample(
        input_ids=np.array(ids),
        segments=np.array(kinds, dtype=np.uint8),
        pixel_values=picture(question).numpy()[None],
    )


def apart(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
    """(ids (1, T), segments (T,), pixels (1, C, S, S), stage) of each sample, to be run alone."""
    ends = batch.bounds.tolist()
    return [
        (batch.input_ids[None, first:end], batch.segments[first:end], batch.pixel_values[row : row + 1], int(batch.stages[row]))
        for row, (first, end) in enumerate(itertools.pairwise(ends))
    ]


def picture(name: str) -> torch.Tensor:
    rng = np.random.default_rng(len(name))
    return torch.from_numpy(rng.standard_normal((3, 32, 32)).astype(np.float32))


def oracle(
    batch: Batch, network: torch.nn.Module = NETWORK, answer_weight: float = 0.8, rationale_weight: float = 0.2
) -> Losses:
    rows = []
    for ids, segments, pixels, stage in apart(batch):
        logits = network(input_ids=ids, pixel_values=pixels).logits[0]
        found: dict[int, list[torch.Tensor]] = {Segment.RATIONALE: [], Segment.ANSWER: []}
        for at in range(1, len(segments)):
            kind = int(segments[at])
            if kind != Segment.CONTEXT:
                found[kind].append(-logits[at - 1].float().log_softmax(-1)[ids[0, at]])
        answer, rationale = (
            torch.stack(found[kind]).mean() if found[kind] else torch.zeros(()) for kind in (Segment.ANSWER, Segment.RATIONALE)
        )
        hard = stage == Stage.HARD
        rows.append((answer, rationale, answer if hard else answer_weight * answer + rationale_weight * rationale))
    answers, rationales, samples = (torch.stack(column) for column in zip(*rows, strict=True))
    tokens = (batch.segments != Segment.CONTEXT).sum()
    return Losses(samples.mean(), answers, rationales, samples, tokens)


def gradients(network: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert (found[name] - expected[name]).abs().max() < tolerance, name


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4))
@settings(max_examples=15)
def test_losses_equal_the_oracle(samples: list[tuple[Stage, str, str, str]]) -> None:
    batch = collate(samples)
    with torch.no_grad():
        found, expected = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch), oracle(batch)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert found.target_tokens == sum(count_targets(batch))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients_equal_the_oracle(attention: str) -> None:
    """`sdpa` attends sample by sample; `eager` through the block-diagonal mask that transformers makes of the positions."""
    network = tiny_network(tiny_section(attention=attention), processor=PROCESSOR)
    batch = collate(TEXTS)
    assert_close(
        gradients(network, Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch).loss),
        gradients(NETWORK, oracle(batch).loss),
    )


def test_a_mixed_batch_has_the_mean_of_its_samples_gradients() -> None:
    objective = Objective(NETWORK, PROCESSOR, LossWeights(0.7, 0.3, 1.0))
    mixed = gradients(NETWORK, objective(collate(TEXTS)).loss)
    single = [gradients(NETWORK, objective(collate([sample])).loss) for sample in TEXTS]
    assert_close(mixed, {name: torch.stack([grads[name] for grads in single]).mean(0) for name in mixed})


def test_a_samples_gradient_is_the_weighted_sum_of_its_parts() -> None:
    batch = collate(TEXTS[:1])
    whole = gradients(NETWORK, Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch).loss)
    answer = gradients(NETWORK, Objective(NETWORK, PROCESSOR, LossWeights(1.0, 0.0, 1.0))(batch).loss)
    rationale = gradients(NETWORK, Objective(NETWORK, PROCESSOR, LossWeights(0.0, 1.0, 1.0))(batch).loss)
    assert_close(whole, {name: 0.8 * answer[name] + 0.2 * rationale[name] for name in whole})


def test_a_hard_samples_loss_is_its_weighted_answer_loss() -> None:
    batch = collate(TEXTS)
    full, light = (Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, hard))(batch) for hard in (1.0, 0.25))
    hard = batch.stages == Stage.HARD
    assert hard.any()
    assert not hard.all()
    torch.testing.assert_close(light.sample, torch.where(hard, 0.25 * full.answer, full.sample))
    torch.testing.assert_close(full.sample[hard], full.answer[hard])


class Recorder(torch.nn.Module):
    """A head that keeps what it was shown."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head, self.seen = head, torch.empty(0)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen = hidden.detach()
        return self.head(hidden)


def test_only_positions_that_predict_a_target_reach_the_head() -> None:
    network = tiny_network(processor=PROCESSOR)
    network.lm_head = Recorder(network.lm_head)
    batch = collate(TEXTS)
    Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch)
    expected = []
    for sample, (ids_1t, _, pixels, _) in zip(TEXTS, apart(batch), strict=True):
        with torch.no_grad():
            hidden = network.model(input_ids=ids_1t, pixel_values=pixels).last_hidden_state[0]
        ids, _ = encode(*sample)
        prompt = len(PROCESSOR.prompt_ids(sample[1])) + (0 if sample[2] else len(PROCESSOR.text_ids("Answer:")))
        assert PROCESSOR.decode(ids[prompt:]) == sample[2] + sample[3]
        assert ids[-1] == PROCESSOR.eos_id
        expected += [hidden[at] for at in range(prompt - 1, len(ids) - 1)]
    torch.testing.assert_close(network.lm_head.seen, torch.stack(expected), rtol=0, atol=1e-6)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_no_sample_sees_another(seed: int) -> None:
    """Other tokens and another picture in one sample leave the losses of those before and after it as they were, to the bit."""
    batch = collate(TEXTS)
    draw = np.random.default_rng(seed)
    changed, inside = int(draw.integers(len(TEXTS))), apart(batch)
    first, end = batch.bounds[changed : changed + 2].tolist()
    noisy, pixels = batch.input_ids.clone(), batch.pixel_values.clone()
    words = (inside[changed][0][0] != PROCESSOR.image_token_id).numpy()
    vocabulary = NETWORK.config.text_config.vocab_size
    noisy[first:end][words] = torch.from_numpy(draw.integers(PROCESSOR.image_token_id + 1, vocabulary, int(words.sum())))
    pixels[changed] += 1
    objective = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))
    with torch.no_grad():
        clean, dirty = objective(batch), objective(Batch(**{**vars(batch), "input_ids": noisy, "pixel_values": pixels}))
    others = [row for row in range(len(TEXTS)) if row != changed]
    assert torch.equal(clean.sample[others], dirty.sample[others])
    assert clean.sample[changed] != dirty.sample[changed]


def test_a_batch_without_targets_runs_the_head_and_gives_zero_gradients() -> None:
    batch = collate(TEXTS[:2])
    batch.segments.zero_()
    batch.targets = batch.target_samples = torch.zeros(0, dtype=torch.int64)
    losses = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch)
    grads = gradients(NETWORK, losses.loss)
    assert losses.loss.item() == 0.0
    assert losses.target_tokens == 0
    assert "lm_head.weight" in grads
    assert all(grad.abs().max() == 0 for grad in grads.values())
    assert set(grads) == set(gradients(NETWORK, Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(collate(TEXTS)).loss))


def test_token_normalisation_is_global_whatever_the_micro_batches() -> None:
    objective = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))
    answer, rationale = count_targets(collate(TEXTS))
    whole = gradients(NETWORK, objective(collate(TEXTS), TokenCounts(answer, rationale, 1)).loss)
    parts = [collate(TEXTS[:1]), collate(TEXTS[1:])]
    counts = TokenCounts(answer, rationale, len(parts))
    split = [gradients(NETWORK, objective(part, counts).loss) for part in parts]
    averaged = {name: sum(grads[name] for grads in split) / len(parts) for name in whole}  # what DeepSpeed does
    assert_close(averaged, whole)

    batch = collate(TEXTS)
    expected = 0.0
    for ids, segments, pixels, stage in apart(batch):
        logits = NETWORK(input_ids=ids, pixel_values=pixels).logits[0]
        for at in range(1, len(segments)):
            loss = -logits[at - 1].log_softmax(-1)[ids[0, at]].item()
            if segments[at] == Segment.ANSWER:
                expected += (1.0 if stage == Stage.HARD else 0.8) * loss / answer
            elif segments[at] == Segment.RATIONALE:
                expected += (0.0 if stage == Stage.HARD else 0.2) * loss / rationale
    assert objective(batch, TokenCounts(answer, rationale, 1)).loss.item() == pytest.approx(expected, abs=1e-5)


def test_losses_are_float32_in_a_bf16_network() -> None:
    network = VipLlavaFamily().build(tiny_section(), PROCESSOR, torch.bfloat16, 0)
    losses = Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(collate(TEXTS))
    assert {value.dtype for value in losses[:4]} == {torch.float32}
    with torch.no_grad():
        exact = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(collate(TEXTS))
    torch.testing.assert_close(losses.sample, exact.sample, rtol=0.02, atol=0.02)


def test_recomputed_activations_give_the_same_gradients() -> None:
    network = tiny_network(processor=PROCESSOR)
    objective = Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0)).train()
    kept = gradients(network, objective(collate(TEXTS)).loss)
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_close(gradients(network, objective(collate(TEXTS)).loss), kept)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3), st.booleans()), max_size=12))
def test_sums_by_sample_equal_a_loop(rows: list[tuple[float, int, bool]]) -> None:
    values = torch.tensor([row[0] for row in rows], dtype=torch.float32)
    samples = torch.tensor([row[1] for row in rows], dtype=torch.int64)
    mask = torch.tensor([row[2] for row in rows], dtype=torch.bool)
    sums, counts = sums_by_sample(values, samples, mask, 4)
    for sample in range(4):
        chosen = [np.float32(value) for value, at, kept in rows if kept and at == sample]
        assert counts[sample] == len(chosen)
        assert sums[sample].item() == pytest.approx(sum(chosen), rel=1e-5, abs=1e-6)
        assert mean_or_zero(sums, counts)[sample].item() == pytest.approx(
            np.mean(chosen) if chosen else 0.0, rel=1e-5, abs=1e-6
        )


def test_token_losses_of_no_tokens() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    losses = token_losses(logits, torch.zeros(0, dtype=torch.int64))
    losses.sum().backward()
    assert losses.shape == (0,)
    assert logits.grad is not None


@pytest.mark.parametrize("elements", [1, 60, 1 << 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_losses_equal_the_plain_ones_however_they_are_cut(
    monkeypatch: pytest.MonkeyPatch, elements: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", elements)
    draw = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(11, 23, generator=draw)).to(dtype).requires_grad_()
    targets, weights = torch.randint(23, (11,), generator=draw), torch.rand(11, generator=draw)
    losses = token_losses(logits, targets)
    assert losses.dtype == torch.float32
    (gradient,) = torch.autograd.grad((losses * weights).sum(), logits)
    exact = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    (expected,) = torch.autograd.grad((exact * weights).sum(), logits)
    torch.testing.assert_close(losses.double(), exact, rtol=0, atol=3e-6)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 4e-3)
