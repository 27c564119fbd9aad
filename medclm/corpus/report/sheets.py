"""Contact sheets: a few samples of every stage and image plane, as training shows them, with the patient's directions.

Chooses rows in one pass, then reads picture by picture. Every text is escaped here. Knows the page's figures, not the page.
"""

from __future__ import annotations

import base64
import bisect
import html
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from medclm.corpus.review.sample import ReviewSample
from medclm.corpus.review.view import BOX, View, gather, picture
from medclm.data.shards import Corpus, first_row
from medclm.draws import uniforms
from medclm.types import Stage

MOST_FIGURES = 96
"""Of all sheets together; with `_PICTURE_BYTES` this keeps a page under about 5 MB."""
_PICTURE_BYTES = 32 << 10
_ENCODINGS = ((320, 88), (320, 70), (256, 60), (192, 50), (128, 40))
"""(longest side in px, JPEG quality), tried in turn until a picture is small enough."""
_SHOWN_SIDE = 240
_LONGEST_TEXT = 400
UNKNOWN_PLANE = "unknown"


@dataclass(frozen=True)
class Sheet:
    """Samples of one stage on images of one plane."""

    stage: str
    plane: str
    rows: tuple[int, ...]
    offered: int
    """Records that offer this stage on such an image."""


def choose_sheets(corpus: Corpus, per_sheet: int) -> list[Sheet]:
    """At most `per_sheet` samples of each stage and plane, drawn from the whole corpus.

    An image comes twice only where there are no others, and among new images every domain and question kind once before one
    comes twice. A Hard sample counts by the plane of its partner's image, which it shows.
    """
    planes, plane_I = _planes(corpus)
    drawn: dict[tuple[Stage, int], dict[tuple[str, str], _Draw]] = defaultdict(dict)
    columns = ["domain", "question_kind", "image_row", "easy_image_row", "hard_image_row"]
    for batch in corpus.scan("records", [*columns, *(f"question_{stage.key}" for stage in Stage)]):
        values, first = batch.to_pydict(), first_row(batch)
        chance = uniforms(0, "report.sheets", np.arange(first, first + batch.num_rows))
        for at in range(batch.num_rows):
            kind = values["domain"][at], values["question_kind"][at]
            for stage in Stage:
                if values[f"question_{stage.key}"][at] is not None:
                    image = _shown_image(values, at, stage)
                    draw = drawn[stage, int(plane_I[image])].setdefault(kind, _Draw(per_sheet))
                    draw.add(float(chance[at]), first + at, image)
    order = sorted(drawn, key=lambda sheet: (sheet[0], planes[sheet[1]]))
    most = min(per_sheet, max(1, MOST_FIGURES // max(len(order), 1)))
    return [
        Sheet(
            stage=stage.key,
            plane=planes[plane],
            rows=_spread(drawn[stage, plane].values(), most),
            offered=sum(draw.offered for draw in drawn[stage, plane].values()),
        )
        for stage, plane in order
    ]


class _Draw:
    """The few of many samples whose chance is least: an even draw that holds only what it keeps."""

    def __init__(self, most: int) -> None:
        self.most, self.offered = most, 0
        self.kept: list[tuple[float, int, int]] = []
        """(chance, record row, image row), ascending."""

    def add(self, chance: float, row: int, image: int) -> None:
        self.offered += 1
        bisect.insort(self.kept, (chance, row, image))
        del self.kept[self.most :]


def _spread(draws: Iterable[_Draw], most: int) -> tuple[int, ...]:
    """Rows, ascending: new images before known ones, and among them a first of each kind before any second."""
    ranked = sorted((rank, *one) for draw in draws for rank, one in enumerate(draw.kept))
    fresh: dict[int, int] = {}
    for _, _, row, image in ranked:
        fresh.setdefault(image, row)
    first = list(fresh.values())
    taken = set(first)
    return tuple(sorted([*first, *(row for _, _, row, _ in ranked if row not in taken)][:most]))


def _shown_image(values: dict[str, list[Any]], at: int, stage: Stage) -> int:
    if stage is Stage.HARD:
        return int(values["hard_image_row"][at])
    drawn = int(values["easy_image_row"][at])
    return drawn if stage is Stage.EASY and drawn >= 0 else int(values["image_row"][at])


def _planes(corpus: Corpus) -> tuple[list[str], np.ndarray]:
    """Names of planes, and (images,) uint16 of each image's place among them."""
    places: dict[str, int] = {}
    plane_I = np.zeros(corpus.count("images"), np.uint16)
    for batch in corpus.scan("images", ["plane"]):
        names = (str(plane or UNKNOWN_PLANE) for plane in batch.column(0).to_pylist())
        plane_I[first_row(batch) :][: batch.num_rows] = [places.setdefault(name, len(places)) for name in names]
    return list(places), plane_I


def figures(corpus: Corpus, sheet: Sheet) -> Iterator[str]:
    """HTML of each sample of a sheet."""
    columns = ["record_id", "domain", "split"]
    for row in sheet.rows:
        record = corpus.row("records", row, columns)
        view = gather(corpus, ReviewSample(row, record["record_id"], sheet.stage, stratum=""))
        head = f"{view.domain} · {view.question_kind} · {record['split']} · record {row}"
        texts = (("Q", view.question), ("R", view.rationale), ("A", view.answer))
        words = "".join(f"<p><b>{part}</b> {escape(_readable(text))}</p>" for part, text in texts if text)
        yield f"<figure>{_picture(corpus, view)}<figcaption><p class='head'>{escape(head)}</p>{words}</figcaption></figure>"


def escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def _readable(text: str) -> str:
    text = BOX.sub(lambda match: f"[box {int(match[1]) + 1}]", text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _picture(corpus: Corpus, view: View) -> str:
    """The picture with patient directions at its edges and, where several boxes are drawn, their numbers."""
    width, height = view.size
    scale = _SHOWN_SIDE / max(width, height, 1)
    shown = f"width='{max(1, round(width * scale))}' height='{max(1, round(height * scale))}'"
    drawn = view.boxes if view.drawn else ()
    alt = f"{len(drawn)} boxes drawn" if drawn else "no box drawn by this corpus"
    marks = _edges(view) + (_numbers(view) if len(drawn) > 1 else "")
    data = _encoded(picture(corpus, view, drawn=True))
    return (
        f"<div class='view'><div class='frame'><img {shown} loading='lazy' alt='{alt}' src='data:image/jpeg;base64,{data}'>"
        f"{marks}</div></div>"
    )


def _edges(view: View) -> str:
    if view.edges is None:
        return ""
    return "".join(f"<span class='{side}'>{escape(letters)}</span>" for side, letters in vars(view.edges).items())


def _numbers(view: View) -> str:
    return "".join(
        f"<span class='number' style='left:{100 * box.box_unit.x0:.1f}%;top:{100 * box.box_unit.y0:.1f}%'>{box.number}</span>"
        for box in view.boxes
    )


def _encoded(shown: Image.Image) -> str:
    """Base64 of a JPEG of at most `_PICTURE_BYTES`, or of the smallest encoding."""
    data = b""
    for longest, quality in _ENCODINGS:
        small = shown.copy()
        small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, format="JPEG", quality=quality, subsampling=0, optimize=True)
        data = stream.getvalue()
        if len(data) <= _PICTURE_BYTES:
            break
    return base64.b64encode(data).decode("ascii")
