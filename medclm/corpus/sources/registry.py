"""The formats that a corpus can be built from: one line of documentation each, and how each is opened.

A format is a class `NAME(annotations, image_root, options)` that implements `contract.Source`. Modules are imported when
they are opened, so that `--help` does not wait for libraries of formats that nobody asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from medclm.corpus.contract import Source
from medclm.corpus.sources.options import SourceOptions

_COMMON = frozenset(
    {
        "name",
        "modality",
        "plane",
        "patient_directions",
        "technique",
        "organs",
        "organ_root",
        "exhaustive",
        "visible_on",
        "aliases",
        "licence",
        "shareable",
        "window",
        "window_mode",
        "burned_in",
        "max_pixels",
        "box_frame",
        "reports",
    }
)
"""Options that every format reads."""


@dataclass(frozen=True)
class SourceKind:
    """One format."""

    where: str
    """`module:Class` below medclm.corpus.sources."""
    habit: str
    """One line: what it reads and what is particular about it."""
    annotations: str | None
    """What --annotations is; None = it takes none."""
    image_root: str | None = "folder of the pictures"
    """What --image-root is; None = it takes none."""
    reads: frozenset[str] = frozenset()
    """Options that it reads besides the common ones."""


KINDS: Mapping[str, SourceKind] = {
    "coco": SourceKind(
        "coco:CocoSource",
        "COCO JSON: boxes as corner and size, polygons or RLE; crowd regions are refused",
        "the JSON file",
        reads=frozenset({"patient_field", "technique_field", "split_field", "lesion_3d_field", "box_format"}),
    ),
    "voc": SourceKind(
        "voc:VocSource",
        "Pascal VOC XML, one per picture: pixels count from 1 and include the last one",
        "folder of XML files",
    ),
}


def open_source(kind: str, annotations: Path | None, image_root: Path | None, options: SourceOptions) -> Source:
    """The source of that kind.

    Raises:
        ValueError: an unknown kind, a missing or superfluous path, an option that the kind does not read, or what the format
            itself raises.
    """
    if kind not in KINDS:
        raise ValueError(f"--source {kind}: choose from {', '.join(KINDS)}")
    found = KINDS[kind]
    for flag, value, what in (
        ("--annotations", annotations, found.annotations),
        ("--image-root", image_root, found.image_root),
    ):
        if what is not None and value is None:
            raise ValueError(f"--source {kind} needs {flag}: {what}")
        if what is None and value is not None:
            raise ValueError(f"{flag} {value}: --source {kind} reads none: leave it out")
    for field in fields(SourceOptions):
        value = getattr(options, field.name)
        if field.name not in _COMMON | found.reads and value != field.default:
            readers = [name for name, one in KINDS.items() if field.name in one.reads]
            raise ValueError(f"{field.name}={value}: --source {kind} does not read it ({', '.join(readers)} do): leave it out")
    module, _, name = found.where.partition(":")
    opened = getattr(importlib.import_module(f"medclm.corpus.sources.{module}"), name)
    return cast(Source, opened(annotations, image_root, options))
