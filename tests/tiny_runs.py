"""Runs that take seconds, and what makes two of them the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medclm.curriculum.log import read_log
from medclm.engine import consolidated_state

_RECIPE = """\
model:
  tiny: {{image_size: 32, vision_width: 32, vision_layers: 2, width: 32, layers: 2, heads: 2}}
data: {{min_side: 0}}
train: {{lr: 1.0e-3, steps: {steps}, log_every: {log_every}, checkpoint_every: {checkpoint_every}, global_batch_size: 12, micro_batch_size: 3}}
curriculum: {{timeout_s: {timeout_s}}}
engine: {{timeout_s: {timeout_s}}}
tracking: {{uri: "off"}}
"""


def write_recipe(path: Path, *, steps: int, log_every: int = 1, checkpoint_every: int = 0, timeout_s: float = 60) -> Path:
    """A recipe of the tiny model for `--config`; returns `path`."""
    text = _RECIPE.format(steps=steps, log_every=log_every, checkpoint_every=checkpoint_every, timeout_s=timeout_s)
    path.write_text(text, encoding="utf-8")
    return path


def assert_same_run(run: Path, other: Path, *, steps: int) -> None:
    """Two run folders hold the same final weights to the bit, every decision, and the losses of every sample."""
    ours, theirs = (
        consolidated_state(one / "checkpoints" / f"step_{steps:06d}" / "deepspeed", exclude_frozen=False)
        for one in (run, other)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    np.testing.assert_array_equal(read_log(run).rows, read_log(other).rows)
