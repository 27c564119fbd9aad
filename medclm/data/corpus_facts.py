"""What a stored corpus is, in numbers that may leave it: sources, licences, counts, writers, review. For model cards.

An allow-list: names and counts, never an id, a path or a text of a record. Knows nothing of models or Markdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medclm.data.manifest import licence_strictness
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus
from medclm.data.stream import manifest_hash

UNKNOWN = "unknown"
_OF_A_SOURCE = ("images", "shareable", "images_without_scope", "images_without_patient")
_OF_A_REVIEW = ("n", "wrong", "unanswerable", "kappa", "upper", "accepted")


def corpus_facts(corpus: Corpus, split: str) -> dict[str, Any]:
    """The facts of a corpus that a model was trained on, as JSON; what its manifest does not say is None or empty.

    Args:
        split: that was trained on; writers, languages and question kinds are counted there, modalities over all images.

    Raises:
        ValueError: a damaged corpus; names file and row.
    """
    manifest = corpus.manifest
    records = _counts(corpus, "records", ("writer", "language", "question_kind", "domain"), split)
    return {
        "hash": manifest_hash(manifest),
        "trained_split": split,
        "records": {name: corpus.count("records", name) for name in SPLITS},
        "images": corpus.count("images"),
        "domains": records["domain"],
        "modalities": _counts(corpus, "images", ("modality",), None)["modality"],
        "writers": records["writer"],
        "languages": records["language"],
        "question_kinds": records["question_kind"],
        "sources": [_source(name, entry) for name, entry in sorted(manifest.get("sources", {}).items())],
        "licence": _strictest(manifest),
        "review": _review(manifest.get("review")),
    }


def _counts(corpus: Corpus, kind: str, columns: tuple[str, ...], split: str | None) -> dict[str, dict[str, int]]:
    """Column -> value -> rows, the commonest value first, equally common ones by name; a missing value is `unknown`."""
    found: dict[str, Counter[str]] = {name: Counter() for name in columns}
    for batch in corpus.scan(kind, columns, split):
        for name, column in zip(columns, batch.columns, strict=True):
            counted = pc.value_counts(column.cast(pa.string()).fill_null(UNKNOWN))
            for one in counted.to_pylist():
                found[name][one["values"] or UNKNOWN] += one["counts"]
    return {name: dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))) for name, counts in found.items()}


def _source(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    lists = {key: [str(one) for one in entry.get(key, ())] for key in ("licences", "label_scope")}
    return {"name": name, **_numbers(entry, _OF_A_SOURCE), **lists}


def _strictest(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The strictest licence by its words, and its rank. Whether pictures may be shared is another question (`shareable`)."""
    stated = {str(one) for entry in manifest.get("sources", {}).values() for one in entry.get("licences", ())}
    stated |= {str(manifest["licence"])} if "licence" in manifest else set()
    if not stated:
        return None
    rank, name = max((licence_strictness(one, True), one) for one in stated)
    return {"name": name, "strictness": rank}


def _review(entry: Any) -> dict[str, Any] | None:
    """What readers found in a sample of the corpus, without who they are; None = nobody has looked."""
    if not isinstance(entry, Mapping) or entry.get("state") != "reviewed":
        return None
    return {"readers": len(entry.get("readers", ())), **_numbers(entry, _OF_A_REVIEW)}


def _numbers(entry: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, int | float | None]:
    """Numbers and yes or no; whatever else stands there is not known, and never a text."""
    return {key: entry[key] if isinstance(entry.get(key), int | float) else None for key in keys}
