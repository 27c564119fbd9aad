"""Batch algebra and the merge of recipe and DeepSpeed JSON."""

import json
from pathlib import Path

import pytest

from medclm.config import ConfigError, load_recipe
from medclm.ds_config import batch_plan, fill, read_json

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"


def filled(tree, flags=(), world_size=2, bf16=False):
    return fill(tree, load_recipe(list(flags)), world_size=world_size, bf16=bf16, accelerator=False, where="x.json")


@pytest.mark.parametrize("name", ["zero2", "zero3", "zero3_offload"])
def test_auto_becomes_the_recipes_value(name):
    tree = filled(
        read_json(CONFIGS / f"{name}.json"), ["--train.global_batch_size=48", "--train.micro_batch_size=6", "--train.clip=0.5"]
    )
    assert (tree["train_batch_size"], tree["train_micro_batch_size_per_gpu"], tree["gradient_accumulation_steps"]) == (48, 6, 4)
    assert tree["gradient_clipping"] == 0.5
    assert tree["bf16"]["enabled"] is False
    assert "auto" not in json.dumps(tree)


def test_filling_leaves_the_tree_alone():
    tree = read_json(CONFIGS / "zero3.json")
    before = json.dumps(tree)
    filled(tree, bf16=True)
    assert json.dumps(tree) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_batch_size": 7}, r"train_batch_size=7 contradicts train\.global_batch_size = 48"),
        ({"gradient_clipping": 3.0}, r"gradient_clipping=3\.0 contradicts train\.clip"),
        ({"bf16": {"enabled": True}}, r"bf16\.enabled=True contradicts train\.precision"),
        ({"optimizer": {"type": "AdamW"}}, "remove the section optimizer"),
        ({"scheduler": {}}, "remove the section scheduler"),
        ({"fp16": {"enabled": True}}, r"fp16\.enabled=true is not supported"),
        ({"zero_optimization": {"stage": 5}}, r"zero_optimization\.stage must be 1, 2 or 3, found 5"),
        ({"zero_optimization": None}, r"zero_optimization\.stage must be"),
        ({"gradient_allreduce_op": "sum"}, "gradient_allreduce_op=sum is refused"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        filled({**read_json(CONFIGS / "zero3.json"), **change})


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{,")
    with pytest.raises(ConfigError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"b\.json.*give a file of ds_configs"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize(("world", "micro"), [(1, 24), (2, 24), (3, 16), (4, 12)])
def test_the_demos_batch_divides_over_one_to_four_ranks(world, micro):
    recipe = load_recipe(["--train.shrink_micro_batch=true"])
    plan = batch_plan(recipe, world)
    assert plan.micro_batch_size == micro
    assert plan.micro_batch_size * plan.accumulation * plan.world_size == 48


def test_a_batch_that_does_not_divide_names_keys_and_cures():
    with pytest.raises(ValueError, match=r"train\.global_batch_size=48.*train\.micro_batch_size=24.*3 rank"):
        batch_plan(load_recipe(), 3)
    with pytest.raises(ValueError, match=r"train\.global_batch_size"):
        batch_plan(load_recipe(["--train.shrink_micro_batch=true"]), 5)
