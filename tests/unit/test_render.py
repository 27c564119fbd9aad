"""Records and stages as pixels, texts and tokens, on a small stored corpus and the tiny model's own processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medclm.config import BoxTextSection, DataSection
from medclm.data.draw import style_for
from medclm.data.frame import ImageFrame
from medclm.data.render import INSTRUCTIONS, Renderer, begin_of, fill_boxes, with_instruction
from medclm.data.shards import Corpus
from medclm.data.testing import box_unit, record_row, write_small_corpus
from medclm.generation import Request, prompt_ids
from medclm.models.protocol import Processor
from medclm.testing import tiny_processor
from medclm.types import Box, Segment, Stage

IMAGES = 6


@pytest.fixture(scope="module")
def processor() -> Processor:
    return tiny_processor()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(write_small_corpus(tmp_path_factory.mktemp("corpus"), IMAGES, splits=["train"]))


@pytest.fixture(scope="module")
def renderer(corpus: Corpus, processor: Processor) -> Renderer:
    return Renderer(corpus, processor, DataSection(), seed=0)


def changed(folder: Path, processor: Processor, data: DataSection | None = None, **columns: Any) -> Renderer:
    """A renderer of a corpus whose record 0 has other columns."""
    write_small_corpus(folder, IMAGES, records=[record_row(0, images=IMAGES, **columns)])
    return Renderer(Corpus(folder), processor, data or DataSection(), seed=0)


def outlined(renderer: Renderer, image: Any, plain_row: int) -> np.ndarray:
    """(S, S) bool: where the picture differs from the undrawn one."""
    return (np.asarray(image) != np.asarray(renderer.picture(plain_row)[0])).any(-1)


def test_easy_draws_the_box_that_its_text_speaks_of(renderer: Renderer) -> None:
    sample = renderer.sample(0, 11, Stage.EASY)
    changed_pixels = outlined(renderer, sample.image, 0)
    box_px = renderer.picture(0)[1].to_square_px(Box(*box_unit(0, 0)))
    columns, rows = np.flatnonzero(changed_pixels.any(0)), np.flatnonzero(changed_pixels.any(1))
    np.testing.assert_allclose((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), box_px, atol=0.51)
    name = style_for(0, 11).colour_name
    assert sample.question == f"What does the {name} box show?\n{INSTRUCTIONS['reason']}"
    assert sample.rationale.startswith(f"The {name} box [0.")
    assert (sample.record_id, sample.position, sample.domain, sample.stage) == ("r00000", 11, 0, Stage.EASY)


def test_medium_shows_no_box_and_writes_all(renderer: Renderer) -> None:
    sample = renderer.sample(0, 11, Stage.MEDIUM)
    assert not outlined(renderer, sample.image, 0).any()
    frame = renderer.picture(0)[1]
    boxes = frame.find_boxes(sample.rationale, renderer.data.box_text)
    assert len(boxes) == 2
    for k, box in enumerate(boxes):
        np.testing.assert_allclose(frame.to_square_px(box), frame.to_square_px(Box(*box_unit(0, k))), atol=0.5)
    assert sample.question.endswith(INSTRUCTIONS["reason"])


@pytest.mark.parametrize(("format", "sizes"), [("PNG", [(96, 64), (64, 64), (20, 31)]), ("JPEG", [(101, 333), (640, 480)])])
def test_grey_pictures_are_rendered_as_if_they_were_colour(
    processor: Processor, tmp_path: Path, format: str, sizes: list[tuple[int, int]]
) -> None:
    """They stay grey until they are small: to the bit what the RGB picture gives, also where whole pixels are averaged first."""
    corpus = Corpus(write_small_corpus(tmp_path, IMAGES, sizes=sizes, format=format, texture=40))
    for fit in ("pad", "stretch"):
        renderer = Renderer(corpus, processor, DataSection(fit=fit), seed=0)
        for row in range(IMAGES):
            assert corpus.picture(row, keep_grey=True).mode == "L"
            image, frame = renderer.picture(row)
            assert image.mode == "RGB"
            assert image.tobytes() == frame.place(corpus.picture(row)).tobytes()


def test_hard_is_the_partner_asked_directly(renderer: Renderer) -> None:
    sample = renderer.sample(0, 11, Stage.HARD)
    assert sample.image.tobytes() == renderer.picture(2)[0].tobytes() != renderer.picture(0)[0].tobytes()
    assert (sample.question, sample.rationale, sample.answer) == (
        with_instruction("Which lesion is present?", "direct"),
        "",
        "nodule",
    )


def test_what_is_drawn_is_what_is_written(renderer: Renderer) -> None:
    """The bright rectangle in the pixels, the drawn line and the written numbers are one box."""
    for row in range(3):
        image, frame = renderer.picture(row)
        (box, *_) = frame.find_boxes(renderer.sample(row, 0, Stage.EASY).rationale, renderer.data.box_text)
        bright = np.asarray(image.convert("L")) > 185
        columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
        np.testing.assert_allclose((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), frame.to_square_px(box), atol=1.0)


@pytest.mark.parametrize("stage", list(Stage))
def test_tokens_are_prompt_then_pieces_then_end(renderer: Renderer, processor: Processor, stage: Stage) -> None:
    sample = renderer.sample(0, 3, stage)
    encoded = renderer.encode(sample)
    ids, segments = encoded.input_ids, encoded.segments
    prompt = processor.prompt_ids(sample.question)
    assert ids[: len(prompt)].tolist() == prompt
    given = prompt_ids(processor, Request("asked", sample.question, sample.image, begin_of(sample.question)))
    assert ids[segments == Segment.CONTEXT].tolist() == given  # a model is asked to write what it was taught to write, no more
    target = f"Answer: {sample.answer}" if stage is Stage.HARD else f"Reasoning: {sample.rationale}\n\nAnswer: {sample.answer}"
    assert processor.decode(ids[len(prompt) :].tolist()) == target
    assert ids[-1] == processor.eos_id
    assert segments[-1] == Segment.ANSWER
    assert not segments[: len(prompt)].any()
    assert processor.decode(ids[segments == Segment.ANSWER].tolist()) == f" {sample.answer}"
    if stage is Stage.HARD:
        assert not (segments == Segment.RATIONALE).any()
        assert processor.decode(ids[len(prompt) :][segments[len(prompt) :] == Segment.CONTEXT].tolist()) == "Answer:"
    else:
        reasoning = processor.decode(ids[segments == Segment.RATIONALE].tolist())
        assert reasoning == f"Reasoning: {sample.rationale}\n\nAnswer:"
    assert (ids.dtype, segments.dtype, encoded.pixel_values.dtype) == (np.int64, np.uint8, np.float32)
    assert encoded.pixel_values.shape == (1, 3, processor.image_size, processor.image_size)


def test_the_visual_prompt_depends_on_the_position_alone(renderer: Renderer) -> None:
    again = renderer.sample(0, 40, Stage.EASY)
    renderer.sample(1, 7, Stage.EASY)
    assert renderer.sample(0, 40, Stage.EASY).image.tobytes() == again.image.tobytes()
    assert len({renderer.sample(0, position, Stage.EASY).question for position in range(30)}) > 4


def test_several_boxes_are_drawn_when_the_rationale_speaks_of_them(tmp_path: Path, processor: Processor) -> None:
    both = changed(tmp_path / "both", processor, rationale_easy="Boxes <box:1> and <box:0>.")
    none = changed(tmp_path / "none", processor, rationale_easy="A bright region.")
    pixels_both = outlined(both, both.sample(0, 0, Stage.EASY).image, 0)
    pixels_none = outlined(none, none.sample(0, 0, Stage.EASY).image, 0)
    second = both.picture(0)[1].to_square_px(Box(*box_unit(0, 1)))
    inside = (slice(int(second.y0), int(second.y1) + 1), slice(int(second.x0) + 1, int(second.x1) + 1))
    assert pixels_both[inside].any()
    assert not pixels_none[inside].any()
    assert (pixels_both & pixels_none).sum() == pixels_none.sum() > 0


def test_an_imported_drawn_image_is_used_as_it_is(tmp_path: Path, processor: Processor) -> None:
    texts = {"question_easy": "What does the box show?", "rationale_easy": "At <box:0>."}
    renderer = changed(tmp_path / "a", processor, easy_image_row=3, **texts)
    assert renderer.sample(0, 0, Stage.EASY).image.tobytes() == renderer.picture(3)[0].tobytes()
    assert renderer.sample(0, 0, Stage.MEDIUM).image.tobytes() == renderer.picture(0)[0].tobytes()
    renderer = changed(tmp_path / "b", processor, easy_image_row=3)
    with pytest.raises(ValueError, match=r"record r00000: a text says \{color\}"):
        renderer.sample(0, 0, Stage.EASY)


def test_the_form_of_boxes_is_the_recipe_s(tmp_path: Path, processor: Processor) -> None:
    data = DataSection(box_text=BoxTextSection(frame="original", scale="1000", digits=0), fit="stretch")
    sample = changed(tmp_path, processor, data).sample(0, 0, Stage.MEDIUM)
    expected = [f"[{', '.join(f'{edge * 1000:.0f}' for edge in np.float32(box_unit(0, k)))}]" for k in range(2)]
    assert re.findall(r"\[.*?\]", sample.rationale) == expected


@pytest.mark.parametrize(
    ("stage", "columns", "message"),
    [
        (Stage.EASY, {"question_easy": None}, "stage easy is not offered"),
        (Stage.MEDIUM, {"rationale_medium": ""}, "stage medium is not offered"),
        (Stage.HARD, {"answer_hard": None}, "stage hard is not offered"),
        (Stage.EASY, {"annotation_rows": []}, "<box:0> has no box: the record shows 0 annotation"),
        (Stage.MEDIUM, {"annotation_rows": [0]}, "<box:1> has no box"),
        (Stage.HARD, {"question_hard": "What is at <box:0>?"}, "<box:0> has no box"),
        (Stage.MEDIUM, {"question_medium": "What is {color}?"}, "a text says {color}"),
        (Stage.HARD, {"hard_image_row": 99}, "images row 99 is out of range"),
    ],
)
def test_a_faulty_record_is_named(
    tmp_path: Path, processor: Processor, stage: Stage, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        changed(tmp_path, processor, **columns).sample(0, 0, stage)
    assert "record r00000: " in str(caught.value)


def test_too_long_and_image_tokens_in_texts_are_refused(tmp_path: Path, processor: Processor) -> None:
    short = changed(tmp_path / "short", processor, DataSection(max_tokens=60))
    with pytest.raises(ValueError, match=r"record r00000: \d+ tokens at stage medium, more than data.max_tokens=60"):
        short.encode(short.sample(0, 0, Stage.MEDIUM))
    for number, column in enumerate(("question_medium", "answer_medium")):
        token = changed(tmp_path / str(number), processor, **{column: "an <image> token"})
        with pytest.raises(ValueError, match=r"record r00000: .*<image>"):
            token.encode(token.sample(0, 0, Stage.MEDIUM))


def test_small_parts() -> None:
    frame, section = ImageFrame(64, 64, side=64, fit="pad"), BoxTextSection()
    assert fill_boxes("a <box:1> b", [None, Box(0, 0.25, 0.5, 1)], frame, section) == "a [0.000, 0.250, 0.500, 1.000] b"
    with pytest.raises(ValueError, match="<box:0>"):
        fill_boxes("<box:0>", [None], frame, section)
    with pytest.raises(ValueError, match="'think'"):
        with_instruction("Why?", "think")
