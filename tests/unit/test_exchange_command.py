"""`corpus.py export` and `corpus.py import`: one corpus through every format and back, and what the commands say of it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from launch.corpus_commands import exchange
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import KEY_VARIABLE, phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.manifest import write_json
from medclm.data.shards import Corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "corpus"
    build(PhantomSource(count=6, size=64), TemplateWriter(), out, BuildOptions(ids=phantom_ids(0), progress=False))
    return out


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    exchange.add(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    code: int = args.run(args)
    return code


FILES = {
    "published": "published.json",
    "coco": "coco.json",
    "llava": "train.json",
    "sharegpt": "train.json",
    "ms-swift": "train.jsonl",
}


@pytest.mark.parametrize("name", FILES)
def test_there_and_back(
    name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    assert run("export", corpus, "--format", name, "--out", tmp_path / "out", "--split", "train") == 0
    said = capsys.readouterr().out
    assert "Source phantoms: " in said
    assert "Research use only, not a medical device." in said
    assert (tmp_path / "out" / FILES[name]).exists()
    assert (tmp_path / "out" / "images" / "NOTICE.txt").exists()
    if name == "coco":
        assert f"--annotations {tmp_path}/out/coco.json" in said
        return
    assert run("import", tmp_path / "out" / FILES[name], "--format", name, "--out", tmp_path / "back") == 0
    said = capsys.readouterr().out
    assert f"not carried by {name}, so unknown here: patients" in said
    assert Corpus(tmp_path / "back").count("records") == Corpus(corpus).count("records", "train")
    assert set(Corpus(tmp_path / "back").manifest["sources"]) == {name}


def test_pictures_that_may_not_leave_are_named(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in corpus.iterdir():
        (tmp_path / path.name).symlink_to(path)
    manifest = Corpus(corpus).manifest
    manifest["sources"]["phantoms"] |= {"shareable": False, "licences": ["data use agreement"]}
    (tmp_path / "manifest.json").unlink()
    write_json(tmp_path / "manifest.json", manifest)
    assert run("export", tmp_path, "--format", "llava", "--out", tmp_path / "out") == 0
    expected = "Source phantoms: data use agreement; NOT shareable: its pictures must not leave this machine"
    assert expected in capsys.readouterr().out
    assert expected in (tmp_path / "out" / "images" / "NOTICE.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "coco", "--digits", "3"], "--digits 3: coco keeps boxes as numbers"),
        (["--format", "ms-swift", "--digits", "3"], "--digits 3: ms-swift keeps boxes as numbers"),
        (["--format", "published", "--box-text", "padded"], "--box-text padded: published has one rule for boxes"),
    ],
)
def test_a_flag_that_a_format_cannot_follow_is_refused(words: list[str], message: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run("export", corpus, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_digits_and_box_rule_are_followed(corpus: Path, tmp_path: Path) -> None:
    run("export", corpus, "--format", "sharegpt", "--box-text", "padded", "--digits", "2", "--out", tmp_path / "out")
    text = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("t*.json")))
    assert '"box_text": "padded"' in text
    assert re.search(r"Reasoning: \[(0\.\d\d, ){3}0\.\d\d\] ", text)
