"""Which patients go to train, val and test. Pure; knows ids only.

Patients are ordered by their id, which is an HMAC: an order nobody chose and everybody can repeat. Quotas are met in whole
patients, so that even four fill three splits. Patients that share a lesion, an origin or a picture go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medclm.data.schema import SPLITS

_SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_FILL_ORDER = ("train", "test", "val")
"""Who gets a patient first when there are fewer patients than splits."""


@dataclass(frozen=True)
class SplitRule:
    """How splits are made.

    Raises:
        ValueError: unknown rule, quotas that are not three shares, a fold that does not exist.
    """

    rule: str = "official"
    """official: what the source states wins, patients without are drawn by quota (into train where others have one);
    patient: by quota alone; given: every image must state its split."""
    quotas: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test in patients."""
    fold: tuple[int, int] | None = None
    """(K, N): patients in N groups, the K-th (from 1) is test, the next one val; overrides the rule."""

    def __post_init__(self) -> None:
        if self.rule not in ("official", "patient", "given"):
            raise ValueError(f"--split {self.rule}: expected official, patient or given")
        if len(self.quotas) != 3 or min(self.quotas) < 0 or sum(self.quotas) <= 0:
            raise ValueError(f"--quotas {self.quotas}: give three shares (train, val, test), none negative, not all 0")
        if self.fold is not None and not (self.fold[1] >= 2 and 1 <= self.fold[0] <= self.fold[1]):
            raise ValueError(f"--split-fold {self.fold[0]}/{self.fold[1]}: give K/N with N at least 2 and K from 1 to N")

    def to_json(self) -> dict[str, object]:
        """The rule as JSON; `from_json` gives it back."""
        return {"rule": self.rule, "quotas": list(self.quotas), "fold": list(self.fold) if self.fold else None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SplitRule:
        train, val, test = stored["quotas"]
        fold = (stored["fold"][0], stored["fold"][1]) if stored["fold"] else None
        return cls(rule=stored["rule"], quotas=(train, val, test), fold=fold)

    def described(self) -> dict[str, object]:
        """What the manifest says of it."""
        if self.fold:
            return {"rule": "fold", "fold": f"{self.fold[0]}/{self.fold[1]}"}
        return {"rule": self.rule} | ({} if self.rule == "given" else {"quotas": list(self.quotas)})


def units(patients: Iterable[tuple[str, Iterable[str]]]) -> dict[str, str]:
    """Patient -> the unit it is split and paired with: itself, or the first id among patients that share something.

    Args:
        patients: (patient, what it may share: ids of lesions, of origins, of groups of equal pictures) of each image.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for patient, shared in patients:
        root(patient)
        for thing in shared:
            one, other = sorted((root(patient), root(f"~{thing}")))  # "~" sorts after every hex id: roots are patients
            parent[other] = one
    return {name: root(name) for name in parent if not name.startswith("~")}


def quota_counts(count: int, quotas: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers that sum to `count` in about the given shares; none of a positive share is 0 while there are enough.

    Largest remainders, after one each in the order train, test, val.
    """
    total = sum(quotas)
    order = [SPLITS.index(name) for name in _FILL_ORDER if quotas[SPLITS.index(name)] > 0]
    counts = [0] * len(quotas)
    for index in order[:count]:
        counts[index] = 1
    for _ in range(count - sum(counts)):
        # the split that is furthest below its share gets the next patient
        index = max(order, key=lambda i: (quotas[i] / total * count - counts[i], -i))
        counts[index] += 1
    return tuple(counts)


def assign_splits(official: Mapping[str, frozenset[str]], rule: SplitRule) -> dict[str, str]:
    """Unit -> split.

    Args:
        official: every unit with the splits its images state (empty set = none stated).
        rule: how to decide.

    Raises:
        ValueError: a unit in two stated splits, an unknown split name, none stated under `given`, fewer units than folds.
    """
    names = sorted(official)
    if rule.fold:
        return _by_fold(names, rule.fold)
    if rule.rule == "patient":
        return _by_quota(names, rule.quotas)
    stated = {name: _stated(name, official[name]) for name in names if official[name]}
    missing = [name for name in names if name not in stated]
    if rule.rule == "given" and missing:
        raise ValueError(
            f"--split given: {len(missing)} of {len(names)} patients state no split (first: {missing[0]}): state all, or use --split patient"
        )
    if not stated:
        return _by_quota(names, rule.quotas)
    # an official test set must not grow by patients its authors did not put there
    return stated | dict.fromkeys(missing, "train")


def _stated(name: str, splits: frozenset[str]) -> str:
    unknown = sorted(split for split in splits if split.lower() not in _SPELLINGS)
    if unknown:
        raise ValueError(f"official split {unknown[0]!r}: expected train, val or test: mend the source, or use --split patient")
    known = {_SPELLINGS[split.lower()] for split in splits}
    if len(known) > 1:
        raise ValueError(
            f"patient {name} is in the official splits {' and '.join(sorted(known))}: it would leak; use --split patient"
        )
    return known.pop()


def _by_quota(names: Sequence[str], quotas: Sequence[float]) -> dict[str, str]:
    counts = quota_counts(len(names), quotas)
    splits = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(names, splits, strict=True))


def _by_fold(names: Sequence[str], fold: tuple[int, int]) -> dict[str, str]:
    chosen, folds = fold
    if len(names) < folds:
        raise ValueError(f"--split-fold {chosen}/{folds}: there are only {len(names)} patients: use N = {len(names)} or less")
    test, val = chosen - 1, chosen % folds if folds > 2 else -1
    group = {name: position % folds for position, name in enumerate(names)}
    return {name: "test" if group[name] == test else "val" if group[name] == val else "train" for name in names}
