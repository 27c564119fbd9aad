"""An export needs nothing of this project: another interpreter, with transformers, torch and Pillow alone, asks it as its card says.

What it then writes is compared, token by token, with what medclm writes with the weights of the checkpoint itself, adapters unmerged.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image
from safetensors.torch import load_file

from eval.decoding import Decoding
from eval.runner import Plan, evaluate_checkpoint
from eval.summary import tracked
from medclm.config import TrackingSection, load_recipe
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.frame import ImageFrame
from medclm.data.render import BEGINS, with_instruction
from medclm.data.testing import write_small_corpus
from medclm.engine import consolidated_state
from medclm.exports import export_checkpoint, exported
from medclm.generation import Request, generate
from medclm.model_card import CARD, FACTS
from medclm.models.asking import EXAMPLE_QUESTION, MAX_NEW_TOKENS
from medclm.models.objective import network_state
from medclm.models.registry import family
from medclm.testing import TINY_FLAGS
from tests.ranks import run_ranks
from tests.transformers_server import transformers_serve
from train.main import main

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *TINY_FLAGS,
    *("--train.global_batch_size=12", "--train.micro_batch_size=12"),
    *("--data.min_side=0", "--tracking.uri=off", "--train.steps=20", "--train.lr=3e-3"),
]
LORA = ["--model.freeze_language_model=true", "--model.lora.rank=4", "--model.lora.alpha=64"]
NEEDED = ("transformers", "torch", "pillow")
"""What the card says that one needs."""
OURS = ("medclm", "train", "eval", "launch", "peft", "deepspeed", "datasets")

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib.util, json
assert not [name for name in json.loads(sys.argv[2]) if importlib.util.find_spec(name)], "more than the card asks for can be imported"
asked = []
code = open("code.py").read()
for picture in json.loads(sys.argv[3]):
    found = {}
    exec(code.replace("picture.png", picture), found)
    read = found["boxes"](found["reply"], *found["picture"].size)
    asked.append({"ids": found["tokens"].tolist(), "text": found["reply"], "boxes": read})
    again = found["model"].generate(
        **found["inputs"], max_new_tokens=256, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    asked[-1]["scores"] = [one[0].log_softmax(-1)[token].item() for one, token in zip(again.logits, asked[-1]["ids"], strict=True)]
    square = found["square"](found["picture"])
    shown = found["views"](square) if "views" in found else [square]
    content = [*({"type": "image", "image": one} for one in shown), {"type": "text", "text": sys.argv[4]}]
    messages = [{"role": "user", "content": content}]
    processor = found["processor"]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True) + "Answer:"
    inputs = processor(text=prompt, images=shown, return_tensors="pt")
    ids = found["model"].generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1]:]
    asked[-1]["chat"] = ids.tolist()
from transformers import VipLlavaForConditionalGeneration
_, loading = VipLlavaForConditionalGeneration.from_pretrained(".", output_loading_info=True)
assert type(found["model"]) is VipLlavaForConditionalGeneration
assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"], loading
assert not [name for name in sys.modules if name.partition(".")[0] in json.loads(sys.argv[2])]
print("ASKED", json.dumps(asked))
"""


def start(rank: int, arguments: list[str]) -> int:
    return main(arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpora") / "phantoms"
    options = BuildOptions(ids=phantom_ids(0), near_duplicates=False, progress=False)
    build(PhantomSource(count=60, seed=0, size=64), TemplateWriter(), out, options)
    return out


def trained(corpus: Path, out: Path, *more: str) -> Path:
    zero3 = ROOT / "ds_configs" / "zero3.json"
    flags = ["--deepspeed", str(zero3), f"--data.corpus={corpus}", f"--run.output_dir={out}", *TINY, *more]
    assert run_ranks(1, start, flags, timeout_s=240) == [0]
    return out / "demo"


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(corpus, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to what `NEEDED` needs, and nothing else: the path of an interpreter that never saw this project."""
    folder, seen, waiting = tmp_path_factory.mktemp("site"), set(), list(NEEDED)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        wanted = [Requirement(line) for line in found.requires or ()]
        waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
        for top in {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.is_symlink():
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A square, a wide and a tall one; small and large."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(7)
    made = []
    for name, (width, height) in {"square": (32, 32), "wide": (300, 120), "tall": (61, 200)}.items():
        pixels = draw.integers(0, 80, (height, width, 3), dtype=np.uint8)
        pixels[height // 4 : height // 2, width // 3 : width // 2] = draw.integers(120, 256, 3)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        made.append(folder / f"{name}.png")
    return made


def asked_elsewhere(export: Path, site: Path, pictures: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """What the card's own code writes about each picture, in a copy of the export, in an interpreter that has `site` alone."""
    shutil.copytree(export, folder)
    card = (folder / CARD).read_text(encoding="utf-8")
    (folder / "code.py").write_text(card.split("```python\n")[1].split("```")[0], encoding="utf-8")
    for picture in pictures:
        shutil.copy(picture, folder)
    names, question = [picture.name for picture in pictures], with_instruction("Is there a cyst in this image?", "direct")
    command = [sys.executable, "-I", "-S", "-c", DRIVER, str(site), json.dumps(OURS), json.dumps(names), question]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ASKED ")]
    found = json.loads(line.removeprefix("ASKED "))
    assert isinstance(found, list)
    return found


def asked_here(run: Path, pictures: Sequence[Path]) -> list[dict[str, Any]]:
    """The same by medclm, with the checkpoint's weights as training left them."""
    step = max((run / "checkpoints").glob("step_*"))
    recipe = load_recipe(config=step / "recipe.yaml")
    models = family("vip_llava")
    processor = models.processor(recipe.model.model_copy(update={"path": str(run / "processor")}))
    network = models.build(recipe.model, processor, torch.float32, recipe.run.seed)
    state = network_state(consolidated_state(step / "deepspeed", exclude_frozen=bool(recipe.model.lora.rank)))
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if ".lora_" in name]
    found = []
    for path in pictures:
        picture = Image.open(path).convert("RGB")
        frame = ImageFrame(*picture.size, side=processor.image_size, fit=recipe.data.fit)
        square = frame.place(picture)
        asks = {"ids": (EXAMPLE_QUESTION, "reason", MAX_NEW_TOKENS), "chat": ("Is there a cyst in this image?", "direct", 24)}
        one: dict[str, Any] = {}
        for key, (question, mode, most) in asks.items():
            request = Request("one", with_instruction(question, mode), square, BEGINS[mode])
            (completion,) = generate(network, processor, [request], max_new_tokens=most, batch_size=1)
            one[key] = list(completion.ids)
            if key == "ids":
                one["text"], one["scores"] = completion.text, list(completion.scores)
                one["boxes"] = [box.scaled(*picture.size) for box in frame.find_boxes(completion.text, recipe.data.box_text)]
        found.append(one)
    return found


def check_equal(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    for one, other in zip(theirs, ours, strict=True):
        assert one["ids"] == other["ids"]
        assert one["chat"] == other["chat"]
        assert one["text"] == other["text"]
        within = [box for box in one["boxes"] if min(box) >= 0]  # we clip to the picture, the card's short code does not
        assert len(within) <= len(other["boxes"]) <= len(one["boxes"])
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
    first = sorted(one["scores"][0] for one in ours)
    assert (
        min(np.diff(first)) > 5e-4
    )  # each picture moves the scores by more than is allowed above: one seen wrongly would show


def test_an_export_writes_elsewhere_what_it_writes_here(run: Path, site: Path, pictures: list[Path], tmp_path: Path) -> None:
    assert not (site / "medclm").exists()
    check_equal(asked_elsewhere(run / "export", site, pictures, tmp_path / "export"), asked_here(run, pictures))


def query_weight(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the language model's first layer, whatever transformers calls what stands before it."""
    (name,) = [name for name in state if "language_model" in name and name.endswith("layers.0.self_attn.q_proj.weight")]
    return state[name]


@pytest.mark.slow
def test_an_export_with_tiles_does_so_too(corpus: Path, site: Path, pictures: list[Path], tmp_path: Path) -> None:
    tiled = trained(corpus, tmp_path / "runs", "--model.tiles=1+4")
    check_equal(asked_elsewhere(tiled / "export", site, pictures, tmp_path / "export"), asked_here(tiled, pictures))


@pytest.mark.slow
def test_an_export_with_adapters_merged_does_so_too(corpus: Path, site: Path, pictures: list[Path], tmp_path: Path) -> None:
    adapted = trained(corpus, tmp_path / "runs", *LORA)
    recipe = load_recipe(config=adapted / "recipe.yaml")
    models = family("vip_llava")
    plain = recipe.model.model_copy(update={"lora": recipe.model.lora.model_copy(update={"rank": 0})})
    processor = models.processor(plain.model_copy(update={"path": str(adapted / "processor")}))
    before = models.build(plain, processor, torch.float32, recipe.run.seed).state_dict()
    merged = load_file(adapted / "export" / "model.safetensors")
    trained_weight, old_weight = (query_weight(state) for state in (merged, before))
    assert not torch.allclose(trained_weight, old_weight, atol=1e-4)
    assert not [name for name in merged if "lora" in name]
    assert "| LoRA | rank 4, alpha 64, merged into the weights |" in (adapted / "export" / CARD).read_text()
    check_equal(asked_elsewhere(adapted / "export", site, pictures, tmp_path / "export"), asked_here(adapted, pictures))


def test_the_card_of_an_export_knows_its_corpus_its_training_and_its_scores(run: Path, corpus: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(run / "export", export)
    card = (export / CARD).read_text()
    facts = json.loads((export / FACTS).read_text())
    assert facts["corpus"]["records"]["train"] == sum(facts["corpus"]["domains"].values())
    assert (facts["training"]["step"], facts["training"]["policy"]) == (20, "medclm")
    assert facts["parameters"] == sum(value.numel() for value in load_file(export / "model.safetensors").values())
    assert "phantoms: drawn pictures. Nothing follows from them for real ones." in card
    assert "Not evaluated yet." in card
    assert str(tmp_path.parent) not in card + json.dumps(facts)

    plan = Plan(suites=("vqa", "grounding"), limit=6)
    results = evaluate_checkpoint(export, corpus, tmp_path / "eval", plan, Decoding(max_new_tokens=40))
    for _ in range(2):
        tracked(results, plan, export, tmp_path / "eval", TrackingSection(uri="off"), tmp_path)
        scored = (export / CARD).read_text()
        assert "Not evaluated yet." not in scored
        assert scored.count("### grounding on phantoms, split test") == scored.count("### vqa on phantoms, split test") == 1
    for result in results.values():
        for name, score in result["scores"].items():
            assert (f"| `{name}` | " in scored) is (score["value"] is not None)
    assert exported(export) == export


def test_a_card_says_only_what_is_known_of_its_own_corpus(run: Path, corpus: Path, tmp_path: Path) -> None:
    """The corpus is gone, then another lies where it was made, then it is back."""
    moved = tmp_path / "runs" / "demo"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("export"))
    step = max((moved / "checkpoints").glob("step_*"))
    recipe = (step / "recipe.yaml").read_text()
    (step / "recipe.yaml").write_text(recipe.replace(str(corpus), str(tmp_path / "gone")))
    gone = (export_checkpoint(step, tmp_path / "a") / CARD).read_text()
    write_small_corpus(tmp_path / "runs" / "another")
    other = (export_checkpoint(step, tmp_path / "b") / CARD).read_text()
    assert "the corpus was not at hand" in gone
    assert other == gone
    shutil.copytree(corpus, tmp_path / "runs" / "phantoms-60")
    found = export_checkpoint(step, tmp_path / "c")
    assert (found / CARD).read_bytes() == (run / "export" / CARD).read_bytes()


# --- a server that is not ours --------------------------------------------------------------------------------------------


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """`transformers serve` of a copy of the export, on a free port: its address and what it calls the model."""
    folder = Path(shutil.copytree(run / "export", tmp_path / "export"))
    with transformers_serve(folder, tmp_path / "log") as url:
        yield f"{url}/chat/completions", str(folder)


@pytest.mark.slow
def test_transformers_serve_answers_as_we_do(served: tuple[str, str], run: Path, pictures: list[Path]) -> None:
    url, model = served
    for path, ours in zip(pictures, asked_here(run, pictures), strict=True):
        picture = Image.open(path).convert("RGB")
        square, stream = ImageFrame(*picture.size, side=32, fit="pad").place(picture), io.BytesIO()
        square.save(stream, "PNG")
        image = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
        question = with_instruction(EXAMPLE_QUESTION, "reason")
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MAX_NEW_TOKENS,
            "temperature": 0,
        }
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            found = json.load(answer)
        assert found["choices"][0]["message"]["content"] == ours["text"]
