"""The fault drill finds what it looks for: its cases are drawn the same again, its verdicts fail where a run is spoilt."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drill import is_finished, read_results, table
from benchmarks.faults.cases import KINDS, STEPS, Attempt, Case, Fault, draw_case
from benchmarks.faults.damage import damage_checkpoint
from benchmarks.faults.endings import wrong_endings
from benchmarks.faults.processes import MARK, alive, end, exit_code
from benchmarks.faults.trace import Trace, read_trace, trace_file
from benchmarks.faults.witness import witness_of

ROOT = Path(__file__).resolve().parents[2]


def test_a_case_is_drawn_the_same_again_and_every_deck_holds_every_kind():
    cases = [draw_case(number, seed=3) for number in range(25)]
    assert cases == [draw_case(number, seed=3) for number in range(25)]
    assert {case.kind for case in cases} == set(KINDS)
    assert cases != [draw_case(number, seed=4) for number in range(25)]


def attempt(folder, *, ranks=2, first=0, last, saves, resumed=None):
    """The notes of an attempt that consumed batches first .. last - 1 of two samples a rank."""
    folder.mkdir(parents=True)
    for rank in range(ranks):
        trace = Trace(trace_file(folder, rank))
        if resumed is not None:
            trace.note("resumed", step=resumed, batch=resumed, folder=f"step_{resumed:06d}")
        for batch in range(first, last):
            positions = [batch * 2 * ranks + rank * 2, batch * 2 * ranks + rank * 2 + 1]
            trace.note("seen", positions=positions, content=positions)
            trace.note("learned", losses=[0.5, 0.25])
            trace.note("counted", batch=batch, applied=True)
            if batch + 1 in saves:
                trace.note("save", step=batch + 1, batch=batch + 1)
    return folder


def test_what_an_attempt_did_after_its_last_checkpoint_does_not_count(tmp_path):
    attempts = [
        attempt(tmp_path / "0", last=8, saves=[3, 6]),
        tmp_path / "1",  # killed before its ranks took a note
        attempt(tmp_path / "2", first=6, last=10, saves=[9, 10], resumed=6),
    ]
    witness = witness_of(attempts, step=10)
    assert witness.broken is None
    assert witness.resumed == [6]
    assert dict(witness.seen) == dict.fromkeys(range(40), 1)


@pytest.mark.parametrize(("first", "lost", "repeated"), [(7, 4, 0), (5, 0, 4)])
def test_a_resume_at_the_wrong_batch_is_seen_as_lost_or_repeated_samples(tmp_path, first, lost, repeated):
    attempts = [
        attempt(tmp_path / "0", last=8, saves=[6]),
        attempt(tmp_path / "1", first=first, last=10, saves=[10], resumed=6),
    ]
    seen = witness_of(attempts, step=10).seen
    assert len(set(range(40)) - set(seen)) == lost
    assert sum(count - 1 for count in seen.values()) == repeated


def test_a_checkpoint_that_nobody_wrote_breaks_the_chain(tmp_path):
    attempts = [
        attempt(tmp_path / "0", last=8, saves=[6]),
        attempt(tmp_path / "1", first=7, last=10, saves=[10], resumed=7),
    ]
    assert witness_of(attempts, step=10).broken == "no attempt noted that it saved step 7, batch 7"


def test_a_line_that_its_writer_could_not_finish_is_left_out(tmp_path):
    Trace(tmp_path / "trace").note("begun")
    with (tmp_path / "trace").open("ab") as file:
        file.write(b'{"at_s": 1.0, "eve')
    assert [event["event"] for event in read_trace(tmp_path / "trace")] == ["begun"]


def test_an_ok_line_counts_and_another_one_only_for_its_own_code():
    case = draw_case(0, seed=0)
    line = {"case": json.loads(json.dumps(asdict(case))), "ok": True, "code": "then"}
    assert is_finished(case, line, code="now")
    assert not is_finished(case, line | {"ok": False}, code="now")
    assert is_finished(case, line | {"ok": False}, code="then")
    assert not is_finished(draw_case(1, seed=0), line, code="then")


def ending(**changes):
    """What is kept of an attempt that a stop signal ended well."""
    told = {"reason": "stopped", "step": 12, "steps": STEPS}
    plain = {"launcher": 0, "ranks": {"0": 0, "1": 0}, "hang": False, "orphans": 0, "fault_at_s": 3.0}
    return plain | {"saved": 12, "batches": 12, "batches_before": 11, "outcome": told} | changes


@pytest.mark.parametrize(
    ("fault", "changes", "wrong"),
    [
        (Fault("SIGTERM"), {}, []),
        (Fault("SIGTERM"), {"ranks": {"0": 0, "1": 143}}, ["SIGTERM ended ranks with"]),
        (Fault("SIGTERM"), {"ranks": {"0": 0, "1": 143}, "batches_before": 0}, []),  # it came before the first step
        (Fault("SIGTERM"), {"outcome": None}, ["outcome.json says None"]),
        (Fault("SIGTERM"), {"orphans": 2}, ["2 processes were left"]),
        (Fault("SIGTERM"), {"hang": True}, ["hung"]),
        (Fault("SIGSTOP", again_s=2.0), {"launcher": 1, "ranks": {"0": 1}}, ["it should have gone on"]),
        (Fault("SIGKILL", target="launcher"), {"launcher": 137, "batches": 14}, []),
        (Fault("SIGKILL", target="launcher"), {"launcher": 137, "batches": 30}, ["nobody noticed for 19 steps"]),
    ],
)
def test_an_attempt_that_ends_otherwise_than_it_should_is_named(fault, changes, wrong):
    found = wrong_endings(Case(0, 0, "stop", (Attempt(fault=fault),)), [ending(**changes)])
    assert len(found) == len(wrong)
    assert all(part in whole for part, whole in zip(wrong, found, strict=True))


@pytest.mark.parametrize("environment", [{}, {MARK: "here"}])
def test_a_process_is_found_by_its_session_or_by_its_mark_until_it_has_ended(environment):
    process = subprocess.Popen(["sleep", "60"], start_new_session=True, env=os.environ | environment)
    try:
        session = -1 if environment else process.pid
        assert alive(session, "here") == [process.pid]
        assert process.pid not in alive(-1, "elsewhere")
    finally:
        end([process.pid])
    deadline = time.monotonic() + 30
    while alive(session, "here"):  # as a zombie it has ended too
        assert time.monotonic() < deadline
    assert exit_code(os.waitpid(process.pid, 0)[1]) == 137
    process.returncode = 137


@pytest.mark.parametrize("how", ["flip", "truncate", "no_manifest", "no_file"])
def test_damage_is_done_to_the_newest_checkpoint_alone(tmp_path, how):
    for step in (5, 10):
        folder = tmp_path / "checkpoints" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        for name in ("manifest.json", "state.pt"):
            (folder / name).write_bytes(b"some content")

    def content(step):
        return {path.name: path.read_bytes() for path in (tmp_path / "checkpoints" / f"step_{step:06d}").iterdir()}

    before = content(10)
    assert damage_checkpoint(tmp_path, how, np.random.default_rng(0)) == "step_000010"
    assert content(5) == before != content(10)


def drill(tmp_path, *more):
    command = [
        sys.executable,
        "benchmarks/drill.py",
        "--work",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path / "lines.jsonl"),
    ]
    return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)


@pytest.mark.slow
def test_a_killed_and_a_stopped_run_end_in_the_bits_of_the_undisturbed_one(tmp_path):
    chosen = {kind: next(n for n in range(25) if draw_case(n, 0).kind == kind) for kind in ("kill", "stop")}
    done = drill(tmp_path, "--cases", str(max(chosen.values()) + 1), "--only", "kill,stop")
    lines = read_results(tmp_path / "lines.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line["case"]["kind"] for line in lines.values()} == {"kill", "stop"}
    for line in lines.values():
        assert (line["lost"], line["repeated"], line["hangs"], line["orphans"], line["bit_equal"]) == (0, 0, 0, 0, True)
    assert table(lines).splitlines()[-1].split("|")[2].strip() == str(len(lines))


@pytest.mark.slow
def test_ranks_of_the_real_launcher_end_in_the_bits_of_forked_ones(tmp_path):
    """The undisturbed run is forked, the case is not: its weights are compared to the bit."""
    number = next(n for n in range(25) if draw_case(n, 0).kind == "launcher")
    done = drill(tmp_path, "--cases", str(number + 1), "--only", "launcher")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = read_results(tmp_path / "lines.jsonl").values()
    assert line["case"]["attempts"][0]["launcher"] == "deepspeed"
    assert line["bit_equal"]
