"""Which parameters of a ViP-LLaVA learn: groups by name, and the vision layers that nothing reads.

Names are checked, because they move between versions of transformers: a pattern that matches nothing is an error.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from medclm.config import ModelSection
from medclm.models import lora

GROUPS = {
    "vision_tower": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "language_model": ("model.language_model.", "lm_head."),
}


def freeze_groups(model: nn.Module) -> dict[str, list[str]]:
    """Parameter names of vision_tower, projector, language_model and, where there are any, adapters.

    Raises:
        RuntimeError: a group is empty or a parameter belongs to none: the names of transformers have moved.
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, _ in model.named_parameters():
        if lora.is_adapter(name):
            groups.setdefault("adapters", []).append(name)
            continue
        group = next((group for group, prefixes in GROUPS.items() if name.startswith(prefixes)), None)
        if group is None:
            raise RuntimeError(f"parameter {name} belongs to no freeze group of ViP-LLaVA")
        groups[group].append(name)
    empty = [group for group, names in groups.items() if not names]
    if empty:
        raise RuntimeError(f"freeze groups {empty} match no parameter of this ViP-LLaVA")
    return groups


def unused_vision(model: Any) -> list[str]:
    """Vision parameters above the highest layer that the projector reads, and the unread last norm: they get no gradient."""
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


def freeze(model: nn.Module, section: ModelSection) -> None:
    """Set requires_grad of every parameter as the section says; adapters always learn."""
    groups = freeze_groups(model)
    frozen = {
        "vision_tower": section.freeze_vision_tower,
        "projector": section.freeze_projector,
        "language_model": section.freeze_language_model,
        "adapters": False,
    }
    still = {name for group, names in groups.items() if frozen[group] for name in names} | set(unused_vision(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in still)


def parameter_counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Group -> (all, trained) parameters; right for a network that ZeRO-3 has cut into pieces."""
    group_of = {name: group for group, names in freeze_groups(model).items() for name in names}
    counts = dict.fromkeys(group_of.values(), (0, 0))
    for name, parameter in model.named_parameters():
        size = int(getattr(parameter, "ds_numel", parameter.numel()))
        total, trained = counts[group_of[name]]
        counts[group_of[name]] = (total + size, trained + size * parameter.requires_grad)
    return counts
