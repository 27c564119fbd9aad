"""A local page to try a model: upload a picture, ask, see answer, reasoning and boxes. Standard library alone.

Strangers are kept out by medclm/local_server.py. Nothing is kept: an upload lives in a memory file for one request, and no
picture, question or answer is written or logged. One request is worked on at a time. Knows nothing of what is on the page.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.respondent import Respondent
from eval.trying.predict import NOTICE, Reading, Seen, ask, record, see
from eval.trying.serve_page import PAGE, SCRIPT, STYLE
from medclm.corpus.contract import RejectedImage
from medclm.corpus.pixels import encode_png
from medclm.local_server import LocalHandler, LocalServer, Refused, is_loopback

MAX_BYTES = 64 << 20
"""Of an upload."""
LONGEST_QUESTION = 1000
_SHOWN = 2048
"""Longer side in pixels of the picture that is sent back; boxes are fractions, so that nothing is lost but detail."""
_FORM = 16 << 10
"""Bytes of what precedes the file in an upload."""
_DECIDED = {"--window": "as given", "question": "by the question", "header": "by its header", "values": "by its values"}


@dataclass(frozen=True)
class Upload:
    """What the page sends: a file, and what is wanted of it."""

    data: bytes
    name: str
    question: str
    instruction: str
    window: tuple[float, float] | None
    frame: int | None


def read_upload(body: bytes) -> Upload:
    """Four bytes of length (big-endian), so many of JSON, the file.

    Raises:
        ValueError: it is none; or the question is too long.
    """
    length = int.from_bytes(body[:4], "big")
    try:
        if len(body) < 4 or length > min(_FORM, len(body) - 4):
            raise ValueError(length)
        form = json.loads(body[4 : 4 + length])
        window, frame = form["window"], form["frame"]
        texts = [form[name] for name in ("name", "question", "instruction")]
        if not all(isinstance(text, str) for text in texts) or not isinstance(frame, int | None):
            raise TypeError(frame)
        shown = None if window is None else (float(window[0]), float(window[1]))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise ValueError("The upload has another form than this server reads: load the page again.") from None
    if len(texts[1]) > LONGEST_QUESTION:
        raise ValueError(f"The question has {len(texts[1])} characters: ask in at most {LONGEST_QUESTION}.")
    return Upload(body[4 + length :], *texts, shown, frame)


@contextmanager
def in_memory(data: bytes) -> Iterator[Path]:
    """A path to bytes that lie on no disk, for what reads files; gone with the context. Linux only."""
    descriptor = os.memfd_create("upload")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Desk:
    """Reads uploads and asks the model, one after the other.

    Args:
        waiting: requests that may wait while one is worked on; more are sent away before their upload is read.
    """

    def __init__(self, respondent: Respondent, reading: Reading, *, waiting: int) -> None:
        if waiting < 0:
            raise ValueError(f"--waiting {waiting}: give 0 or more")
        self._respondent, self._reading = respondent, reading
        self._places = threading.BoundedSemaphore(1 + waiting)
        self._work = threading.Lock()
        self.fingerprint: str = respondent.settings["weights"]

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue; raises Refused where it is full."""
        if not self._places.acquire(blocking=False):
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE, "The model is busy and the queue is full: try again in a few seconds."
            )
        try:
            yield
        finally:
            self._places.release()

    def look(self, upload: Upload) -> dict[str, Any]:
        """The picture as the model would see it; raises RejectedImage."""
        with self._work:
            return _shown(self._see(upload))

    def ask(self, upload: Upload) -> dict[str, Any]:
        """The picture and what is said of it; raises RejectedImage, or ValueError for a question that cannot be asked."""
        question = " ".join(upload.question.split())
        if not question:
            raise ValueError("Ask something: the question is empty.")
        with self._work:
            seen = self._see(replace(upload, question=question))
            began = time.monotonic()
            [said] = ask(self._respondent, question, upload.instruction, [seen])
            took = time.monotonic() - began
        prediction = said.prediction
        boxes = [
            {"shown": box, **stored}
            for box, stored in zip(prediction.boxes_unit, record(said, seen, self.fingerprint)["boxes"], strict=True)
        ]
        frame = self._respondent.square.frame(seen.image.size)
        pieces: list[str | int] = []  # boxes of the reasoning by number, so that the page can point at them
        at = 0
        for box, place in frame.find_written(prediction.rationale, self._respondent.box_text):
            pieces += [prediction.rationale[at : place.start], prediction.boxes_unit.index(box) + 1]
            at = place.stop
        pieces.append(prediction.rationale[at:])
        return {
            **_shown(seen),
            "question": question,
            "rationale": pieces,
            "answer": prediction.answer or None,
            "boxes": boxes,
            "cut": not said.stopped,
            "seconds": round(took, 1),
            "notice": NOTICE,
        }

    def _see(self, upload: Upload) -> Seen:
        reading = replace(self._reading, window=upload.window, frame=upload.frame)
        with in_memory(upload.data) as path:
            return see(path, upload.question, reading, name=upload.name)


def _shown(seen: Seen) -> dict[str, Any]:
    picture = seen.image.copy()
    picture.thumbnail((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
    told = [f"{seen.size[0]} x {seen.size[1]} pixels"]
    if seen.dicom:
        told.append(f"DICOM {seen.dicom.header.get('Modality', '')}".strip())
        told += [f"frame {seen.dicom.frame + 1} of {seen.dicom.frames}"] * (seen.dicom.frames > 1)
    if seen.window:
        told.append(f"window {seen.window[0]:g} / {seen.window[1]:g} ({_DECIDED[seen.window_from]})")
    return {
        "picture": base64.b64encode(encode_png(np.asarray(picture))).decode("ascii"),
        "width": seen.image.width,
        "height": seen.image.height,
        "told": ", ".join(told),
    }


def handler_of(desk: Desk) -> type[LocalHandler]:
    """The page's own addresses: itself, its style and script, `look` and `ask`."""
    files = {
        "": (PAGE.replace("{model}", desk.fingerprint[:12]).replace("{notice}", NOTICE), "text/html"),
        "style.css": (STYLE, "text/css"),
        "script.js": (SCRIPT, "text/javascript"),
    }
    work = {"look": desk.look, "ask": desk.ask}

    class Handler(LocalHandler):
        policy = (
            "default-src 'none'; img-src blob:; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'none'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )

        def get(self, path: str) -> None:
            if path not in files:
                raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
            text, kind = files[path]
            self.send(text.encode(), f"{kind}; charset=utf-8")

        def post(self, path: str) -> None:
            if path not in work:
                raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
            with desk.place():
                upload = read_upload(self.body(MAX_BYTES + _FORM + 4))
                try:
                    self._json(work[path](upload))
                except RejectedImage as refusal:
                    told = {"error": for_page(refusal), "reason": refusal.reason}
                    self._json(told, HTTPStatus.UNPROCESSABLE_ENTITY)
                except (ValueError, OSError):  # of the question; or of the connection, which then hears nothing more
                    raise
                except Exception as error:  # of the device: the next request may fare better
                    print(f"serve: the model stopped with {type(error).__name__}", file=sys.stderr)
                    message = f"The model stopped with {type(error).__name__}: try a smaller picture or a shorter question."
                    raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, message) from error

        def refuse(self, refusal: Refused, known: bool) -> None:
            self._json({"error": refusal.message}, refusal.status)

        def _json(self, told: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
            self.send(json.dumps(told).encode(), "application/json", status)

    return Handler


def for_page(refusal: RejectedImage) -> str:
    """A refusal whose cure is a field of the page, not a flag."""
    detail = refusal.detail.replace("--window CENTRE WIDTH", "centre and width under Grey values")
    detail = detail.replace("--frame 1 to", "a frame under Grey values, from 1 to")
    detail = detail.replace("give --burned-in", "start this page with --burned-in")
    return f"{detail[:1].upper()}{detail[1:]}."


def serve(opened: Callable[[], Desk], *, host: str, port: int, remote: bool) -> None:
    """Prints the address and serves until Ctrl-C.

    Args:
        opened: gives the desk; called when the port is ours, since a model may take minutes to open.

    Raises:
        ValueError: as `LocalServer`; or a system without memory files.
    """
    if not hasattr(os, "memfd_create"):
        raise ValueError("this page needs Linux, whose memory files keep uploads off the disk: use launch/predict.py here")
    with LocalServer(LocalHandler, host, port, remote=remote) as server:
        try:
            server.RequestHandlerClass = handler_of(opened())
            if not is_loopback(host):
                print("reachable from other machines, unencrypted: whoever has the address can ask", file=sys.stderr)
            print(f"open: {server.url}\nCtrl-C ends it; nothing is kept. {NOTICE}", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", flush=True)
