"""What every policy owes, tried on each file of medclm/curriculum/policies/ and on the example of docs/curriculum.md.

A new policy is tried without being named here: `python -m pytest tests/unit/test_policy_contract.py -k its_name`.
"""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.config import CurriculumSection
from medclm.curriculum import policies
from medclm.curriculum.policy import decide
from medclm.curriculum.registry import find_makers, make_policy
from medclm.data.stream import StreamBatch
from medclm.types import Observation

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "curriculum.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"## Your own policy\n.*?```python\n(.*?)```", DOCS, re.DOTALL).group(1)
EXAMPLE_NAME = re.search(r"POLICIES = \{\"(\w+)\"", EXAMPLE).group(1)
NAMES = [*find_makers(), EXAMPLE_NAME]

every_policy = pytest.mark.parametrize("name", NAMES)
histories = given(seed=st.integers(0, 2**32 - 1), domains=st.integers(1, 6), scale=st.sampled_from([0.0, 1e-6, 1.0, 2e4]))
few = settings(max_examples=12)


@pytest.fixture(scope="module", autouse=True)
def _example_file(tmp_path_factory):
    """The page's example as a file that is found beside the project's own."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / f"{EXAMPLE_NAME}.py").write_text(EXAMPLE, encoding="utf-8")
    policies.__path__.append(str(folder))
    importlib.invalidate_caches()
    yield
    policies.__path__.remove(str(folder))
    sys.modules.pop(f"{policies.__name__}.{EXAMPLE_NAME}", None)


def make(name, *, domains, total_steps=1000):
    return make_policy(CurriculumSection(policy=name), domains=domains, total_steps=total_steps)


def history(seed, *, domains, scale=1.0, steps=30, batch=12):
    """Random observations: half of the domains first come at 60 % of the run, the last of several never; losses also 0."""
    draw = np.random.default_rng(seed)
    for step in range(steps):
        known = max(1, domains // 2 if step < 0.6 * steps else domains - 1)
        losses = scale * draw.uniform(0, 3, batch) * (draw.random(batch) < 0.9)
        yield Observation(
            batch_index=step,
            progress=step / steps,
            domains=draw.integers(0, known, batch),
            stages=draw.integers(0, 3, batch).astype(np.uint8),
            losses=losses.astype(np.float16),
        )


def after(policy, observations):
    state = policy.initial()
    for observation in observations:
        state = policy.observe(state, observation)
    return state


def text(policy, state):
    """The state as strict JSON: the measure of equality here, exact to the last bit."""
    return json.dumps(policy.to_json(state), allow_nan=False)


def check_chances(policy, state, domains):
    for progress in [0.0, 0.04, 0.05, 0.14, 0.19, 0.3, 0.6, 0.999, 1.0]:
        chances = policy.probabilities(state, domains, progress)
        assert chances.shape == (len(domains), 3)
        assert chances.dtype == np.float64
        assert ((chances >= 0) & (chances <= 1)).all(), f"progress {progress}: {chances}"  # false for NaN too
        np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=0, atol=1e-12)


@every_policy
def test_it_bears_its_name_and_reports_numbers(name):
    policy = make(name, domains=4)
    assert policy.name == name
    for state in (policy.initial(), after(policy, history(0, domains=4))):
        assert all(type(value) is float for value in policy.report(state, 0.5).values())
        for values in policy.domain_report(state).values():
            assert values.shape == (4,)
            assert values.dtype == np.float64


@every_policy
@histories
@few
def test_chances_are_chances_in_every_state(name, seed, domains, scale):
    policy = make(name, domains=domains)
    state = policy.initial()
    for observation in history(seed, domains=domains, scale=scale):
        check_chances(policy, state, np.arange(domains))
        state = policy.observe(state, observation)
    check_chances(policy, state, np.arange(domains))


@every_policy
@pytest.mark.filterwarnings("error")
def test_a_long_run_stays_finite_and_warns_of_nothing(name):
    """Long enough for windows, plateaus and Hard budgets."""
    policy = make(name, domains=3, total_steps=800)
    state = after(policy, history(1, domains=3, steps=800))
    check_chances(policy, state, np.arange(3))
    policy.report(state, 0.5)
    text(policy, state)


@every_policy
@histories
@few
def test_an_old_state_never_changes_and_nothing_is_kept_beside_it(name, seed, domains, scale):
    policy = make(name, domains=domains)
    state = policy.initial()
    for observation in history(seed, domains=domains, scale=scale):
        before = text(policy, state)
        following = policy.observe(state, observation)
        chances = policy.probabilities(following, observation.domains, 0.5)
        policy.observe(following, observation)
        policy.report(following, 0.5)
        policy.domain_report(following)
        assert text(policy, state) == before
        again = policy.observe(state, observation)
        assert text(policy, again) == text(policy, following)
        np.testing.assert_array_equal(policy.probabilities(again, observation.domains, 0.5), chances)
        state = following


@every_policy
@histories
@few
def test_a_state_read_back_goes_on_identically(name, seed, domains, scale):
    policy, other = make(name, domains=domains), make(name, domains=domains)
    steps = list(history(seed, domains=domains, scale=scale))
    state = after(policy, steps[:15])
    tree = json.loads(text(policy, state))
    assert isinstance(tree, dict)
    assert max(map(len, re.findall(r'"[^"]*"', text(policy, state))), default=0) < 40, "a packed string is not readable"
    back = other.from_json(tree)
    for observation in steps[15:]:
        for progress in (0.03, 0.3, 0.9):
            np.testing.assert_array_equal(
                other.probabilities(back, observation.domains, progress),
                policy.probabilities(state, observation.domains, progress),
            )
        state, back = policy.observe(state, observation), other.observe(back, observation)
    assert text(other, back) == text(policy, state)


@every_policy
@histories
@few
def test_the_order_of_the_samples_does_not_matter_to_the_last_bit(name, seed, domains, scale):
    """Exact, not merely close: sums of float16 losses are exact in float64 (averages.step_means)."""
    policy, draw = make(name, domains=domains), np.random.default_rng(seed)
    straight = shuffled = policy.initial()
    for seen in history(seed, domains=domains, scale=scale):
        to = draw.permutation(len(seen.losses))
        turned = Observation(seen.batch_index, seen.progress, seen.domains[to], seen.stages[to], seen.losses[to])
        straight, shuffled = policy.observe(straight, seen), policy.observe(shuffled, turned)
        assert text(policy, shuffled) == text(policy, straight)


@every_policy
def test_a_decision_follows_from_state_seed_and_positions_alone(name):
    policy, other = make(name, domains=5), make(name, domains=5)
    state = after(policy, history(2, domains=5))
    twin = other.from_json(json.loads(text(policy, state)))
    positions = np.random.default_rng(3).permutation(500)

    def stages(policy, state, at, seed=7):
        batch = StreamBatch(positions=at, record_rows=at, domains=at % 5, offered=np.ones((len(at), 3), bool))
        return decide(policy, state, batch, progress=0.5, seed=seed)[0]

    whole = stages(policy, state, np.arange(500))
    np.testing.assert_array_equal(stages(policy, state, positions), whole[positions])
    np.testing.assert_array_equal(stages(policy, state, np.arange(40, 60)), whole[40:60])
    np.testing.assert_array_equal(stages(other, twin, np.arange(500)), whole)
    if (policy.probabilities(state, np.arange(5), 0.5).max(axis=1) < 1).any():
        assert (stages(policy, state, np.arange(500), seed=8) != whole).any()


@every_policy
@pytest.mark.parametrize("domains", [1, 10_000])
def test_it_works_for_one_domain_and_for_ten_thousand(name, domains):
    policy = make(name, domains=domains)
    state = after(policy, history(4, domains=domains, steps=12, batch=20_000))
    check_chances(policy, state, np.arange(domains))
    assert text(policy, policy.from_json(json.loads(text(policy, state)))) == text(policy, state)
