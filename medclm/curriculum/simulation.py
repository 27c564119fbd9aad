"""A simulated learner under the real policies: what a curriculum would do, in a second and without training anything.

The learner is a handful of curves; drawing, observing and the lookahead are the code that training runs. It shows when a
policy opens Medium or Hard and what that depends on, not which policy is better: that is only as true as the curves.

    simulated = simulate(policy, LEARNERS["transfer"], total_steps=1000, global_batch_size=48, lookahead=2, seed=0)

Loss of a sample of domain d at stage s, with e the experience there:

    experience  e[d, s] = sum over stages r of transfer[r][s] * ((1 - across) * D * seen[d, r] + across * sum of seen[:, r]) / N
    loss        l[d, s] = difficulty[d] * (floor[s] + (start[s] - floor[s]) * exp(-e[d, s] / pace[s])) * noise

where D is the number of domains and N the number of samples of the whole run, so that the curves do not depend on its length.
Pure; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from medclm.config import Section
from medclm.curriculum.course import Course, CourseMaker, Fate, Turn
from medclm.curriculum.policy import Policy, decide
from medclm.draws import generator, uniforms
from medclm.types import Observation, Stage

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Three = tuple[NotNegative, NotNegative, NotNegative]
"""Easy, Medium, Hard."""


class Learner(Section):
    """A learner and the corpus it meets; lists of three are easy, medium, hard."""

    domains: int = Field(25, ge=1)
    """Lesion classes x modalities."""
    tail: float = Field(0.0, ge=0, le=4)
    """Share of the k-th domain is proportional to 1 / k^tail: 0 = all alike, 1 and more = a few large and many rare ones."""
    start: Three = (5.0, 5.0, 5.0)
    """Loss before anything was seen."""
    floor: Three = (0.3, 0.4, 0.8)
    """Loss that no amount of samples goes below."""
    pace: Three = (0.1, 0.15, 0.3)
    """Fraction of the run's samples, all at this stage, after which 63 % of the way from start to floor is done."""
    transfer: tuple[Three, Three, Three] = ((1.0, 0.8, 0.2), (0.8, 1.0, 0.3), (0.1, 0.1, 1.0))
    """transfer[r][s]: what a sample at stage r teaches about stage s."""
    across: float = Field(0.5, ge=0, le=1)
    """How far samples of the other domains teach a domain: 0 not at all, 1 as well as its own."""
    noise: float = Field(0.3, ge=0, le=3)
    """Spread of single samples' losses (sigma of a log-normal factor of mean 1)."""
    spread: float = Field(0.2, ge=0, le=3)
    """Spread of the domains' difficulty (the same)."""
    without_easy: float = Field(0.0, ge=0, lt=1)
    """Fraction of the domains whose records offer no Easy."""
    without_hard: float = Field(0.0, ge=0, lt=1)
    """Fraction of the domains whose records offer no Hard."""

    @model_validator(mode="after")
    def _consistent(self) -> Learner:
        if min(self.pace) == 0:
            raise ValueError(f"pace={self.pace}: above 0: a fraction of the run")
        return self

    def shares(self) -> np.ndarray:
        """(D,) float64, the part of each domain among the samples, descending."""
        weight_D = np.arange(1, self.domains + 1, dtype=np.float64) ** -self.tail
        return np.asarray(weight_D / weight_D.sum())

    def offers(self) -> np.ndarray:
        """(D, 3) bool: the stages that a domain's records offer; what is missing is spread over large and rare domains."""
        offers_D3 = np.ones((self.domains, 3), dtype=bool)
        for stage, part in ((Stage.EASY, self.without_easy), (Stage.HARD, self.without_hard)):
            missing = round(part * self.domains)
            offers_D3[generator(0, "simulation.without", stage).permutation(self.domains)[:missing], stage] = False
        return offers_D3

    def difficulty(self) -> np.ndarray:
        """(D,) float64 factors of the losses."""
        return _factors(generator(0, "simulation.difficulty").standard_normal(self.domains), self.spread)

    def losses(self, seen: np.ndarray, run_samples: int) -> np.ndarray:
        """(D, 3) float64 expected losses after `seen` (D, 3) samples of each domain and stage, of a run of `run_samples`."""
        felt_D3 = (1 - self.across) * self.domains * seen + self.across * seen.sum(axis=0)
        experience_D3 = felt_D3 @ np.asarray(self.transfer) / run_samples
        start_3, floor_3 = np.asarray(self.start), np.asarray(self.floor)
        curve_D3 = floor_3 + (start_3 - floor_3) * np.exp(-experience_D3 / np.asarray(self.pace))
        return np.asarray(self.difficulty()[:, None] * curve_D3)


LEARNERS = {
    # Easy samples teach most of what Medium needs: the gap stays small and closes, Medium opens along the ramp. Losses fall to
    # the end of the run, so Hard opens late or never.
    "transfer": Learner(),
    # Easy samples teach nothing about Medium, which is slow to learn: while Easy is mastered the gap stays wide, and Medium at
    # its exploration share. (With pace 0.1 that share alone teaches enough for the gap to close within half of the run.)
    "no_transfer": Learner(transfer=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), pace=(0.1, 0.3, 0.3)),
    # Easy and Medium are at their floors after a fifth of the run: windows become flat and Hard opens step by step.
    "plateau": Learner(pace=(0.03, 0.03, 0.2), noise=0.1, across=1.0, floor=(0.5, 0.6, 0.8)),
    # 120 domains with shares 1/k that hardly teach each other, some without Easy or Hard: the large ones are mastered early,
    # the rare ones are seen a few times each, and the averages of the rare ones are old and rough.
    "long_tail": Learner(domains=120, tail=1.0, across=0.2, spread=0.4, without_easy=0.1, without_hard=0.3),
}
"""Learners by name."""


def load_learner(name: str) -> Learner:
    """A named learner, or one from a YAML file: keys of `Learner`, and `like: NAME` to begin with a named one's values.

    Raises:
        ValueError: unknown name, no such file, unknown key or wrong value; names it.
    """
    if name in LEARNERS:
        return LEARNERS[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--learner {name}: neither a file nor one of {', '.join(LEARNERS)}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--learner {path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"--learner {path}: expected keys such as domains: 25, found {type(tree).__name__}")
    like = tree.pop("like", None)
    if like is not None and like not in LEARNERS:
        raise ValueError(f"--learner {path}: like: {like}: unknown; one of {', '.join(LEARNERS)}")
    try:
        return Learner.model_validate({**(LEARNERS[like].model_dump() if like else {}), **tree})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'values'}: {fault['msg']}" for fault in error.errors()]
        raise ValueError(f"--learner {path}: {'; '.join(faults)}; keys: {', '.join(Learner.model_fields)}") from error


@dataclass(frozen=True)
class SimulatedBatch:
    """A `GlobalBatch` of nobody's records."""

    positions: np.ndarray
    domains: np.ndarray
    offered: np.ndarray


@dataclass(frozen=True)
class Simulated:
    """What came of a simulated run."""

    course: Course
    final_losses: np.ndarray
    """(3,) float64 expected loss of each stage at the end, each domain weighted by its share of the samples that offer the stage."""


def simulate(
    policy: Policy[Any], learner: Learner, *, total_steps: int, global_batch_size: int, lookahead: int, seed: int
) -> Simulated:
    """A whole run of `learner` under `policy`, which must have been made for its number of domains and steps."""
    seen_D3 = np.zeros((learner.domains, 3))
    shares_D = learner.shares()
    names = [f"domain {index + 1} ({share:.1%})" for index, share in enumerate(shares_D)]
    maker = CourseMaker(policy, domains=names, total_steps=total_steps, batches=total_steps)
    for turn in _turns(policy, learner, seen_D3, total_steps, global_batch_size, lookahead, seed):
        maker.add(turn)
    weight_D3 = shares_D[:, None] * learner.offers()
    losses_D3 = learner.losses(seen_D3, total_steps * global_batch_size)
    return Simulated(maker.course(), (weight_D3 * losses_D3).sum(axis=0) / weight_D3.sum(axis=0))


def _turns(
    policy: Policy[Any],
    learner: Learner,
    seen_D3: np.ndarray,
    total_steps: int,
    global_batch_size: int,
    lookahead: int,
    seed: int,
) -> Iterator[Turn]:
    """Decide, learn, observe, as training does; `seen_D3` is added to."""
    ends_D, offers_D3, state = np.cumsum(learner.shares()), learner.offers(), policy.initial()
    waiting: list[Observation] = []
    for step in range(total_steps):
        if len(waiting) > lookahead:  # the decision for t has seen exactly the batches up to t - lookahead - 1
            state = policy.observe(state, waiting.pop(0))
        positions_G = np.arange(step * global_batch_size, (step + 1) * global_batch_size)
        drawn_G = np.searchsorted(ends_D, uniforms(seed, "simulation.domain", positions_G), side="right")
        domains_G = np.minimum(drawn_G, learner.domains - 1)
        batch = SimulatedBatch(positions_G, domains_G, offers_D3[domains_G])
        progress = step / total_steps
        stages_G, wanted_G = decide(policy, state, batch, progress=progress, seed=seed)
        expected_G = learner.losses(seen_D3, total_steps * global_batch_size)[domains_G, stages_G]
        rough_G = _factors(generator(seed, "simulation.noise", step).standard_normal(global_batch_size), learner.noise)
        losses_G = (expected_G * rough_G).astype(np.float16)
        np.add.at(seen_D3, (domains_G, stages_G), 1)
        waiting.append(Observation(step, progress, domains_G, stages_G, losses_G))
        yield Turn(step, step, progress, state, batch, wanted_G, stages_G, stages_G, losses_G, Fate.APPLIED)


def _factors(normal: np.ndarray, sigma: float) -> np.ndarray:
    """Log-normal factors of mean 1."""
    return np.asarray(np.exp(sigma * normal - sigma * sigma / 2))
