"""Lesions by class: relation to the host organ, how clear the choice of the host was, and how large the model sees them.

One pass over the annotations; keeps counts by class, and two numbers per image for the scale. Knows no pixels.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medclm.data.shards import Corpus, first_row
from medclm.metrics.boxes import STRATA, size_stratum

SUB_PATCH = STRATA[0]


@dataclass(frozen=True)
class ModelSquare:
    """The model's square picture, as far as sizes need it; the defaults are those of CLIP ViT-L/14-336, which ViP-LLaVA has."""

    side: int = 336
    """In pixels."""
    patch: int = 14
    """Side of a vision patch in pixels."""
    min_side: float = 8.0
    """Short side in pixels below which training leaves a box out (`data.min_side`)."""
    fit: Literal["pad", "stretch"] = "pad"
    """How a picture becomes square (`data.fit`)."""

    def __post_init__(self) -> None:
        for name in ("side", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"model {name} {getattr(self, name)}: give at least 1 pixel")
        if not self.min_side >= 0:
            raise ValueError(f"min_side {self.min_side}: give at least 0 pixels")


@dataclass
class ClassCounts:
    """Lesions of one class."""

    lesions: int = 0
    relations: Counter[str] = field(default_factory=Counter)
    margins: Counter[int] = field(default_factory=Counter)
    """Score of the host less that of the runner-up, in hundredths, where masks decided."""
    without_row: int = 0
    """Lesions whose class the table of plausible organs does not know: every organ was a candidate."""
    sizes: Counter[str] = field(default_factory=Counter)
    """Stratum of the short side in patches -> lesions."""
    under_min: int = 0
    """Lesions that training leaves out as too small."""

    def add(self, other: ClassCounts) -> None:
        self.lesions += other.lesions
        self.without_row += other.without_row
        self.under_min += other.under_min
        self.relations.update(other.relations)
        self.margins.update(other.margins)
        self.sizes.update(other.sizes)

    def margin(self, share: float) -> float | None:
        """Nearest-rank quantile of the margins; None where none is known."""
        needed, seen = math.ceil(share * self.margins.total()), 0
        for hundredths in sorted(self.margins):
            seen += self.margins[hundredths]
            if seen >= needed:
                return hundredths / 100
        return None

    @property
    def sub_patch_share(self) -> float | None:
        """Share of boxes whose short side is less than a patch; None without boxes."""
        return self.sizes[SUB_PATCH] / self.sizes.total() if self.sizes else None


@dataclass
class Lesions:
    classes: dict[str, ClassCounts] = field(default_factory=dict)
    controls: int = 0
    """Lesion-free boxes that are asked about; counted nowhere else."""

    @property
    def all(self) -> ClassCounts:
        """Every class together."""
        together = ClassCounts()
        for counts in self.classes.values():
            together.add(counts)
        return together


_COLUMNS = ("image_row", "lesion_class", "box_role", "box_xyxy_unit", "organ_relation", "facts")


def count_lesions(corpus: Corpus, square: ModelSquare) -> Lesions:
    """Count every lesion once.

    Raises:
        ValueError: facts that are no JSON object; names the row.
    """
    scale_I2 = _scales(corpus, square)
    found = Lesions()
    for batch in corpus.scan("annotations", _COLUMNS):
        columns = (column.to_pylist() for column in batch.columns)
        for at, (image, name, role, box, relation, facts) in enumerate(zip(*columns, strict=True)):
            if role == "control":
                found.controls += 1
                continue
            counts = found.classes.setdefault(str(name or "unknown"), ClassCounts())
            counts.lesions += 1
            counts.relations[relation or "unknown"] += 1
            _add_facts(counts, facts, f"{corpus.folder}: annotations row {first_row(batch) + at}")
            if box is not None:
                scale = scale_I2[image]
                short_px = float(min((box[2] - box[0]) * scale[0], (box[3] - box[1]) * scale[1]))
                counts.sizes[size_stratum(short_px / square.patch)] += 1
                counts.under_min += short_px < square.min_side
    return found


def _scales(corpus: Corpus, square: ModelSquare) -> np.ndarray:
    """(images, 2) float32: what a unit of width and of height measures in pixels of the model's square."""
    scale_I2 = np.full((corpus.count("images"), 2), square.side, np.float32)
    if square.fit == "pad":
        for batch in corpus.scan("images", ["width", "height"]):
            size_n2 = np.stack([column.to_numpy() for column in batch.columns], axis=1)
            scale_I2[first_row(batch) :][: len(size_n2)] *= size_n2 / size_n2.max(axis=1, keepdims=True)
    return scale_I2


def _add_facts(counts: ClassCounts, text: str | None, where: str) -> None:
    facts = _facts(text, where)
    if facts.get("organ_candidates") == "any":
        counts.without_row += 1
    margin = facts.get("organ_margin")
    if isinstance(margin, int | float):
        counts.margins[round(100 * margin)] += 1


def _facts(text: str | None, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: facts are not JSON ({error.msg}): build the corpus again") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{where}: facts are not an object: build the corpus again")
    return facts
