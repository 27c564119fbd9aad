"""Model families by name, the only place that lists them. Imported where a network is needed, never at start-up."""

from __future__ import annotations

from medclm.models.protocol import ModelFamily


def family(name: str) -> ModelFamily:
    """The family of `model.family`.

    Raises:
        ValueError: no family of that name.
    """
    from medclm.models.vip_llava import VipLlavaFamily  # seconds of imports that --help and --dry-run need not pay

    families: dict[str, ModelFamily] = {"vip_llava": VipLlavaFamily()}
    if name not in families:
        raise ValueError(f"model.family={name}: unknown; choose one of {', '.join(families)}")
    return families[name]
