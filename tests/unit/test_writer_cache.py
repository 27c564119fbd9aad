"""Replies on disk, the pace of requests and the counts of both."""

from __future__ import annotations

import multiprocessing
import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from medclm.chat.endpoint import Endpoint
from medclm.chat.rate import Pace, backoff_seconds, retry_after_seconds
from medclm.chat.replies import Reply
from medclm.corpus.contract import WriteRequest
from medclm.corpus.writers.cache import DamagedReply, ReplyCache, cache_key
from medclm.corpus.writers.language_model import Wording
from medclm.corpus.writers.openai_writer import OpenAIWriter
from medclm.corpus.writers.usage import Usage, read_usage
from tests.language_models import Parrot, phantoms

HERE = Endpoint("http://127.0.0.1:9/v1")


def test_a_second_writer_with_the_same_cache_asks_nothing(tmp_path):
    requests = [WriteRequest(linked, 7) for linked in phantoms()[:3]]
    first, second = (Parrot(folder=tmp_path / "replies") for _ in range(2))
    made = first.write(requests)
    assert second.write(requests) == made
    assert first._heard > 0 == second._heard
    total = read_usage(tmp_path / "replies")
    assert total["asked"] == 2 * first._heard == total["replies"] + total["cache_hits"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "replies").rglob("*.json"))
    assert b"modality" not in kept, "replies alone are kept, no prompts"


def test_everything_that_decides_a_reply_is_in_its_key():
    base = {"model": ["m"], "prompt": ["a", "b"], "picture": None, "sampling": [0.7, 600, 1]}
    keys = {cache_key(base)}
    keys |= {
        cache_key(base | change) for change in ({"model": ["n"]}, {"prompt": ["a", "c"]}, {"picture": b"1"}, {"picture": b"2"})
    }
    keys |= {cache_key(base | {"sampling": sampling}) for sampling in ([0.6, 600, 1], [0.7, 601, 1], [0.7, 600, 2])}
    assert len(keys) == 8
    linked = phantoms()[0]
    ask = Parrot()._ask(Parrot()._wanted(WriteRequest(linked, 1))[0], 0)
    servers = [OpenAIWriter("m", Endpoint(f"http://{host}:9/v1")) for host in ("127.0.0.1", "localhost")]
    assert len({server._key(ask) for server in servers}) == 1, "where the server stands does not matter"
    others = [OpenAIWriter("n", HERE), OpenAIWriter("x/m", HERE), OpenAIWriter("m", HERE, Wording(temperature=0.0))]
    assert len({writer._key(ask) for writer in [*others, servers[0]]}) == 4


def fill(folder: Path, start: int) -> None:
    """Another process's work: keys overlap with those of its neighbour."""
    cache = ReplyCache(folder)
    for number in range(start, start + 150):
        cache.put(cache_key({"n": number}), Reply(f"reply {number} " + "x" * 2000, prompt_tokens=number))


def test_two_processes_share_a_cache_and_no_reply_is_ever_half_there(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=fill, args=(tmp_path, start)) for start in (0, 75)]
    for worker in workers:
        worker.start()
    cache, seen = ReplyCache(tmp_path), 0
    while any(worker.is_alive() for worker in workers):
        seen += sum(cache.get(cache_key({"n": number})) is not None for number in range(0, 225, 9))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [cache.get(cache_key({"n": number})).prompt_tokens for number in range(225)] == list(range(225))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "list", "other key"])
def test_a_damaged_reply_is_asked_for_again_and_counted(tmp_path, damage):
    request = [WriteRequest(phantoms()[0], 7)]
    made = Parrot(folder=tmp_path).write(request)
    files = sorted(path for path in tmp_path.rglob("*.json") if path.parent.name != "usage")
    content = files[0].read_bytes()
    broken = {"cut": content[: len(content) // 2], "empty": b"", "changed": content.replace(b"question", b"quostion")}
    broken |= {"list": b"[1, 2]", "other key": files[1].read_bytes()}
    files[0].write_bytes(broken[damage])
    with pytest.raises(DamagedReply):
        ReplyCache(tmp_path).get(files[0].stem)
    again = Parrot(folder=tmp_path)
    assert again.write(request) == made
    assert (again._heard, again.usage()["cache_damaged"]) == (1, 1)
    assert files[0].read_bytes() == content


def test_no_minute_starts_more_than_the_limits_allow():
    draw = np.random.default_rng(0)
    pace, now, started, tokens = Pace(30, 6000), 0.0, [], []
    for _ in range(300):
        now += draw.exponential(0.5)
        size = int(draw.integers(20, 800))
        started.append(pace.reserve(now, size))
        tokens.append(size)
        assert started[-1] >= now
    for first in started:  # the oracle: count what starts in the minute after each start
        minute = [at for at, start in enumerate(started) if first <= start < first + 60]
        assert len(minute) <= 31
        assert sum(tokens[at] for at in minute[:-1]) <= 6000
    assert started == sorted(started)


def test_without_limits_nothing_waits_unless_the_server_asks():
    pace = Pace()
    assert [pace.reserve(5.0, 10_000) for _ in range(3)] == [5.0, 5.0, 5.0]
    pace.hold(5.0, 2.5)
    assert pace.reserve(6.0, 1) == 7.5
    paced = Pace(tokens_per_minute=60)
    paced.reserve(0.0, 10)
    paced.settle(-4)
    assert paced.reserve(0.0, 1) == 6.0
    with pytest.raises(ValueError, match="requests_per_minute=0"):
        Pace(0)


def test_waits_grow_up_to_a_limit_and_belong_to_seed_and_attempt():
    waits = [[backoff_seconds(n, seed, first=0.5, most=8.0) for n in range(12)] for seed in range(20)]
    for row in waits:
        for n, wait in enumerate(row):
            most = min(8.0, 0.5 * 2**n)
            assert most / 2 <= wait <= most
    assert len({row[0] for row in waits}) == 20
    assert waits[3] == [backoff_seconds(n, 3, first=0.5, most=8.0) for n in range(12)]


def test_retry_after_is_read_as_seconds_or_as_a_date():
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    read = {
        "7": 7.0,
        "0.25": 0.25,
        " 12 ": 12.0,
        "Fri, 02 Jan 2026 03:04:35 GMT": 30.0,
        "Fri, 02 Jan 2026 03:00:00 GMT": 0.0,
        "soon": None,
        "": None,
        "-3": None,
        "1e9": None,
        "nan": None,
    }
    assert {text: retry_after_seconds({"retry-after": text}, now) for text in read} == read
    assert retry_after_seconds({}, now) is None


def test_counts_of_processes_add_up_and_start_afresh_in_another(tmp_path):
    first = Usage(tmp_path)
    first.add(asked=3, replies=2, writer_timeout=1)
    first.log()
    second = pickle.loads(pickle.dumps(first))
    assert second.totals() == {}
    second.add(asked=1, cache_hits=1, errors=0)
    second.log()
    second.add(asked=1)
    second.log()
    assert read_usage(tmp_path) == {"asked": 5, "cache_hits": 1, "replies": 2, "writer_timeout": 1}
    assert len(list((tmp_path / "usage").iterdir())) == 2
    assert read_usage(tmp_path / "none") == {}
