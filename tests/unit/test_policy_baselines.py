"""`threshold`, `sequential` and `reverse` against hand-made cases, and what a domain gets that comes late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclm.config import CurriculumSection, ThresholdSection
from medclm.curriculum.policies.threshold import ThresholdPolicy
from medclm.curriculum.policy import decide
from medclm.curriculum.registry import make_policy
from medclm.data.stream import StreamBatch
from medclm.types import Observation, Stage

EASY, MEDIUM, HARD = np.eye(3)


def observe(policy, state, losses, *, domain=0, stages=None, progress=0.5):
    size = len(losses)
    stages = np.zeros(size, np.uint8) if stages is None else np.array(stages, np.uint8)
    return policy.observe(state, Observation(0, progress, np.full(size, domain), stages, np.array(losses, np.float16)))


def row(policy, state, progress, domain=0):
    return policy.probabilities(state, np.array([domain]), progress)[0]


@pytest.mark.parametrize(
    ("loss", "expected"), [(2.5, EASY), (2.0625, EASY), (1.9375, MEDIUM), (1.5625, MEDIUM), (1.4375, HARD), (0.0, HARD)]
)
def test_threshold_follows_the_average(loss, expected):
    policy = ThresholdPolicy(ThresholdSection(), domains=1)
    state = policy.initial()
    for number in range(1, 8):
        state = observe(policy, state, [loss])
        np.testing.assert_array_equal(row(policy, state, 0.5), expected if number >= 5 else EASY)  # unseen until five
    np.testing.assert_array_equal(row(policy, state, 0.0399), EASY)
    np.testing.assert_array_equal(row(policy, state, 0.04), expected)


def test_an_average_on_the_threshold_belongs_below_it():
    policy = ThresholdPolicy(ThresholdSection(min_observations=1), domains=1)
    for loss, expected in ((2.0, MEDIUM), (1.5, HARD)):
        state = observe(policy, policy.initial(), [loss])
        assert state.value[0] == loss
        np.testing.assert_array_equal(row(policy, state, 0.5), expected)


def test_threshold_averages_all_samples_of_a_domain_whatever_their_stage():
    """Means 1.75 = (1 + 1 + 5 + 0) / 4 and 3; then (0.9 * 1.75 + 3) / 1.9 = 2.407895."""
    policy = ThresholdPolicy(ThresholdSection(), domains=2)
    state = observe(policy, policy.initial(), [1.0, 1.0, 5.0, 0.0], stages=[0, 0, 1, 2])
    assert state.value[0] == 1.75
    state = observe(policy, state, [3.0], stages=[2])
    assert state.value[0] == pytest.approx(2.4078947)
    assert np.isnan(state.value[1])
    assert state.count.tolist() == [2, 0]


def test_threshold_follows_its_knobs_and_reports_the_share_of_domains():
    section = ThresholdSection(easy_above=1.0, medium_above=0.5, easy_only_until=0.2, min_observations=1)
    policy = ThresholdPolicy(section, domains=4)
    state = policy.initial()
    for domain, loss in enumerate([1.25, 0.75, 0.25]):
        state = observe(policy, state, [loss], domain=domain)
    np.testing.assert_array_equal(policy.probabilities(state, np.arange(4), 0.2), [EASY, MEDIUM, HARD, EASY])
    np.testing.assert_array_equal(policy.probabilities(state, np.arange(4), 0.19), [EASY] * 4)
    assert policy.report(state, 0.5) == {"domains_easy": 0.5, "domains_medium": 0.25, "domains_hard": 0.25}


@given(losses=st.lists(st.floats(0, 5), min_size=2, max_size=30))
def test_a_larger_average_is_never_a_harder_stage(losses):
    policy = ThresholdPolicy(ThresholdSection(min_observations=1), domains=len(losses))
    stages = np.arange(len(losses)), np.zeros(len(losses), np.uint8)
    state = policy.observe(policy.initial(), Observation(0, 0.5, *stages, np.sort(losses).astype(np.float16)))
    assert (np.diff(policy.stages(state)) <= 0).all()


@pytest.mark.parametrize(
    ("name", "shares", "course"),
    [
        ("sequential", [0.3, 0.5, 0.2], [(0, EASY), (0.2999, EASY), (0.3, MEDIUM), (0.7999, MEDIUM), (0.8, HARD), (1, HARD)]),
        ("reverse", [0.3, 0.5, 0.2], [(0, HARD), (0.1999, HARD), (0.2, MEDIUM), (0.6999, MEDIUM), (0.7, EASY), (1, EASY)]),
        ("sequential", [0.0, 0.5, 0.5], [(0, MEDIUM), (0.4999, MEDIUM), (0.5, HARD), (1, HARD)]),
        ("sequential", [1.0, 0.0, 0.0], [(0, EASY), (1, EASY)]),
        ("reverse", [0.4, 0.0, 0.6], [(0, HARD), (0.5999, HARD), (0.6, EASY), (1, EASY)]),
    ],
)
def test_ordered_switches_where_the_shares_say(name, shares, course):
    policy = make_policy(CurriculumSection(policy=name, sequential=shares), domains=1, total_steps=10)
    for progress, expected in course:
        np.testing.assert_array_equal(row(policy, None, progress), expected, err_msg=f"at {progress}")


@given(parts=st.tuples(*[st.integers(0, 100)] * 3).filter(any))
def test_sequential_and_reverse_give_every_stage_its_share(parts):
    shares = [part / sum(parts) for part in parts]
    for name in ("sequential", "reverse"):
        policy = make_policy(CurriculumSection(policy=name, sequential=shares), domains=1, total_steps=10)
        given_rows = np.array([row(policy, None, step / 1000) for step in range(1000)])
        np.testing.assert_allclose(given_rows.mean(axis=0), shares, atol=2e-3)


LATE = {
    "medclm": (
        [0.9 * 0.95, 0.9 * 0.05, 0.1],
        [0.9 * 0.0229774, 0.9 * 0.9770226, 0.1],
    ),  # sigmoid(3.75); Hard: two flat windows, as Easy counts as unread until 40 % and the ramp ends at 50 %
    "medclm_published": ([0.9933071, 0.0066929, 0.0], [0.9980746, 0.0019254, 0.0]),  # sigmoid(-5); sigmoid(-6.25)
    "threshold": ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]),
    "learning_progress": ([1 / 3] * 3, [1 / 3] * 3),  # nothing moves anywhere
    "sequential": (MEDIUM, MEDIUM),
    "reverse": (MEDIUM, MEDIUM),
    "mixture": ([0.4, 0.4, 0.2], [0.4, 0.4, 0.2]),
    "easy_only": (EASY, EASY),
    "medium_only": (MEDIUM, MEDIUM),
    "hard_only": (HARD, HARD),
}
"""Name -> chances of a domain first seen at 60 % of the run: before its first loss, and once it was seen like the others."""


@pytest.mark.parametrize("name", sorted(LATE))
def test_a_domain_that_comes_late(name):
    """Steady losses of 1, 1.125 and 1.25; the late domain has 20 observations a stage, then the same losses."""
    policy = make_policy(CurriculumSection(policy=name), domains=2, total_steps=1000)
    state, stages, losses = policy.initial(), np.arange(3, dtype=np.uint8), np.array([1.0, 1.125, 1.25], np.float16)
    for step in range(600):
        state = policy.observe(state, Observation(step, step / 1000, np.zeros(3, int), stages, losses))
    first, later = LATE[name]
    assert row(policy, state, 0.6, domain=1) == pytest.approx(first, abs=1e-6)
    for step in range(600, 620):
        state = policy.observe(state, Observation(step, step / 1000, np.ones(3, int), stages, losses))
    assert row(policy, state, 0.62, domain=1) == pytest.approx(later, abs=2e-4)
    assert row(policy, state, 0.62, domain=1) == pytest.approx(row(policy, state, 0.62, domain=0), abs=2e-4)


def test_the_published_policy_rushes_a_late_domain_to_medium_after_one_easy_loss():
    """gap = (0.9001 - 0.001) / 0.9001 = 0.998889; sigmoid(4.98889) = 0.9932329."""
    policy = make_policy(CurriculumSection(policy="medclm_published"), domains=2, total_steps=1000)
    state = observe(policy, policy.initial(), [1.0], domain=1, progress=0.6)
    assert row(policy, state, 0.6, domain=1)[Stage.MEDIUM] == pytest.approx(0.9932329, abs=1e-7)


@pytest.mark.parametrize("name", ["medclm", "medclm_published", "threshold", "learning_progress"])
@pytest.mark.parametrize("offered", [(True, True, False), (False, True, True), (False, True, False)])
def test_a_late_domain_is_not_stuck_even_where_it_lacks_a_stage(name, offered):
    """Drawn by its own decisions from 60 % on; the losses are low enough for every policy to leave Easy."""
    policy = make_policy(CurriculumSection(policy=name), domains=2, total_steps=500)
    state, curve, drawn = policy.initial(), np.array([1.0, 1.125, 1.25]), []
    hard = []
    for step in range(500):
        at = np.arange(32 * step, 32 * (step + 1))
        domains = at % 2 if step >= 300 else np.zeros(32, int)
        offer = np.where((domains == 1)[:, None], offered, True)
        batch = StreamBatch(positions=at, record_rows=at, domains=domains, offered=offer)
        stages, _ = decide(policy, state, batch, progress=step / 500, seed=0)
        assert offer[np.arange(32), stages].all()
        state = policy.observe(state, Observation(step, step / 500, domains, stages, curve[stages].astype(np.float16)))
        drawn.append(np.bincount(stages[domains == 1], minlength=3))
        hard.append(policy.report(state, 0.5).get("hard_budget", 0.0))
    budget = np.mean(hard[400:])  # medclm's, of all domains; how it moves: test_policy_medclm.py
    wanted = {  # of Easy, Medium and Hard
        "medclm": [0.02 * (1 - budget), 0.98 * (1 - budget), budget],
        "medclm_published": [0.998, 0.002, 0.0],
        "threshold": [0.0, 0.0, 1.0],
        "learning_progress": [1 / 3, 1 / 3, 1 / 3],
    }[name]
    expected = np.zeros(3)
    for stage, share in enumerate(wanted):
        expected[stage if offered[stage] else Stage.MEDIUM] += share
    late = np.sum(drawn[400:], axis=0) / np.sum(drawn[400:])
    assert late == pytest.approx(expected, abs=0.03)
