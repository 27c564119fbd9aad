"""A real Slurm for tests: a controller and two nodes on this host, with all they write in one temporary folder.

    with slurm_cluster(tmp_path) as slurm:
        job = slurm.sbatch("--array=0-2", "launch/slurm/corpus.sbatch", ...)
        slurm.wait(job, timeout_s=60)

It needs root and Debian's packages slurm-wlm and munge; `missing()` says what is not there. Nothing outside the folder is
touched: munged has a key and a socket of its own, and the ports are free ones, so that several clusters can run at once.
Jobs of the partition `urgent` preempt those of the default one, which are requeued. A node can be killed and started again;
with a cable (tests/slurm_network.py) it has a network of its own, and can be cut off. Knows nothing of what the jobs do.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname, socket

from tests.slurm_network import Cable

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
NODES = ("n1", "n2")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}

_CONFIG = """\
ClusterName=medclm
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
KillWait=30
SlurmdTimeout=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=tests Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 State=UP
"""


def missing() -> str | None:
    """What a test must be skipped for, or None."""
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian packages slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "needs root to start munged and slurmd"


@dataclass(frozen=True)
class Slurm:
    """A running cluster."""

    config: Path
    environment: Mapping[str, str]
    """Of commands that talk to it; jobs inherit it."""
    daemons: dict[str, subprocess.Popen[bytes]]
    """Running ones, those of nodes by the node's name."""
    cable: Cable | None
    """Between the nodes; None = all share this machine's network."""

    def call(self, *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """What the command prints; `env` is added to the environment.

        Raises:
            RuntimeError: it fails; says how.
        """
        done = subprocess.run(
            [*_inside(self.cable, NODES[0]), *map(str, command)],
            cwd=cwd,
            env={**self.environment, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def sbatch(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """Submit from `cwd`; the job's number."""
        return self.call("sbatch", "--parsable", *arguments, cwd=cwd, env=env).strip().split(";")[0]

    def states(self, job: str) -> dict[str, str]:
        """`12` or `12_0` -> state, of a job or of every task of an array; ended ones stay known for five minutes."""
        listed = self.call("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%i %T")
        return dict(line.split() for line in listed.splitlines())

    def kill_node(self, node: str) -> None:
        """Take the power from a node: its daemon, its steps and their tasks end without a word."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        wait_until(
            lambda: not _killed(processes_of(self, node)),
            timeout_s=20,
            what=lambda: f"{node} to die: {processes_of(self, node)}",
        )

    def start_node(self, node: str) -> None:
        """Start the daemon of a node; it reports to the controller by itself."""
        # The mark is how the daemon's own steps are found: they inherit its environment, tasks do not.
        marked = {**self.environment, "SLURMD_NODENAME": node}
        self.daemons[node] = _start([*_inside(self.cable, node), "slurmd", "-D", "-N", node], self.config.parent, marked)

    def wait(self, job: str, *, timeout_s: float) -> dict[str, str]:
        """States of a job or an array when all of it has ended."""
        states: dict[str, str] = {}

        def ended() -> bool:
            states.clear()
            states.update(self.states(job))
            return bool(states) and set(states.values()) <= ENDED

        wait_until(ended, timeout_s=timeout_s, what=lambda: f"job {job} to end: {states}\n{self.call('squeue', '--long')}")
        return states


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: Callable[[], str]) -> None:
    """Ask every fifth of a second until it is so.

    Raises:
        TimeoutError: it is not so in time; says what was waited for.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:g} s for {what()}")
        time.sleep(0.2)


@contextmanager
def slurm_cluster(folder: Path, *, cpus: int = 2, cable: Cable | None = None) -> Iterator[Slurm]:
    """A controller and two nodes of `cpus` processors each, up and idle; all are gone afterwards.

    Args:
        cable: joins the networks of the nodes; the controller and our commands are in that of the first node.

    Raises:
        TimeoutError: the nodes do not come up; tells the end of the logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # the path of a Unix socket holds 107 bytes at most, and a test's folder may be deeper than that
    with tempfile.TemporaryDirectory(prefix="munge-") as short:
        os.chmod(short, 0o755)
        munge = Path(short) / "socket"
        config = _configure(folder, munge, cpus, cable)
        environment = {name: value for name, value in os.environ.items() if not re.match(r"SLURM|SBATCH", name)}
        slurm = Slurm(config, {**environment, "SLURM_CONF": str(config)}, {}, cable)
        try:
            slurm.daemons["munged"] = _start(_munged(folder, munge), folder, slurm.environment)
            wait_until(munge.exists, timeout_s=20, what=lambda: f"munged:\n{_logs(folder)}")  # the others need it
            controller = [*_inside(cable, NODES[0]), "slurmctld", "-D"]
            slurm.daemons["slurmctld"] = _start(controller, folder, slurm.environment)
            for node in NODES:
                slurm.start_node(node)
            wait_until(lambda: idle(slurm), timeout_s=40, what=lambda: f"the nodes to come up:\n{_logs(folder)}")
            yield slurm
        finally:
            _stop(slurm)


def _configure(folder: Path, munge: Path, cpus: int, cable: Cable | None) -> Path:
    host = gethostname().split(".")[0]
    port, *ports = _free_ports(1 + len(NODES))
    addresses = [cable.address(name) if cable else "127.0.0.1" for name in NODES]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={own} CPUs={cpus}"
        for name, address, own in zip(NODES, addresses, ports, strict=True)
    ]
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(exist_ok=True)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(host=host, address=addresses[0], port=port, socket=munge, folder=folder, nodes="\n".join(nodes)),
        encoding="utf-8",
    )
    return config


def _free_ports(count: int) -> list[int]:
    """All held at once, so that they differ."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _inside(cable: Cable | None, node: str) -> list[str]:
    """What a command begins with that runs in the network of `node`."""
    return cable.enter(node) if cable else []


def _munged(folder: Path, munge: Path) -> list[str]:
    munged = ["munged", "--foreground", "--force", f"--key-file={folder / 'munge.key'}", f"--socket={munge}"]
    return [*munged, f"--pid-file={folder / 'munged.pid'}", f"--seed-file={folder / 'munged.seed'}", "--num-threads=2"]


def _start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A daemon that stays in the foreground."""
    with (folder / "daemons.out").open("ab") as stream:
        return subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )


def idle(slurm: Slurm) -> bool:
    """Both nodes are up and have nothing to do."""
    try:
        listed = slurm.call("sinfo", "--noheader", "--Node", "--partition=tests", "--format=%N %T")
    except RuntimeError:
        return False  # the controller does not answer yet
    return listed.split() == [word for node in NODES for word in (node, "idle")]


def _logs(folder: Path) -> str:
    found = sorted([*folder.glob("*.log"), *folder.glob("*.out")])
    return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-1000:]}" for path in found)


def _stop(slurm: Slurm) -> None:
    """End the daemons in reverse order, then the jobs that are left: each by its process id."""
    for process in reversed(slurm.daemons.values()):
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    wait_until(lambda: not _killed(processes_of(slurm)), timeout_s=20, what=lambda: f"the end of {processes_of(slurm)}")


def _killed(found: Sequence[int]) -> Sequence[int]:
    """The processes that were there; a step that dies may start another, so ask again until there is none."""
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself meanwhile
    return found


def processes_of(slurm: Slurm, node: str | None = None) -> list[int]:
    """Daemons, steps and tasks, of one node or of all: our configuration is in their environment, and in nobody else's."""
    marks = {f"SLURM_CONF={slurm.config}".encode(), *([f"SLURMD_NODENAME={node}".encode()] if node else [])}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if marks <= set(variables):
            found.append(int(entry.name))
    return found
