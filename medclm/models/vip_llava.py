"""ViP-LLaVA behind models/protocol.py: a CLIP vision tower, a projector over several of its layers, a Llama language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration

from medclm.config import ModelSection, TinySection
from medclm.models.freezing import freeze_groups, parameter_counts
from medclm.models.processor import is_local
from medclm.models.protocol import Picture
from medclm.models.tiles import COUNTS, SCALES
from medclm.models.tiny import check_sizes, spread_positions, tiny_config, tiny_tokenizer, tiny_transformers_processor
from medclm.models.transformers_family import TransformersFamily
from medclm.models.vip_llava_processor import VipLlavaProcessor, load_processor
from medclm.models.weights import check_pairs, check_vocabulary

PUBLISHED_VOCABULARY = 32064
"""Rows of the embedding of the published 7B model."""


class VipLlavaFamily(TransformersFamily[VipLlavaProcessor]):
    """The `ModelFamily` of ViP-LLaVA."""

    name = "vip_llava"
    network_class = VipLlavaForConditionalGeneration
    config_class = VipLlavaConfig

    def processor(self, section: ModelSection, texts: Sequence[str] = ()) -> VipLlavaProcessor:
        """See `ModelFamily.processor`.

        Raises:
            ValueError: `model.image_size` is given: the folder, or `model.tiny`, fixes the side.
        """
        if section.image_size:
            raise ValueError(
                f"model.image_size={section.image_size}: a ViP-LLaVA sees squares of the side that its folder fixes "
                "(path: tiny: model.tiny.image_size): leave it 0"
            )
        if section.path == "tiny":
            return VipLlavaProcessor(tiny_transformers_processor(section.tiny, texts), section.tiles)
        return load_processor(section.path, section.tiles)

    def opened_processor(self, folder: Path) -> VipLlavaProcessor:
        """See `TransformersFamily.opened_processor`."""
        return load_processor(folder)

    def tiny_config(self, section: ModelSection, processor: VipLlavaProcessor | None) -> Any:
        """See `TransformersFamily.tiny_config`."""
        if processor is not None:
            return tiny_config(section.tiny, processor.tokenizer)
        config = tiny_config(section.tiny, tiny_tokenizer((), section.tiny.vocab_size))
        config.text_config.vocab_size = section.tiny.vocab_size
        return config

    def published_config(self, hub_id: str) -> Any:
        """See `TransformersFamily.published_config`: 7B."""
        config = VipLlavaConfig()  # its defaults are the 7B layout, but for the image token's place in the vocabulary
        config.text_config.vocab_size = PUBLISHED_VOCABULARY
        return config

    def published_stand_in(self, section: ModelSection) -> VipLlavaProcessor:
        """See `TransformersFamily.published_stand_in`."""
        vision = VipLlavaConfig().vision_config
        sizes = TinySection(image_size=vision.image_size, patch_size=vision.patch_size)
        return VipLlavaProcessor(tiny_transformers_processor(sizes, ()), section.tiles)

    def picture(self, section: ModelSection) -> Picture:
        """See `ModelFamily.picture`; a hub id that is not on this machine is taken to be the published 7B model."""
        if section.path == "tiny":
            check_sizes(section.tiny)
            side, tokens = section.tiny.image_size, (section.tiny.image_size // section.tiny.patch_size) ** 2
        elif is_local(section.path):
            processor = load_processor(section.path)
            side, tokens = processor.view_size, processor.view_tokens
        else:
            vision = VipLlavaConfig().vision_config
            side, tokens = vision.image_size, (vision.image_size // vision.patch_size) ** 2
        views = COUNTS[section.tiles]
        return Picture(side=SCALES[section.tiles] * side, views=views, view_side=side, tokens=views * tokens)

    def spread_positions(self, network: Any) -> None:
        """See `TransformersFamily.spread_positions`."""
        embeddings = network.model.vision_tower.embeddings
        side = embeddings.image_size // embeddings.patch_size
        spread_positions(embeddings.position_embedding.weight[1:], side)  # row 0 is the class token's

    def check_agreement(self, processor: VipLlavaProcessor, config: Any, path: str) -> None:
        """See `TransformersFamily.check_agreement`."""
        vision = config.vision_config
        features = (vision.image_size // vision.patch_size) ** 2  # ViP-LLaVA always drops the class token
        pairs = [
            ("image size", processor.view_size, vision.image_size, "crop_size in preprocessor_config.json"),
            ("patch size", processor.patch_size, vision.patch_size, "patch_size in processor_config.json"),
            (
                "image tokens",
                processor.view_tokens,
                features,
                "num_additional_image_tokens (1) and vision_feature_select_strategy (default) in processor_config.json",
            ),
            ("image token id", processor.image_token_id, config.image_token_id, "image_token_index in config.json"),
        ]
        check_pairs(pairs, path)
        check_vocabulary(len(processor.tokenizer), config.image_token_id, config.text_config.vocab_size, path)


__all__ = ["VipLlavaFamily", "VipLlavaProcessor", "freeze_groups", "load_processor", "parameter_counts"]
