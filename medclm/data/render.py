"""A stored record and a stage become what the model sees and what it should say: the stage table on pixels and texts.

Stored texts name boxes as `<box:k>` (the k-th of `annotation_rows`) and the drawn colour as `{color}`; here, where the
model's square is known, they become numbers and words. Training, evaluation and prediction share the words of this page, so
that a question asked later is the question that was trained. Knows nothing of batches, ranks or policies. Thread-safe:
nothing is kept between calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from medclm.config import BoxTextSection, ConfigError, DataSection
from medclm.curriculum.stages import STAGE_RULES, StageRule
from medclm.data.draw import Style, draw_prompt, style_for
from medclm.data.frame import ImageFrame
from medclm.data.mapped import CorpusChanged, ShardLost
from medclm.data.shards import Corpus
from medclm.models.protocol import Processor
from medclm.types import Box, EncodedSample, Sample, Segment, Stage

INSTRUCTIONS = {"reason": "Reason, give the box, then answer.", "direct": "Answer directly."}
"""Last line of a question by mode: what form of completion is wanted."""
BEGINS = {"reason": "", "direct": "Answer:"}
"""What every completion begins with by mode. No loss teaches a model to write it, so whoever asks gives it with the prompt."""
COLOUR = "{color}"
TEXT_ROOM = 448
"""Tokens for prompt and completion that go with a picture in the default data.max_tokens, at 576 tokens a picture."""
_BOX = re.compile(r"<box:(\d+)>")


def with_instruction(question: str, mode: str) -> str:
    """The question with its response instruction.

    Raises:
        ValueError: `mode` is neither `reason` nor `direct`.
    """
    if mode not in INSTRUCTIONS:
        raise ValueError(f"mode {mode!r}: expected one of {', '.join(INSTRUCTIONS)}")
    return f"{question}\n{INSTRUCTIONS[mode]}"


def mode_of(question: str) -> str | None:
    """The mode of a worded question, told by its last line; None where that is no instruction of ours."""
    return next((mode for mode, words in INSTRUCTIONS.items() if question.endswith(f"\n{words}")), None)


def begin_of(question: str) -> str:
    """What the completion of a worded question begins with; nothing where the words are not ours."""
    mode = mode_of(question)
    return BEGINS[mode] if mode else ""


def target_pieces(stage: Stage, rationale: str, answer: str) -> list[tuple[str, Segment]]:
    """The completion as pieces that are tokenised apart, so that spans are exact; end of sequence, an ANSWER token, follows."""
    if STAGE_RULES[stage].rationale:
        return [(f"Reasoning: {rationale}\n\nAnswer:", Segment.RATIONALE), (f" {answer}", Segment.ANSWER)]
    return [(BEGINS["direct"], Segment.CONTEXT), (f" {answer}", Segment.ANSWER)]


def fill_boxes(text: str, boxes_unit: Sequence[Box | None], frame: ImageFrame, section: BoxTextSection) -> str:
    """A stored text with every `<box:k>` written as numbers.

    Raises:
        ValueError: `k` has no box.
    """

    def written(match: re.Match[str]) -> str:
        return frame.write(_box_at(boxes_unit, int(match[1])), section)

    return _BOX.sub(written, text)


def check_room(image_tokens: int, data: DataSection) -> None:
    """Raise ConfigError where a picture alone leaves no room for texts, before anything is paid for."""
    if image_tokens >= data.max_tokens:
        raise ConfigError(
            f"data.max_tokens={data.max_tokens}: a picture alone has {image_tokens} image tokens: give at least {image_tokens + TEXT_ROOM}, "
            "or model.tiles=1"
        )


class Renderer:
    """Records of one corpus as samples of one model.

    Args:
        corpus: where records, boxes and pictures lie.
        processor: of the model; its square and its tokens.
        data: fit, form of written boxes, longest sequence.
        seed: of the visual prompts.
    """

    def __init__(self, corpus: Corpus, processor: Processor, data: DataSection, seed: int) -> None:
        self.corpus, self.processor, self.data, self.seed = corpus, processor, data, seed
        self._domains = {name: index for index, name in enumerate(corpus.domains)}

    def picture(self, image_row: int) -> tuple[Image.Image, ImageFrame]:
        """The model's RGB square of a stored image, and the frame that placed it."""
        # Each channel is resized by itself, so a grey picture may become RGB afterwards: the same bits, half the time.
        image = self.corpus.picture(image_row, keep_grey=True)
        frame = ImageFrame(*image.size, side=self.processor.image_size, fit=self.data.fit)
        return frame.place(image).convert("RGB"), frame

    def render(self, record_row: int, position: int, stage: Stage) -> tuple[Sample, EncodedSample]:
        """A record at a stage, and the same as arrays: `sample`, then `encode`."""
        sample = self.sample(record_row, position, stage)
        return sample, self.encode(sample)

    def sample(self, record_row: int, position: int, stage: Stage) -> Sample:
        """A record at a stage.

        Args:
            record_row: among all records of the corpus.
            position: global position; decides the visual prompt.

        Raises:
            ValueError: the record does not offer the stage, its texts and boxes do not fit together, or its picture does not
                decode; names the record.
            ShardLost, CorpusChanged: a file is not what it was when the corpus was opened; names the record.
        """
        record = self.corpus.row("records", record_row, _columns(STAGE_RULES[stage]))
        with _named(record["record_id"]):
            return self._sample(record, position, STAGE_RULES[stage])

    def encode(self, sample: Sample) -> EncodedSample:
        """A sample as arrays: prompt, target pieces and end of sequence tokenised apart and joined.

        Raises:
            ValueError: longer than data.max_tokens, or an image token too many or too few; names the record.
        """
        with _named(sample.record_id):
            prompt = self.processor.prompt_ids(sample.question)
            ids, segments = list(prompt), [Segment.CONTEXT] * len(prompt)
            for text, segment in target_pieces(sample.stage, sample.rationale, sample.answer):
                piece = self.processor.text_ids(text)
                ids += piece
                segments += [segment] * len(piece)
            ids.append(self.processor.eos_id)
            segments.append(Segment.ANSWER)
            if len(ids) > self.data.max_tokens:
                raise ValueError(
                    f"{len(ids)} tokens at stage {sample.stage.key}, more than data.max_tokens={self.data.max_tokens}: "
                    "raise it or leave the record out"
                )
            self.processor.check_image_span(ids)
            return EncodedSample(
                input_ids=np.array(ids, dtype=np.int64),
                segments=np.array(segments, dtype=np.uint8),
                pixel_values=self.processor.pixel_values(sample.image),
            )

    def _sample(self, record: Mapping[str, Any], position: int, rule: StageRule) -> Sample:
        key = rule.stage.key
        texts = [record[f"question_{key}"], record[f"rationale_{key}"] if rule.rationale else "", record[f"answer_{key}"]]
        if not texts[0] or not texts[2] or (rule.rationale and not texts[1]):
            raise ValueError(f"stage {key} is not offered: its question, rationale or answer is empty")
        boxes = [] if rule.partner_image else self._boxes(record["annotation_rows"], texts, needed=rule.box_drawn)
        image, frame = self.picture(_image_row(record, rule))
        style = None
        if rule.box_drawn and record["easy_image_row"] < 0:
            style = style_for(self.seed, position, line=self.data.prompt_line, opacity=self.data.prompt_opacity)
            image = _highlight(image, frame, boxes, rationale=texts[1], style=style)
        question, rationale, answer = (
            fill_boxes(_fill_colour(text, style), boxes, frame, self.data.box_text) for text in texts
        )
        return Sample(
            record_id=record["record_id"],
            position=position,
            domain=self._domains[record["domain"]],
            stage=rule.stage,
            image=image,
            question=with_instruction(question, rule.instruction),
            rationale=rationale,
            answer=answer,
        )

    def _boxes(self, annotation_rows: Sequence[int], texts: Sequence[str], needed: bool) -> list[Box | None]:
        """Unit boxes of the record's annotations; not read where neither pixels nor texts name one."""
        if not needed and not any(_BOX.search(text) for text in texts):
            return []
        rows = self.corpus.rows("annotations", annotation_rows, ["box_xyxy_unit"])
        return [Box(*row["box_xyxy_unit"]) if row["box_xyxy_unit"] else None for row in rows]


def _columns(rule: StageRule) -> list[str]:
    key = rule.stage.key
    texts = [f"question_{key}", f"answer_{key}"] + ([f"rationale_{key}"] if rule.rationale else [])
    return ["record_id", "domain", "image_row", "easy_image_row", "hard_image_row", "annotation_rows", *texts]


def _image_row(record: Mapping[str, Any], rule: StageRule) -> int:
    if rule.partner_image:
        return int(record["hard_image_row"])
    if rule.box_drawn and record["easy_image_row"] >= 0:
        return int(record["easy_image_row"])
    return int(record["image_row"])


def _box_at(boxes_unit: Sequence[Box | None], k: int) -> Box:
    box = boxes_unit[k] if k < len(boxes_unit) else None
    if box is None:
        raise ValueError(f"<box:{k}> has no box: the record shows {len(boxes_unit)} annotation(s) at this stage")
    return box


def _highlight(
    image: Image.Image, frame: ImageFrame, boxes: Sequence[Box | None], *, rationale: str, style: Style
) -> Image.Image:
    """The picture with the boxes that the rationale speaks of, or else the first one, outlined in one style."""
    spoken_of = sorted({int(k) for k in _BOX.findall(rationale)}) or [0]
    for k in spoken_of:
        image = draw_prompt(image, frame.to_square_px(_box_at(boxes, k)), style)
    return image


def _fill_colour(text: str, style: Style | None) -> str:
    if style is None and COLOUR in text:
        raise ValueError(f"a text says {COLOUR}, but no box is drawn for it at this stage: correct the text")
    return text.replace(COLOUR, style.colour_name) if style else text


@contextmanager
def _named(record_id: str) -> Iterator[None]:
    """Errors within say which record they are about; a fault of the data stays a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"record {record_id}: {error}") from error
    except (ShardLost, CorpusChanged) as error:
        raise type(error)(f"record {record_id}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"record {record_id}: {type(error).__name__}: {error}") from error
