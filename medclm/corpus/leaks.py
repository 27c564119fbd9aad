"""Leaks: pictures and patients that stand on both sides of a comparison, or in two splits of one corpus.

A leak is a picture of equal pixels or equal id, a near-duplicate (near_duplicates.py) of another patient's picture, or a
patient on both sides. Stands here because no number on a benchmark means anything before this was looked at. Must not know
how pictures are stored (leak_sides.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from medclm.corpus.fingerprints import SAME_CORRELATION, SIDE, Fingerprints
from medclm.corpus.leak_sides import Side
from medclm.corpus.near_duplicates import SHORTLIST_BITS, Thumbnails, confirmed, equal_pairs, shortlist
from medclm.draws import generator

KINDS = ("same_image", "near_duplicate", "same_patient")


@dataclass(frozen=True)
class FalsePositives:
    """What the rule calls near-duplicates among pictures of different patients of one side; true duplicates count too."""

    side: str
    called: int
    pairs: int
    upper95: float
    """Upper end of Wilson's 95 % interval of called / pairs."""
    examples: list[tuple[int, int]]
    """Numbers of the first called pairs, to be looked at."""


@dataclass
class LeakReport:
    """What two sides share; pictures by number."""

    same_image: list[dict[str, Any]] = field(default_factory=list)
    """a, b, by (pixels, image_id or origin); in one corpus a == b is a picture that two splits use."""
    near_duplicate: list[dict[str, int]] = field(default_factory=list)
    same_patient: list[dict[str, Any]] = field(default_factory=list)
    """First picture of the patient on each side, and how many there are."""
    patients: str = ""
    """Whether patients could be compared, and if not why."""
    false_positives: FalsePositives | None = None

    @property
    def counts(self) -> dict[str, int]:
        return {kind: len(getattr(self, kind)) for kind in KINDS}

    @property
    def found(self) -> bool:
        return any(self.counts.values())

    def as_json(self, sides: dict[str, Side]) -> dict[str, Any]:
        """Everything as plain values, without any path."""
        rule = {"shortlist_bits": SHORTLIST_BITS, "correlation": SAME_CORRELATION, "side_px": SIDE}
        described = {
            name: {
                "kind": side.kind,
                "pictures": side.count,
                "unread": dict(side.unread),
                "flat": int(side.prints.flat.sum()) - side.unread.total() if side.prints else None,
                "other_files": side.other_files,
            }
            for name, side in sides.items()
        }
        return {"rule": rule, "sides": described, "counts": self.counts, **asdict(self)}


def compare(
    a: Side,
    b: Side | None,
    *,
    splits_a: tuple[str, ...] = (),
    workers: int = 1,
    false_positive_pictures: int = 2000,
    progress: bool = False,
) -> LeakReport:
    """What `a` shares with `b`, or the splits of the corpus `a` with each other.

    Args:
        a, b: sides as opened; their pictures are read here. Without `b`, `a` must be a corpus.
        splits_a: take only the pictures of these splits of `a`.
        workers: threads that decode.
        false_positive_pictures: pictures drawn for the false-positive rate; 0 leaves it out.

    Raises:
        ValueError: one folder alone, splits of a folder, a picture of a corpus that does not decode.
    """
    if b is None and a.splits is None:
        raise ValueError("one folder alone has no splits to compare: give a corpus, or a second folder")
    if b is None and splits_a:
        raise ValueError(f"--splits {','.join(splits_a)}: compares A with B; without B all splits of A are compared")
    taken = np.flatnonzero(a.mask(splits_a))
    for name, side in (("A", a), ("B", b)):
        if side is not None:
            with tqdm(total=side.count, desc=f"reading {name}", unit="image", disable=None if progress else True) as bar:
                side.read(workers, bar.update)
    report = LeakReport()
    _Comparison(a, b, taken, report).run(progress)
    side_of_rate = next(((n, s) for n, s in (("B", b), ("A", a)) if s is not None and s.patients is not None), None)
    if side_of_rate is not None and false_positive_pictures:
        report.false_positives = false_positives(*side_of_rate, pictures=false_positive_pictures)
    return report


class _Comparison:
    """One search; `b` None means the splits of `a`."""

    def __init__(self, a: Side, b: Side | None, taken: np.ndarray, report: LeakReport) -> None:
        self.a, self.b, self.other, self.taken, self.report = a, b, b or a, taken, report
        self.same_key = a.id_key is not None and a.id_key == self.other.id_key
        self.known: set[tuple[int, int]] = set()

    def run(self, progress: bool) -> None:
        if self.b is None:
            self._used_twice()
        self._equal_ids("image_id", self.a.image_ids, self.other.image_ids, self.same_key)
        self._equal_ids("origin", self.a.origins, self.other.origins, self.same_key)
        assert self.a.prints is not None
        ours = self.a.prints.take(self.taken)
        theirs = None if self.b is None else self.other.prints
        for i, j in self._leaking(self._numbered(equal_pairs(ours, theirs))).tolist():
            self._add_same(i, j, "pixels")
        self._near(ours, theirs, progress)
        self._patients()

    def _numbered(self, pairs: np.ndarray) -> np.ndarray:
        """Positions within `taken` -> picture numbers."""
        return np.stack([self.taken[pairs[:, 0]], pairs[:, 1] if self.b is not None else self.taken[pairs[:, 1]]], axis=1)

    def _leaking(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs that stand on different sides: all of two sides, those of different splits of one corpus."""
        if self.b is not None:
            return pairs
        assert self.a.splits is not None
        first, second = self.a.splits[pairs[:, 0]], self.a.splits[pairs[:, 1]]
        several = np.bitwise_count(first | second) > 1
        return np.asarray(pairs[several & (first > 0) & (second > 0)])

    def _add_same(self, i: int, j: int, by: str) -> None:
        if (i, j) not in self.known:
            self.known.add((i, j))
            self.report.same_image.append({"a": i, "b": j, "by": by})

    def _used_twice(self) -> None:
        assert self.a.splits is not None
        for row in np.flatnonzero(np.bitwise_count(self.a.splits) > 1).tolist():
            self._add_same(row, row, "image_id")

    def _equal_ids(
        self, by: str, ours: Sequence[str | None] | None, theirs: Sequence[str | None] | None, comparable: bool
    ) -> None:
        if ours is None or theirs is None or not comparable:
            return
        places = defaultdict(list)
        for number, name in enumerate(theirs):
            if name is not None:
                places[name].append(number)
        found = [
            (i, j)
            for i in self.taken.tolist()
            if (name := ours[i]) is not None
            for j in places.get(name, ())
            if self.b is not None or i < j
        ]
        for i, j in self._leaking(np.array(found, np.int64).reshape(-1, 2)).tolist():
            self._add_same(i, j, by)

    def _near(self, ours: Fingerprints, theirs: Fingerprints | None, progress: bool) -> None:
        first_patient, second_patient = self._patient_codes()
        thumbnails = Thumbnails(self.a.pixels)
        others = thumbnails if self.b is None else Thumbnails(self.b.pixels)
        with tqdm(total=len(ours), desc="comparing", unit="image", disable=None if progress else True) as bar:
            for done, block in shortlist(ours, theirs):
                pairs = self._leaking(self._numbered(block))
                # what a shared patient or equal pixels tell already is not told again
                pairs = pairs[first_patient[pairs[:, 0]] != second_patient[pairs[:, 1]]]
                fresh = [tuple(pair) not in self.known for pair in pairs.tolist()]
                for i, j in confirmed(pairs[np.array(fresh, bool)], thumbnails, others).tolist():
                    self.report.near_duplicate.append({"a": i, "b": j})
                bar.update(done)

    def _patient_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """A number per patient of each side; equal numbers are one patient, unknown patients are all different."""
        codes: dict[str, int] = {}

        def of(side: Side, start: int, comparable: bool) -> np.ndarray:
            unknown = np.arange(start, start + side.count)
            if side.patients is None or not comparable:
                return unknown
            known = [codes.setdefault(name, len(codes)) if name is not None else -1 for name in side.patients]
            return np.where(np.array(known, np.int64) >= 0, np.array(known, np.int64), unknown)

        beyond = self.a.count + self.other.count
        first = of(self.a, beyond, True)
        return first, first if self.b is None else of(self.b, 2 * beyond, self.same_key)

    def _patients(self) -> None:
        if self.a.patients is None or self.other.patients is None:
            self.report.patients = "not compared: a folder states no patients"
        elif not self.same_key:
            self.report.patients = "not compared: the ids were made under different keys (--id-key)"
        else:
            self.report.patients = "compared"
            seen = self._shared("patient", self.a.patients, self.other.patients)
            if self.a.origin_patients is not None and self.other.origin_patients is not None:
                again = self._shared("origin_patient", self.a.origin_patients, self.other.origin_patients)
                seen += [entry for entry in again if (entry["a"], entry["b"]) not in {(one["a"], one["b"]) for one in seen}]
            self.report.same_patient += seen

    def _shared(self, by: str, ours: Sequence[str | None], theirs: Sequence[str | None]) -> list[dict[str, Any]]:
        """One entry per name that stands on both sides."""
        of_a, of_b = defaultdict(list), defaultdict(list)
        for number in self.taken.tolist():
            if (name := ours[number]) is not None:
                of_a[name].append(number)
        if self.b is not None:
            for number, name in enumerate(theirs):
                if name in of_a:
                    of_b[name].append(number)
        else:
            assert self.a.splits is not None
            for name, rows in of_a.items():
                used = [row for row in rows if self.a.splits[row]]
                of_a[name] = [row for row in used if self.a.splits[row] == self.a.splits[used[0]]]
                of_b[name] = [row for row in used if self.a.splits[row] != self.a.splits[used[0]]]
        return [
            {"a": of_a[name][0], "a_pictures": len(of_a[name]), "b": some[0], "b_pictures": len(some), "by": by}
            for name, some in of_b.items()
            if some
        ]


def false_positives(name: str, side: Side, *, pictures: int) -> FalsePositives:
    """The rule on pairs of different patients within one side whose pixels are not equal.

    Args:
        pictures: at most so many pictures are drawn (the same ones every time); all their pairs count.
    """
    assert side.patients is not None
    assert side.prints is not None
    known = np.array(
        [row for row in range(side.count) if side.patients[row] is not None and not side.prints.flat[row]], np.int64
    )
    rows = known
    if len(known) > pictures:
        rows = np.sort(generator(0, "leaks.false_positives").choice(known, pictures, replace=False))
    owners = np.unique([str(side.patients[row]) for row in rows], return_inverse=True)[1] if len(rows) else np.empty(0, int)
    counts = np.bincount(owners) if len(rows) else np.zeros(0, int)
    pairs = len(rows) * (len(rows) - 1) // 2 - int((counts * (counts - 1) // 2).sum())
    prints = side.prints.take(rows)
    equal = equal_pairs(prints)
    equal = equal[owners[equal[:, 0]] != owners[equal[:, 1]]]
    true = {tuple(pair) for pair in equal.tolist()}
    thumbnails = Thumbnails(side.pixels)
    called: list[tuple[int, int]] = []
    for _, block in shortlist(prints):
        apart = block[owners[block[:, 0]] != owners[block[:, 1]]]
        apart = apart[np.array([tuple(pair) not in true for pair in apart.tolist()], bool)]
        called += [(int(i), int(j)) for i, j in confirmed(rows[apart], thumbnails, thumbnails)]
    pairs -= len(true)
    return FalsePositives(name, len(called), pairs, wilson_upper(len(called), pairs), called[:20])


def wilson_upper(called: int, pairs: int) -> float:
    """Upper end of the 95 % score interval of a share (Wilson 1927); 1 where there are no pairs."""
    if pairs == 0:
        return 1.0
    z, share = 1.959964, called / pairs
    centre = share + z * z / (2 * pairs)
    spread = z * math.sqrt(share * (1 - share) / pairs + z * z / (4 * pairs * pairs))
    return min(1.0, (centre + spread) / (1 + z * z / pairs))
