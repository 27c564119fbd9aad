"""The review page's server: loopback only, for one browser on the same machine. Standard library alone.

What keeps pictures in: it listens on 127.0.0.1; every address begins with a key that is made for the run and printed to the
reader, so that other accounts of the machine cannot look; a foreign Host is refused (a name that was rebound to 127.0.0.1);
a verdict needs the run's token and no foreign Origin; the pages may load nothing from elsewhere and nothing is cached.
Knows nothing of what is on the pages.
"""

from __future__ import annotations

import errno
import hmac
import re
import secrets
import socketserver
import sys
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from medclm.corpus.review.assets import SCRIPT, STYLE
from medclm.corpus.review.page import done_page, message_page, sample_page
from medclm.corpus.review.session import ReviewSession

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would make browsers send `Origin: null` with our own form
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_LONGEST_FORM = 16 << 10
_FORM_LENGTH = re.compile(r"[0-9]{1,9}")
_SAMPLE = re.compile(r"sample/([0-9]{1,9})")
_PICTURE = re.compile(r"picture/([0-9]{1,9})/(plain|drawn)\.png")


class ReviewServer(ThreadingHTTPServer):
    """Serves one session until `shutdown`.

    Args:
        session: the reader's way through the sample.
        port: 0 = any free one.

    Raises:
        ValueError: the port is in use, reserved or out of range.
    """

    def __init__(self, session: ReviewSession, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(24)
        self.key = secrets.token_urlsafe(12)
        if not 0 <= port <= 65535:
            raise ValueError(f"--port {port}: give 0 (any free port) to 65535")
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ValueError(f"--port {port}: {error.strerror}: give another, or 0 for any free one") from error

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """What the reader opens; holds the key."""
        return f"http://{HOST}:{self.port}/{self.key}/"

    def server_bind(self) -> None:
        """Bind without the reverse name look-up of HTTPServer, which would ask a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection early is no fault; anything else says one line."""
        error = sys.exception()
        if not isinstance(error, OSError):
            print(f"review page: {type(error).__name__}: {error}", file=sys.stderr)


class _Refused(Exception):
    """A request that gets an error page."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "medclm-review", ""
    timeout = 60
    _body: bytes | None = None
    """Of a form; None = no length, or too long."""

    @property
    def _own(self) -> ReviewServer:
        return cast(ReviewServer, self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        # read before anything is refused: closing with unread bytes would reset the connection and lose the answer
        length = self.headers.get("Content-Length", "")
        self._body = self.rfile.read(int(length)) if _FORM_LENGTH.fullmatch(length) and int(length) <= _LONGEST_FORM else None
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: addresses hold the key."""

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _answer(self, respond: Callable[[str], None]) -> None:
        root = None  # the key is shown to nobody who did not bring it
        try:
            self._check_host()
            path = self._path()
            root = f"/{self._own.key}/"
            respond(path)
        except _Refused as refusal:
            self._page(message_page(refusal.message, root), refusal.status)
        except IndexError as error:
            self._page(message_page(str(error), root), HTTPStatus.NOT_FOUND)
        except ValueError as error:
            self._page(message_page(str(error), root), HTTPStatus.UNPROCESSABLE_ENTITY)

    def _check_host(self) -> None:
        allowed = {f"{name}:{self._own.port}" for name in (HOST, "localhost")}
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in allowed:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"This page answers to {HOST}:{self._own.port} only.")

    def _path(self) -> str:
        """What follows the key."""
        path = urllib.parse.urlsplit(self.path).path
        if path == "/favicon.ico":  # browsers ask for it by themselves
            raise _Refused(HTTPStatus.NO_CONTENT, "")
        key, _, rest = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(key.encode(), self._own.key.encode()):
            raise _Refused(HTTPStatus.NOT_FOUND, "Open the whole address that corpus.py review printed.")
        return rest

    def _get(self, path: str) -> None:
        session = self._own.session
        if path == "":
            still = session.open_numbers()
            self._redirect(f"sample/{still[0]}" if still else "done")
        elif path == "style.css":
            self._send(STYLE.encode(), "text/css; charset=utf-8")
        elif path == "script.js":
            self._send(SCRIPT.encode(), "text/javascript; charset=utf-8")
        elif path == "done":
            self._page(done_page(session))
        elif match := _SAMPLE.fullmatch(path):
            self._page(sample_page(session, int(match[1]), self._own.token))
        elif match := _PICTURE.fullmatch(path):
            self._send(session.png(int(match[1]), drawn=match[2] == "drawn"), "image/png")
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self, path: str) -> None:
        match = _SAMPLE.fullmatch(path)
        if match is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}:{self._own.port}" for name in (HOST, "localhost")}:
            raise _Refused(HTTPStatus.FORBIDDEN, "A verdict is taken from this page only.")
        form = self._form()
        if not hmac.compare_digest(form.get("token", "").encode(), self._own.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "The page is of an earlier run: open the address that was printed last.")
        number = int(match[1])
        try:
            self._own.session.judge(number, form.get("verdict", ""), form.get("note", ""))
        except OSError as error:
            raise _Refused(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"The verdict was not written: {error.strerror or error}."
            ) from error
        self._redirect(f"sample/{number + 1}" if number < len(self._own.session) else "done")

    def _form(self) -> dict[str, str]:
        """The fields of the form; the last of equal names counts."""
        if self._body is None:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The form has no length or is too long: shorten the note.")
        body = self._body.decode("utf-8", errors="replace")
        return dict(urllib.parse.parse_qsl(body, keep_blank_values=True, max_num_fields=10))

    def _redirect(self, where: str) -> None:
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"/{self._own.key}/{where}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, page: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(page.encode(), "text/html; charset=utf-8", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status is not HTTPStatus.NO_CONTENT:
            self.wfile.write(body)
