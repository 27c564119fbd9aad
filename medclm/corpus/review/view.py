"""What a reader is shown of one sample: pictures, texts, claims, facts and orientation, gathered from the stored rows.

Everything is plain text here, escaped nowhere: page.py does that. Knows nothing of readers, verdicts or HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from medclm.corpus.outlines import outlined
from medclm.corpus.review.sample import ReviewSample
from medclm.data.draw import COLOURS
from medclm.data.render import COLOUR
from medclm.data.shards import Corpus
from medclm.types import Box

BOX = re.compile(r"<box:(\d+)>")
"""Where a stored text names the k-th annotation."""
_COLOUR_NAME, _RGB = COLOURS[0]
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H", "S": "I", "I": "S"}
_TOWARDS = {
    "L": "patient's left",
    "R": "patient's right",
    "A": "anterior",
    "P": "posterior",
    "H": "superior",
    "S": "superior",
    "F": "inferior",
    "I": "inferior",
}
_ANNOTATION_COLUMNS = ("class_source", "lesion_class", "box_xyxy_unit", "box_role", "organ", "organ_relation", "organ_score")
_SHOWN_FACTS = ("location", "vertical", "depth", "image_position", "count", "intensity")
_COVERED = {*_SHOWN_FACTS, "label", "organ", "relation", "side", "side_of", "size_mm"}

Rows = tuple[tuple[str, str], ...]
"""(name, value) pairs in reading order."""


@dataclass(frozen=True)
class NumberedBox:
    """A box as the page shows it; `number` counts from 1, as in `box 1` for `<box:0>`."""

    number: int
    box_unit: Box
    control: bool
    """Lesion-free tissue that is asked about, not a lesion."""


@dataclass(frozen=True)
class Finding:
    """What is stored of one annotation."""

    number: int
    facts: Rows
    more: Rows
    """Facts that readers rarely need."""


@dataclass(frozen=True)
class Edges:
    """Patient direction at each edge of the picture, as DICOM letters."""

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True)
class View:
    """One sample, ready to be laid out."""

    sample: ReviewSample
    domain: str
    question_kind: str
    question: str
    rationale: str
    answer: str
    accepted: tuple[str, ...]
    """Other answers that count as right."""
    claims: Rows
    """(fact key, text) of this stage."""
    size: tuple[int, int]
    """Width and height of the picture in pixels."""
    boxes: tuple[NumberedBox, ...]
    drawn: bool
    """Easy: the boxes are painted on a picture of its own, as the model gets it."""
    findings: tuple[Finding, ...]
    edges: Edges | None
    """None = orientation unknown."""
    image: Rows


def gather(corpus: Corpus, sample: ReviewSample) -> View:
    """Everything of a sample.

    Raises:
        ValueError: rows that do not exist or JSON columns that are none; names the record.
    """
    record = corpus.row("records", sample.record_row)
    stage = sample.stage
    image = corpus.row("images", _image_row(record, stage), _IMAGE_COLUMNS)
    annotations = _annotations(corpus, record, stage)
    texts = [_coloured(record.get(f"{part}_{stage}")) for part in ("question", "rationale", "answer")]
    boxes = _boxes(record, stage, annotations, rationale=texts[1])
    return View(
        sample=sample,
        domain=str(record["domain"] or "unknown"),
        question_kind=str(record["question_kind"] or "unknown"),
        question=texts[0],
        rationale=texts[1],
        answer=texts[2],
        accepted=tuple(text for text in record[f"answers_{stage}"] or () if text != record[f"answer_{stage}"]),
        claims=_claims(record, stage),
        size=(int(image["width"]), int(image["height"])),
        boxes=boxes,
        drawn=stage == "easy" and bool(boxes),
        findings=tuple(_finding(number, annotation, sample.record_id) for number, annotation in annotations),
        edges=edges(image["patient_directions"]),
        image=_image_rows(record, image),
    )


def picture(corpus: Corpus, view: View, *, drawn: bool) -> Image.Image:
    """The picture of a sample, RGB; `drawn` with the boxes that the Easy stage paints on it."""
    record = corpus.row("records", view.sample.record_row, ["image_row", "easy_image_row", "hard_image_row"])
    plain = corpus.picture(_image_row(record, view.sample.stage))
    return outlined(plain, (box.box_unit for box in view.boxes), _RGB) if drawn and view.drawn else plain


def edges(patient_directions: str | None) -> Edges | None:
    """Letters at the picture's edges from the directions of +x and +y (`L\\P`); None where they are not known."""
    right, separator, bottom = (patient_directions or "").upper().partition("\\")
    if not separator or not right or not bottom or not set(right + bottom) <= _OPPOSITE.keys():
        return None
    left, top = ("".join(_OPPOSITE[letter] for letter in letters) for letters in (right, bottom))
    return Edges(left=left, right=right, top=top, bottom=bottom)


def towards(letters: str) -> str:
    """A direction in words: `L` -> patient's left."""
    return " and ".join(_TOWARDS[letter] for letter in letters)


_IMAGE_COLUMNS = (
    "width",
    "height",
    "modality",
    "technique",
    "view",
    "plane",
    "patient_directions",
    "spacing_mm",
    "window",
    "label_scope",
)


def _image_row(record: Mapping[str, Any], stage: str) -> int:
    if stage == "hard":
        return int(record["hard_image_row"])
    if stage == "easy" and record["easy_image_row"] >= 0:
        return int(record["easy_image_row"])
    return int(record["image_row"])


def _annotations(corpus: Corpus, record: Mapping[str, Any], stage: str) -> list[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of what the sample is about; of a Hard one, the partner's annotation."""
    rows = list(record["annotation_rows"] or ())
    if stage == "hard":
        rows = [record["hard_annotation_row"]] if record["hard_annotation_row"] >= 0 else []
    return list(enumerate(corpus.rows("annotations", rows, [*_ANNOTATION_COLUMNS, "facts"]), 1))


def _boxes(
    record: Mapping[str, Any], stage: str, annotations: Sequence[tuple[int, Mapping[str, Any]]], rationale: str
) -> tuple[NumberedBox, ...]:
    """Easy: the boxes that the model's picture shows, which are those the rationale names, or else the first."""
    if stage == "easy" and record["easy_image_row"] >= 0:
        return ()  # the picture came with its box painted on it
    boxes = [
        NumberedBox(number, Box(*row["box_xyxy_unit"]), control=row["box_role"] == "control")
        for number, row in annotations
        if row["box_xyxy_unit"] is not None
    ]
    if stage == "easy":
        named = {int(k) + 1 for k in BOX.findall(rationale)} or {1}
        boxes = [box for box in boxes if box.number in named]
    return tuple(boxes)


def _coloured(text: str | None) -> str:
    return (text or "").replace(COLOUR, _COLOUR_NAME)


def _claims(record: Mapping[str, Any], stage: str) -> Rows:
    found = _json(record["claims"], list, f"record {record['record_id']}: claims")
    return tuple(
        (str(claim.get("fact", "unknown")), _coloured(str(claim.get("text", ""))))
        for claim in found
        if isinstance(claim, dict) and claim.get("stage") == stage
    )


def _json(text: str | None, kind: type[Any], where: str) -> Any:
    """A JSON column that must hold a `kind`; null is an empty one."""
    try:
        value = json.loads(text) if text else kind()
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}): build the corpus again") from None
    if not isinstance(value, kind):
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(value).__name__}: build the corpus again")
    return value


def _finding(number: int, row: Mapping[str, Any], record_id: str) -> Finding:
    facts = _json(row["facts"], dict, f"record {record_id}: facts of annotation {number}")
    shown = [("class", _class(row)), ("organ", _organ(row)), ("side", _side(facts))]
    size = facts.get("size_mm")
    shown.append(("size", f"{' x '.join(map(str, size))} mm" if isinstance(size, list) else "not known in mm"))
    shown += [(name.replace("_", " "), _written(facts[name])) for name in _SHOWN_FACTS if name in facts]
    more = [(name.replace("_", " "), _written(value)) for name, value in sorted(facts.items()) if name not in _COVERED]
    return Finding(number=number, facts=tuple(shown), more=tuple(more))


def _class(row: Mapping[str, Any]) -> str:
    name = str(row["lesion_class"] or "unknown")
    stated = row["class_source"]
    role = ", control box on tissue without it" if row["box_role"] == "control" else ""
    return f"{name}{f' (source: {stated})' if stated and stated != name else ''}{role}"


def _organ(row: Mapping[str, Any]) -> str:
    if row["organ"] is None:
        return "unknown"
    score = "" if row["organ_score"] is None else f" (overlap {row['organ_score']:.0%})"
    return f"{str(row['organ_relation'] or 'unknown').replace('_', ' ')}: {row['organ']}{score}"


def _side(facts: Mapping[str, Any]) -> str:
    if facts.get("side") is None:
        return "not stated"
    return f"{facts['side']} (of the {facts['side_of']})" if facts.get("side_of") else str(facts["side"])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _image_rows(record: Mapping[str, Any], image: Mapping[str, Any]) -> Rows:
    spacing, window = image["spacing_mm"], image["window"]
    rows = [
        ("modality", image["modality"]),
        ("technique", image["technique"]),
        ("view", image["view"]),
        ("plane", image["plane"]),
        ("orientation", _orientation(image["patient_directions"])),
        ("pixel spacing", f"{spacing[0]:g} x {spacing[1]:g} mm" if spacing else None),
        ("window", f"centre {window[0]:g}, width {window[1]:g}" if window else None),
        ("annotated exhaustively", ", ".join(image["label_scope"] or ()) or None),
        ("split", record["split"]),
        ("writer", record["writer"]),
        ("record", record["record_id"]),
    ]
    return tuple((name, str(value) if value is not None else "unknown") for name, value in rows)


def _orientation(patient_directions: str | None) -> str | None:
    found = edges(patient_directions)
    if found is None:
        return None
    return f"right edge is {towards(found.right)}, lower edge is {towards(found.bottom)}"
