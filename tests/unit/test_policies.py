"""The curriculum's formulas against closed forms, and its course on a simulated learner."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medclm.config import CurriculumSection, MedclmSection
from medclm.curriculum.averages import Averages
from medclm.curriculum.policies.medclm import MedclmPolicy
from medclm.curriculum.policies.medclm_published import PublishedPolicy
from medclm.curriculum.policy import decide, stage_chances
from medclm.curriculum.registry import make_policy
from medclm.curriculum.stages import FALLBACK, resolve_stages
from medclm.data.stream import StreamBatch
from medclm.types import Observation, Stage


def observe(policy, state, losses, *, progress, batch_index=0, domain=0):
    """One observation: a sample of each given stage in one domain."""
    stages = np.array(list(losses), dtype=np.uint8)
    values = np.array(list(losses.values()), dtype=np.float16)
    return policy.observe(state, Observation(batch_index, progress, np.full(len(stages), domain), stages, values))


def one_domain(positions):
    size = len(positions)
    return StreamBatch(
        positions=positions, record_rows=positions, domains=np.zeros(size, int), offered=np.ones((size, 3), bool)
    )


def simulate(policy, curves, *, steps, batch=32, domains=4, seed=0):
    """A learner whose loss at each stage falls with the samples seen there; returns the stages drawn, (steps, batch)."""
    state, seen, drawn = policy.initial(), np.zeros(3), np.zeros((steps, batch), dtype=np.uint8)
    for step in range(steps):
        positions = np.arange(step * batch, (step + 1) * batch)
        of = positions % domains
        batch_of = StreamBatch(positions=positions, record_rows=positions, domains=of, offered=np.ones((batch, 3), bool))
        stages, _ = decide(policy, state, batch_of, progress=step / steps, seed=seed)
        drawn[step] = stages
        seen += np.bincount(stages, minlength=3)
        loss = np.array([curves[Stage(stage)](seen) for stage in range(3)])[stages].astype(np.float16)
        state = policy.observe(state, Observation(step, step / steps, of, stages, loss))
    return drawn, state


def test_averages_are_bias_corrected_means_of_a_constant():
    policy = MedclmPolicy(MedclmSection(), domains=2, total_steps=100)
    state = policy.initial()
    for _ in range(3):
        state = observe(policy, state, {Stage.EASY: 2.0}, progress=0.0)
        assert state.averages.value[0, Stage.EASY] == pytest.approx(2.0)
    assert np.isnan(state.averages.value[1]).all()


def test_averages_follow_the_closed_form():
    averages = Averages.unseen(1, decay=0.9)
    values = [1.0, 3.0, 2.0]
    for value in values:
        averages = averages.updated(Observation(0, 0.0, np.zeros(1, int), np.zeros(1, np.uint8), np.array([value], np.float16)))
    weights = 0.1 * 0.9 ** np.arange(len(values))[::-1]
    assert averages.value[0, 0] == pytest.approx((weights * values).sum() / weights.sum())


def test_one_observation_updates_once_with_the_mean_of_its_samples():
    averages = Averages.unseen(1, decay=0.9)
    averages = averages.updated(
        Observation(0, 0.0, np.zeros(4, int), np.zeros(4, np.uint8), np.array([1, 2, 3, 6], np.float16))
    )
    assert averages.count[0, 0] == 1
    assert averages.value[0, 0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("progress", "gap", "expected"), [(0.02, 0.0, 0.0), (0.09, 0.0, 0.5 / (1 + np.exp(-5))), (0.5, 0.5, 0.5), (0.5, 0.9, 0.05)]
)
def test_medium_share_is_the_ramped_sigmoid_of_the_gap(progress, gap, expected):
    policy = MedclmPolicy(MedclmSection(min_observations=1, easy_at_most=0.04), domains=1, total_steps=1000)
    state = observe(policy, policy.initial(), {Stage.EASY: 1.0, Stage.MEDIUM: 1.0 + gap}, progress=0.0)
    medium = policy.probabilities(state, np.zeros(1, int), progress)[0, Stage.MEDIUM]
    assert medium == pytest.approx(expected, rel=2e-2)  # losses are float16


def test_the_gap_is_measured_against_the_first_easy_average():
    policy = MedclmPolicy(MedclmSection(min_observations=1), domains=1, total_steps=1000)
    state = observe(policy, policy.initial(), {Stage.EASY: 4.0, Stage.MEDIUM: 4.0}, progress=0.0)
    for _ in range(200):
        state = observe(policy, state, {Stage.EASY: 0.05, Stage.MEDIUM: 0.3}, progress=0.5)
    assert policy.gaps(state)[0] == pytest.approx((0.3 - 0.05) / 4.0, rel=1e-2)


def test_a_mastered_easy_stage_is_left_for_most_of_the_run():
    """Easy goes to 0.05 while Medium's floor is 0.3: more than half of the run is spent outside Easy."""
    curves = {
        Stage.EASY: lambda seen: 0.05 + 2.5 * np.exp(-seen[0] / 2000),
        Stage.MEDIUM: lambda seen: 0.3 + 2.5 * np.exp(-(0.5 * seen[0] + seen[1]) / 4000),  # Easy samples teach Medium too
        Stage.HARD: lambda seen: 0.5,
    }
    policy = MedclmPolicy(MedclmSection(), domains=4, total_steps=1500)
    drawn, _ = simulate(policy, curves, steps=1500)
    assert (drawn != Stage.EASY).mean() > 0.5


def test_hard_opens_at_a_plateau_only_and_stays_within_its_budget():
    flat = {stage: lambda seen: 1.0 for stage in Stage}
    policy = MedclmPolicy(MedclmSection(), domains=4, total_steps=2000)
    drawn, state = simulate(policy, flat, steps=2000)
    let_in = policy.section.easy_at_most + policy.section.ramp  # Easy is never below Medium here, so its box counts as unread
    assert not (drawn[: int(let_in * 2000)] == Stage.HARD).any()
    assert state.hard == pytest.approx(0.3)
    falling = {stage: lambda seen: 5.0 * np.exp(-seen.sum() / 20000) for stage in Stage}
    drawn, state = simulate(MedclmPolicy(MedclmSection(), domains=4, total_steps=1500), falling, steps=1500)
    assert state.hard == 0.0
    assert not (drawn == Stage.HARD).any()


def test_a_worsening_window_shrinks_the_hard_budget():
    policy = MedclmPolicy(MedclmSection(min_observations=1), domains=1, total_steps=1)
    state = policy.initial()
    for batch in range(policy.window * 7):
        state = observe(policy, state, {Stage.EASY: 1.0, Stage.MEDIUM: 1.0}, progress=0.5, batch_index=batch)
    before = state.hard
    assert before > 0
    for batch in range(policy.window):
        state = observe(policy, state, {Stage.EASY: 2.0, Stage.MEDIUM: 2.0}, progress=0.5, batch_index=batch)
    assert state.hard == pytest.approx(0.9 * before)


def test_the_published_policy_keeps_its_published_faults():
    """With Medium 10 % above Easy, Medium's share stays 0.0025 and Hard never opens."""
    policy, state = PublishedPolicy(domains=1, epochs=100), None
    state = policy.initial()
    for step in range(1000):
        state = observe(policy, state, {Stage.EASY: 1.0, Stage.MEDIUM: 1.1}, progress=step / 1000, batch_index=step)
    chances = policy.probabilities(state, np.zeros(1, int), 0.99)[0]
    assert chances[Stage.MEDIUM] == pytest.approx(0.0025, rel=0.05)
    assert chances[Stage.HARD] == 0.0


def test_fixed_shares_are_met():
    policy = make_policy(CurriculumSection(policy="mixture", mixture=[0.5, 0.3, 0.2]), domains=1, total_steps=10)
    positions = np.arange(40_000)
    stages, _ = decide(policy, None, one_domain(positions), progress=0.5, seed=3)
    np.testing.assert_allclose(np.bincount(stages, minlength=3) / 40_000, [0.5, 0.3, 0.2], atol=0.01)


def test_a_decision_depends_on_the_position_not_on_the_batch():
    policy = make_policy(CurriculumSection(policy="mixture"), domains=1, total_steps=10)

    def at(positions):
        return decide(policy, None, one_domain(positions), progress=0.1, seed=1)[0]

    whole = at(np.arange(100))
    np.testing.assert_array_equal(whole[40:60], at(np.arange(40, 60)))
    assert len(set(whole.tolist())) == 3


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any)),
        min_size=1,
        max_size=20,
    )
)
def test_stages_not_offered_fall_back_in_order(cases):
    wanted = np.array([stage for stage, _ in cases], dtype=np.uint8)
    offered = np.array([row for _, row in cases])
    expected = [w if row[w] else next(s for s in FALLBACK if row[s]) for w, row in cases]
    assert resolve_stages(wanted, offered).tolist() == expected


def test_a_record_without_any_stage_is_an_error():
    with pytest.raises(ValueError, match="sample 1"):
        resolve_stages(np.zeros(2, np.uint8), np.array([[True, False, False], [False, False, False]]))


def test_hard_budget_comes_first():
    np.testing.assert_allclose(stage_chances(np.array([0.5]), 0.2), [[0.4, 0.4, 0.2]])
