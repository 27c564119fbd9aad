"""What every language-model writer does, whoever runs the model: template drafts in, the same drafts in other words out.

The template decides what is asked and what is true; a model words it. Each draft ends in exactly one way: worded anew, kept
in the template's words with a row that says so, or rejected by reason (writers/replies.py). The checks come afterwards, in
corpus/drafting.py. Knows no server and no network.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from medclm.chat.replies import Failure, Reply
from medclm.corpus.contract import Draft, LinkedImage, Reject, WriteRequest
from medclm.corpus.writers.cache import DamagedReply, ReplyCache, cache_key
from medclm.corpus.writers.phrasing import Ask, ask_for
from medclm.corpus.writers.picture import picture_of
from medclm.corpus.writers.replies import UNUSABLE, read_reply
from medclm.corpus.writers.template import KINDS, TemplateWriter
from medclm.corpus.writers.usage import Usage
from medclm.draws import generator

KEPT = "_template_kept"
"""Added to a reason where the template's words stand in for a model's."""


@dataclass(frozen=True)
class Wording:
    """What decides the texts of a language-model writer, beside the model.

    Raises:
        ValueError: a value out of range.
    """

    seed: int = 0
    """Of what is asked; the same in every attempt, so that a text written again answers the same question."""
    language: str = "en"
    """A built-in language or a language file (phrases.py)."""
    kinds: tuple[str, ...] = KINDS
    max_per_image: int = 6
    on_failure: str = "reject"
    """A draft that gets no text: `reject`, or keep the `template`'s."""
    images: str = "none"
    """What the model sees beside facts: `none` or `png`."""
    temperature: float | None = 0.7
    """0 = always the likeliest word; None = the server's own."""
    max_tokens: int = 600
    """Of a reply."""
    asks: int = 2
    """Replies that are asked for, at most, until one is usable."""

    def __post_init__(self) -> None:
        if self.on_failure not in ("reject", "template"):
            raise ValueError(f"on_failure={self.on_failure!r}: give reject or template")
        if self.images not in ("none", "png"):
            raise ValueError(f"images={self.images!r}: give none or png")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature={self.temperature}: give a number from 0 to 2")
        for name in ("max_tokens", "asks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        self.template()

    def template(self) -> TemplateWriter:
        """The writer of the seed sentences."""
        return TemplateWriter(language=self.language, max_per_image=self.max_per_image, kinds=self.kinds)


class Estimate(NamedTuple):
    """What requests would cost at least: retries are not foreseen, replies from the cache are not taken off."""

    requests: int
    prompt_tokens: int


@dataclass
class _Wanted:
    """One draft on its way."""

    request: WriteRequest
    draft: Draft
    number: int
    """Among the drafts of its image."""
    complaints: tuple[str, ...]
    outcome: Draft | Failure | None = None


class LanguageModelWriter(ABC):
    """Implements `contract.Writer`; a subclass says how replies are got.

    Args:
        kind: `openai` or `local`.
        model: its name or folder; only the last part of it is stored.
        cache: folder of replies; None = nothing is kept.

    Public attributes decide the texts; what begins with an underscore does not, and is left out of a build's settings.
    """

    def __init__(self, kind: str, model: str, wording: Wording, cache: Path | None) -> None:
        short = model.replace("\\", "/").rstrip("/").rpartition("/")[2]
        if not short:
            raise ValueError(f"--model {model!r}: give the name or the folder of a model")
        self.name = f"{kind}:{short}"
        self.model_hash = hashlib.sha256(model.encode()).hexdigest()[:16]  # tells two folders of one name apart
        self.wording = wording
        self._template = wording.template()
        self.phrases = self._template.phrases  # the content of a language file, which the wording only names
        self._model = model
        self._cache = ReplyCache(cache) if cache is not None else None
        self._usage = Usage(cache)

    @abstractmethod
    def _replies(self, asks: Sequence[Ask]) -> list[Reply | Failure]:
        """The model's replies in order, from `_known` where it has them; what is got goes to `_got`."""

    def _barred(self, linked: LinkedImage) -> Failure | None:
        """Why nothing of this image may be told to the model."""
        return None

    def write(self, requests: Sequence[WriteRequest]) -> list[tuple[list[Draft], list[Reject]]]:
        """Drafts of each request in the model's words, and a reject for each that got none at the first attempt.

        In a later attempt a draft without a new text is left out, and the fault of the attempt before stands. `on_failure`
        template: the template's text takes the place, and the row's reason ends in `_template_kept`.
        """
        sheets = [self._wanted(request) for request in requests]
        try:
            self._word([each for sheet in sheets for each in sheet])
        finally:
            self._usage.log()
        return [
            (
                [draft for each in sheet if (draft := self._draft_of(each)) is not None],
                [reject for each in sheet for reject in self._rejects_of(each)],
            )
            for sheet in sheets
        ]

    def usage(self) -> dict[str, int]:
        """Counts of this process so far; names in writers/usage.py."""
        return self._usage.totals()

    def estimate(self, requests: Sequence[WriteRequest]) -> Estimate:
        """What writing these would ask; asks nothing."""
        asks = [self._ask(each, 0) for request in requests for each in self._wanted(request) if each.outcome is None]
        return Estimate(len(asks), sum(ask.tokens for ask in asks))

    # --- one draft

    def _wanted(self, request: WriteRequest) -> list[_Wanted]:
        barred = self._barred(request.linked)
        drafts = self._template.drafts(request.linked, self.wording.seed)
        faults = request.faults
        return [
            _Wanted(request, draft, number, faults[draft.key] if faults else (), barred)
            for number, draft in enumerate(drafts)
            if faults is None or draft.key in faults
        ]

    def _word(self, wanted: Sequence[_Wanted]) -> None:
        """Ask until every draft has a text or a reason."""
        pending = [each for each in wanted if each.outcome is None]
        for attempt in range(self.wording.asks):
            replies = self._replies([self._ask(each, attempt) for each in pending])
            self._usage.add(asked=len(pending))
            for each, reply in zip(pending, replies, strict=True):
                each.outcome = self._read(each, reply)
            pending = [each for each in pending if isinstance(each.outcome, Failure) and each.outcome.reason in UNUSABLE]
            if not pending:
                break
            for each in pending:
                assert isinstance(each.outcome, Failure)
                each.complaints += (f"{each.outcome.reason.removeprefix('writer_')}: {each.outcome.detail}",)

    def _ask(self, each: _Wanted, attempt: int) -> Ask:
        linked = each.request.linked
        draw = generator(each.request.seed, f"writer.sampling {linked.image.key}", each.number, attempt)
        return ask_for(
            each.draft,
            linked,
            seed=int(draw.integers(2**31)),
            complaints=each.complaints,
            picture=picture_of(each.draft, linked) if self.wording.images == "png" else None,
        )

    def _read(self, each: _Wanted, reply: Reply | Failure) -> Draft | Failure:
        read = reply if isinstance(reply, Failure) else read_reply(reply, each.draft, each.request.linked, self.name)
        if isinstance(read, Failure):
            self._usage.add(**{read.reason: 1})
        return read

    def _draft_of(self, each: _Wanted) -> Draft | None:
        if isinstance(each.outcome, Draft):
            return each.outcome
        return each.draft if self.wording.on_failure == "template" else None

    def _rejects_of(self, each: _Wanted) -> Iterator[Reject]:
        if not isinstance(each.outcome, Failure):
            return
        reason, detail = each.outcome
        where = f"{each.request.linked.image.index}.drafts[{each.number}].{each.draft.question_kind}"
        if self.wording.on_failure == "template":
            yield Reject(where, reason + KEPT, f"{detail}; the template's text stands")
        elif each.request.faults is None:
            yield Reject(where, reason, detail)

    # --- replies on disk

    def _key(self, ask: Ask) -> str:
        """Everything that decides a reply, except where the server stands."""
        fields: dict[str, Any] = {
            "model": [self.name, self.model_hash],
            "prompt": [ask.system, ask.user],
            "schema": ask.schema,
            "picture": ask.picture,
            "sampling": [self.wording.temperature, self.wording.max_tokens, ask.seed],
        }
        return cache_key(fields)

    def _known(self, ask: Ask) -> Reply | None:
        """The reply on disk, counted."""
        if self._cache is None:
            return None
        try:
            reply = self._cache.get(self._key(ask))
        except DamagedReply:
            self._usage.add(cache_damaged=1)
            return None
        if reply is not None:
            self._usage.add(cache_hits=1)
        return reply

    def _got(self, ask: Ask, reply: Reply) -> None:
        """Count a fresh reply and keep it; one without text is not kept, since the next may have some."""
        uncounted = int(not reply.prompt_tokens and not reply.completion_tokens)
        self._usage.add(
            replies=1,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            uncounted_replies=uncounted,
        )
        if self._cache is not None and (reply.text.strip() or reply.finish == "refused"):
            self._cache.put(self._key(ask), reply)
