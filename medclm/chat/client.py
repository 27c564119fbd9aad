"""Many chats at once with a model behind an OpenAI-compatible server, official client: for writers of corpora and for evaluation.

The client is told to repeat nothing, so that every request is paced here, tried again here and heard of by who asked. Server
messages go nowhere, since they may repeat what was sent. Knows nothing of what is asked or what a reply means.

Reasons why a chat got no reply:
    timeout         no reply within the time limit, every time
    rate_limited    the server asked to wait, every time or for too long
    server_error    the server failed, or answered in no known form, every time
    bad_request     the server or the model cannot take this request
"""

from __future__ import annotations

import base64
import importlib.util
import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from medclm.chat.endpoint import Endpoint
from medclm.chat.rate import Pace, backoff_seconds, retry_after_seconds
from medclm.chat.replies import Failure, Reply

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")
_MOST_BYTES = 4 << 20
"""Of a server's answer; a text of a few hundred tokens has a few thousand."""
_SILENT = 12
"""Requests given up in a row because nobody answered, after which the server counts as gone."""


@dataclass(frozen=True)
class Chat:
    """One request to a model, without anything of who answers it."""

    text: str
    seed: int
    """Of the sampling, 0 <= seed < 2**31, and of the waits between two tries."""
    max_tokens: int
    """Of the reply."""
    temperature: float | None = None
    """0 = the likeliest token; None = the server's own."""
    system: str = ""
    picture: bytes | None = None
    """PNG."""
    picture_first: bool = False
    """Before the text, as vision-language models are mostly trained, or after it."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the reply."""
    prompt_tokens: int = 0
    """Roughly what the prompt costs, for the pace."""

    def body(self, model: str) -> dict[str, Any]:
        """The request as the server gets it; where the likeliest token is wanted no seed is sent, since some servers know none."""
        content: Any = self.text
        if self.picture is not None:
            url = f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"
            parts = [{"type": "text", "text": self.text}, {"type": "image_url", "image_url": {"url": url}}]
            content = parts[::-1] if self.picture_first else parts
        told = [{"role": "system", "content": self.system}] if self.system else []
        body: dict[str, Any] = {
            "model": model,
            "messages": [*told, {"role": "user", "content": content}],
            "max_completion_tokens": self.max_tokens,
        }
        if self.schema is not None:
            form = {"name": "texts", "strict": True, "schema": self.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body if self.temperature == 0 else {**body, "seed": self.seed}


def require_client() -> None:
    """Raises: ValueError: the package `openai` is missing."""
    if importlib.util.find_spec("openai") is None:
        raise ValueError("asking a server needs the package openai: pip install openai")


def connect(endpoint: Endpoint, *, remote: bool) -> OpenAI:
    """A client of this process; sends nothing yet.

    Args:
        remote: whether requests may leave this machine, as it was found when what is sent was chosen.

    Raises:
        ValueError: the name of the server has come to mean another machine since, or there is no key for another machine.
    """
    import openai

    if endpoint.remote() and not remote:
        raise ValueError("--base-url: its name no longer means this machine: nothing was sent")
    # no proxy of the environment and no redirect may carry requests off this machine
    http = openai.DefaultHttpxClient(trust_env=remote, follow_redirects=False)
    return openai.OpenAI(
        api_key=endpoint.api_key(), base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=0, http_client=http
    )


class Asker:
    """Asks one model of one server, at the pace and with the patience of `endpoint`.

    Opens nothing and is picklable: in another process it starts at its own pace.

    Args:
        model: as the server knows it.
    """

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        self._model, self._endpoint = model, endpoint
        self._pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._silence = _Silence()

    def answers(
        self,
        client: OpenAI,
        items: Iterable[T],
        chat_of: Callable[[T], Chat],
        heard: Callable[[T, Reply | Failure], None] = lambda item, answer: None,
    ) -> Generator[tuple[T, Reply | Failure], None, None]:
        """A reply to each item, or why there is none, as they come; `endpoint.concurrency` at once, and none after it is closed.

        Args:
            chat_of: what is asked about an item; called in the thread that asks, just before.
            heard: called in that thread with what came of each request that went out, repeated ones included.

        Raises:
            ValueError: the server refuses the key or does not know the model.
            RuntimeError: the account is spent, or nobody has answered for many requests.
        """
        most, stop = self._endpoint.concurrency, threading.Event()
        pool, coming = ThreadPoolExecutor(most), iter(items)
        running: dict[Future[Reply | Failure], T] = {}

        def ask(item: T) -> Reply | Failure:
            return self._answer(client, chat_of(item), lambda answer: heard(item, answer), stop)

        try:
            while True:
                running |= {pool.submit(ask, item): item for item in islice(coming, most - len(running))}
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            stop.set()  # after an error or Ctrl-C nothing more is asked
            pool.shutdown(cancel_futures=True)

    def _answer(
        self, client: OpenAI, chat: Chat, heard: Callable[[Reply | Failure], None], stop: threading.Event
    ) -> Reply | Failure:
        """Ask the server until it replies, refuses, has been asked often enough, or nobody wants to know any more."""
        failure, limits = Failure("server_error", "never asked"), self._endpoint
        for attempt in range(limits.tries):
            if not self._pace.wait(chat.prompt_tokens + chat.max_tokens, stop):
                break
            answer = self._request(client, chat)
            if isinstance(answer, Reply):
                self._pace.settle(answer.prompt_tokens + answer.completion_tokens - chat.prompt_tokens - chat.max_tokens)
                heard(answer)
                return answer
            failure, wanted = answer
            heard(failure)
            if wanted is None or attempt == limits.tries - 1:
                break
            if wanted > limits.most_wait:
                return failure._replace(
                    detail=f"{failure.detail}; asked to wait {wanted:.0f} s, at most {limits.most_wait:.0f}"
                )
            if wanted:
                self._pace.hold(time.monotonic(), wanted)
            stop.wait(max(wanted, backoff_seconds(attempt, chat.seed, first=limits.first_wait, most=limits.most_wait)))
        return failure._replace(detail=f"{failure.detail}, {attempt + 1} of {limits.tries} tries")

    def _request(self, client: OpenAI, chat: Chat) -> Reply | tuple[Failure, float | None]:
        """A reply; or why there is none, with the seconds that the server wants to be left alone (None = do not try again)."""
        import httpx2
        import openai

        deadline = time.monotonic() + self._endpoint.timeout
        try:
            with client.chat.completions.with_streaming_response.create(**chat.body(self._model)) as response:
                body = _read_within(response, deadline)
        except openai.APIStatusError as error:
            self._silence.ends()
            return self._status(error)
        except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError):
            self._silence.ends()
            return Failure("timeout", f"no reply within {self._endpoint.timeout:g} s"), 0.0
        except (openai.APIError, httpx2.HTTPError):
            self._silence.goes_on()
            return Failure("server_error", "the connection failed"), 0.0
        self._silence.ends()
        reply = _reply_of(body)
        return reply if isinstance(reply, Reply) else (reply, 0.0)

    def _status(self, error: Any) -> tuple[Failure, float | None]:
        """What an HTTP status means; a mistake that every request would repeat ends the asking instead."""
        status: int = error.status_code
        if status in (401, 403):
            variable = self._endpoint.api_key_variable
            raise ValueError(f"--api-key-variable {variable}: the server refuses the key (HTTP {status})")
        if status == 404:
            raise ValueError(f"--base-url or --model {self._model}: the server does not know it (HTTP 404)")
        if status == 429 and error.code == "insufficient_quota":
            raise RuntimeError("the server's account is spent (HTTP 429, insufficient_quota); what was finished is kept")
        wanted = retry_after_seconds(error.response.headers) or 0.0
        if status == 429:
            return Failure("rate_limited", "HTTP 429"), wanted
        if status >= 500 or status in (408, 409, 425):
            return Failure("server_error", f"HTTP {status}"), wanted
        return Failure("bad_request", f"HTTP {status}"), None


class _Silence:
    """How long nobody has answered, so that a server which is gone ends the asking instead of failing all that is left."""

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
    """The body, cut where it is far too long; the client's own limit starts anew with every byte that trickles in.

    Raises:
        TimeoutError: not there by `deadline` (monotonic seconds).
    """
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(body) > _MOST_BYTES:
            break
    return body


def _reply_of(body: bytes) -> Reply | Failure:
    """The first choice of a chat completion."""
    if len(body) > _MOST_BYTES:
        return Failure("server_error", f"a body of more than {_MOST_BYTES} bytes")
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
        return Failure("server_error", f"{len(body)} bytes that are no chat completion")
    if not isinstance(text, str):
        return Failure("server_error", "a message without text")
    state = "refused" if declined else "length" if finish == "length" else "stop"
    return Reply(text, state, prompt_tokens=counts[0], completion_tokens=counts[1])
