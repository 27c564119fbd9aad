"""Language files: a file of one's own works, and each mistake in one is named with its place."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path

import pytest
import yaml

from medclm.corpus.phrases import KINDS, LEAST, load_phrases
from medclm.corpus.writers.template import TemplateWriter

ENGLISH = yaml.safe_load(resources.files("medclm.corpus").joinpath("languages", "en.yaml").read_text(encoding="utf-8"))


def test_english_has_enough_phrasings_of_every_kind() -> None:
    phrases = load_phrases("en")
    for stage, questions in (("easy", phrases.easy), ("medium", phrases.medium)):
        assert set(questions) == set(KINDS[stage])
        assert min(len(set(some)) for some in questions.values()) >= LEAST
    # rationales combine verbs with endings
    assert min(len(verbs) for verbs in phrases.verbs.values()) * len(phrases.clauses["label"]) >= LEAST


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    tree = copy.deepcopy(ENGLISH)
    tree["language"] = "en-plain"
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert TemplateWriter(language=path).phrases == load_phrases(path)
    assert load_phrases(path).language == "en-plain"


def put(tree: dict, place: str, value: object) -> None:
    *parents, last = place.split(".")
    for key in parents:
        tree = tree[key]
    if value is None:
        del tree[last]
    else:
        tree[last] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("language", None, "language is missing"),
        ("questions.easy.what", None, r"questions\.easy\.what is missing"),
        ("questions.easy.what", ["What is in the {color} box?"], "1 phrasings, at least 6"),
        ("questions.easy.what", ["What?"] * 6, "stands there twice"),
        ("questions.easy.what", [f"What is {n}?" for n in range(6)], r"\{color\} only in easy"),
        ("questions.medium.what", [f"What is in box {{color}} {n}?" for n in range(6)], "only in easy"),
        ("questions.medium.count", [f"How many {n}?" for n in range(6)], r"\{many\} is missing"),
        ("questions.medium.count", [f"How many {{many}} {{of}} {n}?" for n in range(6)], "placeholders are"),
        ("questions.medium.count", [f"How many {{many {n}?" for n in range(6)], "braces"),
        ("verbs.inside", [["lies in"]], r"verbs\.inside: expected"),
        ("clauses.label", [", a thing."], r"clauses\.label: ', a thing\.'"),
        ("clauses.size", "12 mm", "expected a list of phrases"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, place: str, value: object, message: str) -> None:
    tree = copy.deepcopy(ENGLISH)
    put(tree, place, value)
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=f"wrong.yaml.*{message}"):
        load_phrases(path)


def test_what_is_no_file_of_phrasings(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"broken\.yaml: not a YAML file"):
        load_phrases(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ValueError, match="language is missing"):
        load_phrases(tmp_path / "list.yaml")
