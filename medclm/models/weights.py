"""Configurations and weights of transformers folders: read, opened, or made new. The same for every family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from medclm.draws import generator
from medclm.models.processor import is_local


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Initial weights come from torch's global generators: set them for a moment, then give them back as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(generator(seed, purpose).integers(2**63)))
        yield


def new_network(network_class: Any, config: Any, dtype: torch.dtype, attention: str) -> Any:
    """A network with random weights, never sharded at birth: it is small, and so its weights are those of its seed under any
    ZeRO stage and any number of ranks (the sharded way draws in another order). DeepSpeed shards it later.
    """
    from transformers.integrations import deepspeed as integration

    reference = integration._hf_deepspeed_config_weak_ref  # transformers can set and unset it, but not tell it
    live = reference() if reference is not None else None
    integration.unset_hf_deepspeed_config()
    try:
        return network_class._from_config(config, dtype=dtype, attn_implementation=attention)
    finally:
        if live is not None:
            integration.set_hf_deepspeed_config(live)


def read_config(config_class: Any, path: str | Path, family: str) -> Any:
    """The configuration of a folder or hub id.

    Args:
        family: as `model.family` names it, for messages.

    Raises:
        ValueError: missing, or another architecture than the family's.
    """
    local = is_local(path)
    try:
        raw, _ = config_class.get_config_dict(str(path), local_files_only=local, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"model.path={path}: no readable config.json: {error}") from error
    if not raw:
        raise ValueError(f"model.path={path}: no config.json: give a folder in the transformers layout")
    found = raw.get("model_type", "unnamed")
    if found != config_class.model_type:
        raise ValueError(
            f"model.path={path}: this is a {found} model; model.family={family} opens model_type {config_class.model_type} only"
        )
    return config_class.from_dict(raw)


def open_weights(network_class: Any, path: str | Path, dtype: torch.dtype, attention: str) -> Any:
    """The network of a folder or hub id.

    Raises:
        ValueError: unreadable, incomplete or of other shapes than its config says.
    """
    try:
        network, loading = network_class.from_pretrained(
            str(path),
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=is_local(path),
            trust_remote_code=False,
            use_safetensors=True,  # the other weights are pickles, which may run any program
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"model.path={path}: its weights cannot be opened: {error}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(f"model.path={path}: {len(missing)} weights are missing, first {missing[0]}: the folder is incomplete")
    return network


def check_pairs(pairs: list[tuple[str, Any, Any, str]], path: str) -> None:
    """Raise ValueError for the first (what, the processor's, the network's, where to correct it) that differ."""
    for what, ours, theirs, cure in pairs:
        if ours != theirs:
            raise ValueError(
                f"model.path={path}: {what} is {ours} for the processor and {theirs} for the network: correct {cure}"
            )


def check_vocabulary(tokens: int, image_token_id: int, vocabulary: int, path: str) -> None:
    """Raise ValueError unless every id of a tokenizer of `tokens` entries has a row in the network's embedding."""
    largest = max(tokens - 1, image_token_id)
    if largest >= vocabulary:
        raise ValueError(f"model.path={path}: token id {largest} is outside the network's vocabulary of {vocabulary}")
