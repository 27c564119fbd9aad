"""Model families by name, the only place that lists them. Imported where a network is needed, never at start-up."""

from __future__ import annotations

import json
from pathlib import Path

from medclm.models.protocol import ModelFamily


def family(name: str) -> ModelFamily:
    """The family of `model.family`.

    Raises:
        ValueError: no family of that name.
    """
    # seconds of imports that --help need not pay
    from medclm.models.qwen3_vl import Qwen3VlFamily
    from medclm.models.vip_llava import VipLlavaFamily

    families: dict[str, ModelFamily] = {"vip_llava": VipLlavaFamily(), "qwen3_vl": Qwen3VlFamily()}
    if name not in families:
        raise ValueError(f"model.family={name}: unknown; choose one of {', '.join(families)}")
    return families[name]


def family_of(folder: Path, stored: str | None) -> ModelFamily:
    """The family of a folder to be asked.

    Args:
        folder: an export or any local folder in the transformers layout.
        stored: what an export says of itself; None = told by the architecture in config.json, else ViP-LLaVA, whose own
            checks then say what is wrong.

    Raises:
        ValueError: an unknown family, or adapters whose base is gone.
    """
    from medclm.models.export import base_of

    if stored is None:
        adapted = (folder / "adapter_config.json").is_file()
        config = (Path(base_of(folder)) if adapted else folder) / "config.json"
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None
        stored = "qwen3_vl" if found == "qwen3_vl" else "vip_llava"
    return family(stored)
