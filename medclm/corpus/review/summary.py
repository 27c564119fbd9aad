"""Corpus and verdicts put together: the result of a review as text, and as the `review` entry of the manifest.

Only verdicts about this very corpus count: its files and domains are the ones that were shown. Knows nothing of pages.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medclm.corpus.review.statistics import LIMIT, Agreement, Judged, Rate, Review, assess, samples_needed
from medclm.corpus.review.verdicts import RIGHT, UNANSWERABLE, WRONG, Verdict, latest
from medclm.data.manifest import read_manifest, write_json
from medclm.data.schema import MANIFEST
from medclm.data.shards import Corpus
from medclm.data.stream import manifest_hash

VERDICT_FILE = "verdicts.jsonl"
"""Where verdicts lie in a corpus folder unless another file is named."""
UNREVIEWED: Mapping[str, Any] = {"state": "unreviewed"}
_LISTED = 40
"""So many disagreements are printed."""


def review_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `review` entry of a manifest; a manifest without one is unreviewed."""
    entry = manifest.get("review")
    return entry if isinstance(entry, Mapping) else UNREVIEWED


def judged_samples(corpus: Corpus, verdicts: Sequence[Verdict]) -> list[Judged]:
    """Verdicts about this corpus, by record and stage in the corpus's order; verdicts about others are left out.

    Raises:
        ValueError: a verdict about this corpus names a record that it does not hold.
    """
    own = manifest_hash(corpus.manifest)
    by_record: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for verdict in latest(one for one in verdicts if one.corpus == own).values():
        by_record[verdict.record_id][verdict.stage][verdict.reader] = verdict.verdict
    found = []
    for batch in corpus.scan("records", ["record_id", "domain", "writer"]):
        for record_id, domain, writer in zip(*batch.to_pydict().values(), strict=True):
            for stage, of_readers in sorted(by_record.pop(record_id, {}).items()):
                found.append(Judged(record_id, stage, str(domain or "unknown"), str(writer or "unknown"), of_readers))
    if by_record:
        raise ValueError(f"verdicts: record {min(by_record)} is not in {corpus.folder}: the file was edited; delete its lines")
    return found


def manifest_entry(review: Review) -> dict[str, Any]:
    """What the manifest says of a review."""
    if not review.n:
        return dict(UNREVIEWED)
    interval = review.overall.ci95
    return {
        "state": "reviewed",
        "n": review.n,
        "readers": list(review.readers),
        "kappa": _rounded(review.kappa),
        "wrong": review.overall.wrong,
        "unanswerable": review.overall.unanswerable,
        "upper": _rounded(interval[1]) if interval else None,
        "accepted": review.accepted,
    }


def summarise_review(corpus: Corpus, verdicts: Sequence[Verdict]) -> tuple[Review, str]:
    """The review of a corpus and its text for a person."""
    review = assess(judged_samples(corpus, verdicts))
    own = manifest_hash(corpus.manifest)
    elsewhere = sum(verdict.corpus != own for verdict in verdicts)
    lines = [str(corpus.folder)]
    if elsewhere:
        lines.append(f"note: {elsewhere} verdicts are about another build of the corpus and do not count here")
    if not review.n:
        return review, "\n".join([*lines, "unreviewed: no verdict about this corpus yet"])
    lines += [*_counts(review), *_readers(review, [one for one in verdicts if one.corpus == own])]
    for title, rates in (("by domain", review.domains), ("by writer", review.writers), ("", (review.overall,))):
        lines += ["", *([title] if title else []), *_table(rates)]
    lines += ["", *_disagreements(review), _conclusion(review)]
    return review, "\n".join(lines)


def write_review(folder: Path, review: Review) -> dict[str, Any]:
    """Put the result into the manifest, whole or not at all; nothing else in it changes. Returns the entry."""
    entry = manifest_entry(review)
    write_json(folder / MANIFEST, {**read_manifest(folder), "review": entry})
    return entry


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _counts(review: Review) -> list[str]:
    words = [f"{verdict.replace('_', ' ')} {review.counts.get(verdict, 0)}" for verdict in (RIGHT, *WRONG, UNANSWERABLE)]
    return [f"  {review.n} samples judged: {', '.join(words)} (where readers differ, the gravest verdict counts)"]


def _readers(review: Review, verdicts: Sequence[Verdict]) -> list[str]:
    lines = []
    current = latest(verdicts).values()
    for reader in review.readers:
        times = [one.seconds for one in current if one.reader == reader and one.seconds is not None]
        pace = f", median {statistics.median(times):.0f} s a sample" if times else ""
        lines.append(f"  reader {reader}: {sum(one.reader == reader for one in current)} samples{pace}")
    return lines + [f"  {_agreement(pair)}" for pair in review.agreements]


def _agreement(pair: Agreement) -> str:
    names = " and ".join(pair.readers)
    if not pair.n:
        return f"readers {names}: no sample in common, so no kappa"
    kappa = "undefined (one and the same verdict throughout)" if pair.kappa is None else f"{pair.kappa:.3f}"
    return f"readers {names}: {pair.n} samples in common, {pair.equal / pair.n:.1%} equal verdicts, Cohen's kappa {kappa}"


def _table(rates: Sequence[Rate]) -> list[str]:
    width = max(len(rate.name) for rate in rates)
    return [f"  {rate.name:<{width}}  {_rate(rate)}" for rate in rates]


def _rate(rate: Rate) -> str:
    apart = f"  (unanswerable: {rate.unanswerable})" if rate.unanswerable else ""
    if rate.value is None or rate.ci95 is None:
        return f"no sample could be judged{apart}"
    low, high = rate.ci95
    return f"wrong {rate.wrong} of {rate.n} = {rate.value:.1%}, 95 % interval {low:.1%} to {high:.1%}{apart}"


def _disagreements(review: Review) -> list[str]:
    lines = [f"disagreements: {len(review.disagreements)}"]
    for one in review.disagreements[:_LISTED]:
        said = ", ".join(f"{reader} {verdict.replace('_', ' ')}" for reader, verdict in sorted(one.verdicts.items()))
        lines.append(f"  record {one.record_id} {one.stage}: {said}")
    more = len(review.disagreements) - _LISTED
    return [*lines, *([f"  and {more} more"] if more > 0 else []), ""]


def _conclusion(review: Review) -> str:
    alone = "" if len(review.readers) > 1 else "\nwarning: one reader only: let a second one judge the same samples"
    interval = review.overall.ci95
    if interval is None:
        return f"not accepted: no sample could be judged{alone}"
    bound = f"the upper bound of wrong facts is {interval[1]:.2%}, the limit {LIMIT:.0%}"
    if review.accepted:
        return f"accepted: {bound}{alone}"
    needed = samples_needed(review.overall.wrong)
    cure = f"{review.overall.wrong} wrong would pass among {needed} judged samples, these are {review.overall.n}"
    return f"not accepted: {bound} ({cure}){alone}"
