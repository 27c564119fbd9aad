"""ViP-LLaVA behind models/protocol.py: build, check, freeze, adapt, export, open.

A CLIP vision tower, a projector over several of its layers and a Llama language model, as transformers implements them.
Knows nothing of DeepSpeed, corpora or the curriculum; under ZeRO-3 it is transformers that notices and shards at birth.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

from medclm.config import ModelSection
from medclm.draws import generator
from medclm.models import lora
from medclm.models.attention import choose_attention, surroundings
from medclm.models.objective import Objective
from medclm.models.protocol import Processor
from medclm.models.tiny import tiny_config, tiny_tokenizer, tiny_transformers_processor
from medclm.models.vip_llava_processor import VipLlavaProcessor, is_local, load_processor

GROUPS = {
    "vision_tower": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "language_model": ("model.language_model.", "lm_head."),
}
PROJECTOR = "multi_modal_projector"
LANGUAGE_MODEL = "model.language_model"


class VipLlavaFamily:
    """The `ModelFamily` of ViP-LLaVA."""

    def processor(self, section: ModelSection, texts: Sequence[str] = ()) -> VipLlavaProcessor:
        """See `ModelFamily.processor`."""
        if section.path == "tiny":
            return VipLlavaProcessor(tiny_transformers_processor(section.tiny, texts))
        return load_processor(section.path)

    def build(self, section: ModelSection, processor: Processor, dtype: torch.dtype, seed: int) -> nn.Module:
        """See `ModelFamily.build`. The same seed gives the same weights on every rank."""
        assert isinstance(processor, VipLlavaProcessor)
        attention = choose_attention(section.attention, surroundings(dtype))
        config = tiny_config(section.tiny, processor.tokenizer) if section.path == "tiny" else read_config(section.path)
        check_agreement(processor, config, section.path)
        network: nn.Module
        with seeded(seed, "model.weights"):
            if section.path == "tiny":
                network = _new_network(config, dtype, attention)
            else:
                network = open_weights(section.path, dtype, attention)
        if section.lora.rank:
            with seeded(seed, "model.lora"):
                lora.add_adapters(network, section.lora, inside=LANGUAGE_MODEL)
        freeze(network, section)
        return network

    def count_parameters(self, section: ModelSection) -> dict[str, tuple[int, int]]:
        """Group -> (all, trained) parameters, from the configuration alone; the tiny vocabulary at its upper bound.

        Raises:
            ValueError: as `build`, weights and attention aside.
        """
        if section.path == "tiny":
            config = tiny_config(section.tiny, tiny_tokenizer((), section.tiny.vocab_size))
            config.text_config.vocab_size = section.tiny.vocab_size
        else:
            config = read_config(section.path)
        with torch.device("meta"):
            network = _new_network(config, torch.float32, "eager")
            if section.lora.rank:
                lora.add_adapters(network, section.lora, inside=LANGUAGE_MODEL)
        freeze(network, section)
        return parameter_counts(network)

    def objective(self, model: nn.Module, answer_weight: float, rationale_weight: float) -> Objective:
        """See `ModelFamily.objective`."""
        return Objective(model, answer_weight, rationale_weight)

    def export(
        self, model: nn.Module, processor: Processor, folder: Path, state: dict[str, torch.Tensor], merge_lora: bool = True
    ) -> None:
        """Write `state` as a plain transformers folder, or with `merge_lora=False` adapters apart from their base.

        Apart means a peft folder with the adapters and the trained projector; where the base is no folder (the tiny model),
        it is written beside them as `base/`. The folder appears whole or not at all; an older one is replaced.

        Args:
            state: full names of `model`, on the CPU. Frozen names may be left out where `model` holds them whole.

        Raises:
            ValueError: names are missing from `state`, or adapters apart from a trained vision tower.
        """
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            _write_network(model, completed(model, state), part, merge_lora)
            processor.save(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    def load_export(self, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, VipLlavaProcessor]:
        """Open an export, merged or apart, or any local ViP-LLaVA folder, for generation.

        Raises:
            ValueError: missing folder, another architecture, weights that do not fit, a base that is gone.
        """
        folder = Path(folder)
        processor = load_processor(folder)
        attention = choose_attention("auto", surroundings(dtype))
        if not (folder / "adapter_config.json").is_file():
            check_agreement(processor, read_config(folder), str(folder))
            return open_weights(folder, dtype, attention).eval(), processor
        from peft import PeftModel

        base = base_of(folder)
        check_agreement(processor, read_config(base), base)
        adapted = PeftModel.from_pretrained(open_weights(base, dtype, attention), str(folder))
        return adapted.get_base_model().eval(), processor  # not merged: in bf16 that would round what was trained


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Initial weights come from torch's global generators: set them for a moment, then give them back as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(generator(seed, purpose).integers(2**63)))
        yield


def _new_network(config: Any, dtype: torch.dtype, attention: str) -> Any:
    """A network with random weights, never sharded at birth: it is small, and so its weights are those of its seed under any
    ZeRO stage and any number of ranks (the sharded way draws in another order). DeepSpeed shards it later.
    """
    from transformers.integrations import deepspeed as integration

    reference = integration._hf_deepspeed_config_weak_ref  # transformers can set and unset it, but not tell it
    live = reference() if reference is not None else None
    integration.unset_hf_deepspeed_config()
    try:
        return VipLlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=attention)
    finally:
        if live is not None:
            integration.set_hf_deepspeed_config(live)


def read_config(path: str | Path) -> Any:
    """The configuration of a folder or hub id.

    Raises:
        ValueError: missing, or another architecture than ViP-LLaVA.
    """
    local = is_local(path)
    try:
        raw, _ = VipLlavaConfig.get_config_dict(str(path), local_files_only=local, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"model.path={path}: no readable config.json: {error}") from error
    if not raw:
        raise ValueError(f"model.path={path}: no config.json: give a folder in the transformers layout")
    found = raw.get("model_type", "unnamed")
    if found != VipLlavaConfig.model_type:
        raise ValueError(f"model.path={path}: this is a {found} model; model.family=vip_llava opens model_type vipllava only")
    return VipLlavaConfig.from_dict(raw)


def open_weights(path: str | Path, dtype: torch.dtype, attention: str) -> Any:
    """The network of a folder or hub id.

    Raises:
        ValueError: unreadable, incomplete or of other shapes than its config says.
    """
    try:
        network, loading = VipLlavaForConditionalGeneration.from_pretrained(
            str(path),
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=is_local(path),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"model.path={path}: its weights cannot be opened: {error}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(f"model.path={path}: {len(missing)} weights are missing, first {missing[0]}: the folder is incomplete")
    return network


def check_agreement(processor: VipLlavaProcessor, config: Any, path: str) -> None:
    """Raise ValueError with the numbers unless processor and network mean the same image span and vocabulary."""
    vision = config.vision_config
    features = (vision.image_size // vision.patch_size) ** 2  # ViP-LLaVA always drops the class token
    pairs = [
        ("image size", processor.image_size, vision.image_size, "crop_size in preprocessor_config.json"),
        ("patch size", processor.patch_size, vision.patch_size, "patch_size in processor_config.json"),
        (
            "image tokens",
            processor.image_tokens,
            features,
            "num_additional_image_tokens (1) and vision_feature_select_strategy (default) in processor_config.json",
        ),
        ("image token id", processor.image_token_id, config.image_token_id, "image_token_index in config.json"),
    ]
    for what, ours, theirs, cure in pairs:
        if ours != theirs:
            raise ValueError(
                f"model.path={path}: {what} is {ours} for the processor and {theirs} for the network: correct {cure}"
            )
    vocabulary = config.text_config.vocab_size
    largest = max(len(processor.tokenizer) - 1, config.image_token_id)
    if largest >= vocabulary:
        raise ValueError(f"model.path={path}: token id {largest} is outside the network's vocabulary of {vocabulary}")


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


def _write_network(model: nn.Module, state: dict[str, torch.Tensor], folder: Path, merge_lora: bool) -> None:
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
    modules = {PROJECTOR: groups["projector"]} if trained & set(groups["projector"]) else {}
    lora.save_adapters(model, state, base, modules, folder)


__all__ = ["VipLlavaFamily", "VipLlavaProcessor", "freeze_groups", "load_processor", "parameter_counts"]
