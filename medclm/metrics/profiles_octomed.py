"""How OctoMed's answers are scored, as far as it is published: accuracy of closed answers, token F1 of open ones, in a box.

What is assumed stands at `judge`. docs/profiles.md lists the flaws and the tests pin them. Knows nothing of prompts or models.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from medclm.metrics.parsing import chosen, options, true_option
from medclm.metrics.profiles_parts import ARTICLES, boxed, f1_of

_LETTER = re.compile(r"^\(?([A-Ha-h])(?:\)?[.):]|\)?$)")


def squad_normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: the normaliser of SQuAD (Rajpurkar et al. 2016)."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(word for word in kept.split() if word not in ARTICLES)


def judge(question: str, answer_type: str, text: str, answer: str) -> dict[str, float]:
    r"""Values in 0..1 in the manner of OctoMed (Ossowski et al. 2025, arXiv 2511.23269), whose scorer is not published.

    Known from its model card: reasoning in `<think>` tags before the answer, closed accuracy and
    open token F1. Assumed: `\boxed{}` holds the answer and without it the answer is wrong; SQuAD's tokens, counted as
    multisets; closed answers equal after that normalisation; in a choice the letter decides, whatever words follow it.
    """
    inside = boxed(text.rsplit("</think>", 1)[-1])
    said = inside or ""
    equal = float(inside is not None and squad_normalise(said) == squad_normalise(answer))
    if answer_type == "open":
        return _squad(squad_normalise(said).split(), squad_normalise(answer).split()) | {"open_exact_match": equal}
    if answer_type == "closed":
        return {"closed_accuracy": equal}
    choices = options(question)
    letter = _LETTER.match(said)
    picked = letter[1].upper() if letter else chosen(said, choices)
    right = float(picked is not None and picked == true_option(answer, choices)) if choices else equal
    return {"closed_accuracy": right, "choice_accuracy": right}


def _squad(said: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    shared = (Counter(said) & Counter(truth)).total()
    precision, recall = (shared / len(said), shared / len(truth)) if shared else (0.0, 0.0)
    return {
        "open_token_precision": precision,
        "open_token_recall": recall,
        "open_token_f1": f1_of(precision, recall),
    }
