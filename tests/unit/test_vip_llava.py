"""ViP-LLaVA in the layout of the public checkpoints, made small by the test: open, check, freeze, adapt, export."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoProcessor, LlavaProcessor, PreTrainedTokenizerFast, VipLlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from medclm.config import LoraSection, ModelSection
from medclm.models.attention import Surroundings, choose_attention
from medclm.models.freezing import freeze, pass_over_unread
from medclm.models.registry import family
from medclm.models.vip_llava import VipLlavaFamily, VipLlavaProcessor, freeze_groups, load_processor, parameter_counts
from medclm.testing import DEFAULT_TEXTS, tiny_export, tiny_network, tiny_processor, tiny_section

FAMILY = VipLlavaFamily()
PROCESSOR = tiny_processor()
LORA = {"freeze_language_model": True, "freeze_vision_tower": True, "lora": LoraSection(rank=4, dropout=0.0)}
transformers_logging.disable_progress_bar()


def picture(seed: int = 0, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def logits(network: torch.nn.Module, processor: VipLlavaProcessor = PROCESSOR) -> torch.Tensor:
    ids = torch.tensor([processor.prompt_ids("What is the highlighted region?")])
    pixels = torch.from_numpy(processor.pixel_values(picture()))
    with torch.no_grad():
        return network.eval()(input_ids=ids, pixel_values=pixels).logits


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def sentencepiece_like(texts: tuple[str, ...] = DEFAULT_TEXTS) -> PreTrainedTokenizerFast:
    """A BPE that puts a space before every text and falls back to bytes, as the tokenizers of Llama checkpoints do."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=240, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator([text.replace("\n", " ") for text in texts], trainer)
    tree = json.loads(bpe.to_str())
    vocabulary = tree["model"]["vocab"]
    vocabulary.update({f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)})
    bpe = Tokenizer.from_str(json.dumps(tree))
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export(tmp_path_factory.mktemp("model") / "vip-llava-tiny-hf")


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "vip-llava-tiny-hf"))


def section(path: Path | str, **overrides: Any) -> ModelSection:
    return ModelSection(path=str(path), **overrides)


def build(where: ModelSection, seed: int = 0) -> torch.nn.Module:
    return FAMILY.build(where, FAMILY.processor(where), torch.float32, seed)


# Processor


def test_a_prompt_is_what_transformers_makes_of_the_chat_template(exported: Path) -> None:
    inner = AutoProcessor.from_pretrained(exported)
    question = "Where is the lesion?\nReason, give the box, then answer."
    content = [{"type": "image"}, {"type": "text", "text": question}]
    framed = inner.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    image = picture(3)
    expected = inner(text=framed, images=image, return_tensors="np")
    processor = load_processor(exported)
    assert processor.prompt_ids(question) == expected["input_ids"][0].tolist()
    np.testing.assert_allclose(processor.pixel_values(image), expected["pixel_values"], atol=1e-6)
    assert processor.pixel_values(image).dtype == np.float32
    assert framed == "USER: <image>\n" + question + " ASSISTANT:"


def test_without_a_template_the_familys_own_frame_is_used() -> None:
    inner = PROCESSOR.inner
    bare = LlavaProcessor(inner.image_processor, inner.tokenizer, 8, "default", None, num_additional_image_tokens=1)
    ids = VipLlavaProcessor(bare).prompt_ids("Why?")
    text = PROCESSOR.tokenizer.decode([i for i in ids if i != PROCESSOR.image_token_id])
    assert text.endswith("polite answers to the human's questions.###Human: \nWhy?###Assistant:")
    assert ids.count(PROCESSOR.image_token_id) == 16


def test_a_template_that_loses_the_question_is_refused() -> None:
    inner = PROCESSOR.inner
    lost = LlavaProcessor(inner.image_processor, inner.tokenizer, 8, "default", "USER: <image>", num_additional_image_tokens=1)
    with pytest.raises(ValueError, match="chat template"):
        VipLlavaProcessor(lost)


def test_the_image_span_is_checked() -> None:
    ids = PROCESSOR.prompt_ids("Why?")
    PROCESSOR.check_image_span(ids)
    with pytest.raises(ValueError, match=r"15 image tokens.* 16 features"):
        PROCESSOR.check_image_span(ids[: ids.index(PROCESSOR.image_token_id) + 15])
    with pytest.raises(ValueError, match="<image>"):
        PROCESSOR.prompt_ids("an <image> in a question")
    with pytest.raises(ValueError, match="33 x 33 pixels, the model takes 32 x 32"):
        PROCESSOR.pixel_values(picture(side=33))


def test_decode_stops_at_the_first_end_of_sequence() -> None:
    ids = [*PROCESSOR.text_ids(" nodule"), PROCESSOR.eos_id, *PROCESSOR.text_ids(" kidney"), PROCESSOR.pad_id]
    assert PROCESSOR.decode(ids) == " nodule"
    assert PROCESSOR.decode([PROCESSOR.pad_id, *ids]) == " nodule"
    assert PROCESSOR.decode([]) == ""


LLAMA_LIKE = VipLlavaProcessor(
    LlavaProcessor(PROCESSOR.inner.image_processor, sentencepiece_like(), 8, "default", None, num_additional_image_tokens=1)
)


@given(st.lists(st.text("abk n[0.12]\n:ü", max_size=9), min_size=1, max_size=4))
@settings(max_examples=200)
def test_pieces_join_with_a_tokenizer_that_adds_spaces(pieces: list[str]) -> None:
    ids = LLAMA_LIKE.text_ids("Reasoning:") + [i for piece in pieces for i in LLAMA_LIKE.text_ids(piece)]
    assert LLAMA_LIKE.decode(ids) == "Reasoning:" + "".join(pieces)


def test_a_spaced_piece_is_one_natural_token() -> None:
    tokens = LLAMA_LIKE.tokenizer.convert_ids_to_tokens(LLAMA_LIKE.text_ids(" kidney"))
    assert tokens == ["▁kidney"]


def test_pixel_values_are_the_formula_to_the_bit() -> None:
    processor = tiny_processor()
    side = processor.image_size
    pixels_hwc = np.random.default_rng(0).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    inner = processor.inner.image_processor
    mean, std = np.asarray(inner.image_mean, np.float64), np.asarray(inner.image_std, np.float64)
    scale, shift = (inner.rescale_factor / std).astype(np.float32), (-mean / std).astype(np.float32)
    values_1chw = processor.pixel_values(Image.fromarray(pixels_hwc))
    assert values_1chw.dtype == np.float32
    assert values_1chw.flags.c_contiguous
    assert np.array_equal(values_1chw[0], (pixels_hwc.astype(np.float32) * scale + shift).transpose(2, 0, 1))


def test_threads_get_the_same_ids() -> None:
    questions = [f"{text} {number}" for number, text in enumerate(DEFAULT_TEXTS * 20)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(PROCESSOR.prompt_ids, questions)) == [PROCESSOR.prompt_ids(question) for question in questions]


# Opening


def test_a_local_folder_opens_with_its_weights(exported: Path) -> None:
    network = build(section(exported, freeze_vision_tower=False))
    assert torch.equal(logits(network, load_processor(exported)), logits(tiny_network(processor=PROCESSOR)))


def test_the_older_public_layout_opens_too(folder: Path) -> None:
    """Weight names of version 4, the image processor in its own file, the template as JSON, the plural layer key."""
    state = load_file(folder / "model.safetensors")
    assert any(name.startswith("language_model.model.") for name in state) or any(
        "model.language_model." in name for name in state
    )
    legacy = {}
    for name, value in state.items():
        old = name.removeprefix("model.")
        if old.startswith("language_model.") and not old.startswith(("language_model.model.", "language_model.lm_head.")):
            old = old.replace("language_model.", "language_model.model.", 1)
        if old.startswith("vision_tower.") and not old.startswith("vision_tower.vision_model."):
            old = old.replace("vision_tower.", "vision_tower.vision_model.", 1)
        legacy["language_model.lm_head.weight" if old == "lm_head.weight" else old] = value.clone()
    assert "language_model.model.layers.1.mlp.up_proj.weight" in legacy
    assert "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight" in legacy
    assert "multi_modal_projector.linear_1.weight" in legacy
    save_file(legacy, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", lambda tree: tree.update(vision_feature_layers=tree.pop("vision_feature_layer")))
    together = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(together.pop("image_processor")))
    (folder / "processor_config.json").write_text(json.dumps(together))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    processor = load_processor(folder)
    assert processor.prompt_ids("Why?") == PROCESSOR.prompt_ids("Why?")
    assert torch.equal(logits(build(section(folder)), processor), logits(tiny_network(processor=PROCESSOR)))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("processor_config.json", {"patch_size": 16}, "patch size is 16 for the processor and 8 for the network"),
        (
            "processor_config.json",
            {"num_additional_image_tokens": 0},
            "image tokens is 15 for the processor and 16 for the network",
        ),
        ("processor_config.json", {"vision_feature_select_strategy": "full"}, "image tokens is 17"),
        ("processor_config.json", {"patch_size": None}, "does not state patch_size"),
        ("config.json", {"image_token_index": 7}, "image token id is 3 for the processor and 7 for the network"),
        ("config.json", {"model_type": "llava"}, "this is a llava model"),
    ],
)
def test_what_does_not_agree_is_named(folder: Path, file: str, change: dict[str, Any], message: str) -> None:
    edit(folder / file, lambda tree: tree.update(change))
    with pytest.raises(ValueError, match=message):
        build(section(folder))


def test_sizes_that_disagree_are_named(folder: Path) -> None:
    edit(folder / "config.json", lambda tree: tree["vision_config"].update(image_size=64))
    with pytest.raises(ValueError, match="image size is 32 for the processor and 64 for the network"):
        build(section(folder))
    edit(folder / "config.json", lambda tree: tree["vision_config"].update(image_size=32))
    edit(folder / "config.json", lambda tree: tree["text_config"].update(vocab_size=100))
    with pytest.raises(ValueError, match="outside the network's vocabulary of 100"):
        build(section(folder))


def test_broken_folders_end_in_one_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        build(section(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no such folder"):
        load_processor("./nowhere/deep/er")
    state = load_file(folder / "model.safetensors")
    short = {name: value.clone() for name, value in state.items() if "linear_2" not in name}
    save_file(short, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"2 weights are missing.*linear_2"):
        build(section(folder))
    wrong = {name: value[:1].clone() if "linear_2.bias" in name else value for name, value in state.items()}
    save_file(wrong, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="cannot be opened"):
        build(section(folder))
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be opened"):
        build(section(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json|cannot be opened"):
        build(section(folder))


def test_the_registry_knows_the_family() -> None:
    assert isinstance(family("vip_llava"), VipLlavaFamily)
    with pytest.raises(ValueError, match=r"model\.family=nobody"):
        family("nobody")


# Building


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = tiny_network(tiny_section(**LORA), PROCESSOR, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = tiny_network(tiny_section(**LORA), PROCESSOR, seed=1).state_dict()
    other = tiny_network(tiny_section(**LORA), PROCESSOR, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert any("lora_A" in name for name in changed)
    assert any("embed_tokens" in name for name in changed)


def test_weights_come_in_the_asked_precision() -> None:
    network = FAMILY.build(tiny_section(**LORA), PROCESSOR, torch.bfloat16, 0)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("vision", [True, False])
@pytest.mark.parametrize("projector", [True, False])
@pytest.mark.parametrize("language", [True, False])
def test_freezing_is_by_group_and_every_trained_weight_gets_a_gradient(vision: bool, projector: bool, language: bool) -> None:
    where = tiny_section(freeze_vision_tower=vision, freeze_projector=projector, freeze_language_model=language)
    network = tiny_network(where, PROCESSOR)
    groups, counts = freeze_groups(network), parameter_counts(network)
    frozen = {"vision_tower": vision, "projector": projector, "language_model": language}
    assert {group: trained == 0 for group, (_, trained) in counts.items()} == frozen
    assert sum(total for total, _ in counts.values()) == sum(parameter.numel() for parameter in network.parameters())
    assert sum(map(len, groups.values())) == len(list(network.parameters()))
    if all(frozen.values()):
        return
    ids = torch.tensor([PROCESSOR.prompt_ids("Why?")])
    network(input_ids=ids, pixel_values=torch.ones(1, 3, 32, 32)).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize(("layers", "idle"), [([-2, 1], {2}), ([1], {1, 2}), (-1, set()), ([3, -3], set())])
def test_vision_layers_that_nothing_reads_are_frozen_and_not_run(layers: list[int] | int, idle: set[int]) -> None:
    where = tiny_section(vision_layers=3)
    processor = tiny_processor(where)
    network = tiny_network(where, processor)
    network.config.vision_feature_layers = layers
    count = 1 if isinstance(layers, int) else len(layers)
    network.model.multi_modal_projector = type(network.model.multi_modal_projector)(network.config)
    freeze(network, where)
    found = {
        int(n.split(".layers.")[1][0]) for n, p in network.named_parameters() if ".encoder.layers." in n and not p.requires_grad
    }
    assert found == idle
    assert network.model.multi_modal_projector.linear_1.in_features == 32 * count
    ids = torch.tensor([processor.prompt_ids("Why?")])
    network(input_ids=ids, pixel_values=torch.ones(1, 3, 32, 32)).logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    before, ran = logits(network, processor), set()
    for index, layer in enumerate(network.model.vision_tower.encoder.layers):
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.add(index))
    pass_over_unread(network)
    assert torch.equal(logits(network, processor), before)
    assert ran == {0, 1, 2} - idle
    assert sum(".encoder.layers.2." in name for name in network.state_dict()) > 0  # kept for exports


def test_adapters_learn_beside_the_projector() -> None:
    network = tiny_network(tiny_section(**LORA), PROCESSOR)
    counts = parameter_counts(network)
    assert counts["language_model"][1] == counts["vision_tower"][1] == 0
    assert counts["projector"][0] == counts["projector"][1] > 0
    assert counts["adapters"] == (2 * 4 * (4 * 64 + 3 * 160), 2 * 4 * (4 * 64 + 3 * 160))
    assert torch.equal(logits(network), logits(tiny_network(processor=PROCESSOR)))  # B starts at zero
    assert not any("lora" in name for name in freeze_groups(network)["language_model"])


@pytest.mark.parametrize("targets", [["q_proj", "query"], [], ["lm_head"], ["."]])
def test_lora_targets_that_match_nothing_are_named(targets: list[str]) -> None:
    lora = LoraSection(rank=2, targets=targets)
    with pytest.raises(ValueError, match=r"model\.lora\.targets.*q_proj"):
        tiny_network(tiny_section(freeze_language_model=True, lora=lora), PROCESSOR)


@pytest.mark.parametrize(
    ("asked", "installed", "capability", "dtype", "outcome"),
    [
        ("auto", {"flash_attention_3", "flash_attention_2"}, (9, 0), torch.bfloat16, "flash_attention_3"),
        ("auto", {"flash_attention_3", "flash_attention_2"}, (8, 0), torch.bfloat16, "flash_attention_2"),
        ("auto", {"flash_attention_2"}, (7, 5), torch.bfloat16, "sdpa"),
        ("auto", {"flash_attention_3", "flash_attention_2"}, (9, 0), torch.float32, "sdpa"),
        ("auto", set(), (9, 0), torch.bfloat16, "sdpa"),
        ("auto", set(), None, torch.float32, "sdpa"),
        ("eager", set(), None, torch.float32, "eager"),
        ("flash_attention_2", set(), None, torch.float32, ValueError("CUDA")),
        ("flash_attention_2", set(), (9, 0), torch.bfloat16, ValueError("package flash-attn")),
        ("flash_attention_3", {"flash_attention_3"}, (8, 6), torch.bfloat16, ValueError("9.0, this GPU has 8.6")),
        ("flash_attention_2", {"flash_attention_2"}, (9, 0), torch.float32, ValueError("bf16, not float32")),
    ],
)
def test_the_attention_kernel(asked: str, installed: set[str], capability: Any, dtype: torch.dtype, outcome: Any) -> None:
    around = Surroundings(frozenset(installed), capability, dtype)
    if isinstance(outcome, ValueError):
        with pytest.raises(ValueError, match=rf"model\.attention={asked}.*{outcome}"):
            choose_attention(asked, around)
    else:
        assert choose_attention(asked, around) == outcome


def test_a_kernel_that_is_missing_here_stops_the_build() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA GPU")
    with pytest.raises(ValueError, match=r"model\.attention=flash_attention_3"):
        tiny_network(tiny_section(attention="flash_attention_3"), PROCESSOR)
    assert torch.allclose(
        logits(tiny_network(tiny_section(attention="eager"), PROCESSOR)), logits(tiny_network(processor=PROCESSOR)), atol=1e-5
    )


def test_parameters_are_counted_without_weights(exported: Path) -> None:
    counts = FAMILY.count_parameters(section(exported, **LORA))
    assert counts == parameter_counts(tiny_network(tiny_section(**LORA), PROCESSOR))
    bound = FAMILY.count_parameters(tiny_section())
    rows = 512 - len(PROCESSOR.tokenizer)
    assert bound["language_model"][0] == counts["language_model"][0] + 2 * 32 * rows
    assert bound["vision_tower"] == parameter_counts(tiny_network(processor=PROCESSOR))["vision_tower"]


def test_the_live_zero_3_config_changes_no_weight() -> None:
    """Under a live HfDeepSpeedConfig transformers would shard at birth and draw other weights."""
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

    expected = tiny_network(tiny_section(**LORA), PROCESSOR).state_dict()
    live = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
    try:
        found = tiny_network(tiny_section(**LORA), PROCESSOR).state_dict()
        assert is_deepspeed_zero3_enabled()
    finally:
        del live
        unset_hf_deepspeed_config()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Exporting


def trained_adapters() -> torch.nn.Module:
    """A network whose adapters and projector are not as they were born."""
    network = tiny_network(tiny_section(**LORA), PROCESSOR)
    rng = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name or "projector" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    return network


def test_a_full_export_is_bit_equal(tmp_path: Path) -> None:
    network = tiny_network(processor=PROCESSOR, seed=3)
    FAMILY.export(network, PROCESSOR, tmp_path / "export", dict(network.state_dict()))
    opened, processor = FAMILY.load_export(tmp_path / "export", torch.float32)
    plain = VipLlavaForConditionalGeneration.from_pretrained(tmp_path / "export")
    assert torch.equal(logits(opened, processor), logits(network))
    assert torch.equal(logits(plain), logits(network))
    assert not opened.training


def test_merged_adapters_are_within_1e_5_and_need_no_peft(tmp_path: Path) -> None:
    network = trained_adapters()
    assert (logits(network) - logits(tiny_network(processor=PROCESSOR))).abs().max() > 1e-2
    FAMILY.export(network, PROCESSOR, tmp_path / "export", dict(network.state_dict()))
    plain = VipLlavaForConditionalGeneration.from_pretrained(tmp_path / "export")
    assert not (tmp_path / "export" / "adapter_config.json").exists()
    assert (logits(plain) - logits(network)).abs().max() < 1e-5


def test_adapters_apart_are_bit_equal_also_after_a_move(tmp_path: Path) -> None:
    network = trained_adapters()
    FAMILY.export(network, PROCESSOR, tmp_path / "export", dict(network.state_dict()), merge_lora=False)
    plain = VipLlavaForConditionalGeneration.from_pretrained(tmp_path / "export")
    assert torch.equal(logits(plain), logits(network))
    (tmp_path / "export").rename(tmp_path / "moved")
    opened, processor = FAMILY.load_export(tmp_path / "moved", torch.float32)
    assert torch.equal(logits(opened, processor), logits(network))


def test_adapters_apart_point_to_the_folder_they_came_from(folder: Path, tmp_path: Path) -> None:
    network = build(section(folder, **LORA))
    for name, parameter in network.named_parameters():
        if "lora_B" in name or "projector" in name:
            parameter.data += 0.05
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    FAMILY.export(network, PROCESSOR, tmp_path / "apart", trained, merge_lora=False)
    assert not (tmp_path / "apart" / "base").exists()
    assert json.loads((tmp_path / "apart" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        folder.resolve()
    )
    opened, _ = FAMILY.load_export(tmp_path / "apart", torch.float32)
    assert torch.equal(logits(opened), logits(network))
    FAMILY.export(network, PROCESSOR, tmp_path / "merged", trained)
    assert (logits(FAMILY.load_export(tmp_path / "merged", torch.float32)[0]) - logits(network)).abs().max() < 1e-5
    folder.rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="base weights are not at"):
        FAMILY.load_export(tmp_path / "apart", torch.float32)


def test_an_export_replaces_an_older_one_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tiny_export(tmp_path / "export")
    (target / "stale.txt").write_text("old")
    network = tiny_network(processor=PROCESSOR, seed=9)
    state = dict(network.state_dict())
    del state["lm_head.weight"]
    with pytest.raises(ValueError, match=r"1 weights are missing from the state to export, first lm_head\.weight"):
        FAMILY.export(network, PROCESSOR, target, state)
    assert (target / "stale.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
    FAMILY.export(network, PROCESSOR, target, dict(network.state_dict()))
    assert not (target / "stale.txt").exists()
    assert torch.equal(logits(FAMILY.load_export(target, torch.float32)[0]), logits(network))


def test_adapters_apart_from_a_trained_vision_tower_are_refused(tmp_path: Path) -> None:
    network = tiny_network(tiny_section(**{**LORA, "freeze_vision_tower": False}), PROCESSOR)
    with pytest.raises(ValueError, match="export merged"):
        FAMILY.export(network, PROCESSOR, tmp_path / "apart", dict(network.state_dict()), merge_lora=False)
