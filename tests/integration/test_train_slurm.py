"""Training and evaluation as Slurm jobs: whatever interrupts them, they end as if nothing had.

The slow tests submit to a real Slurm of their own with two nodes (tests/slurm.py); the fast ones run the scripts as Slurm would.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medclm.curriculum.log import read_log
from medclm.data.testing import write_small_corpus
from tests import slurm_network
from tests.documented import documented
from tests.slurm import idle, missing, processes_of, slurm_cluster, wait_until
from tests.tiny_runs import assert_same_run, write_recipe

ROOT = Path(__file__).resolve().parents[2]
TRAIN, EVALUATE = "launch/slurm/train.sbatch", "launch/slurm/evaluate.sbatch"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
STEPS, LOG_EVERY = 120, 5
TIMEOUT_S = 30
DEEPSPEED = "--deepspeed=ds_configs/zero3.json"
SMALL = {"--gpus-per-node=8": [], "--ntasks-per-node=8": ["--ntasks-per-node=1", "--cpus-per-task=1"]}
"""The page's commands for nodes of this size."""


def script(name, *arguments, cwd=ROOT, **slurm):
    """The script as a node would run it; `slurm` gives variables without their prefix."""
    kept = {variable: value for variable, value in os.environ.items() if not variable.startswith(("SLURM", "SBATCH"))}
    variables = {f"SLURM_{variable}": str(value) for variable, value in {"SUBMIT_DIR": cwd, **slurm}.items()}
    return subprocess.run(
        ["bash", str(ROOT / name), *map(str, arguments)],
        env={**kept, "PATH": PATH, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", [TRAIN, EVALUATE])
def test_a_job_submitted_outside_the_repository_is_told_so(tmp_path, name):
    done = script(name, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no launch/slurm/ranks.sh: call sbatch in the repository" in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (TRAIN, [DEEPSPEED, "--resume=never"], "--resume: leave it out"),
        (TRAIN, [DEEPSPEED, "--train.step=3"], "unknown key train.step: did you mean train.steps?"),
        (TRAIN, [], "the following arguments are required: --deepspeed"),
        (EVALUATE, ["--checkpoint", "runs/x"], "give --out DIR"),
    ],
)
def test_wrong_use_is_refused_before_a_rank_starts(name, arguments, message):
    done = script(name, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [[], ["--run.name=films"], ["--run.seed=%a"]])
def test_an_array_whose_tasks_would_share_a_run_folder_is_refused(flags):
    done = script(TRAIN, DEEPSPEED, *flags, ARRAY_TASK_ID=1)
    assert done.returncode == 2
    assert "give --run.name=NAME-%a --run.seed=%a" in done.stderr
    done = script(EVALUATE, "--checkpoint", "runs/films-%a", "--out", "evals", ARRAY_TASK_ID=1)
    assert done.returncode == 2
    assert "give --out DIR/%a" in done.stderr


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    done = script(TRAIN, DEEPSPEED, TASKS_PER_NODE="1(x2)", GPUS_ON_NODE=8)
    assert done.returncode == 2
    assert "8 GPU(s) and 1 task(s) on a node: a rank has one GPU: give --ntasks-per-node=8" in done.stderr


def shell(commands, *arguments, **environment):
    """Lines that `commands` print after ranks.sh was sourced."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"source launch/slurm/ranks.sh; {commands}", "bash", *arguments],
        cwd=ROOT,
        env={"PATH": PATH, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.stdout.splitlines()


def test_an_array_writes_the_number_of_its_task_into_the_arguments():
    given = ["--run.name=films-%a", "--checkpoint=step_%6a-of-%a", "50% a", "--x=%d"]
    numbered = 'number_arguments "$@"; printf "%s\\n" "${arguments[@]}"'
    shown = shell(numbered, *given, SLURM_ARRAY_TASK_ID="12")
    assert shown == ["--run.name=films-12", "--checkpoint=step_000012-of-12", "50% a", "--x=%d"]
    assert shell(numbered, *given) == given


@pytest.fixture
def programs(tmp_path):
    """A folder that stands first on the PATH, with an `srun` that starts two ranks one after the other."""
    (tmp_path / "srun").write_text(
        '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\n'
        'for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=0 SLURM_NTASKS=2 SLURMD_NODENAME=n1 "$@" || exit; done\n'
    )
    (tmp_path / "srun").chmod(0o755)
    return tmp_path


def test_a_rank_gets_its_place_and_its_node_s_own_cache(programs, tmp_path):
    told = tmp_path / "told.py"
    told.write_text("import os, sys; print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')), *sys.argv[1:])")
    environment = {"PATH": f"{programs}:{PATH}", "NODE_DISK": "/disk"}
    shown = shell('start_ranks "$@"', str(told), "--data.cache=$NODE_DISK/medclm", "--run.name=$NODE_DISK", **environment)
    assert shown == [f"{rank} 0 2 --data.cache=/disk/medclm --run.name=$NODE_DISK" for rank in (0, 1)]
    refused = shell('start_ranks "$@" 2>&1 || echo "status $?"', str(told), "--data.cache=${NOWHERE}", **environment)
    assert refused == [
        "error: --data.cache=${NOWHERE}: n1 sets no NOWHERE: name a variable of the node, or a folder",
        "status 2",
    ]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if absent := missing():
        pytest.skip(absent)
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


def submit(slurm, out, *begin, instead, sbatch=(), **environment):
    """The page's command that begins so, for this machine, logging to `out`; the job's number."""
    out.mkdir(exist_ok=True)
    environment = {"PATH": PATH, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
    _, *words = documented("sbatch", *begin, instead={**SMALL, **instead})
    return slurm.sbatch(f"--output={out}/%x-%j.out", *sbatch, *words, cwd=ROOT, env=environment)


def train(slurm, corpus, out, *more, timeout_s=TIMEOUT_S, sbatch=(), **environment):
    """A job on two nodes, one rank each, that trains out/films."""
    out.mkdir(exist_ok=True)
    recipe = write_recipe(out / "tiny.yaml", steps=STEPS, log_every=LOG_EVERY, checkpoint_every=30, timeout_s=timeout_s)
    here = {
        "train/configs/vip_llava_7b.yaml": [recipe],
        "--data.corpus=corpora/films": [f"--data.corpus={corpus}"],
        "--run.name=films": ["--run.name=films", f"--run.output_dir={out}", *more],
    }
    return submit(slurm, out, "--nodes=2", instead=here, sbatch=sbatch, **environment)


def log(out):
    return "\n".join(path.read_text(errors="replace") for path in sorted(out.glob("*.out")))


def losses(run):
    """Step -> loss at every logged step; of a step that was repeated, the last."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.is_file() else []
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def until_step(slurm, run, job, step):
    wait_until(
        lambda: max(losses(run), default=0) >= step,
        timeout_s=240,
        what=lambda: f"step {step}: {slurm.states(job)}\n{log(run.parent)}",
    )
    assert max(losses(run)) < STEPS, "the run was over before it could be interrupted"


def until(slurm, job, out, *states, timeout_s=90):
    wait_until(
        lambda: set(slurm.states(job).values()) <= set(states),
        timeout_s=timeout_s,
        what=lambda: f"{job} to be {states}: {slurm.states(job)}\n{log(out)}",
    )


def until_alone(slurm, daemons):
    """Wait until nothing of any job is left, on either node."""
    wait_until(
        lambda: set(processes_of(slurm)) <= set(daemons),
        timeout_s=TIMEOUT_S + 60,
        what=lambda: f"the end of processes {set(processes_of(slurm)) - set(daemons)}",
    )


def completed(slurm, job, out):
    assert set(slurm.wait(job, timeout_s=240).values()) == {"COMPLETED"}, log(out)


def assert_finished_as(run, other):
    """The same weights, decisions and losses, and the same curve."""
    assert json.loads((run / "outcome.json").read_text()) == {"reason": "finished", "step": STEPS, "steps": STEPS}
    assert_same_run(run, other, steps=STEPS)
    again = [int(step) for step in re.findall(r"resume: from \S*step_(\d+)", log(run.parent))]
    # a line of metrics.jsonl is the mean of the losses that came since the one before; they come a step late, and after a restart
    # there are fewer of them
    whole = {step for step in losses(other) if not any(first < step <= first + LOG_EVERY + 1 for first in again)}
    assert {step: losses(run)[step] for step in whole} == {step: losses(other)[step] for step in whole}


@pytest.fixture(scope="module")
def undisturbed(slurm, corpus, tmp_path_factory):
    """A job on two nodes that nobody interrupts."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    job = train(slurm, corpus, out)
    completed(slurm, job, out)
    assert "on n[1-2], 1 rank(s) a node" in log(out)
    assert "restarts: 0" in log(out)
    return out / "films"


@pytest.mark.slow
def test_a_run_that_is_requeued_and_then_preempted_is_the_undisturbed_run(slurm, corpus, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    job = train(slurm, corpus, tmp_path, "--data.cache=$NODE_DISK/corpora", NODE_DISK=str(disk))
    until_step(slurm, tmp_path / "films", job, 20)
    assert list((disk / "corpora").glob("*/manifest.json")), "no copy of the corpus on the node's disk"
    slurm.call("scontrol", "requeue", job)
    until(slurm, job, tmp_path, "PENDING")
    assert json.loads((tmp_path / "films" / "outcome.json").read_text())["reason"] == "stopped"
    stopped = max(losses(tmp_path / "films"))
    until_step(slurm, tmp_path / "films", job, stopped + 20)
    urgent = slurm.sbatch(
        "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1", cwd=tmp_path
    )
    assert slurm.wait(urgent, timeout_s=90) == {urgent: "COMPLETED"}
    completed(slurm, job, tmp_path)
    assert log(tmp_path).count("stopped at step") == 2
    assert "restarts: 2" in log(tmp_path)
    assert_finished_as(tmp_path / "films", undisturbed)


@pytest.mark.slow
def test_a_run_that_meets_its_time_limit_puts_itself_back_and_is_the_undisturbed_run(slurm, corpus, undisturbed, tmp_path):
    job = train(slurm, corpus, tmp_path, timeout_s=120, sbatch=["--time=60", "--signal=USR1@90"])
    until_step(slurm, tmp_path / "films", job, 20)
    ranks = ranks_of(slurm)
    assert len(ranks) == 2
    # Slurm looks at time limits twice a minute, and this run is not so long: the ranks sleep until its signal wakes them.
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    minutes = int(slurm.call("squeue", "--noheader", f"--jobs={job}", "--format=%M").strip().split(":")[-2])
    slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")
    until(slurm, job, tmp_path, "PENDING")
    slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    completed(slurm, job, tmp_path)
    assert "SIGUSR1: all ranks stop after the same step and save" in log(tmp_path)
    assert "requeued at step_" in log(tmp_path)
    assert_finished_as(tmp_path / "films", undisturbed)


@pytest.mark.slow
def test_a_run_whose_node_dies_goes_on_when_the_node_is_back_and_is_the_undisturbed_run(slurm, corpus, undisturbed, tmp_path):
    daemons = processes_of(slurm)
    job = train(slurm, corpus, tmp_path)
    until_step(slurm, tmp_path / "films", job, 60)
    slurm.kill_node("n2")
    until(slurm, job, tmp_path, "PENDING")
    assert re.search(r"rank 0.*another rank", log(tmp_path))
    until_alone(slurm, daemons)
    slurm.start_node("n2")
    completed(slurm, job, tmp_path)
    assert_finished_as(tmp_path / "films", undisturbed)


def ranks_of(slurm):
    """Process ids of the running ranks."""
    found = []
    for pid in processes_of(slurm):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"python\0launch/train.py\0"):
                found.append(pid)
    return found


@pytest.mark.slow
def test_a_run_whose_node_is_cut_off_goes_on_when_the_cable_is_back_and_is_the_undisturbed_run(corpus, undisturbed, tmp_path):
    if absent := slurm_network.missing():
        pytest.skip(absent)
    with (
        slurm_network.cabled(("n1", "n2")) as cable,
        slurm_cluster(tmp_path / "slurm", cable=cable) as slurm,
    ):
        daemons, out = processes_of(slurm), tmp_path / "runs"
        job = train(slurm, corpus, out, GLOO_SOCKET_IFNAME=slurm_network.INTERFACE)
        until_step(slurm, out / "films", job, 60)
        cable.plug(False)
        until(slurm, job, out, "PENDING", timeout_s=TIMEOUT_S + 90)
        assert re.search(r"rank 0.*(no answer within|Timed out waiting)", log(out))
        # on both sides: the step's own daemon on the lonely node lives on until it has told the controller
        wait_until(lambda: not ranks_of(slurm), timeout_s=TIMEOUT_S + 60, what=lambda: f"the end of ranks {ranks_of(slurm)}")
        cable.plug(True)
        completed(slurm, job, out)
        until_alone(slurm, daemons)
    assert_finished_as(out / "films", undisturbed)


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled_and_the_same_command_finishes_its_run(slurm, corpus, undisturbed, tmp_path):
    job = train(slurm, corpus, tmp_path)
    until_step(slurm, tmp_path / "films", job, 20)
    slurm.call("scancel", job)
    assert slurm.wait(job, timeout_s=60) == {job: "CANCELLED"}
    wait_until(lambda: idle(slurm), timeout_s=60, what=lambda: "the nodes to be free")
    assert slurm.states(job) == {job: "CANCELLED"}
    assert json.loads((tmp_path / "films" / "outcome.json").read_text())["reason"] == "stopped"
    completed(slurm, train(slurm, corpus, tmp_path), tmp_path)
    assert_finished_as(tmp_path / "films", undisturbed)


@pytest.mark.slow
def test_a_run_that_fails_before_its_first_checkpoint_is_not_restarted(slurm, tmp_path):
    job = train(slurm, tmp_path / "no-corpus", tmp_path)
    assert slurm.wait(job, timeout_s=120) == {job: "FAILED"}
    assert "no-corpus" in log(tmp_path)
    assert "requeued" not in log(tmp_path)


@pytest.mark.slow
def test_a_job_that_comes_no_further_is_given_up_after_three_attempts(slurm, tmp_path):
    (tmp_path / "films" / "checkpoints" / "step_000040").mkdir(parents=True)  # no manifest: it never verifies
    job = train(slurm, tmp_path, tmp_path)
    assert slurm.wait(job, timeout_s=240) == {job: "FAILED"}
    assert log(tmp_path).count("requeued at step_000040 after status") == 2
    assert "3 attempts in a row came no further than step_000040" in log(tmp_path)
    assert not list((tmp_path / "films").glob("attempts-*"))


@pytest.mark.slow
def test_an_array_trains_and_judges_a_run_for_each_seed(slurm, corpus, tmp_path):
    seeds = (3, 4)
    here = {
        "--array=0-4": ["--array=3-4"],
        "train/configs/vip_llava_7b.yaml": [write_recipe(tmp_path / "tiny.yaml", steps=6, timeout_s=TIMEOUT_S)],
        "--data.corpus=corpora/films": [f"--data.corpus={corpus}"],
        "--run.name=films-%a": ["--run.name=films-%a", f"--run.output_dir={tmp_path}"],
    }
    completed(slurm, submit(slurm, tmp_path, "--array=0-4", "--nodes=2", instead=here), tmp_path)
    assert tuple(read_log(tmp_path / f"films-{seed}").header["seed"] for seed in seeds) == seeds
    assert losses(tmp_path / "films-3").keys() == losses(tmp_path / "films-4").keys()
    assert losses(tmp_path / "films-3") != losses(tmp_path / "films-4")
    here = {
        "--array=0-4": ["--array=3-4"],
        "runs/films-%a": [tmp_path / "films-%a"],
        "vqa,grounding": ["vqa", *few(tmp_path)],
        "corpora/films": [corpus],
        "runs/films-%a/eval": [tmp_path / "films-%a" / "eval"],
    }
    completed(slurm, submit(slurm, tmp_path, "--array=0-4", "--ntasks-per-node=8", instead=here), tmp_path)
    assert all((tmp_path / f"films-{seed}" / "eval" / "vqa-val" / "results.json").is_file() for seed in seeds)


def few(runs):
    """Short answers to the few questions of the validation split."""
    return ["--split", "val", "--max-new-tokens", "8", "--tracking-uri", "off", "--runs", runs]


def kept(out):
    """Replies kept so far, by rank."""
    return [len(path.read_text().splitlines()) for path in sorted(out.glob("replies-*/rank*.jsonl"))]


def until_kept(slurm, job, out, replies):
    wait_until(
        lambda: sum(kept(out)) >= replies,
        timeout_s=240,
        what=lambda: f"{replies} replies: {slurm.states(job)}\n{log(out.parent)}",
    )


@pytest.mark.slow
def test_an_evaluation_that_is_requeued_asks_only_what_is_missing(slurm, corpus, undisturbed, tmp_path):
    def ask(out):
        slowly = [
            "--split",
            "train",
            "--batch-size",
            "1",
            "--max-new-tokens",
            "48",
            "--tracking-uri",
            "off",
            "--runs",
            tmp_path,
        ]
        here = {
            "runs/films": [undisturbed],
            "vqa,grounding": ["vqa", *slowly],
            "corpora/films": [corpus],
            "runs/films/eval": [out],
            "--ntasks-per-node=8": ["--ntasks-per-node=2", "--cpus-per-task=1"],
        }
        return submit(slurm, tmp_path, "--ntasks-per-node=8", instead=here)

    whole, requeued = tmp_path / "whole", tmp_path / "requeued"
    completed(slurm, ask(whole), tmp_path)
    job = ask(requeued)
    for interruption in (["scancel", "--signal=USR1"], ["scontrol", "requeue"]):  # the first is what a time limit sends
        until_kept(slurm, job, requeued, sum(kept(requeued)) + 4)
        slurm.call(*interruption, job)
        until(slurm, job, tmp_path, "PENDING")
        assert sum(kept(requeued)) < sum(kept(whole)), "the evaluation was not interrupted in the middle"
    assert re.search(r"requeued at \d+ replies after status 138", log(tmp_path))
    completed(slurm, job, tmp_path)
    assert kept(requeued) == kept(whole)
    results = [json.loads((out / "vqa-train" / "results.json").read_text()) for out in (whole, requeued)]
    assert results[0] == results[1]
