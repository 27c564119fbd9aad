"""Class names of a YOLO dataset: data.yaml, or a plain list. Must not know labels or pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from medclm.corpus.sources.tables import read_text

BESIDE = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
"""Names of such files, where they lie beside the labels or above them."""
_LONGEST = 1 << 20
"""Bytes of YAML, which is parsed slowly."""


def read_names_file(file: Path) -> dict[int, str]:
    """Class number -> name.

    Raises:
        ValueError: missing, not readable, without names, a name that is empty or stands twice, or a dataset of key points.
    """
    names = _from_yaml(file) if file.suffix.lower() in (".yaml", ".yml") else _from_lines(file)
    if not names:
        raise ValueError(f"{file}: no class names: give one a line, or `names:` in YAML")
    places: dict[str, int] = {}
    for number, name in names.items():
        if not name.strip():
            raise ValueError(f"{file}: class {number} has no name: give one")
        first = places.setdefault(name.strip(), number)
        if first != number:
            raise ValueError(f"{file}: classes {first} and {number} have one name: rename one")
    return names


def _from_lines(file: Path) -> dict[int, str]:
    lines = [line.strip() for line in read_text(file, "list").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return dict(enumerate(lines))


def _from_yaml(file: Path) -> dict[int, str]:
    """`names` as a list or as number: name; every scalar is taken as text, so that a class named `no` stays one."""
    try:
        tree: Any = yaml.load(read_text(file, "YAML", most=_LONGEST), Loader=yaml.BaseLoader)  # plain text: it makes no objects
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{file}{line}: not YAML that can be read: correct it") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("names"), (list, dict)):
        raise ValueError(f"{file}: no `names:` with a list or with number: name: add it")
    if "kpt_shape" in tree:
        raise ValueError(f"{file}: kpt_shape: a dataset of key points has other lines: give boxes or polygons")
    names = tree["names"]
    pairs = list(enumerate(names)) if isinstance(names, list) else list(names.items())
    found: dict[int, str] = {}
    for number, name in pairs:
        if not isinstance(name, str) or not str(number).isdecimal() or len(str(number)) > 6:
            raise ValueError(f"{file}: names: {str(number)[:20]}: expected a class number from 0 up and its name")
        found[int(number)] = name
    return found
