"""Which samples are in the final weights, from the ranks' own notes and the chain of checkpoints that the attempts resumed from.

The last attempt's notes count from where it resumed; before that, those of the attempt that wrote that checkpoint, up to its
saving; and so on back to a start from nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.trace import read_trace

Events = list[dict[str, Any]]


@dataclass
class Witness:
    """What the model of one step was made of."""

    seen: Counter[int] = field(default_factory=Counter)
    """Position -> how often it was consumed."""
    content: dict[int, int] = field(default_factory=dict)
    """Position -> checksum of what the model got."""
    losses: dict[int, float] = field(default_factory=dict)
    """Position -> loss."""
    applied: dict[int, bool] = field(default_factory=dict)
    """Batch -> whether it became an update."""
    resumed: list[int] = field(default_factory=list)
    """Steps that were resumed from, the last first."""
    broken: str | None = None
    """Why the chain of checkpoints could not be followed."""


def rank_traces(attempt: Path) -> list[Events]:
    """The notes of an attempt's ranks."""
    return [read_trace(path) for path in sorted(attempt.glob("trace-[0-9].jsonl"))]


def witness_of(attempts: list[Path], step: int) -> Witness:
    """What the checkpoint of `step` holds, which the last of `attempts` (in order) has written.

    A start that ended before its ranks took a note left nothing and is passed over.
    """
    witness, traces = Witness(), [rank_traces(attempt) for attempt in attempts]
    later, batch = len(traces), max((batch for events in traces[-1] for batch in _saves(events, step)), default=-1)
    while True:
        # A step without an update ends a batch all the same, so that only step and batch together name a checkpoint.
        wrote = [one for one in range(later) if traces[one] and all(batch in _saves(events, step) for events in traces[one])]
        if not wrote:
            witness.broken = f"no attempt noted that it saved step {step}, batch {batch}"
            return witness
        later = wrote[-1]
        for events in traces[later]:
            _add(witness, events, step, batch)
        origins = {
            (event["step"], event["batch"]) for events in traces[later] for event in events if event["event"] == "resumed"
        }
        if not origins:
            return witness
        if len(origins) > 1:
            witness.broken = f"the ranks of one attempt resumed from steps and batches {sorted(origins)}"
            return witness
        step, batch = origins.pop()
        witness.resumed.append(step)


def _saves(events: Events, step: int) -> set[int]:
    """Batches after which a rank began to save `step`."""
    return {event["batch"] for event in events if event["event"] == "save" and event["step"] == step}


def _add(witness: Witness, events: Events, step: int, until: int) -> None:
    """One rank's part, up to its saving of `step` after batch `until`; a batch counts once the loop has counted it."""
    batch: list[tuple[int, int]] = []
    losses: list[float] = []
    for event in events:
        if event["event"] == "seen":
            batch += zip(event["positions"], event["content"], strict=True)
        elif event["event"] == "learned":
            losses += event["losses"]
        elif event["event"] == "counted":
            for (position, content), loss in zip(batch, losses, strict=True):
                witness.seen[position] += 1
                witness.content[position], witness.losses[position] = content, loss
            witness.applied[event["batch"]] = event["applied"]
            batch, losses = [], []
        elif event["event"] == "save" and (event["step"], event["batch"]) == (step, until):
            return
