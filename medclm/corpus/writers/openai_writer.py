"""A writer that asks an OpenAI-compatible server (medclm/chat/), many requests at once.

The connection is opened in the process that writes: the writer itself is cheap and picklable. Knows nothing of what is asked
or what a reply means.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclm.chat.client import Asker, Chat, connect, require_client
from medclm.chat.endpoint import Endpoint
from medclm.chat.replies import Failure, Reply
from medclm.corpus.contract import LinkedImage
from medclm.corpus.writers.language_model import LanguageModelWriter, Wording
from medclm.corpus.writers.phrasing import Ask

if TYPE_CHECKING:
    from openai import OpenAI

NAME = "openai"


class OpenAIWriter(LanguageModelWriter):
    """Texts by a model behind an HTTP endpoint; implements `contract.Writer`.

    Args:
        model: as the server knows it.
        endpoint: where and how fast.
        wording: what is asked of it.
        cache: folder of replies, shared by processes and reruns; None = every run asks anew.

    Raises:
        ValueError: the package `openai` is missing; see `Endpoint` and `Wording`. While writing: see `connect` and `Asker.answers`.
        RuntimeError: while writing: see `Asker.answers`.
    """

    def __init__(self, model: str, endpoint: Endpoint, wording: Wording | None = None, cache: Path | None = None) -> None:
        super().__init__(NAME, model, wording or Wording(), cache)
        require_client()
        self.remote = endpoint.remote()
        self._endpoint = endpoint
        self._asker = Asker(model, endpoint)
        self._client: OpenAI | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_client": None}

    def _barred(self, linked: LinkedImage) -> Failure | None:
        if self.remote and not linked.image.shareable:
            return Failure(
                "not_shareable", "the server is another machine: declare --shareable if the images may leave this one"
            )
        return None

    def _replies(self, asks: Sequence[Ask]) -> list[Reply | Failure]:
        found: list[Reply | Failure | None] = [self._known(ask) for ask in asks]
        missing = [at for at, reply in enumerate(found) if reply is None]
        if missing:
            self._client = self._client or self._open()
            fresh = self._asker.answers(
                self._client, missing, lambda at: self._chat(asks[at]), lambda at, answer: self._heard(asks[at], answer)
            )
            for at, answer in fresh:
                found[at] = answer if isinstance(answer, Reply) else answer._replace(reason=f"writer_{answer.reason}")
        return [reply for reply in found if reply is not None]

    def _open(self) -> OpenAI:
        return connect(self._endpoint, remote=self.remote)

    def _chat(self, ask: Ask) -> Chat:
        return Chat(
            ask.user,
            ask.seed,
            self.wording.max_tokens,
            temperature=self.wording.temperature,
            system=ask.system,
            picture=ask.picture,
            schema=ask.schema,
            prompt_tokens=ask.tokens,
        )

    def _heard(self, ask: Ask, answer: Reply | Failure) -> None:
        """Count a request that went out, and keep the reply at once: nothing that was paid for is lost to a later error."""
        self._usage.add(requests=1)
        if isinstance(answer, Reply):
            self._got(ask, answer)
        else:
            self._usage.add(errors=1)
