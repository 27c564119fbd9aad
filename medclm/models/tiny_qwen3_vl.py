"""A small Qwen3-VL made on the spot, in the layout of the public checkpoints; the tokenizer is that of models/tiny.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import Qwen3VLConfig, Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from medclm.config import TinySection
from medclm.models.qwen3_vl_processor import IMAGE, Qwen3VlParts
from medclm.models.tiny import check_sizes, tiny_text_sizes, tiny_tokenizer

MERGE, FRAMES = 2, 2
"""Patches along a token's side; frames that a patch spans: as published."""
VIDEO, VISION_START, VISION_END = "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
SPECIAL = (IMAGE, VIDEO, VISION_START, VISION_END)

# Short on purpose: every prompt token is paid for on the CPU at each step.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tiny_parts(section: TinySection, texts: Iterable[str]) -> Qwen3VlParts:
    """Tokenizer and image processor of the tiny model.

    Raises:
        ValueError: `model.tiny.patch_size` does not divide `model.tiny.image_size`.
    """
    check_sizes(section)
    tokenizer = tiny_tokenizer(texts, section.vocab_size, SPECIAL)
    tokenizer.chat_template = CHAT_TEMPLATE
    pictures = Qwen2VLImageProcessorPil(
        patch_size=section.patch_size,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return Qwen3VlParts(tokenizer, pictures)


def tiny_qwen3_vl_config(section: TinySection, tokenizer: Any) -> Any:
    """A `Qwen3VLConfig` of these sizes whose vocabulary is the tokenizer's.

    The language model is given a middle and the last vision layer (4B: three of 24, and the last), so that no layer is in vain.

    Raises:
        ValueError: heads whose width rotary positions cannot share.
    """
    check_sizes(section)
    head, vision_head = section.width // section.heads, section.vision_width // section.heads
    if head % 2 or head < 6 or vision_head % 4:
        raise ValueError(
            f"model.tiny.heads={section.heads}: leaves {head} units a head of model.tiny.width and {vision_head} of "
            "model.tiny.vision_width: rotary positions of Qwen3-VL need an even number of at least 6, and a multiple of 4"
        )
    rows = columns = head // 2 // 3
    vision = Qwen3VLVisionConfig(
        depth=section.vision_layers,
        hidden_size=section.vision_width,
        intermediate_size=4 * section.vision_width,
        num_heads=section.heads,
        patch_size=section.patch_size,
        spatial_merge_size=MERGE,
        temporal_patch_size=FRAMES,
        out_hidden_size=section.width,
        num_position_embeddings=(section.image_size // section.patch_size) ** 2,
        deepstack_visual_indexes=[section.vision_layers // 2 - 1],
    )
    text = Qwen3VLTextConfig(
        **tiny_text_sizes(section, tokenizer),
        head_dim=head,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head // 2 - rows - columns, rows, columns],
            "mrope_interleaved": True,
        },
    )
    image, video, start, end = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    return Qwen3VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
