"""`learning_progress` against numbers worked out by hand and naive sums, and what its measure is good for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.config import LearningProgressSection
from medclm.curriculum.policies.learning_progress import LearningProgressPolicy, difference_variance, mean_age
from medclm.types import Observation, Stage


def weights(decay, count):
    """Of a bias-corrected average, newest first."""
    raw = decay ** np.arange(count)
    return raw / raw.sum()


def feed(policy, state, courses):
    """One observation a step; `courses`: {(domain, stage): losses of the successive steps}, NaN where absent."""
    steps = max(map(len, courses.values()))
    for step in range(steps):
        cells = {cell: losses[step] for cell, losses in courses.items() if step < len(losses) and not np.isnan(losses[step])}
        domains, stages = (np.array(values, dtype=int) for values in zip(*cells, strict=True))
        values = np.array(list(cells.values()), np.float16)
        state = policy.observe(state, Observation(step, step / steps, domains, stages.astype(np.uint8), values))
    return state


def fresh(domains=1, **section):
    policy = LearningProgressPolicy(LearningProgressSection(**section), domains=domains)
    return policy, policy.initial()


def line(start, slope, steps):
    return start - slope * np.arange(steps)


def row(policy, state, domain=0):
    return policy.probabilities(state, np.array([domain]), 0.5)[0]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 200])
@pytest.mark.parametrize("decay", [0.5, 0.95, 0.99])
def test_mean_age_and_variance_are_those_of_the_weights(decay, count):
    own, slow = weights(decay, count), weights(0.995, count)
    assert mean_age(decay, np.array([count]))[0] == pytest.approx((own * np.arange(count)).sum(), rel=1e-9, abs=1e-12)
    variance = difference_variance(decay, 0.995, np.array([count]))[0]
    assert variance == pytest.approx(((own - slow) ** 2).sum(), rel=1e-6, abs=1e-15)


def test_ages_and_variance_by_hand():
    """Two observations at decay 0.5: weights 2/3 and 1/3, mean age 1/3; against 0.75, 4/7 and 3/7: variance 2 (2/21)^2."""
    assert mean_age(0.5, np.array([2, 10**6])).tolist() == pytest.approx([1 / 3, 1.0])
    assert difference_variance(0.5, 0.75, np.array([2]))[0] == pytest.approx(2 * (2 / 21) ** 2)


@pytest.mark.parametrize("steps", [4, 10, 40, 200])
def test_a_straight_line_gives_its_slope_at_any_count(steps):
    """4, 3.984375, ...: m0 is the slow average of the first four, about 4 - 1.5 / 64; without the noise term p = slope / m0."""
    policy, state = fresh(noise=0, min_observations=4)
    state = feed(policy, state, {(0, Stage.EASY): line(4.0, 1 / 64, steps)})
    start = 4 - (weights(0.99, 4) * np.arange(4)[::-1]).sum() / 64
    assert state.start[0, Stage.EASY] == pytest.approx(start)
    assert policy.progress(state)[0, Stage.EASY] == pytest.approx(1 / 64 / start, rel=1e-9)


def test_progress_with_its_error_by_hand():
    """Decays 0.5 and 0.75 and losses 4, 2: F = 8/3, S = 20/7, slope (4/21) / (3/7 - 1/3) = 2; V = 4, e = sqrt(2) (2/21) 2 / (2/21)
    = 2 sqrt(2) = 2.83: with noise = 0.5, p = (2 - 1.4142136) / (20/7) = 0.2050253."""
    policy, state = fresh(fast=0.5, slow=0.75, min_observations=2, noise=0.5)
    state = feed(policy, state, {(0, Stage.EASY): [4.0, 2.0]})
    assert state.fast.value[0, 0] == pytest.approx(8 / 3)
    assert state.slow.value[0, 0] == pytest.approx(20 / 7)
    assert policy.progress(state)[0, 0] == pytest.approx(0.2050253)


def test_chances_by_hand():
    """Slopes 1/64 and 1/128 from the same start, Hard flat: p in proportion 2 : 1 : 0, so 0.1 + 0.7 * (2/3, 1/3, 0)."""
    policy, state = fresh(noise=0)
    courses = {(0, 0): line(4.0, 1 / 64, 60), (0, 1): line(4.0, 1 / 128, 60), (0, 2): line(4.0, 0, 60)}
    state = feed(policy, state, courses)
    assert row(policy, state) == pytest.approx([0.1 + 1.4 / 3, 0.1 + 0.7 / 3, 0.1], abs=4e-3)  # m0 differ a little, and TINY


def test_a_rising_loss_counts_as_movement_too():
    policy, state = fresh()
    state = feed(policy, state, {(0, 0): line(2.0, -1 / 64, 60), (0, 1): line(2.0, 0, 60), (0, 2): line(2.0, 0, 60)})
    assert row(policy, state)[Stage.EASY] > 0.79


def test_where_nothing_moves_or_nothing_is_known_stages_share_alike():
    policy, state = fresh(domains=2)
    assert row(policy, state) == pytest.approx([1 / 3] * 3)
    state = feed(policy, state, {(0, stage): np.full(100, [0.3, 1.1, 2.7][stage]) for stage in Stage})
    assert row(policy, state) == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_a_mastered_stage_fades():
    """Easy falls for ever by the same factor, from 4 to 0.004; Medium moves slowly: the share goes over to it."""
    policy, state = fresh(noise=0)
    courses = {(0, 0): 4 * 0.99 ** np.arange(700), (0, 1): line(4.0, 1 / 1024, 700), (0, 2): line(4.0, 0, 700)}
    early = feed(policy, state, {cell: losses[:60] for cell, losses in courses.items()})
    late = feed(policy, state, courses)
    assert row(policy, early)[Stage.EASY] > 0.7
    assert row(policy, late)[Stage.MEDIUM] > 0.6


def test_a_flickering_loss_is_not_progress():
    """Noise of 40 % of the loss without a trend, against a slow fall: averaged over 20 seeds."""
    shares = {0.0: [], 1.0: [], 2.0: []}
    for noise, seen in shares.items():
        for seed in range(20):
            draw = np.random.default_rng(seed)
            policy, state = fresh(noise=noise)
            flicker = 2.0 + 0.8 * draw.standard_normal(150).clip(-2, 2)
            state = feed(policy, state, {(0, 0): line(2.0, 1 / 256, 150), (0, 1): flicker, (0, 2): line(2.0, 0, 150)})
            seen.append(row(policy, state)[Stage.EASY])
    assert np.mean(shares[0.0]) < np.mean(shares[1.0]) < np.mean(shares[2.0])
    assert np.mean(shares[1.0]) > 0.7


def test_an_unknown_cell_has_the_mean_progress_of_its_stage():
    """Domains 0 and 1 know all stages; 2 has nine observations of Easy, one too few; 3 was never seen."""
    policy, state = fresh(domains=4, noise=0)
    courses = {}
    for domain, slope in ((0, 1 / 64), (1, 1 / 256)):
        courses |= {(domain, 0): line(2.0, slope, 60), (domain, 1): line(2.0, 0, 60), (domain, 2): line(2.0, 0, 60)}
    courses[2, 0] = line(3.0, 1 / 8, 9)
    state = feed(policy, state, courses)
    progress = policy.progress(state)
    assert np.isnan(progress[2:]).all()
    assert not np.isnan(progress[:2]).any()
    mean = (progress[0] + progress[1]) / 2 + 1e-6
    expected = 0.1 + 0.7 * mean / mean.sum()
    assert row(policy, state, 3) == pytest.approx(expected)
    assert row(policy, state, 2) == pytest.approx(expected)


def test_a_stage_nobody_offers_stays_at_its_exploration_share():
    policy, state = fresh(domains=2)
    state = feed(policy, state, {(d, s): line(3.0, (1 + s) / 256, 100) for d in range(2) for s in (0, 1)})
    assert policy.probabilities(state, np.arange(2), 0.5)[:, Stage.HARD] == pytest.approx([0.1, 0.1], abs=1e-3)


@given(seed=st.integers(0, 10_000), explore=st.floats(0, 1 / 3), powers=st.tuples(*[st.integers(-3, 3)] * 3))
@settings(max_examples=25)
def test_the_floor_holds_and_the_size_of_a_stages_losses_does_not_matter(seed, explore, powers):
    """Powers of two scale float16 losses exactly, so the chances are equal but for rounding."""
    draw = np.random.default_rng(seed)
    courses = {(d, s): draw.uniform(0.5, 2, 40).astype(np.float16) for d in range(2) for s in range(3)}
    scaled = {(d, s): losses * np.float16(2.0 ** powers[s]) for (d, s), losses in courses.items()}
    policy, state = fresh(domains=2, explore=explore, noise=0.5)
    rows = policy.probabilities(feed(policy, state, courses), np.arange(2), 0.5)
    assert (rows >= explore - 1e-12).all()
    np.testing.assert_allclose(policy.probabilities(feed(policy, state, scaled), np.arange(2), 0.5), rows, rtol=1e-9)


def test_a_curriculum_comes_out_of_it():
    """A learner with Easy fast, Medium slower and helped by Easy, Hard slowest, 40 % noise: each stage has its time."""
    policy, state = fresh(domains=3)
    draw, seen, shares = np.random.default_rng(0), np.zeros(3), []
    for step in range(1500):
        domains = draw.integers(0, 3, 48)
        edges = policy.probabilities(state, domains, step / 1500).cumsum(axis=1)
        stages = (draw.random(48)[:, None] > edges[:, :2]).sum(axis=1).astype(np.uint8)
        seen += np.bincount(stages, minlength=3)
        easy, medium, hard = np.exp([-(seen[0] + 0.3 * seen[1]) / 4e3, -(0.5 * seen[0] + seen[1]) / 8e3, -seen.sum() / 4e4])
        mean = np.array([0.05 + 2.5 * easy, 0.3 + 2.5 * medium, 1 + hard])[stages]
        losses = (mean * np.exp(0.4 * draw.standard_normal(48))).astype(np.float16)
        state = policy.observe(state, Observation(step, step / 1500, domains, stages, losses))
        shares.append(np.bincount(stages, minlength=3) / 48)
    first, middle, last = (np.mean(part, axis=0) for part in np.array_split(shares, 3))
    assert first.argmax() == Stage.EASY
    assert middle.argmax() == Stage.MEDIUM
    assert last[Stage.HARD] > 1.5 * first[Stage.HARD]
    assert last[Stage.EASY] < 0.5 * first[Stage.EASY]
