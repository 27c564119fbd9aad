"""ViP-LLaVA behind models/protocol.py: build, check, freeze, adapt, export, open.

A CLIP vision tower, a projector over several of its layers and a Llama language model, as transformers implements them.
Knows nothing of DeepSpeed, corpora or the curriculum; under ZeRO-3 it is transformers that notices and shards at birth.
"""

from __future__ import annotations

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
from medclm.models.export import base_of, completed, write_network
from medclm.models.freezing import freeze, freeze_groups, parameter_counts
from medclm.models.objective import Objective
from medclm.models.protocol import Processor
from medclm.models.tiny import spread_positions, tiny_config, tiny_tokenizer, tiny_transformers_processor
from medclm.models.vip_llava_processor import VipLlavaProcessor, is_local, load_processor
from medclm.types import Batch, LossWeights, Segment

LANGUAGE_MODEL = "model.language_model"


PUBLISHED_VOCABULARY = 32064
"""Rows of the embedding of the published 7B model."""


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
                spread_positions(network)
            else:
                network = open_weights(section.path, dtype, attention)
        if section.lora.rank:
            with seeded(seed, "model.lora"):
                lora.add_adapters(network, section.lora, inside=LANGUAGE_MODEL)
        freeze(network, section)
        return network

    def skeleton(self, section: ModelSection, dtype: torch.dtype, processor: Processor | None = None) -> nn.Module:
        """See `ModelFamily.skeleton`. A hub id that is not on this machine is taken to have the published 7B layout.

        Flash kernels and sdpa keep the same tensors, so that the skeleton needs none of them installed.
        """
        if section.path == "tiny":
            assert processor is None or isinstance(processor, VipLlavaProcessor)
            tokenizer = processor.tokenizer if processor else tiny_tokenizer((), section.tiny.vocab_size)
            config = tiny_config(section.tiny, tokenizer)
            config.text_config.vocab_size = len(tokenizer) if processor else section.tiny.vocab_size
        elif is_local(section.path):
            config = read_config(section.path)
        else:
            config = VipLlavaConfig()  # its defaults are the 7B layout, but for the image token's place in the vocabulary
            config.text_config.vocab_size = PUBLISHED_VOCABULARY
        with torch.device("meta"):
            network = _new_network(config, dtype, "eager" if section.attention == "eager" else "sdpa")
            if section.lora.rank:
                lora.add_adapters(network, section.lora, inside=LANGUAGE_MODEL)
        freeze(network, section)
        network.train()
        return network  # type: ignore[no-any-return]

    def example_batch(self, network: nn.Module, size: int, tokens: int) -> Batch:
        """See `ModelFamily.example_batch`."""
        config: Any = network.config
        vision = config.vision_config
        image_tokens = (vision.image_size // vision.patch_size) ** 2
        if tokens < image_tokens + 3:
            raise ValueError(f"data.max_tokens={tokens}: a picture alone takes {image_tokens}: give more")
        input_ids = torch.full((size, tokens), 0 if config.image_token_id else 1)
        input_ids[:, 1 : 1 + image_tokens] = config.image_token_id
        segments = torch.full((size, tokens), Segment.CONTEXT, dtype=torch.uint8)
        segments[:, 1 + image_tokens :] = Segment.RATIONALE
        segments[:, -1] = Segment.ANSWER
        return Batch(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            segments=segments,
            pixel_values=torch.zeros(size, 3, vision.image_size, vision.image_size),
            stages=torch.zeros(size, dtype=torch.uint8),
            domains=torch.zeros(size, dtype=torch.int64),
            positions=torch.zeros(size, dtype=torch.int64),
        )

    def count_parameters(self, section: ModelSection) -> dict[str, tuple[int, int]]:
        """Group -> (all, trained) parameters, from the configuration alone; the tiny vocabulary at its upper bound.

        Raises:
            ValueError: as `build`, weights and attention aside.
        """
        return parameter_counts(self.skeleton(section, torch.float32))

    def objective(self, model: nn.Module, weights: LossWeights) -> Objective:
        """See `ModelFamily.objective`."""
        return Objective(model, weights)

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
            write_network(model, completed(model, state), part, merge_lora)
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
        if not (folder / "adapter_model.safetensors").is_file():
            raise ValueError(
                f"{folder}: no adapter_model.safetensors: pickled adapters are not opened, save them as safetensors"
            )
        adapted = PeftModel.from_pretrained(open_weights(base, dtype, attention), str(folder), use_safetensors=True)
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
            use_safetensors=True,  # the other weights are pickles, which may run any program
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


__all__ = ["VipLlavaFamily", "VipLlavaProcessor", "freeze_groups", "load_processor", "parameter_counts"]
