"""A small ViP-LLaVA made on the spot: its sizes, its tokenizer and its processor, in the layout of the public checkpoints.

It lets the demo and the tests walk the same road as a 7B model without a download. Knows nothing of training or corpora:
the texts that shape the tokenizer are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
)

from medclm.config import TinySection

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"

# Short on purpose: every prompt token is paid for on the CPU at each step.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %} ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)

# The start of a unit coordinate (`[0.`, `, 0.`) is one piece and so one token, each digit is one, a word keeps its leading
# space. A box of three decimals is then 17 tokens instead of 28.
PIECES = r"[\[(,]? ?[\[(]?0\.(?=\d)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"


def tiny_tokenizer(texts: Iterable[str], vocab_size: int, special: Sequence[str] = (IMAGE,)) -> PreTrainedTokenizerFast:
    """A byte-level BPE over `texts`: frequent words become one token, digits stay apart, no text is unknown.

    Args:
        texts: questions and targets; equal texts give an equal tokenizer.
        vocab_size: upper bound of the vocabulary, special tokens included; at least 300.
        special: whole tokens of the family, the image token first.
    """
    texts = [str(text) for text in texts]
    frames = [f"USER: \n{text} ASSISTANT: Reasoning: \n\nAnswer:" for text in texts] or ["USER: \n ASSISTANT:"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(frames, trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": special[0]},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def tiny_transformers_processor(section: TinySection, texts: Iterable[str]) -> Any:
    """The transformers processor of the tiny model, as `AutoProcessor` would open it.

    Raises:
        ValueError: `model.tiny.patch_size` does not divide `model.tiny.image_size`.
    """
    check_sizes(section)
    side = section.image_size
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tiny_tokenizer(texts, section.vocab_size),
        patch_size=section.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(section: TinySection, tokenizer: Any) -> Any:
    """A `VipLlavaConfig` of these sizes whose vocabulary is the tokenizer's.

    The projector reads a middle and the last vision layer (the 7B model: five of 24), so that no layer is computed in vain.
    """
    check_sizes(section)
    vision = CLIPVisionConfig(
        image_size=section.image_size,
        patch_size=section.patch_size,
        hidden_size=section.vision_width,
        intermediate_size=4 * section.vision_width,
        num_hidden_layers=section.vision_layers,
        num_attention_heads=section.heads,
        projection_dim=section.vision_width,
        hidden_act="gelu",  # one fused operation, where the default takes three
    )
    text = LlamaConfig(**tiny_text_sizes(section, tokenizer), tie_word_embeddings=False)
    return VipLlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(section.image_size // section.patch_size) ** 2,
        vision_feature_layers=[section.vision_layers // 2, section.vision_layers],
        tie_word_embeddings=False,
    )


def tiny_text_sizes(section: TinySection, tokenizer: Any) -> dict[str, Any]:
    """What the configuration of every family's small language model says."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": section.width,
        "intermediate_size": 4 * section.width,
        "num_hidden_layers": section.layers,
        "num_attention_heads": section.heads,
        "num_key_value_heads": section.heads,
        "max_position_embeddings": 4096,
        # The usual 0.02 is meant for widths of thousands: at 128 attention would start uniform and stay so for long.
        "initializer_range": section.width**-0.5,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def spread_positions(positions_pd: torch.Tensor, side: int) -> None:
    """Start a vision tower's position embeddings as sines and cosines of column and row, half as large as its patches.

    Towers start them as noise, CLIP 14 times fainter than its patches on normalised pixels: from random weights a tower then hardly
    knows where a patch is, nor which patches are neighbours. Form: MAE's fixed embeddings (He et al. 2022, arXiv 2111.06377).

    Args:
        positions_pd: (side * side, D) parameter or view of one, row by row of the grid; changed in place.
    """
    width = positions_pd.shape[1]
    wavelengths = 100.0 ** (torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [of(at.reshape(-1, 1) / wavelengths) for at in (column, row) for of in (torch.sin, torch.cos)]
    with torch.no_grad():
        positions_pd[:, : 4 * len(wavelengths)] = 0.5 * torch.cat(waves, dim=1)


def check_sizes(section: TinySection) -> None:
    """Raise ValueError naming the key where the sizes of `model.tiny` do not fit together."""
    if section.image_size % section.patch_size:
        raise ValueError(
            f"model.tiny.patch_size={section.patch_size} does not divide model.tiny.image_size={section.image_size}: "
            "choose sizes that divide"
        )
    for key in ("width", "vision_width"):
        width = getattr(section, key)
        if width % section.heads:
            raise ValueError(
                f"model.tiny.heads={section.heads} does not divide model.tiny.{key}={width}: choose sizes that divide"
            )
    if (section.width // section.heads) % 2:
        raise ValueError(
            f"model.tiny.width / model.tiny.heads = {section.width // section.heads} is odd: rotary positions need an even number"
        )
