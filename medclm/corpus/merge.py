"""Parts of several tasks or sources -> one corpus: finds every part once, in an order that does not depend on who made it.

The tasks of one build may share a folder or have their own; several builds become one corpus of several sources. Knows
work folders; what becomes of the parts is for finalise.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medclm.corpus.finalise import BuildReport, finalise
from medclm.corpus.splits import SplitRule
from medclm.corpus.workfolder import PARTS, part_path, parts_present, read_work, shown_numbers


@dataclass
class _Build:
    """One build with the folders that hold its parts."""

    plan: Mapping[str, Any]
    folders: list[Path] = field(default_factory=list)


def merge(folders: Sequence[Path], out: Path, *, exclusions: Mapping[str, str] | None = None) -> BuildReport:
    """Make the corpus `out` from the parts in `folders`; `out` may be one of them.

    Args:
        exclusions: record id -> reason, as `finalise` takes them.

    Raises:
        ValueError: no parts, a part that is missing or there twice, builds with different id keys or split rules.
        EverythingRejected: no record was left.
    """
    builds = _builds(folders)
    plans = [build.plan for build in builds]
    for name, cure in (("rule", "build all with the same split flags"), ("seed", "build all with the same --seed")):
        if any(plan[name] != plans[0][name] for plan in plans):
            raise ValueError(f"the builds have another {name}: {cure}")
    if len({plan["builder"]["id_key"] for plan in plans}) > 1:
        raise ValueError("the builds have different id keys, so equal patients would not be known: build all with one --id-key")
    if out not in folders and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is not an empty folder: give another one")
    parts = [path for build in builds for path in _parts(build)]
    builder = plans[0]["builder"] if len(plans) == 1 else _together(plans)
    return finalise(
        parts, out, rule=SplitRule.from_json(plans[0]["rule"]), seed=plans[0]["seed"], builder=builder, exclusions=exclusions
    )


def _together(plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = plans[0]["builder"]
    return {"id_key": first["id_key"], "seed": first["seed"], "builds": [plan["builder"] for plan in plans]}


def _builds(folders: Sequence[Path]) -> list[_Build]:
    """Folders by build, builds in the order in which they are first named."""
    if len(set(folders)) < len(folders):
        raise ValueError("a folder is given twice: give each once")
    builds: dict[str, _Build] = {}
    for folder in folders:
        settings, plan = read_work(folder)
        build = builds.setdefault(json.dumps(settings, sort_keys=True), _Build(plan))
        if build.plan != plan:
            raise ValueError(f"{folder}: another task of this build had other split flags: give all the same")
        build.folders.append(folder)
    return list(builds.values())


def _parts(build: _Build) -> list[Path]:
    found: dict[int, Path] = {}
    for folder in build.folders:
        for number in parts_present(folder):
            if number in found:
                raise ValueError(
                    f"{folder}: part {number} is also in {found[number].parents[1]}: two tasks did the same work; remove one of them"
                )
            found[number] = part_path(folder / PARTS, number)
    missing = [number for number in range(build.plan["parts"]) if number not in found]
    if missing:
        where = ", ".join(str(folder) for folder in build.folders)
        raise ValueError(
            f"{where}: {len(missing)} of {build.plan['parts']} parts are missing ({shown_numbers(missing)}): run their tasks again"
        )
    return [found[number] for number in sorted(found)]
