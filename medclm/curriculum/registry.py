"""Policies by name: every module of `medclm/curriculum/policies/` says which it has. Pure; imports no torch.

A new policy is one new file there, with `POLICIES = {"its_name": make}`; nothing else has to be told.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any

from medclm.config import ConfigError, CurriculumSection
from medclm.curriculum import policies
from medclm.curriculum.policy import Maker, Policy


def _found() -> dict[str, Maker]:
    makers: dict[str, Maker] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(policies.__path__)):
        for name, make in importlib.import_module(f"{policies.__name__}.{module}").POLICIES.items():
            if name in makers:
                raise RuntimeError(f"{policies.__name__}.{module}: the policy name {name} is taken by another file")
            makers[name] = make
    return makers


MAKERS = _found()


def make_policy(section: CurriculumSection, *, domains: int, total_steps: int) -> Policy[Any]:
    """The policy that `curriculum.policy` names, for a run of `total_steps` over `domains` domains.

    Raises:
        ConfigError: an unknown name.
    """
    if section.policy not in MAKERS:
        close = difflib.get_close_matches(section.policy, MAKERS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"curriculum.policy={section.policy}: unknown policy; {hint}choose one of {', '.join(sorted(MAKERS))}"
        )
    return MAKERS[section.policy](section, domains=domains, total_steps=total_steps)
