"""A writer that asks an OpenAI-compatible server, official client, many requests at once.

The client is told to repeat nothing, so that every request is paced and counted here. It is opened in the process that
writes: the writer itself is cheap and picklable. Server messages go nowhere, since they may repeat what was sent. Knows
nothing of what is asked or what a reply means.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclm.corpus.contract import LinkedImage
from medclm.corpus.writers.endpoint import Endpoint
from medclm.corpus.writers.language_model import LanguageModelWriter, Wording
from medclm.corpus.writers.phrasing import Ask
from medclm.corpus.writers.rate import Pace, backoff_seconds, retry_after_seconds
from medclm.corpus.writers.replies import Failure, Reply

if TYPE_CHECKING:
    from openai import OpenAI

NAME = "openai"
_MOST_BYTES = 4 << 20
"""Of a server's answer; a text of a few hundred tokens has a few thousand."""
_SILENT = 12
"""Requests given up in a row because nobody answered, after which the server counts as gone."""


class OpenAIWriter(LanguageModelWriter):
    """Texts by a model behind an HTTP endpoint; implements `contract.Writer`.

    Args:
        model: as the server knows it.
        endpoint: where and how fast.
        wording: what is asked of it.
        cache: folder of replies, shared by processes and reruns; None = every run asks anew.

    Raises:
        ValueError: the package `openai` is missing; see `Endpoint` and `Wording`. While writing: the server refuses the key or
            does not know the model.
        RuntimeError: while writing: the account is spent, or nobody has answered for many requests.
    """

    def __init__(self, model: str, endpoint: Endpoint, wording: Wording | None = None, cache: Path | None = None) -> None:
        super().__init__(NAME, model, wording or Wording(), cache)
        if importlib.util.find_spec("openai") is None:
            raise ValueError("--writer openai needs the package openai: install it, or use --writer template")
        self.remote = endpoint.remote()
        self._endpoint = endpoint
        self._pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._client: OpenAI | None = None
        self._silence = _Silence()

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
            pool, stop = ThreadPoolExecutor(self._endpoint.concurrency), threading.Event()
            try:
                fresh = pool.map(lambda at: self._fresh(asks[at], stop), missing)
                for at, reply in zip(missing, fresh, strict=True):
                    found[at] = reply
            finally:
                stop.set()  # after an error or Ctrl-C nothing more is asked
                pool.shutdown(cancel_futures=True)
        return [reply for reply in found if reply is not None]

    def _open(self) -> OpenAI:
        import openai

        if self._endpoint.remote() and not self.remote:
            raise ValueError("--base-url: its name no longer means this machine: nothing was sent")
        # no proxy of the environment and no redirect may carry requests off this machine
        http = openai.DefaultHttpxClient(trust_env=self.remote, follow_redirects=False)
        return openai.OpenAI(
            api_key=self._endpoint.api_key(),
            base_url=self._endpoint.base_url,
            timeout=self._endpoint.timeout,
            max_retries=0,
            http_client=http,
        )

    # --- one reply

    def _fresh(self, ask: Ask, stop: threading.Event) -> Reply | Failure:
        """Ask the server until it replies, refuses, has been asked often enough, or nobody wants to know any more."""
        failure = Failure("writer_server_error", "never asked")
        for attempt in range(self._endpoint.tries):
            if not self._pace.wait(ask.tokens + self.wording.max_tokens, stop):
                break
            self._usage.add(requests=1)
            answer = self._request(ask)
            if isinstance(answer, Reply):
                self._pace.settle(answer.prompt_tokens + answer.completion_tokens - ask.tokens - self.wording.max_tokens)
                self._got(ask, answer)
                return answer
            self._usage.add(errors=1)
            failure, wait = answer
            last = attempt == self._endpoint.tries - 1
            if wait is None or last:
                break
            if wait > self._endpoint.most_wait:
                return failure._replace(
                    detail=f"{failure.detail}; asked to wait {wait:.0f} s, at most {self._endpoint.most_wait:.0f}"
                )
            if wait:
                self._pace.hold(time.monotonic(), wait)
            backoff = backoff_seconds(attempt, ask.seed, first=self._endpoint.first_wait, most=self._endpoint.most_wait)
            stop.wait(max(wait, backoff))
        return failure._replace(detail=f"{failure.detail}, {attempt + 1} of {self._endpoint.tries} tries")

    def _request(self, ask: Ask) -> Reply | tuple[Failure, float | None]:
        """A reply; or why there is none, with the seconds that the server wants to be left alone (None = do not try again)."""
        import httpx2
        import openai

        assert self._client is not None
        deadline = time.monotonic() + self._endpoint.timeout
        try:
            with self._client.chat.completions.with_streaming_response.create(**self._body(ask)) as response:
                body = _read_within(response, deadline)
        except openai.APIStatusError as error:
            self._silence.ends()
            return self._status(error)
        except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError):
            self._silence.ends()
            return Failure("writer_timeout", f"no reply within {self._endpoint.timeout:g} s"), 0.0
        except (openai.APIError, httpx2.HTTPError):
            self._silence.goes_on()
            return Failure("writer_server_error", "the connection failed"), 0.0
        self._silence.ends()
        reply = _reply_of(body)
        return reply if isinstance(reply, Reply) else (reply, 0.0)

    def _body(self, ask: Ask) -> dict[str, Any]:
        content: Any = ask.user
        if ask.picture is not None:
            url = f"data:image/png;base64,{base64.b64encode(ask.picture).decode()}"
            content = [{"type": "text", "text": ask.user}, {"type": "image_url", "image_url": {"url": url}}]
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": ask.system}, {"role": "user", "content": content}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "texts", "strict": True, "schema": ask.schema}},
            "max_completion_tokens": self.wording.max_tokens,
            "seed": ask.seed,
        }
        return body if self.wording.temperature is None else {**body, "temperature": self.wording.temperature}

    def _status(self, error: Any) -> tuple[Failure, float | None]:
        """What an HTTP status means; a mistake that every request would repeat ends the build instead."""
        status: int = error.status_code
        if status in (401, 403):
            variable = self._endpoint.api_key_variable
            raise ValueError(f"--api-key-variable {variable}: the server refuses the key (HTTP {status})")
        if status == 404:
            raise ValueError(f"--base-url or --model {self.name.partition(':')[2]}: the server does not know it (HTTP 404)")
        if status == 429 and error.code == "insufficient_quota":
            raise RuntimeError(
                "the server's account is spent (HTTP 429, insufficient_quota); finished parts and replies are kept"
            )
        wait = retry_after_seconds(error.response.headers) or 0.0
        if status == 429:
            return Failure("writer_rate_limited", "HTTP 429"), wait
        if status >= 500 or status in (408, 409, 425):
            return Failure("writer_server_error", f"HTTP {status}"), wait
        return Failure("writer_bad_request", f"HTTP {status}"), None


class _Silence:
    """How long nobody has answered, so that a server which is gone ends a build instead of rejecting all that is left."""

    def __init__(self) -> None:
        self._requests = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Silence], tuple[()]]:
        return type(self), ()

    def ends(self) -> None:
        with self._lock:
            self._requests = 0

    def goes_on(self) -> None:
        """Raises: RuntimeError: for too long."""
        with self._lock:
            self._requests += 1
            if self._requests > _SILENT:
                raise RuntimeError(
                    f"--base-url: nobody answers ({self._requests} requests in a row): start the server and run the same command again"
                )


def _read_within(response: Any, deadline: float) -> bytes:
    """The whole body; the client's own limit starts anew with every byte that trickles in.

    Raises:
        TimeoutError: not there by `deadline` (monotonic seconds), or far too long.
    """
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > deadline or len(body) > _MOST_BYTES:
            raise TimeoutError
    return body


def _reply_of(body: bytes) -> Reply | Failure:
    """The first choice of a chat completion."""
    try:
        told = json.loads(body)
        choice = told["choices"][0] if told["choices"] else None
        message = choice["message"] if choice else {}
        finish = choice.get("finish_reason") if choice else None
        usage = told.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        text = message.get("content") or ""
        if isinstance(text, list):
            text = "".join(part.get("text") or "" for part in text)
        declined = bool(message.get("refusal")) or finish == "content_filter"
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return Failure("writer_server_error", f"{len(body)} bytes that are no chat completion")
    if not isinstance(text, str):
        return Failure("writer_server_error", "a message without text")
    state = "refused" if declined else "length" if finish == "length" else "stop"
    return Reply(text, state, prompt_tokens=counts[0], completion_tokens=counts[1])
