"""Weights as a plain transformers folder, with LoRA merged or as a peft folder beside its base.

Works on a state dict: the live network may be in ZeRO's pieces and lends only its config and names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medclm.models import lora
from medclm.models.freezing import freeze_groups, projector_modules


def completed(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with the frozen weights it leaves out, which are still what `model` was built with.

    Raises:
        ValueError: a trained weight is missing, or a frozen one that ZeRO has cut into pieces.
    """
    whole, missing = dict(state), []
    for name, parameter in model.named_parameters():
        if name in state:
            continue
        if parameter.requires_grad or hasattr(parameter, "ds_id"):
            missing.append(name)
        else:
            whole[name] = parameter.detach().cpu()
    if missing:
        raise ValueError(
            f"{len(missing)} weights are missing from the state to export, first {missing[0]}: gather the full state"
        )
    return whole


def base_of(folder: Path) -> str:
    """Folder or hub id of the base weights of adapters that were written apart.

    Raises:
        ValueError: the base is neither beside the adapters nor where it was.
    """
    beside = folder / "base"
    if beside.is_dir():
        return str(beside)
    recorded = str(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    if Path(recorded).is_absolute() and not Path(recorded).is_dir():
        raise ValueError(f"{folder}: its base weights are not at {recorded}: put them there or into {beside}")
    return recorded


def write_network(model: nn.Module, state: dict[str, torch.Tensor], folder: Path, merge_lora: bool) -> None:
    if not lora.has_adapters(model):
        _write_plain(model, dict(state), folder)
    elif merge_lora:
        _write_plain(model, lora.merged_state(state, lora.scaling(model)), folder)
    else:
        _write_apart(model, state, folder)


def _write_plain(model: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    model.save_pretrained(folder, state_dict=state)


def _write_apart(model: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = freeze_groups(model)
    if trained & set(groups["vision_tower"]):
        raise ValueError(
            "adapters apart from a trained vision tower are not written: export merged, or freeze the vision tower"
        )
    base = str(model.config._name_or_path)  # empty for the tiny model
    if base and Path(base).is_dir():
        base = str(Path(base).resolve())
    elif not base:
        base = str(folder.with_name(folder.name.removesuffix(".part")).resolve() / "base")
        _write_plain(model, lora.base_state(state), folder / "base")
    modules = projector_modules(model) if trained & set(groups["projector"]) else {}
    lora.save_adapters(model, state, base, modules, folder)
