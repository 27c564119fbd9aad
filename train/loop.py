"""READ THIS FIRST: one training run, from its first assignment to its last checkpoint.

Every rank runs this same page. Features become calls here, not branches; what each noun is stands where it is made
(train/run.py; train/build.py puts the run together).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from train.run import Run
from train.steps import learning_rate


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    """Applied updates."""
    reason: str
    """`finished`, or `stopped` to be resumed."""


def train(run: Run) -> Outcome:
    """Drive `run` to its planned number of steps, or until some rank asks to stop.

    Raises:
        RuntimeError: too many batches in a row that cannot be learned from, a peer is lost, or the last checkpoint was not saved.
    """
    for assignment in run.service.start():
        run.loader.submit(assignment)  # rendering begins before the first step

    while run.step < run.recipe.train.steps:
        clock = time.perf_counter()
        assignment = run.service.exchange()  # last losses to rank 0, its decision `lookahead` batches ahead to all
        run.loader.submit(assignment)
        decided = time.perf_counter()
        batches = run.loader.take(run.batch_index)
        loaded = time.perf_counter()

        lr = learning_rate(run.step, run.recipe.train)
        result = run.take_step(batches, lr=lr)

        stepped = time.perf_counter()
        run.report(result)  # travels with the next exchange
        run.count(result)
        done = time.perf_counter()
        run.recorder.step(
            curriculum_s=decided - clock + done - stepped,
            data_s=loaded - decided,
            step_s=done - clock,
            applied=result.applied,
            lr=lr,
        )

        if run.due_to_log():
            run.log()
        if run.due_to_validate():
            run.validate()  # a better score saves the checkpoint
        if run.due_to_save():
            run.save()
        if assignment.stop:  # the same message on every rank, so all stop after the same step
            break

    run.save()
    run.finish_saving()
    return Outcome(step=run.step, reason="finished" if run.step >= run.recipe.train.steps else "stopped")
