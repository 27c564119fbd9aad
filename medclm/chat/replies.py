"""What comes back of a question to a model: a reply, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Failure(NamedTuple):
    """Why there is no text."""

    reason: str
    detail: str
    """Numbers and names of fields; never words of the reply."""


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    text: str
    finish: str = "stop"
    """stop, length (cut off), refused."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
