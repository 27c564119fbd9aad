"""Hard partners: whose image, question and answer a record shows at its Hard stage. Pure; knows no texts and no pixels.

A partner is of the same split, domain and question kind, of another patient (hence another image and lesion), and has
something to lend. Partners of the same organ come first; within that everybody lends about equally often. Where a domain
would otherwise have one constant answer (`presence` is "yes" on every image that has the lesion), half of the partners
are asked for the other answer: images in scope of the class that do not have it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What pairing knows of a record."""

    record_id: str
    unit: str
    """Patient, or patients that share a lesion: never paired within."""
    domain: str
    question_kind: str
    organ: str | None
    lends: bool
    answer: str
    """The lent answer; empty where it lends nothing."""
    asks: str = ""
    """Domain that the lent question asks about where that is not `domain`: an image without any finding denies a class."""

    @property
    def denies(self) -> bool:
        """The lent answer says that the class is absent."""
        return self.question_kind == "presence" and self.answer.lower().startswith("no")


class _Pool:
    """Lenders of one kind of answer, least used first, never from the borrower's own unit.

    Two levels of heaps: of each unit's lenders, and of units by their least used lender. A patient with thousands of images
    then costs no more than one with two.
    """

    def __init__(self, lenders: Sequence[Candidate]) -> None:
        self._members: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for lender in lenders:
            self._members[lender.unit].append((0, _tie(lender.record_id)))
        for members in self._members.values():
            heapq.heapify(members)
        self._units = [(*members[0], unit) for unit, members in self._members.items()]
        heapq.heapify(self._units)
        self._by_tie = {_tie(lender.record_id): lender for lender in lenders}

    def least_use(self, unit: str) -> int | None:
        """How often the lender that `take` would give was used; None = it would give none."""
        if not self._units:
            return None
        if self._units[0][2] != unit:
            return self._units[0][0]
        rest = self._units[1:3]  # the second smallest of a heap is a child of its root
        return min(rest)[0] if rest else None

    def take(self, unit: str) -> Candidate | None:
        """The least used lender of another unit."""
        own = heapq.heappop(self._units) if self._units and self._units[0][2] == unit else None
        taken = None
        if self._units:
            _, _, other = heapq.heappop(self._units)
            members = self._members[other]
            uses, tie = heapq.heappop(members)
            heapq.heappush(members, (uses + 1, tie))
            heapq.heappush(self._units, (*members[0], other))
            taken = self._by_tie[tie]
        if own is not None:
            heapq.heappush(self._units, own)
        return taken


def _tie(record_id: str) -> str:
    """An order of lenders that has nothing to do with the order of borrowers."""
    return hashlib.sha256(f"lender {record_id}".encode()).hexdigest()


def pair(records: Sequence[Candidate]) -> dict[str, str | None]:
    """Record id -> record id of its partner, or None where there is none. `records` are those of one split.

    The result depends on the set of records, not on their order.
    """
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.record_id):
        groups[record.domain, record.question_kind].append(record)
    partners: dict[str, str | None] = {}
    foreign: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r.record_id):
        if record.lends and record.denies and record.asks not in ("", record.domain):
            foreign[record.asks, record.question_kind].append(record)
    for key, group in groups.items():
        lenders = [record for record in group if record.lends]
        affirming = _Chooser([record for record in lenders if not record.denies])
        denying = _Chooser([record for record in lenders if record.denies] + foreign.get(key, []))
        turns = [0, 0]
        for borrower in group:
            wanted, other = (denying, affirming) if turns[1] < turns[0] else (affirming, denying)
            found = wanted.take(borrower) or other.take(borrower)
            if found is not None:
                turns[found.denies] += 1
            partners[borrower.record_id] = found.record_id if found else None
    return partners


class _Chooser:
    """Same organ first, then any; both levels spread evenly over their lenders."""

    def __init__(self, lenders: Sequence[Candidate]) -> None:
        by_organ: dict[str | None, list[Candidate]] = defaultdict(list)
        for lender in lenders:
            by_organ[lender.organ].append(lender)
        self._of_organ = {organ: _Pool(some) for organ, some in by_organ.items()}

    def take(self, borrower: Candidate) -> Candidate | None:
        same = self._of_organ.get(borrower.organ)
        found = same.take(borrower.unit) if same else None
        if found is not None:
            return found
        uses = {organ: pool.least_use(borrower.unit) for organ, pool in self._of_organ.items()}
        able = [(use, organ or "") for organ, use in uses.items() if use is not None]
        if not able:
            return None
        organ = min(able)[1]
        return self._of_organ[organ or None].take(borrower.unit)
