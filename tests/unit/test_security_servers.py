"""What the local pages answer to: this machine's own browser with the run's key, and nobody else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from medclm.local_server import LocalHandler, LocalServer


class _Page(LocalHandler):
    def get(self, path: str) -> None:
        self.send(b"the page", "text/plain")

    def post(self, path: str) -> None:
        self.send(b"done: " + self.body(100), "text/plain")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(_Page, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked(server: LocalServer, *lines: str, method: str = "GET", path: str = "", body: str = "") -> tuple[int, str]:
    """Status and whole answer to a request written by hand; KEY and PORT stand for the server's."""
    text = "\r\n".join([f"{method} {path or '/KEY/'} HTTP/1.1", *lines, "Connection: close", "", body])
    text = text.replace("KEY", server.key).replace("PORT", str(server.port))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(text.encode())
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    return int(answer.split()[1]), answer


OWN = "Host: 127.0.0.1:PORT"
POSTED = {"method": "POST", "body": "a=1"}
LENGTH = "Content-Length: 3"


def test_the_own_page_is_answered(server: LocalServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, answer = asked(server, OWN)
    assert status == 200
    assert "the page" in answer
    for line in ("Content-Security-Policy: default-src 'none'", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"):
        assert line in answer
    assert "Access-Control-Allow" not in answer
    for origin in ((), ("Origin: http://127.0.0.1:PORT",), ("Origin: http://localhost:PORT",)):
        assert asked(server, OWN, LENGTH, *origin, **POSTED)[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        ("Host: evil.example",),
        ("Host: evil.example:PORT",),
        ("Host: 127.0.0.1.evil.example:PORT",),
        ("Host: 127.0.0.1:1",),
        ("Host: 127.0.0.1",),
        (OWN, "Host: evil.example:PORT"),
        (),
    ],
)
def test_a_name_that_was_rebound_is_refused(lines: tuple[str, ...], server: LocalServer) -> None:
    status, answer = asked(server, *lines)
    assert status == 421
    assert "the page" not in answer
    assert server.key not in answer


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://127.0.0.1:PORT", "http://127.0.0.1:1", "null", "http://127.0.0.1:PORT.evil.example"],
)
def test_a_form_of_another_site_is_refused(origin: str, server: LocalServer) -> None:
    status, answer = asked(server, OWN, LENGTH, f"Origin: {origin}", **POSTED)
    assert status == 403
    assert "done" not in answer


@pytest.mark.parametrize("path", ["/", "/index.html", "/KEYx/", "/../KEY/", "/%4bEY/"])
def test_without_the_key_there_is_nothing(path: str, server: LocalServer) -> None:
    status, answer = asked(server, OWN, path=path)
    assert status == 404
    assert server.key not in answer


def test_a_body_of_unknown_or_great_length_is_refused(server: LocalServer) -> None:
    assert asked(server, OWN, "Transfer-Encoding: chunked", method="POST")[0] == 411
    assert asked(server, OWN, "Content-Length: 101", method="POST", body="x" * 101)[0] == 413
    assert 0 < _Page.timeout <= 60  # whoever announces a body and never sends it is let go


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "HEAD", "CONNECT"])
def test_other_methods_do_nothing(method: str, server: LocalServer) -> None:
    assert asked(server, OWN, method=method)[0] == 501


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_addresses_are_listened_on_only_where_that_is_meant(host: str) -> None:
    with pytest.raises(ValueError, match="other machines could reach the page"):
        LocalServer(_Page, host, 0)
