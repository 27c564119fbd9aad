"""A made-up learner under the curriculum service, and what the service ought to decide for it, without any service."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medclm.config import CurriculumSection
from medclm.curriculum.log import AssignmentLog
from medclm.curriculum.policy import decide
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService, Report
from medclm.data.order import rank_slots
from medclm.data.stream import StreamBatch
from medclm.distributed import ControlPlane, Ranks
from medclm.types import Assignment, Observation

G, DOMAINS, SEED = 24, 3, 5


@dataclass(frozen=True)
class Case:
    """One run: how it is cut into processes and parts, and what happens on the way."""

    policy: str = "medclm"
    steps: int = 40
    micro: int = 2
    lookahead: int = 2
    skip: tuple[int, ...] = ()
    """Batches whose step is skipped; rank 0's losses are NaN there."""
    stop: tuple[int, int] | None = None
    """(rank, batch): who asks for a stop after which batch; rank -1 is the last one."""
    restart_at: tuple[int, ...] = ()
    """Batches before which everything is saved and built anew."""
    save_at: tuple[int, ...] = ()
    """Batches before which everything is saved and goes on."""
    sleepy: bool = False
    """Every rank sleeps now and then, each at other times."""


@dataclass(frozen=True)
class Told:
    """What one rank saw of a run."""

    stages: list[list[int]]
    """Of each batch it trained on, all G samples."""
    last: int
    """The last batch."""
    policy_state: dict[str, Any] | None
    applied_steps: int
    seen: list[int]
    """Batches of `latest`, as one who looks every step finds them; rank 0."""
    totals: dict[str, int]


def describe(batch_index: int) -> StreamBatch:
    positions = np.arange(batch_index * G, (batch_index + 1) * G)
    offered = np.ones((G, 3), dtype=bool)
    offered[positions % 7 == 0, 2] = False
    return StreamBatch(positions=positions, record_rows=positions, domains=positions % DOMAINS, offered=offered)


def losses_of(batch_index: int, stages: np.ndarray) -> np.ndarray:
    """(G,) float32: falls with the batches, differs from sample to sample, so that a swapped slot shows."""
    own = 0.05 * np.sin(np.arange(G) * 1.7 + batch_index)
    return (np.array([0.3, 0.5, 0.9])[stages] + 2.0 * np.exp(-batch_index / 12) + own).astype(np.float32)


def policy_of(case: Case) -> Any:
    return make_policy(CurriculumSection(policy=case.policy), domains=DOMAINS, total_steps=case.steps)


def make_service(
    ranks: Ranks,
    case: Case,
    *,
    log: AssignmentLog | None = None,
    plane: ControlPlane | None = None,
    policy: Any = None,
    timeout_s: float = 30.0,
) -> CurriculumService:
    return CurriculumService(
        policy=policy or policy_of(case),
        describe=describe,
        ranks=ranks,
        plane=plane or ControlPlane(ranks, timeout_s=timeout_s),
        global_batch_size=G,
        micro_batch_size=case.micro,
        lookahead=case.lookahead,
        total_steps=case.steps,
        seed=SEED,
        log=log,
    )


def report_of(service: CurriculumService, batch_index: int, stages: np.ndarray, case: Case) -> Report:
    ranks = service.ranks
    slots = rank_slots(G, case.micro, ranks.rank, ranks.world_size).ravel()
    losses = torch.from_numpy(losses_of(batch_index, stages)[slots])
    applied = batch_index not in case.skip
    if not applied and ranks.is_main:
        losses = losses * float("nan")
    stopping = case.stop is not None and case.stop == ((ranks.rank + 1) % ranks.world_size - 1, batch_index)
    stopping |= case.stop is not None and case.stop == (ranks.rank, batch_index)
    return Report(
        batch_index, losses, applied=applied, stop_wanted=stopping, tokens=10, target_tokens=3, peak_memory=ranks.rank
    )


def drive(
    service: CurriculumService, case: Case, *, first: int, last: int, seen: list[int] | None = None
) -> tuple[list[list[int]], bool]:
    """Batches first..last-1, as train/loop.py drives them; the stages each was trained with, and whether all were to stop."""
    known: dict[int, Assignment] = {assignment.batch_index: assignment for assignment in service.start()}
    draw = np.random.default_rng(service.ranks.rank)
    stages = []
    for batch_index in range(first, last):
        if case.sleepy and draw.random() < 0.3:
            time.sleep(draw.uniform(0, 0.01))
        assignment = service.exchange()
        assert assignment.batch_index not in known, "handed over twice"
        known[assignment.batch_index] = assignment
        mine = known[batch_index].stages
        stages.append(mine.tolist())
        if seen is not None and service.latest is not None and service.latest.batch_index not in seen[-1:]:
            seen.append(service.latest.batch_index)
        service.report(report_of(service, batch_index, mine, case))
        if batch_index + 1 in case.save_at:
            service.state_dict()
        if assignment.stop:
            return stages, True
    return stages, False


def play(rank: int, world_size: int, case: Case, folder: Path | None = None) -> Told:
    """A whole run of one rank, restarts included; the checkpoint's state is rank 0's, as in a run."""
    ranks = Ranks(rank, rank, world_size)
    plane = ControlPlane(ranks, timeout_s=30.0)
    header = {"global_batch_size": G, "lookahead": case.lookahead, "seed": SEED, "total_steps": case.steps}
    log = AssignmentLog(folder, header) if folder is not None and ranks.is_main else None
    service = make_service(ranks, case, plane=plane, log=log)
    stages: list[list[int]] = []
    seen: list[int] = []
    for first, last in zip((0, *case.restart_at), (*case.restart_at, case.steps), strict=True):
        if first in case.restart_at:
            if first == 0:
                service.start()  # nothing is saved before a run has begun
            state = from_main(ranks, service.state_dict())
            service = make_service(ranks, case, plane=plane, log=log)
            service.load_state_dict(state)
        more, stopped = drive(service, case, first=first, last=last, seen=seen)
        stages += more
        if stopped:
            break
    state = service.state_dict()
    return Told(
        stages=stages,
        last=len(stages) - 1,
        policy_state=state["policy_state"] if ranks.is_main else None,
        applied_steps=state["applied_steps"],
        seen=seen,
        totals=dataclasses.asdict(service.totals),
    )


def from_main(ranks: Ranks, state: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's state on every rank: as reading its checkpoint does."""
    if ranks.world_size == 1:
        return state
    box = [state]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def play_all(rank: int, world_size: int, cases: list[Case]) -> list[Told]:
    return [play(rank, world_size, case) for case in cases]


def expected(case: Case, *, batches: int) -> tuple[list[list[int]], Any]:
    """What must be decided, and the policy's last state: batch by batch, no service, no messages, no threads."""
    policy = policy_of(case)
    state, applied, stages, observed = policy.initial(), 0, [], 0

    def observe() -> None:
        nonlocal state, applied, observed
        if observed not in case.skip:
            losses = losses_of(observed, np.array(stages[observed])).astype(np.float16)
            progress = min(1.0, applied / case.steps)
            seen = Observation(observed, progress, describe(observed).domains, np.array(stages[observed], np.uint8), losses)
            state, applied = policy.observe(state, seen), applied + 1
        observed += 1

    for batch_index in range(batches):
        while observed < batch_index - case.lookahead:
            observe()
        ahead = batch_index - observed
        progress = min(1.0, (applied + ahead) / case.steps)
        decided, _ = decide(policy, state, describe(batch_index), progress=progress, seed=SEED)
        stages.append(decided.tolist())
    while observed < batches:
        observe()
    return stages, policy.to_json(state)
