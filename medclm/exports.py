"""A step folder as a plain transformers folder with its model card, and what `--checkpoint` may name. Knows nothing of the loop."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medclm.checkpoint import newest, package_versions
from medclm.config import Recipe, load_recipe
from medclm.data.corpus_facts import corpus_facts
from medclm.data.manifest import write_json
from medclm.data.shards import Corpus
from medclm.data.stream import manifest_hash
from medclm.engine import consolidated_state
from medclm.model_card import CARD, FACTS, NOTICE, render_card, training_facts, with_evaluations
from medclm.model_card import FORMAT as CARD_FORMAT
from medclm.models.asking import asking_facts
from medclm.models.lora import is_adapter
from medclm.models.objective import network_state
from medclm.models.protocol import Processor
from medclm.models.registry import family

SETTINGS = "medclm.json"
"""Beside an export's transformers files: what prediction and evaluation must do as training did (box frame, fit)."""


def export_checkpoint(folder: Path, out: Path) -> Path:
    """Turn a step folder into a plain transformers folder at `out`, with its model card.

    It is written under a temporary name, then renamed.
    """
    recipe = load_recipe(config=folder / "recipe.yaml")
    models = family(recipe.model.family)
    processor = models.processor(recipe.model.model_copy(update={"path": str(folder.parent.parent / "processor")}))
    network = models.build(recipe.model, processor, torch.float32, recipe.run.seed)
    state = consolidated_state(folder / "deepspeed", exclude_frozen=bool(recipe.model.lora.rank))
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    models.export(network, processor, temporary, network_state(state))
    step = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["step"]
    settings = {
        "family": recipe.model.family,
        "fit": recipe.data.fit,
        "box_text": recipe.data.box_text.model_dump(mode="json"),
        "step": step,
        "corpus": json.loads((folder / "run_state.json").read_text(encoding="utf-8"))["stream"],
        "versions": package_versions(),
        "notice": NOTICE,
    }
    write_json(temporary / SETTINGS, settings)
    _write_card(temporary, _card_facts(folder, recipe, network, processor))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(temporary, out)
    return out


def _card_facts(folder: Path, recipe: Recipe, network: nn.Module, processor: Processor) -> dict[str, Any]:
    """What the card of a step folder's export says, evaluations aside."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    stream = json.loads((folder / "run_state.json").read_text(encoding="utf-8"))["stream"]
    return {
        "format": CARD_FORMAT,
        "notice": NOTICE,
        "architecture": type(network).__name__,
        "parameters": sum(weight.numel() for name, weight in network.named_parameters() if not is_adapter(name)),
        "training": training_facts(recipe, step=manifest["step"], world_size=manifest["world_size"]),
        "versions": manifest["versions"],
        "asking": asking_facts(processor, recipe.data),
        "corpus": _corpus_facts(folder, recipe, stream),
        "evaluations": [],
    }


def _corpus_facts(folder: Path, recipe: Recipe, stream: dict[str, Any]) -> dict[str, Any] | None:
    """Facts of the corpus that was trained on, told by its hash; None where it is gone.

    It is the named one, or lies beside the run folder, where phantoms and imports are made.
    """
    named = [recipe.data.corpus] if recipe.data.corpus else []
    beside = sorted(path.parent for path in folder.resolve().parents[2].glob("*/manifest.json"))
    for place in [*named, *beside]:
        try:
            corpus = Corpus(place)
        except ValueError:  # moved, damaged or no corpus at all: none of it is this model's fault
            continue
        if manifest_hash(corpus.manifest) == stream["manifest"]:
            return corpus_facts(corpus, stream["split"])
    return None


def _write_card(folder: Path, facts: dict[str, Any]) -> None:
    write_json(folder / FACTS, facts)
    fresh = folder / f".{CARD}.tmp"
    fresh.write_text(render_card(facts), encoding="utf-8")
    os.replace(fresh, folder / CARD)


def add_evaluations(folder: Path, evaluations: Iterable[dict[str, Any]]) -> Path | None:
    """Add results to the card of an export and write it anew.

    Args:
        evaluations: as `medclm.model_card.evaluation` makes them.

    Returns:
        The card; None for a folder whose card is not ours, which is left as it is.

    Raises:
        ValueError: model_card.json is of another version; names the cure.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.get("format") != CARD_FORMAT:
        raise ValueError(f"{path}: format {facts.get('format')}, this version reads {CARD_FORMAT}: export the checkpoint again")
    _write_card(folder, with_evaluations(facts, evaluations))
    return folder / CARD


def exported(path: Path) -> Path:
    """A plain transformers folder for what `--checkpoint` names: a run folder, a step folder (exported once, cached), or an export.

    Raises:
        ValueError: none of these.
    """
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return path
    if (path / "manifest.json").is_file() and (path / "deepspeed").is_dir():
        cached = path / "export"
        return cached if (cached / SETTINGS).is_file() else export_checkpoint(path, cached)
    if (path / "checkpoints").is_dir():
        found = newest(path / "checkpoints")
        if found is not None:
            whole = path / "export"
            if (whole / SETTINGS).is_file() and export_settings(whole).get("step") == found.run_state["step"]:
                return whole
            return exported(found.folder)
    raise ValueError(
        f"--checkpoint {path}: expected a run folder (with checkpoints/), a step folder (with manifest.json and deepspeed/) "
        f"or an export (with config.json); found {sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else 'nothing'}"
    )


def export_settings(folder: Path) -> dict[str, Any]:
    """What training noted beside an export; empty for a folder that MedCLM did not write."""
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(settings, dict)
    return settings
