"""The tiny model's tokenizer and sizes: nothing is unknown, digits stay apart, what is saved opens with transformers."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, VipLlavaForConditionalGeneration

from medclm.config import TinySection
from medclm.models.tiny import tiny_config, tiny_tokenizer
from medclm.models.vip_llava import VipLlavaFamily, VipLlavaProcessor
from medclm.testing import DEFAULT_TEXTS, tiny_export, tiny_network, tiny_processor, tiny_section

PROCESSOR = tiny_processor()


@given(st.lists(st.text(max_size=20), max_size=4))
@settings(max_examples=200)
def test_any_text_survives_and_pieces_join(pieces: list[str]) -> None:
    special = (PROCESSOR.inner.image_token, "<pad>", "<s>", "</s>")
    pieces = [piece for piece in pieces if not any(token in piece for token in special)]
    ids = [i for piece in pieces for i in PROCESSOR.text_ids(piece)]
    text = "".join(pieces).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert PROCESSOR.decode(ids) == text


def test_digits_stay_apart_and_frequent_words_are_one_token() -> None:
    tokens = PROCESSOR.tokenizer.convert_ids_to_tokens(PROCESSOR.text_ids(" kidney [0.125, 0.250] 1987"))
    assert tokens == ["Ġkidney", "Ġ[0.", "1", "2", "5", ",Ġ0.", "2", "5", "0", "]", "Ġ", "1", "9", "8", "7"]


def test_equal_texts_give_an_equal_tokenizer_in_any_order() -> None:
    first = tiny_tokenizer(DEFAULT_TEXTS, 400).backend_tokenizer.to_str()
    assert tiny_tokenizer(list(reversed(DEFAULT_TEXTS)), 400).backend_tokenizer.to_str() == first
    assert tiny_tokenizer(DEFAULT_TEXTS[:2], 400).backend_tokenizer.to_str() != first


@pytest.mark.parametrize("size", [300, 310, 4096])
def test_the_vocabulary_keeps_its_bound_and_the_config_fits_it(size: int) -> None:
    tokenizer = tiny_tokenizer(DEFAULT_TEXTS * 3, size)
    config = tiny_config(TinySection(), tokenizer)
    assert 260 <= len(tokenizer) <= size
    assert config.text_config.vocab_size == len(tokenizer) > config.image_token_id


def test_no_texts_still_give_a_tokenizer() -> None:
    processor = tiny_processor(texts=())
    assert processor.decode(processor.text_ids("Größe 3 µm")) == "Größe 3 µm"


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"image_size": 33}, "model.tiny.patch_size"),
        ({"heads": 3}, "model.tiny.heads"),
        ({"vision_width": 33}, "model.tiny.vision_width"),
        ({"width": 34, "vision_width": 32, "heads": 2}, "odd"),
    ],
)
def test_sizes_that_do_not_fit_name_their_key(sizes: dict[str, int], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        tiny_network(tiny_section(**sizes), PROCESSOR)


def test_every_vision_layer_of_the_tiny_model_learns_something() -> None:
    network = tiny_network(tiny_section(vision_layers=3), PROCESSOR)
    idle = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert idle
    assert all("post_layernorm" in name for name in idle)


def test_positions_tell_columns_from_rows_and_neighbours_from_strangers() -> None:
    network = tiny_network(tiny_section(image_size=64, patch_size=8, vision_width=32))
    positions = network.model.vision_tower.embeddings.position_embedding.weight[1:].detach().reshape(8, 8, 32)
    column, row = positions[..., :16], positions[..., 16:]
    assert torch.equal(column, column[:1].expand_as(column))
    assert torch.equal(row, row[:, :1].expand_as(row))
    distances = (positions - positions[0, 0]).norm(dim=-1)
    assert (distances[0, 1:4].diff() > 0).all()
    assert distances[0, 1] == distances[0, 1:].min()
    assert torch.allclose(distances, distances.T, atol=1e-6)


def test_an_export_opens_with_transformers_alone(tmp_path: Path) -> None:
    folder = tiny_export(tmp_path / "export")
    processor = AutoProcessor.from_pretrained(folder)
    network = VipLlavaForConditionalGeneration.from_pretrained(folder)
    assert VipLlavaProcessor(processor).prompt_ids("Where?") == PROCESSOR.prompt_ids("Where?")
    assert network.config.image_token_id == PROCESSOR.image_token_id
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vipllava"
    assert not (tmp_path / "export.part").exists()


def test_a_tiny_processor_is_the_familys() -> None:
    assert VipLlavaFamily().processor(tiny_section(), DEFAULT_TEXTS).prompt_ids("Why?") == PROCESSOR.prompt_ids("Why?")
