"""PathVQA (He et al. 2020, arXiv 2003.10286): 4,998 pathology images, 32,795 questions made from captions.

Two published forms, both with the split in the file's name:
- the authors': qas/{train,val,test}/*_qa.pkl and images/{train,val,test}. Loading a pickle runs whatever it holds, so none is ever
  loaded; the JSON, JSON Lines or CSV made of it is read instead (fields image, question, answer);
- the hubs': data/{train,validation,test}-*.parquet with the pictures inside.

The kind of a question is the authors': yes/no, or the word it begins with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.layouts.fields import SUFFIXES, TABLES, fields_of, picture_name, yes_or_no
from eval.layouts.layout import Layout, Questions, answer_type_of, rows_of, text_of
from eval.layouts.parquet import ParquetPictures, columns_of, parquet_files, parquet_rows
from eval.pictures import Pictures
from medclm.corpus.sources.tables import read_table

_NEEDED = ("image", "question", "answer")
_EXPECTED = "a list of questions with image, question and answer"
_SPLITS = ("test", "val", "train")
_PLACES = ("qas/{split}/{split}_qa", "qas/{split}_qa", "qas/{split}/{split}", "{split}/{split}_qa", "{split}_qa")
"""Of a split's questions below the folder, without suffix; the last two below `qas` itself."""
_NAMES = ("pathvqa", "path_vqa", "path-vqa", "pvqa")
_BEGINNINGS = (("what", "what"), ("where", "where"), ("how many", "count"), ("how much", "how much"))
_OTHER_BEGINNINGS = ("how", "when", "why", "whose", "who", "which")


def _files(data: Path) -> dict[str, list[Path]]:
    """Split -> its files, of the first form that is there: Parquet, then text.

    Raises:
        ValueError: there are pickles alone.
    """
    if data.is_file() and data.suffix == ".parquet":
        return {next((split for split in (*_SPLITS, "validation") if data.name.startswith(split)), "test"): [data]}
    stored = parquet_files(data)
    if stored:
        return {split: stored[split] for split in ("test", "validation", "train") if split in stored}
    found = _written(data)
    if not found and (pickles := _pickles(data)):
        raise ValueError(
            f"{pickles[0]}: a pickle can run any program when it is loaded, so it is not read. Where you trust it, make a JSON "
            "file of it once: python -c \"import json, pickle, sys; json.dump(pickle.load(open(sys.argv[1], 'rb')), "
            f"open(sys.argv[2], 'w'))\" {pickles[0]} {pickles[0].with_suffix('.json')}"
        )
    return {split: [path] for split, path in found.items()}


def _written(data: Path) -> dict[str, Path]:
    """Split -> its JSON, JSON Lines or CSV file."""
    if data.is_file():
        split = next((split for split in _SPLITS if data.stem.startswith(split)), "test")
        return {split: data} if data.suffix.lower() in SUFFIXES else {}
    places = {split: [f"{place.format(split=split)}{suffix}" for place in _PLACES for suffix in SUFFIXES] for split in _SPLITS}
    there = {split: [data / name for name in names if (data / name).is_file()] for split, names in places.items()}
    return {split: paths[0] for split, paths in there.items() if paths}


def _pickles(data: Path) -> list[Path]:
    """The questions that are there as pickles."""
    if data.is_file():
        return [data] if data.suffix in (".pkl", ".pickle") else []
    return sorted([*data.glob("qas/*/*_qa.pkl"), *data.glob("*/*_qa.pkl"), *data.glob("*_qa.pkl")])


def _recognises(data: Path) -> bool:
    named = any(name in part.lower() for part in data.absolute().parts[-3:] for name in _NAMES)
    stored = parquet_files(data) or ({"test": [data]} if data.suffix == ".parquet" else {})
    if stored:
        fitting = all(columns_of(paths[0]).issuperset(_NEEDED) for paths in stored.values())
        return fitting and (named or "validation" in stored)
    found = _written(data)
    if found:
        fitting = any(fields_of(path).issuperset(_NEEDED) for path in found.values())
        return fitting and (named or any("qas" in path.parts[-3:-1] for path in found.values()))
    return bool(_pickles(data)) and (named or (data / "qas").is_dir())


def _read(data: Path, split: str) -> Questions:
    found = Questions()
    every = (_question(file, *row, split) for file in _files(data)[split] for row in _rows(file))
    for number, example in enumerate(every, start=1):
        if isinstance(example, str):
            found.left_out[example] += 1
        else:
            found.examples.append(replace(example, id=f"row{number}"))
    return found


def _question(file: Path, number: int, row: Mapping[str, Any], digest: str | None, split: str) -> Example | str:
    """A row as an example, still without its id, or why it cannot be asked."""
    question = text_of(file, number, row, "question")
    answer = text_of(file, number, row, "answer", required=False)
    if not answer:
        return "no answer"
    if digest == "":
        return "no picture"
    picture = _picture(file, number, row, split) if digest is None else f"{file.name}/{number}"
    return Example(
        id="",
        patient=digest or picture,
        question_kind=_kind(question, answer),
        answer_type=answer_type_of(answer),
        question=question,
        picture=picture,
        answers=(answer,),
    )


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any], str | None]]:
    """(row, its fields, digest of the picture inside: None where pictures are files, "" where it is missing)."""
    if file.suffix == ".parquet":
        yield from parquet_rows(file, ["question", "answer"])
    elif file.suffix.lower() in TABLES:
        yield from ((row.line, {name: row[name] for name in _NEEDED}, None) for row in read_table(file, _NEEDED).rows)
    else:
        yield from ((number, row, None) for number, row in rows_of(file, _EXPECTED))


def _picture(file: Path, number: int, row: Mapping[str, Any], split: str) -> str:
    """`test_0422`, `test_0422.jpg`, `test/test_0422.jpg`, `images/test/test_0422.jpg` -> `test_0422.jpg`."""
    name = picture_name(file, number, text_of(file, number, row, "image"))
    for part in ("images/", f"{split}/"):
        name = name.removeprefix(part)
    return name if Path(name).suffix else f"{name}.jpg"


def _kind(question: str, answer: str) -> str:
    if yes_or_no(answer):
        return "presence"
    words = question.lower()
    for beginning, kind in _BEGINNINGS:
        if words.startswith(beginning):
            return kind
    return next((word for word in _OTHER_BEGINNINGS if words.startswith(word)), "other")


def _folder(data: Path, split: str) -> Path:
    """images/test, or images where the split has no folder of its own."""
    base = data if data.is_dir() else data.parent
    roots = [folder / "images" for folder in (base, *base.parents[:2]) if (folder / "images").is_dir()]
    root = roots[0] if roots else base / "images"
    return root / split if (root / split).is_dir() else root


def _store(data: Path, split: str, window: tuple[float, float] | None) -> Pictures | None:
    files = _files(data)[split]
    return ParquetPictures(files, window=window) if files[0].suffix == ".parquet" else None


LAYOUT = Layout(
    name="path_vqa",
    about="PathVQA: questions about pathology images (github.com/UCSD-AI4H/PathVQA)",
    expects="qas/test/test_qa.json (made of the published pickle) with image, question, answer, and the folder images/test; or "
    "data/test-*.parquet",
    recognises=_recognises,
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: _files(data)[split],
    folder=_folder,
    store=_store,
)
