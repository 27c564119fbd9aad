"""A language of the template writer: a file of phrasings with placeholders, and nothing else.

English is built in (languages/en.yaml); another wording is a file of the same shape (`--language FILE`). Names of classes and
organs and the words of locations stay English: they are the corpus's vocabulary and the checks look for them. Knows no facts
and no images.

Lists of a language file:
    questions.STAGE.KIND        at least `LEAST` each; Easy about the drawn box, Medium about the whole image
    verbs.RELATION              [of one box, of several] each
    clauses.label, .labels      end a rationale with its class, of one lesion or of several
    clauses.label_measured      does so after a measured appearance, which the class then fits
    clauses.absent_here, .absent_anywhere    a class that a control box, or the whole image, does not show
    clauses.size                goes before the label
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from medclm.data.schema import RELATIONS

LEAST = 6
"""Questions per stage and kind."""
BUILT_IN = ("en",)
KINDS = {
    "easy": ("what", "where", "which_organ", "presence", "size", "describe"),
    "medium": ("what", "where", "which_organ", "presence", "count", "size", "compare", "describe"),
}
"""Stage -> question kinds that it has."""

_QUESTION_WORDS = {"color", "noun", "one", "many", "subject", "is", "does", "first", "second"}
_NEEDED = {
    **{("easy", kind): {"color"} for kind in KINDS["easy"]},
    **{("medium", kind): {"subject"} for kind in ("what", "where", "which_organ", "size")},
    ("medium", "presence"): {"one"},
    ("medium", "count"): {"many"},
    ("medium", "compare"): {"first", "second"},
    ("easy", "presence"): {"color", "one"},
}
_CLAUSES = {
    "label": {"one"},
    "label_measured": {"one"},
    "labels": {"many"},
    "absent_here": {"name"},
    "absent_anywhere": {"name", "one"},
    "size": {"size"},
}
"""Clause -> placeholders, of which a phrasing has one."""


@dataclass(frozen=True)
class Phrases:
    """One language file, checked."""

    language: str
    easy: Mapping[str, tuple[str, ...]]
    """Kind -> questions."""
    medium: Mapping[str, tuple[str, ...]]
    verbs: Mapping[str, tuple[tuple[str, str], ...]]
    """Relation -> (singular, plural)."""
    clauses: Mapping[str, tuple[str, ...]]


def load_phrases(language: str | Path) -> Phrases:
    """A built-in language by its code, or a language file.

    Raises:
        ValueError: unknown code, unreadable file, a list that is missing or too short, an unknown or missing placeholder;
            names the file, the list and the phrase.
    """
    if str(language) in BUILT_IN:
        text = resources.files("medclm.corpus").joinpath("languages", f"{language}.yaml").read_text(encoding="utf-8")
        return _checked(f"{language}.yaml", yaml.safe_load(text))
    path = Path(language)
    if not path.is_file():
        raise ValueError(f"--language {language}: neither {', '.join(BUILT_IN)} nor a file of phrasings")
    try:
        return _checked(str(path), yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error


def _checked(name: str, tree: Any) -> Phrases:
    language = _at(name, tree, "language")
    if not isinstance(language, str) or not language:
        raise ValueError(f"{name}: language: expected a code such as en")
    return Phrases(
        language=language,
        easy={kind: _questions(name, tree, "easy", kind) for kind in KINDS["easy"]},
        medium={kind: _questions(name, tree, "medium", kind) for kind in KINDS["medium"]},
        verbs={relation: _verbs(name, tree, relation) for relation in RELATIONS},
        clauses={clause: _clauses(name, tree, clause, words) for clause, words in _CLAUSES.items()},
    )


def _at(name: str, tree: Any, *keys: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(tree, dict) or key not in tree:
            raise ValueError(f"{name}: {'.'.join(keys[: depth + 1])} is missing")
        tree = tree[key]
    return tree


def _texts(name: str, tree: Any, *keys: str) -> tuple[str, ...]:
    found = _at(name, tree, *keys)
    if not isinstance(found, list) or not found or not all(isinstance(one, str) and one.strip() for one in found):
        raise ValueError(f"{name}: {'.'.join(keys)}: expected a list of phrases")
    if len(set(found)) < len(found):
        raise ValueError(f"{name}: {'.'.join(keys)}: a phrase stands there twice")
    return tuple(found)


def _questions(name: str, tree: Any, stage: str, kind: str) -> tuple[str, ...]:
    found = _texts(name, tree, "questions", stage, kind)
    where = f"{name}: questions.{stage}.{kind}"
    if len(found) < LEAST:
        raise ValueError(f"{where}: {len(found)} phrasings, at least {LEAST} are needed")
    for phrase in found:
        words = _placeholders(where, phrase)
        if not words <= _QUESTION_WORDS or ("color" in words) != (stage == "easy"):
            raise ValueError(
                f"{where}: {phrase!r}: placeholders are {', '.join(sorted(_QUESTION_WORDS))}; {{color}} only in easy"
            )
        if missing := _NEEDED.get((stage, kind), set()) - words:
            raise ValueError(f"{where}: {phrase!r}: {{{'}, {'.join(sorted(missing))}}} is missing")
    return found


def _verbs(name: str, tree: Any, relation: str) -> tuple[tuple[str, str], ...]:
    found = _at(name, tree, "verbs", relation)
    pairs: Sequence[Any] = found if isinstance(found, list) else ()
    if not pairs or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair) for pair in pairs
    ):
        raise ValueError(f"{name}: verbs.{relation}: expected a list of [of one box, of several]")
    return tuple((pair[0], pair[1]) for pair in pairs)


def _clauses(name: str, tree: Any, clause: str, words: set[str]) -> tuple[str, ...]:
    found = _texts(name, tree, "clauses", clause)
    for phrase in found:
        if len(_placeholders(f"{name}: clauses.{clause}", phrase) & words) != 1:
            raise ValueError(f"{name}: clauses.{clause}: {phrase!r}: needs one of {{{'}, {'.join(sorted(words))}}}")
    return found


def _placeholders(where: str, phrase: str) -> set[str]:
    try:
        return {field for _, field, _, _ in string.Formatter().parse(phrase) if field is not None}
    except ValueError as error:
        raise ValueError(f"{where}: {phrase!r}: {error}: braces stand around placeholders only") from error
