"""Which records a review shows, and at which stage: a stratified draw that depends on the corpus and a seed alone.

Two readers who ask with the same numbers thus see the same samples in the same order, a reader who comes back goes on where
he stopped, and a larger review contains nearly all of a smaller one. Knows nothing of readers or verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from medclm.data.shards import Corpus
from medclm.draws import uniforms
from medclm.types import Stage

STAGES = tuple(stage.key for stage in Stage)
STRATA = ("domain", "writer", "question_kind", "split")
"""Columns of the records that a review can be stratified by."""


@dataclass(frozen=True)
class ReviewSample:
    """A record at one of the stages it offers: what one verdict is about."""

    record_row: int
    record_id: str
    stage: str
    stratum: str


def choose(corpus: Corpus, n: int, *, stratify: str = "domain", seed: int = 0) -> list[ReviewSample]:
    """Draw `n` records, each at one stage that it offers (every offered stage with equal chance), in shuffled order.

    Strata get shares proportional to their size, at least one record each; a corpus with fewer than `n` records is shown
    whole.

    Raises:
        ValueError: unknown `stratify`, `n` below 1 or below the number of strata, or no record that offers a stage.
    """
    if stratify not in STRATA:
        raise ValueError(f"--stratify {stratify}: expected one of {', '.join(STRATA)}")
    if n < 1:
        raise ValueError(f"--n {n}: at least one sample is needed")
    names, strata, offers = _records(corpus, stratify)
    rows = np.flatnonzero(offers.any(axis=1))
    if not len(rows):
        raise ValueError(f"{corpus.folder}: no record offers a stage: there is nothing to review")
    codes, sizes = np.unique(strata[rows], return_counts=True)
    shares = allocate({names[code]: int(size) for code, size in zip(codes, sizes, strict=True)}, n)
    rank = uniforms(seed, "review.sample", rows)
    chosen: list[int] = []
    for code in codes:
        members = rows[strata[rows] == code]
        first = np.argsort(rank[strata[rows] == code], kind="stable")[: shares[names[code]]]
        chosen += members[first].tolist()
    return _samples(corpus, _shuffled(chosen, seed), names, strata, offers, seed)


def allocate(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """How many of `n` each stratum gives: proportional to its size, at least one, never more than it has.

    Whole numbers nearest to the proportional shares; what the least of one takes is given by the strata that are furthest
    above their share. Ties go by name.

    Raises:
        ValueError: more strata than `n`.
    """
    total = sum(sizes.values())
    n = min(n, total)
    if n < len(sizes):
        raise ValueError(
            f"--n {n}: there are {len(sizes)} strata and each gives at least one: raise --n, or stratify by another"
        )
    quota = {name: n * size / total for name, size in sizes.items()}
    shares = {name: min(max(1, int(quota[name])), size) for name, size in sizes.items()}
    while (missing := n - sum(shares.values())) != 0:
        step = 1 if missing > 0 else -1
        able = [name for name in sorted(sizes) if (shares[name] < sizes[name] if step > 0 else shares[name] > 1)]
        shares[max(able, key=lambda name: step * (quota[name] - shares[name]))] += step
    return shares


def _records(corpus: Corpus, stratify: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the strata, (n,) int64 stratum of each record row, (n, 3) bool whether it offers each stage."""
    codes: dict[str, int] = {}
    strata: list[int] = []
    offers: list[np.ndarray] = [np.zeros((0, len(STAGES)), bool)]
    for batch in corpus.scan("records", [stratify, *(f"question_{stage}" for stage in STAGES)]):
        strata += [codes.setdefault(str(name or "unknown"), len(codes)) for name in batch.column(0).to_pylist()]
        offers.append(np.stack([_non_empty(batch.column(1 + k)) for k in range(len(STAGES))], axis=1))
    return list(codes), np.asarray(strata, np.int64), np.concatenate(offers)


def _non_empty(texts: Any) -> np.ndarray:
    """(n,) bool of an Arrow string column: neither null nor empty."""
    return np.asarray(pc.fill_null(pc.utf8_length(texts), 0)) > 0


def _shuffled(rows: list[int], seed: int) -> np.ndarray:
    """Rows in an order of their own: a review that ends early has then seen all strata alike."""
    ascending = np.sort(np.asarray(rows, np.int64))
    return np.asarray(ascending[np.argsort(uniforms(seed, "review.order", ascending), kind="stable")])


def _samples(
    corpus: Corpus, rows: np.ndarray, names: list[str], strata: np.ndarray, offers: np.ndarray, seed: int
) -> list[ReviewSample]:
    found = []
    ids = corpus.rows("records", rows.tolist(), ["record_id"])
    for row, draw, stored in zip(rows.tolist(), uniforms(seed, "review.stage", rows), ids, strict=True):
        stages = [stage for stage, offered in zip(STAGES, offers[row], strict=True) if offered]
        stage = stages[int(draw * len(stages))]
        found.append(ReviewSample(record_row=row, record_id=stored["record_id"], stage=stage, stratum=names[strata[row]]))
    return found
