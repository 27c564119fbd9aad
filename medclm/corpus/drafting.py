"""The step `draft` of contract.py: a writer's records go through every check, and what failed is written again.

Here because it is the only place that both writes and judges. Knows writers and checks by their contracts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medclm.corpus.checks import Fault, ImageWords, faults
from medclm.corpus.contract import Draft, DraftKey, LinkedImage, Reject, Writer, WriteRequest


@dataclass
class _Sheet:
    """The drafts of one image with what is wrong with each."""

    words: ImageWords
    seed: int
    drafts: list[Draft]
    rejects: list[Reject]
    found: list[list[Fault]]

    @classmethod
    def judged(cls, linked: LinkedImage, seed: int, drafts: Sequence[Draft], rejects: Sequence[Reject]) -> _Sheet:
        words = ImageWords(linked)
        return cls(words, seed, list(drafts), list(rejects), [faults(draft, words) for draft in drafts])

    @property
    def linked(self) -> LinkedImage:
        return self.words.linked

    @property
    def wrong(self) -> dict[DraftKey, tuple[str, ...]]:
        return {
            draft.key: tuple(f"{fault.stage}: {fault.reason}: {fault.detail}" for fault in found)
            for draft, found in zip(self.drafts, self.found, strict=True)
            if found
        }

    def replace(self, drafts: Sequence[Draft], rejects: Sequence[Reject]) -> None:
        """Put another attempt in the place of the drafts that failed."""
        again = {draft.key: draft for draft in drafts}
        for at, draft in enumerate(self.drafts):
            other = again.get(draft.key) if self.found[at] else None
            if other is not None:
                self.drafts[at], self.found[at] = other, faults(other, self.words)
        self.rejects += rejects

    def result(self) -> tuple[list[Draft], list[Reject]]:
        rejects = list(dict.fromkeys(self.rejects))  # a writer may name the same thing in every attempt
        for number, (draft, found) in enumerate(zip(self.drafts, self.found, strict=True)):
            if found:
                stage, reason, detail = found[0]
                where = f"{self.linked.image.index}.drafts[{number}].{draft.question_kind}.{stage}"
                rejects.append(Reject(where, f"check_{reason}", f"{draft.writer}: {detail}"))
        return [draft for draft, found in zip(self.drafts, self.found, strict=True) if not found], rejects


def draft_checked(
    images: Sequence[LinkedImage], writer: Writer, seeds: Sequence[int], retries: int = 2
) -> list[tuple[list[Draft], list[Reject]]]:
    """Write, check, and write again what failed.

    Args:
        seeds: of the first attempt, one per image; attempt n uses seed + n and replaces only the drafts that failed (same kind,
            domain and boxes).
        retries: attempts after the first.

    Returns:
        Per image the drafts that passed, in the writer's order, and a reject `check_<reason>` for each that did not.
    """
    made = writer.write([WriteRequest(linked, seed) for linked, seed in zip(images, seeds, strict=True)])
    sheets = [
        _Sheet.judged(linked, seed, drafts, rejects)
        for linked, seed, (drafts, rejects) in zip(images, seeds, made, strict=True)
    ]
    for attempt in range(1, retries + 1):
        failed = [sheet for sheet in sheets if any(sheet.found)]
        if not failed:
            break
        again = writer.write([WriteRequest(sheet.linked, sheet.seed + attempt, sheet.wrong) for sheet in failed])
        for sheet, (drafts, rejects) in zip(failed, again, strict=True):
            sheet.replace(drafts, rejects)
    return [sheet.result() for sheet in sheets]
