"""What is done to a run's files between two attempts: the newest checkpoint, or a shard of its corpus."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np


def damage_checkpoint(run: Path, how: str, random: np.random.Generator) -> str | None:
    """Damage the newest step folder; returns its name, or None where there is none, or too few to fall back."""
    steps = sorted((run / "checkpoints").glob("step_*"))
    if len(steps) < 2:
        return None
    newest = steps[-1]
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.name != "manifest.json")
    victim = files[int(random.integers(len(files)))]
    if how == "flip":
        flip(victim, random)
    elif how == "truncate":
        victim.write_bytes(victim.read_bytes()[: int(random.integers(victim.stat().st_size or 1))])
    elif how == "no_manifest":
        (newest / "manifest.json").unlink()
    elif how == "no_file":
        victim.unlink()
    else:
        step = int(newest.name.partition("_")[2]) + 5
        half = newest.with_name(f".step_{step:06d}.{int(random.integers(2**32)):08x}.tmp")
        shutil.copytree(newest, half)
        for path in (half / "manifest.json", half / victim.relative_to(newest)):
            path.unlink()
        return None
    return newest.name


def flip(path: Path, random: np.random.Generator) -> int:
    """Flip one bit of a file; returns the place, to flip it back."""
    content = bytearray(path.read_bytes())
    place = int(random.integers(len(content)))
    content[place] ^= 1
    path.write_bytes(content)
    return place


def flip_back(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
