"""The one forward against a slow oracle: full logits, a padding mask, Python loops over samples and tokens."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.losses.cross_entropy import mean_or_zero, sums_by_sample, token_losses
from medclm.models.objective import Losses, Objective, TokenCounts, count_targets
from medclm.models.vip_llava import VipLlavaFamily
from medclm.testing import tiny_network, tiny_processor, tiny_section
from medclm.types import Batch, LossWeights, Segment, Stage

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


def collate(samples: Sequence[tuple[Stage, str, str, str]], extra: int = 0) -> Batch:
    encoded = [encode(*sample) for sample in samples]
    size, longest = len(samples), max(len(ids) for ids, _ in encoded) + extra
    ids = torch.full((size, longest), PROCESSOR.pad_id)
    mask, segments = torch.zeros_like(ids), torch.zeros(size, longest, dtype=torch.uint8)
    for row, (token_ids, kinds) in enumerate(encoded):
        ids[row, : len(token_ids)] = torch.tensor(token_ids)
        mask[row, : len(token_ids)] = 1
        segments[row, : len(kinds)] = torch.tensor(kinds, dtype=torch.uint8)
    pixels = torch.stack([picture(question) for _, question, _, _ in samples])
    stages = torch.tensor([sample[0] for sample in samples], dtype=torch.uint8)
    return Batch(ids, mask, segments, pixels, stages, torch.zeros(size, dtype=torch.int64), torch.arange(size))


def picture(name: str) -> torch.Tensor:
    rng = np.random.default_rng(len(name))
    return torch.from_numpy(rng.standard_normal((3, 32, 32)).astype(np.float32))


def oracle(
    batch: Batch, network: torch.nn.Module = NETWORK, answer_weight: float = 0.8, rationale_weight: float = 0.2
) -> Losses:
    logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values).logits
    rows = []
    for sample in range(len(batch.input_ids)):
        found: dict[int, list[torch.Tensor]] = {Segment.RATIONALE: [], Segment.ANSWER: []}
        for at in range(1, batch.input_ids.shape[1]):
            kind = int(batch.segments[sample, at])
            if kind != Segment.CONTEXT:
                log_probabilities = logits[sample, at - 1].float().log_softmax(-1)
                found[kind].append(-log_probabilities[batch.input_ids[sample, at]])
        answer, rationale = (
            torch.stack(found[kind]).mean() if found[kind] else torch.zeros(()) for kind in (Segment.ANSWER, Segment.RATIONALE)
        )
        hard = int(batch.stages[sample]) == Stage.HARD
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


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=15)
def test_losses_equal_the_oracle(samples: list[tuple[Stage, str, str, str]], extra: int) -> None:
    batch = collate(samples, extra)
    with torch.no_grad():
        found, expected = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch), oracle(batch)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert found.target_tokens == sum(count_targets(batch))


def test_gradients_equal_the_oracle_with_its_padding_mask() -> None:
    batch = collate(TEXTS, extra=3)
    assert_close(
        gradients(NETWORK, Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch).loss),
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
    batch = collate(TEXTS, extra=2)
    Objective(network, PROCESSOR, LossWeights(0.8, 0.2, 1.0))(batch)
    with torch.no_grad():
        hidden = network.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values
        ).last_hidden_state
    expected = []
    for row, sample in enumerate(TEXTS):
        ids, _ = encode(*sample)
        prompt = len(PROCESSOR.prompt_ids(sample[1])) + (0 if sample[2] else len(PROCESSOR.text_ids("Answer:")))
        assert PROCESSOR.decode(ids[prompt:]) == sample[2] + sample[3]
        assert ids[-1] == PROCESSOR.eos_id
        expected += [hidden[row, at] for at in range(prompt - 1, len(ids) - 1)]
    torch.testing.assert_close(network.lm_head.seen, torch.stack(expected), rtol=0, atol=1e-6)


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_nothing_after_a_target_changes_its_loss(seed: int) -> None:
    batch = collate(TEXTS, extra=4)
    noisy = batch.input_ids.clone()
    padding = batch.attention_mask == 0
    vocabulary = NETWORK.config.text_config.vocab_size
    noise = torch.from_numpy(np.random.default_rng(seed).integers(PROCESSOR.image_token_id + 1, vocabulary, noisy.shape))
    noisy[padding] = noise[padding]
    objective = Objective(NETWORK, PROCESSOR, LossWeights(0.8, 0.2, 1.0))
    with torch.no_grad():
        clean, dirty = objective(batch), objective(Batch(**{**vars(batch), "input_ids": noisy}))
    assert torch.equal(clean.sample, dirty.sample)


def test_a_batch_without_targets_runs_the_head_and_gives_zero_gradients() -> None:
    batch = collate(TEXTS[:2])
    batch.segments.zero_()
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
    logits = NETWORK(input_ids=batch.input_ids, pixel_values=batch.pixel_values).logits
    expected = 0.0
    for row in range(len(TEXTS)):
        for at in range(1, batch.input_ids.shape[1]):
            loss = -logits[row, at - 1].log_softmax(-1)[batch.input_ids[row, at]].item()
            hard = TEXTS[row][0] == Stage.HARD
            if batch.segments[row, at] == Segment.ANSWER:
                expected += (1.0 if hard else 0.8) * loss / answer
            elif batch.segments[row, at] == Segment.RATIONALE:
                expected += (0.0 if hard else 0.2) * loss / rationale
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
