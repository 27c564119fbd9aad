"""Which plan `engine.memory: auto` takes under which limit: the cheapest that fits, in a fixed order of costs."""

import json
from pathlib import Path

import pytest

from medclm.config import ConfigError, load_recipe
from medclm.ds_config import batch_plan, read_json
from medclm.memory import GIB
from medclm.testing import TINY_FLAGS
from train.main import DEMO, main
from train.memory_plan import MARGIN, Forecast, MemoryPlan, Tried, choices, choose, stages_of

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
LAYERS = 4
SIZES = [flag for flag in TINY_FLAGS if ".layers=" not in flag] + [f"--model.tiny.layers={LAYERS}"]
AUTO = ["--engine.memory=auto", "--train.global_batch_size=24", "--train.micro_batch_size=8", "--data.max_tokens=200"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe([*SIZES, *AUTO])


@pytest.fixture(scope="module")
def forecast(recipe):
    return Forecast(recipe, read_json(CONFIGS / "zero_auto.json"), world_size=2, bf16=False, accelerator=False)


def chosen(recipe, forecast, limit, tried=(), stages=(1, 2, 3)):
    return choose(recipe, stages, forecast, world_size=2, layers=forecast.layers, limit=int(limit), tried=tried)


def test_the_order(recipe):
    found = choices(recipe, (2,), world_size=2, layers=4)
    assert found[0] == (6, "none", 2)  # the largest micro-batch that divides 24 / 2
    assert found[-1] == (1, "all", 2)
    assert {micro for micro, _, _ in found} == {1, 2, 3, 4, 6}
    assert {what for _, what, _ in found} == {"none", 1, 2, 3, "all"}
    assert found.index((3, "none", 2)) < found.index((6, "all", 2))


def test_each_limit_has_its_plan(recipe, forecast):
    assert str(chosen(recipe, forecast, 1e15)) == "micro-batch 6, recompute none, ZeRO stage 1"
    limit, seen = 1e15, []
    least = forecast(1, "all", 3).peak / (1 - MARGIN)
    while limit > least:
        plan = chosen(recipe, forecast, limit)
        assert plan.predicted <= limit * (1 - MARGIN)
        seen.append(plan)
        limit = plan.predicted / (1 - MARGIN) - 100  # what this plan just does not fit into
    with pytest.raises(ConfigError, match=r"nothing fits into.*raise engine\.memory_limit_gib"):
        chosen(recipe, forecast, least / 2)
    assert len({plan.micro_batch_size for plan in seen}) > 1
    assert {plan.recompute for plan in seen} > {"none", "all"}
    assert {plan.zero_stage for plan in seen} >= {1, 2}
    assert all(batch_plan(plan.applied(recipe), 2).global_batch_size == recipe.train.global_batch_size for plan in seen)


def test_what_was_measured_counts(recipe, forecast):
    first = chosen(recipe, forecast, 1e15)
    limit = first.predicted / (1 - MARGIN) + 1
    assert chosen(recipe, forecast, limit).predicted <= first.predicted
    again = chosen(recipe, forecast, limit, tried=[Tried(first, int(1.3 * first.predicted))])
    assert again.predicted * 1.3 <= limit * (1 - MARGIN)


def test_a_stage_that_the_json_states_is_kept(recipe, forecast):
    assert stages_of(read_json(CONFIGS / "zero3.json")) == (3,)
    assert stages_of(read_json(CONFIGS / "zero_auto.json")) == (1, 2, 3)
    assert chosen(recipe, forecast, 1e15, stages=(3,)).zero_stage == 3


def test_applied(recipe):
    run = MemoryPlan(2, "all", 3, 0).applied(recipe)
    assert (run.train.micro_batch_size, run.engine.recompute) == (2, "all")
    assert run.train.global_batch_size == recipe.train.global_batch_size


def test_the_dry_run_prints_parts_that_add_up(capsys):
    flags = [*SIZES, *AUTO[1:], "--engine.recompute=1"]
    assert main(["--deepspeed", str(CONFIGS / "zero3.json"), "--dry-run", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if "memory of one rank, samples of 200 tokens" in line)
    rows = {}
    for line in lines[first + 1 :]:
        cells = [cell.strip() for cell in line.strip("│┃").split("│")]
        if len(cells) == 3 and cells[1].replace(",", "").isdigit():
            rows[cells[0]] = int(cells[1].replace(",", ""))
        if "total" in rows:
            break
    assert {"weights", "gradients", "moments"} < rows.keys()
    assert rows.pop("total") == sum(rows.values())


def test_the_dry_run_shows_the_choice_under_a_limit(capsys):
    recipe, tree = load_recipe([*SIZES, *AUTO], config=DEMO), read_json(CONFIGS / "zero3.json")
    forecast = Forecast(recipe, tree, world_size=1, bf16=False, accelerator=False)
    limit = forecast(2, "none", 3).peak
    plan = choose(recipe, (3,), forecast, world_size=1, layers=LAYERS, limit=limit)
    assert (plan.micro_batch_size, plan.recompute) != (8, "none")
    flags = [*SIZES, *AUTO, f"--engine.memory_limit_gib={limit / GIB}"]
    assert main(["--deepspeed", str(CONFIGS / "zero3.json"), "--dry-run", *flags]) == 0
    told = capsys.readouterr().out
    assert f"= {plan.micro_batch_size} micro-batch" in told
    assert f"recompute: {plan.recompute}" in told
    assert f"{plan.predicted:,}" in told


def test_zero_auto_is_zero3_with_an_open_stage():
    auto, three = (json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("zero_auto", "zero3"))
    assert auto["zero_optimization"].pop("stage") == "auto"
    assert three["zero_optimization"].pop("stage") == 3
    assert auto["zero_optimization"].pop("allgather_bucket_size") == "auto"
    assert auto == three
