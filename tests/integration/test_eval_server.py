"""Evaluating a model behind a server from the command line: killed and gone on with, and against `transformers serve`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eval.decoding import Decoding
from eval.endpoint import ServedModel, evaluate_endpoint
from eval.runner import Plan, evaluate_checkpoint
from medclm.chat.endpoint import Endpoint
from medclm.data.testing import record_row, write_small_corpus
from tests.transformers_server import transformers_serve

ROOT = Path(__file__).resolve().parents[2]


class Patient(ThreadingHTTPServer):
    """Answers `willing` questions and leaves all others waiting until it is told to `go_on`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, willing: int) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.willing, self.lock, self.go_on = willing, threading.Lock(), threading.Event()
        self.heard: Counter[str] = Counter()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed hangs up."""


class Answering(BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = body["messages"][0]["content"][1]["text"].splitlines()[0]
        with self.server.lock:
            self.server.heard[question] += 1
            waits = self.server.heard.total() > self.server.willing
        if waits:
            self.server.go_on.wait(60)
        message = {"role": "assistant", "content": f"Reasoning: none.\n\nAnswer: {question}"}
        told = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)


@pytest.fixture
def patient() -> Iterator[Patient]:
    server = Patient(willing=5)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def corpus(folder: Path, images: int = 12, **changes: object) -> Path:
    """Every image in `test`, each with a question of its own; the first is closed."""
    made = [record_row(i, images=images, split="test", question_medium=f"Question {i}?") for i in range(images)]
    made[0] |= {"question_kind": "presence", "answer_medium": "Yes", "answer_type_medium": "closed"}
    return write_small_corpus(folder, images, records=made, **changes)


def command(url: str, data: Path, out: Path, *more: str) -> list[str]:
    words = ["--base-url", url, "--model", "theirs", "--suites", "vqa", "--data", str(data), "--out", str(out), *more]
    return [sys.executable, "launch/evaluate.py", *words]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def kept(out: Path) -> dict[str, str]:
    """Text by id of what was asked."""
    file = out / "replies-test" / "rank0.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return {row["id"]: row.get("text", "") for row in map(json.loads, lines)}


def test_a_killed_evaluation_goes_on_and_asks_nothing_twice_but_what_was_under_way(patient, tmp_path):
    url = f"http://127.0.0.1:{patient.server_address[1]}/v1"
    words = command(url, corpus(tmp_path / "corpus"), tmp_path / "out", "--concurrency", "2")
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while patient.heard.total() < 7 or len(kept(tmp_path / "out")) < 5:  # five answered, two under way
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(tmp_path / "out")
    patient.go_on.set()
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert "answer_accuracy" in done.stdout
    assert sorted(patient.heard.values()) == [1] * 10 + [2] * 2
    assert before.items() < kept(tmp_path / "out").items()
    assert len(kept(tmp_path / "out")) == 12
    results = json.loads((tmp_path / "out" / "vqa-test" / "results.json").read_text())
    assert (results["n"], results["model"]) == (12, "theirs")
    lines = [json.loads(line) for line in (tmp_path / "out" / "vqa-test" / "predictions.jsonl").read_text().splitlines()]
    assert all(line["parsed"]["answer"] == line["question"] for line in lines), "each reply went to its own question"


def test_what_the_user_must_change_is_status_2_and_what_the_server_did_is_status_1(tmp_path):
    data = corpus(tmp_path / "corpus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    cases = {
        ("http://10.0.0.1/v1", "vqa"): (2, "10.0.0.1 is not this machine"),
        (gone, "classification"): (2, "ask how likely given options are"),
        (gone, "vqa"): (1, "nobody answers"),
    }
    for (url, suites), (status, message) in cases.items():
        done = run([*command(url, data, tmp_path / "out"), "--suites", suites, "--overwrite"])
        last = done.stderr.splitlines()[-1]
        assert (done.returncode, last.startswith("evaluate: "), message in last) == (status, True, True), done.stderr


# --- a real server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def transformers_server(tmp_path) -> Iterator[tuple[str, Path]]:
    """`transformers serve` on a free port with the tiny ViP-LLaVA; its address and the model's folder."""
    from medclm.testing import tiny_export

    model = tiny_export(tmp_path / "tiny")
    with transformers_serve(model, tmp_path / "log") as url:
        yield url, model


@pytest.mark.slow
def test_our_own_model_behind_a_real_server_says_what_it_says_here(transformers_server, tmp_path):
    """Pictures of exactly the model's square, so that neither side resizes: then picture, prompt and decoding must agree."""
    url, model = transformers_server
    data, decoding = corpus(tmp_path / "corpus", sizes=((32, 32),)), Decoding(max_new_tokens=12, batch_size=1)
    plan = Plan(suites=("vqa", "grounding"))
    served = ServedModel(str(model), Endpoint(url, concurrency=2), decoding, tell_form=False, accept_empty=True)
    here = evaluate_checkpoint(model, data, tmp_path / "here", plan, decoding)
    there = evaluate_endpoint(served, data, tmp_path / "there", plan)
    assert kept(tmp_path / "here") == kept(tmp_path / "there")
    assert len(set(kept(tmp_path / "here").values())) > 3, "the replies must depend on what is asked"
    assert here["vqa"]["scores"] == there["vqa"]["scores"]

    told = evaluate_endpoint(
        ServedModel(str(model), Endpoint(url), decoding, accept_empty=True), data, tmp_path / "told", Plan(suites=("vqa",))
    )
    assert told["vqa"]["n"] == 12
    assert kept(tmp_path / "told") != kept(tmp_path / "here"), "the line on the form must have reached the model"
