"""Which parameters of a network learn: groups by name, and the vision layers that nothing reads.

Names are checked, because they move between versions of transformers: a pattern that matches nothing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medclm.config import ModelSection
from medclm.models import lora


def _unread_clip_layers(model: Any) -> list[str]:
    """Vision parameters above the highest layer that ViP-LLaVA's projector reads, and the unread last norm."""
    layers = model.config.vision_config.num_hidden_layers
    chosen = model.config.vision_feature_layers
    chosen = [chosen] if isinstance(chosen, int) else chosen
    top = max(index if index >= 0 else layers + 1 + index for index in chosen)  # hidden state k comes out of layer k - 1
    unused = []
    for name in freeze_groups(model)["vision_tower"]:
        layer = re.search(r"\.encoder\.layers\.(\d+)\.", name)
        if ".post_layernorm." in name or (layer and int(layer[1]) >= top):
            unused.append(name)
    return unused


def _none(model: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class Layout:
    """Where the parts of a network are, by parameter name."""

    groups: dict[str, str]
    """Freeze group -> pattern of the beginning of its names; a name belongs to the first that matches. What the group `projector`
    captures is the name of the module that peft saves whole beside adapters."""
    unused: Callable[[Any], list[str]]
    """Vision parameters that get no gradient."""


LAYOUTS = {
    "vipllava": Layout(
        groups={
            "vision_tower": r"model\.vision_tower\.",
            "projector": r"model\.(multi_modal_projector)\.",
            "language_model": r"model\.language_model\.|lm_head\.",
        },
        unused=_unread_clip_layers,
    ),
    "qwen3_vl": Layout(
        groups={
            "vision_tower": r"model\.visual\.(?!merger\.|deepstack_merger_list\.)",
            "projector": r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.",
            "language_model": r"model\.language_model\.|lm_head\.",
        },
        unused=_none,  # the last layer feeds the merger, the chosen ones the deepstack mergers
    ),
}
"""`model_type` of a configuration -> its layout."""


def freeze_groups(model: Any) -> dict[str, list[str]]:
    """Parameter names of vision_tower, projector, language_model and, where there are any, adapters.

    Raises:
        RuntimeError: a group is empty or a parameter belongs to none: the names of transformers have moved.
    """
    layout = LAYOUTS[model.config.model_type]
    groups: dict[str, list[str]] = {group: [] for group in layout.groups}
    for name, _ in model.named_parameters():
        if lora.is_adapter(name):
            groups.setdefault("adapters", []).append(name)
            continue
        group = next((group for group, pattern in layout.groups.items() if re.match(pattern, name)), None)
        if group is None:
            raise RuntimeError(f"parameter {name} belongs to no freeze group of {model.config.model_type}")
        groups[group].append(name)
    empty = [group for group, names in groups.items() if not names]
    if empty:
        raise RuntimeError(f"freeze groups {empty} match no parameter of this {model.config.model_type}")
    return groups


def projector_modules(model: Any) -> dict[str, list[str]]:
    """The projector's modules, by what their names end in -> their parameter names."""
    pattern = LAYOUTS[model.config.model_type].groups["projector"]
    modules: dict[str, list[str]] = {}
    for name in freeze_groups(model)["projector"]:
        match = re.match(pattern, name)
        assert match is not None
        modules.setdefault(match[1], []).append(name)
    return modules


def freeze(model: Any, section: ModelSection) -> None:
    """Set requires_grad of every parameter as the section says; adapters always learn."""
    groups = freeze_groups(model)
    frozen = {
        "vision_tower": section.freeze_vision_tower,
        "projector": section.freeze_projector,
        "language_model": section.freeze_language_model,
        "adapters": False,
    }
    still = {name for group, names in groups.items() if frozen[group] for name in names}
    still |= set(LAYOUTS[model.config.model_type].unused(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in still)


def pass_over_unread(model: Any) -> None:
    """Let what comes into a vision layer that nothing reads go out of it as it is: its weights stay, for exports, and are not used."""
    names = LAYOUTS[model.config.model_type].unused(model)
    for layer in {match[0] for name in names if (match := re.match(r".+\.layers\.\d+(?=\.)", name))}:
        model.get_submodule(layer).forward = _unchanged


def _unchanged(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def parameter_counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Group -> (all, trained) parameters; right for a network that ZeRO-3 has cut into pieces."""
    group_of = {name: group for group, names in freeze_groups(model).items() for name in names}
    counts = dict.fromkeys(group_of.values(), (0, 0))
    for name, parameter in model.named_parameters():
        size = int(getattr(parameter, "ds_numel", parameter.numel()))
        total, trained = counts[group_of[name]]
        counts[group_of[name]] = (total + size, trained + size * parameter.requires_grad)
    return counts
