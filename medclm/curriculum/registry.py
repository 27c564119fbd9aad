"""Policies by name. Pure; imports no torch."""

from __future__ import annotations

from typing import Any

from medclm.config import ConfigError, CurriculumSection
from medclm.curriculum.policies import FixedPolicy, MedclmPolicy, Policy
from medclm.curriculum.published import PublishedPolicy

POLICIES = ("medclm", "medclm_published", "mixture", "easy_only", "medium_only", "hard_only")


def make_policy(section: CurriculumSection, *, domains: int, total_steps: int) -> Policy[Any]:
    """The policy that `curriculum.policy` names, for a run of `total_steps` over `domains` domains.

    Raises:
        ConfigError: an unknown name.
    """
    if section.policy == "medclm":
        return MedclmPolicy(section.medclm, domains=domains, total_steps=total_steps)
    if section.policy == "medclm_published":
        return PublishedPolicy(domains=domains, epochs=section.published_epochs)
    fixed = {"mixture": section.mixture, "easy_only": (1, 0, 0), "medium_only": (0, 1, 0), "hard_only": (0, 0, 1)}
    if section.policy not in fixed:
        raise ConfigError(f"curriculum.policy={section.policy}: unknown policy; choose one of {', '.join(POLICIES)}")
    return FixedPolicy(section.policy, fixed[section.policy])
