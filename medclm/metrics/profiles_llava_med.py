"""How LLaVA-Med scores an answer, flaws included: the most quoted closed accuracy and open recall.

Written from what its published code does (microsoft/LLaVA-Med, `llava/eval`), so that a number can be laid beside published
ones. Wrong in ways that docs/profiles.md lists and the tests pin: never headline it alone. Knows nothing of prompts or models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from medclm.metrics.profiles_parts import ARTICLES, f1_of

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def vqa_normalise(text: str) -> str:
    """The answer normaliser of the VQA challenge (Antol et al. 2015) as LLaVA-Med applies it.

    A punctuation mark that touches a space somewhere in the text is deleted all over the text, any other becomes a space; one
    comma between digits makes every mark deleted. Full stops go unless a digit follows; number words up to ten become
    digits; articles are dropped. Its table of contractions (`dont` = `don't`) and its limit of 32 full stops are left out.
    """
    thousands = re.search(r"\d,\d", text) is not None
    kept = text
    for mark in _MARKS:
        deleted = thousands or f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if deleted else " ")
    words = (_DIGITS.get(word, word) for word in re.sub(r"\.(?!\d)", "", kept).lower().split())
    return " ".join(word for word in words if word not in ARTICLES)


def judge(question: str, answer_type: str, text: str, answer: str) -> dict[str, float]:
    """Values in 0..1 as in `run_eval_batch.py` of LLaVA-Med (Li et al. 2023, arXiv 2306.00890); open recall is what it quotes.

    Closed and choice: right if the accepted answer is contained in the text as a string of letters. `closed_accuracy_dropping`
    is the accuracy of its `run_eval.py`, which asks for a `yes` or `no` somewhere and forgets the wrong answers that have
    one: they lack the value here, so that they leave the mean's denominator as they do there.
    """
    said, truth = vqa_normalise(text), vqa_normalise(answer)
    contained = float(truth in said)
    if answer_type == "open":
        return {"open_accuracy": contained} | _unclipped(said.split(), truth.split())
    values = {"closed_accuracy": contained}
    if answer_type == "choice":
        values["choice_accuracy"] = contained
    polar = "yes" in said or "no" in said
    if contained or not polar:
        values["closed_accuracy_dropping"] = float(polar)
    return values


def _unclipped(said: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Token scores in which a shared word counts as often as the prediction says it, and an exact match that is none: the
    truth's distinct words found, per word said."""
    hits = sum(word in truth for word in said)
    missed = sum(word not in said for word in truth)
    precision, recall = (hits / len(said), hits / (hits + missed)) if hits else (0.0, 0.0)
    return {
        "open_token_precision": precision,
        "open_token_recall": recall,
        "open_token_f1": f1_of(precision, recall),
        "open_exact_match": len(set(truth) & set(said)) / len(said) if said else 0.0,
    }
