"""The tables of a COCO file, judged as a whole: what is no COCO is an error, what is ambiguous is known before it is used.

Must not know pictures' content, boxes or masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.files import Folder, loosely
from medclm.corpus.sources.lenient_json import read_json


def read_tables(file: Path) -> dict[str, list[Any]]:
    tree = read_json(file)
    found = f"an object with {', '.join(list(tree)[:8]) or 'no keys'}" if isinstance(tree, dict) else f"a {type(tree).__name__}"
    if not isinstance(tree, dict) or "images" not in tree or "annotations" not in tree:
        raise ValueError(
            f"{file}: not COCO: expected an object with images, annotations and categories, found {found}: a published-format list "
            "goes through `corpus.py import`"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(tree.get(key), list):
            raise ValueError(f"{file}: not COCO: {key} is {type(tree.get(key)).__name__}, expected a list")
    return {key: tree[key] for key in ("images", "annotations", "categories")}


def class_names(file: Path, categories: list[Any]) -> dict[str, str]:
    """category id -> class as written."""
    classes: dict[str, str] = {}
    for number, category in enumerate(categories):
        if not has_id(category) or not isinstance(category.get("name"), str) or not category["name"].strip():
            raise ValueError(f"{file}: categories[{number}]: expected an object with an id and a name")
        key = identity(category["id"])
        if classes.setdefault(key, category["name"]) != category["name"]:
            raise ValueError(f"{file}: categories[{number}]: id {key} already names {classes[key]}: give each class its own id")
    return classes


def image_faults(entries: list[Any], folder: Folder) -> dict[int, tuple[str, str] | None]:
    """Entries that cannot be read, each with reason and detail; None = readable, but its annotations may be incomplete."""
    faults: dict[int, tuple[str, str] | None] = {}
    ids: dict[str, int] = {}
    names: dict[str, int] = {}
    for place, entry in enumerate(entries):
        if not has_id(entry) or not isinstance(entry.get("file_name"), str):
            faults[place] = ("image_entry_unreadable", "expected an object with an id and a file_name")
            continue
        name = entry["file_name"]
        first = ids.setdefault(identity(entry["id"]), place)
        if first != place:
            detail = f"images[{first}] has the same id: give each image its own"
            faults[place] = ("duplicate_image_id", detail)
            if not _same_file(
                name, entries[first]["file_name"], folder
            ):  # the annotations of this id may belong to either picture
                detail = f"images[{place}] has the same id and another file, so it is unknown whose annotations these are"
                faults[first] = ("duplicate_image_id", detail)
            continue
        same_file = names.setdefault(loosely(name), place)
        if same_file != place and _same_file(name, entries[same_file]["file_name"], folder):
            faults[place] = ("duplicate_image_file", f"images[{same_file}] is the same file: merge the two entries")
            faults.setdefault(same_file, None)
    return faults


def _same_file(name: str, other: str, folder: Folder) -> bool:
    """Whether two names mean one file; the disk is asked only where they differ in letter case alone."""
    if name == other or loosely(name) != loosely(other):
        return name == other
    try:
        return folder.find(name) == folder.find(other)
    except RejectedImage:
        return False


def repeated_ids(annotations: list[Any]) -> set[int]:
    """Annotations whose id an earlier one has; those without an id are fine, since nothing refers to them."""
    seen: set[str] = set()
    repeated = set()
    for number, annotation in enumerate(annotations):
        if has_id(annotation):
            key = identity(annotation["id"])
            if key in seen:
                repeated.add(number)
            seen.add(key)
    return repeated


def has_id(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), (int, float, str)) and not isinstance(entry["id"], bool)


def identity(value: object) -> str:
    """Ids compared as text, since writers mix 7, 7.0 and "7"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def declared_size(entry: object) -> tuple[int, int] | None:
    """(width, height) as stated; None where the entry states none (0 is how some tools write that)."""
    if not isinstance(entry, dict):
        return None
    try:
        width, height = int(entry.get("width") or 0), int(entry.get("height") or 0)
    except (TypeError, ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None
