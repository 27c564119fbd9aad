"""What goes wrong between ranks ends all of them soon, with one reason that says who, what and the cure. Real processes."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from medclm.curriculum import messages
from medclm.curriculum.messages import answer_kind, read, report_kind, seal
from medclm.distributed import ControlPlane, Ranks
from tests.ranks import run_ranks
from tests.service_runs import Case, G, make_service, policy_of, report_of

TIMEOUT_S = 4.0


class Raising:
    """A policy with an error in it: fine until its third observation."""

    def __init__(self):
        self._medclm, self._left = policy_of(Case()), 3
        self.name, self.initial, self.probabilities = "medclm", self._medclm.initial, self._medclm.probabilities

    def observe(self, state, observation):
        self._left -= 1
        if not self._left:
            raise ZeroDivisionError(f"nothing to divide by in batch {observation.batch_index}")
        return self._medclm.observe(state, observation)


class DamagedPlane(ControlPlane):
    """Changes messages on their way out of, or into, this process from the fourth exchange on."""

    def __init__(self, ranks, *, timeout_s, sent=None, received=None):
        super().__init__(ranks, timeout_s=timeout_s)
        self._sent, self._received, self._gathers, self._broadcasts = sent, received, 0, 0

    def gather(self, message, *, what):
        self._gathers += 1
        return super().gather(self._sent(message) if self._sent and self._gathers > 4 else message, what=what)

    def broadcast(self, message, *, length, what):
        self._broadcasts += 1
        data = super().broadcast(message, length=length, what=what)
        return self._received(data) if self._received and self._broadcasts > 4 else data


def flip(data):
    """One bit of the last byte that says something."""
    data = data.copy()
    data[-8] ^= 4
    return data


def renamed(kind, field, value):
    """The same message, well sealed, with another value in one field."""

    def change(data):
        row = data.copy().view(kind)
        row[field] = value
        if field == "version":
            row["check"] = messages.checksum(row)
            return row.view(np.uint8)
        return seal(row)

    return change


ANSWER, REPORT = answer_kind(G), report_kind(G // 3)


@dataclass(frozen=True)
class Fault:
    """What is wrong, where, and what every rank must then say."""

    name: str
    rank: int
    says: str
    """On every rank, or on the others if `itself` is given."""
    itself: str | None = None
    """On the rank with the fault."""
    before: bool = False
    """Found by the greeting, before a first message of another length."""


FAULTS = [
    Fault("raising policy", 0, "ZeroDivisionError: nothing to divide by in batch 2"),
    Fault(
        "wrong batch", 1, "rank 0: message about batch 9 from rank 1, expected 3 for batch 3: the ranks have come out of step"
    ),
    Fault("no report", 2, "rank 2 sent no losses of batch 3 and rank 0 did: every rank must call report() once a batch"),
    Fault("damaged report", 2, "rank 0: message with checksum"),
    Fault("report of another version", 1, "rank 0: message of version 7 from rank 1, expected 3 for batch"),
    Fault("damaged stages", 1, "rank 1 could not read the stages of batch", itself="rank 1: message with checksum"),
    Fault("stages of another batch", 2, "rank 2 could not read the stages of batch", itself="rank 2: message about batch 99"),
    Fault(
        "another version",
        1,
        "rank 0: message of version 4 from rank 1, expected 3",
        "message of version 3 from rank 0, expected 4",
        True,
    ),
    Fault("another global batch", 2, "rank 2 has train.global_batch_size=48, rank 0 has 24: start every rank", before=True),
    Fault("another micro-batch", 1, "rank 1 has train.micro_batch_size=4, rank 0 has 2: start every rank", before=True),
    Fault("another lookahead", 1, "rank 1 has curriculum.lookahead=4, rank 0 has", before=True),
    Fault("another checkpoint", 2, "rank 2 has the checkpoint's next batch=5, rank 0 has 0", before=True),
    Fault("another policy", 1, "rank 1 has curriculum.policy=mixture, rank 0 has medclm: start every rank", before=True),
]
LOOKAHEADS = (0, 2)


def suffer(rank, world_size):
    """Every fault at every lookahead, one after the other in the same processes: (exchanges that went well, error, seconds)."""
    return [endure(Ranks(rank, rank, world_size), fault, lookahead) for fault in FAULTS for lookahead in LOOKAHEADS]


def endure(ranks, fault, lookahead):
    here, name = ranks.rank == fault.rank, fault.name
    sent = received = None
    if here:
        sent = {
            "damaged report": flip,
            "report of another version": renamed(REPORT, "version", 7),
        }.get(name)
        received = {"damaged stages": flip, "stages of another batch": renamed(ANSWER, "batch_index", 99)}.get(name)
    plane = DamagedPlane(ranks, timeout_s=20.0, sent=sent, received=received)
    case = Case(lookahead=lookahead)
    if here and name == "another micro-batch":
        case = replace(case, micro=4)
    if here and name == "another lookahead":
        case = replace(case, lookahead=4)
    if here and name == "another policy":
        case = replace(case, policy="mixture")
    service = make_service(ranks, case, plane=plane, policy=Raising() if here and name == "raising policy" else None)
    if here and name == "another global batch":
        service.global_batch_size = 48
    if here and name == "another checkpoint":
        service.next_batch = 5
    began, went_well = time.monotonic(), 0
    with contextlib.ExitStack() as later:
        if here and name == "another version":
            later.callback(setattr, messages, "VERSION", messages.VERSION)
            messages.VERSION += 1
        try:
            known = {assignment.batch_index: assignment for assignment in service.start()}
            for batch_index in range(12):
                assignment = service.exchange()
                known[assignment.batch_index] = assignment
                went_well += 1
                report = report_of(service, batch_index, known[batch_index].stages, case)
                if here and name == "wrong batch" and batch_index == 3:
                    report = replace(report, batch_index=9)
                if not (here and name == "no report" and batch_index == 3):
                    service.report(report)
        except RuntimeError as error:
            return went_well, str(error), time.monotonic() - began
    return went_well, "", time.monotonic() - began


@pytest.fixture(scope="module")
def suffered():
    return run_ranks(3, suffer, 3)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_on_one_rank_ends_all_at_once_with_its_reason(suffered, fault, lookahead):
    assert not any(isinstance(one, str) for one in suffered), suffered
    at = [one[FAULTS.index(fault) * len(LOOKAHEADS) + LOOKAHEADS.index(lookahead)] for one in suffered]
    for rank, (went_well, error, seconds) in enumerate(at):
        assert error.startswith(f"rank {rank}: "), at
        assert (fault.itself if fault.itself and rank == fault.rank else fault.says) in error, at
        assert went_well == at[0][0], at  # in the same exchange
        assert (went_well == 0) == fault.before, at
        assert seconds < 10, at


def drive_until(rank, world_size, lookahead, happens):
    """Ranks that exchange until something happens to one of them at batch 3; the error and when it came."""
    ranks, case = Ranks(rank, rank, world_size), Case(lookahead=lookahead)
    service = make_service(ranks, case, timeout_s=TIMEOUT_S)
    known = {assignment.batch_index: assignment for assignment in service.start()}
    began = time.monotonic()
    try:
        for batch_index in range(12):
            if batch_index == 3:
                began = time.monotonic()
                if rank == happens[1]:
                    if happens[0] == "killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if happens[0] == "raises":
                        raise ValueError("the model ran out of memory")
                    time.sleep(TIMEOUT_S + 3)
                    return "woke up"
            assignment = service.exchange()
            known[assignment.batch_index] = assignment
            service.report(report_of(service, batch_index, known[batch_index].stages, case))
    except RuntimeError as error:
        return str(error), time.monotonic() - began
    return "no error"


@pytest.mark.parametrize(
    ("what", "who", "world_size", "lookahead", "waits"),
    [
        ("hangs", 0, 2, 2, {1: "rank 0 to take the losses of batch 2"}),
        ("hangs", 1, 3, 2, {0: "the losses of batch 2 from one of ranks 1 to 2", 2: "the stages of batch 5 from rank 0"}),
        ("killed", 0, 2, 0, {1: "batch"}),
        ("killed", 1, 3, 2, {0: "batch", 2: "batch"}),
        # Its last exchange runs on a thread beside the step, so it may or may not have ended when the process goes.
        ("raises", 1, 2, 2, {0: "rank 1"}),
    ],
)
def test_a_rank_that_hangs_or_is_gone_ends_the_others_within_the_timeout(what, who, world_size, lookahead, waits):
    told = run_ranks(world_size, drive_until, world_size, lookahead, (what, who))
    assert {"hangs": "woke up", "killed": "lost (exit code -9)", "raises": "ValueError: the model"}[what] in told[who], told
    for rank, waited_for in waits.items():
        error, seconds = told[rank]
        assert error.startswith(f"rank {rank}: "), told
        assert "while waiting for " in error, told
        assert waited_for in error, told
        if what == "hangs":
            assert f"no answer within {TIMEOUT_S:g} s" in error, told
            assert "raise curriculum.timeout_s" in error, told
            assert TIMEOUT_S - 1 < seconds < TIMEOUT_S + 3, told
        else:
            assert "lost the connection to another rank ([127.0.0.1]:" in error, told
            assert "look for the first error in its log" in error, told
            assert seconds < TIMEOUT_S - 1, told


def test_any_changed_byte_of_a_message_is_found():
    row = np.zeros(1, report_kind(5))
    row["batch_index"], row["losses"], row["numbers"] = 7, [1, 2, 3, 4, 5], [6, 7, 8, 9]
    data = seal(row)
    assert read(data[None], report_kind(5), batch_index=7, receiver=1)["losses"][0].tolist() == [1, 2, 3, 4, 5]
    for place in range(len(data)):
        damaged = data.copy()
        damaged[place] ^= 1 << place % 8
        with pytest.raises(RuntimeError, match=r"rank 1: message .* from rank 0, expected .* for batch 7"):
            read(damaged[None], report_kind(5), batch_index=7, receiver=1)
    swapped = data.view("<u8").copy()
    swapped[[1, 3]] = swapped[[3, 1]]
    assert messages.checksum(swapped.view(np.uint8).view(report_kind(5)))[0] != row["check"][0]


def test_the_first_of_many_wrong_senders_is_named():
    rows = np.zeros(5, report_kind(2))
    rows["version"], rows["batch_index"] = messages.VERSION, [4, 4, 6, 7, 4]
    rows["check"] = messages.checksum(rows)
    data = rows.view(np.uint8).reshape(5, -1)
    with pytest.raises(RuntimeError, match=r"rank 0: message about batch 6 from rank 2 \(and 1 more ranks\), expected 4"):
        read(data, report_kind(2), batch_index=4, receiver=0)
