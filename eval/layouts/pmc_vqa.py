"""PMC-VQA (Zhang et al. 2023, arXiv 2305.10415): 227,000 choice questions about figures of PubMed Central articles.

The published split is by file: version 1 is test.csv, test_clean.csv (2,000 checked by hand) and train.csv with the folder images,
version 2 (single figures cut out) is test_2.csv and train_2.csv with the folder figures. Figures of one article are resampled
together: they often show one patient.
"""

from __future__ import annotations

import re
from pathlib import Path

from eval.example import Example
from eval.layouts.fields import fields_of, one_each, picture_name, with_options
from eval.layouts.layout import Layout, Questions
from medclm.corpus.sources.tables import Row, read_table

_CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")
_NEEDED = ("Figure_path", "Question", "Answer", *_CHOICES)
_OPTIONAL = ("Answer_label", "index")
_SPLITS = ("test", "test_clean", "test_2", "train", "train_2")
_OTHER_NAMES = {"test2": "test_2", "train2": "train_2"}


def _files(data: Path) -> dict[str, Path]:
    if data.is_file():
        return {_split_of(data) if _split_of(data) in _SPLITS else "test": data}
    found = {_split_of(path): path for path in sorted(data.glob("*.csv"))}
    kept = {split: found[split] for split in _SPLITS if split in found}
    if "train_2" in kept:
        kept.setdefault("train", kept["train_2"])  # image-free guesses come from `train`
    return kept


def _split_of(path: Path) -> str:
    return _OTHER_NAMES.get(path.stem, path.stem)


def _recognises(data: Path) -> bool:
    return any({"Figure_path", *_CHOICES} <= fields_of(file) for file in _files(data).values())


def _read(data: Path, split: str) -> Questions:
    file = _files(data)[split]
    found = Questions()
    for row in read_table(file, _NEEDED, _OPTIONAL).rows:
        for name in ("Figure_path", "Question"):
            if not row[name]:
                raise ValueError(f"{file}:{row.line}: {name} is empty: fill it in or remove the row")
        picture = picture_name(file, row.line, row["Figure_path"])
        options = tuple(_without_letter(row[name], name[-1]) for name in _CHOICES)
        answer = _answer(row, options)
        if not all(options):
            found.left_out["an option is empty"] += 1
        elif answer is None:
            found.left_out["answer is none of the options"] += 1
        else:
            found.examples.append(
                Example(
                    id=row["index"] or f"row{row.line}",
                    patient=_article(picture),
                    question_kind="other",
                    answer_type="choice",
                    question=with_options(row["Question"], options),
                    picture=picture,
                    answers=(answer,),
                    options=options,
                )
            )
    found.examples = one_each(found.examples)
    return found


def _without_letter(choice: str, letter: str) -> str:
    """` A: Green ` -> `Green`."""
    return re.sub(rf"^\s*{letter}\s*[:.)]\s*", "", choice).strip()


def _answer(row: Row, options: tuple[str, ...]) -> str | None:
    """The right option: by `Answer_label`, where the file has none by the letter or the words in `Answer`."""
    for stated in (row["Answer_label"], row["Answer"]):
        letters = [letter for letter in "ABCD" if stated.strip(" :.)(") == letter]
        if letters:
            return options["ABCD".index(letters[0])]
    words = re.sub(r"^\s*[A-D]\s*[:.)]\s*", "", row["Answer"]).strip()
    return words if words in options else None


def _article(picture: str) -> str:
    """`PMC8253797_Fig4_11.jpg` -> `PMC8253797`; other names stay whole."""
    match = re.match(r"PMC\d+", Path(picture).name)
    return match.group() if match else picture


def _folder(data: Path, split: str) -> Path:
    base = data if data.is_dir() else data.parent
    names = ("figures", "images_2", "images") if "_2" in _split_of(_files(data)[split]) else ("images", "figures")
    return next((base / name for name in names if (base / name).is_dir()), base / names[0])


LAYOUT = Layout(
    name="pmc_vqa",
    about="PMC-VQA: choice questions about figures of medical articles (huggingface.co/datasets/xmcmic/PMC-VQA)",
    expects="test.csv, test_clean.csv, train.csv (or test_2.csv, train_2.csv) with Figure_path, Question, Choice A to D, Answer, and the "
    "folder images (figures)",
    recognises=_recognises,
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [_files(data)[split]],
    folder=_folder,
)
