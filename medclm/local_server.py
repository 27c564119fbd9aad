"""A server of pages for the browser in front of this machine, and what keeps everybody else out. Standard library alone.

It listens on loopback unless other machines are meant; every address begins with a key that is made for the run and printed to
its user, so that other accounts of the machine cannot look; a foreign Host or Origin is refused (a name that was rebound to this
machine); what a page may load is its policy's to say, nothing is cached and nothing is logged. The review of a corpus and the page
to try a model are both served by it. Knows nothing of what is on a page.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import re
import secrets
import socket
import socketserver
import sys
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

_DRAINED = 128 << 20
"""Bytes read and forgotten before a refusal is sent: closing with unread bytes would reset the connection and lose the answer."""


class Refused(Exception):
    """A request that gets an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class LocalServer(ThreadingHTTPServer):
    """Pages for the browsers of this machine, or of others where that is allowed.

    Args:
        handler: a `LocalHandler`.
        host: address to listen on.
        port: 0 = any free one.
        remote: addresses other than loopback are meant.

    Raises:
        ValueError: the host is none or not loopback, or the port is in use, reserved or out of range.
    """

    def __init__(self, handler: type[LocalHandler], host: str, port: int, *, remote: bool = False) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"--port {port}: give 0 (any free port) to 65535")
        if not is_loopback(host) and not remote:
            raise ValueError(
                f"--host {host}: other machines could reach the page, unencrypted: keep 127.0.0.1 and come by "
                f"`ssh -L {port or 8080}:127.0.0.1:{port or 8080} THIS_MACHINE`, or add --allow-remote"
            )
        self.key = secrets.token_urlsafe(12)
        self.host, self.remote = host, remote
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except socket.gaierror as error:
            raise ValueError(f"--host {host}: no address of this machine ({error.strerror})") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ValueError(f"--host {host}: no address of this machine") from error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ValueError(f"--port {port}: {error.strerror}: give another, or 0 for any free one") from error

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """What the user opens; holds the key."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{self.key}/"

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this server: a foreign name that leads here is one that was rebound.

        Numbers cannot be rebound, so any of them will do where other machines may come.
        """
        found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(?::([0-9]{1,5}))?", host.lower())
        if found is None or int(found[2] or 80) != self.port:
            return False
        name, own = found[1].strip("[]"), {"localhost", "127.0.0.1", self.host.lower()} - {"0.0.0.0", "::"}
        return name in own or (self.remote and (name == socket.gethostname().lower() or _is_number(name)))

    def server_bind(self) -> None:
        """Bind without the reverse name look-up of HTTPServer, which would ask a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection early is no fault; anything else says one line, without what was asked."""
        error = sys.exception()
        if not isinstance(error, OSError):
            print(f"page: {type(error).__name__}", file=sys.stderr)


class LocalHandler(BaseHTTPRequestHandler):
    """Refuses strangers, and answers `get` and `post` of those who bring the key."""

    server_version, sys_version, timeout = "medclm", "", 60
    policy = "default-src 'none'"
    """Content-Security-Policy of every answer."""
    _unread = 0

    def get(self, path: str) -> None:
        """Answers a GET; `path` is what follows the key. Raises Refused, or ValueError for what cannot be done."""
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def post(self, path: str) -> None:
        """Answers a POST, as `get`."""
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def refuse(self, refusal: Refused, known: bool) -> None:
        """Sends an error; `known` = the key was brought, so the answer may hold it."""
        self.send(refusal.message.encode(), "text/plain; charset=utf-8", refusal.status)

    def body(self, most: int) -> bytes:
        """What was posted.

        Raises:
            Refused: no length, more than `most` bytes, or fewer than announced.
        """
        if "Content-Length" not in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "The request states no length.")
        if self._unread > most:
            size = f"{most >> 20} MiB" if most >> 20 else f"{most >> 10} KiB"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"More than {size}: send less.")
        wanted, self._unread = self._unread, 0
        found = self.rfile.read(wanted)
        if len(found) < wanted:
            raise Refused(HTTPStatus.BAD_REQUEST, "The upload ended early: send it again.")
        return found

    def send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status is not HTTPStatus.NO_CONTENT:
            self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(self.get)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        self._unread = int(length) if re.fullmatch("[0-9]{1,15}", length) else 0
        self._answer(self.post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: addresses hold the key."""

    def end_headers(self) -> None:
        for name, value in {
            "Content-Security-Policy": self.policy,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",  # no-referrer would make browsers send `Origin: null` with our own forms
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        super().end_headers()

    def _answer(self, respond: Callable[[str], None]) -> None:
        known = False  # the key is shown to nobody who did not bring it
        try:
            self._check_sender()
            path = self._path()
            known = True
            respond(path)
        except Refused as refusal:
            self._drain()
            self.refuse(refusal, known)
        except ValueError as error:
            self._drain()
            self.refuse(Refused(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)), known)

    def _check_sender(self) -> None:
        server = cast(LocalServer, self.server)
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if len(hosts) != 1 or not server.answers_to(hosts[0]):
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, f"This page answers to {server.host}:{server.port} only.")
        if origin is not None and not (origin.startswith("http://") and server.answers_to(origin.removeprefix("http://"))):
            raise Refused(HTTPStatus.FORBIDDEN, "Requests are taken from this page only.")

    def _path(self) -> str:
        path = urllib.parse.urlsplit(self.path).path
        if path == "/favicon.ico":  # browsers ask for it by themselves
            raise Refused(HTTPStatus.NO_CONTENT, "")
        key, _, rest = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(key.encode(), cast(LocalServer, self.server).key.encode()):
            raise Refused(HTTPStatus.NOT_FOUND, "Open the whole address that was printed when the page was started.")
        return rest

    def _drain(self) -> None:
        unread, self._unread = min(self._unread, _DRAINED), 0
        while unread > 0 and (some := self.rfile.read(min(unread, 1 << 20))):
            unread -= len(some)


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    return host == "localhost" or (_is_number(host) and ipaddress.ip_address(host).is_loopback)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
