"""The review page's server: loopback only, for one browser on the same machine.

Strangers are kept out by medclm/local_server.py; a verdict needs the run's token besides. Knows nothing of what is on the pages.
"""

from __future__ import annotations

import hmac
import re
import secrets
import urllib.parse
from http import HTTPStatus
from typing import cast

from medclm.corpus.review.assets import SCRIPT, STYLE
from medclm.corpus.review.page import done_page, message_page, sample_page
from medclm.corpus.review.session import ReviewSession
from medclm.local_server import LocalHandler, LocalServer, Refused

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_LONGEST_FORM = 16 << 10
_SAMPLE = re.compile(r"sample/([0-9]{1,9})")
_PICTURE = re.compile(r"picture/([0-9]{1,9})/(plain|drawn)\.png")


class ReviewServer(LocalServer):
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
        super().__init__(_Handler, HOST, port)


class _Handler(LocalHandler):
    policy = POLICY

    @property
    def _own(self) -> ReviewServer:
        return cast(ReviewServer, self.server)

    def get(self, path: str) -> None:
        session = self._own.session
        try:
            if path == "":
                still = session.open_numbers()
                self._redirect(f"sample/{still[0]}" if still else "done")
            elif path == "style.css":
                self.send(STYLE.encode(), "text/css; charset=utf-8")
            elif path == "script.js":
                self.send(SCRIPT.encode(), "text/javascript; charset=utf-8")
            elif path == "done":
                self._page(done_page(session))
            elif match := _SAMPLE.fullmatch(path):
                self._page(sample_page(session, int(match[1]), self._own.token))
            elif match := _PICTURE.fullmatch(path):
                self.send(session.png(int(match[1]), drawn=match[2] == "drawn"), "image/png")
            else:
                raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        except IndexError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from error

    def post(self, path: str) -> None:
        match = _SAMPLE.fullmatch(path)
        if match is None:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        body = self.body(_LONGEST_FORM).decode("utf-8", errors="replace")
        form = dict(urllib.parse.parse_qsl(body, keep_blank_values=True, max_num_fields=10))  # the last of equal names counts
        if not hmac.compare_digest(form.get("token", "").encode(), self._own.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "The page is of an earlier run: open the address that was printed last.")
        number = int(match[1])
        try:
            self._own.session.judge(number, form.get("verdict", ""), form.get("note", ""))
        except IndexError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error)) from error
        except OSError as error:
            raise Refused(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"The verdict was not written: {error.strerror or error}."
            ) from error
        self._redirect(f"sample/{number + 1}" if number < len(self._own.session) else "done")

    def refuse(self, refusal: Refused, known: bool) -> None:
        self._page(message_page(refusal.message, f"/{self._own.key}/" if known else None), refusal.status)

    def _redirect(self, where: str) -> None:
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"/{self._own.key}/{where}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _page(self, page: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send(page.encode(), "text/html; charset=utf-8", status)
