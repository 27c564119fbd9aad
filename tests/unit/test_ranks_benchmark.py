"""Made-up logs of one and of two ranks: where they first differ, and by how much."""

import dataclasses

import numpy as np
import pytest

from benchmarks.curriculum.ranks import compare, first_difference
from medclm.curriculum.log import AssignmentLog, read_log
from medclm.types import Observation

G, IN_FLIGHT = 4, 2


@pytest.fixture
def log_of(tmp_path):
    def make(batches, *, skipped=()):
        """All Easy, every loss 1, the last two batches in flight."""
        folder, stages = tmp_path / f"{batches}-{skipped}", np.zeros(G, np.uint8)
        log = AssignmentLog(folder, {"global_batch_size": G, "lookahead": IN_FLIGHT, "seed": 0, "total_steps": batches})
        for index in range(batches):
            log.decision(index, progress=0.0, stages=stages)
            if index < batches - IN_FLIGHT:
                losses = np.full(G, np.nan if index in skipped else 1, np.float16)
                log.observation(Observation(index, 0.0, np.zeros(G, int), stages, losses))
        log.close()
        return read_log(folder)

    return make


def changed(run, name, batch, value):
    """Another number at sample 1 of a batch."""
    rows = run.rows.copy()
    rows[name][batch, 1] = value
    return dataclasses.replace(run, rows=rows)


LOSS, STAGE = "first batch with another float16 loss", "first batch with another stage"
LARGEST = "largest difference of a loss before that"


def test_the_first_row_with_any_other_entry():
    left = np.zeros((3, 2))
    assert first_difference(left, left.copy()) is None
    right = left.copy()
    right[1:, 1] = 1
    assert first_difference(left, right) == 1
    assert first_difference(left[:0], left[:0]) is None


def test_equal_logs_differ_nowhere(log_of):
    found = compare(log_of(10), log_of(10))
    assert (found["batches"], found[LOSS], found[STAGE], found[LARGEST]) == (10, None, None, 0.0)
    assert found["stages of 1 rank: easy, medium, hard"] == [40, 0, 0]


def test_batches_are_counted_from_the_runs_begin_though_some_were_skipped(log_of):
    one = log_of(10, skipped=(0, 1))
    two = changed(changed(changed(one, "losses", 4, 1.5), "losses", 5, 3.0), "stages", 5, 2)
    found = compare(one, two)
    assert (found[LOSS], found[STAGE]) == (4, 5)
    assert found[LARGEST] == 0.5  # not the 2.0 of batch 5, which had another stage
    assert found["share of all samples with another stage"] == 1 / 40


def test_a_first_batch_with_another_stage_leaves_no_loss_before_it(log_of):
    one = log_of(10)
    found = compare(one, changed(one, "stages", 0, 1))
    assert (found[STAGE], found[LARGEST]) == (0, None)


def test_logs_of_different_length_are_compared_as_far_as_both_go(log_of):
    found = compare(log_of(10), changed(log_of(7), "stages", 6, 1))
    assert (found["batches"], found[STAGE], found[LOSS]) == (7, 6, None)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(log_of(10), dataclasses.replace(log_of(7), rows=log_of(7).rows[:0]))
