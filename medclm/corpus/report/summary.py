"""The numbers of a corpus, counted once over its tables and its rejects. Knows neither words nor layout.

Memory holds counters of small vocabularies and a few bytes per image, however many records there are.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medclm.corpus.report.lesions import Lesions, ModelSquare, count_lesions
from medclm.corpus.report.rejects import Rejected, count_rejects
from medclm.data.schema import KINDS, SPLITS
from medclm.data.shards import Corpus, first_row
from medclm.types import Stage

STAGES = tuple(stage.key for stage in Stage)
MAJORITY_LIMIT = 0.8
"""A share of one answer above this is warned of: the Hard question could be answered without looking."""
_RECORD_COLUMNS = ("split", "question_kind", "language", "writer")
_LONGEST_ANSWER = 80
_CUT = "\0"
"""Between the beginning of a long answer and its hash."""


@dataclass
class Balance:
    """Hard answers of one domain and question kind."""

    answers: Counter[str] = field(default_factory=Counter)
    """Key of an answer, as `add` makes it -> records."""

    def add(self, answer: str) -> None:
        """Count an answer regardless of case; of a long one only the beginning and a hash are kept."""
        answer = answer.strip().lower()
        if len(answer) > _LONGEST_ANSWER:
            answer = f"{answer[:_LONGEST_ANSWER]}{_CUT}{_hash(answer):016x}"
        self.answers[answer] += 1

    @property
    def majority(self) -> tuple[str, int]:
        """The commonest answer, cut if long, and its count; of equally common ones the first by name."""
        answer, count = min(self.answers.items(), key=lambda pair: (-pair[1], pair[0]))
        shown, cut, _ = answer.partition(_CUT)
        return shown + ("…" if cut else ""), count

    @property
    def share(self) -> float:
        """Share of the commonest answer, 0..1."""
        return self.majority[1] / self.answers.total()


@dataclass
class Summary:
    """Counts of a corpus."""

    manifest: Mapping[str, Any]
    tables: dict[str, int]
    records: dict[str, Counter[str]]
    """split, question_kind, language, writer -> value -> records."""
    domains: dict[str, Counter[str]]
    """Domain -> split -> records."""
    stages: dict[str, Counter[str]]
    """Stage -> answer type -> records that offer it."""
    hard: dict[tuple[str, str], Balance]
    """(domain, question kind) -> answers."""
    patients: dict[str, int]
    images: dict[str, Counter[str]]
    """modality, plane, source -> images."""
    read: dict[str, int] | None
    """Source -> images that its build read; None where the manifest does not say."""
    entries: int | None
    """Entries that an import read; None where it was no import."""
    rejected: Rejected
    lesions: Lesions
    square: ModelSquare

    @property
    def majority_share(self) -> float | None:
        """Share of Hard answers equal to the commonest one of their domain and kind; None without a Hard stage."""
        total = sum(balance.answers.total() for balance in self.hard.values())
        return sum(balance.majority[1] for balance in self.hard.values()) / total if total else None

    def one_sided(self) -> list[tuple[str, str]]:
        """(domain, kind) whose commonest Hard answer exceeds the limit, the most one-sided and largest first."""
        found = [
            key
            for key, balance in self.hard.items()
            # the class itself is constant in a domain by definition; it varies over the domains of one image
            if balance.share > MAJORITY_LIMIT and key[1] != "what" and balance.answers.total() > 1
        ]
        return sorted(found, key=lambda key: (-self.hard[key].share, -self.hard[key].answers.total(), key))


def summarise(corpus: Corpus, square: ModelSquare | None = None) -> Summary:
    """Count everything once.

    Raises:
        ValueError: a damaged table or rejects.jsonl; names file and row.
    """
    square = square or ModelSquare()
    records: dict[str, Counter[str]] = {name: Counter() for name in _RECORD_COLUMNS}
    domains: dict[str, Counter[str]] = defaultdict(Counter)
    stages: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    hard: dict[tuple[str, str], Balance] = defaultdict(Balance)
    split_I = np.full(corpus.count("images"), -1, np.int8)
    per_stage = [f"{part}_{stage}" for stage in STAGES for part in ("question", "answer_type")]
    for batch in corpus.scan("records", [*_RECORD_COLUMNS, "domain", "image_row", *per_stage, "answer_hard"]):
        columns = batch.to_pydict()
        for name in _RECORD_COLUMNS:
            records[name].update(str(value or "unknown") for value in columns[name])
        for domain, split in zip(columns["domain"], columns["split"], strict=True):
            domains[domain][split] += 1
        for stage in STAGES:
            pairs = zip(columns[f"question_{stage}"], columns[f"answer_type_{stage}"], strict=True)
            stages[stage].update(kind or "unknown" for question, kind in pairs if question is not None)
        for domain, kind, answer in zip(columns["domain"], columns["question_kind"], columns["answer_hard"], strict=True):
            if answer is not None:
                hard[domain, kind or "unknown"].add(answer)
        split_I[columns["image_row"]] = [SPLITS.index(split) for split in columns["split"]]
    patients, images = _images(corpus, split_I)
    read, entries = _read(corpus.manifest.get("builder", {}))
    return Summary(
        manifest=corpus.manifest,
        tables={kind: corpus.count(kind) for kind in KINDS},
        records=records,
        domains=dict(domains),
        stages=stages,
        hard=dict(hard),
        patients=patients,
        images=images,
        read=read,
        entries=entries,
        rejected=count_rejects(corpus, [*records["writer"], *_writers(corpus.manifest.get("builder", {}))]),
        lesions=count_lesions(corpus, square),
        square=square,
    )


def _images(corpus: Corpus, split_I: np.ndarray) -> tuple[dict[str, int], dict[str, Counter[str]]]:
    """Patients by split, and images by column. A patient is kept as 64 bits of a hash."""
    patient_I = np.zeros(len(split_I), np.uint64)
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("modality", "plane", "source")}
    for batch in corpus.scan("images", ["patient", *counts]):
        columns = batch.to_pydict()
        patient_I[first_row(batch) :][: batch.num_rows] = [_hash(str(patient)) for patient in columns["patient"]]
        for name, counter in counts.items():
            counter.update(str(value or "unknown") for value in columns[name])
    return {split: len(np.unique(patient_I[split_I == code])) for code, split in enumerate(SPLITS)}, counts


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _read(builder: Mapping[str, Any]) -> tuple[dict[str, int] | None, int | None]:
    """Images that each source's builds read, and entries that an import read, as far as the manifest says."""
    builds = builder.get("builds", [builder])
    read: Counter[str] = Counter()
    for build in builds:
        if "images" not in build or "source" not in build:
            return None, builder.get("entries")
        read[str(build["source"])] += int(build["images"])
    return dict(sorted(read.items())), None


def _writers(builder: Mapping[str, Any]) -> list[str]:
    """Writers that the manifest names; one of them may have no record left."""
    return [str(build["writer"]) for build in builder.get("builds", [builder]) if build.get("writer")]
