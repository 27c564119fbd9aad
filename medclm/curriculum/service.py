"""The curriculum as a service of rank 0: it decides the stages of every global batch and broadcasts them each step.

One exchange a step, the same on every rank:

    losses of batch t-1  --gather-->  rank 0: policy.observe  -> decide batch t + lookahead  --broadcast-->  all ranks agree

The decision for batch t thus always rests on the losses of the batches up to t - lookahead - 1, whatever the number of ranks
or their speed, so a run is reproducible and its log can be replayed. From a lookahead of 2 on, the exchange runs on a thread
of its own while the step computes, and its result is taken at the next call: the first batch of lookahead hides the rendering,
the second hides the exchange. Only one thread at a time speaks on the control plane, in the same order on every rank.

Every exchange ends with a word of all ranks, so that a fault (a raising policy, a wrong report, a damaged message) ends all of
them at once and with its reason; a rank that is gone or silent is a RuntimeError of the control plane within its timeout.
Knows nothing of models, pixels or DeepSpeed.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medclm.curriculum.decider import Decider, Standing, Totals, Work
from medclm.curriculum.log import AssignmentLog, Describe
from medclm.curriculum.messages import (
    EMPTY,
    ERROR,
    GREETING,
    SKIPPED,
    STOP,
    answer_kind,
    first_difference,
    greeting,
    read,
    report_kind,
    seal,
)
from medclm.curriculum.policy import Policy
from medclm.distributed import ControlPlane, Ranks
from medclm.types import Assignment, Observation

LARGEST_LOSS = float(np.finfo(np.float16).max)
HIDDEN_FROM = 2
"""The smallest lookahead whose exchanges run while the step computes."""


@dataclass(frozen=True)
class Report:
    """What a rank says after a batch."""

    batch_index: int
    losses: torch.Tensor
    """(accumulation * micro,) sample losses of this rank in the order of its slots; any device."""
    applied: bool
    """False when the step was skipped."""
    stop_wanted: bool
    tokens: int = 0
    """Real tokens this rank read for the batch."""
    target_tokens: int = 0
    """Supervised ones among them."""
    peak_memory: int = 0
    """Bytes, the most this rank has held so far."""
    replaced: int = 0
    """Samples of this rank in place of a record that could not be rendered."""


@dataclass(frozen=True)
class _Outcome:
    """What an exchange leaves on one rank."""

    assignment: Assignment | None
    standing: Standing
    """Advanced on rank 0 only."""
    observation: Observation | None


class CurriculumService:
    """One instance a rank; only rank 0 holds a policy state."""

    def __init__(
        self,
        *,
        policy: Policy[Any],
        describe: Describe,
        ranks: Ranks,
        plane: ControlPlane,
        global_batch_size: int,
        micro_batch_size: int,
        lookahead: int,
        total_steps: int,
        seed: int,
        log: AssignmentLog | None = None,
        quarantine_limit: float = 1.0,
    ) -> None:
        """`log` is rank 0's; `describe` says what a global batch consists of (data/stream.py).

        `quarantine_limit`: the largest part of all samples read that may stand in for others.
        """
        self.policy, self.ranks, self.plane, self.log = policy, ranks, plane, log
        self.global_batch_size, self.micro_batch_size, self.lookahead = global_batch_size, micro_batch_size, lookahead
        self.total_steps, self.seed = total_steps, seed
        self.next_batch = 0
        """The batch whose exchange comes next."""
        self.latest: Observation | None = None
        """The newest observation, on rank 0. Each exchange moves on by one at most, so who looks every step misses none."""
        self._decider: Decider | None = None
        if ranks.is_main:
            self._decider = Decider(
                policy=policy,
                describe=describe,
                world_size=ranks.world_size,
                global_batch_size=global_batch_size,
                micro_batch_size=micro_batch_size,
                total_steps=total_steps,
                seed=seed,
                quarantine_limit=quarantine_limit,
            )
        self._report_kind = report_kind(global_batch_size // ranks.world_size)
        self._answer_kind = answer_kind(global_batch_size)
        self._standing = Standing(policy.initial())
        self._pending: tuple[Report, torch.cuda.Event | None] | None = None
        self._in_flight: deque[Assignment] = deque()
        self._unshown: deque[Observation] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="curriculum") if lookahead >= HIDDEN_FROM else None
        self._running: Future[_Outcome] | None = None

    @property
    def state(self) -> Any:
        """The policy's state, on rank 0."""
        return self._standing.state

    @property
    def applied_steps(self) -> int:
        return self._standing.applied_steps

    @property
    def progress(self) -> float:
        """Fraction of the planned run that is done, 0..1, on rank 0."""
        return min(1.0, self._standing.applied_steps / self.total_steps)

    @property
    def fallbacks(self) -> int:
        """Samples so far whose record did not offer the wanted stage, on rank 0."""
        return self._standing.fallbacks

    @property
    def replaced(self) -> int:
        """Samples so far in place of a record that could not be rendered, on rank 0."""
        return self._standing.replaced

    @property
    def totals(self) -> Totals:
        return self._standing.totals

    def start(self) -> list[Assignment]:
        """Assignments known before the first exchange: the first ones, or those in flight after a resume.

        Raises:
            RuntimeError: a rank has another recipe, version or checkpoint; names the key and both values.
        """
        self._greet()
        while len(self._in_flight) < self.lookahead:
            self._take(self._converse(None, self.next_batch - 1, self.next_batch + len(self._in_flight)))
        known = list(self._in_flight)
        return known if self._thread is None else known[:-1]  # the first exchange hands over the last one

    def exchange(self) -> Assignment:
        """Deliver the last report and receive the next assignment. Every rank calls this once a step.

        Returns:
            The stages of the batch `lookahead` ahead; one less where the exchange is hidden: what the last call began.

        Raises:
            RuntimeError: a rank is lost, or has a fault that ends all ranks; says which and why.
        """
        ours, self._pending = self._pending, None
        reported, wanted = self.next_batch - 1, self.next_batch + self.lookahead
        if self._thread is None:
            self._take(self._converse(ours, reported, wanted))
            assignment = self._in_flight[-1]
        else:
            self._join()
            assignment = self._in_flight[-1]
            self._running = self._thread.submit(self._converse, ours, reported, wanted)
        if self._unshown:
            self.latest = self._unshown.popleft()
        self._in_flight.popleft()
        self.next_batch += 1
        return assignment

    def report(self, report: Report) -> None:
        """Hand in a batch's losses; they travel with the next exchange, so nothing waits for them now.

        Raises:
            ValueError: another number of losses than this rank has samples.
        """
        due = self.global_batch_size // self.ranks.world_size
        if report.losses.shape != (due,):
            raise ValueError(
                f"rank {self.ranks.rank}: losses of shape {tuple(report.losses.shape)} for batch {report.batch_index}: give one per "
                f"sample of this rank, ({due},)"
            )
        losses, copied = report.losses.detach(), None
        if losses.is_cuda:  # copy while the device goes on; the event says when the bytes are there
            pinned = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
            pinned.copy_(losses, non_blocking=True)
            losses, copied = pinned, torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._pending = replace(report, losses=losses), copied

    def close(self) -> None:
        """Let an exchange that still runs come to its end. Needed only where a run ends without `state_dict`."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _greet(self) -> None:
        """Find ranks that would not understand each other, before a message of another length ends a process."""
        settings = {
            "train.global_batch_size": self.global_batch_size,
            "train.micro_batch_size": self.micro_batch_size,
            "curriculum.lookahead": self.lookahead,
            "train.steps": self.total_steps,
            "run.seed": self.seed,
            "the checkpoint's next batch": self.next_batch,
        }
        row, reply = greeting(settings, self.policy.name), None
        greetings = self.plane.gather(seal(row), what="the greeting before the first batch")
        if greetings is not None:
            reason = first_difference(greetings, list(settings))
            row["flags"], row["reason"] = ERROR if reason else 0, reason.encode()
            reply = seal(row)
        data = self.plane.broadcast(reply, length=GREETING.itemsize, what="the reply to the greeting")
        answer = read(data[None], GREETING, batch_index=0, receiver=self.ranks.rank)[0]
        if answer["flags"] & ERROR:
            raise RuntimeError(f"rank {self.ranks.rank}: {answer['reason'].decode(errors='ignore')}")

    def _converse(self, ours: tuple[Report, torch.cuda.Event | None] | None, reported: int, wanted: int | None) -> _Outcome:
        """One exchange: gather the reports about batch `reported`, receive the stages of batch `wanted`, agree that all is well.

        Changes nothing of this object: it may run on the service's thread, and `_take` keeps what it returns.
        """
        mine = self.ranks.rank
        losses_of = f"the losses of batch {reported}" if ours else f"the word that batch {reported + 1} comes next"
        stages_of = f"the receipt of {losses_of}" if wanted is None else f"the stages of batch {wanted}"
        reports = self.plane.gather(self._message(ours, reported), what=losses_of)

        standing, observation, message, failure = self._standing, None, None, None
        if self._decider is not None:
            assert reports is not None
            try:
                work = self._decider.answer(standing, reports, reported=reported, wanted=wanted)
                self._write(work, wanted)
                standing, observation, message = work.standing, work.observation, work.message
            except Exception as error:  # whatever a policy or a log does wrong, the others must hear before this rank ends
                failure, reason = error, f"{type(error).__name__}: {error}"
                message = self._decider.refuse(reason, batch_index=reported if wanted is None else wanted)

        data = self.plane.broadcast(message, length=self._answer_kind.itemsize, what=stages_of)
        answer, fault = None, None
        try:
            answer = read(data[None], self._answer_kind, batch_index=reported if wanted is None else wanted, receiver=mine)[0]
        except RuntimeError as error:
            fault = error
        # A rank with a fault tells all the others.
        faulty = self.plane.largest(0 if fault is None else mine + 1, what=stages_of)
        if fault is not None:
            raise fault
        assert answer is not None
        if answer["flags"] & ERROR:
            reason = answer["reason"].decode(errors="ignore")
            raise RuntimeError(f"rank {mine}: rank 0 could not send {stages_of}: {reason}") from failure
        if faulty:
            raise RuntimeError(
                f"rank {mine}: rank {faulty - 1} could not read {stages_of}; its log says what came: resume from the last checkpoint"
            )
        stop = bool(answer["flags"] & STOP)
        assignment = None if wanted is None else Assignment(wanted, answer["stages"].copy(), stop=stop)
        return _Outcome(assignment, standing, observation)

    def _write(self, work: Work, wanted: int | None) -> None:
        if self.log is None:
            return
        if work.observation is not None:
            self.log.observation(work.observation)
        if wanted is not None and work.stages is not None:
            self.log.decision(wanted, progress=work.progress, stages=work.stages)

    def _message(self, ours: tuple[Report, torch.cuda.Event | None] | None, reported: int) -> np.ndarray:
        row = np.zeros(1, self._report_kind)
        if ours is None:
            row["batch_index"], row["flags"] = reported, EMPTY
            return seal(row)
        report, copied = ours
        if copied is not None:
            copied.synchronize()
        row["batch_index"] = report.batch_index
        row["flags"] = (STOP if report.stop_wanted else 0) | (0 if report.applied else SKIPPED)
        row["numbers"] = report.tokens, report.target_tokens, report.peak_memory, report.replaced
        # Clamped to what float16 holds: an infinite loss would stay in the moving averages for ever.
        row["losses"] = report.losses.float().clamp(max=LARGEST_LOSS).numpy().astype("<f2")
        return seal(row)

    def _join(self) -> None:
        """Keep the result of the exchange that runs, if one does; its error is raised here."""
        if self._running is not None:
            running, self._running = self._running, None
            self._take(running.result())

    def _take(self, outcome: _Outcome) -> None:
        self._standing = outcome.standing
        if outcome.observation is not None:
            self._unshown.append(outcome.observation)
        if outcome.assignment is not None:
            self._in_flight.append(outcome.assignment)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed service needs, readable as JSON; complete on rank 0 only. Every rank calls this.

        The pending losses are delivered first, so that nothing is between the lines.
        """
        self._join()
        ours, self._pending = self._pending, None
        self._take(self._converse(ours, self.next_batch - 1, None))
        return {
            "policy": self.policy.name,
            "policy_state": self.policy.to_json(self.state),
            "next_batch": self.next_batch,
            "applied_steps": self.applied_steps,
            "fallbacks": self.fallbacks,
            "replaced": self.replaced,
            "in_flight": [assignment.stages.tolist() for assignment in self._in_flight],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`; every rank gets rank 0's state (it is in the checkpoint's run_state.json).

        Raises:
            ValueError: a state of another policy or lookahead, naming the key.
        """
        if state["policy"] != self.policy.name:
            raise ValueError(
                f"curriculum.policy={self.policy.name}: the checkpoint was written under {state['policy']}; use that"
            )
        if len(state["in_flight"]) != self.lookahead:
            raise ValueError(f"curriculum.lookahead={self.lookahead}: the checkpoint has {len(state['in_flight'])}; use that")
        self.next_batch = int(state["next_batch"])
        self._standing = Standing(
            state=self.policy.from_json(state["policy_state"]),
            applied_steps=int(state["applied_steps"]),
            fallbacks=int(state["fallbacks"]),
            replaced=int(state["replaced"]),
        )
        self._in_flight = deque(
            Assignment(self.next_batch + ahead, np.asarray(stages, dtype=np.uint8), stop=False)
            for ahead, stages in enumerate(state["in_flight"])
        )
        if self._decider is not None:
            self._decider.decided = {assignment.batch_index: assignment.stages for assignment in self._in_flight}
