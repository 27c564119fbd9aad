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
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medclm.corpus.contract import Reject
from medclm.corpus.inspect import write_report
from medclm.corpus.pairing import Candidate, pair
from medclm.corpus.parts import Parts, Place
from medclm.corpus.splits import SplitRule, assign_splits, units
from medclm.data.manifest import strictest_licence, write_json
from medclm.data.schema import COLUMNS, MANIFEST, SCHEMA_VERSION, SPLITS
from medclm.data.shards import Corpus, ShardWriter

PARTS = ".parts"
"""Folder of the parts inside the corpus folder, removed when the corpus is finished."""
REJECTS = "rejects.jsonl"
REPORT = "report.html"
_STAGING = "corpus"
_WORD = re.compile(r"[^\W_]+")
_IN_DOMAIN = " / "
"""Between the parts of a domain: lesion class / modality (/ technique)."""
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
    rejects: Mapping[str, int]
    """By reason."""


@dataclass(slots=True)
class _Image:
    place: Place
    patient: str
    official: str | None
    source: str
    licence: str
    shareable: bool
    scope: tuple[str, ...]
    study: str | None
    annotations: list[tuple[str, Place]] = field(default_factory=list)
    lesions: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Record:
    record_id: str
    place: Place
    index: str
    image: str
    annotations: tuple[str, ...]
    easy_image: str | None
    domain: str
    question_kind: str
    organ: str | None
    trains: bool
    """Offers Easy or Medium."""
    lends: bool
    answer: str
    asks: str
    """The lent question while parts are read; then the domain that it asks about."""
    stated: str | None
    """Image of a stated Hard pairing."""
    stated_answer: str
    partner: _Record | None = None
    """Chosen Hard partner."""


@dataclass
class _Plan:
    """Everything that decides about the corpus, without texts and pictures."""

    images: dict[str, _Image] = field(default_factory=dict)
    records: list[_Record] = field(default_factory=list)
    studies: dict[str, Place] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    without_partner: int = 0


def finalise(
    parts: Sequence[Path], out: Path, *, rule: SplitRule, seed: int, builder: Mapping[str, Any], balance_pairs: bool = True
) -> BuildReport:
    """Make the corpus in `out` from part files, and remove `out/.parts`.

    Args:
        parts: in order; they may lie in several folders.
        out: gets manifest.json, the Arrow files, rejects.jsonl and report.html.
        rule: how patients are split.
        seed: of the order of records.
        builder: settings for the manifest; without paths of sources.
        balance_pairs: choose Hard partners for records that state none.

    Raises:
        EverythingRejected: no record offers a stage.
        ValueError: the split rule cannot be met, or a part is damaged.
    """
    rows = Parts(parts)
    plan = _read(rows)
    split_of = _split(plan, rule)
    if balance_pairs:
        _pair(plan, split_of)
    _check_stated(plan, split_of)
    _drop_stageless(plan)
    if not plan.records:
        raise EverythingRejected(plan.rejects)
    staging = out / PARTS / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    report = _Writing(plan, rows, split_of, seed, staging, out).run(rule, builder)
    _publish(staging, out)
    return report


def _read(rows: Parts) -> _Plan:
    plan = _Plan()
    organs: dict[str, str | None] = {}
    duplicate = False
    for place, kind, name, body in rows:
        if kind == "image":
            duplicate = name in plan.images
            if duplicate:
                plan.rejects.append(
                    Reject(body["index"], "image_duplicate", "an image with the same id was read before: ids must be unique")
                )
            else:
                plan.images[name] = _image(place, body)
        elif kind == "reject":
            plan.rejects.append(Reject(**body))
        elif duplicate:
            continue
        elif kind == "study":
            plan.studies.setdefault(name, place)
        elif kind == "annotation":
            image = plan.images[body["image"]]
            image.annotations.append((name, place))
            organs[name] = body["organ"]
            if body["lesion_3d"]:
                image.lesions.add(body["lesion_3d"])
        else:
            plan.records.append(_record(place, body, organs))
    _find_asked(plan.records)
    return plan


def _find_asked(records: Sequence[_Record]) -> None:
    """Leave in `asks` the domain of the class that a denial names, where it is not the record's own: an image without any
    finding is of domain "no finding" and says of one class in scope that it is absent."""
    classes: dict[str, set[str]] = defaultdict(set)
    for record in records:
        name, _, rest = record.domain.partition(_IN_DOMAIN)
        classes[rest].add(name)
    for record in records:
        question = f" {' '.join(_WORD.findall(record.asks.lower()))} "
        record.asks = ""
        if record.question_kind == "presence" and record.answer.lower().startswith("no"):
            rest = record.domain.partition(_IN_DOMAIN)[2]
            named = [name for name in classes[rest] if f" {name.lower()} " in question]
            if named:
                record.asks = _IN_DOMAIN.join([max(named, key=lambda name: (len(name), name)), rest])


def _image(place: Place, body: Mapping[str, Any]) -> _Image:
    return _Image(
        place=place,
        patient=body["patient"],
        official=body["official_split"],
        source=body["source"],
        licence=body["licence"],
        shareable=body["shareable"],
        scope=tuple(body["label_scope"]),
        study=body["study"],
    )


def _record(place: Place, body: Mapping[str, Any], organs: Mapping[str, str | None]) -> _Record:
    lend, hard = body["lend"], body["hard"]
    return _Record(
        record_id=body["record_id"],
        place=place,
        index=body["index"],
        image=body["image"],
        annotations=tuple(body["annotations"]),
        easy_image=body["easy_image"],
        domain=body["domain"],
        question_kind=body["question_kind"],
        organ=organs[body["annotations"][0]] if body["annotations"] else None,
        trains=bool(body["easy"] or body["medium"]),
        lends=lend is not None,
        answer=lend["answer"] if lend else "",
        asks=lend["question"] if lend else "",
        stated=hard["image"] if hard else None,
        stated_answer=hard["answer"] if hard else "",
    )


def _units(plan: _Plan) -> dict[str, str]:
    """Image -> unit that is split and paired together."""
    of_patient = units((image.patient, sorted(image.lesions)) for image in plan.images.values())
    return {name: of_patient[image.patient] for name, image in plan.images.items()}


def _split(plan: _Plan, rule: SplitRule) -> dict[str, str]:
    """Image -> split, for the images that records are about and their partners'."""
    unit_of = _units(plan)
    stated: dict[str, set[str]] = defaultdict(set)
    for name in {record.image for record in plan.records}:
        official = plan.images[name].official
        stated[unit_of[name]] |= {official} if official else set()
    split_of_unit = assign_splits({unit: frozenset(splits) for unit, splits in stated.items()}, rule)
    return {name: split_of_unit[unit] for name, unit in unit_of.items() if unit in split_of_unit}


def _pair(plan: _Plan, split_of: Mapping[str, str]) -> None:
    unit_of = _units(plan)
    by_split: dict[str, list[_Record]] = defaultdict(list)
    for record in plan.records:
        if record.stated is None:
            by_split[split_of[record.image]].append(record)
    for records in by_split.values():
        by_id = {record.record_id: record for record in records}
        chosen = pair(
            [
                Candidate(
                    record_id=record.record_id,
                    unit=unit_of[record.image],
                    domain=record.domain,
                    question_kind=record.question_kind,
                    organ=record.organ,
                    lends=record.lends,
                    answer=record.answer,
                    asks=record.asks,
                )
                for record in records
            ]
        )
        for name, partner in chosen.items():
            by_id[name].partner = by_id[partner] if partner else None
            plan.without_partner += partner is None


def _check_stated(plan: _Plan, split_of: Mapping[str, str]) -> None:
    """A stated pairing that would leak or ask about another domain is dropped and counted; the record stays."""
    domains: dict[str, set[str]] = defaultdict(set)
    for record in plan.records:
        domains[record.image].add(record.domain)
    for record in plan.records:
        if record.stated is None:
            continue
        fault = _stated_fault(record, plan, split_of, domains)
        if fault:
            plan.rejects.append(Reject(f"{record.index}.hard", *fault))
            record.stated = None


def _stated_fault(
    record: _Record, plan: _Plan, split_of: Mapping[str, str], domains: Mapping[str, set[str]]
) -> tuple[str, str] | None:
    assert record.stated is not None
    mine, other = plan.images[record.image], plan.images[record.stated]
    if mine.patient == other.patient:
        return "hard_same_patient", "the Hard image is the record's own or of its patient: name another patient's image"
    if record.stated not in domains:  # belongs to no record: nothing more is known of it
        return None
    if split_of[record.stated] != split_of[record.image]:
        return "hard_other_split", "the Hard image is in another split: it would leak"
    denies = record.question_kind == "presence" and record.stated_answer.lower().startswith("no")
    if record.domain not in domains[record.stated] and not denies:
        return "hard_other_domain", f"the Hard image has no record of domain {record.domain}: name an image of the same domain"
    return None


def _drop_stageless(plan: _Plan) -> None:
    kept = []
    for record in plan.records:
        if record.trains or record.partner or record.stated:
            kept.append(record)
        else:
            plan.rejects.append(
                Reject(
                    record.index,
                    "no_stage_offered",
                    f"a {record.question_kind} record has neither Easy nor Medium nor a Hard partner",
                )
            )
    plan.records = kept


class _Writing:
    """One pass that gives rows their numbers and writes them."""

    def __init__(self, plan: _Plan, rows: Parts, split_of: Mapping[str, str], seed: int, folder: Path, out: Path) -> None:
        self.plan, self.rows, self.folder, self.out = plan, rows, folder, out
        self.by_split: dict[str, list[_Record]] = {split: [] for split in SPLITS}
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
            rejects=Counter(reject.reason for reject in self.plan.rejects),
        )

    def _images(self) -> None:
        with ShardWriter(self.folder, "images") as writer:
            for name in self.image_row:
                place = self.plan.images[name].place
                stored = {"bytes": self.rows.blob(place), "path": None}
                body = self.rows.body(place)
                del body["index"]
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

    def _record_row(self, record: _Record, split: str) -> dict[str, Any]:
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
            "rejects": dict(sorted(Counter(reject.reason for reject in self.plan.rejects).items())),
            "builder": dict(builder),
            "versions": _versions(),
        }


def _sources(images: Sequence[_Image]) -> dict[str, Any]:
    grouped: dict[str, list[_Image]] = defaultdict(list)
    for image in images:
        grouped[image.source].append(image)
    return {
        name: {
            "images": len(some),
            "licences": sorted({image.licence for image in some}),
            "shareable": all(image.shareable for image in some),
            "label_scope": sorted({label for image in some for label in image.scope}),
            "images_without_scope": sum(not image.scope for image in some),
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
