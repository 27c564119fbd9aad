"""A run as a course: what is counted, what is marked, and that it can be drawn at any size."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from medclm.config import CurriculumSection
from medclm.curriculum.course import CourseMaker, Fate, Turn
from medclm.curriculum.pictures import draw_course, draw_side_by_side
from medclm.curriculum.registry import make_policy
from medclm.curriculum.simulation import LEARNERS, SimulatedBatch, simulate
from medclm.types import Stage


class Told:
    """A policy whose state is its Hard budget; only what a course asks of it."""

    name = "told"

    def report(self, state, progress):
        return {"hard_budget": state}

    def domain_report(self, state):
        return {"gap": np.array([state, np.nan])}


def turn(index, *, domains, stages, losses, state=0.0, wanted=None, fate=Fate.APPLIED):
    stages = np.array(stages, np.uint8)
    batch = SimulatedBatch(np.arange(len(stages)), np.array(domains), np.ones((len(stages), 3), bool))
    wanted = stages if wanted is None else np.array(wanted, np.uint8)
    return Turn(index, index, 0.0, state, batch, wanted, stages, stages, np.array(losses, np.float16), fate)


def made(turns, points=200):
    maker = CourseMaker(Told(), domains=["a", "b"], total_steps=10, batches=len(turns), points=points)
    for each in turns:
        maker.add(each)
    return maker.course()


def test_shares_losses_and_fallbacks_are_counted_by_hand():
    course = made(
        [
            turn(0, domains=[0, 0, 1, 1], stages=[0, 0, 1, 2], losses=[1, 3, 4, 8], wanted=[0, 2, 1, 2]),
            turn(1, domains=[0, 1, 1, 1], stages=[1, 1, 1, 1], losses=[1, 1, 1, 5]),
        ],
        points=1,
    )
    np.testing.assert_allclose(course.shares(), [[2 / 8, 5 / 8, 1 / 8]])
    np.testing.assert_allclose(course.shares(domain=0), [[2 / 3, 1 / 3, 0]])
    np.testing.assert_allclose(course.losses(), [[2, 12 / 5, 8]])
    assert course.fallbacks.tolist() == [1]
    assert course.largest_domains(1).tolist() == [1]
    assert course.averages()["hard"][0, 1] == 8
    assert np.isnan(course.averages()["hard"][0, 0])


def test_skipped_batches_and_those_in_flight_teach_nothing():
    nan = [np.nan]
    course = made(
        [
            turn(0, domains=[0], stages=[0], losses=[1]),
            turn(1, domains=[0], stages=[2], losses=nan, fate=Fate.SKIPPED),
            turn(2, domains=[0], stages=[2], losses=nan, fate=Fate.IN_FLIGHT),
        ]
    )
    assert course.samples.sum() == 1
    assert course.skipped.tolist() == [0, 1, 0]
    assert np.isnan(course.losses()[1:]).all()


def test_marks_say_when_the_hard_budget_grew_and_shrank():
    budgets = [0.0, 0.0, 0.05, 0.05, 0.045]
    course = made([turn(i, domains=[0], stages=[0], losses=[1], state=h) for i, h in enumerate(budgets)], points=2)
    assert [(mark.step, mark.before, mark.after) for mark in course.marks] == [(2, 0.0, 0.05), (4, 0.05, 0.045)]
    np.testing.assert_allclose(course.report["hard_budget"], [0.05, 0.045])
    assert course.domain_report["gap"].shape == (2, 2)


def test_points_are_few_and_hold_every_sample():
    turns = [turn(i, domains=[i % 2], stages=[i % 3], losses=[1]) for i in range(1234)]
    course = made(turns)
    assert len(course.steps) == 200
    assert course.samples.sum() == 1234
    assert course.steps[-1] == 1233
    assert (np.diff(course.steps) > 0).all()


def test_too_few_turns_are_said():
    with pytest.raises(ValueError, match=r"3 batches .* 0 were added"):
        CourseMaker(Told(), domains=["a"], total_steps=3, batches=3).course()


@pytest.mark.parametrize(("domains", "policy"), [(1, "mixture"), (9, "medclm"), (500, "medclm")])
def test_pictures_of_one_and_of_500_domains(tmp_path, domains, policy):
    learner = LEARNERS["long_tail"].model_copy(update={"domains": domains})
    course = simulate(
        make_policy(CurriculumSection(policy=policy), domains=domains, total_steps=60),
        learner,
        total_steps=60,
        global_batch_size=12,
        lookahead=2,
        seed=0,
    ).course
    paths = draw_course(course, tmp_path / "pictures")
    assert [path.name for path in paths] == ["course.png", "domains.png", "domain_stages.png"]
    assert not any(Image.open(path).text for path in paths)
    for path in paths:
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert min(picture.shape[:2]) > 150
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    six = [dataclasses.replace(course, policy=f"p{place}") for place in range(6)]
    assert Image.open(draw_side_by_side(six, "six", tmp_path / "six.png")).width > 800


def test_the_stages_colours_fill_the_picture_as_their_shares_say(tmp_path):
    turns = [turn(i, domains=[0] * 4, stages=[0, 0, 0, 2], losses=[1] * 4) for i in range(20)]
    path = draw_course(made(turns), tmp_path)[0]
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    column = picture[: picture.shape[0] // 2, picture.shape[1] // 3]
    colours = {Stage.EASY: (0x00, 0x72, 0xB2), Stage.MEDIUM: (0xE6, 0x9F, 0x00), Stage.HARD: (0x7A, 0x1F, 0x5C)}
    near = {stage: int((np.abs(column - colour).max(axis=1) < 25).sum()) for stage, colour in colours.items()}
    assert near[Stage.MEDIUM] == 0
    assert near[Stage.EASY] / (near[Stage.EASY] + near[Stage.HARD]) == pytest.approx(0.75, abs=0.03)
