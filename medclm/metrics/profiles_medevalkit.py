"""How MedEvalKit scores an answer without its language-model judge, flaws included.

Written from what its published code does (alibaba-damo-academy/MedEvalKit), so that a number can be laid beside published
ones. Wrong in ways that docs/profiles.md lists and the tests pin: never headline it alone. Knows nothing of prompts or models.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from medclm.metrics.parsing import options, true_option
from medclm.metrics.profiles_parts import boxed, f1_of

_ANSWER_MARK = re.compile(r"\*\*answer(?:\*\*:?|:\*\*)|\*answer\*:|(?:final )?answer(?: is|:)|final answer|答案:")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def medevalkit_answer(text: str) -> str:
    """The part of a completion that MedEvalKit scores: box or `<answer>` tags, lower case, after the last answer mark.

    The blank after `answer:` stays, and a text that says `boxed` without a closed box is read as `None`.
    """
    inside = boxed(text)
    return _marked((_tagged(text) if inside is None else inside).lower().strip())


def _marked(text: str) -> str:
    """Of lower-case text; looks for box and tags once more, as the harness does."""
    inner = boxed(text) if "boxed" in text else _tagged(text)
    return _ANSWER_MARK.split("None" if inner is None else inner)[-1]


def _tagged(text: str) -> str:
    return " ".join(_TAGGED.findall(text)).strip() or text


def judge(question: str, answer_type: str, text: str, answer: str) -> dict[str, float]:
    """Values in 0..1 as in MedEvalKit (Xu et al. 2025, arXiv 2506.07044): `utils/VQA_RAD/VQA_RAD.py`, `utils/utils.py`.

    Open precision, recall and F1 carry the names under which MedEvalKit prints them, which are exchanged: its `precision` is
    the F1, its `recall` the precision, its `f1` the recall. Its published open accuracies are GPT-4.1's judgement (issue 12)
    and cannot be had here; `overall` is its accuracy with that judge off.
    """
    said, truth = medevalkit_answer(text), answer.lower().strip()
    if answer_type == "open":
        return _exchanged(said, truth)
    if answer_type == "choice" and options(question):
        right = float(_picked(text, options(question)) == true_option(answer, options(question)))
    else:
        right = float(_closed_right(said, truth))
    values = {"overall": right, "closed_accuracy": right}
    return values | ({"choice_accuracy": right} if answer_type == "choice" else {})


def _closed_right(said: str, truth: str) -> bool:
    plain = said.replace("\n", "").replace(".", "")
    if truth in ("yes", "no"):
        return ("yes" in plain) != ("no" in plain) and truth in plain
    return plain == truth


def _exchanged(said: str, truth: str) -> dict[str, float]:
    words, true_words = set(said.lower().split()), set(truth.split())
    shared = len(words & true_words)
    precision, recall = (shared / len(words), shared / len(true_words)) if shared else (0.0, 0.0)
    return {
        "overall": float(said == truth),
        "open_exact_match": float(said == truth),
        "open_token_precision": f1_of(precision, recall),
        "open_token_recall": precision,
        "open_token_f1": recall,
    }


def _picked(text: str, choices: Mapping[str, str]) -> str:
    """A letter by itself, else an option's words, else the option whose letters are most alike: no text picks nothing."""
    letters = {words.lower(): letter for letter, words in choices.items()}
    paragraphs = text.lower().split("\n\n")
    alone = [part for part in (paragraphs[0], paragraphs[-1].split(".")[0]) if part.upper() in choices]
    whole = _marked(alone[0] if alone else text.lower()).strip().lower().replace("\n", "")
    head = whole.split(".")[0].split(":")[-1]
    if head.upper() in choices:
        return head.upper()
    if head in letters:
        return letters[head]
    return max(choices, key=lambda letter: difflib.SequenceMatcher(None, choices[letter].lower(), whole).ratio())
