"""Image-free guesses: what can be scored without looking. A score means something only beside the score of its guess.

The guess for a question is the majority answer (or the median box) of the training questions with exactly its words, if it
was asked often enough, else of its kind. Both are fitted on the train split alone. Knows nothing of files or models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from medclm.metrics.parsing import normalise
from medclm.types import Box

FEWEST_SEEN = 5
"""Training questions with the same words below which the guess falls back to the question's kind."""


class MajorityAnswer:
    """The commonest training answer by question; `guess` is text as a model would answer."""

    def __init__(self, training: Iterable[tuple[str, str, str]]) -> None:
        """`training`: question kind, question, answer of each training record; ties go to the answer met first."""
        self._by_text: dict[str, Counter[str]] = defaultdict(Counter)
        self._by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        self._spelling: dict[str, str] = {}
        for kind, question, answer in training:
            key = normalise(answer)
            self._spelling.setdefault(key, answer)
            self._by_text[normalise(question)][key] += 1
            self._by_kind[kind][key] += 1

    def guess(self, kind: str, question: str) -> str | None:
        """The guess, or None for a kind that training never shows."""
        seen = self._by_text.get(normalise(question), Counter())
        if seen.total() < FEWEST_SEEN:
            seen = self._by_kind.get(kind, Counter())
        return self._spelling[seen.most_common(1)[0][0]] if seen else None


class MedianBox:
    """The coordinate-wise median of the training boxes by question."""

    def __init__(self, training: Iterable[tuple[str, Box]]) -> None:
        """`training`: question and one unit box of each training lesion asked about."""
        by_text: dict[str, list[Box]] = defaultdict(list)
        for question, box in training:
            by_text[normalise(question)].append(box)
        every = [box for boxes in by_text.values() for box in boxes]
        self._overall = _median(every) if every else None
        self._by_text = {text: _median(boxes) for text, boxes in by_text.items() if len(boxes) >= FEWEST_SEEN}

    def guess(self, question: str) -> Box | None:
        """The guess in unit coordinates, or None where training holds no box."""
        return self._by_text.get(normalise(question), self._overall)


def _median(boxes: list[Box]) -> Box:
    return Box(*(float(value) for value in np.median(np.asarray(boxes, dtype=np.float64), axis=0)))
