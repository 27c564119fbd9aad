"""Qwen3-VL through the whole road: training, its export, evaluation, a prediction, and the card's own code without medclm."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.decoding import Decoding
from eval.model import open_checkpoint
from medclm.config import load_recipe
from medclm.data.frame import ImageFrame
from medclm.data.render import with_instruction
from medclm.data.testing import write_small_corpus
from medclm.engine import consolidated_state
from medclm.exports import SETTINGS
from medclm.generation import Request, generate
from medclm.model_card import CARD
from medclm.models.asking import EXAMPLE_QUESTION, MAX_NEW_TOKENS
from medclm.models.registry import family
from medclm.testing import TINY_FLAGS, tiny_export, tiny_section
from tests.ranks import run_ranks
from tests.tiny_runs import with_one_table
from train.main import main

ROOT = Path(__file__).resolve().parents[2]
QWEN = [
    *(flag for flag in TINY_FLAGS if "image_size" not in flag),
    "--model.tiny.image_size=64",
    *("--train.global_batch_size=12", "--train.micro_batch_size=3", "--train.steps=6", "--train.lr=3e-3"),
    *("--data.min_side=0", "--tracking.uri=off"),
]


def flags(corpus: Path, out: Path, *more: str) -> list[str]:
    """Of a run by a recipe that names its family and leaves its boxes to it (without one, the demo's would be taken)."""
    recipe = out / "family.yaml"
    recipe.write_text("model: {family: qwen3_vl}\n", encoding="utf-8")
    given = ["--deepspeed", str(ROOT / "ds_configs/zero3.json"), "--config", str(recipe)]
    return [*given, f"--data.corpus={corpus}", f"--run.output_dir={out}", *QWEN, *more]


def start(rank: int, arguments: list[str]) -> int:
    return main(arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps on two ranks under ZeRO-3."""
    out = tmp_path_factory.mktemp("runs")
    codes = run_ranks(2, start, flags(corpus, out, "--model.freeze_vision_tower=false"), timeout_s=480)
    assert codes == [0, 0], codes
    return out / "demo"


@pytest.mark.slow
def test_a_run_learns_and_keeps_its_box_frame(run: Path) -> None:
    stored = load_recipe(config=run / "recipe.yaml")
    assert stored.data.box_text == family("qwen3_vl").box_text
    settings = json.loads((run / "export" / SETTINGS).read_text())
    assert (settings["family"], settings["box_text"]) == ("qwen3_vl", {"frame": "padded", "scale": "1000", "digits": 0})
    network, processor = family("qwen3_vl").load_export(run / "export", torch.float32)
    assert processor.image_size == 64
    trained = consolidated_state(run / "checkpoints/step_000006/deepspeed", exclude_frozen=False)
    state = network.state_dict()
    assert {name.removeprefix("network.") for name in trained} == set(state)
    assert all(torch.equal(state[name.removeprefix("network.")], value) for name, value in trained.items())
    fresh = family("qwen3_vl").build(stored.model, processor, torch.float32, stored.run.seed).state_dict()
    assert all(not torch.equal(state[name], fresh[name]) for name in state if name.endswith("proj.weight"))


@pytest.mark.slow
def test_adapters_of_a_local_folder_learn_at_another_square(corpus: Path, tmp_path: Path) -> None:
    """The embedding of this one is its head, as in the 2B and 4B models."""
    base = with_one_table(tiny_export(tmp_path / "base", tiny_section(family="qwen3_vl", image_size=64)))
    adapters = ["--model.freeze_language_model=true", "--model.lora.rank=4", "--model.lora.alpha=64"]
    given = flags(corpus, tmp_path, f"--model.path={base}", "--model.image_size=96", *adapters)
    assert run_ranks(1, start, given, timeout_s=480) == [0]
    network, processor = family("qwen3_vl").load_export(tmp_path / "demo" / "export", torch.float32)
    assert (processor.image_size, processor.image_tokens) == (96, 36)
    state, before = network.state_dict(), family("qwen3_vl").load_export(base, torch.float32)[0].state_dict()
    assert state.keys() == before.keys()
    learned = {name for name in state if not torch.equal(state[name], before[name])}
    assert {name for name in state if ".visual." in name} & learned == {name for name in state if "merger" in name}
    assert {name for name in state if ".language_model." in name} & learned == {
        name for name in state if ".language_model." in name and name.endswith("proj.weight")
    }
    assert "lm_head.weight" not in learned


@pytest.mark.slow
def test_it_is_evaluated_and_asked_by_the_commands(run: Path, corpus: Path, tmp_path: Path) -> None:
    judge = ["--checkpoint", run, "--data", corpus, "--split", "val", "--suites", "vqa,grounding", "--limit", 6]
    judge += ["--max-new-tokens", 24, "--out", tmp_path / "eval"]
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(picture)
    ask = ["--checkpoint", run, "--image", picture, "--question", "Where is the mass?", "--out", tmp_path / "overlay.png"]
    unreadable = 3  # after six steps a reply may well hold no answer, which predict.py says and shows all the same
    for script, given, fine in (("launch/evaluate.py", judge, {0}), ("launch/predict.py", ask, {0, unreadable})):
        done = subprocess.run(
            [sys.executable, script, *map(str, given)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=480
        )
        assert done.returncode in fine, done.stderr
    for suite in ("vqa", "grounding"):
        (results,) = tmp_path.glob(f"eval/{suite}-*/results.json")
        assert json.loads(results.read_text())["n"] == 6
    assert Image.open(tmp_path / "overlay.png", formats=["PNG"]).width >= 80


@pytest.mark.slow
def test_the_cards_code_writes_what_we_write_without_medclm(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run / "export", tmp_path / "export"))
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 140, 3), dtype=np.uint8))
    picture.save(folder / "picture.png")
    code = (folder / CARD).read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    code += "\nimport sys\nassert 'medclm' not in sys.modules\nprint('IDS', tokens.tolist())\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("IDS ")]
    network, processor = family("qwen3_vl").load_export(folder, torch.float32)
    square = ImageFrame(140, 90, side=64, fit="pad").place(picture)
    request = Request("one", with_instruction(EXAMPLE_QUESTION, "reason"), square)
    (ours,) = generate(network, processor, [request], max_new_tokens=MAX_NEW_TOKENS, batch_size=1)
    assert json.loads(line.removeprefix("IDS ")) == list(ours.ids)


def test_a_folder_that_medclm_did_not_write_is_asked_in_its_familys_frame(tmp_path: Path) -> None:
    folder = tiny_export(tmp_path / "base", tiny_section(family="qwen3_vl", image_size=64))
    model = open_checkpoint(folder, Decoding())
    assert (model.box_text, model.square.side) == (family("qwen3_vl").box_text, 64)


def test_the_dry_run_shows_the_familys_boxes_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--deepspeed", str(ROOT / "ds_configs/zero3.json"), "--config", str(ROOT / "train/configs/qwen3_vl_4b_lora.yaml")]
    assert main([*given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "box_text:\n    frame: padded\n    scale: '1000'\n    digits: 0" in shown
    assert "4,022,468,096" in shown
