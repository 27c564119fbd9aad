"""The curriculum service over real processes: equal answers, exact replay, resume, and clear errors."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from medclm.config import CurriculumSection
from medclm.curriculum.log import AssignmentLog, read_log, replay
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService, Report, pack, unpack
from medclm.data.order import rank_slots
from medclm.data.stream import StreamBatch
from medclm.distributed import ControlPlane, Ranks
from tests.ranks import run_ranks

G, MICRO, DOMAINS, STEPS = 24, 4, 3, 60


def describe(batch_index):
    positions = np.arange(batch_index * G, (batch_index + 1) * G)
    offered = np.ones((G, 3), dtype=bool)
    offered[positions % 7 == 0, 2] = False
    return StreamBatch(positions=positions, record_rows=positions, domains=positions % DOMAINS, offered=offered)


def make_service(ranks, *, lookahead=2, log=None, policy="medclm", timeout_s=30.0):
    return CurriculumService(
        policy=make_policy(CurriculumSection(policy=policy), domains=DOMAINS, total_steps=STEPS),
        describe=describe,
        ranks=ranks,
        plane=ControlPlane(ranks, timeout_s=timeout_s),
        global_batch_size=G,
        micro_batch_size=MICRO,
        lookahead=lookahead,
        total_steps=STEPS,
        seed=5,
        log=log,
    )


def losses_of(batch_index, stages):
    """A deterministic made-up learner: (G,) float32."""
    return (np.array([0.3, 0.5, 0.9])[stages] + 2.0 * np.exp(-batch_index / 20)).astype(np.float32)


def drive(service, ranks, *, first, last, stop_at=None, skip=()):
    """Run batches first..last-1; returns the stages each batch was consumed with."""
    known = {assignment.batch_index: assignment for assignment in service.start()}
    slots = rank_slots(G, MICRO, ranks.rank, ranks.world_size).ravel()
    consumed, stopped = [], None
    for batch_index in range(first, last):
        assignment = service.exchange()
        known[assignment.batch_index] = assignment
        stages = known[batch_index].stages
        consumed.append(stages.tolist())
        mine = torch.from_numpy(losses_of(batch_index, stages)[slots])
        applied = batch_index not in skip
        wanted = stop_at == batch_index and ranks.rank == ranks.world_size - 1
        if not applied and ranks.rank == 0:
            mine = mine * float("nan")
        service.report(
            Report(batch_index, mine, applied=applied, stop_wanted=wanted, tokens=10, target_tokens=3, peak_memory=ranks.rank)
        )
        if assignment.stop:
            stopped = batch_index
            break
    return consumed, stopped


def play(rank, world_size, lookahead, folder=None, skip=()):
    ranks = Ranks(rank, rank, world_size)
    header = {"global_batch_size": G, "lookahead": lookahead, "seed": 5}
    log = AssignmentLog(folder, header) if folder is not None and rank == 0 else None
    service = make_service(ranks, lookahead=lookahead, log=log)
    consumed, _ = drive(service, ranks, first=0, last=STEPS, skip=skip)
    state = service.state_dict()
    return consumed, state["policy_state"] if rank == 0 else None, dataclasses.asdict(service.totals)


@pytest.fixture(scope="module")
def alone():
    return play(0, 1, 2)


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_and_world_size_gets_the_same_stages(alone, world_size):
    results = run_ranks(world_size, play, world_size, 2)
    for consumed, _, _ in results:
        assert consumed == alone[0]
    assert results[0][1] == alone[1]
    assert len({stage for batch in alone[0] for stage in batch}) == 2  # it did move on from Easy
    assert results[0][2] == {
        "tokens": 10 * world_size * STEPS,
        "target_tokens": 3 * world_size * STEPS,
        "peak_memory": world_size - 1,
    }


@pytest.mark.parametrize("lookahead", [0, 2, 5])
def test_the_log_replays_to_the_same_decisions(tmp_path, lookahead):
    consumed, _, _ = play(0, 1, lookahead, tmp_path, skip=(7, 30))
    run = read_log(tmp_path)
    policy = make_policy(CurriculumSection(policy="medclm"), domains=DOMAINS, total_steps=STEPS)
    again = replay(run, policy, describe)
    np.testing.assert_array_equal(again, run.rows["stages"])
    assert again[:STEPS].tolist() == consumed
    assert run.rows["observed"][[6, 7, 8]].tolist() == [1, 2, 1]
    changed = run.rows.copy()
    changed["losses"][5:] *= 1 + changed["stages"][5:]  # a log that lies does not replay
    lied = replay(dataclasses.replace(run, rows=changed), policy, describe)
    assert not np.array_equal(lied, run.rows["stages"])


def test_resume_continues_as_if_nothing_had_happened(alone):
    first = make_service(Ranks(0, 0, 1))
    before, _ = drive(first, Ranks(0, 0, 1), first=0, last=25)
    second = make_service(Ranks(0, 0, 1))
    second.load_state_dict(first.state_dict())
    after, _ = drive(second, Ranks(0, 0, 1), first=25, last=STEPS)
    assert before + after == alone[0]


def test_a_state_of_another_policy_or_lookahead_is_refused():
    state = make_service(Ranks(0, 0, 1)).state_dict()
    state["in_flight"] = [[0] * G] * 2
    with pytest.raises(ValueError, match=r"curriculum\.policy=mixture"):
        make_service(Ranks(0, 0, 1), policy="mixture").load_state_dict(state)
    with pytest.raises(ValueError, match=r"curriculum\.lookahead=3"):
        make_service(Ranks(0, 0, 1), lookahead=3).load_state_dict(state)


def stop(rank):
    ranks = Ranks(rank, rank, 2)
    return drive(make_service(ranks), ranks, first=0, last=STEPS, stop_at=11)[1]


def test_one_rank_that_wants_to_stop_stops_all_after_the_same_batch():
    assert run_ranks(2, stop) == [12, 12]


def lose_rank_0(rank):
    ranks = Ranks(rank, rank, 2)
    service = make_service(ranks, timeout_s=2.0)
    service.start()
    if rank == 0:
        time.sleep(6)  # hangs: a slow disk, a debugger, a dead thread
        return "slept"
    service.exchange()
    return "no error"


def test_a_hung_rank_0_is_named_within_the_timeout():
    began = time.monotonic()
    results = run_ranks(2, lose_rank_0)
    assert "RuntimeError: rank 1: no answer within 2 s while waiting for the stages of batch 2" in results[1]
    assert time.monotonic() - began < 30


def wrong_index(rank):
    ranks = Ranks(rank, rank, 2)
    service = make_service(ranks, timeout_s=3.0)
    service.start()
    service.exchange()
    service.report(Report(0 if rank == 0 else 4, torch.zeros(G // 2), applied=True, stop_wanted=False))
    service.exchange()


def test_a_report_about_another_batch_is_named():
    results = run_ranks(2, wrong_index)
    assert "rank 0: message about batch 4 from rank 1, expected batch 0" in results[0]
    assert "no answer within 3 s" in results[1] or "rank 1" in results[1]


def test_a_damaged_message_is_refused():
    message = bytearray(pack(7, 0, b"\x00\x01\x02"))
    assert unpack(bytes(message), batch_index=7, sender=0, receiver=1) == (0, b"\x00\x01\x02")
    message[-1] ^= 1
    with pytest.raises(RuntimeError, match=r"rank 1: checksum .* of batch 7 from rank 0"):
        unpack(bytes(message), batch_index=7, sender=0, receiver=1)
    with pytest.raises(RuntimeError, match="expected batch 8"):
        unpack(pack(7, 0, b""), batch_index=8, sender=0, receiver=1)
