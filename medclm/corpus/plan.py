"""What finalise decides before it writes: which images and records there are, their splits and their Hard partners.

Read once from the parts and kept small: ids, patients, domains, no texts and no pictures.
"""

from __future__ import annotations

import io
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from medclm.corpus.contract import Reject
from medclm.corpus.fingerprints import Fingerprint, Fingerprints
from medclm.corpus.near_duplicates import near_duplicate_groups
from medclm.corpus.pairing import Candidate, pair
from medclm.corpus.parts import Parts, Place
from medclm.corpus.splits import SplitRule, assign_splits, units

_WORD = re.compile(r"[^\W_]+")
_IN_DOMAIN = " / "
"""Between the parts of a domain: lesion class / modality (/ technique)."""


@dataclass(slots=True)
class PlannedImage:
    place: Place
    patient: str
    official: str | None
    source: str
    licence: str
    shareable: bool
    scope: tuple[str, ...]
    study: str | None
    fingerprint: str | None = None
    patient_known: bool = True
    annotations: list[tuple[str, Place]] = field(default_factory=list)
    shared: set[str] = field(default_factory=set)
    """Ids that other patients may have too: lesions in space, origins."""


@dataclass(slots=True)
class PlannedRecord:
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
    partner: PlannedRecord | None = None
    """Chosen Hard partner."""


@dataclass
class Plan:
    """Everything that decides about the corpus, without texts and pictures."""

    images: dict[str, PlannedImage] = field(default_factory=dict)
    records: list[PlannedRecord] = field(default_factory=list)
    studies: dict[str, Place] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    without_partner: int = 0
    near_duplicates: int = 0
    """Groups of pictures of different patients that show one exposure."""


def read_plan(rows: Parts) -> Plan:
    plan = Plan()
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
                plan.images[sys.intern(name)] = _image(place, body)
        elif kind == "reject":
            plan.rejects.append(Reject(**body))
        elif duplicate:
            continue
        elif kind == "study":
            plan.studies.setdefault(name, place)
        elif kind == "annotation":
            image = plan.images[body["image"]]
            image.annotations.append((sys.intern(name), place))
            organs[sys.intern(name)] = sys.intern(body["organ"]) if body["organ"] else None
            if body["lesion_3d"]:
                image.shared.add(body["lesion_3d"])
        else:
            plan.records.append(_record(place, body, organs))
    _find_asked(plan.records)
    return plan


def _find_asked(records: Sequence[PlannedRecord]) -> None:
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


def _image(place: Place, body: Mapping[str, Any]) -> PlannedImage:
    return PlannedImage(
        place=place,
        patient=sys.intern(body["patient"]),
        official=body["official_split"],
        source=sys.intern(body["source"]),
        licence=sys.intern(body["licence"]),
        shareable=body["shareable"],
        scope=tuple(sys.intern(name) for name in body["label_scope"]),
        study=body["study"],
        fingerprint=body.get("fingerprint"),
        patient_known=body.get("patient_known", True),
        shared={body[name] for name in ("origin", "origin_patient") if body[name]},
    )


def _record(place: Place, body: Mapping[str, Any], organs: Mapping[str, str | None]) -> PlannedRecord:
    lend, hard = body["lend"], body["hard"]
    # a name that comes back in every row is kept once: of a million records it is most of the memory
    return PlannedRecord(
        record_id=body["record_id"],
        place=place,
        index=sys.intern(body["index"]),
        image=sys.intern(body["image"]),
        annotations=tuple(sys.intern(name) for name in body["annotations"]),
        easy_image=body["easy_image"],
        domain=sys.intern(body["domain"]),
        question_kind=sys.intern(body["question_kind"]),
        organ=organs[body["annotations"][0]] if body["annotations"] else None,
        trains=bool(body["easy"] or body["medium"]),
        lends=lend is not None,
        answer=sys.intern(lend["answer"]) if lend else "",
        asks=sys.intern(lend["question"]) if lend else "",
        stated=hard["image"] if hard else None,
        stated_answer=hard["answer"] if hard else "",
    )


def _units(plan: Plan) -> dict[str, str]:
    """Image -> unit that is split and paired together."""
    of_patient = units((image.patient, sorted(image.shared)) for image in plan.images.values())
    return {name: of_patient[image.patient] for name, image in plan.images.items()}


def join_near_duplicates(plan: Plan, rows: Parts) -> None:
    """Let patients share what shows one exposure, so that they are split and paired as one."""
    images = [image for image in plan.images.values() if image.fingerprint is not None]
    if not images:
        return
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(image.patient, len(numbers)) for image in images]
    prints = Fingerprints.stack(Fingerprint.from_hex(image.fingerprint or "") for image in images)

    def pixels(number: int) -> np.ndarray:
        with Image.open(io.BytesIO(rows.blob(images[number].place)), formats=("PNG",)) as picture:
            return np.asarray(picture)

    for group in near_duplicate_groups(prints, pixels, owners):
        for number in group:
            images[int(number)].shared.add(f"near {plan.near_duplicates}")
        plan.near_duplicates += 1


def exclude(plan: Plan, exclusions: Mapping[str, str]) -> None:
    """Drop records that readers judged wrong, by record id, and count each with its reason."""
    kept = []
    for record in plan.records:
        reason = exclusions.get(record.record_id)
        if reason is None:
            kept.append(record)
        else:
            plan.rejects.append(Reject(record.index, reason, "judged so by a reader: see the verdict file"))
    plan.records = kept


def split_images(plan: Plan, rule: SplitRule) -> dict[str, str]:
    """Image -> split, for the images that records are about and their partners'."""
    unit_of = _units(plan)
    stated: dict[str, set[str]] = defaultdict(set)
    for name in {record.image for record in plan.records}:
        official = plan.images[name].official
        stated[unit_of[name]] |= {official} if official else set()
    split_of_unit = assign_splits({unit: frozenset(splits) for unit, splits in stated.items()}, rule)
    return {name: split_of_unit[unit] for name, unit in unit_of.items() if unit in split_of_unit}


def pair_records(plan: Plan, split_of: Mapping[str, str]) -> None:
    unit_of = _units(plan)
    by_split: dict[str, list[PlannedRecord]] = defaultdict(list)
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


def check_stated(plan: Plan, split_of: Mapping[str, str]) -> None:
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
    record: PlannedRecord, plan: Plan, split_of: Mapping[str, str], domains: Mapping[str, set[str]]
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


def drop_stageless(plan: Plan) -> None:
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
