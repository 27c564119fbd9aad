"""The template writer: deterministic questions and answers around traced claims, several phrasings each.

It asks only what the facts determine: a question about one lesion needs words that are true of that lesion alone, a
negative needs a class in scope, a count needs a class in scope, a size needs a pixel spacing. Knows linked images; nothing
of splits, partners or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medclm.corpus.contract import Draft, LinkedImage, Reject, WriteRequest
from medclm.corpus.phrases import load_phrases
from medclm.corpus.writers.sheet import Sheet
from medclm.draws import generator

NAME = "template"
KINDS = ("presence", "what", "where", "which_organ", "count", "describe", "size", "compare")
"""Question kinds that it can ask (see sheet.py)."""


class TemplateWriter:
    """Deterministic texts; implements `contract.Writer`.

    Args:
        language: a built-in language or a language file, see phrases.py.
        max_per_image: drafts per image at most, spread evenly over the question kinds.
        kinds: which of `KINDS` are asked.

    Raises:
        ValueError: a language that cannot be read, a cap under 1, or a kind that is not one of `KINDS`.
    """

    name = NAME

    def __init__(self, language: str | Path = "en", max_per_image: int = 6, kinds: Sequence[str] = KINDS) -> None:
        if max_per_image < 1:
            raise ValueError(f"max_per_image={max_per_image}: give at least 1")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds={','.join(kinds)!r}: choose from {', '.join(KINDS)}")
        self.phrases = load_phrases(language)
        self.max_per_image, self.kinds = max_per_image, tuple(kind for kind in KINDS if kind in kinds)

    def write(self, requests: Sequence[WriteRequest]) -> list[tuple[list[Draft], list[Reject]]]:
        """Up to `max_per_image` drafts of each image; nothing is refused here."""
        return [(self.drafts(request.linked, request.seed), []) for request in requests]

    def drafts(self, linked: LinkedImage, seed: int) -> list[Draft]:
        sheet = Sheet(linked, seed, self.phrases, self.name)
        order = generator(seed, f"template.kinds {linked.image.key}").permutation(len(KINDS))
        kinds = [KINDS[int(i)] for i in order if KINDS[int(i)] in self.kinds]
        queues = [queue for kind in kinds if (queue := sheet.questions(kind))]
        drafts: list[Draft] = []
        while queues and len(drafts) < self.max_per_image:
            for queue in queues:
                drafts += queue.pop(0)
            queues = [queue for queue in queues if queue]
        return drafts[: self.max_per_image]
