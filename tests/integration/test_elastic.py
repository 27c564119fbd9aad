"""A run saved on N ranks goes on with M: the same global batches and stages, the same weights up to rounding."""

import shutil

import numpy as np
import pytest
import torch

from medclm.checkpoint import newest, step_folder
from medclm.curriculum.log import read_log
from medclm.data.testing import write_small_corpus
from medclm.engine import consolidated_state
from tests.integration.test_training import flags, run

STEPS = [
    "--train.steps=8",
    "--train.checkpoint_every=4",
    "--train.log_every=4",
    "--train.shrink_micro_batch=true",
    "--train.export=false",
]
LORA = ["--model.freeze_language_model=true", "--model.lora.rank=4", "--model.lora.dropout=0"]
KINDS = {"full": [], "lora": LORA}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """(kind, ranks) -> folder of an undisturbed run."""
    made = {}

    def make(kind, ranks):
        if (kind, ranks) not in made:
            out = tmp_path_factory.mktemp(f"{kind}{ranks}")
            run(ranks, flags(corpus, out, *STEPS, *KINDS[kind]))
            made[kind, ranks] = out / "demo"
        return made[kind, ranks]

    return make


def weights(folder, step, lora):
    return consolidated_state(step_folder(folder / "checkpoints", step) / "deepspeed", exclude_frozen=lora)


def goes_on(corpus, saved, folder, kind, before, after):
    shutil.copytree(saved, folder / "demo")
    shutil.rmtree(folder / "demo" / "checkpoints" / "step_000008")
    run(after, flags(corpus, folder, *STEPS, *KINDS[kind], "--resume=auto"))
    lora = kind == "lora"
    first, whole, resumed = weights(saved, 4, lora), weights(saved, 8, lora), weights(folder / "demo", 8, lora)
    assert whole.keys() == resumed.keys()
    # Rounding differs between numbers of ranks, and Adam makes much of it where a gradient is almost nothing: so a share of the way.
    way = torch.cat([(whole[name] - first[name]).flatten() for name in whole]).norm()
    apart = torch.cat([(whole[name] - resumed[name]).flatten() for name in whole]).norm()
    assert way > 0
    assert apart < 0.001 * way
    logs = [read_log(path).rows for path in (saved, folder / "demo")]
    np.testing.assert_array_equal(logs[0]["stages"], logs[1]["stages"])
    np.testing.assert_allclose(*(log["losses"][:8].astype(float) for log in logs), rtol=5e-3)
    assert newest(folder / "demo" / "checkpoints").world_size == after
    cached = folder / "demo" / "checkpoints" / "step_000004" / "universal"
    assert cached.is_dir()
    return cached


@pytest.mark.parametrize(("kind", "before", "after"), [("full", 2, 1), ("lora", 1, 2)])
def test_it_goes_on_with_another_number_of_ranks(corpus, saved, tmp_path, kind, before, after):
    goes_on(corpus, saved(kind, before), tmp_path, kind, before, after)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 3), (3, 1)])
def test_it_does_from_and_to_each_of_one_to_four_ranks(corpus, saved, tmp_path, kind, before, after):
    goes_on(corpus, saved(kind, before), tmp_path, kind, before, after)


@pytest.mark.slow
def test_what_was_converted_once_is_used_again_and_back_to_the_first_number(corpus, saved, tmp_path):
    cached = goes_on(corpus, saved("full", 2), tmp_path, "full", 2, 3)
    made = {path: path.stat().st_mtime_ns for path in cached.rglob("*.pt")}
    shutil.rmtree(tmp_path / "demo" / "checkpoints" / "step_000008")
    run(1, flags(corpus, tmp_path, *STEPS, "--resume=auto"))
    assert {path: path.stat().st_mtime_ns for path in cached.rglob("*.pt")} == made
