"""A model behind a server: what it is sent, how its boxes are read, what goes wrong, what may leave this machine."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from eval.decoding import Decoding
from eval.endpoint import HOPELESS, LONGEST, SENT_SQUARE, ServedModel, evaluate_endpoint, sent_picture
from eval.example import STORED, Ask, Example, Reply, View
from eval.pictures import GREY, GivenPictures, occluded
from eval.respondent import Asked, read_reply
from eval.runner import Plan
from eval.stored import STORED_SQUARE
from medclm.chat.endpoint import Endpoint
from medclm.config import BoxTextSection
from medclm.data.manifest import sha256_file
from medclm.data.render import with_instruction
from medclm.data.testing import write_small_corpus
from medclm.types import Box

QUICK = {"timeout": 2.0, "tries": 3, "first_wait": 0.01, "most_wait": 5.0}
SECRET = "do not repeat me"
BOX = Box(0.25, 0.25, 0.5, 0.5)

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


def said(text: str | None, finish: str = "stop", **message: object) -> Answer:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 9, "completion_tokens": 7}
    return 200, {}, json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = next(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")
        with self.server.lock:
            tries = self.server.heard[question]
            self.server.heard[question] += 1
            self.server.bodies.append(body)
        status, headers, content = self.server.script(question, tries)
        try:
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client has gone
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """Answers question number `tries` (from 0) as its script says."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Callable[[str, int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock = script, threading.Lock()
        self.heard: Counter[str] = Counter()
        self.bodies: list[dict] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some of these tests are about."""

    def endpoint(self, **changes: object) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.server_address[1]}/v1", **{**QUICK, **changes})


@contextmanager
def serving(script: Callable[[str, int], Answer]) -> Iterator[Server]:
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = GivenPictures({"scan": noise(90, 60), "other": noise(40, 70, seed=1)})


def asked(*questions: str, view: View = STORED, options: tuple[str, ...] = ()) -> list[Asked]:
    return [
        Asked(Example(f"id-{name}", "p", "what", "open", name, "scan"), Ask("answer", name, view, options))
        for name in questions
    ]


def served(server: Server, decoding: Decoding | None = None, **changes: object) -> ServedModel:
    limits = {name: changes.pop(name) for name in ("concurrency", "timeout", "tries") if name in changes}
    return ServedModel("org/model", server.endpoint(**limits), decoding or Decoding(max_new_tokens=50), **changes)


def ask(model: ServedModel, ones: list[Asked]) -> tuple[dict[str, Reply], str]:
    """Replies by question, and what the error at the end said."""
    found: dict[str, Reply] = {}
    try:
        for one, reply in model.replies(ones, PICTURES, lambda number: None):
            found[one.ask.question] = reply
    except RuntimeError as error:
        return found, str(error)
    return found, ""


# --- what is sent ---------------------------------------------------------------------------------------------------------


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.info) == ("PNG", {}), "pixels and nothing else"
    return np.asarray(image)


def test_every_view_is_sent_unpadded_as_its_own_oracle_has_it():
    stored = PICTURES.open("scan")
    oracle = {
        "stored": np.asarray(stored),
        "blank": np.full((60, 90, 3), GREY),
        "mirrored": np.asarray(stored)[:, ::-1],
        "swapped": np.asarray(PICTURES.open("other")),
        "occluded": np.asarray(occluded(stored, (BOX,))),
    }
    for kind, expected in oracle.items():
        view = View(kind, (BOX,), other="other" if kind == "swapped" else None)
        np.testing.assert_array_equal(pixels(sent_picture(view, "scan", PICTURES)), expected, err_msg=kind)
    drawn = pixels(sent_picture(View("boxed", (BOX,), "green"), "scan", PICTURES))
    changed = (drawn != oracle["stored"]).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], rows[-1] + 1) == (15, 30)
    assert (columns[0], columns[-1] + 1) == (22, 45)
    assert (drawn[changed] == (0, 255, 0)).all()
    assert not changed[17:28, 25:43].any(), "an outline, not a patch"


def test_large_pictures_shrink_to_the_limit_and_keep_their_shape():
    wide = GivenPictures({"scan": Image.new("RGB", (3000, 1500), (10, 20, 30))})
    sent = pixels(sent_picture(View(), "scan", wide))
    assert sent.shape == (LONGEST // 2, LONGEST, 3)
    assert (sent == (10, 20, 30)).all(), "nothing of a border is sent"
    line = GivenPictures({"scan": Image.new("RGB", (5000, 1))})
    assert pixels(sent_picture(View("mirrored"), "scan", line)).shape == (1, LONGEST, 3)


def test_a_request_carries_model_limits_picture_and_question():
    with serving(lambda question, tries: said("Answer: cyst")) as server:
        found, _ = ask(served(server), asked("What?"))
        ask(served(server, Decoding(temperature=0.7, seed=3)), asked("sampled", "sampled too"))
        ask(served(server, Decoding(temperature=0.7, seed=3)), asked("sampled"))
        ask(served(server, Decoding(temperature=-1.0)), asked("its own"))
    assert found == {"What?": Reply("Answer: cyst", tokens=7)}
    first, own = server.bodies[0], server.bodies[-1]
    assert (first["model"], first["max_completion_tokens"], first["temperature"]) == ("org/model", 50, 0.0)
    assert "seed" not in first, "some servers refuse it, and the likeliest token needs none"
    assert "temperature" not in own
    picture, text = first["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(pixels(base64.b64decode(data)), np.asarray(PICTURES.open("scan")))
    seeds: dict[str, set[int]] = {"sampled": set(), "sampled too": set()}
    for body in server.bodies[1:4]:
        seeds[body["messages"][0]["content"][1]["text"]].add(body["seed"])
    assert len(seeds["sampled"]) == 1, "the draw belongs to the question"
    assert seeds["sampled"] != seeds["sampled too"]


def test_our_response_instructions_are_explained_and_nobody_elses():
    plain, direct, theirs = with_instruction("What?", "reason"), with_instruction("What?", "direct"), "What? Be brief."
    with serving(lambda question, tries: said("Answer: cyst")) as server:
        model = served(server, box_text=BoxTextSection(frame="padded", scale="1000"))
        ask(model, asked(plain, direct, theirs))
        told = list(server.heard)
        server.heard.clear()
        ask(replace(model, tell_form=False), asked(plain, direct))
    [reason] = [text for text in told if text.startswith(plain)]
    assert "numbers from 0 to 1000 of the picture, padded to a square" in reason
    assert any(text.startswith(direct) and "Answer:" in text and "x0" not in text for text in told)
    assert theirs in told
    assert set(server.heard) == {plain, direct}


# --- how boxes are read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "frame", "scale", "written"),
    [
        ((2048, 1024), "resized", "1", [0.25, 0.25, 0.5, 0.5]),
        ((2048, 1024), "resized", "1000", [250, 250, 500, 500]),
        ((2048, 1024), "resized", "px", [256, 128, 512, 256]),
        ((2048, 1024), "original", "100", [25, 25, 50, 50]),
        ((2048, 1024), "padded", "px", [256, 384, 512, 512]),
        ((2048, 1024), "padded", "1", [0.25, 0.375, 0.5, 0.5]),
        ((200, 100), "resized", "px", [50, 25, 100, 50]),
        ((100, 200), "padded", "px", [75, 50, 100, 100]),
    ],
)
def test_boxes_are_read_in_the_picture_as_sent_and_sized_as_everybody_elses(size, frame, scale, written):
    section, mine = BoxTextSection(frame=frame, scale=scale), SENT_SQUARE.frame(size)
    prediction = read_reply(Reply(f"Reasoning: at {written}.\n\nAnswer: cyst"), mine, section)
    assert prediction.boxes_unit[0] == pytest.approx(BOX)
    assert prediction.boxes_in_rationale == 1
    assert mine.to_square_px(BOX) == STORED_SQUARE.frame(size).to_square_px(BOX)


def test_pixels_of_a_size_that_the_model_never_saw_are_refused():
    with pytest.raises(ValueError, match=r"give --box-text\.frame resized"):
        ServedModel("m", Endpoint("http://127.0.0.1:9/v1"), Decoding(), box_text=BoxTextSection(frame="original", scale="px"))
    with pytest.raises(ValueError, match="needs --model"):
        ServedModel("", Endpoint("http://127.0.0.1:9/v1"), Decoding())


# --- what goes wrong ------------------------------------------------------------------------------------------------------


def misbehave(question: str, tries: int) -> Answer:
    """By the question's words; with `once` only the first time."""
    if "once" in question and tries:
        return said(f"Answer: {question}")
    match question.split()[0]:
        case "limited":
            return 429, {"retry-after": "0.05"}, json.dumps({"error": {"message": SECRET}}).encode()
        case "hour":
            return 429, {"retry-after": "3600"}, b"{}"
        case "failing":
            return 500, {}, SECRET.encode()
        case "slow":
            time.sleep(3.0)
        case "garbled":
            return 200, {}, b"<html>gateway</html>"
        case "endless":
            return 200, {}, b" " * (5 << 20)
        case "unable":
            return 400, {}, json.dumps({"error": {"message": SECRET}}).encode()
        case "null":
            return said(None)
        case "thinking":
            return said("", "length")
        case "declining":
            return said(None, refusal="no")
        case "cut":
            return said("Reasoning: it", "length")
    return said(f"Answer: {question}")


def test_what_a_server_does_once_costs_no_reply():
    questions = [f"{mood} once" for mood in ("limited", "failing", "slow", "garbled", "endless")]
    with serving(misbehave) as server:
        found, told = ask(served(server), asked(*questions, "good", "cut"))
    assert told == ""
    assert {question: reply.text for question, reply in found.items() if question != "cut"} == {
        question: f"Answer: {question}" for question in (*questions, "good")
    }
    assert found["cut"] == Reply("Reasoning: it", tokens=7, stopped=False)
    assert set(server.heard.values()) == {1, 2}


def test_what_gets_no_reply_is_counted_by_reason_at_the_end_and_never_an_empty_answer():
    moods = ("limited", "hour", "failing", "slow", "garbled", "endless", "unable", "null", "thinking", "declining")
    with serving(misbehave) as server:
        found, told = ask(served(server, concurrency=1, tries=2), asked(*moods, "failing too", "good", "fine"))
    assert set(found) == {"good", "fine"}
    assert told.startswith("11 of 13 questions got no reply. Replies are kept: the same command asks only what has none")
    lines = told.splitlines()[1:]
    for line in (
        "  2 rate_limited: HTTP 429",
        "  4 server_error: HTTP 500, 2 of 2 tries (the first: id-failing#answer)",
        "  1 timeout: no reply within 2 s, 2 of 2 tries (the first: id-slow#answer): give a longer --request-timeout",
        "  1 bad_request: HTTP 400, 1 of 2 tries (the first: id-unable#answer): does the model take pictures",
        "  1 empty: a reply without text (the first: id-null#answer): --accept-empty",
        "  1 cut_before_text: cut after 7 tokens (the first: id-thinking#answer): give a higher --max-new-tokens",
        "  1 declined: a reply without text (the first: id-declining#answer)",
    ):
        assert any(each.startswith(line) for each in lines), (line, told)
    assert len(lines) == 7
    assert SECRET not in told, "what a server says may repeat what it was sent"


def test_replies_without_text_are_answers_where_that_is_said():
    with serving(misbehave) as server:
        found, told = ask(served(server, accept_empty=True), asked("null", "thinking", "declining", "good"))
    assert told == ""
    assert found["null"] == found["declining"] == Reply(tokens=7)
    assert found["thinking"] == Reply(tokens=7, stopped=False)


def test_a_server_that_can_answer_nothing_is_not_asked_everything():
    with serving(misbehave) as server:
        found, told = ask(served(server, concurrency=4), asked(*(f"unable {number}" for number in range(200))))
    assert not found
    assert told.startswith(f"{HOPELESS} of 200 questions got no reply; no more were asked after {HOPELESS} in a row")
    assert HOPELESS <= len(server.heard) <= HOPELESS + 4


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "--base-url or --model org/model: the server does not know it"), (401, "--api-key-variable OPENAI_API_KEY")],
)
def test_a_wrong_model_or_key_ends_it_at_once(status, message):
    with serving(lambda question, tries: (status, {}, b"{}")) as server:
        with pytest.raises(ValueError, match=message):
            ask(served(server, concurrency=2), asked(*map(str, range(50))))
        assert len(server.bodies) <= 4


def test_so_many_are_in_flight_and_no_more():
    together, most, now = threading.Barrier(3, timeout=5.0), 0, 0
    lock = threading.Lock()

    def script(question: str, tries: int) -> Answer:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        together.wait()  # broken, and so an error, unless three are here at once
        with lock:
            now -= 1
        return said("Answer: x")

    with serving(script) as server:
        found, told = ask(served(server, concurrency=3, timeout=20.0), asked(*map(str, range(12))))
    assert (len(found), told, most) == (12, "", 3)


def test_likelihoods_and_questions_without_pictures_are_refused_before_anything_is_sent():
    with serving(misbehave) as server:
        mixed = [*asked("good"), *asked("Which?", options=("a", "b"))]
        with pytest.raises(ValueError, match=r"1 of 2 questions ask how likely.* need --checkpoint"):
            list(served(server).replies(mixed, PICTURES, lambda number: None))
        with pytest.raises(ValueError, match="without pictures: give --images"):
            list(served(server).replies(asked("good"), None, lambda number: None))
    assert not server.bodies


# --- what may leave this machine ------------------------------------------------------------------------------------------


def test_another_machine_hears_only_of_pictures_that_may_leave(monkeypatch):
    with pytest.raises(ValueError, match=r"10\.0\.0\.1 is not this machine.*--allow-remote"):
        Endpoint("http://10.0.0.1/v1")
    monkeypatch.delenv("NO_KEY", raising=False)
    there = Endpoint("http://10.0.0.1/v1", allow_remote=True, api_key_variable="NO_KEY")
    model, swapped = ServedModel("m", there, Decoding()), asked("good", view=View("swapped", other="other"))
    for may_leave, staying in ((lambda key: False, 2), (lambda key: key == "scan", 1)):
        with pytest.raises(ValueError, match=f"{staying} of 2 pictures may not leave this one.*--shareable"):
            list(replace(model, may_leave=may_leave).replies(swapped, PICTURES, lambda number: None))
    with pytest.raises(ValueError, match="NO_KEY: the variable is empty"):  # the next thing that is missing: all may leave
        list(replace(model, may_leave=lambda key: True).replies(swapped, PICTURES, lambda number: None))


def declared(folder: Path, shareable: set[int]) -> Path:
    """A corpus of 8 images, 3 and 7 of them in `val`, of which some are shareable."""
    corpus = write_small_corpus(folder, 8)
    manifest = json.loads((corpus / "manifest.json").read_text())
    first = 0
    for entry in sorted((one for one in manifest["files"] if one["kind"] == "images"), key=lambda one: one["path"]):
        path = corpus / entry["path"]
        with pa.ipc.open_stream(path.read_bytes()) as reader:
            table = reader.read_all()
        flags = [first + at in shareable for at in range(len(table))]
        first += len(table)
        at = table.schema.get_field_index("shareable")
        table = table.set_column(at, table.schema.field(at), pa.array(flags, pa.bool_()))
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
        entry |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    return corpus


def test_a_corpus_says_itself_what_may_leave_and_a_benchmark_by_its_users_word(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    model = ServedModel(
        "m", Endpoint("http://10.0.0.1/v1", allow_remote=True, api_key_variable="NO_KEY"), Decoding(max_new_tokens=8)
    )
    plan = Plan(suites=("vqa",), split="val", overwrite=True)
    with pytest.raises(ValueError, match="1 of 2 pictures may not leave"):
        evaluate_endpoint(model, declared(tmp_path / "some", {0, 1, 2, 3}), tmp_path / "out", plan, shareable=True)
    with pytest.raises(ValueError, match="NO_KEY: the variable is empty"):
        evaluate_endpoint(model, declared(tmp_path / "all", {3, 7}), tmp_path / "out", plan)
    rows = [{"qid": 1, "image_name": "a.png", "question": "What?", "answer": "cyst", "answer_type": "OPEN"}]
    bench = write_benchmark(tmp_path / "bench", rows)
    for stated, message in ((False, "1 of 1 pictures may not leave"), (True, "NO_KEY")):
        with pytest.raises(ValueError, match=message):
            evaluate_endpoint(model, bench, tmp_path / "bench-out", replace(plan, split="test"), shareable=stated)


def write_benchmark(folder: Path, rows: list[dict]) -> Path:
    """VQA-RAD as it is published."""
    (folder / "VQA_RAD Image Folder").mkdir(parents=True)
    noise(30, 20).save(folder / "VQA_RAD Image Folder" / "a.png")
    full = [{"phrase_type": "test_freeform", "question_type": "OTHER", "image_organ": "CHEST", **row} for row in rows]
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(full))
    return folder


# --- a whole evaluation ---------------------------------------------------------------------------------------------------


def test_an_evaluation_that_left_questions_open_is_finished_by_the_same_call(tmp_path):
    corpus = write_small_corpus(tmp_path / "corpus", 24)
    plan = Plan(suites=("vqa", "grounding"), split="val")
    willing = [1000]  # requests that it will answer before it fails

    def script(question: str, tries: int) -> Answer:
        willing[0] -= 1  # one request at a time
        return said("Reasoning: at [0.1, 0.1, 0.3, 0.4].\n\nAnswer: mass") if willing[0] >= 0 else (500, {}, b"")

    with serving(script) as server:
        model = served(server, concurrency=1, tries=1)
        whole = evaluate_endpoint(model, corpus, tmp_path / "whole", plan)
        number = len(server.bodies)
        assert number == whole["vqa"]["n"] > 3, "one request a question, whatever the suites"
        willing[0] = 3
        with pytest.raises(RuntimeError, match=f"{number - 3} of {number} questions got no reply"):
            evaluate_endpoint(model, corpus, tmp_path / "broken", plan)
        assert not list((tmp_path / "broken").glob("vqa*")), "nothing is judged before all are answered"
        willing[0], before = 1000, len(server.bodies)
        results = evaluate_endpoint(model, corpus, tmp_path / "broken", plan)
        assert len(server.bodies) - before == number - 3, "what was answered is not asked again"
        with pytest.raises(ValueError, match=r"replies under other model: .*--overwrite"):
            evaluate_endpoint(replace(model, model="another"), corpus, tmp_path / "broken", plan)
    assert results == whole
    assert results["vqa"]["model"] == "org/model"
    assert results["vqa"]["scores"]["parsed_rate"]["value"] == 1.0
    settings = json.loads((tmp_path / "broken" / "replies-val" / "settings.json").read_text())
    assert settings["server"] == f"127.0.0.1:{server.server_address[1]}"
    assert (settings["model"], settings["sent_longest_px"], settings["temperature"]) == ("org/model", LONGEST, 0.0)
