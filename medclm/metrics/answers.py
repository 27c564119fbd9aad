"""Scores of one answer against its accepted answers: closed, choice, open, and the kinds with a scorer of their own.

Every function takes the answer's text (None = unparsed, always wrong) and the accepted alternatives; a question with several
is scored by the best one. Knows nothing of boxes, images or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from medclm.metrics.bleu import bleu, counts
from medclm.metrics.parsing import (
    alternatives,
    chosen,
    count_in,
    named_parts,
    normalise,
    options,
    parts,
    pieces,
    polarity,
    sides_in,
    singular,
    size_mm_in,
    tokens,
    true_option,
)

Vocabulary = frozenset[tuple[str, ...]]

SIZE_TOLERANCE = 0.2
"""A stated length is right within this fraction of the true one."""

NAMING_KINDS = ("what", "which_organ")
"""Question kinds whose open answers name things; `answer_accuracy` is over these."""

_FUNCTION_WORDS = frozenset(("part", "side", "of", "in", "at", "on", "to", "zone", "region", "area", "is", "it", "lies", "and"))
"""Words of a location that locate nothing: `left kidney, anterior part` says what `anterior part of the left kidney` says."""
_SAME = {"middle": "mid", "center": "central", "centre": "central", "top": "upper", "bottom": "lower", "both": "bilateral"}


def exact(answer: str | None, answers: Sequence[str]) -> bool:
    """Equal to an accepted answer after normalisation."""
    return answer is not None and normalise(answer) in {normalise(other) for other in alternatives(answers)}


def closed_right(answer: str | None, answers: Sequence[str]) -> bool:
    """Whole match, or the same leading yes or no; `yes and no` is wrong."""
    if answer is None:
        return False
    said = polarity(answer)
    if said is not None and said in {polarity(other) for other in alternatives(answers)}:
        return True
    return said is None and exact(answer, answers)


def choice_right(answer: str | None, answers: Sequence[str], question: str, listed: Sequence[str] = ()) -> bool:
    """The right option by letter or by exactly its words; without options, whole match.

    Args:
        question: its options are read where none are `listed`.
        listed: texts of the options in the order of their letters.
    """
    choices = {chr(ord("A") + at): text for at, text in enumerate(listed)} or options(question)
    if answer is None or not choices:
        return exact(answer, answers)
    truth = {true_option(other, choices) for other in alternatives(answers)} - {None}
    return chosen(answer, choices) in truth


def token_scores(answer: str | None, answers: Sequence[str]) -> tuple[float, float, float]:
    """(precision, recall, F1) of the words as multisets, of the alternative with the best F1: a repeated word counts once
    for each time the truth has it. Chinese counts by character."""
    said = Counter(pieces(answer or ""))
    best = (0.0, 0.0, 0.0)
    for other in alternatives(answers):
        truth = Counter(pieces(other))
        shared = (said & truth).total()
        if shared:
            precision, recall = shared / said.total(), shared / truth.total()
            best = max(best, (precision, recall, 2 * precision * recall / (precision + recall)), key=lambda triple: triple[2])
    return best


def bleu_of_sample(answer: str | None, answers: Sequence[str], n: int) -> float:
    """Unsmoothed BLEU-n of one answer; its mean over examples is `mean_sample_bleu`, not corpus BLEU."""
    return float(bleu(counts(pieces(answer or ""), [pieces(other) for other in alternatives(answers)]), n))


def vocabulary(answers: Iterable[Sequence[str]]) -> Vocabulary:
    """Everything that accepted answers name: what `names_right` looks for in a free text."""
    return frozenset(phrase for accepted in answers for other in alternatives(accepted) for phrase in parts(other))


def names_right(answer: str | None, answers: Sequence[str], names: Vocabulary) -> bool:
    """All parts of an accepted answer are named and no other known part: `It is a cyst.` for `cyst`, not `cyst or mass`; a side
    that is said must be a true one."""
    if answer is None:
        return False
    if exact(answer, answers):
        return True
    if _wrong_side(answer, answers):
        return False
    said = named_parts(answer, names)
    return bool(said) and said in {parts(other) for other in alternatives(answers)}


def count_right(answer: str | None, answers: Sequence[str]) -> bool:
    """The first number said is the true one; an uncounted truth (`many`) needs a whole match."""
    if answer is None:
        return False
    truths = {count_in(other) for other in alternatives(answers)} - {None}
    return count_in(answer) in truths if truths else exact(answer, answers)


def side_right(answer: str | None, answers: Sequence[str]) -> bool | None:
    """The sides said are the true ones; None where an accepted answer names no side, so that none is asked for."""
    truths = {sides_in(other) for other in alternatives(answers)}
    if not truths or frozenset() in truths:
        return None
    return answer is not None and sides_in(answer) in truths


def _wrong_side(answer: str, answers: Sequence[str]) -> bool:
    """A side is said that no accepted answer has, though some answer has one; in free text it would pass as an unknown word."""
    truths = {sides_in(other) for other in alternatives(answers)} - {frozenset()}
    return bool(truths) and bool(sides_in(answer)) and sides_in(answer) not in truths


def location_vocabulary(answers: Iterable[Sequence[str]]) -> Vocabulary:
    """Every word with which accepted answers locate: what `where_right` looks for."""
    words = {word for accepted in answers for other in alternatives(accepted) for word in _located(other)}
    return frozenset((singular(word),) for word in words - _FUNCTION_WORDS)


def _located(text: str) -> list[str]:
    return [_SAME.get(token, token) for token in tokens(text)]


def where_right(answer: str | None, answers: Sequence[str], words: Vocabulary) -> bool:
    """The known location words said, organs included, are those of an accepted answer, in any order; no other, no negation."""
    if answer is None:
        return False
    if exact(answer, answers):
        return True
    said = named_parts(" ".join(_located(answer)), words)
    return bool(said) and said in {named_parts(" ".join(_located(other)), words) for other in alternatives(answers)}


def size_right(answer: str | None, answers: Sequence[str]) -> bool:
    """A length within `SIZE_TOLERANCE` of a true one, units converted; a truth in words needs a whole match."""
    if answer is None:
        return False
    truths = [size for other in alternatives(answers) if (size := size_mm_in(other)) is not None]
    said = size_mm_in(answer)
    if not truths or said is None:
        return exact(answer, answers)
    return any(abs(said - truth) <= SIZE_TOLERANCE * truth for truth in truths)


def answer_right(
    kind: str,
    answer_type: str,
    question: str,
    answer: str | None,
    answers: Sequence[str],
    names: Vocabulary,
    listed: Sequence[str] = (),
) -> bool | None:
    """Whether an answer is right, by question kind and answer type; None for free descriptions, which are graded, not judged."""
    if kind == "describe":
        return None
    if answer_type == "choice":
        return choice_right(answer, answers, question, listed)
    if answer_type == "closed":
        return closed_right(answer, answers)
    if kind in NAMING_KINDS:
        return names_right(answer, answers, names)
    if kind == "where":
        return where_right(answer, answers, names)
    scorer = {"count": count_right, "size": size_right}.get(kind, exact)
    return scorer(answer, answers)


def judge(
    kind: str,
    answer_type: str,
    question: str,
    answer: str | None,
    answers: Sequence[str],
    names: Vocabulary,
    listed: Sequence[str] = (),
) -> dict[str, float]:
    """Values of one answered question, each under the name of the mean it enters; what does not apply is left out."""
    right = answer_right(kind, answer_type, question, answer, answers, names, listed)
    values: dict[str, float] = {} if right is None else {"right": float(right)}
    if answer_type in ("closed", "choice"):
        values |= _closed_values(answer_type, answers, bool(right))
    else:
        values |= _open_values(kind, answer, answers, right)
    side = side_right(answer, answers)
    if side is not None and answer_type == "open":
        values["side_accuracy"] = float(side)
    return values


def _closed_values(answer_type: str, answers: Sequence[str], right: bool) -> dict[str, float]:
    values = {"closed_accuracy": float(right)}
    truth = polarity(alternatives(answers)[0]) if answer_type == "closed" and alternatives(answers) else None
    if truth is not None:
        values["sensitivity" if truth else "specificity"] = float(right)
    if answer_type == "choice":
        values["choice_accuracy"] = float(right)
    return values


def _open_values(kind: str, answer: str | None, answers: Sequence[str], right: bool | None) -> dict[str, float]:
    precision, recall, f1 = token_scores(answer, answers)
    if kind == "describe":
        return {"describe_token_f1": f1, "describe_bleu4_mean": bleu_of_sample(answer, answers, 4)}
    values = {
        "open_token_precision": precision,
        "open_token_recall": recall,
        "open_token_f1": f1,
        "open_exact_match": float(exact(answer, answers)),
        "open_bleu1_mean": bleu_of_sample(answer, answers, 1),
    }
    if kind in NAMING_KINDS:
        values |= {"answer_accuracy": float(bool(right)), f"answer_accuracy_{kind}": float(bool(right))}
    elif kind in ("where", "count", "size"):
        values[f"{kind}_accuracy"] = float(bool(right))
    return values
