"""Signals, a launcher that goes, a time limit: what makes a rank want to stop, with real processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.stops import Stops

ROOT = Path(__file__).resolve().parents[2]
WAITS = """
import sys, time, os
from train.stops import Stops
stops = Stops(rank=3, launched=True)
stops.watch()
print("ready", os.getpid(), flush=True)
end = time.monotonic() + 20
while not stops.wanted and time.monotonic() < end:
    time.sleep(0.02)
print("wanted", stops.reason, flush=True)
{then}
"""


def waiting(then, **options):
    """A process that waits for a stop and then does `then`; returned when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS.format(then=then)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline().startswith("ready")
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_a_wish_and_not_the_end(number):
    process = waiting("")
    process.send_signal(number)
    told, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told == f"wanted {number.name}\n"
    assert f"rank 3: {number.name}: all ranks stop after the same step and save" in said


def test_a_second_signal_ends_at_once_even_where_python_runs_no_handler():
    """The main thread is inside one long call of C, as in a collective that waits for a lost peer."""
    process = waiting("import ctypes; ctypes.PyDLL(None); ctypes.CDLL(None).sleep(30); ctypes.CDLL(None).sleep(30)")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("wanted")
    time.sleep(1.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "SIGINT again: ending at once, without saving" in said


def test_what_a_launcher_repeats_is_the_same_wish():
    process = waiting("time.sleep(0.5)")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_launcher_that_is_killed_is_noticed(tmp_path):
    """A shell starts the waiting process and is killed; nobody signals the process itself."""
    script = tmp_path / "waits.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + WAITS.format(then=""))
    out = tmp_path / "out"
    launcher = subprocess.Popen(["bash", "-c", f"{sys.executable} {script} > {out} 2>&1; true"])
    until(lambda: out.exists() and "ready" in out.read_text())
    orphan = int(out.read_text().split()[1])
    launcher.kill()
    launcher.wait()
    until(lambda: "wanted the launcher that started this process is gone" in out.read_text())
    until(lambda: not Path(f"/proc/{orphan}").exists() or "Z" in Path(f"/proc/{orphan}/stat").read_text().split()[2])


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_time_limit():
    assert Stops(rank=0, after_s=0.0).wanted
    assert Stops(rank=0, after_s=0.0).reason == "run.stop_after_min is over"
    assert not Stops(rank=0, after_s=3600).wanted
    assert not Stops(rank=0).wanted
