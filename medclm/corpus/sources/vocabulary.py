"""What the documentation of a public dataset settles for all of its pictures, and what one class says of another.

Knows names only: no files, no boxes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from medclm.corpus.sources.options import SourceOptions

NO_FINDING = "no finding"
"""The label of a reader who says that nothing is to be seen; never derived from missing boxes."""

BROADER: Mapping[str, frozenset[str]] = {
    "lung opacity": frozenset(
        {
            "atelectasis",
            "calcification",
            "consolidation",
            "edema",
            "infiltration",
            "interstitial lung disease",
            "pulmonary fibrosis",
            "nodule/mass",
            "nodule",
            "diffuse nodule",
            "mass",
            "lung cavity",
            "lung tumor",
            "pneumonia",
        }
    ),
    "interstitial lung disease": frozenset({"pulmonary fibrosis"}),
    "nodule": frozenset({"diffuse nodule"}),
    "fracture": frozenset({"rib fracture", "clavicle fracture"}),
}
"""Class -> classes whose presence makes it present too, whether or not its own box was drawn."""


def in_doubt(scope: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """Image labels of classes that may not be called absent, since a narrower class is present: class -> uncertain."""
    seen = frozenset(present)
    return {name: "uncertain" for name in scope if name not in seen and BROADER.get(name, frozenset()) & seen}


def of_dataset(
    options: SourceOptions, *, modality: str, plane: str | None = None, aliases: Mapping[str, str] | None = None
) -> SourceOptions:
    """The user's declarations, completed by what the dataset's documentation says; a declaration wins."""
    more = {spelling: name for spelling, name in (aliases or {}).items() if spelling not in options.aliases}
    return replace(
        options,
        modality=options.modality or modality,
        plane=options.plane or plane,
        aliases={**options.aliases, **more},
    )


def check_declared(where: object, options: SourceOptions, known: Iterable[str]) -> None:
    """Refuse a declared class that does not occur: a mistyped one in scope would be called absent everywhere.

    Raises:
        ValueError: names `where`, the class, and what it might be.
    """
    classes = {options.canonical(name) for name in known}
    for flag, names in (("--exhaustive", options.exhaustive), ("--visible-on", options.visible_on)):
        for name in names:
            if name not in classes:
                close = difflib.get_close_matches(name, sorted(classes), n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(classes)) or 'none'}"
                raise ValueError(f"{where}: {flag} {name} is no class of this dataset: {hint}")


def person(sex: str, age: str) -> dict[str, Any]:
    """Attributes that may be kept: sex F or M, and the decade of an age; over 89 and unreadable ones are not.

    Args:
        sex: as written: F, female, M, ...; anything else is unknown.
        age: years, as `58`, `058Y` or `58.0`.
    """
    kept: dict[str, Any] = {}
    if sex[:1].upper() in ("F", "M"):
        kept["sex"] = sex[:1].upper()
    try:
        years = float(age.strip().upper().removesuffix("Y"))
    except ValueError:
        return kept
    return kept | ({"age_decade": int(years // 10 * 10)} if 0 <= years <= 89 else {})
