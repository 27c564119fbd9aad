"""A model behind an OpenAI-compatible server, as a respondent: so that other people's models are judged by the same suites.

    ServedModel("org/model", Endpoint("http://127.0.0.1:8000/v1"), Decoding())

A question and its picture are one chat. The picture is sent as a PNG, its view applied, unpadded and with a long side of at most 1024
pixels, since other models bring a frame of their own; boxes are read in the frame that `box_text` declares, where `resized` is the
picture as sent. How requests are paced, repeated and kept on this machine: medclm/chat/{client,endpoint}.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from eval.decoding import Decoding
from eval.example import PictureKey, Reply, Square, View, number_of
from eval.pictures import CorpusPictures, GivenPictures, Pictures, shown
from eval.respondent import Asked
from eval.runner import Benchmark, Plan, evaluate
from eval.stored import STORED_SQUARE
from medclm.chat.client import Asker, Chat, connect, require_client
from medclm.chat.endpoint import Endpoint
from medclm.chat.replies import Failure
from medclm.chat.replies import Reply as ChatReply
from medclm.config import BoxTextSection
from medclm.corpus.pixels import encode_png
from medclm.data.frame import ImageFrame
from medclm.data.render import INSTRUCTIONS, mode_of
from medclm.data.shards import Corpus
from medclm.draws import generator
from medclm.types import Box

LONGEST = 1024
"""Pixels of the long side of a picture that is sent; smaller ones are sent as they are."""
HOPELESS = 24
"""Questions in a row without a reply, after which no more are asked: the rest would end as they did."""
_UNITS = {"1": "fractions from 0 to 1", "100": "numbers from 0 to 100", "1000": "numbers from 0 to 1000", "px": "pixels"}
_CURES = {
    "timeout": "give a longer --request-timeout or a lower --concurrency",
    "rate_limited": "give a lower --concurrency or --requests-per-minute",
    "server_error": "the server's log says why",
    "bad_request": "does the model take pictures, and replies as long as --max-new-tokens? The server's log says",
    "cut_before_text": "give a higher --max-new-tokens (hidden reasoning counts) and --overwrite, or --accept-empty",
    "declined": "--accept-empty judges it as nothing said",
    "empty": "--accept-empty judges it as nothing said",
}
"""Why a question got no reply -> what to do; the first four as in medclm/chat/client.py."""


class SentFrame(ImageFrame):
    """A frame whose written boxes are those of the picture as sent; sizes stay those of the square."""

    def parse(self, numbers: Sequence[float], section: BoxTextSection) -> Box | None:
        longest = max(self.width, self.height)
        return ImageFrame(self.width, self.height, side=min(LONGEST, longest), fit="pad").parse(numbers, section)


class SentSquare(Square):
    """The square in which sizes are told, for pictures that are not sent as one."""

    def frame(self, size: tuple[int, int]) -> ImageFrame:
        return SentFrame(*size, side=self.side, fit=self.fit)


SENT_SQUARE = SentSquare(*STORED_SQUARE)
_AS_PUBLISHED = Benchmark()


@dataclass
class ServedModel:
    """Implements `Respondent`.

    Raises:
        ValueError: no model name, the package `openai` is missing, or a frame of boxes that the model cannot know.
    """

    model: str
    """As the server knows it."""
    endpoint: Endpoint
    decoding: Decoding
    """A temperature below 0 is the server's own."""
    box_text: BoxTextSection = field(default_factory=lambda: BoxTextSection(frame="resized"))
    """How the model writes boxes; `digits` do not matter."""
    tell_form: bool = True
    """Say after our response instruction what it means; the prompts of other profiles bring their own words."""
    accept_empty: bool = False
    """Take a reply without text for an answer; else it is none, and the evaluation ends without scores."""
    may_leave: Callable[[PictureKey], bool] = lambda key: False
    """Whether a picture and its questions may be sent to another machine."""
    square: Square = SENT_SQUARE

    def __post_init__(self) -> None:
        require_client()
        if not self.model:
            raise ValueError("--base-url needs --model: the name by which the server knows the model")
        if (self.box_text.frame, self.box_text.scale) == ("original", "px"):
            raise ValueError(
                f"--box-text.frame original --box-text.scale px: a picture is sent with at most {LONGEST} pixels a side, so the model "
                "does not know its stored size: give --box-text.frame resized"
            )
        self.settings: dict[str, Any] = {
            "server": self.server,
            "model": self.model,
            "sent_longest_px": LONGEST,
            "max_new_tokens": self.decoding.max_new_tokens,
            "temperature": self._temperature,
            **({"sampling_seed": self.decoding.seed} if self.decoding.temperature else {}),
            "box_text": self.box_text.model_dump(mode="json", exclude={"digits"}),
            "form": [told_form(name, self.box_text) for name in INSTRUCTIONS] if self.tell_form else "not told",
        }

    @property
    def server(self) -> str:
        """Host and port."""
        return urlsplit(self.endpoint.base_url).netloc

    def replies(
        self, asked: Sequence[Asked], pictures: Pictures | None, progress: Callable[[int], None]
    ) -> Iterator[tuple[Asked, Reply]]:
        """See `Respondent.replies`.

        Raises:
            ValueError: likelihoods are asked for, there are no pictures, some may not leave this machine, or the server refuses the
                key or does not know the model.
            RuntimeError: after all others: some questions got no reply; or nobody answers, or the account is spent.
        """
        remote = self.endpoint.remote()
        if pictures is None:
            raise ValueError("these questions came without pictures: give --images FOLDER, or judge --predictions FILE")
        self._check(asked, remote)
        seen, failed, in_a_row = pictures, list[tuple[Asked, Failure]](), 0
        client, asker = connect(self.endpoint, remote=remote), Asker(self.model, self.endpoint)
        with closing(asker.answers(client, asked, lambda one: self.chat(one, seen))) as answers:
            for one, answer in answers:
                reply = self._read(answer)
                if isinstance(reply, Reply):
                    progress(1)
                    in_a_row = 0
                    yield one, reply
                    continue
                failed.append((one, reply))
                in_a_row += 1
                if in_a_row == HOPELESS:
                    break
        if failed:
            raise RuntimeError(_told(failed, len(asked), stopped=in_a_row == HOPELESS))

    def chat(self, one: Asked, pictures: Pictures) -> Chat:
        """What the server gets."""
        draw = generator(self.decoding.seed, "eval.endpoint", number_of(one.id))
        return Chat(
            self._worded(one.ask.question),
            int(draw.integers(2**31)),
            self.decoding.max_new_tokens,
            temperature=self._temperature,
            picture=sent_picture(one.ask.view, one.example.picture, pictures),
            picture_first=True,
        )

    @property
    def _temperature(self) -> float | None:
        return None if self.decoding.temperature < 0 else self.decoding.temperature

    def _worded(self, question: str) -> str:
        asked = mode_of(question)
        return f"{question}\n{told_form(asked, self.box_text)}" if asked and self.tell_form else question

    def _check(self, asked: Sequence[Asked], remote: bool) -> None:
        """Refuse what may not or cannot be asked, before anything is sent."""
        scored = sum(bool(one.ask.options) for one in asked)
        if scored:
            raise ValueError(
                f"--base-url: {scored} of {len(asked)} questions ask how likely given options are, which chat servers do not say: "
                "suites such as choice and classification need --checkpoint with the model's folder; leave them out of --suites"
            )
        keys = (
            {key for one in asked for key in (one.example.picture, one.ask.view.key(one.example.picture))} if remote else set()
        )
        staying = sum(not self.may_leave(key) for key in keys)
        if staying:
            raise ValueError(
                f"--base-url: {self.server} is another machine, and {staying} of {len(keys)} pictures may not leave this one: use a "
                "server on this machine. A public benchmark whose licence allows it: --shareable. A corpus: what its sources declared "
                "when it was built holds"
            )

    def _read(self, answer: ChatReply | Failure) -> Reply | Failure:
        if isinstance(answer, Failure):
            return answer
        if answer.text.strip() or self.accept_empty:
            return Reply(text=answer.text, tokens=answer.completion_tokens, stopped=answer.finish != "length")
        if answer.finish == "length":
            return Failure("cut_before_text", f"cut after {answer.completion_tokens} tokens")
        return Failure("declined" if answer.finish == "refused" else "empty", "a reply without text")


def told_form(instruction: str, box_text: BoxTextSection) -> str:
    """What a response instruction of ours means, for models that were not trained on it."""
    if instruction == "direct":
        return 'Write "Answer:" and after it nothing but the answer.'
    padded = ", padded to a square with the picture in the middle" if box_text.frame == "padded" else ""
    return (
        'Write "Reasoning:" and what you see, with the box of each finding as [x0, y0, x1, y1]: left, top, right and bottom in '
        f'{_UNITS[box_text.scale]} of the picture{padded}. Then, on a new line, write "Answer:" and after it nothing but the answer.'
    )


def sent_picture(view: View, key: PictureKey, pictures: Pictures) -> bytes:
    """PNG of an example's picture under a view: pixels alone, unpadded, long side at most `LONGEST`."""
    name = view.key(key)
    image = pictures.open(name)
    scale = min(1.0, LONGEST / max(image.size))
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    square = Square(side=max(image.size), patch_size=1, fit="pad")  # as long as the picture: nothing is resized again
    placed = shown(view, key, GivenPictures({str(name): image}), square)
    x0, y0, x1, y1 = square.frame(image.size).to_square_px(Box(0, 0, 1, 1))
    return encode_png(np.asarray(placed.crop((round(x0), round(y0), round(x1), round(y1)))))


def evaluate_endpoint(
    served: ServedModel, data: Path, out: Path, plan: Plan, *, shareable: bool = False, benchmark: Benchmark = _AS_PUBLISHED
) -> dict[str, dict[str, Any]]:
    """`evaluate` of a model behind a server; replies are kept as they come, and the same call asks only what has none.

    Args:
        shareable: the pictures of a public benchmark may be sent to another machine; those of a corpus say so themselves.

    Raises:
        ValueError: as `evaluate`, `open_pool` and `ServedModel.replies`.
        RuntimeError: some questions got no reply; nothing is judged.
    """
    plan.check()
    pool = benchmark.open(data, plan.split)
    empty = {"replies without text": "judged as nothing said"} if served.accept_empty else {}
    noted = replace(plan, notes={"model": served.model, "server": served.server, **empty, **plan.notes})
    cleared = replace(served, may_leave=_may_leave(data, pool.pictures, stated=shareable))
    return evaluate(noted, pool, cleared, out)


def _may_leave(data: Path, pictures: Pictures | None, *, stated: bool) -> Callable[[PictureKey], bool]:
    if not isinstance(pictures, CorpusPictures):
        return lambda key: stated
    corpus = Corpus(data)
    return lambda key: bool(corpus.row("images", int(key), ["shareable"])["shareable"])


def _told(failed: Sequence[tuple[Asked, Failure]], asked: int, *, stopped: bool) -> str:
    """How many got no reply, by reason with the first of each, and what to do."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for one, failure in failed:
        reasons[failure.reason].append(f"{failure.detail} (the first: {one.id})")
    lines = [f"{len(told)} {reason}: {told[0]}: {_CURES[reason]}" for reason, told in reasons.items()]
    rest = f"; no more were asked after {HOPELESS} in a row" if stopped else ""
    head = f"{len(failed)} of {asked} questions got no reply{rest}. Replies are kept: the same command asks only what has none"
    return "\n  ".join([head, *lines])
