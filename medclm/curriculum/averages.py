"""Exponential moving averages of the loss per domain and stage: the memory of the policies. Pure; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medclm.types import Observation


@dataclass(frozen=True)
class Averages:
    """Loss averages with bias correction (Kingma and Ba 2014, section 3): value = raw / (1 - decay^count)."""

    raw: np.ndarray
    """(domains, 3) float64."""
    count: np.ndarray
    """(domains, 3) int64: observations that held this domain and stage."""
    decay: float
    """Weight of the old value."""

    @classmethod
    def unseen(cls, domains: int, decay: float) -> Averages:
        return cls(raw=np.zeros((domains, 3)), count=np.zeros((domains, 3), dtype=np.int64), decay=decay)

    @property
    def value(self) -> np.ndarray:
        """(domains, 3) float64, NaN where never observed."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.count > 0, self.raw / (1 - self.decay**self.count), np.nan)

    def updated(self, observation: Observation) -> Averages:
        """One update for every (domain, stage) in the observation, with the mean of its losses."""
        means, seen = step_means(observation, domains=len(self.raw))
        raw = np.where(seen, self.decay * self.raw + (1 - self.decay) * means, self.raw)
        return replace(self, raw=raw, count=self.count + seen)

    def to_json(self) -> dict[str, Any]:
        return {"raw": self.raw.tolist(), "count": self.count.tolist(), "decay": self.decay}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Averages:
        return cls(raw=np.asarray(tree["raw"], float), count=np.asarray(tree["count"], np.int64), decay=float(tree["decay"]))


def step_means(observation: Observation, domains: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each (domain, stage) in one observation.

    Returns:
        (domains, 3) float64 means (0 where absent) and (domains, 3) bool: present.
    """
    cell = observation.domains * 3 + observation.stages
    count = np.bincount(cell, minlength=domains * 3).reshape(domains, 3)
    total = np.bincount(cell, weights=observation.losses.astype(np.float64), minlength=domains * 3).reshape(domains, 3)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0), count > 0
