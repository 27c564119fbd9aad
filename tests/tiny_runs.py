"""Runs that take seconds, and what makes two of them the same run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from medclm.config import load_recipe, recipe_yaml
from medclm.curriculum.log import read_log
from medclm.engine import consolidated_state
from medclm.testing import TINY_FLAGS


def write_recipe(path: Path, *, steps: int, log_every: int = 1, checkpoint_every: int = 0, timeout_s: float = 60) -> Path:
    """A recipe of the tiny model for `--config`; returns `path`."""
    given = {
        "data.min_side": 0,
        "train.lr": 1e-3,
        "train.steps": steps,
        "train.log_every": log_every,
        "train.checkpoint_every": checkpoint_every,
        "train.global_batch_size": 12,
        "train.micro_batch_size": 3,
        "curriculum.timeout_s": timeout_s,
        "engine.timeout_s": timeout_s,
        "tracking.uri": "off",
    }
    recipe = load_recipe([*TINY_FLAGS, *(f"--{key}={value}" for key, value in given.items())])
    path.write_text(recipe_yaml(recipe), encoding="utf-8")
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


def with_one_table(folder: Path) -> Path:
    """The exported folder with the embedding as its head, as smaller published models have it; changed in place."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}), encoding="utf-8")
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder
