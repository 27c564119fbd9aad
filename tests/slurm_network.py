"""A network for a test cluster: every node in a network namespace of its own, joined by one cable that can be pulled.

    with cabled(("n1", "n2")) as cable:
        subprocess.run([*cable.enter("n1"), "ping", cable.address("n2")])
        cable.plug(False)

The namespaces and what is in them end with their processes; nothing of this machine's own network is touched. Needs root, and
a kernel that makes namespaces and veth pairs; `missing()` says what is not there. Knows nothing of Slurm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "fabric"
"""Name of the cable's end in every namespace."""


@dataclass(frozen=True)
class Cable:
    """Two namespaces, each held open by a process that sleeps."""

    holders: dict[str, subprocess.Popen[bytes]]

    def address(self, node: str) -> str:
        return f"10.77.0.{1 + list(self.holders).index(node)}"

    def enter(self, node: str) -> list[str]:
        """What a command begins with that runs in the network of `node`."""
        return ["nsenter", f"--net=/proc/{self.holders[node].pid}/ns/net", "--"]

    def plug(self, plugged: bool) -> None:
        """Pull the cable: packets are lost and no connection is closed. Or plug it in again."""
        last = list(self.holders)[-1]
        _run([*self.enter(last), "ip", "link", "set", INTERFACE, "up" if plugged else "down"])


def missing() -> str | None:
    """What a test must be skipped for, or None."""
    if absent := [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]:
        return f"needs {', '.join(absent)} (Debian packages iproute2 and util-linux)"
    try:
        with cabled(("a", "b")):
            return None
    except RuntimeError as error:
        return f"needs network namespaces: {error}"


@contextmanager
def cabled(nodes: Sequence[str]) -> Iterator[Cable]:
    """Two namespaces with loopback and the cable up.

    Raises:
        RuntimeError: this machine does not allow it; says how.
    """
    holders: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for node in nodes:
            holders[node] = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.DEVNULL)
        for holder in holders.values():
            _wait_for_namespace(holder)
        first, second = (str(holder.pid) for holder in holders.values())
        peer = ["type", "veth", "peer", "name", INTERFACE, "netns", second]
        _run(["ip", "link", "add", "name", INTERFACE, "netns", first, *peer])
        cable = Cable(holders)
        for node in nodes:
            inside = [*cable.enter(node), "ip"]
            _run([*inside, "addr", "add", f"{cable.address(node)}/24", "dev", INTERFACE])
            for link in ("lo", INTERFACE):
                _run([*inside, "link", "set", link, "up"])
        yield cable
    finally:
        for holder in holders.values():
            holder.kill()
            holder.wait()


def _wait_for_namespace(holder: subprocess.Popen[bytes]) -> None:
    ours, end = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
    while holder.poll() is None and time.monotonic() < end:
        if os.readlink(Path("/proc") / str(holder.pid) / "ns" / "net") != ours:
            return
        time.sleep(0.05)
    raise RuntimeError("unshare --net is not permitted")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
