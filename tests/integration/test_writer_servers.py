"""Language-model writers against real HTTP servers: one that misbehaves in every way we know, and `transformers serve`."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medclm.chat.endpoint import Endpoint
from medclm.corpus.anatomy import link
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.contract import Draft, LinkedImage, Reject, WriteRequest
from medclm.corpus.drafting import draft_checked
from medclm.corpus.finalise import EverythingRejected
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.language_model import Wording
from medclm.corpus.writers.openai_writer import OpenAIWriter
from medclm.corpus.writers.phrasing import ask_for
from medclm.corpus.writers.usage import read_usage
from medclm.data.schema import COLUMNS
from medclm.data.shards import Corpus
from tests.language_models import make_tiny_model
from tests.misbehaving_server import CACHED, MOODS, TIMEOUT, Server, mood_of
from tests.transformers_server import transformers_serve


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def endpoint(server: Server, **changes: object) -> Endpoint:
    quick = {"timeout": TIMEOUT, "tries": 2, "first_wait": 0.01, "most_wait": 5.0, "concurrency": 32}
    return Endpoint(server.url, **{**quick, **changes})


def images(count: int) -> list[LinkedImage]:
    """Phantoms without their reports: a side that a report names may be said."""
    source = PhantomSource(count=count, seed=11, size=64)
    return [link(replace(source.read(i), report={}), seed=i) for i in range(count)]


def moods(linked: LinkedImage, wording: Wording) -> list[tuple[Draft, str]]:
    drafts = wording.template().drafts(linked, wording.seed)
    return [(draft, mood_of(json.loads(ask_for(draft, linked, seed=0).user))) for draft in drafts]


def check_image(linked: LinkedImage, wording: Wording, drafts: list[Draft], rejects: list[Reject]) -> Counter[str]:
    """Every draft is a record or one reject with the reason of its mood; counts of the moods."""
    found, left = {id(draft) for draft in drafts}, list(rejects)
    asked = moods(linked, wording)
    assert len(drafts) + len(rejects) == len(asked)
    # the most telling reasons first, so that `check_` does not take the reject of another
    for draft, mood in sorted(asked, key=lambda one: -len(MOODS[one[1]] or "")):
        reason = MOODS[mood]
        if reason is None:
            [mine] = [each for each in drafts if each.key == draft.key and id(each) in found][:1]
            found.remove(id(mine))
            assert mine.writer == "openai:model"
            assert (mine.claims, mine.annotations) == (draft.claims, draft.annotations)
            assert mine.medium is None or (mine.medium.answers, mine.medium.answer_type) == (
                draft.medium.answers,
                draft.medium.answer_type,
            )
        else:
            mine = next(each for each in left if each.reason.startswith(reason) and draft.question_kind in each.index)
            left.remove(mine)
    assert not left
    assert not found
    return Counter(mood for _, mood in asked)


def test_whatever_a_server_does_every_draft_is_a_record_or_a_counted_reject(server, tmp_path):
    linked, wording = images(32), Wording(max_per_image=8, asks=2)
    writer = OpenAIWriter("org/model", endpoint(server), wording, tmp_path / "replies")
    made = draft_checked(linked, writer, range(len(linked)), retries=1)
    seen = Counter()
    for each, (drafts, rejects) in zip(linked, made, strict=True):
        seen += check_image(each, wording, drafts, rejects)
    assert set(seen) == set(MOODS), "every mood must have occurred"

    usage = writer.usage()
    unanswered = ("writer_timeout", "writer_rate_limited", "writer_server_error", "writer_bad_request")
    assert usage["requests"] == len(server.heard) == usage["replies"] + usage["errors"]
    assert usage["asked"] == usage["replies"] + sum(usage.get(reason, 0) for reason in unanswered)
    late = [mood for mood, _ in server.heard if mood in ("slow", "slow once")]
    assert usage["prompt_tokens"] <= server.tokens["prompt_tokens"] <= usage["prompt_tokens"] + 700 * len(late)
    assert read_usage(tmp_path / "replies") == usage
    told = json.dumps([[reject.detail for reject in rejects] for _, rejects in made])
    assert "slow down" not in told, "what a server says stays out of rejects"

    first = Counter(server.heard)
    server.heard.clear()
    rerun = OpenAIWriter("org/model", endpoint(server), wording, tmp_path / "replies")
    again = draft_checked(linked, rerun, range(len(linked)), retries=1)
    assert not {mood for mood, _ in server.heard} & set(CACHED), "what was said once is not asked twice"
    assert {mood for mood, _ in first} - {mood for mood, _ in server.heard} == set(CACHED)
    assert [drafts for drafts, _ in again] == [drafts for drafts, _ in made]
    assert rerun.usage()["cache_hits"] > 0


def test_the_template_stands_in_where_that_is_wanted(server):
    linked, wording = images(24), Wording(on_failure="template", asks=1)
    made = OpenAIWriter("model", endpoint(server, tries=1), wording).write([WriteRequest(each, 0) for each in linked])
    for each, (drafts, rejects) in zip(linked, made, strict=True):
        asked = moods(each, wording)
        assert [draft.key for draft in drafts] == [draft.key for draft, _ in asked]
        stood_in = [draft for draft in drafts if draft.writer == "template"]
        assert all(draft in [seed for seed, _ in asked] for draft in stood_in)
        assert len(rejects) == len(stood_in)
        assert all(reject.reason.endswith("_template_kept") for reject in rejects)
    assert any(rejects for _, rejects in made)


def options(**changes: object) -> BuildOptions:
    given = {"ids": phantom_ids(0), "images_per_part": 8, "progress": False, "retries": 1}
    return BuildOptions(**{**given, **changes})  # type: ignore[arg-type]


def rows(folder: Path) -> list[dict]:
    corpus = Corpus(folder)
    return [row for batch in corpus.scan("records", list(COLUMNS["records"])) for row in batch.to_pylist()]


def test_a_build_in_two_processes_shares_the_cache_and_a_rerun_gives_the_same_corpus(server, tmp_path):
    server.patient = False
    source, wording = PhantomSource(count=16, seed=11, size=64), Wording(kinds=("describe", "what"), max_per_image=2, asks=1)
    writers = [OpenAIWriter("model", endpoint(server), wording, tmp_path / "replies") for _ in range(2)]
    report = build(source, writers[0], tmp_path / "first", options(workers=2))
    asked = sum(len(moods(each, wording)) for each in images(16))
    ours = {reason: count for reason, count in report.rejects.items() if reason.startswith(("writer_", "check_"))}
    assert sum(report.records.values()) + sum(ours.values()) == asked
    usage = read_usage(tmp_path / "replies")
    assert usage["requests"] == len(server.heard)
    assert len(list((tmp_path / "replies" / "usage").iterdir())) == 2
    assert {row["writer"] for row in rows(tmp_path / "first")} == {"openai:model"}

    server.heard.clear()
    build(source, writers[1], tmp_path / "second", options(workers=1))
    assert not {mood for mood, _ in server.heard} & set(CACHED)
    assert rows(tmp_path / "second") == rows(tmp_path / "first")


def test_requests_carry_schema_seed_and_picture_and_the_key_of_the_variable(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "word-of-the-test")
    wording = Wording(images="png", temperature=None, max_tokens=77, max_per_image=1)
    writer = OpenAIWriter("org/model", endpoint(server, api_key_variable="SOME_KEY"), wording)
    writer.write([WriteRequest(each, 0) for each in images(3)])
    assert server.keys == {"Bearer word-of-the-test"}
    for body in server.bodies:
        assert body["model"] == "org/model"
        assert body["max_completion_tokens"] == 77
        assert body["response_format"]["json_schema"]["strict"] is True
        assert body["messages"][1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
        assert 0 <= body["seed"] < 2**31
        assert "temperature" not in body


class Refusing(BaseHTTPRequestHandler):
    """Answers everything with one status."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        if self.server.status == 307:
            self.send_header("location", "http://10.255.255.1/v1/chat/completions")
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (401, b"{}", ValueError, "--api-key-variable OPENAI_API_KEY"),
        (404, b"{}", ValueError, "--base-url or --model model"),
        (429, b'{"error": {"code": "insufficient_quota"}}', RuntimeError, "account is spent"),
    ],
)
def test_a_mistake_that_every_request_would_repeat_ends_the_writing(status, body, error, message):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.status, server.body = status, body
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    writer = OpenAIWriter("model", Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", first_wait=0.01))
    with pytest.raises(error, match=message):
        writer.write([WriteRequest(each, 0) for each in images(2)])
    server.shutdown()
    server.server_close()


def test_a_redirect_is_not_followed():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.status, server.body = 307, b""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    writer = OpenAIWriter("model", Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", timeout=5.0, tries=1))
    [(drafts, rejects)] = writer.write([WriteRequest(images(1)[0], 0)])
    assert drafts == []
    assert {reject.reason for reject in rejects} == {"writer_bad_request"}
    server.shutdown()
    server.server_close()


def test_a_server_that_is_gone_ends_the_writing_instead_of_rejecting_everything():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    writer = OpenAIWriter("model", Endpoint(url, tries=2, first_wait=0.01))
    with pytest.raises(RuntimeError, match="nobody answers"):
        writer.write([WriteRequest(each, 0) for each in images(6)])


# --- a real server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def transformers_server(tmp_path) -> Iterator[tuple[str, Path]]:
    """`transformers serve` on a free port with a tiny model; its address and the model's folder."""
    model = tmp_path / "tiny"
    make_tiny_model(model)
    with transformers_serve(model, tmp_path / "log") as url:
        yield url, model


@pytest.mark.slow
def test_a_real_server_with_a_model_that_talks_nonsense_loses_no_draft(transformers_server, tmp_path):
    url, model = transformers_server
    source, wording = PhantomSource(count=3, seed=11, size=64), Wording(max_tokens=8, asks=1, kinds=("describe", "what"))
    linked = images(3)
    asked = sum(len(moods(each, wording)) for each in linked)
    writer = OpenAIWriter(str(model), Endpoint(url, concurrency=2), wording, tmp_path / "replies")
    made = draft_checked(linked, writer, range(3), retries=1)
    assert sum(len(drafts) + len(rejects) for drafts, rejects in made) == asked > 3
    reasons = Counter(reject.reason for _, rejects in made for reject in rejects)
    assert set(reasons) <= {"writer_truncated", "writer_bad_json", "writer_empty", "writer_changed_meaning"}
    usage = writer.usage()
    assert usage["requests"] == usage["replies"] == usage["asked"] == asked
    assert usage["prompt_tokens"] > 1000 * asked
    assert asked <= usage["completion_tokens"] <= 8 * asked

    rerun = OpenAIWriter(str(model), Endpoint(url, concurrency=2), wording, tmp_path / "replies")
    draft_checked(linked, rerun, range(3), retries=1)
    assert rerun.usage()["cache_hits"] == asked - reasons["writer_empty"]
    with pytest.raises(EverythingRejected, match="writer_"):
        build(source, OpenAIWriter(str(model), Endpoint(url), wording), tmp_path / "corpus", options())
    kept = OpenAIWriter(str(model), Endpoint(url), Wording(**{**vars(wording), "on_failure": "template"}))
    report = build(source, kept, tmp_path / "kept", options())
    assert sum(report.records.values()) == asked
    assert {row["writer"] for row in rows(tmp_path / "kept")} == {"template"}
