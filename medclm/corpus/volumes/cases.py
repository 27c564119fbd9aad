"""Which image belongs to which label map, by the names of their files.

In order, until one rule fits:
    two files                 they belong together
    a template for images     `--image-root 'scans/{folder}/{stem}_t1c.nii.gz'`: {stem} and {folder} are those of the label map
    equal names               labels/a/case7.nii.gz and images/a/case7.mhd, endings aside
    a suffix of the label map case7_seg, case7-label, case7.mask, ... belongs to case7 or case7_0000
    one folder per case       case7/segmentation.nii.gz belongs to the only other volume in case7
Where label maps and images lie in one folder, label maps are the files with such a suffix. What finds no partner is named:
an image without a label map is unlabelled, not free of lesions. Knows names only; opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medclm.corpus.contract import Reject, RejectedImage
from medclm.corpus.sources.files import Folder, loosely
from medclm.corpus.sources.picture_files import walk_files

_SUFFIX = re.compile(r"(?:^|[._-])(?:seg|segmentation|segmentations|label|labels|labelmap|mask|masks|gt)$", re.IGNORECASE)
_CHANNEL = re.compile(r"_0000$")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_FIELDS = ("stem", "folder")


@dataclass(frozen=True)
class Case:
    """An image and its label map."""

    key: str
    """Name of the case below the label maps' root, without ending and suffix; equal for all images of one label map."""
    image: Path
    image_key: str
    """Name of the image below its root, without ending."""
    labels: Path

    @property
    def fields(self) -> dict[str, str]:
        """What templates may refer to: stem and folder of the case."""
        return _fields(self.key)


@dataclass(frozen=True)
class _Named:
    path: Path
    stem: str
    """Name below its root without ending."""
    case: str
    """As `stem`, without the suffix of a label map."""
    marked: bool
    """Whether there was one."""


def find_cases(annotations: Path, image_root: Path, endings: Sequence[str]) -> tuple[list[Case], list[Reject]]:
    """The cases in order of name, and what has no partner.

    Args:
        annotations: folder of label maps, or one file.
        image_root: folder of images, one file, or a template.
        endings: of files that count, lower case; the longest that fits is taken off.

    Raises:
        ValueError: a path that does not exist, one file against a folder, an unknown placeholder, or no label map.
    """
    if not annotations.exists():
        raise ValueError(f"{annotations}: no such file or folder: give the label maps (--annotations)")
    if "{" in str(image_root):
        labels = _label_files(annotations, _template_root(image_root), endings)
        return _by_template(labels, image_root)
    if not image_root.exists():
        raise ValueError(f"{image_root}: no such file or folder: give the images (--image-root)")
    if annotations.is_file() != image_root.is_file():
        raise ValueError(f"{annotations}, {image_root}: one is a file, the other a folder: give two of a kind or a template")
    if annotations.is_file():
        one, other = _named(annotations, annotations.parent, endings), _named(image_root, image_root.parent, endings)
        return [Case(one.case or one.stem, image_root, other.stem, annotations)], []
    labels = _label_files(annotations, image_root, endings)
    taken = {one.path.resolve() for one in labels}
    images = [_named(path, image_root, endings) for path in walk_files(image_root, tuple(endings))]
    return _by_name(
        labels, [one for one in images if one.path.resolve() not in taken and not _elsewhere(one, annotations, image_root)]
    )


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A template with its placeholders replaced.

    Raises:
        ValueError: an unknown placeholder.
    """
    for name in _PLACEHOLDER.findall(template):
        if name not in fields:
            raise ValueError(f"{template}: {{{name}}} is unknown: use {' or '.join('{' + each + '}' for each in fields)}")
    return _PLACEHOLDER.sub(lambda match: fields[match.group(1)], template)


def stem_of(path: Path, root: Path, endings: Sequence[str]) -> str:
    """The name below `root`, with slashes and without the ending."""
    name = path.relative_to(root).as_posix()
    ending = max((each for each in endings if name.lower().endswith(each)), key=len, default="")
    return name[: len(name) - len(ending)]


def _named(path: Path, root: Path, endings: Sequence[str]) -> _Named:
    stem = stem_of(path, root, endings)
    folder, slash, name = stem.rpartition("/")
    bare = _SUFFIX.sub("", name)
    return _Named(path, stem, folder + (slash if bare else "") + bare, bare != name)


def _fields(key: str) -> dict[str, str]:
    folder, _, stem = key.rpartition("/")
    return {"stem": stem, "folder": folder}


def _label_files(annotations: Path, image_root: Path, endings: Sequence[str]) -> list[_Named]:
    if annotations.is_file():
        return [_named(annotations, annotations.parent, endings)]
    found = [_named(path, annotations, endings) for path in walk_files(annotations, tuple(endings))]
    together = annotations.resolve() == image_root.resolve()
    found = [one for one in found if (one.marked if together else not _elsewhere(one, image_root, annotations))]
    if not found:
        marked = " whose name ends in _seg, _label, _mask or the like" if together else ""
        raise ValueError(f"{annotations}: no label map ({', '.join(endings)}){marked}: give their folder (--annotations)")
    return found


def _elsewhere(one: _Named, other_root: Path, root: Path) -> bool:
    """Whether a file lies below the other root, which is a folder within this one."""
    other, here = other_root.resolve(), root.resolve()
    return other != here and other.is_relative_to(here) and one.path.resolve().is_relative_to(other)


def _template_root(image_root: Path) -> Path:
    parts = image_root.parts
    place = next(number for number, part in enumerate(parts) if "{" in part)
    return Path(*parts[:place])


def _by_template(labels: Sequence[_Named], image_root: Path) -> tuple[list[Case], list[Reject]]:
    root = _template_root(image_root)
    template = image_root.relative_to(root).as_posix()
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder: correct --image-root {image_root}")
    folder, cases, rejects = Folder(root), [], []
    for number, one in enumerate(labels):
        name = filled(template, _fields(one.case))
        try:
            cases.append(Case(one.case, folder.find(name), name, one.path))
        except RejectedImage as rejection:
            rejects.append(Reject(f"label_maps[{number}]", rejection.reason, rejection.detail))
    return cases, rejects


def _by_name(labels: Sequence[_Named], images: Sequence[_Named]) -> tuple[list[Case], list[Reject]]:
    by_stem: dict[str, list[_Named]] = {}
    by_folder: dict[str, list[_Named]] = {}
    for image in images:
        for name in {image.stem, _CHANNEL.sub("", image.stem)}:
            by_stem.setdefault(loosely(name), []).append(image)
        by_folder.setdefault(loosely(image.stem.rpartition("/")[0]), []).append(image)
    in_folder: dict[str, int] = {}
    for one in labels:
        name = loosely(one.stem.rpartition("/")[0])
        in_folder[name] = in_folder.get(name, 0) + 1
    cases: list[Case] = []
    rejects: list[Reject] = []
    for number, one in enumerate(labels):
        own_folder = loosely(one.stem.rpartition("/")[0])
        alone = by_folder.get(own_folder, []) if own_folder and in_folder[own_folder] == 1 else []
        fitting = by_stem.get(loosely(one.stem)) or by_stem.get(loosely(one.case)) or alone
        if len(fitting) == 1:
            cases.append(Case(one.case or one.stem, fitting[0].path, fitting[0].stem, one.path))
            continue
        reason, detail = (
            "image_missing",
            "no image has the name of this label map: rename one, or give a template as --image-root",
        )
        if fitting:
            reason = "image_name_ambiguous"
            detail = f"{len(fitting)} images have the name of this label map: give a template as --image-root"
        rejects.append(Reject(f"label_maps[{number}]", reason, detail))
    used = {case.image for case in cases}
    for number, image in enumerate(images):
        if image.path not in used:
            detail = "an image without a label map is unlabelled, not free of lesions: label it"
            rejects.append(Reject(f"images_found[{number}]", "no_label_map", detail))
    return cases, rejects
