"""Views of a picture: their pixels, their image spans, what is stored of them, and that one view is what it always was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from medclm.config import ConfigError, DataSection, ModelSection, load_recipe
from medclm.data.loader import collate
from medclm.data.render import TEXT_ROOM, Renderer, check_room
from medclm.data.shards import Corpus
from medclm.data.testing import box_unit, write_small_corpus
from medclm.generation import Request, generate
from medclm.likelihood import option_scores
from medclm.models.tiles import COUNTS, SCALES, views_of
from medclm.models.vip_llava import VipLlavaFamily, load_processor
from medclm.models.vip_llava_processor import STORED
from medclm.testing import tiny_export, tiny_network, tiny_processor, tiny_section
from medclm.types import Box, Stage
from train.plan import print_plan

SECTION = tiny_section(tiles="1+4")
PROCESSOR, PLAIN = tiny_processor(SECTION), tiny_processor()
QUESTION = "What is the highlighted region?\nReason, give the box, then answer."
QUARTERS = [(0, 0), (32, 0), (0, 32), (32, 32)]
"""Left and top of each quarter of a square of 64 px, in reading order."""


def picture(seed: int = 0, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def spans(ids: list[int], image: int) -> list[int]:
    """Lengths of the runs of image tokens."""
    runs, before = [], None
    for one in ids:
        if one == image:
            runs = [*runs[:-1], runs[-1] + 1] if before == image else [*runs, 1]
        before = one
    return runs


# Pixels


def test_views_are_what_pil_gives() -> None:
    square = picture()
    overview, *quarters = views_of(square, "1+4")
    assert overview.tobytes() == square.resize((32, 32), Image.Resampling.BICUBIC).tobytes()
    again = Image.new("RGB", (64, 64))
    for quarter, corner in zip(quarters, QUARTERS, strict=True):
        again.paste(quarter, corner)
    assert again.tobytes() == square.tobytes()
    assert views_of(square, "1") == [square]


@pytest.mark.parametrize("at", [(3, 5), (40, 5), (3, 40), (50, 60), (31, 31), (32, 31)])
def test_a_dot_is_where_it_belongs_in_overview_and_quarter(at: tuple[int, int]) -> None:
    square = Image.new("RGB", (64, 64))
    square.putpixel(at, (255, 255, 255))
    lit_vhw = PROCESSOR.pixel_values(square).mean(1) - PROCESSOR.pixel_values(Image.new("RGB", (64, 64))).mean(1)
    quarter = 2 * (at[1] // 32) + at[0] // 32
    assert np.unravel_index(lit_vhw[0].argmax(), (32, 32)) == (at[1] // 2, at[0] // 2)
    np.testing.assert_array_equal(np.argwhere(lit_vhw[1:]), [(quarter, at[1] % 32, at[0] % 32)])


def test_a_lesion_on_the_seam_is_whole_in_the_overview_alone() -> None:
    square = Image.new("RGB", (64, 64))
    square.paste((255, 255, 255), (28, 28, 36, 36))
    lit_v = (PROCESSOR.pixel_values(square) > 1).all(1).sum((1, 2))
    assert lit_v.tolist() == [16, 16, 16, 16, 16]  # 4 x 4 px of the overview, and a quarter of its 8 x 8 in each view


def test_easy_draws_its_box_in_the_overview_and_in_the_quarters_that_it_lies_in(tmp_path: Path) -> None:
    renderer = Renderer(Corpus(write_small_corpus(tmp_path, 6, splits=["train"])), PROCESSOR, DataSection(), seed=0)
    drawn = renderer.encode(renderer.sample(0, 11, Stage.EASY)).pixel_values
    plain = renderer.encode(renderer.sample(0, 11, Stage.MEDIUM)).pixel_values
    changed_vhw = (drawn != plain).any(1)
    box = renderer.picture(0)[1].to_square_px(Box(*box_unit(0, 0)))
    inside = np.zeros((64, 64), dtype=bool)
    inside[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
    expected = [bool(inside[top : top + 32, left : left + 32].any()) for left, top in QUARTERS]
    assert [bool(view.any()) for view in changed_vhw] == [True, *expected]
    assert 0 < sum(expected) < 4
    whole = np.zeros((64, 64), dtype=bool)
    for view, (left, top) in zip(changed_vhw[1:], QUARTERS, strict=True):
        whole[top : top + 32, left : left + 32] = view
    columns, rows = np.flatnonzero(whole.any(0)), np.flatnonzero(whole.any(1))
    np.testing.assert_allclose((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), box, atol=0.51)


# Prompts


def test_prompt_and_pixels_are_what_transformers_makes_of_five_pictures() -> None:
    inner, views = PROCESSOR.inner, views_of(picture(3), "1+4")
    content = [*({"type": "image"} for _ in views), {"type": "text", "text": QUESTION}]
    framed = inner.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    theirs = inner(text=framed, images=views, return_tensors="np")
    assert theirs["input_ids"][0].tolist() == PROCESSOR.prompt_ids(QUESTION)
    np.testing.assert_allclose(PROCESSOR.pixel_values(picture(3)), theirs["pixel_values"], atol=1e-6)
    assert PROCESSOR.pixel_values(picture(3)).shape == (5, 3, 32, 32)


def test_each_view_has_a_span_of_its_own() -> None:
    ids = PROCESSOR.prompt_ids(QUESTION)
    assert spans(ids, PROCESSOR.image_token_id) == [16] * 5
    assert (PROCESSOR.image_tokens, PROCESSOR.image_size, PROCESSOR.patch_size) == (80, 64, 8)
    PROCESSOR.check_image_span(ids)
    with pytest.raises(ValueError, match=r"79 image tokens.* 80 features for 5 view\(s\) of 32 px"):
        PROCESSOR.check_image_span(ids[ids.index(PROCESSOR.image_token_id) + 1 :])
    with pytest.raises(ValueError, match="80 features"):
        PROCESSOR.check_image_span(PLAIN.prompt_ids(QUESTION))
    with pytest.raises(ValueError, match="contains the image token"):
        PROCESSOR.prompt_ids("an <image> in a question")
    with pytest.raises(ValueError, match="32 x 32 pixels, the model takes 64 x 64"):
        PROCESSOR.pixel_values(picture(side=32))


def test_a_template_for_one_picture_is_refused(tmp_path: Path) -> None:
    PLAIN.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("USER: <image> {{ messages[0]['content'][-1]['text'] }} ASSISTANT:")
    assert load_processor(tmp_path).prompt_ids("Why?").count(PLAIN.image_token_id) == 16
    with pytest.raises(ValueError, match=r"5 times \(model\.tiles=1\+4\) <image>"):
        load_processor(tmp_path, "1+4")


def test_without_a_template_the_familys_own_frame_has_all_views(tmp_path: Path) -> None:
    PLAIN.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert spans(load_processor(tmp_path, "1+4").prompt_ids("Why?"), PLAIN.image_token_id) == [16] * 5


# Network


@torch.inference_mode()
def test_a_batch_gives_each_prompt_its_own_views_in_order() -> None:
    network, prompt = tiny_network(SECTION, PROCESSOR).eval(), PROCESSOR.prompt_ids(QUESTION)
    pixels = [torch.from_numpy(PROCESSOR.pixel_values(picture(seed))) for seed in range(2)]
    features = [network.model.get_image_features(one).pooler_output for one in pixels]
    embedded = network.get_input_embeddings()(torch.tensor([prompt] * 2))
    places = torch.tensor([at for at, one in enumerate(prompt) if one == PROCESSOR.image_token_id])
    for row in range(2):  # by hand: sample by sample, view by view
        embedded[row, places] = features[row].reshape(-1, embedded.shape[-1])
    expected = network(inputs_embeds=embedded).logits
    found = network(input_ids=torch.tensor([prompt] * 2), pixel_values=torch.cat(pixels)).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0, -1], found[1, -1], atol=1e-4)


def test_a_request_gets_the_same_reply_alone_and_in_a_batch() -> None:
    network = tiny_network(SECTION, PROCESSOR)
    requests = [Request(str(seed), f"{'Why? ' * seed}{QUESTION}", picture(seed)) for seed in range(3)]
    options = [["yes", "no"]] * 3
    together = generate(network, PROCESSOR, requests, max_new_tokens=6, batch_size=3)
    scored = option_scores(network, PROCESSOR, requests, options, batch_size=3)
    for at, request in enumerate(requests):
        (alone,) = generate(network, PROCESSOR, [request], max_new_tokens=6, batch_size=1)
        assert alone.ids == together[at].ids
        (score,) = option_scores(network, PROCESSOR, [request], options[:1], batch_size=1)
        np.testing.assert_allclose(score.log_likelihoods, scored[at].log_likelihoods, atol=1e-4)


def test_batches_hold_the_views_of_their_samples_in_order(tmp_path: Path) -> None:
    renderer = Renderer(Corpus(write_small_corpus(tmp_path, 6, splits=["train"])), PROCESSOR, DataSection(), seed=0)
    rendered = [renderer.render(row, row, Stage.MEDIUM) for row in range(2)]
    batch = collate(rendered)
    assert batch.pixel_values.shape == (10, 3, 32, 32)
    for at, (_, encoded) in enumerate(rendered):
        np.testing.assert_array_equal(batch.pixel_values[5 * at : 5 * at + 5], encoded.pixel_values)


# What is stored and told


def test_a_saved_processor_knows_its_views_and_plain_transformers_opens_it(tmp_path: Path) -> None:
    PROCESSOR.save(tmp_path)
    assert json.loads((tmp_path / STORED).read_text()) == {"tiles": "1+4"}
    assert load_processor(tmp_path).prompt_ids(QUESTION) == PROCESSOR.prompt_ids(QUESTION)
    assert AutoProcessor.from_pretrained(tmp_path).image_processor.crop_size["height"] == 32
    # a recipe says how its run shows pictures, whatever the base was trained with
    assert VipLlavaFamily().processor(ModelSection(path=str(tmp_path))).image_size == 32
    PLAIN.save(tmp_path / "plain")
    assert not (tmp_path / "plain" / STORED).exists()
    assert load_processor(tmp_path / "plain").image_size == 32


def test_an_export_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    network = tiny_network(SECTION, PROCESSOR)
    VipLlavaFamily().export(network, PROCESSOR, tmp_path / "export", dict(network.state_dict()))
    opened, processor = VipLlavaFamily().load_export(tmp_path / "export", torch.float32)
    request = Request("one", QUESTION, picture(4))
    ours, theirs = (
        generate(model, of, [request], max_new_tokens=8, batch_size=1)[0]
        for model, of in ((network, PROCESSOR), (opened, processor))
    )
    assert ours.ids == theirs.ids
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"tiles": "3x3"}', "tiles='3x3': this version knows 1, 1\\+4: use the one that wrote it"),
        ("[]", "does not say `tiles`"),
        ("{", "does not say `tiles`"),
    ],
)
def test_views_that_are_not_known_are_refused(tmp_path: Path, text: str, message: str) -> None:
    PLAIN.save(tmp_path)
    (tmp_path / STORED).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_processor(tmp_path)


def test_the_cost_of_a_picture_is_told_without_weights(tmp_path: Path) -> None:
    for section in (SECTION, ModelSection(path=str(tiny_export(tmp_path / "export")), tiles="1+4")):
        assert VipLlavaFamily().picture(section) == (64, 5, 32, 80)
    assert VipLlavaFamily().picture(tiny_section()) == (32, 1, 32, 16)
    assert VipLlavaFamily().picture(ModelSection(path="owner/name", tiles="1+4")) == (672, 5, 336, 2880)
    assert COUNTS.keys() == SCALES.keys()


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (
            ["--model.tiles=1+4"],
            "picture    128 px, 5 views of 64 px (the whole and its quarters): 320 image tokens of at most 1024",
        ),
        ([], "picture    64 px, 1 view: 64 image tokens of at most 1024"),
    ],
)
def test_a_dry_run_shows_what_a_picture_costs(flags: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(load_recipe(flags), zero2(), ds_name="zero2.json")
    assert shown in capsys.readouterr().out


def test_a_picture_that_leaves_no_room_for_texts_is_refused_at_once() -> None:
    recipe = load_recipe(["--model.path=owner/name", "--model.tiles=1+4"])
    with pytest.raises(
        ConfigError, match=r"data\.max_tokens=1024: a picture alone has 2880 .* at least 3328, or model\.tiles=1"
    ):
        print_plan(recipe, zero2(), ds_name="zero2.json")
    check_room(2880, DataSection(max_tokens=2880 + TEXT_ROOM))
    with pytest.raises(ConfigError, match=r"data\.max_tokens=80"):
        check_room(80, DataSection(max_tokens=80))


def zero2() -> dict[str, Any]:
    tree = json.loads((Path(__file__).resolve().parents[2] / "ds_configs" / "zero2.json").read_text())
    assert isinstance(tree, dict)
    return tree


# One view


def test_one_view_gives_the_bytes_that_it_gave_before_there_were_tiles(tmp_path: Path) -> None:
    """The hashes are those of the version before tiles, taken by its own code."""
    pixels = PLAIN.pixel_values(picture(0, side=32))
    ids = np.array(PLAIN.prompt_ids(QUESTION), dtype=np.int64)
    renderer = Renderer(Corpus(write_small_corpus(tmp_path, 6, splits=["train"])), PLAIN, DataSection(), seed=0)
    encoded = [renderer.render(0, stage, stage)[1] for stage in Stage]
    held = b"".join(part.tobytes() for one in encoded for part in (one.input_ids, one.segments, one.pixel_values))
    found = [hashlib.sha256(one).hexdigest()[:16] for one in (pixels.tobytes(), ids.tobytes(), held)]
    assert found == ["f74f287dff0a23fe", "a9f0b7d9fd936ee0", "90d9cc9463a81c3b"]
