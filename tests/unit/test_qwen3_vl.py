"""Qwen3-VL in the layout of the public checkpoints, made small by the test: frame, pictures, positions, opening, adapting, export."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from medclm.config import LoraSection, ModelSection
from medclm.models.freezing import freeze_groups, parameter_counts
from medclm.models.qwen3_vl import Qwen3VlFamily
from medclm.models.qwen3_vl_processor import Qwen3VlParts, Qwen3VlProcessor, load_processor
from medclm.models.registry import family, family_of
from medclm.models.tiny import tiny_tokenizer
from medclm.models.tiny_qwen3_vl import SPECIAL
from medclm.testing import DEFAULT_TEXTS, tiny_export, tiny_network, tiny_processor, tiny_section
from tests.tiny_runs import with_one_table

FAMILY = Qwen3VlFamily()
QWEN = {"family": "qwen3_vl"}
SECTION = tiny_section(image_size=64, **QWEN)
PROCESSOR = tiny_processor(SECTION)
LORA = {"freeze_language_model": True, "freeze_vision_tower": True, "lora": LoraSection(rank=4, dropout=0.0)}
transformers_logging.disable_progress_bar()


def picture(seed: int = 0, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def pixels(*seeds: int) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([PROCESSOR.pixel_values(picture(seed)) for seed in seeds]))


def logits(network: torch.nn.Module, question: str = "What is the highlighted region?") -> torch.Tensor:
    """By transformers' own way to the positions."""
    ids = torch.tensor([PROCESSOR.prompt_ids(question)])
    with torch.no_grad():
        return network.eval()(
            input_ids=ids,
            mm_token_type_ids=(ids == PROCESSOR.image_token_id).long(),
            **PROCESSOR.image_inputs(pixels(0)),
        ).logits


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export(tmp_path_factory.mktemp("model") / "qwen3-vl-tiny", SECTION)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "qwen3-vl-tiny"))


def build(path: Path | str, **overrides: Any) -> torch.nn.Module:
    section = ModelSection(family="qwen3_vl", path=str(path), **overrides)
    return FAMILY.build(section, FAMILY.processor(section), torch.float32, 0)


# Processor


def test_prompt_and_patches_are_what_transformers_makes_of_them(exported: Path) -> None:
    tokenizer, pictures = AutoTokenizer.from_pretrained(exported), AutoImageProcessor.from_pretrained(exported)
    question = "Where is the lesion?\nReason, give the box, then answer."
    content = [{"type": "image"}, {"type": "text", "text": question}]
    framed = tokenizer.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    assert framed == f"USER: <|vision_start|><|image_pad|><|vision_end|>{question} ASSISTANT:"
    expected = pictures([picture(3), picture(4)], return_tensors="pt")
    span = int(expected["image_grid_thw"][0].prod()) // pictures.merge_size**2
    assert span == 16
    processor = load_processor(exported)
    ids = tokenizer(framed.replace("<|image_pad|>", "<|image_pad|>" * span))["input_ids"]
    assert processor.prompt_ids(question) == ids
    processor.check_image_span(ids)
    found = processor.image_inputs(pixels(3, 4))
    assert found.keys() == set(expected)
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


TURNS = """{%- for message in messages -%}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}\
{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Turns as the published template writes them, without its tools and videos."""


def test_turns_without_a_beginning_of_sequence_are_framed_and_ended_as_published(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(DEFAULT_TEXTS, 512, (*SPECIAL, "<|im_start|>", "<|im_end|>"))
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = None, "<|im_end|>", TURNS
    Qwen3VlProcessor(Qwen3VlParts(tokenizer, PROCESSOR.inner.image_processor)).save(tmp_path / "saved")
    processor = load_processor(tmp_path / "saved")
    ids = processor.prompt_ids("Why?")
    shown = "".join(processor.tokenizer.convert_ids_to_tokens(ids)).replace("<|image_pad|>" * 16, "(16)")
    assert shown == "<|im_start|>userĊ<|vision_start|>(16)<|vision_end|>Why?<|im_end|>Ċ<|im_start|>assistantĊ"
    assert processor.tokenizer.convert_ids_to_tokens(processor.eos_id) == "<|im_end|>"
    assert processor.decode([*processor.text_ids(" nodule"), processor.eos_id, *ids]) == " nodule"


@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_are_those_of_the_model_in_padded_batches(side: str) -> None:
    network: Any = tiny_network(SECTION, PROCESSOR)
    prompts = [PROCESSOR.prompt_ids("Why?"), PROCESSOR.prompt_ids("Which organ hosts the lesion?")]
    prompts[1] = prompts[1] + prompts[0]  # a row of two pictures: more pictures than rows
    longest = max(map(len, prompts)) + 3
    ids, mask = torch.full((2, longest), PROCESSOR.pad_id), torch.zeros(2, longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        at = slice(0, len(prompt)) if side == "right" else slice(longest - len(prompt), longest)
        ids[row, at], mask[row, at] = torch.tensor(prompt), 1
    grids = PROCESSOR.image_inputs(pixels(0, 1, 2))["image_grid_thw"]
    expected, _ = network.model.get_rope_index(ids, (ids == PROCESSOR.image_token_id).int(), grids, attention_mask=mask)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    found = PROCESSOR.position_ids(ids, places)
    assert found.shape == (3, 2, longest)
    assert torch.equal(found[:, mask.bool()], expected[:, mask.bool()])
    assert found.amax() < longest  # a picture takes fewer places than tokens


def test_positions_start_again_with_every_sample_of_a_row() -> None:
    samples = [PROCESSOR.prompt_ids(question) for question in ("Why?", "Which organ?", "Is there a nodule in the image?")]
    row = torch.tensor([[i for ids in samples for i in ids]])
    places = torch.tensor([[at for ids in samples for at in range(len(ids))]])
    apart = [PROCESSOR.position_ids(torch.tensor([ids]), torch.arange(len(ids))[None]) for ids in samples]
    assert torch.equal(PROCESSOR.position_ids(row, places), torch.cat(apart, dim=2))


def test_what_spoils_the_image_span_is_refused() -> None:
    ids = PROCESSOR.prompt_ids("Why?")
    with pytest.raises(ValueError, match=r"15 image tokens.* 16 features"):
        PROCESSOR.check_image_span(ids[: ids.index(PROCESSOR.image_token_id) + 15])
    with pytest.raises(ValueError, match="contains the image token"):
        PROCESSOR.prompt_ids("an <|image_pad|> in a question")
    with pytest.raises(ValueError, match="32 x 32 pixels, the model takes 64 x 64"):
        PROCESSOR.pixel_values(picture(side=32))


def test_the_side_is_the_knobs_else_the_folders_else_512(folder: Path, tmp_path: Path) -> None:
    assert load_processor(folder).image_size == 64
    wider = FAMILY.processor(ModelSection(family="qwen3_vl", path=str(folder), image_size=96))
    assert (wider.image_size, wider.image_tokens) == (96, 36)
    wider.save(tmp_path / "saved")
    assert load_processor(tmp_path / "saved").image_size == 96
    edit(folder / "preprocessor_config.json", lambda tree: tree.update(size={"shortest_edge": 65536, "longest_edge": 16777216}))
    assert (load_processor(folder).image_size, load_processor(folder).image_tokens) == (512, 1024)  # 16 px a token here
    with pytest.raises(ValueError, match=r"model\.image_size=72: 2 x 2 patches of 8 px make a token: give a multiple of 16"):
        load_processor(folder, 72)
    with pytest.raises(ValueError, match=r"model\.image_size=64: with path: tiny give model\.tiny\.image_size"):
        FAMILY.processor(tiny_section(family="qwen3_vl").model_copy(update={"image_size": 64}))
    with pytest.raises(ValueError, match=r"model\.image_size=64: a ViP-LLaVA"):
        family("vip_llava").processor(ModelSection(path=str(folder), image_size=64))


# Opening


def test_a_local_folder_opens_with_its_weights_under_its_family_alone(exported: Path) -> None:
    network = build(exported, freeze_vision_tower=False)
    assert torch.equal(logits(network), logits(tiny_network(SECTION, PROCESSOR)))
    assert isinstance(family_of(exported, None), Qwen3VlFamily)
    with pytest.raises(ValueError, match=r"this is a qwen3_vl model; model\.family=vip_llava opens model_type vipllava only"):
        family("vip_llava").build(ModelSection(path=str(exported)), PROCESSOR, torch.float32, 0)


def test_another_squares_positions_come_from_the_same_weights(exported: Path) -> None:
    """The stored table of positions is read between its entries, so that any multiple of a token's side will do."""
    processor = load_processor(exported, 96)
    network = build(exported).eval()
    ids = torch.tensor([processor.prompt_ids("Why?")])
    inputs = processor.image_inputs(torch.from_numpy(processor.pixel_values(picture(side=96))))
    with torch.no_grad():
        found = network(
            input_ids=ids, position_ids=processor.position_ids(ids, torch.arange(ids.shape[1])[None]), **inputs
        ).logits
        expected = network(input_ids=ids, mm_token_type_ids=(ids == processor.image_token_id).int(), **inputs).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("preprocessor_config.json", {"patch_size": 16}, "patch size is 16 for the processor and 8 for the network"),
        ("preprocessor_config.json", {"merge_size": 1}, "patches along a token's side is 1 for the processor and 2"),
        ("preprocessor_config.json", {"temporal_patch_size": 1}, "frames of a patch is 1 for the processor and 2"),
        ("config.json", {"image_token_id": 7}, "image token id is 3 for the processor and 7 for the network"),
        ("config.json", {"model_type": "qwen3_vl_moe"}, "this is a qwen3_vl_moe model"),
    ],
)
def test_what_does_not_agree_is_named(folder: Path, file: str, change: dict[str, Any], message: str) -> None:
    edit(folder / file, lambda tree: tree.update(change))
    with pytest.raises(ValueError, match=message):
        build(folder)


def test_folders_without_what_a_prompt_needs_end_in_one_clear_error(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", lambda tree: tree["text_config"].update(vocab_size=100))
    with pytest.raises(ValueError, match="outside the network's vocabulary of 100"):
        build(folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"no chat template: add chat_template\.jinja"):
        build(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"its processor cannot be opened|expected a Qwen image processor"):
        build(folder)
    with pytest.raises(ValueError, match="no such folder"):
        build(tmp_path / "nowhere")


@pytest.mark.parametrize(("sizes", "told"), [({"heads": 8}, "leaves 4 units a head"), ({"vision_width": 36}, "multiple of 4")])
def test_tiny_sizes_that_positions_cannot_share_are_named(sizes: dict[str, int], told: str) -> None:
    section = tiny_section(family="qwen3_vl", **sizes)
    with pytest.raises(ValueError, match=rf"model\.tiny\.heads=.*{told}"):
        tiny_network(section, PROCESSOR)


# Building


def test_a_seed_fixes_the_weights() -> None:
    first, again, other = (tiny_network(SECTION, PROCESSOR, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("projector", [True, False])
@pytest.mark.parametrize("language", [True, False])
def test_freezing_is_by_group_and_every_trained_weight_gets_a_gradient(vision: bool, projector: bool, language: bool) -> None:
    where = tiny_section(
        image_size=64, freeze_vision_tower=vision, freeze_projector=projector, freeze_language_model=language, **QWEN
    )
    network = tiny_network(where, PROCESSOR)
    counts = parameter_counts(network)
    frozen = {"vision_tower": vision, "projector": projector, "language_model": language}
    assert {group: trained == 0 for group, (_, trained) in counts.items()} == frozen
    assert sum(total for total, _ in counts.values()) == sum(parameter.numel() for parameter in network.parameters())
    if all(frozen.values()):
        return
    ids = torch.tensor([PROCESSOR.prompt_ids("Why?")])
    inputs = PROCESSOR.image_inputs(pixels(0))
    network(
        input_ids=ids, position_ids=PROCESSOR.position_ids(ids, torch.arange(ids.shape[1])[None]), **inputs
    ).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_parameters_are_counted_without_weights(exported: Path) -> None:
    section = ModelSection(family="qwen3_vl", path=str(exported), **LORA)
    counts = FAMILY.count_parameters(section)
    adapted = tiny_network(tiny_section(image_size=64, **LORA, **QWEN), PROCESSOR)
    assert counts == parameter_counts(adapted)
    assert not any("lora" in name for group in ("vision_tower", "projector") for name in freeze_groups(adapted)[group])
    assert counts["language_model"][1] == counts["vision_tower"][1] == 0 < counts["projector"][1]


@pytest.mark.parametrize(("size", "billions"), [("2B", 2.128), ("4B", 4.438), ("8B", 8.767)])
def test_published_sizes_are_counted_without_fetching_them(size: str, billions: float) -> None:
    """The head counts once where it is the embedding."""
    counts = FAMILY.count_parameters(ModelSection(family="qwen3_vl", path=f"Qwen/Qwen3-VL-{size}-Instruct"))
    assert round(sum(total for total, _ in counts.values()) / 1e9, 3) == billions
    with pytest.raises(ValueError, match=r"model\.path=Qwen/Qwen3-VL-235B-A22B-Instruct: its size is not known"):
        FAMILY.count_parameters(ModelSection(family="qwen3_vl", path="Qwen/Qwen3-VL-235B-A22B-Instruct"))


# Exporting


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """The network with adapters and projector that are not as they were born."""
    rng = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name or "merger" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    return network


def test_a_full_export_is_bit_equal_for_us_and_for_plain_transformers(tmp_path: Path) -> None:
    network = tiny_network(SECTION, PROCESSOR, seed=3)
    FAMILY.export(network, PROCESSOR, tmp_path / "export", dict(network.state_dict()))
    opened, processor = FAMILY.load_export(tmp_path / "export", torch.float32)
    assert processor.image_size == 64
    assert torch.equal(logits(opened), logits(network))
    assert torch.equal(logits(Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "export")), logits(network))


def test_adapters_merge_within_1e_5_and_stand_apart_bit_equal(tmp_path: Path) -> None:
    network = moved(tiny_network(tiny_section(image_size=64, **LORA, **QWEN), PROCESSOR))
    assert (logits(network) - logits(tiny_network(SECTION, PROCESSOR))).abs().max() > 1e-2
    FAMILY.export(network, PROCESSOR, tmp_path / "merged", dict(network.state_dict()))
    plain = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert (logits(plain) - logits(network)).abs().max() < 1e-5
    FAMILY.export(network, PROCESSOR, tmp_path / "export", dict(network.state_dict()), merge_lora=False)
    (tmp_path / "export").rename(tmp_path / "apart")
    assert torch.equal(logits(FAMILY.load_export(tmp_path / "apart", torch.float32)[0]), logits(network))
    assert isinstance(family_of(tmp_path / "apart", None), Qwen3VlFamily)


def test_a_head_that_is_the_embedding_stays_so(folder: Path, tmp_path: Path) -> None:
    """The 2B and 4B models write their embedding once."""
    network = build(with_one_table(folder), freeze_vision_tower=False)
    assert network.get_parameter("lm_head.weight") is network.get_parameter("model.language_model.embed_tokens.weight")
    with torch.no_grad():
        network.get_parameter("lm_head.weight").mul_(2)
    FAMILY.export(network, load_processor(folder), tmp_path / "export", dict(network.state_dict()))
    opened, _ = FAMILY.load_export(tmp_path / "export", torch.float32)
    assert opened.get_parameter("lm_head.weight") is opened.get_parameter("model.language_model.embed_tokens.weight")
    assert torch.equal(logits(opened), logits(network))
