"""How the attempts of a case ended, and whether that is how they should."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.faults.actions import Place
from benchmarks.faults.cases import STOPS, Case, Fault
from benchmarks.faults.trace import read_trace

NOTICED_BY = 15
"""Steps after the loss of a launcher (0.3 s each at least) by which ranks must have stopped."""

Endings = list[dict[str, Any]]
"""What conduct.py keeps of each attempt: an `Ending` and an `outcome`."""


def outcome(place: Place) -> dict[str, Any]:
    """From the notes of an attempt, of its slowest rank: the last step it began to save, batches counted in all and before the fault."""
    traces = [read_trace(path) for path in sorted(place.attempt.glob("trace-*.jsonl"))]
    struck = min((event["at_s"] for events in traces for event in events if event["event"] == "fault"), default=0.0)
    ranks = [events for events in traces if any(event["event"] == "begun" for event in events)]
    counted = [[event["at_s"] for event in events if event["event"] == "counted"] for events in ranks]
    saves = [max((event["step"] for event in events if event["event"] == "save"), default=-1) for events in ranks]
    try:
        told = json.loads((place.run / "outcome.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = None
    return {
        "saved": min(saves, default=-1),
        "batches": min(map(len, counted), default=0),
        "batches_before": min((sum(time < struck for time in times) for times in counted), default=0),
        "outcome": told,
    }


def finished(case: Case, endings: Endings) -> bool:
    """Whether the last attempt says that the run is done."""
    return bool(endings) and endings[-1]["launcher"] == 0 and endings[-1]["saved"] == case.steps


def wrong_endings(case: Case, endings: Endings) -> list[str]:
    """What was wrong with how the attempts ended."""
    wrong = []
    for number, ending in enumerate(endings):
        fault = case.attempts[number].fault if number < len(case.attempts) else None
        faults = [*_left(ending), *_told(case, ending)]
        if fault is not None and ending["fault_at_s"] is not None:
            faults += _after(case, fault, ending)
        wrong += [f"attempt {number}: {what}" for what in faults]
    return wrong


def _left(ending: dict[str, Any]) -> list[str]:
    hung = ["hung"] if ending["hang"] else []
    return hung + ([f"{ending['orphans']} processes were left"] if ending["orphans"] else [])


def _told(case: Case, ending: dict[str, Any]) -> list[str]:
    reason = ending["outcome"] and ending["outcome"]["reason"]
    expected = "finished" if ending["saved"] == case.steps else "stopped"
    if ending["launcher"] == 0 and reason != expected:
        return [f"exit status 0 after step {ending['saved']}, and outcome.json says {reason}"]
    return []


def _after(case: Case, fault: Fault, ending: dict[str, Any]) -> list[str]:
    codes = [*ending["ranks"].values(), ending["launcher"]]
    goes_on = not fault.ends and fault.action in ("SIGSTOP", "clock", "tracker_killed", "tracker_frozen")
    if goes_on and any(codes):
        return [f"{fault.action} ended it with {codes}, it should have gone on"]
    polite = fault.action in STOPS and fault.again_s is None and fault.target != "runner"
    if polite and ending["batches_before"] > 0 and any(ending["ranks"].values()):
        return [f"{fault.action} ended ranks with {ending['ranks']}, expected a save and 0"]
    left_alone = fault.action == "SIGKILL" and fault.target in ("launcher", "runner")
    if left_alone and ending["batches_before"] < ending["batches"] - NOTICED_BY:
        return [f"nobody noticed for {ending['batches'] - ending['batches_before']} steps that the {fault.target} was gone"]
    return []
