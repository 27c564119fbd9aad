"""What may host what: the one door to organ names (organ_names.py) and the plausible-organ table (organ_table.py).

Puts the two together: which row holds for a class on a picture, and whether a row allows an organ. Knows names only: no masks,
no images.
"""

from __future__ import annotations

from collections.abc import Mapping

from medclm.corpus.organ_names import KNOWN, PAIRED, SYMMETRIC, ancestors, paired, read_name, related, side_in_class, structure
from medclm.corpus.organ_table import TABLE, Plausible, read_table

__all__ = [
    "ANY_ORGAN_SOURCES",
    "PAIRED",
    "PROJECTIONS",
    "Plausible",
    "SHADOWED",
    "SYMMETRIC",
    "TABLE",
    "allows",
    "ancestors",
    "host_names",
    "is_projection",
    "paired",
    "read_name",
    "read_table",
    "related",
    "row_for",
    "side_in_class",
    "structure",
]

PROJECTIONS = frozenset({"DX", "CR", "XR", "RG", "RF", "PX", "MG"})
"""Modalities whose picture is a sum along the ray: an organ is projected over, never seen into."""

ANY_ORGAN_SOURCES = frozenset({"phantoms"})
"""Sources whose classes are invented shapes that occur in every organ, whatever a real class of that name would do."""

_COVERING = ("heart", "mediastinum", "aorta", "diaphragm", "liver", "stomach", "spleen")
SHADOWED: Mapping[str, tuple[str, ...]] = {"lung": _COVERING, "pleural space": _COVERING}
"""Organ -> whose shadow covers parts of it on a radiograph, where segmenters leave it out (Fleischner glossary: silhouette sign)."""


def is_projection(modality: str | None, plane: str | None) -> bool:
    """Whether depth is summed in this picture, so that organs are projected over."""
    return modality in PROJECTIONS or plane in ("frontal", "lateral")


def row_for(lesion_class: str, *, source: str, projection: bool, table: Mapping[str, Plausible] = TABLE) -> Plausible | None:
    """The table's row for a class, None where it says nothing: then every organ is a candidate."""
    row = None if source in ANY_ORGAN_SOURCES else table.get(lesion_class)
    if row is not None and row.only_projections and not projection:
        return None
    return row


def allows(row: Plausible | None, organ: str) -> bool:
    """Whether `organ` or a whole that it is part of is plausible."""
    return row is None or bool({organ, *ancestors(organ)} & set(row.organs))


def host_names(table: Mapping[str, Plausible] = TABLE) -> frozenset[str]:
    """Every organ name this page knows, for checks of texts."""
    return KNOWN | {organ for row in table.values() for organ in row.organs}
