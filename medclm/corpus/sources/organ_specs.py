"""How organs are declared (--organ): masks one by one, label maps that hold many, boxes.

    lung left=masks/lung_left/{stem}.png      one mask (all forms of a mask: organ_masks.py)
    labels:totalsegmentator=seg/{stem}.png    a picture whose values are organs by a class map: `totalsegmentator`,
                                              `totalsegmentator_mr` or a file of one's own (class_maps.py)
    boxes:xywh=lung_boxes_coco.json           stated boxes, corner and size (xywh) or two corners (xyxy): a COCO file, a JSON or
                                              CSV of the whole dataset or of one image ({stem}) (organ_boxes.py)
    boxes:xyxy={organ_boxes}                  the same from a field of the image entry: {"lung left": [x0, y0, x1, y1]}

A template is a path below the organ root; the path of a class map is one from where the command runs, as every other flag's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from medclm.corpus.class_maps import read_class_map
from medclm.corpus.sources.options import organ_template

BOX_FORMS = ("xywh", "xyxy")


@dataclass(frozen=True)
class OrganSpec:
    """One declaration, read."""

    kind: str
    """mask, labels or boxes."""
    name: str
    """Of a mask: its organ, or `*`; of boxes: their form; of labels: empty."""
    template: str
    class_map: Mapping[int, str] = field(default_factory=dict)
    """Of labels: value -> organ."""


@functools.lru_cache(maxsize=256)
def read_spec(spec: str) -> OrganSpec:
    """A declaration; a class map's file is read once.

    Raises:
        ValueError: of no known form, or its class map cannot be read; names the flag or file:row, and the cure.
    """
    found = re.fullmatch(r"\s*(labels|boxes)\s*(?::([^=]*))?=(.*)", spec, re.IGNORECASE | re.DOTALL)
    if found is None:
        return OrganSpec("mask", *organ_template(spec))
    kind, which, template = found.group(1).lower(), (found.group(2) or "").strip(), found.group(3).strip()
    if not template:
        raise ValueError(f"--organ {spec}: no path behind the =: give one below the organ root, e.g. labels/{{stem}}.png")
    if "{organ}" in template:
        raise ValueError(f"--organ {spec}: one file holds all organs: take {{organ}} out")
    if kind == "labels":
        if not which:
            raise ValueError(f"--organ {spec}: say which class map, e.g. labels:totalsegmentator={template}")
        return OrganSpec("labels", "", template, read_class_map(which))
    if which.casefold() not in BOX_FORMS:
        raise ValueError(
            f"--organ {spec}: say how boxes are written: boxes:xywh={template} (corner and size, as in COCO) or boxes:xyxy={template}"
        )
    return OrganSpec("boxes", which.casefold(), template)
