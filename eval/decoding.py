"""How completions are written. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """How completions are written."""

    max_new_tokens: int = 256
    batch_size: int = 16
    """Changes speed and memory only."""
    temperature: float = 0.0
    """0 = greedy."""
    seed: int = 0
    """Of sampled tokens."""
