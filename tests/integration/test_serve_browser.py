"""The page to try a model: who is answered, what is refused, that nothing is kept; and all of it in a real browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.example import Reply, Square
from eval.respondent import Asked
from eval.trying import serve as serving
from eval.trying.predict import NOTICE, Reading
from eval.trying.serve import Desk, handler_of
from medclm.config import BoxTextSection
from medclm.local_server import LocalHandler, LocalServer
from medclm.testing import tiny_export
from medclm.types import Box
from tests.browser import BAD, NEEDS, headless
from tests.dicom_files import saved, slice_of

ROOT = Path(__file__).resolve().parents[2]
BOXES = (Box(0.25, 0.5, 0.5, 0.75), Box(0.5, 0.125, 0.875, 0.375))
SIZE = (96, 64)


@dataclass
class Scripted:
    """Answers every question alike, with two boxes and a text that wants to be code; waits for `gate` and fails on `fault`."""

    square: Square = field(default_factory=lambda: Square(side=64, patch_size=8, fit="pad"))
    box_text: BoxTextSection = field(default_factory=BoxTextSection)
    settings: dict[str, Any] = field(default_factory=lambda: {"weights": "0123456789abcdef" * 4})
    gate: threading.Event = field(default_factory=threading.Event)
    fault: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def replies(self, asked: Sequence[Asked], pictures: Any, progress: Callable[[int], None]) -> Iterator[tuple[Asked, Reply]]:
        self.asked += [one.ask.question for one in asked]
        assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        for one in asked:
            frame = self.square.frame(pictures.open(one.example.picture).size)
            first, second = (frame.write(box, self.box_text) for box in BOXES)
            text = f"Reasoning: Bright at {first} and {second}; {BAD}\n\nAnswer: nodule {BAD}"
            yield one, Reply(text, box_scores=(-0.1, -1.0))


@contextmanager
def running(respondent: Scripted, *, waiting: int = 4, host: str = "127.0.0.1", remote: bool = False) -> Iterator[LocalServer]:
    with LocalServer(handler_of(Desk(respondent, Reading(), waiting=waiting)), host, 0, remote=remote) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            respondent.gate.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def respondent() -> Scripted:
    return Scripted()


@pytest.fixture
def server(respondent: Scripted) -> Iterator[LocalServer]:
    with running(respondent) as server:
        yield server


def png(value: int = 90, size: tuple[int, int] = SIZE) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


def upload(data: bytes, **changes: Any) -> bytes:
    form = {"name": "a.png", "question": "What is it?", "instruction": "reason", "window": None, "frame": None, **changes}
    text = json.dumps(form).encode()
    return struct.pack(">I", len(text)) + text + data


def call(server: LocalServer, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def post(server: LocalServer, where: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    status, _, answer = call(server, f"/{server.key}/{where}", body, **headers)
    return status, json.loads(answer)


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- without a browser


def test_an_upload_is_answered_with_picture_boxes_and_notice(server, respondent):
    status, told = post(server, "ask", upload(png(), question="  What \n is it? "))
    assert status == 200
    assert respondent.asked == ["What is it?\nReason, give the box, then answer."]
    assert (told["question"], told["answer"], told["notice"], told["cut"]) == ("What is it?", f"nodule {BAD}", NOTICE, False)
    assert [box["shown"] for box in told["boxes"]] == [pytest.approx(list(box), abs=0.01) for box in BOXES]
    assert told["boxes"][0]["px"] == pytest.approx([24, 32, 48, 48], abs=0.5)
    assert [box["confidence"] for box in told["boxes"]] == pytest.approx([np.exp(-0.1), np.exp(-1.0)], abs=1e-3)
    assert told["rationale"] == ["Bright at ", 1, " and ", 2, f"; {BAD}"]
    shown = Image.open(io.BytesIO(base64.b64decode(told["picture"])))
    assert (shown.size, shown.getpixel((5, 5))) == (SIZE, (90, 90, 90))
    assert post(server, "look", upload(png()))[1].keys() == {"picture", "width", "height", "told"}


def test_strangers_are_refused_and_never_see_the_key(server, respondent):
    page, good = f"/{server.key}/", upload(png())
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "127.0.0.1",
        f"127.0.0.1.evil.example:{server.port}",
        "[::1",
        "",
    ):
        assert call(server, page, Host=host)[0] == 421
        assert call(server, f"{page}ask", good, Host=host)[0] == 421
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.port}", "http://127.0.0.1:1"):
        assert call(server, f"{page}ask", good, Origin=origin)[0] == 403
    for path in ("/", "/ask", f"/{'A' * len(server.key)}/", "/%2e%2e/etc/passwd", f"/{server.key}x/ask"):
        for body in (None, good):
            status, _, answer = call(server, path, body)
            assert status == 404
            assert server.key.encode() not in answer
    for path in ("etc/passwd", "../../etc/passwd", "%2e%2e/serve.py", "ask"):
        assert call(server, f"{page}{path}")[0] == 404
    assert post(server, "elsewhere", good)[0] == 404
    assert respondent.asked == []
    assert post(server, "ask", good, Origin=f"http://localhost:{server.port}", Host=f"localhost:{server.port}")[0] == 200


def test_every_answer_forbids_what_the_page_does_not_need(server):
    good = upload(png())
    for path, body in (("", None), ("style.css", None), ("script.js", None), ("look", good), ("ask", b""), ("gone", None)):
        headers = call(server, f"/{server.key}/{path}", body)[1]
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src blob:; style-src 'self'; script-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    page = call(server, f"/{server.key}/")[2].decode()
    assert NOTICE in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|<script>|<style|\son\w+=", page)


def test_limits_of_bytes_pixels_and_question_are_told(server, respondent, monkeypatch):
    head = b"IHDR" + struct.pack(">II", 100_000, 100_000) + png()[24:29]
    bomb = png()[:12] + head + struct.pack(">I", zlib.crc32(head)) + png()[33:]
    status, told = post(server, "look", upload(bomb))
    assert (status, told["reason"]) == (422, "image_too_large")
    assert "at most 1000" in post(server, "ask", upload(png(), question="x" * 1001))[1]["error"]
    assert "empty" in post(server, "ask", upload(png(), question=" \n"))[1]["error"]
    monkeypatch.setattr(serving, "MAX_BYTES", 1 << 20)
    status, told = post(server, "look", upload(bytes(2 << 20)))
    assert (status, told["error"]) == (413, "More than 1 MiB: send less.")
    assert respondent.asked == []


def test_a_file_that_is_no_picture_gives_its_reason_and_a_cure_that_the_page_has(server, tmp_path):
    assert post(server, "look", upload(b"no picture"))[1]["reason"] == "image_unreadable"
    assert post(server, "look", upload(png()[:60]))[1]["reason"] == "image_truncated"
    assert post(server, "look", upload(b"no picture", name="a.dcm"))[1]["reason"] == "not_dicom"
    ct = saved(tmp_path / "a", slice_of("CT", np.zeros((16, 16), np.int16), "1.2.3.1", 0)).read_bytes()
    told = post(server, "look", upload(ct))[1]
    assert told["reason"] == "window_unknown"
    assert "give centre and width under Grey values" in told["error"]
    told = post(server, "ask", upload(ct, window=[-600, 1500]))[1]
    assert told["told"] == "16 x 16 pixels, DICOM CT, window -600 / 1500 (as given)"
    assert post(server, "ask", upload(ct, window=[40, 0]))[0] == 422


def test_broken_uploads_are_refused_and_the_server_lives(server):
    draw, good = random.Random(0), upload(png())
    for _ in range(200):
        body = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        status, told = post(server, draw.choice(["look", "ask"]), bytes(body[: draw.randint(0, len(body))]))
        assert status in (200, 422)
        assert "error" in told or "picture" in told
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # ends before its length
        head = f"POST /{server.key}/ask HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 500\r\n\r\nabc"
        raw.sendall(head.encode())
        raw.shutdown(socket.SHUT_WR)
        assert b" 400 " in raw.makefile("rb").readline()
    assert post(server, "ask", good)[0] == 200


def test_one_is_answered_some_wait_and_the_next_is_sent_away_at_once(respondent):
    with running(respondent, waiting=1) as server:
        respondent.gate.clear()
        answers: list[tuple[int, dict[str, Any]]] = []
        threads = [threading.Thread(target=lambda: answers.append(post(server, "ask", upload(png())))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: answers and respondent.asked)
        [(status, told)] = answers
        assert (status, told["error"]) == (503, "The model is busy and the queue is full: try again in a few seconds.")
        assert len(respondent.asked) == 1  # the other one waits
        respondent.gate.set()
        for thread in threads:
            thread.join(20)
        assert [status for status, _ in answers] == [503, 200, 200]
        assert post(server, "ask", upload(png()))[0] == 200


def test_a_model_that_fails_is_told_and_asked_again(server, respondent, capfd):
    respondent.fault = RuntimeError("of patient Doe")
    status, told = post(server, "ask", upload(png(), question="secret?"))
    assert (status, told["error"]) == (500, "The model stopped with RuntimeError: try a smaller picture or a shorter question.")
    respondent.fault = ValueError("a question of too many tokens: shorten it")
    assert post(server, "ask", upload(png()))[1]["error"] == "a question of too many tokens: shorten it"
    respondent.fault = None
    assert post(server, "ask", upload(png()))[0] == 200
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "serve: the model stopped with RuntimeError\n")


def test_memory_files_are_gone_after_each_request(server):
    def held() -> list[str]:
        return [name for number in os.listdir("/proc/self/fd") if "upload" in (name := link(number))]

    def link(number: str) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            return ""

    for body in (upload(png()), upload(b"no picture"), upload(b"\0" * 128 + b"DICM" + b"\2\0")):
        post(server, "ask", body)
        assert held() == []


def test_other_machines_are_let_in_only_where_that_was_meant_and_foreign_names_never():
    for host in ("0.0.0.0", "192.0.2.7", "::", "example.com"):
        with pytest.raises(ValueError, match=rf"--host {re.escape(host)}: .*ssh -L 8080:127.0.0.1:8080 .*--allow-remote"):
            LocalServer(LocalHandler, host, 8080)
    with pytest.raises(ValueError, match="no address of this machine"):
        LocalServer(LocalHandler, "192.0.2.7", 0, remote=True)
    for port in (-1, 65536):
        with pytest.raises(ValueError, match="--port"):
            LocalServer(LocalHandler, "127.0.0.1", port)
    with LocalServer(LocalHandler, "127.0.0.1", 0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/{server.key}/"
        assert not server.answers_to(f"192.0.2.7:{server.port}")
        with pytest.raises(ValueError, match=rf"--port {server.port}: Address already in use: give another"):
            LocalServer(LocalHandler, "127.0.0.1", server.port)
    with LocalServer(LocalHandler, "0.0.0.0", 0, remote=True) as server:
        for name in ("192.0.2.7", "127.0.0.1", "localhost", "[2001:db8::1]", socket.gethostname().lower()):
            assert server.answers_to(f"{name}:{server.port}")
        for name in ("evil.example", f"{socket.gethostname()}.evil.example", "0.0.0.0.evil.example"):
            assert not server.answers_to(f"{name}:{server.port}")


def test_the_command_says_what_is_wrong(tmp_path):
    words = [sys.executable, "launch/serve.py", "--checkpoint", str(tmp_path)]
    for more, message in (
        (("--host", "0.0.0.0"), "serve: --host 0.0.0.0: other machines could reach the page"),
        (("--port", "99999"), "serve: --port 99999: "),
        (("--port", "0"), "serve: --checkpoint "),
    ):
        done = subprocess.run([*words, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(message)
    done = subprocess.run([sys.executable, "launch/serve.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "python launch/serve.py --checkpoint" in done.stdout


# ---- in a browser


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that needs a real browser."""
    for mark in NEEDS:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="needs the package selenium")
    with headless(width=1400, height=900, reach="127.0.0.1") as driver:
        yield driver


@pytest.fixture
def page(browser: Any, server: LocalServer) -> Any:
    browser.set_window_size(1400, 900)
    media(browser, "light")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(server.url)
    return browser


def media(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def at(page: Any, name: str) -> Any:
    return page.find_element("id", name)


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def take(page: Any, path: Path) -> None:
    """Chooses a file; returns when the page has read it or says why not."""
    at(page, "file").send_keys(str(path))
    until(
        lambda: not at(page, "wait").is_displayed() and (at(page, "picture").is_displayed() or at(page, "error").is_displayed())
    )


def answered(page: Any) -> None:
    until(lambda: at(page, "said").is_displayed() and "stale" not in at(page, "said").get_attribute("class"))


def drawn(page: Any) -> list[tuple[float, ...]]:
    """Corners of the boxes as fractions of the picture as it lies on the screen."""
    return page.execute_script(
        """
        const whole = document.querySelector('#picture image').getBoundingClientRect();
        return [...document.querySelectorAll('#picture g rect + rect')].map((one) => {
          const x = one.x.baseVal.value, y = one.y.baseVal.value, w = one.width.baseVal.value, h = one.height.baseVal.value;
          const screen = one.getScreenCTM(), point = (a, b) => new DOMPoint(a, b).matrixTransform(screen);
          const first = point(x, y), last = point(x + w, y + h);
          return [(first.x - whole.x) / whole.width, (first.y - whole.y) / whole.height,
                  (last.x - whole.x) / whole.width, (last.y - whole.y) / whole.height];
        });
        """
    )


def requested(page: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def picture_file(tmp_path: Path, value: int = 90) -> Path:
    path = tmp_path / "film.png"
    path.write_bytes(png(value, (960, 640)))
    return path


@in_browser
def test_a_picture_is_uploaded_asked_about_and_its_boxes_lie_where_they_should(page, server, tmp_path):
    assert not at(page, "ask").is_enabled()
    take(page, picture_file(tmp_path))
    assert at(page, "told").text == "film.png: 960 x 640 pixels"
    assert drawn(page) == []
    at(page, "question").send_keys("What is it?")
    at(page, "ask").click()
    answered(page)
    assert at(page, "answer").text == f"nodule {BAD}"
    assert at(page, "reasoning").text == f"Bright at box 1 and box 2; {BAD}"
    assert [line.text for line in at(page, "list").find_elements("css selector", "li span")] == [
        "x 240 to 480, y 320 to 480, confidence 0.90",
        "x 480 to 840, y 80 to 240, confidence 0.37",
    ]
    for found, box in zip(drawn(page), BOXES, strict=True):
        assert found == pytest.approx(list(box), abs=0.01)
    # texts stay texts, and nothing is asked of anybody else
    assert page.execute_script("return window.owned") is None
    assert not page.find_elements("css selector", "article img, article script")
    own = ("", "style.css", "script.js", "look", "ask")
    assert {url for url in requested(page) if not url.startswith("blob:")} <= {
        *(f"{server.url}{name}" for name in own),
        f"http://127.0.0.1:{server.port}/favicon.ico",
    }
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


@in_browser
def test_a_wrong_file_gives_its_reason_and_a_right_one_clears_it(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    take(page, tmp_path / "notes.txt")
    assert at(page, "error").text.startswith("Not one of PNG, JPEG, TIFF")
    assert not at(page, "picture").is_displayed()
    take(page, picture_file(tmp_path))
    assert not at(page, "error").is_displayed()
    assert at(page, "picture").is_displayed()


@in_browser
def test_a_ct_without_a_window_opens_the_fields_that_cure_it(page, tmp_path):
    values = np.linspace(-1000, 1000, 64 * 64).astype(np.int16).reshape(64, 64)
    take(page, saved(tmp_path / "slice.dcm", slice_of("CT", values, "1.2.3.1", 0)))
    assert "give centre and width under Grey values" in at(page, "error").text
    assert at(page, "grey").get_attribute("open") is not None
    page.find_element("css selector", "[data-window='-600 1500']").click()
    until(lambda: at(page, "picture").is_displayed())
    assert at(page, "told").text == "slice.dcm: 64 x 64 pixels, DICOM CT, window -600 / 1500 (as given)"
    assert not at(page, "error").is_displayed()
    at(page, "width").clear()
    at(page, "ask").click()
    until(lambda: at(page, "error").is_displayed())
    assert at(page, "error").text == "Grey values: give centre and width, or neither."
    take(page, picture_file(tmp_path))
    assert at(page, "centre").get_attribute("value") == ""  # the window of another picture


@in_browser
def test_the_keyboard_is_enough(page, respondent, tmp_path):
    from selenium.webdriver import Keys

    press(page, Keys.TAB)
    assert page.switch_to.active_element.get_attribute("id") == "file"
    page.switch_to.active_element.send_keys(str(picture_file(tmp_path)))
    until(lambda: at(page, "picture").is_displayed())
    press(page, Keys.TAB, Keys.TAB)  # past the box that hides boxes
    assert page.switch_to.active_element.get_attribute("id") == "question"
    press(page, "Where is it?", Keys.ENTER)
    answered(page)
    assert respondent.asked == ["Where is it?\nReason, give the box, then answer."]
    press(page, Keys.TAB)
    suggestion = page.switch_to.active_element.text
    press(page, Keys.ENTER)
    assert at(page, "question").get_attribute("value") == suggestion
    page.execute_script("arguments[0].focus()", at(page, "boxes"))
    press(page, Keys.SPACE)
    assert not page.find_element("css selector", "#picture g").is_displayed()
    press(page, Keys.SPACE)
    page.execute_script("arguments[0].focus()", page.find_element("css selector", "#list button"))
    assert [one.get_attribute("data-box") for one in page.find_elements("css selector", "#picture g.lit")] == ["1"]
    page.find_element("css selector", "[value=direct]").send_keys(Keys.SPACE)
    page.execute_script("arguments[0].focus()", at(page, "ask"))
    press(page, Keys.ENTER)
    until(lambda: respondent.asked[1:] == [f"{suggestion}\nAnswer directly."])


@in_browser
def test_a_picture_may_be_dropped_and_only_one(page):
    drop = """
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
    for (let count = arguments[1]; count; count--) data.items.add(new File([bytes], `${count}.png`));
    const send = (name) => document.body.dispatchEvent(
      new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true }));
    send('dragover');
    const lit = document.getElementById('drop').classList.contains('over');
    return [lit, send('drop')];
    """
    encoded = base64.b64encode(png()).decode()
    assert page.execute_script(drop, encoded, 1) == [True, False]  # the browser does not open the file instead
    until(lambda: at(page, "picture").is_displayed())
    assert at(page, "told").text == "1.png: 96 x 64 pixels"
    page.execute_script(drop, encoded, 2)
    assert at(page, "error").text.startswith("One picture at a time")


@in_browser
def test_a_full_queue_is_told_on_the_page(browser, respondent, tmp_path):
    with running(respondent, waiting=0) as server:
        browser.get(server.url)
        take(browser, picture_file(tmp_path))
        respondent.gate.clear()
        other = threading.Thread(target=lambda: post(server, "ask", upload(png())))
        other.start()
        until(lambda: respondent.asked)
        at(browser, "ask").click()
        until(lambda: at(browser, "error").is_displayed())
        assert at(browser, "error").text == "The model is busy and the queue is full: try again in a few seconds."
        respondent.gate.set()
        other.join(20)
        until(lambda: at(browser, "ask").is_enabled())
        at(browser, "ask").click()
        answered(browser)
        assert not at(browser, "error").is_displayed()


@in_browser
@pytest.mark.parametrize("size", [(1400, 900), (900, 700), (520, 800)])
def test_the_notice_is_always_in_sight_in_light_and_dark(page, size, tmp_path):
    page.set_window_size(*size)
    grounds = set()
    take(page, picture_file(tmp_path))
    at(page, "ask").click()
    answered(page)
    for scheme in ("light", "dark"):
        media(page, scheme)
        for where in ("0", "document.querySelector('main').scrollHeight"):
            page.execute_script(f"for (const one of document.querySelectorAll('main, .talk, html')) one.scrollTop = {where}")
            box, seen = page.execute_script(
                """
                const foot = document.querySelector('footer'), box = foot.getBoundingClientRect();
                const middle = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
                return [[box.top, box.bottom, innerHeight], middle === foot && foot.textContent];
                """
            )
            assert seen == NOTICE
            assert 0 <= box[0] < box[1] <= box[2] + 0.5
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        grounds.add(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


@in_browser
def test_the_command_serves_a_checkpoint_keeps_nothing_and_ends_by_ctrl_c(browser, tmp_path):
    export = tiny_export(tmp_path / "export")
    source = picture_file(tmp_path)
    (tmp_path / "tmp").mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path / "tmp"),
        "HOME": str(tmp_path / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "launch/serve.py", "--checkpoint", str(export), "--port", "0", "--max-new-tokens", "8"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it in what it starts with &
    )
    try:
        printed = ""
        while "open: " not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        before = sorted(tmp_path.rglob("*"))
        browser.get(re.search(r"open: (\S+)", printed)[1])
        take(browser, source)
        at(browser, "question").send_keys("Is there a zealous nodule?")
        at(browser, "ask").click()
        answered(browser)
        assert at(browser, "answer").text
        assert NOTICE in browser.find_element("tag name", "footer").text
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert rest.strip().endswith("ended")
    assert "zealous" not in printed + rest
    assert sorted(tmp_path.rglob("*")) == before
