"""The curriculum service over real processes: equal answers for any ranks, order and restart; exact replay; stops."""

import dataclasses
import functools
import threading

import numpy as np
import pytest

from medclm.config import CurriculumSection
from medclm.curriculum.decider import Decider
from medclm.curriculum.log import read_log, turns
from medclm.curriculum.registry import find_makers, make_policy
from medclm.data.order import rank_slots
from medclm.distributed import Ranks
from tests.ranks import run_ranks
from tests.service_runs import DOMAINS, Case, G, describe, drive, expected, make_service, play, play_all, policy_of, report_of

LOOKAHEADS = [Case(lookahead=lookahead) for lookahead in (0, 1, 3, 7)]
MICROS = [Case(micro=micro) for micro in (1, 3, 6)]
SKIPS = [Case(skip=(0, 7, 8, 30, 39), lookahead=lookahead) for lookahead in (0, 2)]
RESTARTS = [
    Case(restart_at=(0, 1, 17, 18, 39), skip=(16,)),
    Case(restart_at=(9, 39), lookahead=0),
    Case(restart_at=(9, 10), lookahead=5),
]
SAVES = [Case(save_at=(1, 2, 20, 40), lookahead=lookahead) for lookahead in (0, 1, 2, 4)]
LATE = [Case(sleepy=True), Case(sleepy=True, lookahead=0, restart_at=(11,))]
CASES = [Case(), *LOOKAHEADS, *MICROS, *SKIPS, *RESTARTS, *SAVES, *LATE]
POLICIES = [Case(policy=name) for name in find_makers()]


def check(told, case, world_size):
    """One rank's account against the plain loop without a service."""
    stages, policy_state = expected(case, batches=case.steps)
    assert told[0].policy_state == policy_state, case
    assert told[0].applied_steps == case.steps - len(case.skip), case
    for rank, one in enumerate(told):
        assert one.stages == stages, (case, rank)
    if not case.restart_at:
        peak, samples = world_size - 1, world_size * case.steps
        assert told[0].totals == {"tokens": 10 * samples, "target_tokens": 3 * samples, "peak_memory": peak}, case
        assert told[0].seen == list(range(len(told[0].seen))), case  # no batch is passed over
        assert len(told[0].seen) >= case.steps - 2, case


@pytest.mark.parametrize("case", [*CASES, *POLICIES], ids=str)
def test_one_process_decides_as_the_plain_loop(case):
    check(play_all(0, 1, [case]), case, 1)


def test_the_made_up_run_can_tell_right_from_wrong():
    """A loss more or less before a decision shows, or the tests below would pass whatever is delivered when."""
    stages, state = expected(Case(), batches=40)
    assert {stage for batch in stages for stage in batch} == {0, 1}
    assert stages != expected(Case(lookahead=3), batches=40)[0]
    assert state != expected(Case(skip=(16,)), batches=40)[1]


@pytest.mark.parametrize(
    ("world_size", "cases"),
    [
        (2, [*CASES, *POLICIES]),
        (4, [Case(), *MICROS, *SKIPS, *LATE]),
        (3, [Case(micro=1), Case(micro=4), RESTARTS[0], LATE[1]]),
    ],
    ids=["2 ranks", "4 ranks", "3 ranks"],
)
def test_every_rank_of_any_world_decides_as_the_plain_loop(world_size, cases):
    cases = [case for case in cases if G % (case.micro * world_size) == 0]
    told = run_ranks(world_size, play_all, world_size, cases)
    assert not any(isinstance(one, str) for one in told), told
    for index, case in enumerate(cases):
        check([one[index] for one in told], case, world_size)


STOPS = [
    Case(stop=(rank, batch), lookahead=lookahead, skip=skip)
    for rank, batch, lookahead, skip in [
        (0, 0, 2, ()),
        (-1, 0, 2, ()),
        (0, 0, 0, (0,)),
        (-1, 11, 0, (11, 12)),
        (0, 11, 2, (11, 12)),
        (-1, 39, 2, ()),
        (-1, 39, 0, (39,)),
        (-1, 37, 2, (37,)),
        (0, 38, 1, ()),
    ]
] + [Case(stop=(-1, 11), save_at=(12,), lookahead=lookahead) for lookahead in (0, 2)]  # the wish is heard by the save


def test_a_stop_wanted_anywhere_stops_all_ranks_after_the_same_batch():
    """The wish travels with the report; it is back one batch later, two where the exchange is hidden."""
    told = run_ranks(2, play_all, 2, STOPS)
    for index, case in enumerate(STOPS):
        last = min(case.steps - 1, case.stop[1] + (1 if case.lookahead < 2 else 2))
        assert [one[index].last for one in told] == [last, last], case
        assert told[0][index].stages == told[1][index].stages == expected(case, batches=last + 1)[0], case
        assert told[0][index].applied_steps == last + 1 - sum(batch <= last for batch in case.skip), case


def test_the_slots_of_all_ranks_are_those_of_the_loader():
    for world_size, micro in [(1, 24), (1, 3), (2, 3), (4, 2), (3, 8)]:
        decider = Decider(
            policy=policy_of(Case()),
            describe=describe,
            world_size=world_size,
            global_batch_size=G,
            micro_batch_size=micro,
            total_steps=1,
            seed=0,
        )
        expected_slots = [rank_slots(G, micro, rank, world_size).ravel() for rank in range(world_size)]
        np.testing.assert_array_equal(decider.slots_Rn, expected_slots)


@pytest.mark.parametrize("lookahead", [0, 2, 5])
def test_the_log_replays_to_the_same_decisions(tmp_path, lookahead):
    case = Case(lookahead=lookahead, skip=(7, 30), restart_at=(25,))
    told = play(0, 1, case, tmp_path)
    run = read_log(tmp_path)
    again = list(turns(run, policy_of(case), describe))
    stages = np.stack([turn.decided for turn in again])
    np.testing.assert_array_equal(stages, run.rows["stages"])
    assert stages[: case.steps].tolist() == told.stages
    assert [turn.progress for turn in again] == run.rows["progress"].tolist()
    assert run.rows["observed"][[6, 7, 8]].tolist() == [1, 2, 1]
    changed = run.rows.copy()
    changed["losses"][5:] *= 1 + changed["stages"][5:]  # a log that lies does not replay
    lied = turns(dataclasses.replace(run, rows=changed), policy_of(case), describe)
    assert not all(np.array_equal(turn.decided, turn.given) for turn in lied)


def test_a_state_of_another_policy_or_lookahead_is_refused():
    state = make_service(Ranks(0, 0, 1), Case()).state_dict()
    state["in_flight"] = [[0] * G] * 2
    with pytest.raises(ValueError, match=r"curriculum\.policy=mixture"):
        make_service(Ranks(0, 0, 1), Case(policy="mixture")).load_state_dict(state)
    with pytest.raises(ValueError, match=r"curriculum\.lookahead=3"):
        make_service(Ranks(0, 0, 1), Case(lookahead=3)).load_state_dict(state)


class Waiting:
    """A policy whose observe waits until it may go on: medclm otherwise."""

    def __init__(self, may_go_on):
        self._medclm = make_policy(CurriculumSection(), domains=DOMAINS, total_steps=40)
        self.name, self.initial, self.probabilities = "medclm", self._medclm.initial, self._medclm.probabilities
        self.to_json, self._may_go_on = self._medclm.to_json, may_go_on

    def observe(self, state, observation):
        assert self._may_go_on.wait(timeout=20)
        return self._medclm.observe(state, observation)


def test_a_step_does_not_wait_for_the_decision_that_runs_beside_it():
    may_go_on = threading.Event()
    service, case = make_service(Ranks(0, 0, 1), Case(), policy=Waiting(may_go_on)), Case()
    known = {assignment.batch_index: assignment for assignment in service.start()}
    for batch_index in range(2):  # the second exchange delivers losses, and does not wait for what the policy makes of them
        assignment = service.exchange()
        known[assignment.batch_index] = assignment
        service.report(report_of(service, batch_index, known[batch_index].stages, case))
    assert service.latest is None
    assert service.applied_steps == 0
    may_go_on.set()
    assert service.exchange().batch_index == 3
    assert service.latest.batch_index == 0
    assert service.applied_steps == 1
    service.close()


def test_close_waits_for_the_exchange_that_runs():
    may_go_on = threading.Event()
    service, case = make_service(Ranks(0, 0, 1), Case(), policy=Waiting(may_go_on)), Case()
    drive(service, case, first=0, last=1)
    service.exchange()
    closing = threading.Thread(target=service.close)
    closing.start()
    closing.join(timeout=0.2)
    assert closing.is_alive()
    may_go_on.set()
    closing.join(timeout=20)
    assert not closing.is_alive()


def test_a_report_of_another_size_is_refused_at_once():
    service = make_service(Ranks(0, 0, 1), Case())
    right = functools.partial(report_of, service, 0, np.zeros(G, int), Case())
    service.report(right())
    with pytest.raises(
        ValueError, match=r"rank 0: losses of shape \(23,\) for batch 0: give one per sample of this rank, \(24,\)"
    ):
        service.report(dataclasses.replace(right(), losses=right().losses[1:]))


def test_a_loss_beyond_float16_stays_finite_in_the_averages():
    service, case = make_service(Ranks(0, 0, 1), Case(lookahead=0)), Case(lookahead=0)
    service.start()
    stages = service.exchange().stages
    report = report_of(service, 0, stages, case)
    report.losses[3] = 1e6
    service.report(report)
    service.exchange()
    assert service.latest is not None
    assert service.latest.losses[3] == np.finfo(np.float16).max
    averages = service.state_dict()["policy_state"]["averages"]["raw"]
    assert np.isfinite(np.array(averages, dtype=float)).all()
