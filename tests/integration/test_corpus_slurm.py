"""A corpus built by a Slurm job array holds the bytes of one undisturbed process, also when tasks were stopped half-way.

The slow tests submit to a real Slurm of their own (tests/slurm.py); the fast ones run the same script as Slurm would.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import Slurm, missing, slurm_cluster, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "launch/slurm/corpus.sbatch"
TASKS = 3
TINY = ["--source", "phantoms", "--count", "12", "--size", "64", "--images-per-part", "2"]
# enough parts that a task can be stopped between two of them
MANY = ["--source", "phantoms", "--count", "180", "--size", "128", "--images-per-part", "2"]
PARTS_OF_ONE = 180 // 2 // TASKS


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def environment() -> dict[str, str]:
    """Ours, without a Slurm that may be around these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "OMP_NUM_THREADS": "1"}


def whole(flags: list[str], out: Path) -> dict[str, str]:
    """What one process builds."""
    command = [sys.executable, "launch/corpus.py", "build", *flags, "--workers", "1", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=120)
    return digests(out)


def script(*arguments: object, cwd: Path = ROOT, **slurm: object) -> subprocess.CompletedProcess[str]:
    """The script as a node would run it; `slurm` gives variables without their prefix."""
    variables = {f"SLURM_{name}": str(value) for name, value in {"SUBMIT_DIR": cwd, **slurm}.items()}
    return subprocess.run(
        ["bash", str(ROOT / SCRIPT), *map(str, arguments)],
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def array(number: int, first: int, last: int, step: int = 1) -> dict[str, int]:
    count = (last - first) // step + 1
    return {"ARRAY_TASK_ID": number, "ARRAY_TASK_COUNT": count, "ARRAY_TASK_MIN": first, "ARRAY_TASK_MAX": last}


def test_the_script_run_for_three_tasks_and_a_merge_gives_the_bytes_of_one_process(tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    for number in (2, 0, 1):
        done = script("build", *TINY, "--out", out, **array(number, 0, TASKS - 1))
        assert done.returncode == 0, done.stderr
        assert f"2 parts of task {number}/{TASKS} are done" in done.stdout
    done = script("merge", out, "--out", out)
    assert done.returncode == 0, done.stderr
    assert digests(out) == whole(TINY, tmp_path / "whole")


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        ("build", {}, "number the tasks from 0 without gaps"),
        ("build", array(3, 3, 3), "number the tasks from 0 without gaps"),
        ("build", array(1, 1, 2), "number the tasks from 0 without gaps"),
        ("build", array(4, 0, 6, step=2), "number the tasks from 0 without gaps"),
        ("merge", array(0, 0, 7), "merge: is one job: call sbatch without --array"),
        ("export", {}, "'export': give build or merge"),
    ],
)
def test_an_array_that_would_leave_parts_out_is_refused_at_once(
    tmp_path: Path, command: str, variables: dict[str, int], message: str
) -> None:
    done = script(command, *TINY, "--out", tmp_path / "corpus", **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "corpus").exists()


def test_a_job_submitted_outside_the_repository_is_told_so(tmp_path: Path) -> None:
    done = script("merge", tmp_path, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no launch/corpus.py: call sbatch in the repository" in done.stderr


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    absent = missing()
    if absent:
        pytest.skip(absent)
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return whole(MANY, tmp_path_factory.mktemp("whole") / "corpus")


def submit(slurm: Slurm, out: Path, *merging: str) -> tuple[str, str]:
    """The two commands of the script's head, for nodes of this size; numbers of the array and of the merge."""
    small = ["--cpus-per-task=1", "--mem=0", f"--output={out.parent}/%x-%j.out"]
    call = {"cwd": ROOT, "env": environment()}
    job = slurm.sbatch(f"--array=0-{TASKS - 1}", *small, SCRIPT, "build", *MANY, "--out", out, **call)
    after = f"--dependency=afterok:{job}"
    return job, slurm.sbatch(after, *merging, *small, SCRIPT, "merge", out, "--out", out, **call)


def parts_of(out: Path, task: int) -> dict[str, int]:
    """Finished parts of a task and when each was written."""
    found = sorted((out / ".parts").glob("part-*.arrow"))
    return {path.name: path.stat().st_mtime_ns for path in found if int(path.stem.removeprefix("part-")) % TASKS == task}


def stopped_half_way(slurm: Slurm, out: Path, job: str, *command: str) -> dict[str, int]:
    """Use `command` on task 1 when it has finished some of its parts; those parts."""
    wait_until(lambda: len(parts_of(out, 1)) >= 2, timeout_s=40, what=lambda: f"parts of task 1: {slurm.states(job)}")
    slurm.call(*command, f"{job}_1")
    wait_until(lambda: slurm.states(job)[f"{job}_1"] in ("PENDING", "CANCELLED"), timeout_s=20, what=lambda: "task 1 to stop")
    finished = parts_of(out, 1)
    assert 2 <= len(finished) < PARTS_OF_ONE, "the task was not stopped in the middle"
    return finished


def logs(out: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(out.parent.glob("*.out")))


@pytest.mark.slow
def test_a_requeued_task_goes_on_and_the_corpus_is_that_of_one_process(
    slurm: Slurm, expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    job, merge = submit(slurm, out, "--hold")
    finished = stopped_half_way(slurm, out, job, "scontrol", "requeue")
    assert set(slurm.wait(job, timeout_s=60).values()) == {"COMPLETED"}, logs(out)
    everything = parts_of(out, 1)
    assert len(everything) == PARTS_OF_ONE
    assert {name: everything[name] for name in finished} == finished, "finished parts were built again"
    assert "restarts: 1" in logs(out)
    slurm.call("scontrol", "release", merge)
    assert slurm.wait(merge, timeout_s=60) == {merge: "COMPLETED"}, logs(out)
    assert digests(out) == expected


@pytest.mark.slow
def test_a_cancelled_task_cancels_the_merge_and_the_same_two_commands_finish_the_corpus(
    slurm: Slurm, expected: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    job, merge = submit(slurm, out)
    stopped_half_way(slurm, out, job, "scancel")
    assert slurm.wait(job, timeout_s=60)[f"{job}_1"] == "CANCELLED"
    assert slurm.wait(merge, timeout_s=60) == {merge: "CANCELLED"}
    assert not (out / "manifest.json").exists()
    job, merge = submit(slurm, out)
    assert set(slurm.wait(job, timeout_s=60).values()) == {"COMPLETED"}, logs(out)
    assert slurm.wait(merge, timeout_s=60) == {merge: "COMPLETED"}, logs(out)
    assert digests(out) == expected
