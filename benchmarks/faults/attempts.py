"""One attempt of a case: start the ranks under a launcher, let the fault happen, watch until nothing of it is left.

Ranks are forked from this process, which has imported everything, below a forked launcher that does what real ones do; one kind
of case uses the real `deepspeed` command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.actions import Place, act
from benchmarks.faults.cases import TIMEOUT_S, Attempt, Case, Fault
from benchmarks.faults.processes import MARK, alive, end, fork, free_port, reap, redirect
from benchmarks.faults.seams import Seams
from benchmarks.faults.trace import Trace, read_trace, trace_file

ROOT = Path(__file__).resolve().parents[2]
ENTRY = Path(__file__).with_name("rank.py")
GRACE_S = 10.0
"""What the forked launcher leaves the others before it kills them; real ones leave 30."""
MARGIN_S = 30.0
"""Beyond every timeout, for a loaded machine."""
WHOLE_S = 150.0
"""Longest undisturbed attempt, start-up included."""
REAL_S = 60.0
"""More than that for the real launcher, whose ranks import everything, and whose grace is longer."""


@dataclass(frozen=True)
class Ending:
    """What became of an attempt."""

    launcher: int | None
    """Exit status of the launcher, 128 + n for signal n; None if it had to be ended."""
    ranks: dict[str, int]
    """Rank -> its exit status, as far as its parent or this process learned it."""
    seconds: float
    fault_at_s: float | None
    """Seconds from the start to the fault; None if its moment never came."""
    notice_s: float | None
    """Seconds from the fault until nothing of the attempt was left, where the fault ends it."""
    hang: bool
    orphans: int


def run_attempt(case: Case, attempt: Attempt, place: Place, flags: Sequence[str]) -> Ending:
    """Start, disturb and watch one attempt; afterwards none of its processes is alive."""
    place.attempt.mkdir(parents=True)
    begun, fault, real = time.monotonic(), attempt.fault, attempt.launcher == "deepspeed"
    start = _start_real if real else _start_forked
    session = start(case, attempt, place, flags)
    own = Trace(trace_file(place.attempt, "drill"))
    extra = REAL_S if real else 0.0
    launcher: int | None = None
    codes: dict[int, int] = {}
    gone_at, waiting, hang, orphans = None, fault is not None and fault.place == "any", False, 0
    while True:
        living = alive(session, str(place.attempt))
        codes |= reap()
        now = time.monotonic()
        if launcher is None and session in codes:
            launcher, gone_at = codes[session], now
        if not living and session in codes:
            break
        if waiting and fault is not None and now - begun >= fault.delay_s:
            waiting = False
            act(fault, place, own)
        struck = _struck(place.attempt)
        limit = begun + WHOLE_S + extra
        if struck is not None and fault is not None and fault.ends:
            limit = struck + TIMEOUT_S + GRACE_S + (fault.again_s or 0.0) + MARGIN_S + extra
        if launcher is None and now > limit:
            hang = True
        if gone_at is not None and now > gone_at + TIMEOUT_S + MARGIN_S:
            orphans = len(living)
        if hang or orphans:
            end(living)
            while alive(session, str(place.attempt)):
                time.sleep(0.05)
        time.sleep(0.05)
    codes |= reap()
    over, struck = time.monotonic(), _struck(place.attempt)
    return Ending(
        launcher=codes.get(session, launcher),
        ranks=_rank_codes(place.attempt, codes),
        seconds=round(over - begun, 2),
        fault_at_s=None if struck is None else round(struck - begun, 2),
        notice_s=None if struck is None or fault is None or not fault.ends else round(over - struck, 2),
        hang=hang,
        orphans=orphans,
    )


def _struck(folder: Path) -> float | None:
    """When the fault happened, in monotonic seconds."""
    times = [event["at_s"] for path in folder.glob("trace-*.jsonl") for event in read_trace(path) if event["event"] == "fault"]
    return min(times, default=None)


def _rank_codes(folder: Path, orphans: dict[int, int]) -> dict[str, int]:
    codes = {str(line["rank"]): int(line["code"]) for line in read_trace(trace_file(folder, "launcher")) if "code" in line}
    for path in folder.glob("process-*.json"):
        process = int(path.read_text(encoding="utf-8").strip("[]").partition(",")[0])
        if process in orphans:
            codes[path.stem.partition("-")[2]] = orphans[process]
    return dict(sorted(codes.items()))


def _start_forked(case: Case, attempt: Attempt, place: Place, flags: Sequence[str]) -> int:
    """A launcher in a session of its own, forked from this process; returns its process id."""
    return fork(lambda: _launch(case, attempt, place, flags))


def _launch(case: Case, attempt: Attempt, place: Place, flags: Sequence[str]) -> int:
    """What a launcher does: start the ranks, pass stop signals on, and (`strict`) end the others when one fails."""
    os.setsid()
    redirect(place.attempt / "launcher.txt")
    trace, asked = Trace(trace_file(place.attempt, "launcher")), []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    port, ranks = free_port(), {}
    for rank in range(attempt.world_size):
        ranks[fork(lambda rank=rank: _be_rank(case, attempt, place, flags, rank, port))] = rank  # type: ignore[misc]
    first, kill_at, passed_on = 0, None, 0
    while ranks:
        for process, code in reap().items():
            rank = ranks.pop(process)
            trace.note("ended", rank=rank, code=code)
            first = first or code
        failed = first != 0 and attempt.launcher == "strict" and kill_at is None
        if failed or len(asked) > passed_on:
            passed_on, kill_at = len(asked), kill_at or time.monotonic() + GRACE_S
            _signal(list(ranks), signal.SIGTERM)
        if kill_at is not None and time.monotonic() > kill_at:
            _signal(list(ranks), signal.SIGKILL)
        time.sleep(0.02)
    return first


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _be_rank(case: Case, attempt: Attempt, place: Place, flags: Sequence[str], rank: int, port: int) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    os.environ.update(environment(rank, attempt.world_size, port))
    return enter(case, attempt.fault, place, flags, rank)


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What a launcher sets for a rank of one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def enter(case: Case, fault: Fault | None, place: Place, flags: Sequence[str], rank: int) -> int:
    """A rank from here on: the drill's seams, then the product."""
    from train.main import main

    redirect(place.attempt / f"rank-{rank}.txt")
    Seams(case, fault, place, rank).install()
    return main(list(flags))


def _start_real(case: Case, attempt: Attempt, place: Place, flags: Sequence[str]) -> int:
    """The deepspeed command; its ranks read their part from files (rank.py). Returns the runner's process id."""
    import pickle

    (place.attempt / "part.pickle").write_bytes(pickle.dumps((case, attempt.fault, place)))
    deepspeed = Path(sys.executable).with_name("deepspeed")
    command = [str(deepspeed), "--num_accelerators", str(attempt.world_size), "--master_port", str(free_port()), str(ENTRY)]
    path = f"{deepspeed.parent}:{os.environ['PATH']}"
    with (place.attempt / "launcher.txt").open("wb") as said:
        process = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            env={**os.environ, "PATH": path, MARK: str(place.attempt)},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    (place.attempt / "runner").write_text(str(process.pid), encoding="utf-8")
    process.returncode = 0  # this process reaps for itself
    return process.pid
