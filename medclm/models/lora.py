"""Low-rank adapters in the language model: added in place by peft, merged by arithmetic, or written apart as a peft folder.

Adapters are injected into the network itself, without a wrapper, so that the objective, generation and parameter names
stay those of the plain network. Works on state dicts, never on live weights, which ZeRO may have cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medclm.config import LoraSection

ADAPTER = "default"
BASE = ".base_layer."


def add_adapters(network: nn.Module, section: LoraSection, inside: str) -> None:
    """Give every linear layer under the module `inside` whose last name is a target an adapter, in place.

    Raises:
        ValueError: a name of `model.lora.targets` matches no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = {
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name.startswith(f"{inside}.")
    }
    last = {name.rsplit(".", 1)[-1] for name in layers}
    missing = [target for target in section.targets if target not in last]
    if missing or not section.targets:
        raise ValueError(
            f"model.lora.targets={section.targets}: {missing or 'nothing'} matches no linear layer of {inside}; choose among {sorted(last)}"
        )
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=rf"{re.escape(inside)}\..*\.({'|'.join(map(re.escape, section.targets))})",
        bias="none",
    )
    inject_adapter_in_model(config, network, adapter_name=ADAPTER)


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".lora_" in name


def has_adapters(network: nn.Module) -> bool:
    return any(is_adapter(name) for name, _ in network.named_parameters())


def base_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state without adapters, under the names of a plain network."""
    return {name.replace(BASE, "."): value for name, value in state.items() if not is_adapter(name)}


def merged_state(state: Mapping[str, torch.Tensor], scaling: float) -> dict[str, torch.Tensor]:
    """The state with W + scaling * B A in place of each adapted W (Hu et al. 2021), summed in float32."""
    plain = base_state(state)
    for name, a_rd in state.items():
        if not name.endswith(f".lora_A.{ADAPTER}.weight"):
            continue
        layer = name.removesuffix(f".lora_A.{ADAPTER}.weight")
        if f"{layer}.weight" not in plain:
            raise ValueError(f"the state holds an adapter of {layer} without its base weight: gather the full state to merge")
        b_or = state[f"{layer}.lora_B.{ADAPTER}.weight"]
        base = plain[f"{layer}.weight"]
        plain[f"{layer}.weight"] = (base.float() + scaling * (b_or.float() @ a_rd.float())).to(base.dtype)
    return plain


def scaling(network: Any) -> float:
    """alpha / rank of the network's adapters."""
    config = network.peft_config[ADAPTER]
    return float(config.lora_alpha / config.r)


def save_adapters(
    network: Any, state: Mapping[str, torch.Tensor], base: str, modules: Mapping[str, list[str]], folder: Path
) -> None:
    """Write a peft folder: adapters, and whole modules that were trained beside them (the projector).

    Args:
        state: full names of `network`, on the CPU.
        base: where the base weights are (kept as `base_model_name_or_path`).
        modules: last name of a module -> its parameter names.
        folder: created where missing.
    """
    from safetensors.torch import save_file

    kept = {name.replace(f".{ADAPTER}.", "."): value for name, value in state.items() if is_adapter(name)}
    kept |= {name: state[name] for names in modules.values() for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    config = type(network.peft_config[ADAPTER])(**{**network.peft_config[ADAPTER].to_dict(), "inference_mode": True})
    config.base_model_name_or_path = base
    config.modules_to_save = list(modules) or None
    config.save_pretrained(folder)
    save_file(
        {f"base_model.model.{name}": value.contiguous() for name, value in kept.items()}, folder / "adapter_model.safetensors"
    )
