"""Parts -> corpus: splits, Hard partners, order, row numbers, shards, manifest. The same for a build, an import or a merge.

Parts are read twice: once for what decides (ids, patients, domains), kept small, then row by row for texts and pictures,
which are copied and never held. The corpus grows in a hidden folder and moves out file by file, the manifest last: what
has a manifest is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medclm.corpus.contract import Reject
from medclm.corpus.parts import Parts
from medclm.corpus.plan import (
    Plan,
    PlannedImage,
    PlannedRecord,
    check_stated,
    drop_stageless,
    exclude,
    join_near_duplicates,
    pair_records,
    read_plan,
    split_images,
)
from medclm.corpus.report.page import write_report
from medclm.corpus.splits import SplitRule
from medclm.corpus.workfolder import PARTS
from medclm.data.manifest import strictest_licence, write_json
from medclm.data.schema import COLUMNS, MANIFEST, SCHEMA_VERSION, SPLITS
from medclm.data.shards import Corpus, ShardWriter

REJECTS = "rejects.jsonl"
REPORT = "report.html"
_STAGING = "corpus"
_VERSIONED = ("medclm", "datasets", "numpy", "pillow", "pyarrow")


class EverythingRejected(ValueError):
    """No record was left; `reasons` counts why."""

    def __init__(self, rejects: Sequence[Reject]) -> None:
        self.reasons = Counter(reject.reason for reject in rejects)
        first = {reject.reason: reject for reject in reversed(rejects)}
        lines = [
            f"{n:7d}  {reason} (first: {first[reason].index}: {first[reason].detail})"
            for reason, n in self.reasons.most_common()
        ]
        super().__init__("\n".join(["every record was rejected, nothing was written:", *(lines or ["no image gave one"])]))


@dataclass(frozen=True)
class BuildReport:
    """What a finished build holds."""

    folder: Path
    images: int
    annotations: int
    studies: int
    records: Mapping[str, int]
    """Per split."""
    stages: Mapping[str, int]
    """Records that offer each stage."""
    domains: int
    without_partner: int
    """Records that could have a Hard stage but found no partner."""
    without_patient: int
    """Images whose patient nobody stated; each counts as its own."""
    near_duplicates: int
    """Groups of pictures of different patients that show one exposure; their patients are in one split."""
    rejects: Mapping[str, int]
    """By reason."""


def finalise(
    parts: Sequence[Path],
    out: Path,
    *,
    rule: SplitRule,
    seed: int,
    builder: Mapping[str, Any],
    balance_pairs: bool = True,
    exclusions: Mapping[str, str] | None = None,
) -> BuildReport:
    """Make the corpus in `out` from part files, and remove `out/.parts`.

    Args:
        parts: in order; they may lie in several folders.
        out: gets manifest.json, the Arrow files, rejects.jsonl and report.html.
        rule: how patients are split.
        seed: of the order of records.
        builder: settings for the manifest; without paths of sources.
        balance_pairs: choose Hard partners for records that state none.
        exclusions: record id -> reason, for records that readers judged wrong.

    Raises:
        EverythingRejected: no record offers a stage.
        ValueError: the split rule cannot be met, or a part is damaged.
    """
    rows = Parts(parts)
    plan = read_plan(rows)
    exclude(plan, exclusions or {})
    join_near_duplicates(plan, rows)
    split_of = split_images(plan, rule)
    if balance_pairs:
        pair_records(plan, split_of)
    check_stated(plan, split_of)
    drop_stageless(plan)
    if not plan.records:
        raise EverythingRejected(plan.rejects)
    staging = out / PARTS / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    report = _Writing(plan, rows, split_of, seed, staging, out).run(rule, builder)
    _publish(staging, out)
    return report


class _Writing:
    """One pass that gives rows their numbers and writes them."""

    def __init__(self, plan: Plan, rows: Parts, split_of: Mapping[str, str], seed: int, folder: Path, out: Path) -> None:
        self.plan, self.rows, self.folder, self.out = plan, rows, folder, out
        self.by_split: dict[str, list[PlannedRecord]] = {split: [] for split in SPLITS}
        for record in plan.records:
            self.by_split[split_of[record.image]].append(record)
        for records in self.by_split.values():
            records.sort(key=lambda record: hashlib.sha256(f"order {seed} {record.record_id}".encode()).digest())
        self.image_row: dict[str, int] = {}
        self.annotation_row: dict[str, int] = {}
        self.entries: list[dict[str, Any]] = []
        self.stages: Counter[str] = Counter()
        for split in SPLITS:  # images in the order in which training meets them
            for record in self.by_split[split]:
                self._number(record.image, record.easy_image, record.stated, record.partner.image if record.partner else None)

    def _number(self, *names: str | None) -> None:
        for name in names:
            if name is not None and name not in self.image_row:
                self.image_row[name] = len(self.image_row)
                for annotation, _ in self.plan.images[name].annotations:
                    self.annotation_row[annotation] = len(self.annotation_row)

    def run(self, rule: SplitRule, builder: Mapping[str, Any]) -> BuildReport:
        self._images()
        self._annotations()
        studies = self._studies()
        for split in SPLITS:
            if self.by_split[split]:
                self._records(split)
        self._rejects()
        manifest = self._manifest(rule, builder)
        write_json(self.folder / MANIFEST, manifest)
        write_report(Corpus(self.folder), self.folder / REPORT)
        return BuildReport(
            folder=self.out,
            images=len(self.image_row),
            annotations=len(self.annotation_row),
            studies=studies,
            records={split: len(records) for split, records in self.by_split.items()},
            stages=dict(self.stages),
            domains=len(manifest["domains"]),
            without_partner=self.plan.without_partner,
            without_patient=sum(not self.plan.images[name].patient_known for name in self.image_row),
            near_duplicates=self.plan.near_duplicates,
            rejects=Counter(reject.reason for reject in self.plan.rejects),
        )

    def _images(self) -> None:
        with ShardWriter(self.folder, "images") as writer:
            for name in self.image_row:
                place = self.plan.images[name].place
                stored = {"bytes": self.rows.blob(place), "path": None}
                body = self.rows.body(place)
                del body["index"]
                for name in ("fingerprint", "patient_known"):
                    body.pop(name, None)
                writer.write({**body, "image": stored, "prior_image_row": -1})
        self.entries += writer.entries

    def _annotations(self) -> None:
        with ShardWriter(self.folder, "annotations") as writer:
            for name, row in self.image_row.items():
                for _, place in self.plan.images[name].annotations:
                    body = self.rows.body(place)
                    del body["image"]
                    writer.write({**body, "image_row": row})
        self.entries += writer.entries

    def _studies(self) -> int:
        """Studies in the order of their first image; the number of them."""
        images = (self.plan.images[name].study for name in self.image_row)
        wanted = dict.fromkeys(study for study in images if study in self.plan.studies)
        with ShardWriter(self.folder, "studies") as writer:
            for study in wanted:
                writer.write(self.rows.body(self.plan.studies[study]))
        self.entries += writer.entries
        return len(wanted)

    def _records(self, split: str) -> None:
        with ShardWriter(self.folder, "records", split) as writer:
            for record in self.by_split[split]:
                row = self._record_row(record, split)
                self.stages.update(stage for stage in ("easy", "medium", "hard") if row[f"question_{stage}"] is not None)
                writer.write(row)
        self.entries += writer.entries

    def _record_row(self, record: PlannedRecord, split: str) -> dict[str, Any]:
        body = self.rows.body(record.place)
        row = {name: body.get(name) for name in COLUMNS["records"]}
        row |= {
            "image_row": self.image_row[record.image],
            "annotation_rows": [self.annotation_row[name] for name in record.annotations],
            "easy_image_row": self.image_row[record.easy_image] if record.easy_image else -1,
            "split": split,
            "hard_image_row": -1,
            "hard_annotation_row": -1,
        }
        hard = None
        if record.partner is not None:
            partner = record.partner
            hard = self.rows.body(partner.place)["lend"]
            row["hard_image_row"] = self.image_row[partner.image]
            if partner.annotations:
                row["hard_annotation_row"] = self.annotation_row[partner.annotations[0]]
        elif record.stated is not None:
            hard = body["hard"]
            row["hard_image_row"] = self.image_row[record.stated]
        for stage, texts in (("easy", body["easy"]), ("medium", body["medium"]), ("hard", hard)):
            for column in ("question", "rationale", "answer", "answers", "answer_type"):
                if texts is not None and f"{column}_{stage}" in row:
                    row[f"{column}_{stage}"] = texts[column]
        return row

    def _rejects(self) -> None:
        lines = [
            json.dumps({"index": r.index, "reason": r.reason, "detail": r.detail}, ensure_ascii=False)
            for r in self.plan.rejects
        ]
        (self.folder / REJECTS).write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _manifest(self, rule: SplitRule, builder: Mapping[str, Any]) -> dict[str, Any]:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for split, records in self.by_split.items():
            for record in records:
                counts[record.domain][split] += 1
        images = [self.plan.images[name] for name in self.image_row]
        return {
            "schema_version": SCHEMA_VERSION,
            "notice": "Research use only, not a medical device.",
            "files": sorted(self.entries, key=lambda entry: str(entry["path"])),
            "domains": [{"name": name, "counts": {split: counts[name][split] for split in SPLITS}} for name in sorted(counts)],
            "splits": {**rule.described(), "counts": {split: len(records) for split, records in self.by_split.items()}},
            "sources": _sources(images),
            "licence": strictest_licence((image.licence, image.shareable) for image in images),
            "hard": {"paired": self.stages["hard"], "without_partner": self.plan.without_partner},
            "near_duplicates": {"groups_of_different_patients": self.plan.near_duplicates},
            "rejects": dict(sorted(Counter(reject.reason for reject in self.plan.rejects).items())),
            "builder": dict(builder),
            "versions": _versions(),
        }


def _sources(images: Sequence[PlannedImage]) -> dict[str, Any]:
    grouped: dict[str, list[PlannedImage]] = defaultdict(list)
    for image in images:
        grouped[image.source].append(image)
    return {
        name: {
            "images": len(some),
            "licences": sorted({image.licence for image in some}),
            "shareable": all(image.shareable for image in some),
            "label_scope": sorted({label for image in some for label in image.scope}),
            "images_without_scope": sum(not image.scope for image in some),
            "images_without_patient": sum(not image.patient_known for image in some),
        }
        for name, some in sorted(grouped.items())
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _publish(staging: Path, out: Path) -> None:
    """Move the finished files out, the manifest last, then remove the parts."""
    for path in [*out.glob("*.arrow"), out / REJECTS, out / REPORT]:  # what a finalise left that was killed while moving
        path.unlink(missing_ok=True)
    names = sorted(path.name for path in staging.iterdir())
    for name in sorted(names, key=lambda name: name == MANIFEST):
        os.replace(staging / name, out / name)
    shutil.rmtree(out / PARTS)
