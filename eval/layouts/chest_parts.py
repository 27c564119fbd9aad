"""What the layouts of chest radiographs share: a report as examples, what may be said of a person, boxes as corpora judge them.

No layout of its own. Knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.example import Example
from eval.layouts.layout import Questions
from medclm.corpus.sources.vocabulary import person
from medclm.types import Box

SPLITS = ("test", "val", "train")
"""The usual test split first."""
ALL = "all"
"""The only split of what was published without one: nothing is drawn, since two people would draw differently."""
_FAULTS = ("box_unreadable", "box_not_finite")
"""What makes a file faulty, unlike a box that no picture can hold."""


def only(folder: Path, pattern: str) -> Path | None:
    """The first file of a folder that fits a pattern, in order of names."""
    return next((path for path in sorted(folder.glob(pattern)) if path.is_file()), None)


def once(seen: dict[str, int], file: Path, number: int, key: str) -> str:
    """An id that no row before had; `seen` holds the rows of those that were met.

    Raises:
        ValueError: it stands twice; names file and both rows.
    """
    first = seen.setdefault(key, number)
    if first != number:
        raise ValueError(f"{file}:{number}: {key[:80]} stands in row {first} too: keep one of them")
    return key


def groups_of(*, sex: str = "", age: str = "", **others: str) -> dict[str, str]:
    """Subgroups of one picture, where known: `sex` F or M, `age_decade` up to 80, and others by name."""
    known = {name: str(value) for name, value in person(sex, age).items()}
    return known | {name: value for name, value in others.items() if value}


def add_report(
    found: Questions,
    *,
    study: str,
    patient: str,
    picture: str,
    findings: str,
    impression: str,
    groups: Mapping[str, str],
    labels: Mapping[str, float] | None = None,
    language: str = "en",
) -> None:
    """One example that asks for the findings, and one for the impression (`STUDY:impression`), as far as the report has them.

    Labels are of the whole study, so they stand with the first example alone. Marks of removed identifiers stay in the
    references, as published scores have them. A report without findings is counted.
    """
    texts = {"findings": " ".join(findings.split()), "impression": " ".join(impression.split())}
    if not texts["findings"]:
        found.left_out["no findings"] += 1
    labels = labels or {}
    for kind, text in texts.items():
        if not text:
            continue
        found.examples.append(
            Example(
                id=study if kind == "findings" else f"{study}:{kind}",
                patient=patient,
                question_kind=kind,
                answer_type="open",
                question="",
                picture=picture,
                answers=(text,),
                labels=labels,
                language=language,
                groups=groups,
            )
        )
        labels = {}


def side_of(where: str, name: str, value: object) -> int:
    """Width or height of a picture in pixels.

    Raises:
        ValueError: not a positive number of usual size.
    """
    try:
        side = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        side = 0.0
    if not 1 <= side < 1e6:
        raise ValueError(f"{where}: {name} is {str(value)[:20]!r}: give the picture's size in pixels")
    return round(side)


def unit_box(where: str, numbers: object, size: tuple[int, int], *, sized: bool = False) -> Box | str:
    """A stated box clipped to its picture, in shares of it; or, in words, why it cannot count.

    Args:
        numbers: two corners, or with `sized` one corner, width and height.
        size: (width, height) of the frame they are in.

    Raises:
        ValueError: not four finite numbers.
    """
    from medclm.corpus.sources.detection import RefusedAnnotation, four_numbers, judge_box  # loads the readers of pictures

    width, height = size
    try:
        x, y, third, fourth = four_numbers(numbers)
        stated = Box(x, y, x + third, y + fourth) if sized else Box(x, y, third, fourth)
        box_px = judge_box(stated, size)
    except RefusedAnnotation as refusal:
        if refusal.reason in _FAULTS:
            raise ValueError(f"{where}: {refusal.detail}") from refusal
        return refusal.reason.replace("_", " ")
    unit = Box(box_px.x0 / width, box_px.y0 / height, box_px.x1 / width, box_px.y1 / height)
    return unit if unit.area > 0 else "box zero area"  # sides so small that their product is nothing
