"""Step folders that are whole or absent: their names, their manifest, and which one a run continues from.

    checkpoints/step_000500/{manifest.json, run_state.json, recipe.yaml, ds_config.json, deepspeed/...}

The manifest lists every file with size and sha256 and is written last (medclm/checkpoint_writer.py), so a folder that verifies is
what was saved. Made from it on demand, and not listed: `export/` (medclm/exports.py) and `universal/` (medclm/engine.py).

DeepSpeed's files are pickles. They are loaded only from a folder whose manifest verifies: whoever can write there can run code as
the user who resumes (SECURITY.md). Knows nothing of the loop.
"""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medclm import __version__
from medclm.data.manifest import sha256_file
from medclm.distributed import ControlPlane

FORMAT = 2
BEST = "best"
"""Link in `checkpoints/` to the best step folder."""


def package_versions() -> dict[str, str]:
    """Versions of what can change a result."""
    found = {"medclm": __version__, "commit": _commit()}
    for name in ("torch", "transformers", "deepspeed", "peft", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache  # of the code that runs, not of what the checkout becomes meanwhile
def _commit() -> str:
    """The commit of this code, `+changes` where files differ from it; empty outside a git checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return ""
    told = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            told.append(subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True, timeout=20))
        except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
            return ""
    return told[0].stdout.strip() + ("+changes" if told[1].stdout.strip() else "")


def step_folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step_{step:06d}"


def step_of(folder: Path) -> int:
    """Applied updates of a step folder, by its name."""
    return int(folder.name.removeprefix("step_"))


def step_folders(checkpoints: Path) -> list[Path]:
    """Committed step folders, oldest first."""
    found = [path for path in checkpoints.glob("step_*") if path.is_dir() and path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=step_of)


def verify(folder: Path, *, share: int = 0, shares: int = 1) -> str | None:
    """None if the checkpoint is whole, else what is wrong with it.

    Args:
        share: of `shares` equal ones, the part of the files whose content is read (all sizes are looked at in any case).
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"no readable manifest.json ({error})"
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        return f"format {found}, this version reads {FORMAT}"
    for entry in manifest["files"]:
        path = folder / entry["path"]
        if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
            return f"{entry['path']} in its manifest leads out of the folder"
        if not path.is_file():
            return f"{entry['path']} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{entry['path']} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}"
    for entry in manifest["files"][share::shares]:
        try:
            if sha256_file(folder / entry["path"]) != entry["sha256"]:
                return f"{entry['path']} differs from its manifest"
        except OSError as error:
            return f"{entry['path']} cannot be read ({error})"
    return None


@dataclass(frozen=True)
class Found:
    """The checkpoint to continue from."""

    folder: Path
    run_state: dict[str, Any]
    world_size: int
    refused: tuple[str, ...]
    """Newer ones that did not verify, with the reason."""


def newest(checkpoints: Path, plane: ControlPlane | None = None) -> Found | None:
    """The newest checkpoint that verifies, or None where there is none at all.

    Args:
        plane: of the ranks that all call this and read a share of the files each; all get the same answer.

    Raises:
        RuntimeError: there are checkpoints and none verifies.
    """
    names = [folder.name for folder in reversed(step_folders(checkpoints))]
    if plane is not None:  # ranks may see a shared folder at different moments
        names = plane.from_main(lambda: names, what=f"the list of {checkpoints}")
    refused: list[str] = []
    for name in names:
        fault = _fault(checkpoints / name, plane)
        if fault is None:
            return _found(checkpoints / name, tuple(refused))
        refused.append(f"{name}: {fault}")
    if refused:
        raise RuntimeError(f"{checkpoints}: no checkpoint verifies: {'; '.join(refused)}: move the folder away to begin again")
    return None


def _fault(folder: Path, plane: ControlPlane | None) -> str | None:
    if plane is None:
        return verify(folder)
    share = verify(folder, share=plane.ranks.rank, shares=plane.ranks.world_size)
    return next(filter(None, plane.collect(share, what=f"the check of {folder.name}")), None)


def _found(folder: Path, refused: tuple[str, ...]) -> Found:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    state = json.loads((folder / "run_state.json").read_text(encoding="utf-8"))
    return Found(folder=folder, run_state=state, world_size=manifest["world_size"], refused=refused)
