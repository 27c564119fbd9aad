"""A build that is killed twenty times, while it works and while it finishes, ends in the bytes of an undisturbed one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS, AT_THE_END = 20, 4
PARTS, IMAGES_PER_PART = 100, 4


def start(out: Path) -> subprocess.Popen[str]:
    flags = ["--count", str(PARTS * IMAGES_PER_PART), "--size", "64", "--images-per-part", str(IMAGES_PER_PART)]
    command = [sys.executable, "launch/corpus.py", "phantoms", *flags, "--workers", "2", "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def parts(out: Path) -> int:
    return len(list((out / ".parts").glob("part-*.arrow")))


@pytest.mark.slow
def test_twenty_random_kills_change_no_byte(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    assert whole.wait(timeout=120) == 0
    out, draw = tmp_path / "killed", np.random.default_rng(0)
    targets = sorted(int(one) for one in draw.integers(0, PARTS, KILLS - AT_THE_END)) + [PARTS] * AT_THE_END
    killed = 0
    for target in targets:
        process = start(out)
        deadline = time.monotonic() + 60
        while parts(out) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(draw.uniform(0, 0.15)))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait(timeout=60)
        if (out / "manifest.json").exists():  # it was quicker than the last kills
            break
    assert killed >= KILLS - AT_THE_END
    if not (out / "manifest.json").exists():
        last = start(out)
        said, _ = last.communicate(timeout=120)
        assert last.returncode == 0, said
    assert digests(out) == digests(tmp_path / "whole")
    print(f"{killed} kills")
