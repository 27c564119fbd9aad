"""Phantoms made for a run: the kinds its recipe names are asked, no other corpus is taken for them, a wrong kind is named."""

from pathlib import Path

import pytest

from medclm.config import ConfigError, load_recipe
from medclm.data.shards import Corpus
from train.corpora import corpus_folder


def folder(out: Path, kinds: str) -> Path:
    flags = [f"--run.output_dir={out}", "--data.phantoms=12", f"--data.phantom_kinds={kinds}"]
    return corpus_folder(load_recipe(flags))


def kinds_of(path: Path) -> set[str]:
    batches = Corpus(path).scan("records", ["question_kind"])
    return {row["question_kind"] for batch in batches for row in batch.to_pylist()}


def test_only_the_named_kinds_are_asked_and_another_choice_is_another_corpus(tmp_path: Path) -> None:
    some, every = folder(tmp_path, '["what","where"]'), folder(tmp_path, "[]")
    assert some != every
    assert kinds_of(some) == {"what", "where"}
    assert kinds_of(every) > {"what", "where", "presence"}


def test_an_unknown_kind_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.phantom_kinds='why': choose from presence"):
        folder(tmp_path, '["why"]')
    assert not list(tmp_path.iterdir())
