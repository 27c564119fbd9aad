"""Rank 0's half of the curriculum service: the reports of all ranks in, the stages of a global batch out.

Needs no other process and no file, so that a benchmark can be thousands of ranks at once (benchmarks/curriculum/service.py).
What it knows is a frozen `Standing` that goes in and comes out. Pure; imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medclm.curriculum.messages import EMPTY, ERROR, SKIPPED, STOP, answer_kind, read, report_kind, seal
from medclm.curriculum.policy import GlobalBatch, Policy, decide
from medclm.data.order import rank_slots
from medclm.types import Observation


@dataclass(frozen=True)
class Totals:
    """Sums over all ranks since the run (or its resume) began, and the largest peak memory; on rank 0."""

    tokens: int = 0
    target_tokens: int = 0
    peak_memory: int = 0


@dataclass(frozen=True)
class Standing:
    """What rank 0 knows after an exchange; replaced as a whole, so that a reader never sees half of one."""

    state: Any
    """The policy's."""
    applied_steps: int = 0
    fallbacks: int = 0
    """Samples so far whose record did not offer the wanted stage."""
    totals: Totals = Totals()
    replaced: int = 0
    """Samples so far in place of a record that could not be rendered."""
    stop: bool = False
    """Some rank has asked to stop."""


@dataclass(frozen=True)
class Work:
    """What one exchange leaves on rank 0."""

    standing: Standing
    message: np.ndarray
    """(L,) uint8, to all ranks."""
    observation: Observation | None
    """Of the batch that was reported, if one was."""
    stages: np.ndarray | None
    """(G,) uint8 of the batch that was decided, if one was."""
    progress: float
    """Fraction of the run, 0..1, at that decision."""


LEAST_REPLACED = 10
"""So many replaced samples are never too many: early in a run a few are a large part of what was read."""


class Decider:
    """Turns reports into decisions.

    Args:
        quarantine_limit: the largest part of all samples read that may be replaced ones.
    """

    def __init__(
        self,
        *,
        policy: Policy[Any],
        describe: Callable[[int], GlobalBatch],
        world_size: int,
        global_batch_size: int,
        micro_batch_size: int,
        total_steps: int,
        seed: int,
        quarantine_limit: float = 1.0,
    ) -> None:
        self.policy, self.describe, self.total_steps, self.seed = policy, describe, total_steps, seed
        self.quarantine_limit = quarantine_limit
        # Rank r reads what rank 0 reads, r micro-batches later.
        first_n = rank_slots(global_batch_size, micro_batch_size, 0, world_size).ravel()
        self.slots_Rn = first_n + micro_batch_size * np.arange(world_size)[:, None]
        self._report_kind, self._answer_kind = report_kind(len(first_n)), answer_kind(global_batch_size)
        self.decided: dict[int, np.ndarray] = {}
        """Batch index -> stages (G,) uint8, from the decision to the report."""

    def answer(self, standing: Standing, reports: np.ndarray, *, reported: int, wanted: int | None) -> Work:
        """One exchange's work.

        Args:
            reports: (R, L) uint8, the messages of all ranks about batch `reported`.
            wanted: the batch to decide; None only takes note of the reports.

        Raises:
            RuntimeError: a report of another version, batch or checksum, or missing where others have one; or too many samples
                were replaced.
        """
        standing, observation = self.digest(standing, reports, reported)
        answer = np.zeros(1, self._answer_kind)
        answer["batch_index"] = reported if wanted is None else wanted
        answer["flags"] = STOP if standing.stop else 0
        stages, progress = None, 0.0
        if wanted is not None:
            progress = min(1.0, (standing.applied_steps + wanted - reported - 1) / self.total_steps)
            batch = self.describe(wanted)
            stages, wished = decide(self.policy, standing.state, batch, progress=progress, seed=self.seed)
            standing = replace(standing, fallbacks=standing.fallbacks + int(np.count_nonzero(stages != wished)))
            self.decided[wanted] = answer["stages"][0] = stages
        return Work(standing, seal(answer), observation, stages, progress)

    def refuse(self, reason: str, *, batch_index: int) -> np.ndarray:
        """The message (L,) uint8 that ends all ranks with `reason`."""
        answer = np.zeros(1, self._answer_kind)
        answer["batch_index"], answer["flags"], answer["reason"] = batch_index, ERROR, reason.encode()
        return seal(answer)

    def digest(self, standing: Standing, reports: np.ndarray, batch_index: int) -> tuple[Standing, Observation | None]:
        rows_R = read(reports, self._report_kind, batch_index=batch_index, receiver=0)
        empty_R = rows_R["flags"] & EMPTY > 0
        if empty_R.all():
            return standing, None
        if empty_R.any():
            raise RuntimeError(
                f"rank {int(np.argmax(empty_R))} sent no losses of batch {batch_index} and rank {int(np.argmin(empty_R))} did: "
                "every rank must call report() once a batch"
            )
        flags = int(np.bitwise_or.reduce(rows_R["flags"]))
        applied = not flags & SKIPPED
        losses_G = np.full(self.slots_Rn.size, np.nan, dtype="<f2")
        if applied:
            losses_G[self.slots_Rn] = rows_R["losses"]
        progress = min(1.0, standing.applied_steps / self.total_steps)
        domains_G, stages_G = self.describe(batch_index).domains, self.decided.pop(batch_index)
        observation = Observation(batch_index, progress, domains_G, stages_G, losses_G)
        state = self.policy.observe(standing.state, observation) if applied else standing.state
        tokens_R, target_tokens_R, peak_R, replaced_R = rows_R["numbers"].T
        total = standing.totals
        totals = Totals(
            tokens=total.tokens + int(tokens_R.sum()),
            target_tokens=total.target_tokens + int(target_tokens_R.sum()),
            peak_memory=max(total.peak_memory, int(peak_R.max())),
        )
        replaced = standing.replaced + int(replaced_R.sum())
        self._limit(replaced, (batch_index + 1) * losses_G.size)
        steps, stop = standing.applied_steps + applied, standing.stop or bool(flags & STOP)
        standing = replace(standing, state=state, applied_steps=steps, totals=totals, replaced=replaced, stop=stop)
        return standing, observation

    def _limit(self, replaced: int, read_so_far: int) -> None:
        if replaced > max(LEAST_REPLACED, self.quarantine_limit * read_so_far):
            raise RuntimeError(
                f"{replaced} of {read_so_far} samples are of records that could not be rendered, more than "
                f"data.quarantine_limit={self.quarantine_limit:g}: mend the corpus (quarantine.jsonl in the run folder lists them)"
            )
