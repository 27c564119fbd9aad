"""Qwen3-VL behind models/protocol.py: a vision transformer, mergers of its patches, and a Qwen3 language model.

Squares of one size per run (`model.image_size`), positions in time, row and column, and vision features of several depths
added within the language model are its own; see models/qwen3_vl_processor.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLTextConfig, Qwen3VLVisionConfig

from medclm.config import ModelSection, TinySection
from medclm.models.processor import is_local
from medclm.models.protocol import Picture
from medclm.models.qwen3_vl_processor import FALLBACK_SIDE, Qwen3VlProcessor, load_processor
from medclm.models.tiles import WHOLE
from medclm.models.tiny import spread_positions, tiny_tokenizer
from medclm.models.tiny_qwen3_vl import MERGE, SPECIAL, tiny_parts, tiny_qwen3_vl_config
from medclm.models.transformers_family import TransformersFamily
from medclm.models.weights import check_pairs, check_vocabulary

_SMALL_TOWER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
_LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "2B": (
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        _SMALL_TOWER,
        True,
    ),
    "4B": (
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
        _SMALL_TOWER,
        True,
    ),
    "8B": (
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        _LARGE_TOWER,
        False,
    ),
}
"""Size in the name -> sizes of the language model and of the vision tower, and whether the head is the embedding: config.json of
the published instruct models."""


PUBLISHED_TOKEN = 32
"""Side in pixels of what a token of the published models shows."""


class Qwen3VlFamily(TransformersFamily[Qwen3VlProcessor]):
    """The `ModelFamily` of the dense Qwen3-VL models."""

    name = "qwen3_vl"
    network_class = Qwen3VLForConditionalGeneration
    config_class = Qwen3VLConfig

    def processor(self, section: ModelSection, texts: Sequence[str] = ()) -> Qwen3VlProcessor:
        """See `ModelFamily.processor`.

        Raises:
            ValueError: `model.image_size` is no multiple of a token's side, or is given beside `path: tiny`; several tiles.
        """
        if section.tiles != WHOLE:
            raise ValueError(
                f"model.tiles={section.tiles}: a Qwen3-VL sees squares of any size: leave it {WHOLE}, and raise model.image_size"
            )
        if section.path != "tiny":
            return load_processor(section.path, section.image_size)
        if section.image_size:
            raise ValueError(f"model.image_size={section.image_size}: with path: tiny give model.tiny.image_size")
        return Qwen3VlProcessor(tiny_parts(section.tiny, texts), section.tiny.image_size)

    def published_stand_in(self, section: ModelSection) -> Qwen3VlProcessor:
        """See `TransformersFamily.published_stand_in`."""
        side = section.image_size or FALLBACK_SIDE
        return Qwen3VlProcessor(tiny_parts(TinySection(image_size=side, patch_size=PUBLISHED_TOKEN // MERGE), ()), side)

    def picture(self, section: ModelSection) -> Picture:
        """See `ModelFamily.picture`; a hub id that is not on this machine is taken to be a published model."""
        if section.path == "tiny" or is_local(section.path):
            processor = self.processor(section)
            side, tokens = processor.image_size, processor.image_tokens
        else:
            side = section.image_size or FALLBACK_SIDE
            tokens = (side // PUBLISHED_TOKEN) ** 2
        return Picture(side=side, views=1, view_side=side, tokens=tokens)

    def opened_processor(self, folder: Path) -> Qwen3VlProcessor:
        """See `TransformersFamily.opened_processor`."""
        return load_processor(folder)

    def tiny_config(self, section: ModelSection, processor: Qwen3VlProcessor | None) -> Any:
        """See `TransformersFamily.tiny_config`."""
        if processor is not None:
            return tiny_qwen3_vl_config(section.tiny, processor.tokenizer)
        config = tiny_qwen3_vl_config(section.tiny, tiny_tokenizer((), section.tiny.vocab_size, SPECIAL))
        config.text_config.vocab_size = section.tiny.vocab_size
        return config

    def published_config(self, hub_id: str) -> Any:
        """See `TransformersFamily.published_config`: told by the size in the name.

        Raises:
            ValueError: a size that is not known here.
        """
        named = re.search(r"-(\d+B)\b", hub_id)
        if named is None or named[1] not in PUBLISHED:
            raise ValueError(
                f"model.path={hub_id}: its size is not known before it is fetched; known are {', '.join(PUBLISHED)}: give a local folder"
            )
        text, vision, tied = PUBLISHED[named[1]]
        return Qwen3VLConfig(
            text_config=Qwen3VLTextConfig(vocab_size=151936, head_dim=128, num_key_value_heads=8, **text),
            vision_config=Qwen3VLVisionConfig(out_hidden_size=text["hidden_size"], **vision),
            tie_word_embeddings=tied,
        )

    def spread_positions(self, network: Any) -> None:
        """See `TransformersFamily.spread_positions`."""
        visual = network.model.visual
        spread_positions(visual.pos_embed.weight, visual.num_grid_per_side)

    def check_agreement(self, processor: Qwen3VlProcessor, config: Any, path: str) -> None:
        """See `TransformersFamily.check_agreement`."""
        vision, where = config.vision_config, "preprocessor_config.json"
        pairs = [
            ("patch size", processor.patch_size, vision.patch_size, f"patch_size in {where}"),
            ("patches along a token's side", processor.merge, vision.spatial_merge_size, f"merge_size in {where}"),
            ("frames of a patch", processor.frames, vision.temporal_patch_size, f"temporal_patch_size in {where}"),
            ("image token id", processor.image_token_id, config.image_token_id, "image_token_id in config.json"),
        ]
        check_pairs(pairs, path)
        check_vocabulary(len(processor.tokenizer), config.image_token_id, config.text_config.vocab_size, path)


__all__ = ["Qwen3VlFamily", "Qwen3VlProcessor", "load_processor"]
