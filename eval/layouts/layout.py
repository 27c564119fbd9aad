"""Public benchmarks as they are published: every file of this folder reads one layout into examples.

A layout is one file with `LAYOUT = Layout(...)`; nothing else has to be told. Files that do not fit are refused by file and row, with
what was expected and what was found; what cannot be asked is counted by reason. Knows no suite and no model.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import layouts
from eval.example import Example, PictureKey
from eval.layouts.fields import yes_or_no
from eval.pictures import FolderPictures, Pictures
from eval.pool import FLOOR_RECORDS, Pool, corpus_pool, drawn
from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.files import Folder
from medclm.corpus.sources.lenient_json import read_json
from medclm.corpus.sources.picture_files import PictureFiles
from medclm.data.schema import MANIFEST
from medclm.data.shards import Corpus


@dataclass
class Questions:
    """What a layout finds in one split."""

    examples: list[Example] = field(default_factory=list)
    """`picture` as the files name it, relative to the image folder."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that cannot be asked, by reason."""


@dataclass(frozen=True)
class Layout:
    """How one benchmark is published."""

    name: str
    about: str
    """One line: what it is, and where it comes from."""
    expects: str
    """What the folder holds, as an error or the help says it."""
    recognises: Callable[[Path], bool]
    """Whether a folder (or file) looks like it; cheap, and never raises."""
    splits: Callable[[Path], tuple[str, ...]]
    """Splits that are there, the usual test split first."""
    read: Callable[[Path, str], Questions]
    """The questions of a split; ValueError names file and row."""
    files: Callable[[Path, str], list[Path]]
    """The annotation files of a split: they make the identity of an evaluation."""
    read_some: Callable[[Path, str, int], Questions] | None = None
    """The questions of so many drawn cases of a split, where to read them all is to open a file for each."""
    images: str = "."
    """Folder of the pictures below the data folder, unless --images says otherwise."""
    folder: Callable[[Path, str], Path] | None = None
    """That folder where it depends on the split; takes the place of `images`."""
    store: Callable[[Path, str, tuple[float, float] | None], Pictures | None] | None = None
    """Pictures of a split that are no files, with the window for grey ones of 16 bits; None where this copy has files."""


def find_layouts() -> dict[str, Layout]:
    """Name -> layout, of every file of this folder, sorted."""
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(layouts.__path__)):
        layout = getattr(importlib.import_module(f"{layouts.__name__}.{name}"), "LAYOUT", None)
        if isinstance(layout, Layout):
            found[layout.name] = layout
    return found


def open_pool(
    data: Path,
    split: str,
    *,
    layout: str = "auto",
    images: Path | None = None,
    window: tuple[float, float] | None = None,
) -> Pool:
    """The questions of our shards or of a public benchmark.

    Args:
        data: corpus folder, or folder or file of a benchmark.
        layout: name of a layout, `corpus`, or `auto`.
        images: folder of the pictures where it is not where the layout expects it.
        window: (centre, width) for grey pictures of 16 bits.

    Raises:
        ValueError: nothing there, no or several layouts fit, no such split, or files that do not fit their layout; names the cure.
    """
    if not data.exists():
        raise ValueError(f"--data {data}: there is no such file or folder")
    if layout == "corpus" or (layout == "auto" and (data / MANIFEST).is_file()):
        return corpus_pool(Corpus(data), split)
    chosen = _chosen(data, layout)
    splits = chosen.splits(data)
    if split not in splits:
        raise ValueError(f"--split {split}: {chosen.name} at {data} has {', '.join(splits) or 'no split'}: choose one of them")
    asked = chosen.read(data, split)
    if not asked.examples:
        why = ", ".join(f"{number} {reason}" for reason, number in asked.left_out.most_common()) or "no rows"
        raise ValueError(f"{data}: split {split} of {chosen.name} has nothing to ask ({why}): expected {chosen.expects}")
    _check_ids(asked, data)
    train = _training(data, chosen) if split != "train" and "train" in splits else []
    root = images or _images(data, chosen, split)
    found, pictures = asked.examples, chosen.store(data, split, window) if chosen.store else None
    if pictures is None:
        found, here = _with_pictures(asked, root, below=images is not None or data.is_dir())
        pictures = FolderPictures(root, window=window, noted=chosen.files(data, split)) if here else None
    return Pool(
        name=chosen.name,
        asked=found,
        train=[train[at] for at in drawn(len(train))],
        pictures=pictures,
        identity=FolderPictures(root, noted=chosen.files(data, split)).identity(),
        left_out=dict(asked.left_out.most_common()),
    )


def _training(data: Path, layout: Layout) -> list[Example]:
    found = layout.read_some(data, "train", FLOOR_RECORDS) if layout.read_some else layout.read(data, "train")
    return found.examples


def _chosen(data: Path, layout: str) -> Layout:
    known = find_layouts()
    if layout != "auto":
        if layout not in known:
            close = difflib.get_close_matches(layout, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"--layout {layout}: unknown; {hint}choose one of corpus, {', '.join(known)}")
        return known[layout]
    fitting = [one for one in known.values() if one.recognises(data)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"--data {data}: fits {', '.join(one.name for one in fitting)}: say which with --layout")
    held = sorted(path.name for path in data.iterdir())[:8] if data.is_dir() else [data.name]
    lines = [
        f"--data {data}: fits no known layout. Found {', '.join(held) or 'an empty folder'}. Expected one of",
        f"  corpus: {MANIFEST}; launch/corpus.py build makes one of your own boxes, masks or DICOM",
        *(f"  {one.name}: {one.expects}" for one in known.values()),
    ]
    raise ValueError("\n".join(lines))


def _images(data: Path, layout: Layout, split: str) -> Path:
    if layout.folder:
        return layout.folder(data, split)
    base = data if data.is_dir() else data.parent
    return base / layout.images


def _check_ids(asked: Questions, data: Path) -> None:
    twice = [key for key, number in Counter(example.id for example in asked.examples).items() if number > 1]
    if twice:
        raise ValueError(f"{data}: {len(twice)} ids stand twice, the first {twice[0]}: remove one of each")


def _with_pictures(asked: Questions, root: Path, *, below: bool) -> tuple[list[Example], bool]:
    """The examples whose picture is there, under its true name; all of them and False where there is not one picture.

    Missing ones are counted in `left_out`.

    Args:
        below: whether a picture that is not where it should be is sought in all folders of the root.
    """
    from dataclasses import replace

    finders = _finders(root, below=below)
    places: dict[PictureKey, str] = {}
    for key in {example.picture for example in asked.examples}:
        try:
            places[key] = _place(finders, str(key)).relative_to(root).as_posix()
        except RejectedImage as error:
            if error.reason == "path_outside_root":
                raise ValueError(f"picture {key} below {root}: {error.detail}") from error
    if not places:
        return asked.examples, False
    found = [replace(example, picture=places[example.picture]) for example in asked.examples if example.picture in places]
    if missing := len(asked.examples) - len(found):
        asked.left_out["picture missing"] += missing
    return found, True


def _finders(root: Path, *, below: bool) -> list[Callable[[str], Path]]:
    """Ways to find a picture, in order: by its path; by the end of it, since benchmarks are unpacked to different folders; and by
    its name before the ending, which some files leave out."""
    exact: list[Callable[[str], Path]] = [Folder(root).find]
    if not (below and root.is_dir()):
        return exact
    anywhere = PictureFiles(root)
    return [*exact, anywhere.find, anywhere.find_stem]


def _place(finders: Sequence[Callable[[str], Path]], key: str) -> Path:
    for find in finders[:-1]:
        try:
            return find(key)
        except RejectedImage as error:
            if error.reason != "image_missing":
                raise
    return finders[-1](key)


# --- what layouts read with


def rows_of(file: Path, expected: str, *, at: str | None = None) -> list[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSON list, or of JSON Lines, each with its row from 1.

    Args:
        expected: what the file should hold, for the error.
        at: key of the list where the file holds one object.

    Raises:
        ValueError: no such file, not JSON, or another form; names file, row and what was found.
    """
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        return _lines(file, expected)
    tree = read_json(file)
    if at is not None and isinstance(tree, dict):
        if at not in tree:
            raise ValueError(f"{file}: expected {expected} under {at!r}, found {', '.join(map(str, list(tree)[:8]))}")
        tree = tree[at]
    if not isinstance(tree, list):
        raise ValueError(f"{file}: expected {expected}, found {kind_of(tree)}")
    return [(number, _object(file, number, one, expected)) for number, one in enumerate(tree, start=1)]


def _lines(file: Path, expected: str) -> list[tuple[int, Mapping[str, Any]]]:
    import json

    from medclm.corpus.sources.tables import read_text

    found = []
    for number, line in enumerate(read_text(file, "JSON Lines").split("\n"), start=1):  # other breaks may stand in a text
        if line.strip():
            try:
                found.append((number, _object(file, number, json.loads(line), expected)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}:{number}: not JSON: {error}: correct that line") from error
    return found


def _object(file: Path, number: int, one: Any, expected: str) -> Mapping[str, Any]:
    if not isinstance(one, dict):
        raise ValueError(f"{file}:{number}: expected {expected}, found {kind_of(one)}")
    return one


def text_of(file: Path, number: int, row: Mapping[str, Any], *names: str, required: bool = True) -> str:
    """The text under the first of `names` that a row has, stripped; numbers and booleans are written out.

    Raises:
        ValueError: none of them is there or holds text, and it is required.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return _whole(file, number, name, value.strip())
        if isinstance(value, (int, float)) and value == value:  # NaN is how tables write nothing
            return _written(value)
        if value is not None and not isinstance(value, (str, float)):
            raise ValueError(f"{file}:{number}: {name} is {kind_of(value)}: expected text")
    if required:
        raise ValueError(
            f"{file}:{number}: no {' or '.join(names)}; there is {', '.join(map(str, list(row)[:8])) or 'nothing'}"
        )
    return ""


def _whole(file: Path, number: int, name: str, text: str) -> str:
    """The text, if it can be written to a file again: JSON may hold half of a character."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{file}:{number}: {name} holds half a character (\\ud800 to \\udfff): correct it")
    return text


def _written(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(int(value)) if isinstance(value, int) or value.is_integer() else str(value)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "nothing")


def answer_type_of(answer: str, stated: str = "") -> str:
    """closed or open, as stated (`CLOSED`, `Open`), else by the answer: yes and no, also in Chinese, are closed."""
    if stated.lower() in ("closed", "open", "choice"):
        return stated.lower()
    return "closed" if yes_or_no(answer) else "open"


__all__ = ["Layout", "PictureKey", "Questions", "answer_type_of", "find_layouts", "kind_of", "open_pool", "rows_of", "text_of"]
