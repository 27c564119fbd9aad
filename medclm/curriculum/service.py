"""The curriculum as a service of rank 0: it decides the stages of every global batch and broadcasts them each step.

One exchange a step, the same on every rank:

    report of batch t-1  --gather-->  rank 0: policy.observe  -> decide batch t + lookahead  --broadcast-->  all ranks

The decision for batch t thus always rests on the losses of the batches up to t - lookahead - 1, whatever the number of ranks
or their speed, so a run is reproducible and its log can be replayed. Both messages have a fixed length and carry their batch
index and a checksum: a rank that gets a wrong one raises and names both. Knows nothing of models, pixels or DeepSpeed.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from medclm.curriculum.log import AssignmentLog, Describe
from medclm.curriculum.policy import Policy, decide
from medclm.data.order import rank_slots
from medclm.distributed import ControlPlane, Ranks
from medclm.types import Assignment, Observation

MESSAGE_VERSION = 1
_HEADER = struct.Struct("<BBqI")  # version, flags, batch index, checksum of what follows
STOP, SKIPPED = 1, 2


def pack(batch_index: int, flags: int, payload: bytes) -> bytes:
    """A message: header and payload."""
    check = zlib.crc32(struct.pack("<Bq", flags, batch_index) + payload)
    return _HEADER.pack(MESSAGE_VERSION, flags, batch_index, check) + payload


def unpack(message: bytes, *, batch_index: int, sender: int, receiver: int) -> tuple[int, bytes]:
    """Flags and payload of a message that must be about `batch_index`.

    Raises:
        RuntimeError: another version, index or checksum; names what came and what was expected.
    """
    version, flags, found, check = _HEADER.unpack_from(message)
    payload = message[_HEADER.size :]
    if version != MESSAGE_VERSION:
        raise RuntimeError(
            f"rank {receiver}: message version {version} from rank {sender}, expected {MESSAGE_VERSION}: mixed installs"
        )
    if found != batch_index:
        raise RuntimeError(f"rank {receiver}: message about batch {found} from rank {sender}, expected batch {batch_index}")
    expected = zlib.crc32(struct.pack("<Bq", flags, found) + payload)
    if check != expected:
        raise RuntimeError(
            f"rank {receiver}: checksum {check:#010x} of batch {found} from rank {sender}, expected {expected:#010x}"
        )
    return flags, payload


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

    def numbers(self) -> np.ndarray:
        """(3,) int64: tokens, target tokens, peak memory."""
        return np.asarray([self.tokens, self.target_tokens, self.peak_memory], dtype="<i8")


@dataclass(frozen=True)
class Totals:
    """Sums over all ranks since the run (or its resume) began, and the largest peak memory; on rank 0."""

    tokens: int = 0
    target_tokens: int = 0
    peak_memory: int = 0


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
    ) -> None:
        """`log` is rank 0's; `describe` says what a global batch consists of (data/stream.py)."""
        self.policy, self.describe, self.ranks, self.plane = policy, describe, ranks, plane
        self.global_batch_size, self.lookahead, self.total_steps, self.seed = global_batch_size, lookahead, total_steps, seed
        self.log = log
        self._slots = [
            rank_slots(global_batch_size, micro_batch_size, rank, ranks.world_size).ravel() for rank in range(ranks.world_size)
        ]
        self.state = policy.initial()
        self.next_batch = 0
        """The batch whose exchange comes next."""
        self.applied_steps = 0
        self.fallbacks = 0
        """Samples so far whose record did not offer the wanted stage (rank 0)."""
        self.latest: Observation | None = None
        self.totals = Totals()
        self._pending: Report | None = None
        self._in_flight: deque[Assignment] = deque()
        self._consumed: Assignment | None = None
        self._stop = False

    def start(self) -> list[Assignment]:
        """Assignments known before the first exchange: the first `lookahead` batches, or those in flight after a resume."""
        while len(self._in_flight) < self.lookahead:
            self._decide(self.next_batch + len(self._in_flight), stop=False)
        return list(self._in_flight)

    def exchange(self) -> Assignment:
        """Deliver the last report, receive the assignment `lookahead` batches ahead. Every rank calls this once a step."""
        self._stop |= self._deliver()
        assignment = self._decide(self.next_batch + self.lookahead, stop=self._stop)
        self._consumed = self._in_flight.popleft()
        self.next_batch += 1
        return assignment

    def report(self, report: Report) -> None:
        """Hand in a batch's losses; they travel with the next exchange, so nothing waits for them now."""
        losses = report.losses.detach()
        if losses.is_cuda:  # copy while the device goes on; the next exchange comes a whole step later
            pinned = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
            pinned.copy_(losses, non_blocking=True)
            losses = pinned
        self._pending = replace(report, losses=losses)

    def _deliver(self) -> bool:
        """Gather the pending reports; rank 0 lets the policy see them. Returns whether any rank wants to stop (rank 0)."""
        if self._pending is None:
            return False
        report, self._pending = self._pending, None
        if torch.cuda.is_available() and report.losses.is_pinned():
            torch.cuda.current_stream().synchronize()
        losses = report.losses.float().numpy().astype("<f2")
        flags = (STOP if report.stop_wanted else 0) | (0 if report.applied else SKIPPED)
        message = pack(report.batch_index, flags, losses.tobytes() + report.numbers().tobytes())
        messages = self.plane.gather(message, what=f"the losses of batch {report.batch_index}")
        if messages is None:
            return False
        return self._observe(report.batch_index, messages)

    def _observe(self, batch_index: int, messages: list[bytes]) -> bool:
        losses, flags_of_all = np.empty(self.global_batch_size, dtype="<f2"), 0
        for rank, message in enumerate(messages):
            flags, payload = unpack(message, batch_index=batch_index, sender=rank, receiver=self.ranks.rank)
            slots = self._slots[rank]
            losses[slots] = np.frombuffer(payload, dtype="<f2", count=len(slots))
            self._add(np.frombuffer(payload, dtype="<i8", offset=2 * len(slots)))
            flags_of_all |= flags
        if flags_of_all & SKIPPED:
            losses[:] = np.nan
        domains = self.describe(batch_index).domains
        progress = min(1.0, self.applied_steps / self.total_steps)
        assert self._consumed is not None
        self.latest = Observation(batch_index, progress, domains, self._consumed.stages, losses)
        if not flags_of_all & SKIPPED:
            self.state = self.policy.observe(self.state, self.latest)
            self.applied_steps += 1
        if self.log is not None:
            self.log.observation(self.latest)
        return bool(flags_of_all & STOP)

    def _add(self, numbers: np.ndarray) -> None:
        tokens, target_tokens, peak = (int(number) for number in numbers)
        total = self.totals
        self.totals = Totals(total.tokens + tokens, total.target_tokens + target_tokens, max(total.peak_memory, peak))

    def _decide(self, batch_index: int, *, stop: bool) -> Assignment:
        message = None
        if self.ranks.is_main:
            progress = min(1.0, (self.applied_steps + batch_index - self.next_batch) / self.total_steps)
            batch = self.describe(batch_index)
            stages, wanted = decide(self.policy, self.state, batch, progress=progress, seed=self.seed)
            self.fallbacks += int((stages != wanted).sum())
            if self.log is not None:
                self.log.decision(batch_index, progress=progress, stages=stages)
            message = pack(batch_index, STOP if stop else 0, stages.tobytes())
        what = f"the stages of batch {batch_index}"
        message = self.plane.broadcast(message, length=_HEADER.size + self.global_batch_size, what=what)
        flags, payload = unpack(message, batch_index=batch_index, sender=0, receiver=self.ranks.rank)
        assignment = Assignment(batch_index, np.frombuffer(payload, dtype=np.uint8), stop=bool(flags & STOP))
        self._in_flight.append(assignment)
        return assignment

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed service needs, readable as JSON; complete on rank 0 only. Every rank calls this.

        The pending losses are delivered first, so that nothing is between the lines.
        """
        self._stop |= self._deliver()
        if self.log is not None:
            self.log.flush()
        return {
            "policy": self.policy.name,
            "policy_state": self.policy.to_json(self.state),
            "next_batch": self.next_batch,
            "applied_steps": self.applied_steps,
            "fallbacks": self.fallbacks,
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
        self.state = self.policy.from_json(state["policy_state"])
        self.next_batch, self.applied_steps = int(state["next_batch"]), int(state["applied_steps"])
        self.fallbacks = int(state["fallbacks"])
        self._in_flight = deque(
            Assignment(self.next_batch + ahead, np.asarray(stages, dtype=np.uint8), stop=False)
            for ahead, stages in enumerate(state["in_flight"])
        )
