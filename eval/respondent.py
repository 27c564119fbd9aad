"""Who answers: a checkpoint on this machine, a server, or a file of stored predictions; and how a reply is read.

Knows nothing of suites or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eval.example import Ask, Example, Prediction, Reply, Square
from eval.pictures import Pictures
from medclm.config import BoxTextSection
from medclm.data.frame import ImageFrame
from medclm.metrics.parsing import split_completion


@dataclass(frozen=True)
class Asked:
    """One thing to be asked, about one example."""

    example: Example
    ask: Ask

    @property
    def id(self) -> str:
        """Unique within an evaluation."""
        return f"{self.example.id}#{self.ask.name}"


class Respondent(Protocol):
    """Answers what it is asked."""

    square: Square
    box_text: BoxTextSection
    settings: dict[str, Any]
    """Everything that decides the replies, as JSON; two evaluations with other settings are never mixed."""

    def replies(
        self, asked: Sequence[Asked], pictures: Pictures | None, progress: Callable[[int], None]
    ) -> Iterable[tuple[Asked, Reply]]:
        """A reply to each, in any order, as they come.

        Args:
            progress: called with the number of replies just made.

        Raises:
            ValueError: it cannot be asked this (no pictures, no likelihoods); names the cure.
        """
        ...


def read_reply(reply: Reply, frame: ImageFrame | None, box_text: BoxTextSection) -> Prediction:
    """A reply taken apart; a box written twice is one box, with the higher of its scores.

    Args:
        frame: of the example's picture; None where there is none, and then no box is read.
    """
    parsed = split_completion(reply.text)
    written = frame.find_written(reply.text, box_text) if frame else []
    if reply.boxes_unit is not None:
        written = [(box, slice(0, 0)) for box in reply.boxes_unit]
    scores = list(reply.box_scores) if len(reply.box_scores) == len(written) else []
    best: dict[Any, float] = {}
    for at, (box, _) in enumerate(written):
        best[box] = max(best.get(box, float("-inf")), scores[at] if scores else float("-inf"))
    return Prediction(
        text=reply.text,
        answer=parsed.answer,
        rationale=parsed.rationale,
        boxes_unit=tuple(best),
        boxes_in_rationale=len(frame.find_boxes(parsed.rationale, box_text)) if frame else len(written),
        box_scores=tuple(best.values()) if scores else (),
        option_scores=reply.option_scores,
        option_tokens=reply.option_tokens,
    )
