"""How completions are written. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """How completions are written.

    Raises:
        ValueError: nothing could be written so; names the flag.
    """

    max_new_tokens: int = 256
    batch_size: int = 16
    """Changes speed and memory only."""
    temperature: float = 0.0
    """0 = greedy."""
    seed: int = 0
    """Of sampled tokens."""

    def __post_init__(self) -> None:
        for flag, value in (("--max-new-tokens", self.max_new_tokens), ("--batch-size", self.batch_size)):
            if value < 1:
                raise ValueError(f"{flag} {value}: give at least 1")
