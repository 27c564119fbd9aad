"""An HTTP server that answers like a language model's, in every way that such a server is known to misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMEOUT = 1.5
MOODS = {
    "good": None,
    "slow once": None,
    "limited once": None,
    "failing once": None,
    "hanging up once": None,
    "broken once": None,
    "wrong side once": None,
    "slow": "writer_timeout",
    "trickling": "writer_timeout",
    "limited": "writer_rate_limited",
    "limited for an hour": "writer_rate_limited",
    "failing": "writer_server_error",
    "not json": "writer_server_error",
    "too long": "writer_bad_request",
    "no choices": "writer_empty",
    "null": "writer_empty",
    "broken": "writer_bad_json",
    "cut off": "writer_truncated",
    "declining": "writer_refused",
    "declining in words": "writer_refused",
    "another question": "writer_changed_meaning",
    "wrong side": "check_",
    "wrong box": "check_unresolvable_box",
    "claim": "check_unsupported_claim",
}
"""What the server does with a draft, and the reason that the draft ends with; None = it becomes a record."""
NEVER_SAID = ("slow", "trickling", "limited", "limited for an hour", "failing", "not json", "too long", "no choices", "null")
CACHED = tuple(mood for mood in MOODS if mood not in NEVER_SAID)
"""Moods in which the model said something: a rerun does not ask again."""


def mood_of(message: dict) -> str:
    """A mood that belongs to the draft: the same in every attempt."""
    told = json.dumps([message["facts"], message["stages"]], sort_keys=True)
    return list(MOODS)[zlib.crc32(told.encode()) % len(MOODS)]


class Server(ThreadingHTTPServer):
    """Answers each draft by its mood and keeps count of what it heard and said."""

    daemon_threads = True
    request_queue_size = 128
    """Connections that may wait to be accepted; the default of 5 resets some of ours, which is a mood that we did not ask for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.patient = True
        """Whether slow moods are had."""
        self.lock = threading.Lock()
        self.heard: list[tuple[str, str]] = []
        """(mood, draft) of every request."""
        self.tokens = Counter()
        self.keys: set[str | None] = set()
        self.bodies: list[dict] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        content = body["messages"][1]["content"]
        message = json.loads(content if isinstance(content, str) else content[0]["text"])
        mood, draft = mood_of(message), json.dumps(message["stages"], sort_keys=True)
        if not self.server.patient and mood in ("slow", "slow once", "trickling"):
            mood = "good"
        with self.server.lock:
            tries = self.server.heard.count((mood, draft))
            self.server.heard.append((mood, draft))
            self.server.keys.add(self.headers["authorization"])
            self.server.bodies.append(body)
        if mood.endswith(" once"):
            mood = mood.removesuffix(" once") if tries == 0 else "good"
            mood = {"hanging up": "hang up"}.get(mood, mood)
        try:
            self.misbehave(mood, message)
        except OSError:
            self.close_connection = True  # the client has gone

    def misbehave(self, mood: str, message: dict) -> None:
        match mood:
            case "slow":
                time.sleep(2 * TIMEOUT)
                self.say(worded(message))
            case "trickling":
                self.send_response(200)
                self.send_header("content-length", "1000")
                self.end_headers()
                for _ in range(40):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(TIMEOUT / 10)
                self.close_connection = True
            case "hang up":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case "limited":
                self.send(429, b'{"error": {"message": "slow down"}}', {"retry-after": "0.05"})
            case "limited for an hour":
                self.send(429, b"{}", {"retry-after": "3600"})
            case "failing":
                self.send(500, b"<h1>500</h1>")
            case "too long":
                self.send(400, b'{"error": {"message": "maximum context length"}}')
            case "not json":
                self.send(200, b"<html>gateway</html>")
            case "no choices":
                self.send(200, b'{"id": "1", "object": "chat.completion", "choices": []}')
            case "null":
                self.say(None)
            case "broken":
                self.say(json.dumps(worded(message))[:-7])
            case "cut off":
                self.say(json.dumps(worded(message))[:40], finish="length")
            case "declining":
                self.say(None, refusal="I will not.")
            case "declining in words":
                self.say("I'm sorry, but as an AI I cannot interpret medical images.")
            case "another question":
                self.say(
                    {
                        stage: {**text, "question": f"Is it false: {text['question']} or not?"}
                        for stage, text in worded(message).items()
                    }
                )
            case _:
                self.say(worded(message, mood))

    def say(self, content: object, finish: str = "stop", refusal: str | None = None) -> None:
        text = content if content is None or isinstance(content, str) else json.dumps(content)
        tokens = {"prompt_tokens": 700, "completion_tokens": 1 + len(text or "") // 4}
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, "refusal": refusal}}
        body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": tokens})
        self.send(200, body.encode())
        with self.server.lock:
            self.server.tokens.update(tokens)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def worded(message: dict, mood: str = "good") -> dict[str, dict[str, str]]:
    """The seed in other words; wrong in the way of `mood`."""
    said = {}
    for stage, fields in message["form of the reply"].items():
        told = message["stages"][stage]
        said[stage] = {"question": f"Please answer: {told['question'][0].lower()}{told['question'][1:]}"}
        if "rationale" in fields:
            added = {
                "wrong side": " All of it is left and right.",
                "wrong box": " So does <box:7>.",
                "claim": " It is malignant.",
            }
            said[stage]["rationale"] = f"Looking closely: {told['rationale']}{added.get(mood, '')}"
    return said
