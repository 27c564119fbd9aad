"""Policies by name: every module of `medclm/curriculum/policies/` says which it has. Pure; imports no torch.

A new policy is one new file there, with `POLICIES = {"its_name": make}`; nothing else has to be told. The page to start from
is the section "Your own policy" of docs/curriculum.md; tests/unit/test_policy_contract.py tries every policy it finds.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import traceback
from typing import Any

from medclm.config import ConfigError, CurriculumSection
from medclm.curriculum import policies
from medclm.curriculum.policy import Maker, Policy


def find_makers() -> dict[str, Maker]:
    """Name -> maker, of every file of the folder, sorted by name.

    Looked up at each call, not once at import: a broken file then ends a run with a message and not with a traceback.

    Raises:
        ConfigError: a file that cannot be imported, has no proper POLICIES, or takes the name of another; names the file and
            the cure.
    """
    makers: dict[str, Maker] = {}
    files: dict[str, str] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(policies.__path__)):
        file, found = _policies_of(f"{policies.__name__}.{module}")
        for name, make in found.items():
            if name in makers:
                raise ConfigError(f"{file}: the policy name {name} is taken by {files[name]}: choose another")
            makers[name], files[name] = make, file
    return dict(sorted(makers.items()))


def _policies_of(module: str) -> tuple[str, dict[str, Maker]]:
    """A module's file and its POLICIES, checked."""
    spec = importlib.util.find_spec(module)
    file = spec.origin if spec is not None and spec.origin is not None else module
    try:
        found = getattr(importlib.import_module(module), "POLICIES", None)
    except Exception as error:  # whatever a user's file does wrong while it is imported
        rows = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        row = error.lineno if isinstance(error, SyntaxError) else rows[-1] if rows else 1
        raise ConfigError(
            f"{file}:{row}: this policy file cannot be imported ({type(error).__name__}: {error}): mend it or move it out of the folder"
        ) from error
    if found is None:
        raise ConfigError(
            f'{file}: no POLICIES: end the file with POLICIES = {{"its_name": make}} or move it out of the folder'
        )
    if not isinstance(found, dict) or not all(isinstance(name, str) and callable(make) for name, make in found.items()):
        raise ConfigError(f'{file}: POLICIES={found!r}: give a dict of names and makers, as {{"its_name": make}}')
    return file, found


def make_policy(section: CurriculumSection, *, domains: int, total_steps: int) -> Policy[Any]:
    """The policy that `curriculum.policy` names, for a run of `total_steps` over `domains` domains.

    Raises:
        ConfigError: an unknown name, or a broken policy file.
    """
    makers = find_makers()
    if section.policy not in makers:
        close = difflib.get_close_matches(section.policy, makers, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"curriculum.policy={section.policy}: unknown policy; {hint}choose one of {', '.join(makers)}")
    return makers[section.policy](section, domains=domains, total_steps=total_steps)
