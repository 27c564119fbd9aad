"""A finished run against the undisturbed one: samples, losses, decisions, metrics, weights. Reads files, starts nothing."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults.cases import CHECKPOINT_EVERY
from benchmarks.faults.witness import Witness, witness_of
from medclm.curriculum.log import read_log
from medclm.engine import consolidated_state

CLOSE = 0.002
"""Another number of ranks adds in another order: largest difference of the weights, as a part of how far training moved them."""
CLOSE_LOSS = 0.005
"""The same for losses, as a part of the loss."""
LAG = 2
"""Batches by which the losses of a log line are older than its step: they travel with the curriculum's messages."""


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    run: Path
    attempts: list[Path]
    steps: int
    lora: bool

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        state = consolidated_state(self.run / "checkpoints" / f"step_{step:06d}" / "deepspeed", exclude_frozen=self.lora)
        return {name: tensor.detach() for name, tensor in state.items()}

    def metrics(self) -> dict[int, dict[str, Any]]:
        """Step -> what was last said of it."""
        found: dict[int, dict[str, Any]] = {}
        for line in (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                values = json.loads(line)
                found.setdefault(values["step"], {}).update(values)
        return found

    def torn_lines(self) -> int:
        """Lines of metrics.jsonl that are not JSON."""
        lines = (self.run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        return sum(not _is_json(line) for line in lines)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def judge(case: Finished, truth: Finished, *, same_world: bool, skipped: set[int]) -> dict[str, Any]:
    """Every verdict, JSON-ready; `wrong` says in words what is not as it must be.

    Args:
        skipped: batches that must not have become an update; all others must.
    """
    ours, theirs = witness_of(case.attempts, case.steps), witness_of(truth.attempts, truth.steps)
    expected, wrong = set(theirs.seen), []
    if ours.broken or theirs.broken:
        wrong.append(ours.broken or f"undisturbed: {theirs.broken}")
    lost = len(expected - set(ours.seen))
    repeated = sum(count - (position in expected) for position, count in ours.seen.items() if count != (position in expected))
    verdicts: dict[str, Any] = {"lost": lost, "repeated": repeated, "resumed_from": ours.resumed[::-1]}
    if lost or repeated:
        wrong.append(f"{lost} samples lost, {repeated} repeated")
    wrong += _samples(ours, theirs, same_world)
    if (left_out := {batch for batch, applied in ours.applied.items() if not applied}) != skipped:
        wrong.append(f"batches {sorted(left_out)} were not learned from, expected {sorted(skipped)}")
    wrong += _decisions(case.run, truth.run, same_world)
    wrong += _metrics(case, truth, ours.resumed, same_world)
    bit_equal, distance = _distance(case, truth)
    verdicts |= {"bit_equal": bit_equal, "distance": distance}
    if same_world and not bit_equal:
        wrong.append(f"the weights differ, by {distance:.1e} of how far training moved them")
    if not distance <= CLOSE:
        wrong.append(f"the weights are {distance:.1e} of the training's way off")
    return verdicts | {"wrong": wrong}


def _samples(ours: Witness, theirs: Witness, same_world: bool) -> list[str]:
    both = ours.content.keys() & theirs.content.keys()
    wrong = []
    if other := [position for position in both if ours.content[position] != theirs.content[position]]:
        wrong.append(f"{len(other)} samples looked or were staged otherwise, first position {min(other)}")
    near = _same if same_world else _near
    if far := [position for position in both if not near(ours.losses[position], theirs.losses[position])]:
        wrong.append(f"{len(far)} losses differ, first position {min(far)}")
    return wrong


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _near(a: float, b: float) -> bool:
    return _same(a, b) or abs(a - b) <= CLOSE_LOSS * max(abs(a), abs(b))


def _decisions(run: Path, truth: Path, same_world: bool) -> list[str]:
    ours, theirs = read_log(run).rows, read_log(truth).rows
    if same_world:
        equal = ours.tobytes() == theirs.tobytes()
    else:
        equal = len(ours) == len(theirs) and bool(np.array_equal(ours["stages"], theirs["stages"]))
    return [] if equal else ["the log of assignments differs"]


def _metrics(case: Finished, truth: Finished, resumed: list[int], same_world: bool) -> list[str]:
    """Every logged step has a line, and an equal loss, unless its window began before a resume: that line is of fewer batches."""
    ours, theirs = case.metrics(), truth.metrics()
    if torn := case.torn_lines():
        return [f"{torn} lines of metrics.jsonl are not JSON"]
    if missing := sorted(theirs.keys() - ours.keys()):
        return [f"metrics.jsonl has no line for steps {missing}"]
    logged = [step for step, line in theirs.items() if "train/loss" in line]
    whole = [step for step in logged if not any(step - CHECKPOINT_EVERY - LAG < begun < step for begun in resumed)]
    near = _same if same_world else _near
    other = [step for step in whole if not near(ours[step].get("train/loss", -1), theirs[step]["train/loss"])]
    return [f"metrics.jsonl has another train/loss at steps {sorted(other)}"] if other else []


def _distance(case: Finished, truth: Finished) -> tuple[bool, float]:
    """Whether all weights are equal to the bit, and the largest distance of a tensor as a part of its way since the first checkpoint."""
    ours, theirs, before = case.weights(case.steps), truth.weights(truth.steps), truth.weights(CHECKPOINT_EVERY)
    if ours.keys() != theirs.keys():
        return False, math.inf
    equal = all(torch.equal(ours[name], theirs[name]) for name in ours)
    moved = math.sqrt(sum(float((theirs[name] - before[name]).double().square().sum()) for name in ours))
    apart = math.sqrt(sum(float((theirs[name] - ours[name]).double().square().sum()) for name in ours))
    return equal, apart / moved
