"""A checkpoint opened for asking: the respondent of evaluation and prediction on this machine. Knows nothing of suites or scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.decoding import Decoding
from eval.example import Ask, Example, Prediction, Reply, Square
from eval.pictures import GivenPictures, Pictures, shown
from eval.respondent import Asked, read_reply
from medclm.config import BoxTextSection, DataSection
from medclm.data.frame import ImageFrame
from medclm.data.render import BEGINS, begin_of

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from medclm.generation import Completion, Request
    from medclm.models.protocol import Processor

_CHUNK_BATCHES = 4
"""Batches between two hand-overs of replies: what a killed evaluation loses at most."""
_HASHED = 1 << 20


@dataclass(frozen=True)
class LocalModel:
    """A model ready to be asked, with what its boxes mean."""

    network: nn.Module
    processor: Processor
    square: Square
    box_text: BoxTextSection
    decoding: Decoding
    settings: dict[str, Any] = field(default_factory=dict)

    def replies(
        self, asked: Sequence[Asked], pictures: Pictures | None, progress: Callable[[int], None]
    ) -> Iterator[tuple[Asked, Reply]]:
        """See `Respondent.replies`; pictures of the next chunk are read while one is asked."""
        if asked and pictures is None:
            raise ValueError("these questions came without pictures: give --images FOLDER, or judge --predictions FILE")
        assert pictures is not None
        size = self.decoding.batch_size * _CHUNK_BATCHES
        texts = [one for one in asked if not one.ask.options]
        choices = [one for one in asked if one.ask.options]
        with ThreadPoolExecutor(max_workers=1) as ahead:
            for ours, answer in ((texts, self._write), (choices, self._score)):
                chunks = [ours[first : first + size] for first in range(0, len(ours), size)]
                for chunk, requests in self._prepared(chunks, pictures, ahead):
                    yield from zip(chunk, answer(chunk, requests, pictures, progress), strict=True)

    def _prepared(
        self, chunks: list[list[Asked]], pictures: Pictures, ahead: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Asked], list[Request]]]:
        coming = None
        for at, chunk in enumerate(chunks):
            ready, coming = coming, ahead.submit(self._requests, chunk, pictures)
            if ready is not None:
                yield chunks[at - 1], ready.result()
        if coming is not None:
            yield chunks[-1], coming.result()

    def _requests(self, chunk: list[Asked], pictures: Pictures) -> list[Request]:
        from medclm.generation import Request

        return [
            Request(
                one.id,
                one.ask.question,
                shown(one.ask.view, one.example.picture, pictures, self.square),
                begin=BEGINS["direct"] if one.ask.options else begin_of(one.ask.question),
            )
            for one in chunk
        ]

    def _write(
        self, chunk: list[Asked], requests: list[Request], pictures: Pictures, progress: Callable[[int], None]
    ) -> list[Reply]:
        from medclm.generation import generate

        completions = generate(
            self.network,
            self.processor,
            requests,
            max_new_tokens=self.decoding.max_new_tokens,
            batch_size=self.decoding.batch_size,
            temperature=self.decoding.temperature,
            seed=self.decoding.seed,
            progress=progress,
        )
        return [
            self._reply(completion, request.begin, self.square.frame(pictures.size(one.ask.view.key(one.example.picture))))
            for one, request, completion in zip(chunk, requests, completions, strict=True)
        ]

    def _reply(self, completion: Completion, begin: str, frame: ImageFrame) -> Reply:
        written = frame.find_written(completion.text, self.box_text)
        ends = self._ends(completion.ids, begin) if written else []
        return Reply(
            text=completion.text,
            tokens=completion.tokens,
            stopped=completion.stopped,
            box_scores=tuple(round(_mean_over(place, ends, completion.scores), 5) for _, place in written),
        )

    def _ends(self, ids: tuple[int, ...], begin: str) -> list[int]:
        """Characters of the text up to and including each generated token."""
        from medclm.generation import begin_ids

        given = begin_ids(self.processor, begin)
        return [len(self.processor.decode([*given, *ids[: at + 1]])) for at in range(len(ids))]

    def _score(
        self, chunk: list[Asked], requests: list[Request], pictures: Pictures, progress: Callable[[int], None]
    ) -> list[Reply]:
        from medclm.likelihood import option_scores

        found = option_scores(
            self.network,
            self.processor,
            requests,
            [one.ask.options for one in chunk],
            batch_size=self.decoding.batch_size,
            progress=progress,
        )
        return [
            Reply(option_scores=tuple(round(value, 5) for value in one.log_likelihoods), option_tokens=one.tokens)
            for one in found
        ]


def _mean_over(place: slice, ends: Sequence[int], scores: Sequence[float]) -> float:
    """Mean score of the tokens that write the characters of `place`."""
    begins = [0, *ends[:-1]]  # a given beginning holds no box
    inside = [score for begin, end, score in zip(begins, ends, scores, strict=True) if end > place.start and begin < place.stop]
    return sum(inside) / len(inside) if inside else float("-inf")


def open_checkpoint(checkpoint: Path, decoding: Decoding, *, local_rank: int = 0) -> LocalModel:
    """The model of a run folder, a step folder or an export, on the best device.

    Args:
        local_rank: which of the machine's accelerators.

    Raises:
        ValueError: none of these, or not a model of a known family.
    """
    import torch

    from medclm.exports import export_settings, exported
    from medclm.models.registry import family_of

    folder = exported(checkpoint)
    stored = export_settings(folder)
    device, dtype = _device(torch.cuda.is_available(), local_rank)
    models = family_of(folder, stored.get("family"))
    network, processor = models.load_export(folder, dtype)
    square = Square(side=processor.image_size, patch_size=processor.patch_size, fit=stored.get("fit", DataSection().fit))
    box_text = BoxTextSection(**stored["box_text"]) if "box_text" in stored else models.box_text
    return LocalModel(
        network=network.to(device).eval(),
        processor=processor,
        square=square,
        box_text=box_text,
        decoding=decoding,
        settings={
            "weights": fingerprint(folder),
            "max_new_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            **({"sampling_seed": decoding.seed} if decoding.temperature else {}),
            "fit": square.fit,
            "box_text": box_text.model_dump(mode="json"),
        },
    )


def ask_once(model: LocalModel, question: str, image: Image.Image) -> tuple[Reply, Prediction]:
    """The reply to one question about one RGB picture, and how it is read."""
    example = Example(id="one", patient="", question_kind="", answer_type="open", question=question, picture="one")
    [(_, reply)] = model.replies([Asked(example, Ask("answer", question))], GivenPictures({"one": image}), lambda _: None)
    return reply, read_reply(reply, model.square.frame(image.size), model.box_text)


def _device(has_gpu: bool, local_rank: int) -> tuple[torch.device, torch.dtype]:
    import torch

    if has_gpu:
        return torch.device("cuda", local_rank), torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.device("cpu"), torch.float32


def fingerprint(folder: Path) -> str:
    """Tells one export's weights from another's without reading gigabytes: sizes, and both ends of every weight file."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            digest.update(f"{path.name} {size}".encode() + stream.read(_HASHED))
            stream.seek(max(0, size - _HASHED))
            digest.update(stream.read(_HASHED))
    return digest.hexdigest()
