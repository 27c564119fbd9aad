"""The simulated learner: its curves against closed forms, the real lookahead, and what its named ones are said to show."""

import numpy as np
import pytest
import torch

from eval.runs.simulated import print_simulated, simulated_policies
from medclm.config import CurriculumSection, load_recipe
from medclm.curriculum.log import AssignmentLog, read_log
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService, Report
from medclm.curriculum.simulation import LEARNERS, Learner, SimulatedBatch, _turns, load_learner, simulate
from medclm.distributed import ControlPlane, Ranks
from medclm.types import Stage

NO_NOISE = {"noise": 0.0, "spread": 0.0}


def simulated(policy, learner, *, steps=1000, lookahead=2, **section):
    return simulate(
        make_policy(CurriculumSection(policy=policy, **section), domains=learner.domains, total_steps=steps),
        learner,
        total_steps=steps,
        global_batch_size=48,
        lookahead=lookahead,
        seed=0,
    )


def test_losses_follow_the_documented_curve():
    transfer = ((1.0, 0.5, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    learner = Learner(
        domains=2, transfer=transfer, across=0.25, start=(4, 4, 4), floor=(1, 2, 3), pace=(0.1, 0.2, 0.3), **NO_NOISE
    )
    seen = np.array([[30.0, 10.0, 0.0], [0.0, 0.0, 20.0]])
    losses = learner.losses(seen, run_samples=200)
    easy = 0.75 * 2 * 30 + 0.25 * 30
    medium = 0.75 * 2 * 10 + 0.25 * 10
    assert losses[0, 0] == pytest.approx(1 + 3 * np.exp(-easy / 200 / 0.1))
    assert losses[0, 1] == pytest.approx(2 + 2 * np.exp(-(0.5 * easy + medium) / 200 / 0.2))
    assert losses[1, 0] == pytest.approx(1 + 3 * np.exp(-0.25 * 30 / 200 / 0.1))


def test_one_stage_alone_does_not_depend_on_the_number_of_domains_or_steps():
    finals = [
        simulated("easy_only", Learner(domains=domains, **NO_NOISE), steps=steps).final_losses[0]
        for domains, steps in ((1, 200), (20, 200), (1, 50))
    ]
    assert finals == pytest.approx([0.3 + 4.7 * np.exp(-10)] * 3, rel=0.02)


def test_domains_come_at_their_shares_and_without_their_missing_stages():
    learner = LEARNERS["long_tail"]
    course = simulated("mixture", learner, steps=400).course
    of_domain = course.samples.sum(axis=(0, 2)) / course.samples.sum()
    np.testing.assert_allclose(of_domain[:3], learner.shares()[:3], rtol=0.06)
    samples, offers = course.samples.sum(axis=0), learner.offers()
    assert (~offers[:, Stage.EASY]).sum() == 12
    assert (~offers[:, Stage.HARD]).sum() == 36
    assert not samples[~offers].any()
    assert course.fallbacks.sum() > 0


@pytest.mark.parametrize("lookahead", [0, 3])
def test_a_simulation_decides_what_the_service_decides(tmp_path, lookahead):
    """The same learner behind the real service, with its lookahead and its log: the same stages throughout."""
    learner, size, steps = LEARNERS["plateau"].model_copy(update={"domains": 3}), 12, 80
    section = CurriculumSection(policy="medclm")

    def policy():
        return make_policy(section, domains=3, total_steps=steps)

    found = list(_turns(policy(), learner, np.zeros((3, 3)), steps, size, lookahead, 4))
    domains = {turn.batch_index: turn.batch for turn in found}

    def describe(index):
        beyond = SimulatedBatch(np.arange(size) + index * size, np.zeros(size, int), np.ones((size, 3), bool))
        return domains.get(index, beyond)

    ranks = Ranks(0, 0, 1)
    service = CurriculumService(
        policy=policy(),
        describe=describe,
        ranks=ranks,
        plane=ControlPlane(ranks, timeout_s=10.0),
        global_batch_size=size,
        micro_batch_size=size,
        lookahead=lookahead,
        total_steps=steps,
        seed=4,
        log=AssignmentLog(tmp_path, {"global_batch_size": size, "lookahead": lookahead, "seed": 4, "total_steps": steps}),
    )
    service.start()
    for turn in found:
        service.exchange()
        losses = torch.from_numpy(turn.losses.astype(np.float32))
        service.report(Report(turn.batch_index, losses, applied=True, stop_wanted=False))
    service.state_dict()
    np.testing.assert_array_equal(read_log(tmp_path).rows["stages"][:steps], [turn.given for turn in found])
    assert len({stage for turn in found for stage in turn.given.tolist()}) == 2


def test_the_named_learners_show_what_they_say():
    opens = simulated("medclm", LEARNERS["transfer"]).course
    assert opens.total_shares()[Stage.MEDIUM] > 0.65
    stuck = simulated("medclm", LEARNERS["no_transfer"]).course
    assert stuck.shares()[-50:, Stage.MEDIUM].mean() < 0.3
    assert stuck.report["median_gap"][-1] > 0.5
    flat = simulated("medclm", LEARNERS["plateau"]).course
    assert [round(mark.after, 2) for mark in flat.marks] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert flat.marks[0].step >= 190
    assert simulated("medclm", LEARNERS["long_tail"]).course.fallbacks.sum() > 0


def test_a_learner_of_ones_own_begins_with_a_named_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("like: plateau\ndomains: 7\npace: [0.1, 0.2, 0.3]\n")
    mine = load_learner(str(path))
    assert (mine.domains, mine.pace, mine.across) == (7, (0.1, 0.2, 0.3), LEARNERS["plateau"].across)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pase: [1, 1, 1]", r"mine\.yaml: pase: .*keys: domains, tail"),
        ("pace: [1, 1]", r"mine\.yaml: pace"),
        ("pace: [0, 1, 1]", r"mine\.yaml: .*pace=\(0\.0, 1\.0, 1\.0\): above 0"),
        ("floor: [-1, 1, 1]", r"mine\.yaml: floor\.0"),
        ("like: nobody", "like: nobody: unknown; one of transfer"),
        ("- 3", "expected keys such as domains: 25, found list"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_learner_names_its_key(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_learner(str(path))


def test_the_table_has_a_row_for_each_policy_and_the_recipe_counts(capsys):
    recipe = load_recipe(["--train.steps=120", "--curriculum.mixture=[0.5,0.5,0]"])
    found = simulated_policies(["mixture", "sequential"], "transfer", recipe)
    print_simulated(found, "transfer", recipe)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "learner transfer, 120 updates x 48 samples"
    assert [line.split()[0] for line in lines[3:5]] == ["mixture", "sequential"]
    assert lines[3].split()[3] == "0.0%"
    assert max(map(len, lines[:5])) <= 100
    with pytest.raises(ValueError, match=r"--simulate mixture,mixture: give each policy once"):
        simulated_policies(["mixture", "mixture"], "transfer", recipe)
    with pytest.raises(ValueError, match=r"--learner nobody: neither a file nor one of transfer"):
        simulated_policies(["mixture"], "nobody", recipe)


def test_phases_in_steps_give_the_course_of_the_same_fractions():
    fractions = load_recipe(["--train.steps=400", "--curriculum.medclm.easy_only_until=0.3"])
    phases = {"easy_only_until": 120, "easy_at_most": 160, "ramp": 40, "hard_from": 76}
    flags = [f"--curriculum.medclm.{knob}={steps}" for knob, steps in phases.items()]
    steps = load_recipe(["--train.steps=400", "--curriculum.unit=steps", *flags])
    first, second = (simulated_policies(["medclm"], "transfer", recipe)[0].course.shares() for recipe in (fractions, steps))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match=r"give curriculum\.threshold\.easy_only_until in steps"):
        simulated_policies(["medclm", "threshold"], "transfer", steps)
