"""Where a writer's questions may go, what travels between processes, and the flags that say so."""

from __future__ import annotations

import pickle
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from launch.corpus_commands.writers import add_writer_flags, make_writer
from medclm.chat.endpoint import Endpoint, is_loopback
from medclm.corpus.contract import WriteRequest
from medclm.corpus.writers.language_model import Wording
from medclm.corpus.writers.local_writer import LocalWriter
from medclm.corpus.writers.openai_writer import OpenAIWriter
from tests.language_models import drafts_of, phantoms, planted

ROOT = Path(__file__).resolve().parents[2]
HERE = Endpoint("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("localhost", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("192.168.1.4", False),
        ("2001:db8::1", False),
        ("::ffff:10.0.0.1", False),
        ("127.0.0.1.invalid", False),
        ("", False),
    ],
)
def test_this_machine_is_what_resolves_to_loopback(host, here):
    assert is_loopback(host) is here


def test_another_machine_is_refused_unless_allowed_and_then_hears_of_shareable_images_only():
    with pytest.raises(ValueError, match=r"10\.0\.0\.1 is not this machine.*--allow-remote"):
        Endpoint("http://10.0.0.1/v1")
    writer = OpenAIWriter("m", Endpoint("http://10.0.0.1/v1", allow_remote=True), Wording(images="png"))
    private = [planted(), planted()]
    for drafts, rejects in writer.write([WriteRequest(linked, 0) for linked in private]):
        assert drafts == []
        assert {reject.reason for reject in rejects} == {"not_shareable"}
        assert len(rejects) == len(drafts_of(private[0]))
    assert writer.usage() == {}, "nothing was asked"
    assert writer.estimate([WriteRequest(private[0], 0)]).requests == 0
    assert writer.estimate([WriteRequest(planted(shareable=True), 0)]).requests > 0
    kept = OpenAIWriter("m", Endpoint("http://10.0.0.1/v1", allow_remote=True), Wording(on_failure="template"))
    [(drafts, rejects)] = kept.write([WriteRequest(private[0], 0)])
    assert drafts == drafts_of(private[0])
    assert {reject.reason for reject in rejects} == {"not_shareable_template_kept"}


def test_a_missing_key_is_named_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    writer = OpenAIWriter("m", Endpoint("http://10.0.0.1/v1", api_key_variable="SOME_KEY", allow_remote=True))
    with pytest.raises(ValueError, match="SOME_KEY: the variable is empty"):
        writer.write([WriteRequest(planted(shareable=True), 0)])
    assert Endpoint("http://127.0.0.1/v1", api_key_variable="SOME_KEY").api_key() == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, "--base-url"),
        ({"base_url": "ftp://127.0.0.1/v1"}, "--base-url"),
        ({"base_url": "http://user:hidden@127.0.0.1/v1"}, "--base-url: holds a user name"),
        ({"api_key_variable": "sk-hidden"}, "--api-key-variable"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"tries": 0}, "tries=0"),
    ],
)
def test_a_wrong_endpoint_is_refused_without_repeating_a_secret(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Endpoint(**{"base_url": "http://127.0.0.1/v1", **changes})
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"on_failure": "ignore"},
        {"images": "jpg"},
        {"temperature": 3.0},
        {"max_tokens": 0},
        {"asks": 0},
        {"kinds": ("why",)},
        {"language": "xx"},
        {"max_per_image": 0},
    ],
)
def test_wrong_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Wording(**changes)


def test_a_writer_is_cheap_travels_between_processes_and_shows_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_KEY", "hidden-key")
    endpoint = Endpoint("http://127.0.0.1:9/v1", api_key_variable="SOME_KEY", requests_per_minute=60)
    for writer in (OpenAIWriter("org/model", endpoint, cache=tmp_path / "c"), LocalWriter(str(tmp_path / "model"))):
        writer.estimate([WriteRequest(phantoms()[0], 0)])
        other = pickle.loads(pickle.dumps(writer))
        assert b"hidden-key" not in pickle.dumps(writer)
        assert other.name == writer.name in ("openai:model", "local:model")
        public = {name: value for name, value in vars(other).items() if not name.startswith("_")}
        assert public == {name: value for name, value in vars(writer).items() if not name.startswith("_")}
        assert str(tmp_path) not in repr(public)
    opened = OpenAIWriter("m", endpoint)
    opened._client = opened._open()
    assert opened._client.api_key == "hidden-key"
    assert b"hidden-key" not in pickle.dumps(opened)
    code = (
        "import sys\nfrom medclm.corpus.writers.openai_writer import *\nfrom medclm.corpus.writers.local_writer import LocalWriter\n"
        "OpenAIWriter('m', Endpoint('http://127.0.0.1:9/v1'))\nLocalWriter('m')\n"
        "assert not {'openai', 'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_proxy_and_no_redirect_takes_a_request_off_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://10.0.0.1:3128")
    monkeypatch.setenv("ALL_PROXY", "http://10.0.0.1:3128")
    client = OpenAIWriter("m", HERE)._open()
    assert client.max_retries == 0
    assert client._client.follow_redirects is False
    assert client._client.trust_env is False
    assert not client._client._mounts


def arguments(*flags: str):
    parser = ArgumentParser()
    add_writer_flags(parser.add_argument_group("writer"))
    parser.set_defaults(out=Path("corpora/x"), seed=3, workers=2, dry_run=False)
    return parser.parse_args(flags)


def test_flags_make_the_writer_that_they_mean():
    template = make_writer(arguments("--kinds", "what", "--max-per-image", "2"))
    assert (template.name, template.kinds, template.max_per_image) == ("template", ("what",), 2)
    flags = (
        "--writer",
        "openai",
        "--model",
        "a/b",
        "--requests-per-minute",
        "60",
        "--temperature",
        "-1",
        "--on-writer-failure",
    )
    writer = make_writer(arguments(*flags, "template"))
    assert writer.name == "openai:b"
    assert writer.wording == Wording(seed=3, temperature=None, on_failure="template")
    assert writer._endpoint.requests_per_minute == 30, "two processes share the limit"
    assert writer._cache.folder == Path("corpora/x-replies").absolute()
    with pytest.raises(ValueError, match="--writer openai needs --model"):
        make_writer(arguments("--writer", "openai"))
    with pytest.raises(ValueError, match="--allow-remote"):
        make_writer(arguments("--writer", "openai", "--model", "m", "--base-url", "http://10.0.0.1/v1"))
    with pytest.raises(ValueError, match="--workers 1"):
        make_writer(arguments("--writer", "local", "--model", "m"))
