"""What a rank holds, has held at most, and may hold: on its accelerator by PyTorch's count, on the CPU by the kernel's.

On the CPU it is the resident memory of the process, since nothing smaller than that is what runs out; what was there before
the model is subtracted by who asks. Knows nothing of models.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def held(device: str) -> int:
    """Bytes held now."""
    return status("VmRSS") if device == "cpu" else torch.cuda.memory_allocated(device)


def most_held(device: str) -> int:
    """The most bytes held at once since `forget_peak`."""
    return status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated(device)


def forget_peak(device: str) -> None:
    """Begin `most_held` anew, where the kernel lets a process do so; else it stays the most since its start."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return


def free(device: str, *, local_ranks: int) -> int:
    """Bytes that this rank may still take: free on its accelerator, or its share of what the machine or container leaves.

    Args:
        local_ranks: ranks on this machine, which share its memory where they compute on the CPU.
    """
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _CGROUP:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total // local_ranks - held(device)


def status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
