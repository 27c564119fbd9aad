"""What is asked about a picture, what is true, and what comes back: the nouns that suites, models and layouts share.

Knows no metric, no model and no file format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from medclm.data.frame import ImageFrame
from medclm.types import Box

PictureKey = int | str
"""What `Pictures` opens: a row of our shards, or a path below a folder."""


class Square(NamedTuple):
    """The model's square picture, as far as judging needs it: boxes are counted by size in its patches."""

    side: int
    patch_size: int
    fit: Any
    """`pad` or `stretch`, as data.fit."""

    def frame(self, size: tuple[int, int]) -> ImageFrame:
        """The way of a picture of (width, height) pixels into the square."""
        return ImageFrame(*size, side=self.side, fit=self.fit)


class Terms(NamedTuple):
    """How an evaluation asks, whatever the suite."""

    instruction: str
    """How each question ends: `reason` or `direct`."""
    square: Square
    profile: str = "medclm"
    """Whose rules ask and judge the questions of `vqa`: a name of medclm/metrics/profiles.py."""


@dataclass(frozen=True)
class Example:
    """A question about one picture and what is true of it; no box is drawn on the picture."""

    id: str
    patient: str
    """Whoever shares pictures is resampled together; the picture itself where nobody is known."""
    question_kind: str
    """One of `medclm.data.schema.QUESTION_KINDS` where it is known, else the benchmark's own word."""
    answer_type: str
    """closed, open or choice."""
    question: str
    """Without its response instruction; empty where the suite words it (reports, labels)."""
    picture: PictureKey
    answers: tuple[str, ...] = ()
    """Accepted alternatives; of a report, its text."""
    boxes_unit: tuple[Box, ...] = ()
    """All lesions the question is about: of the asked class in the image, or the one that the question singles out."""
    domain: str = ""
    boxes_known: bool = False
    """All lesions it is about have their box; False also where a benchmark has none."""
    lists_boxes: bool = True
    """The reference writes boxes: it does not for `no finding` and for crowds of lesions."""
    options: tuple[str, ...] = ()
    """Of a choice, in the order of their letters."""
    pointed: str = ""
    """A closed question about the drawn region whose answer is yes for `boxes_unit` ({color} names the colour); empty = none."""
    labels: Mapping[str, float] = field(default_factory=dict)
    """Observation -> 1 present, 0 absent, -1 uncertain; what was not assessed is missing."""
    language: str = "en"
    groups: Mapping[str, str] = field(default_factory=dict)
    """Subgroup the patient or picture belongs to, where known: sex, age, view, manufacturer, plane, ..."""


@dataclass(frozen=True)
class View:
    """What is done to a picture before it is shown."""

    kind: Literal["stored", "blank", "mirrored", "occluded", "swapped", "boxed"] = "stored"
    """As stored; grey; left and right exchanged; `boxes_unit` painted over; another picture; `boxes_unit` drawn in `colour`."""
    boxes_unit: tuple[Box, ...] = ()
    colour: str = ""
    other: PictureKey | None = None

    def key(self, picture: PictureKey) -> PictureKey:
        """Of the picture that is shown instead of an example's own."""
        return picture if self.other is None else self.other


STORED = View()


@dataclass(frozen=True)
class Ask:
    """One thing asked about an example; suites that ask an example the same under one name share its reply."""

    name: str
    """Unique within the example, readable in files."""
    question: str
    """As the model gets it, instruction included."""
    view: View = STORED
    options: tuple[str, ...] = ()
    """Given these, no text is written: each option's log-likelihood is measured instead."""


@dataclass(frozen=True)
class Reply:
    """What came back for an `Ask`, before it is read."""

    text: str = ""
    tokens: int = 0
    stopped: bool = True
    """Ended by itself; False = cut at the longest completion."""
    option_scores: tuple[float, ...] = ()
    """Sum of the token log-probabilities of each option."""
    option_tokens: tuple[int, ...] = ()
    box_scores: tuple[float, ...] = ()
    """Mean log-probability of the tokens of each box in the text, in order, where it is known."""
    boxes_unit: tuple[Box, ...] | None = None
    """Boxes that were given as numbers beside the text; None = those that the text writes."""


@dataclass(frozen=True)
class Prediction:
    """A reply as it is read, or a guess."""

    text: str = ""
    answer: str | None = None
    """None = unparsed."""
    boxes_unit: tuple[Box, ...] = ()
    """Distinct boxes of the whole completion, in order."""
    boxes_in_rationale: int = 0
    box_scores: tuple[float, ...] = ()
    """Confidence in each of `boxes_unit`: mean log-probability of its tokens; empty where it is not known."""
    option_scores: tuple[float, ...] = ()
    option_tokens: tuple[int, ...] = ()
    rationale: str = ""


def number_of(name: str) -> int:
    """An id as a number, for draws that belong to it."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")


Said = Mapping[str, Prediction]
"""Name of the `Ask` -> what was said."""

Values = dict[str, float]
"""Per-example values by the name of the mean they enter; what does not apply is absent."""
