"""The recipe: precedence, and a clear message for every mistake."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medclm.config import PHASES, ConfigError, Recipe, dotted_keys, load_recipe, recipe_help, recipe_yaml
from train.main import parse

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "train" / "configs").glob("*.yaml"))


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_precedence_is_default_then_file_then_flag(tmp_path):
    path = write(tmp_path, "train: {lr: 1.0e-4, steps: 7}\n")
    recipe = load_recipe(["--train.lr=3e-4"], config=path)
    assert (recipe.train.lr, recipe.train.steps, recipe.train.clip) == (3e-4, 7, 1.0)


def test_the_environment_is_never_read(monkeypatch):
    for name in ("SEED", "RUN", "RUN__SEED", "TRAIN", "seed", "run"):
        monkeypatch.setenv(name, "77")
    assert load_recipe() == Recipe()
    assert load_recipe().run.seed == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.lrr=3"], r"unknown key train\.lrr: did you mean train\.lr\?"),
        (["--lr=3"], r"unknown key lr: did you mean train\.lr\?"),
        (["--train.lr=abc"], r"train\.lr='abc': .*number"),
        (["--train.steps=0"], r"train\.steps='0': .*greater than or equal to 1"),
        (["--train.lr=1", "--train.lr=2"], r"--train\.lr is given twice"),
        (["--train.lr"], r"--train\.lr: give its value as --train\.lr=value"),
        (["train.lr=3"], r"expected --section\.key=value"),
        (["--train.lr=1e-9"], r"train\.min_lr=1e-06 is above train\.lr=1e-09"),
        (["--data.corpus=a", "--data.train_json=b"], r"data\.corpus and data\.train_json are both set"),
        (["--curriculum.mixture=[1,1,1]"], r"curriculum\.mixture=.*sum to 1"),
        (["--model.lora.rank=4"], r"model\.lora\.rank > 0 needs model\.freeze_language_model"),
        (["--model.freeze_projector=true", "--model.freeze_language_model=true"], r"nothing would be learned"),
        (["--engine.recompute=0"], r"engine\.recompute=0: give a number of decoder layers from 1, none or all"),
        (["--engine.recompute=some"], r"engine\.recompute.*='some'"),
        (
            ["--engine.activation_checkpointing=true"],
            r"unknown key engine\.activation_checkpointing: give engine\.recompute instead \(true is all now, false is none now\)",
        ),
        (["--data.fit=crop"], r"data\.fit='crop'.*'pad' or 'stretch'"),
    ],
)
def test_mistakes_name_the_key_and_the_cure(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {lr: 1}\n", r"unknown key trian\.lr: did you mean train\.lr\?"),
        ("train: {stages: 3}\n", r"unknown key train\.stages"),
        ("- a\n", "expected sections"),
        ("train: {lr: [\n", "not YAML"),
        ("train: {lr: yes please}\n", r"train\.lr='yes please'"),
    ],
)
def test_a_wrong_recipe_file_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(config=write(tmp_path, text))


@pytest.mark.parametrize(("old", "new"), [("true", "all"), ("false", "none")])
def test_a_recipe_of_an_earlier_version_is_read_as_what_it_means_now(tmp_path, old, new):
    file = write(tmp_path, f"engine: {{activation_checkpointing: {old}, timeout_s: 7}}\n")
    section = load_recipe(config=file).engine
    assert (section.recompute, section.timeout_s) == (new, 7)
    assert load_recipe(["--engine.recompute=3"], config=file).engine.recompute == 3


def test_a_missing_recipe_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*give an existing recipe"):
        load_recipe(config=tmp_path / "nowhere.yaml")


def test_a_resolved_recipe_reads_back_equal(tmp_path):
    recipe = load_recipe(["--train.betas=[0.8,0.9]", "--data.corpus=/some/where", "--curriculum.policy=mixture"])
    assert load_recipe(config=write(tmp_path, recipe_yaml(recipe))) == recipe


def test_help_teaches_every_key():
    text = recipe_help()
    for key in dotted_keys():
        line = text[text.index(f"--{key}=") :].splitlines()[1]
        assert len(line.strip()) > 10, f"{key} has no description"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path):
    load_recipe(config=path)


def test_only_the_launchers_flag_is_dropped():
    flags, rest = parse(["--deepspeed", "a.json", "--local_rank=1", "--train.lr=1"])
    assert (flags.deepspeed, rest) == (Path("a.json"), ["--train.lr=1"])
    for unknown in ("--local_rankx=1", "--local_rank=x", "--nope"):
        _, rest = parse(["--deepspeed", "a.json", unknown])
        with pytest.raises(ConfigError):
            load_recipe(rest)


def test_a_mistake_ends_within_a_second_or_so_without_a_traceback(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "launch" / "train.py"),
        "--deepspeed",
        str(ROOT / "ds_configs" / "zero3.json"),
        "--train.lrr=1",
    ]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: command line: unknown key train.lrr: did you mean train.lr?"
    assert time.monotonic() - began < 20  # a hang, not a speed: CI machines are busy


STEPS = [
    "--curriculum.unit=steps",
    *(f"--curriculum.medclm.{knob}={steps}" for knob, steps in (("easy_only_until", 50), ("easy_at_most", 80), ("ramp", 20))),
]


def test_phases_in_steps_or_epochs_become_fractions_of_the_run():
    recipe = load_recipe([*STEPS, "--curriculum.medclm.hard_from=120", "--train.steps=200"])
    found = recipe.curriculum.in_fractions(total_steps=200, epoch_steps=None)
    assert [getattr(found.medclm, knob) for knob in PHASES["medclm"]] == [0.25, 0.4, 0.1, 0.6]
    assert found.unit == "fraction"
    assert found.in_fractions(total_steps=7, epoch_steps=None) == found
    epochs = load_recipe(
        ["--curriculum.policy=threshold", "--curriculum.unit=epochs", "--curriculum.threshold.easy_only_until=1.5"]
    )
    found = epochs.curriculum.in_fractions(total_steps=1000, epoch_steps=250.0)
    assert found.threshold.easy_only_until == 0.375
    assert found.medclm == epochs.curriculum.medclm  # only the numbers of the policy that runs
    with pytest.raises(ConfigError, match=r"only a corpus tells"):
        epochs.curriculum.in_fractions(total_steps=1000, epoch_steps=None)
    with pytest.raises(ConfigError, match=r"threshold\.easy_only_until=1.5: the run has only 0.5 epochs"):
        epochs.curriculum.in_fractions(total_steps=1000, epoch_steps=2000.0)


def test_a_default_fraction_is_not_taken_for_steps():
    with pytest.raises(ConfigError, match=r"give curriculum\.medclm\.hard_from in steps; its default, 0\.19, is a fraction"):
        load_recipe(STEPS)
    with pytest.raises(ConfigError, match=r"medclm\.ramp=20.*give a fraction of the run.*unit=steps"):
        load_recipe(["--curriculum.medclm.ramp=20"])
    sequential = load_recipe(["--curriculum.policy=sequential", "--curriculum.unit=steps"])  # has no such phases
    assert sequential.curriculum.in_fractions(total_steps=9, epoch_steps=None).unit == "fraction"
