"""Policies on a simulated learner (medclm/curriculum/simulation.py): a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medclm.config import Recipe
from medclm.curriculum.course import Course
from medclm.curriculum.registry import make_policy
from medclm.curriculum.simulation import Simulated, load_learner, simulate
from medclm.types import Stage


def simulated_policies(names: Sequence[str], learner_name: str, recipe: Recipe) -> list[Simulated]:
    """Each policy on the same learner, corpus and draws; length, batch, seed and numbers are the recipe's.

    Raises:
        ValueError: an unknown policy or learner, or a policy named twice.
    """
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(f"--simulate {','.join(names)}: give each policy once, joined by commas without spaces")
    learner = load_learner(learner_name)
    chosen = [recipe.curriculum.model_copy(update={"policy": name}) for name in names]
    sections = [section.in_fractions(total_steps=recipe.train.steps, epoch_steps=None) for section in chosen]
    policies = [make_policy(section, domains=learner.domains, total_steps=recipe.train.steps) for section in sections]
    return [
        simulate(
            policy,
            learner,
            total_steps=recipe.train.steps,
            global_batch_size=recipe.train.global_batch_size,
            lookahead=recipe.curriculum.lookahead,
            seed=recipe.run.seed,
        )
        for policy in policies
    ]


def print_simulated(found: Sequence[Simulated], learner_name: str, recipe: Recipe) -> None:
    """One row a policy: shares of the run, when Medium and Hard came in, and where the losses ended."""
    print(f"learner {learner_name}, {recipe.train.steps} updates x {recipe.train.global_batch_size} samples")
    print(f"{'':18} {'share of all samples':>22}  {'at 10 % from':>14}  {'fell':>7}  {'final loss':>21}")
    stages = "".join(f"{stage.name.title():>7}" for stage in Stage)
    print(f"{'policy':18}  {stages}  {'Medium':>7}{'Hard':>7}  {'back':>7}  {stages}")
    for each in found:
        shares = "".join(f"{share:7.1%}" for share in each.course.total_shares())
        begins = "".join(f"{_first(each.course, stage):>7}" for stage in (Stage.MEDIUM, Stage.HARD))
        losses = "".join(f"{loss:7.3f}" for loss in each.final_losses)
        print(f"{each.course.policy:18}  {shares}  {begins}  {int(each.course.fallbacks.sum()):>7,}  {losses}")
    print("Where losses end says what the simulated curves were told to do, not which policy is better on data.")


def _first(course: Course, stage: Stage) -> str:
    """The update at which a stage first made up a tenth of the samples, to within a point of the course."""
    reached = np.flatnonzero(np.nan_to_num(course.shares()[:, stage]) >= 0.1)
    return str(course.steps[reached[0]]) if len(reached) else "never"
