"""Which batches are learned from: the rolling rule by hand, the curriculum's own moves, the sums of any number of ranks."""

import json

import numpy as np
import pytest
import torch

from medclm.draws import generator
from train.spikes import LEAST_STEPS, UNIT, WINDOW, SpikeGuard, batch_sums

EASY, MEDIUM, HARD = 0, 1, 2


def batch(step, *, level=1.0, spread=0.1, stages=(EASY, MEDIUM), size=24, seed=0):
    draw = generator(seed, "test.spikes", step)
    stages_n = np.resize(np.array(stages, np.uint8), size)
    means = np.array([0.5, 1.0, 2.0])[stages_n] * level
    losses_n = (means + spread * draw.standard_normal(size)).astype(np.float32)
    return losses_n, stages_n


def sums_of(losses, stages):
    return batch_sums(torch.from_numpy(losses), torch.from_numpy(stages))


def learned(guard, steps, **options):
    for step in range(steps):
        assert not guard.judge(sums_of(*batch(step, **options))).drop


def test_a_batch_far_above_its_stages_is_dropped_and_does_not_join_the_window():
    guard = SpikeGuard(6.0)
    learned(guard, 60)
    before = guard.state()
    verdict = guard.judge(sums_of(*batch(60, level=1.5)))
    assert verdict.drop
    assert "train.spike_sigma=6" in verdict.reason
    assert guard.state() == before
    learned(guard, 5)


def test_the_rule_is_the_one_by_hand():
    guard = SpikeGuard(3.0)
    losses = [batch(step, stages=(MEDIUM,), size=8)[0] for step in range(40)]
    for one in losses:
        guard.judge(sums_of(one, np.full(8, MEDIUM, np.uint8)))
    means = np.array([one.mean() for one in losses], np.float64)
    limit = 3 * np.sqrt(np.mean((means - means.mean()) ** 2))
    for factor, drops in ((0.999, False), (1.001, True)):
        value = means.mean() + factor * limit
        assert (
            SpikeGuard.judge(loaded(guard), sums_of(np.full(8, value, np.float32), np.full(8, MEDIUM, np.uint8))).drop == drops
        )


def loaded(guard):
    other = SpikeGuard(guard.sigmas)
    other.load(json.loads(json.dumps(guard.state())))
    return other


def test_a_harder_stage_coming_in_is_no_spike():
    guard = SpikeGuard(6.0)
    learned(guard, 60, stages=(EASY,))
    learned(guard, 20, stages=(HARD, MEDIUM))  # unknown stages are not judged
    learned(guard, 60, stages=(EASY, MEDIUM, HARD))
    learned(guard, 60, stages=(HARD,))  # nor is a batch of the hardest known stage alone
    assert guard.judge(sums_of(*batch(1, stages=(HARD,), level=1.5))).drop


def test_a_few_samples_of_a_known_stage_do_not_judge_a_batch_of_an_unknown_one():
    draw = generator(0, "test.spikes.few")
    dropped = 0
    for _ in range(100):
        guard = SpikeGuard(6.0)
        for _ in range(WINDOW):
            guard.judge(sums_of(draw.gamma(0.5, size=48).astype(np.float32), np.full(48, EASY, np.uint8)))
        stages = np.array([EASY] + [MEDIUM] * 47, np.uint8)
        dropped += guard.judge(sums_of(draw.gamma(0.5, size=48).astype(np.float32), stages)).drop
    assert dropped == 0


def test_nothing_is_a_spike_before_there_is_something_to_compare_with():
    guard = SpikeGuard(6.0)
    learned(guard, LEAST_STEPS - 1, spread=0.0)
    assert not guard.judge(sums_of(*batch(1, level=100.0))).drop


def test_falling_losses_and_a_slow_rise_are_learned_from():
    guard = SpikeGuard(6.0)
    for step in range(300):
        assert not guard.judge(sums_of(*batch(step, level=1 + 5 * 0.97**step))).drop


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_loss_that_is_not_finite_drops_the_batch_even_with_the_rule_off(bad):
    losses, stages = batch(0)
    losses[3] = bad
    verdict = SpikeGuard(0.0).judge(sums_of(losses, stages))
    assert verdict.drop
    assert "1 of its losses" in verdict.reason


def test_with_the_rule_off_the_largest_loss_is_learned_from():
    guard = SpikeGuard(0.0)
    learned(guard, 60)
    assert not guard.judge(sums_of(*batch(60, level=1e9))).drop


def test_sums_over_ranks_are_those_of_one_rank_to_the_last_bit():
    losses, stages = batch(3, size=48, stages=(EASY, MEDIUM, HARD))
    whole = sums_of(losses, stages).numpy()
    for ranks in (2, 3, 4):
        parts = sum(sums_of(losses[rank::ranks], stages[rank::ranks]).numpy() for rank in range(ranks))
        np.testing.assert_array_equal(parts, whole)
    np.testing.assert_allclose(whole[:3] / UNIT, [losses[stages == stage].sum() for stage in range(3)], rtol=1e-5)


def test_the_window_is_bounded_and_survives_a_checkpoint():
    guard = SpikeGuard(6.0)
    learned(guard, WINDOW + 10)
    assert len(guard.state()) == WINDOW
    spike = sums_of(*batch(1, level=1.3))
    assert loaded(guard).judge(spike) == guard.judge(spike)
