"""One entry point under every launcher: torchrun and the deepspeed launcher with a hostfile train what two plain ranks train."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from medclm.data.testing import write_small_corpus
from tests.documented import commands, documented
from tests.ranks import free_port
from tests.tiny_runs import assert_same_run, write_recipe

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STEPS = 6
CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def start(*command, **environment):
    return subprocess.Popen(
        [*map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **CPU, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(*processes):
    """What each printed; they all end well."""
    try:
        printed = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


def command(corpus, out, *begin, instead):
    """The page's command that begins so, for a tiny model in `out`."""
    here = {
        "train/configs/vip_llava_7b.yaml": [write_recipe(out / "tiny.yaml", steps=STEPS)],
        "--data.corpus=corpora/films": [f"--data.corpus={corpus}"],
        "--run.name=films": ["--run.name=films", f"--run.output_dir={out}"],
    }
    return documented(*begin, instead=here | instead)


@pytest.fixture(scope="module")
def plain(corpus, tmp_path_factory):
    """Two ranks that get their places from the environment alone."""
    out, port = tmp_path_factory.mktemp("plain"), str(free_port())
    place = {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    flags = ["--deepspeed=ds_configs/zero3.json", f"--config={write_recipe(out / 'tiny.yaml', steps=STEPS)}"]
    flags += [f"--data.corpus={corpus}", f"--run.output_dir={out}", "--run.name=films"]
    finished(*(start(sys.executable, "launch/train.py", *flags, **place, RANK=str(rank)) for rank in (0, 1)))
    return out / "films"


def test_the_page_has_no_command_that_is_not_run_here_or_in_test_train_slurm():
    slurm = [
        "sbatch --nodes=2",
        "sbatch --ntasks-per-node=8",
        "sbatch --array=0-4 --nodes=2",
        "sbatch --array=0-4 --ntasks-per-node=8",
    ]
    here = ["torchrun --nproc-per-node", "torchrun --nnodes", "deepspeed --hostfile hostfile --master_addr"]
    here += ["deepspeed --hostfile hostfile --no_ssh"]
    found = [begin for words in commands() for begin in slurm + here if " ".join(words).startswith(begin)]
    assert sorted(found) == sorted(slurm + here)
    assert len(commands()) == len(found)


@pytest.mark.slow
def test_torchrun_on_one_machine(corpus, plain, tmp_path):
    few = {"8": ["2", "--master-port", free_port()]}
    finished(start(*command(corpus, tmp_path, "torchrun", "--nproc-per-node", instead=few)))
    assert_same_run(tmp_path / "films", plain, steps=STEPS)


@pytest.mark.slow
def test_torchrun_on_two_nodes(corpus, plain, tmp_path):
    few = {"8": ["1"], "node-a": ["127.0.0.1"], "29500": [free_port()]}
    nodes = [command(corpus, tmp_path, "torchrun", "--nnodes", instead={**few, "0": [node]}) for node in (0, 1)]
    finished(*(start(*node) for node in nodes))
    assert_same_run(tmp_path / "films", plain, steps=STEPS)


@pytest.mark.slow
def test_the_deepspeed_launcher_with_a_hostfile_started_on_every_node(corpus, plain, tmp_path):
    (tmp_path / "hostfile").write_text("node-a slots=1\nnode-b slots=1\n")
    here = {"hostfile": [tmp_path / "hostfile"], "node-a": ["127.0.0.1"], "29500": [free_port()]}
    begin = ["deepspeed", "--hostfile", "hostfile", "--no_ssh"]
    nodes = [command(corpus, tmp_path, *begin, instead={**here, "0": [node]}) for node in (0, 1)]
    finished(*(start(*node) for node in nodes))
    assert_same_run(tmp_path / "films", plain, steps=STEPS)


@pytest.mark.slow
def test_the_deepspeed_launcher_with_a_hostfile_over_ssh(corpus, plain, tmp_path):
    absent = [name for name in ("pdsh", "ssh", "sshd", "ssh-keygen") if shutil.which(name) is None]
    if absent:
        pytest.skip(f"needs {', '.join(absent)} (Debian packages pdsh and openssh-server)")
    if os.geteuid() != 0:
        pytest.skip("needs root to start sshd")
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    # ssh brings no variables along: the launcher hands on those of this file, and those that begin with PYTHON
    (tmp_path / "variables").write_text("".join(f"{name}={value}\n" for name, value in CPU.items()))
    here = {"hostfile": [tmp_path / "hostfile"], "node-a": ["127.0.0.1", "--master_port", free_port()]}
    begin = ["deepspeed", "--hostfile", "hostfile", "--master_addr"]
    with ssh_server(tmp_path / "ssh") as programs:
        environment = {"PATH": f"{programs}:{BIN}:{os.environ['PATH']}", "DS_ENV_FILE": str(tmp_path / "variables")}
        (printed,) = finished(start(*command(corpus, tmp_path, *begin, instead=here), **environment))
    assert "127.0.0.1: " in printed
    assert "127.0.0.2: " in printed
    assert_same_run(tmp_path / "films", plain, steps=STEPS)


@contextmanager
def ssh_server(folder):
    """An ssh server on 127.0.0.1 and 127.0.0.2 with keys of its own; a folder for the PATH whose `ssh` uses them."""
    folder.mkdir()
    programs, port = folder / "bin", free_port()
    programs.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)  # without it sshd does not start
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=20)
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nListenAddress 127.0.0.2:{port}\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nPermitRootLogin prohibit-password\n"
    )
    (folder / "ssh_config").write_text(
        f"Port {port}\nIdentityFile {folder / 'user'}\nIdentitiesOnly yes\nUserKnownHostsFile {folder / 'known'}\n"
        "StrictHostKeyChecking accept-new\n"
    )
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
    (programs / "ssh").chmod(0o755)
    server = subprocess.Popen([str(shutil.which("sshd")), "-D", "-e", "-f", str(folder / "sshd_config")])
    try:
        asking = [str(programs / "ssh"), "127.0.0.2", "true"]
        for _ in range(50):
            if subprocess.run(asking, check=False, capture_output=True, timeout=20).returncode == 0:
                break
            time.sleep(0.2)
        else:
            raise TimeoutError("waited 10 s for sshd")
        yield programs
    finally:
        server.terminate()
        server.wait(timeout=20)
