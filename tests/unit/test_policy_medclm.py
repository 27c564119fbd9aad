"""`medclm` against numbers worked out by hand from its formulas (docs/curriculum.md), and its properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.config import MedclmSection
from medclm.curriculum.averages import Averages
from medclm.curriculum.policies.medclm import MedclmPolicy, MedclmState
from medclm.types import Observation, Stage

WINDOW = 50
losses = st.floats(0, 10)


CLOCK = {"easy_at_most": 0.04}
"""Medium comes in by the clock, as published: what is not about reading the box was worked out for that."""


def state_of(easy, medium, *, start, hard=0.0, count=100):
    """Long-observed domains with exactly these averages and this m0; arguments per domain or one for all."""
    easy, medium, start = np.broadcast_arrays(*map(np.atleast_1d, (easy, medium, start)))
    values = np.stack([easy, medium, np.ones(len(easy))], axis=1).astype(np.float64)
    return MedclmState(
        averages=Averages(raw=values * (1 - 0.9**count), count=np.full(values.shape, count), decay=0.9),
        easy_start=start.astype(np.float64),
        hard=hard,
        steps=0,
        window_values=np.full((len(easy), 2), np.nan),
        flat_windows=0,
        paired=Averages(raw=np.zeros(2), count=np.zeros(2, dtype=np.int64), decay=0.98),
        read_at=np.nan,
    )


def policy_for(state, **section):
    return MedclmPolicy(MedclmSection(**CLOCK | section), domains=len(state.easy_start), total_steps=1000)


def chances(state, progress):
    return policy_for(state).probabilities(state, np.arange(len(state.easy_start)), progress)


def feed(policy, state, cells, *, steps, progress=0.5):
    """`steps` observations of the same losses: {(domain, stage): loss}, float16 numbers."""
    domains, stages = (np.array(values) for values in zip(*cells, strict=True))
    for _ in range(steps):
        given_losses = np.array(list(cells.values()), np.float16)
        state = policy.observe(state, Observation(0, progress, domains, stages.astype(np.uint8), given_losses))
    return state


def level(value, gap=0.0):
    """One domain with Easy at `value` and Medium above it."""
    return {(0, Stage.EASY): value, (0, Stage.MEDIUM): value + gap}


def fresh(total_steps=1000, domains=1, **section):
    policy = MedclmPolicy(MedclmSection(**CLOCK | section), domains=domains, total_steps=total_steps)
    return policy, policy.initial()


@pytest.mark.parametrize(
    ("easy", "medium", "start", "gap", "share"),
    [
        (0.05, 0.30, 2.5, 0.1, 0.9820138),  # sigmoid(4)
        (1.0, 1.5, 1.0, 0.5, 0.5),
        (1.0, 2.2, 2.0, 0.6, 0.2689414),  # sigmoid(-1)
        (1.0, 2.0, 1.0, 1.0, 0.05),  # sigmoid(-5) = 0.0067: the exploration share
        (1.0, 0.5, 1.0, -0.5, 0.9999546),  # sigmoid(10)
        (0.0, 0.4, 2.0, 0.2, 0.9525741),  # Easy mastered to 0: sigmoid(3), no explosion
    ],
)
def test_gap_and_sigmoid(easy, medium, start, gap, share):
    state = state_of(easy, medium, start=start)
    assert policy_for(state).gaps(state)[0] == pytest.approx(gap, rel=1e-12)
    assert chances(state, 0.5)[0] == pytest.approx([1 - share, share, 0.0], abs=1e-7)


def test_m0_is_the_easy_average_at_the_fifth_observation_and_then_fixed():
    policy, state = fresh()
    for number, value in enumerate([4.0, 2.0, 2.0, 2.0, 1.0, 0.5, 0.25], start=1):
        state = feed(policy, state, {(0, Stage.EASY): value}, steps=1)
        assert np.isnan(state.easy_start[0]) == (number < 5)
    # (4 * 0.9^4 + 2 * (0.9^3 + 0.9^2 + 0.9) + 1) / (0.9^4 + 0.9^3 + 0.9^2 + 0.9 + 1)
    assert state.easy_start[0] == pytest.approx((2.6244 + 4.878 + 1.0) / 4.0951)


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.0), (0.04, 0.0), (0.0401, 0.05), (0.09, 0.25), (0.13, 0.45), (0.14, 0.5), (1.0, 0.5)]
)
def test_ramp_edges(progress, share):
    assert chances(state_of(1.0, 1.5, start=1.0), progress)[0, Stage.MEDIUM] == pytest.approx(share)


def test_hard_comes_first():
    assert chances(state_of(1.0, 1.5, start=1.0, hard=0.2), 0.5)[0] == pytest.approx([0.4, 0.4, 0.2])


@pytest.mark.parametrize(
    ("progress", "read_at", "ramp"),
    [
        (0.04, np.nan, 0.0),
        (0.30, np.nan, 0.0),  # not read: Medium waits
        (0.40, np.nan, 0.0),
        (0.45, np.nan, 0.5),  # but no longer than until 40 %
        (0.45, 0.44, 0.5),  # read after that: the clock was first
        (0.10, 0.08, 0.2),
        (0.18, 0.08, 1.0),
    ],
)
def test_the_ramp_begins_when_the_box_is_read_or_at_most_then(progress, read_at, ramp):
    state = replace(state_of(1.0, 1.0, start=1.0), read_at=read_at)
    policy = policy_for(state, easy_at_most=0.40)
    assert policy.ramp(state, progress) == pytest.approx(ramp)
    medium = policy.probabilities(state, np.zeros(1, int), progress)[0, Stage.MEDIUM]
    assert medium == pytest.approx(0.0 if progress <= 0.04 else max(0.05, ramp / (1 + np.exp(-5))))


@pytest.mark.parametrize(("excess", "read"), [(0.2578125, True), (0.2421875, False), (1.0, True), (-0.5, False)])
def test_the_box_is_read_when_it_lowers_easys_loss_by_a_quarter_over_fifty_steps(excess, read):
    policy, state = fresh(easy_at_most=0.40)
    state = feed(policy, state, level(2.0, 2.0 * excess), steps=49, progress=0.2)
    assert policy.excess(state) == pytest.approx(excess)
    assert np.isnan(state.read_at)
    state = feed(policy, state, level(2.0, 2.0 * excess), steps=1, progress=0.25)
    assert (state.read_at == 0.25) == read
    later = feed(policy, state, level(2.0), steps=200, progress=0.3)  # once read, it stays
    assert later.read_at == 0.25 if read else np.isnan(later.read_at)


def test_excess_is_over_the_steps_that_have_both_stages_and_over_all_their_samples():
    """Means: Easy 2 and Medium 3 in the first step, 1 and 2 in the last; the steps between have one stage, or Hard besides."""
    policy, state = fresh(domains=2)
    first = {(0, Stage.EASY): 1.0, (1, Stage.EASY): 3.0, (1, Stage.MEDIUM): 3.0}
    for cells in (first, {(0, Stage.EASY): 9.0}, {(0, Stage.MEDIUM): 9.0, (0, Stage.HARD): 9.0}, {}, level(1.0, 1.0)):
        state = feed(policy, state, cells or {(0, Stage.HARD): 9.0}, steps=1)
    assert state.paired.count.tolist() == [2, 2]
    assert policy.excess(state) == pytest.approx((0.98 * 1 + 1) / (0.98 * 2 + 1))


def test_nothing_is_read_while_easy_comes_alone():
    policy, state = fresh(easy_at_most=0.40)
    state = feed(policy, state, level(1.0, 1.0), steps=100, progress=0.039)  # a fallback gave Medium
    assert np.isnan(state.read_at)
    assert feed(policy, state, level(1.0, 1.0), steps=1, progress=0.04).read_at == 0.04


def test_hard_waits_until_medium_is_let_in():
    """Easy stays unread and all losses stay flat, as they do before a box is read: the budget opens at 40 % + the ramp."""
    policy, state = fresh(easy_at_most=0.40)
    state = feed(policy, state, level(1.0), steps=12 * WINDOW, progress=0.499)
    assert state.hard == 0.0
    assert feed(policy, state, level(1.0), steps=WINDOW, progress=0.5).hard == 0.05


@pytest.mark.parametrize(("total_steps", "window"), [(1, 50), (1000, 50), (5000, 50), (5001, 51), (20_000, 200)])
def test_a_window_is_one_percent_of_the_run_and_at_least_50_steps(total_steps, window):
    assert fresh(total_steps)[0].window == window


def test_hard_grows_by_a_twentieth_after_five_flat_windows_and_with_each_further_one_up_to_its_bound():
    """The first window has nothing to compare with; 2 to 6 are flat, so the budget opens at step 300."""
    policy, state = fresh()
    state = feed(policy, state, level(1.0), steps=6 * WINDOW - 1)
    assert state.hard == 0.0
    opened = []
    for _ in range(8):
        state = feed(policy, state, level(1.0), steps=1)
        opened.append(round(state.hard, 12))
        state = feed(policy, state, level(1.0), steps=WINDOW - 1)
    assert opened == [0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.30, 0.30]


@pytest.mark.parametrize(("gap", "hard"), [(0.1875, 0.05), (0.3125, 0.0)])
def test_hard_waits_for_a_small_median_gap(gap, hard):
    policy, state = fresh()
    assert feed(policy, state, level(1.0, gap), steps=6 * WINDOW).hard == hard


def test_the_median_gap_is_over_domains():
    """Gaps 0, 0.125 and 5: the median is 0.125, one hopeless domain does not keep Hard shut."""
    policy, state = fresh(domains=3)
    cells = {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 1.0, (1, 1): 1.125, (2, 0): 1.0, (2, 1): 6.0}
    state = feed(policy, state, cells, steps=6 * WINDOW)
    assert policy.median_gap(state) == pytest.approx(0.125)
    assert state.hard == 0.05


def test_flat_windows_before_19_percent_count_but_open_nothing():
    policy, state = fresh()
    state = feed(policy, state, level(1.0), steps=8 * WINDOW, progress=0.18)
    assert (state.hard, state.flat_windows) == (0.0, 7)
    assert feed(policy, state, level(1.0), steps=WINDOW, progress=0.19).hard == 0.05


@pytest.mark.parametrize(
    ("factor", "hard", "flat"),
    [
        (1.0625, 0.045, 0),  # worse by 5 % or more: times 0.9
        (1.03125, 0.05, 0),  # worse by less: nothing, but no longer flat
        (0.875, 0.05, 0),  # better
        (1.0078125, 0.10, 6),  # within 1 %: flat
        (0.9921875, 0.10, 6),
    ],
)
def test_what_a_window_does_to_the_budget(factor, hard, flat):
    policy, state = fresh()
    state = feed(policy, state, level(1.0), steps=6 * WINDOW)
    state = feed(policy, state, level(factor), steps=WINDOW)
    assert state.hard == pytest.approx(hard)
    assert state.flat_windows == flat


def test_the_compared_average_is_the_unweighted_mean_of_seen_easy_and_medium_cells():
    """Two samples of one cell count once; Hard and a cell with four observations do not enter."""
    policy, state = fresh(domains=2)
    cells = {(0, Stage.EASY): 1.0, (0, Stage.MEDIUM): 2.0, (1, Stage.EASY): 6.0, (0, Stage.HARD): 50.0}
    state = feed(policy, state, cells, steps=WINDOW - 4)
    state = feed(policy, state, {**cells, (1, Stage.MEDIUM): 90.0}, steps=4)
    assert policy.report(state, 0.5)["window_average"] == pytest.approx(3.0)


def test_a_domain_that_comes_late_does_not_move_the_budget_by_its_mere_presence():
    """Its Easy cell at 2 would lift the mean of all cells from 1 to 4/3; over the cells of both windows nothing changed."""
    policy, state = fresh(domains=2)
    state = feed(policy, state, level(1.0), steps=6 * WINDOW)
    state = feed(policy, state, {**level(1.0), (1, Stage.EASY): 2.0}, steps=WINDOW)
    assert (state.hard, state.flat_windows) == (0.10, 6)
    state = feed(policy, state, {**level(1.0), (1, Stage.EASY): 4.0}, steps=WINDOW)  # known at both ends now: 4/3 to 2
    assert (state.hard, state.flat_windows) == (pytest.approx(0.09), 0)


@given(gaps=st.lists(st.floats(-3, 5), min_size=2, max_size=20), progress=st.floats(0, 1), hard=st.floats(0, 0.3))
def test_mediums_share_falls_as_the_gap_grows_and_stays_within_its_bounds(gaps, progress, hard):
    gaps = np.sort(gaps)
    rows = chances(state_of(10.0, 10.0 + gaps, start=1.0, hard=hard), progress)
    assert (np.diff(rows[:, Stage.MEDIUM]) <= 1e-12).all()
    if progress > 0.0400001:
        assert (rows[:, Stage.MEDIUM] >= 0.05 * (1 - rows[:, Stage.HARD]) - 1e-12).all()
    if progress <= 0.04:
        assert (rows[:, Stage.MEDIUM] == 0).all()


@given(easy=losses, medium=losses, start=losses, points=st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_ramp_never_falls_with_progress(easy, medium, start, points):
    state = state_of(easy, medium, start=start)
    shares = [chances(state, progress)[0, Stage.MEDIUM] for progress in sorted(points)]
    assert (np.diff(shares) >= 0).all()


@given(seed=st.integers(0, 10_000), wobble=st.sampled_from([0.0, 0.02, 0.5]))
@settings(max_examples=15)
def test_the_hard_budget_moves_at_window_ends_only_and_by_its_rules(seed, wobble):
    draw = np.random.default_rng(seed)
    policy, state = fresh()
    for step in range(1, 16 * WINDOW + 1):
        value = np.exp(wobble * draw.standard_normal() * ((step // WINDOW) % 7 == 6))  # calm, but for every seventh window
        before, state = state.hard, feed(policy, state, level(value), steps=1, progress=step / (16 * WINDOW))
        assert 0 <= state.hard <= 0.3
        allowed = {before, min(0.3, before + 0.05), 0.9 * before} if step % WINDOW == 0 else {before}
        assert state.hard in allowed


def test_without_easy_losses_the_gap_is_unknown_and_medium_has_its_exploration_share():
    """Its records then get Medium through what they offer (stages.resolve_stages), not through the gap."""
    policy, state = fresh()
    state = feed(policy, state, {(0, Stage.MEDIUM): 1.0}, steps=20)
    assert np.isnan(policy.median_gap(state))
    assert policy.probabilities(state, np.zeros(1, int), 0.5)[0] == pytest.approx([0.95, 0.05, 0.0])
