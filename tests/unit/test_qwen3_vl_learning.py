"""What Qwen3-VL is taught and asked, against plain transformers: its boxes in pictures and texts, the loss, generation, likelihoods."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medclm.config import BoxTextSection, ConfigError, DataSection, load_recipe, recipe_yaml
from medclm.data.frame import ImageFrame
from medclm.data.loader import Rendered, collate
from medclm.data.render import Renderer, begin_of, with_instruction
from medclm.data.shards import Corpus
from medclm.data.testing import box_unit, write_small_corpus
from medclm.generation import Request, generate, prompt_ids
from medclm.likelihood import option_scores
from medclm.models.objective import Objective
from medclm.models.registry import family
from medclm.testing import tiny_network, tiny_processor, tiny_section
from medclm.types import Box, LossWeights, Segment, Stage

SECTION = tiny_section(family="qwen3_vl", image_size=64)
PROCESSOR = tiny_processor(SECTION)
HABIT = family("qwen3_vl").box_text
WEIGHTS = LossWeights(0.8, 0.2, 1.0)
QUESTIONS = ("Where?", "What is the highlighted region? Reason, give the box, then answer.", "Which organ hosts the lesion?")


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    corpus = Corpus(write_small_corpus(tmp_path_factory.mktemp("corpus") / "small"))
    return Renderer(corpus, PROCESSOR, DataSection(box_text=HABIT), seed=0)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return tiny_network(SECTION, PROCESSOR, seed=3).eval()


def samples(renderer: Renderer) -> list[Rendered]:
    return [renderer.render(row, 11 + row, stage) for row, stage in enumerate((Stage.EASY, Stage.HARD, Stage.MEDIUM))]


# Boxes


def test_what_a_recipe_leaves_out_of_its_boxes_is_the_familys_habit(tmp_path: Path) -> None:
    qwen = ["--model.family=qwen3_vl"]
    assert load_recipe().data.box_text == family("vip_llava").box_text == BoxTextSection(frame="padded", scale="1", digits=3)
    assert load_recipe(qwen).data.box_text == HABIT == BoxTextSection(frame="padded", scale="1000", digits=0)
    partly = load_recipe([*qwen, "--data.box_text.digits=1"])
    assert partly.data.box_text == BoxTextSection(frame="padded", scale="1000", digits=1)
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(partly))
    assert load_recipe(config=tmp_path / "recipe.yaml") == partly
    (tmp_path / "other.yaml").write_text(
        "model: {family: qwen3_vl}\ndata: {box_text: {frame: padded, scale: '1', digits: 3}}\n"
    )
    assert load_recipe(config=tmp_path / "other.yaml").data.box_text == BoxTextSection(frame="padded", scale="1", digits=3)
    with pytest.raises(ConfigError, match=r"model\.family='qwen': .*'vip_llava' or 'qwen3_vl'"):
        load_recipe(["--model.family=qwen"])


def test_the_drawn_the_written_and_the_read_box_are_one_within_half_a_pixel(renderer: Renderer) -> None:
    for row in range(3):
        sample, frame = renderer.sample(row, 11, Stage.EASY), renderer.picture(row)[1]
        (read, *_) = frame.find_boxes(sample.rationale, HABIT)
        true = frame.to_square_px(Box(*box_unit(row, 0)))
        np.testing.assert_allclose(frame.to_square_px(read), true, atol=0.5)
        assert f"[{true.x0 / 64 * 1000:.0f}, " in sample.rationale
        changed = (np.asarray(sample.image) != np.asarray(renderer.picture(row)[0])).any(-1)
        columns, rows = np.flatnonzero(changed.any(0)), np.flatnonzero(changed.any(1))
        np.testing.assert_allclose((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), true, atol=0.51)


@pytest.mark.parametrize("side", [64, 336, 512, 992])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_boxes_come_back_within_half_a_pixel_of_any_square(side: int, fit: str) -> None:
    draw = np.random.default_rng(side)
    for width, height in ((640, 480), (333, 1024), (97, 97)):
        frame = ImageFrame(width, height, side=side, fit=fit)
        corners = np.sort(draw.uniform(0, 1, (50, 2, 2)), axis=1).reshape(50, 4)
        for box in (Box(*row) for row in corners if min(row[2:] - row[:2]) > 0.02):
            (read,) = frame.find_boxes(f"a mass at {frame.write(box, HABIT)}.", HABIT)
            np.testing.assert_allclose(frame.to_square_px(read), frame.to_square_px(box), atol=0.5)


# The loss


@pytest.mark.parametrize("stage", list(Stage))
def test_a_prompt_in_training_is_the_prompt_in_generation(renderer: Renderer, stage: Stage) -> None:
    sample, encoded = renderer.render(0, 3, stage)
    given = prompt_ids(PROCESSOR, Request("asked", sample.question, sample.image, begin_of(sample.question)))
    assert encoded.input_ids[encoded.segments == Segment.CONTEXT].tolist() == given
    assert PROCESSOR.decode(encoded.input_ids[encoded.segments == Segment.ANSWER].tolist()) == f" {sample.answer}"


def test_losses_of_one_sample_are_those_of_plain_transformers(renderer: Renderer, network: torch.nn.Module) -> None:
    for one in samples(renderer):
        batch = collate([one])
        with torch.no_grad():
            found = Objective(network, PROCESSOR, WEIGHTS)(batch)
        for losses, kind in ((found.answer, Segment.ANSWER), (found.rationale, Segment.RATIONALE)):
            targets = batch.segments == kind
            if not targets.any():
                assert losses.item() == 0
                continue
            with torch.no_grad():
                expected = network(
                    input_ids=batch.input_ids[None],
                    attention_mask=torch.ones_like(batch.input_ids[None]),
                    mm_token_type_ids=(batch.input_ids[None] == PROCESSOR.image_token_id).int(),
                    labels=batch.input_ids.masked_fill(~targets, -100)[None],
                    **PROCESSOR.image_inputs(batch.pixel_values),
                ).loss
            assert losses.item() == pytest.approx(expected.item(), abs=2e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mixed_batch_has_each_samples_own_loss(renderer: Renderer, network: torch.nn.Module, attention: str) -> None:
    other = tiny_network(tiny_section(image_size=64, family="qwen3_vl", attention=attention), PROCESSOR)
    other.load_state_dict(network.state_dict())
    objective, rendered = Objective(network, PROCESSOR, WEIGHTS), samples(renderer)
    together = collate(rendered)
    assert len(set(together.bounds.diff().tolist())) > 1
    with torch.no_grad():
        found = Objective(other.eval(), PROCESSOR, WEIGHTS)(together).sample
        apart = torch.cat([objective(collate([one])).sample for one in rendered])
    torch.testing.assert_close(found, apart, rtol=0, atol=2e-6)


# Asking


def requests(begin: str = "") -> list[Request]:
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(5)]
    return [Request(f"r{i}", f"{QUESTIONS[i % 3]} {i}", picture, begin) for i, picture in enumerate(pictures)]


def inputs(request: Request, ids: list[int]) -> dict[str, torch.Tensor]:
    """What plain transformers takes for a request whose prompt and completion so far are `ids`."""
    ids_bt = torch.tensor([ids])
    pixels = torch.from_numpy(PROCESSOR.pixel_values(request.image))
    mask = {"attention_mask": torch.ones_like(ids_bt), "mm_token_type_ids": (ids_bt == PROCESSOR.image_token_id).int()}
    return {"input_ids": ids_bt, **mask, **PROCESSOR.image_inputs(pixels)}


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_batched_generation_is_what_transformers_writes_for_each(network: torch.nn.Module, batch_size: int) -> None:
    found = generate(network, PROCESSOR, requests(), max_new_tokens=16, batch_size=batch_size)
    for request, completion in zip(requests(), found, strict=True):
        ids = PROCESSOR.prompt_ids(request.question)
        written = network.generate(**inputs(request, ids), max_new_tokens=16, do_sample=False)[0, len(ids) :]
        assert list(completion.ids) == written.tolist()
    assert len({completion.ids for completion in found}) > 2


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_options_likelihood_is_that_of_one_whole_forward(network: torch.nn.Module, batch_size: int) -> None:
    options = [("left", "right"), ("yes", "no", "the left kidney"), ("cyst", "mass"), ("a", "left lung"), ("no", "yes")]
    found = option_scores(network, PROCESSOR, requests("Answer:"), options, batch_size=batch_size)
    for request, texts, one in zip(requests(), options, found, strict=True):
        prompt = [*PROCESSOR.prompt_ids(request.question), *PROCESSOR.text_ids("Answer:")]
        for text, log_likelihood in zip(texts, one.log_likelihoods, strict=True):
            ids = PROCESSOR.text_ids(f" {text}")
            with torch.no_grad():
                scores = network(**inputs(request, prompt + ids)).logits[0].log_softmax(-1)
            expected = sum(float(scores[len(prompt) - 1 + at, token]) for at, token in enumerate(ids))
            assert log_likelihood == pytest.approx(expected, abs=1e-4)


def test_training_after_asking_counts_positions_anew(renderer: Renderer) -> None:
    """The network keeps the positions of the last prompt it counted by itself: that must not reach the loss."""
    network = tiny_network(SECTION, PROCESSOR, seed=3).eval()
    objective, batch = Objective(network, PROCESSOR, WEIGHTS), collate(samples(renderer))
    with torch.no_grad():
        before = objective(batch).sample
        network.generate(**inputs(requests()[0], PROCESSOR.prompt_ids(with_instruction("Where?", "reason"))), max_new_tokens=4)
        assert torch.equal(objective(batch).sample, before)
