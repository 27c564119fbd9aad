"""The hidden folder of an unfinished build: whose parts it holds, which of them are there, and how they will be finalised.

Several processes or cluster tasks may open it at once, so every file appears whole. Knows no images and no texts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medclm.data.manifest import write_json
from medclm.data.schema import MANIFEST

PARTS = ".parts"
"""Name of the folder inside the corpus folder; it is removed when the corpus is finished."""
_SETTINGS = "settings.json"
_PLAN = "finalise.json"


def open_work(out: Path, settings: Mapping[str, Any], plan: Mapping[str, Any], parts: int) -> list[Path]:
    """The part files of a build, in order; the folder exists then and belongs to these settings.

    Args:
        settings: everything that decides what parts hold.
        plan: what `finalise` will be told (rule, seed, builder); a rerun may change it, since parts do not depend on it.

    Raises:
        ValueError: `out` holds something else, or parts of other settings.
    """
    folder = out / PARTS
    if (out / MANIFEST).exists():
        raise ValueError(f"{out}: already holds a corpus: give another folder, or remove it first")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is not a folder: give another one")
    if (folder / _SETTINGS).exists():
        before = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        differing = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
        if differing:
            raise ValueError(
                f"{out}: holds an unfinished build with another {', '.join(differing)}: use the same settings to go on, or remove it first"
            )
    elif out.exists() and any(path.name != PARTS for path in out.iterdir()):
        raise ValueError(f"{out}: is not an empty folder: give another one")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SETTINGS, {**settings})
    write_json(folder / _PLAN, {**plan, "parts": parts})
    return [part_path(folder, number) for number in range(parts)]


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.arrow"


def parts_present(out: Path) -> list[int]:
    """Numbers of the finished parts, ascending."""
    return sorted(int(path.stem.removeprefix("part-")) for path in (out / PARTS).glob("part-*.arrow"))


def read_work(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, plan) of an unfinished build.

    Raises:
        ValueError: there is none in `out`.
    """
    if (out / MANIFEST).exists():
        raise ValueError(f"{out}: is a finished corpus: merge takes the folders of builds with --task")
    try:
        return tuple(json.loads((out / PARTS / name).read_text(encoding="utf-8")) for name in (_SETTINGS, _PLAN))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{out}: holds no unfinished build: give the folder of `corpus.py build --task`") from error


def remove_work(out: Path) -> None:
    """Undo `open_work`: nothing half-made stays behind."""
    shutil.rmtree(out / PARTS)
    if not any(out.iterdir()):
        out.rmdir()


def shown_numbers(numbers: Sequence[int], most: int = 8) -> str:
    """`0, 1, 2 and 5 more`."""
    some = ", ".join(str(number) for number in numbers[:most])
    return some if len(numbers) <= most else f"{some} and {len(numbers) - most} more"
