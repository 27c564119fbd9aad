"""Organ masks that lie as files beside a dataset; `gather_organs` also takes the other declarations of organ_specs.py.

A mask is declared as NAME=TEMPLATE, TEMPLATE being a path below the data folder with placeholders:

    brain={brain_mask_file}            a field of the COCO image entry holds the path
    lung left=masks/lung_left/{stem}.png   {stem} = file name of the image without its ending
    *=masks/{organ}/{stem}.png         one folder per organ; a folder without this image's file lacks that organ
    *=masks/{stem}                     one folder per image; file name = organ (lung_left.png -> lung left)

Any value but zero is inside. A mask of another size is resized (nearest) when it differs by scale alone. Must not know
lesions or anatomy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.pixels import MAX_PIXELS, read_mask
from medclm.corpus.sources.classes import organ_name
from medclm.corpus.sources.files import Folder, safe_parts
from medclm.corpus.sources.label_maps import LOSSY, fit, read_label_map, split_labels, unknown_values
from medclm.corpus.sources.organ_boxes import organ_box_mask, organs_of, stated_boxes
from medclm.corpus.sources.organ_specs import OrganSpec, read_spec

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".webp")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read_organ_masks(folder: Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> dict[str, np.ndarray]:
    """All masks of a folder whose files are named by their organ.

    Args:
        folder: holds e.g. `lung_left.png`; other files than pictures are left alone.
        size: (width, height) of the image.

    Returns:
        organ name (side last) -> (height, width) bool; an empty mask means that the organ is not there and is left out.

    Raises:
        RejectedImage: organ_mask_missing (no such folder), organ_mask_size, organ_mask_lossy, organ_mask_duplicate, or a
            reason of `read_picture`.
    """
    masks = {organ: read_organ_mask(path, size, max_pixels=max_pixels) for organ, path in _named_files(folder).items()}
    return {organ: mask for organ, mask in masks.items() if mask.any()}


def read_organ_mask(path: Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One mask as (height, width) bool for an image of `size` (width, height); raises as `read_organ_masks`."""
    if path.suffix.lower() in LOSSY:
        raise RejectedImage("organ_mask_lossy", "JPEG spreads values around the edge of a mask: give it as PNG")
    return fit(read_mask(path, max_pixels=max_pixels), size)


def gather_organs(
    specs: Sequence[str],
    fields: Mapping[str, Any],
    root: Folder,
    size: tuple[int, int],
    *,
    index: str,
    max_pixels: int = MAX_PIXELS,
) -> tuple[dict[str, np.ndarray], list[Reject]]:
    """The organs of one image by its declarations; a mask that cannot be used is named and the image stays.

    Args:
        specs: NAME=TEMPLATE each.
        fields: what placeholders stand for; holds `stem`.
        root: the data folder.
        size: (width, height) that the masks must fit.
        index: the image's place in the input, for rejects.
    """
    organs: dict[str, np.ndarray] = {}
    rejects: list[Reject] = []
    for spec in specs:
        declared = read_spec(spec)
        try:
            given = _GIVEN[declared.kind](declared, fields, root, size, max_pixels)
        except RejectedImage as rejection:
            what = declared.name if declared.kind == "mask" else declared.kind
            rejects.append(Reject(f"{index}.organs[{what}]", _organ_reason(rejection.reason), rejection.detail))
            continue
        for organ, mask_of in given:
            try:
                if organ in organs:
                    raise RejectedImage("organ_mask_duplicate", "a second mask of this organ: keep one")
                mask = mask_of()
            except RejectedImage as rejection:
                rejects.append(Reject(f"{index}.organs[{organ}]", _organ_reason(rejection.reason), rejection.detail))
                continue
            if mask.any():
                organs[organ] = mask
    return organs, rejects


_Given = Sequence[tuple[str, Callable[[], np.ndarray]]]
"""(organ, what gives its mask or raises RejectedImage)."""


def _masks(spec: OrganSpec, fields: Mapping[str, Any], root: Folder, size: tuple[int, int], max_pixels: int) -> _Given:
    files = _files(spec.name, spec.template, fields, root)
    return [(organ, partial(read_organ_mask, path, size, max_pixels=max_pixels)) for organ, path in files.items()]


def _labelled(spec: OrganSpec, fields: Mapping[str, Any], root: Folder, size: tuple[int, int], max_pixels: int) -> _Given:
    path = root.find(_filled(spec.template, fields))
    organs, unknown = split_labels(fit(read_label_map(path, max_pixels=max_pixels), size), spec.class_map)
    given: list[tuple[str, Callable[[], np.ndarray]]] = [(organ, partial(_same, mask)) for organ, mask in organs.items()]
    return [*given, (spec.kind, partial(_refuse, unknown_values(unknown)))] if unknown else given


def _boxed(spec: OrganSpec, fields: Mapping[str, Any], root: Folder, size: tuple[int, int], max_pixels: int) -> _Given:
    del max_pixels  # no picture is read
    field = _PLACEHOLDER.fullmatch(spec.template)
    inline = fields.get(field.group(1)) if field else None
    content = inline if isinstance(inline, dict) else root.find(_filled(spec.template, fields))
    stated = stated_boxes(content, fields)
    return [(organ, partial(organ_box_mask, box, spec.name, size, stated.size)) for organ, box in organs_of(stated)]


_GIVEN = {"mask": _masks, "labels": _labelled, "boxes": _boxed}


def _same(mask: np.ndarray) -> np.ndarray:
    return mask


def _refuse(rejection: RejectedImage) -> np.ndarray:
    raise rejection


def _organ_reason(reason: str) -> str:
    """`image_missing` -> `organ_mask_missing`: the same fault, counted apart from the image's own."""
    return "organ_mask_" + reason.removeprefix("image_") if reason.startswith("image_") else reason


def _files(name: str, template: str, fields: Mapping[str, Any], root: Folder) -> dict[str, Path]:
    filled = _filled(template, fields)
    if name != "*":
        return {name: root.find(filled)}
    if "{organ}" not in filled:
        return _named_files(root.find(filled))
    return _any_organ(safe_parts(filled), root)


def _filled(template: str, fields: Mapping[str, Any]) -> str:
    return _PLACEHOLDER.sub(lambda match: _field(match.group(1), fields), template)


def _field(name: str, fields: Mapping[str, Any]) -> str:
    if name == "organ":
        return "{organ}"
    value = fields.get(name)
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise RejectedImage("organ_field_missing", f"the image entry has no field {name}: add it or change --organ")
    return str(value)


def _any_organ(parts: tuple[str, ...], root: Folder) -> dict[str, Path]:
    """organ -> file, for the one part of the path that says {organ}."""
    place = next(number for number, part in enumerate(parts) if "{organ}" in part)
    before, after = parts[place].split("{organ}", 1)
    folder = root.find("/".join(parts[:place])) if place else root.root
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = re.fullmatch(re.escape(before) + "(.+)" + re.escape(after), entry.name)
        path = entry.joinpath(*parts[place + 1 :])
        if match and path.is_file():
            _add(found, match.group(1), path)
    if not found:
        raise RejectedImage("image_missing", "no organ has a mask for this image: check --organ and --organ-root")
    return found


def _named_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise RejectedImage("organ_mask_missing", "there is no such folder of organ masks: check --organ and --organ-root")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (*_SUFFIXES, *LOSSY) and not path.name.startswith("."):
            _add(found, path.stem, path)
    return found


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    organ = organ_name(name)
    if organ in found:
        raise RejectedImage("organ_mask_duplicate", f"two files name the organ {organ}: keep one")
    if organ:
        found[organ] = path
