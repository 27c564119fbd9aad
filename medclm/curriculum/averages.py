"""Exponential moving averages of the loss per domain and stage: the memory of the policies. Pure; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medclm.types import Observation


@dataclass(frozen=True)
class Averages:
    """Averages with bias correction (Kingma and Ba 2014, section 3): value = raw / (1 - decay^count)."""

    raw: np.ndarray
    """(domains, 3) float64 per domain and stage, or (domains,) per domain."""
    count: np.ndarray
    """int64, shaped like `raw`: observations that held this domain (and stage)."""
    decay: float
    """Weight of the old value."""

    @classmethod
    def unseen(cls, domains: int, decay: float) -> Averages:
        """One average per domain and stage, (domains, 3), nothing seen yet."""
        return cls(raw=np.zeros((domains, 3)), count=np.zeros((domains, 3), dtype=np.int64), decay=decay)

    @classmethod
    def unseen_domains(cls, domains: int, decay: float) -> Averages:
        """One average per domain, (domains,), nothing seen yet."""
        return cls(raw=np.zeros(domains), count=np.zeros(domains, dtype=np.int64), decay=decay)

    @property
    def value(self) -> np.ndarray:
        """float64, shaped like `raw`; NaN where never observed."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.count > 0, self.raw / (1 - self.decay**self.count), np.nan)

    def updated(self, observation: Observation) -> Averages:
        """One update for every (domain, stage) in the observation, with the mean of its losses."""
        means, seen = step_means(observation, domains=len(self.raw))
        return self.blended(means, seen)

    def blended(self, means: np.ndarray, seen: np.ndarray) -> Averages:
        """One update with `means` where `seen` (bool); both shaped like `raw`."""
        raw = np.where(seen, self.decay * self.raw + (1 - self.decay) * means, self.raw)
        return replace(self, raw=raw, count=self.count + seen)

    def to_json(self) -> dict[str, Any]:
        return {"raw": self.raw.tolist(), "count": self.count.tolist(), "decay": self.decay}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Averages:
        return cls(raw=np.asarray(tree["raw"], float), count=np.asarray(tree["count"], np.int64), decay=float(tree["decay"]))


def step_means(observation: Observation, domains: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each (domain, stage) in one observation.

    The order of the samples does not matter, to the last bit: float16 losses are multiples of 2^-24, so their float64 sum is
    exact as long as it stays below 2^29.

    Returns:
        (domains, 3) float64 means (0 where absent) and (domains, 3) bool: present.
    """
    return _means(*stage_sums(observation.domains, observation.stages, observation.losses, domains))


def stage_sums(
    domains_G: np.ndarray, stages_G: np.ndarray, losses_G: np.ndarray, domains: int
) -> tuple[np.ndarray, np.ndarray]:
    """Losses of one global batch by domain and stage.

    Returns:
        (domains, 3) float64 sums and (domains, 3) int64 counts.
    """
    cell_G, cells = domains_G * 3 + stages_G, domains * 3
    total = np.bincount(cell_G, weights=losses_G.astype(np.float64), minlength=cells)
    return total.reshape(domains, 3), np.bincount(cell_G, minlength=cells).reshape(domains, 3)


def domain_means(observation: Observation, domains: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss of each domain in one observation, over all its samples whatever their stage.

    Returns:
        (domains,) float64 means (0 where absent) and (domains,) bool: present.
    """
    total, count = stage_sums(observation.domains, observation.stages, observation.losses, domains)
    return _means(total.sum(axis=1), count.sum(axis=1))


def _means(total: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0), count > 0


def nullable(values: np.ndarray) -> list[Any]:
    """An array as nested lists with None for NaN: JSON has no NaN. `np.asarray(tree, dtype=float)` reads it back."""
    listed = values.astype(object)
    listed[np.isnan(values)] = None
    tree: list[Any] = listed.tolist()
    return tree
