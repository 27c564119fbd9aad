"""VQA-Med 2019, 2020 and 2021 (Ben Abacha et al., CLEF working notes; github.com/abachaa): radiology questions, one a line.

Each year is recognised by its files, up to two folders below the one that is given; the split is in their names:
- 2019, training and validation: All_QA_Pairs_train.txt, All_QA_Pairs_val.txt as `image|question|answer`, and the same by category in
  QAPairsByCategory/C1_Modality_train.txt and so on, which says what each question is about;
- 2019, test: VQAMed2019_Test_Questions_w_Ref_Answers.txt as `image|category|question|answer`;
- 2020 and 2021, training and validation: *QA_pairs.txt and *ValidationSet.txt as `image|question|answer`;
- 2020 and 2021, test: *Questions.txt as `image|question` beside *ReferenceAnswers.txt as `image|answer|answer`.
Accepted alternatives are separated by `#` in 2019 and by `|` in 2021. All questions of 2020 and 2021 are about abnormalities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.example import Example
from eval.layouts.fields import head_of, kind_of_category, one_each, picture_name
from eval.layouts.layout import Layout, Questions, answer_type_of
from medclm.corpus.sources.tables import read_text

_SPLITS = ("test", "val", "train")
_DEPTHS = ("*.txt", "*/*.txt", "*[Vv][Qq][Aa]*/*/*.txt")
"""The deepest lie in folders of their own name; a folder of many benchmarks is none of them."""
_CATEGORY = re.compile(r"c\d_(modality|plane|organ|abnormality)_")
_FORMS = {
    "answered": "image|category|question|answer",
    "pairs": "image|question|answer",
    "category": "image|question|answer",
    "questions": "image|question",
    "answers": "image|answer",
}


@dataclass(frozen=True)
class _Line:
    """One line of a file."""

    file: Path
    number: int
    parts: tuple[str, ...]


_Files = Mapping[str, Mapping[str, list[Path]]]
"""Split -> role, one of `_FORMS` -> files."""


def _files(data: Path) -> _Files:
    found: dict[str, dict[str, list[Path]]] = {}
    paths = [data] if data.is_file() else [path for depth in _DEPTHS for path in sorted(data.glob(depth))]
    for path in paths:
        role = _role(path.name.lower())
        if role and "|" in head_of(path).split("\n")[0]:
            found.setdefault(_split_of(path.name.lower()), {}).setdefault(role, []).append(path)
    return {split: found[split] for split in _SPLITS if split in found and found[split].keys() != {"answers"}}


def _role(name: str) -> str | None:
    """What a file holds, by its name in lower case; None for what is not of this task (question generation, image ids)."""
    plain = name.replace("_", "").replace("-", "")
    if not name.endswith(".txt") or any(word in plain for word in ("vqg", "generation", "imageid", "readme")):
        return None
    if _CATEGORY.match(name):
        return "category"
    words = (("wrefanswers", "answered"), ("referenceanswers", "answers"), ("qapairs", "pairs"), ("validationset", "pairs"))
    found = next((role for word, role in words if word in plain), None)
    return found or ("questions" if "questions" in plain and ("vqa" in plain or "test" in plain) else None)


def _split_of(name: str) -> str:
    name = name.replace("evaluator", "")
    return next((split for split in ("train", "val") if split in name), "test")


def _read(data: Path, split: str) -> Questions:
    files, found = _files(data)[split], Questions()
    if "answered" in files:
        rows = [
            (line, line.parts[1], line.parts[2], line.parts[3:]) for line in _lines(_only(data, files, "answered"), "answered")
        ]
    elif "pairs" in files or "category" in files:
        rows = [(line, category, line.parts[1], line.parts[2:]) for line, category in _pairs(data, files)]
    elif "questions" in files and "answers" in files:
        rows = _joined(_only(data, files, "questions"), _only(data, files, "answers"), found)
    else:
        raise ValueError(
            f"{_only(data, files, 'questions')}: questions alone: put the file with ReferenceAnswers in its name beside it"
        )
    for line, category, question, answers in rows:
        accepted = tuple(answer for answer in answers if answer)
        if accepted:
            found.examples.append(_example(line, category, question, accepted))
        else:
            found.left_out["no answer"] += 1
    found.examples = one_each(found.examples)
    return found


def _only(data: Path, files: Mapping[str, list[Path]], role: str) -> Path:
    """The one file of a role; an official copy for the evaluation script does not count beside the published one."""
    paths = [path for path in files[role] if "evaluator" not in path.name.lower()] or files[role]
    if len(paths) > 1:
        listed = ", ".join(str(path.relative_to(data)) for path in paths)
        raise ValueError(f"{data}: holds {listed}: give the folder of one year")
    return paths[0]


def _lines(file: Path, role: str) -> list[_Line]:
    """The lines that are not blank, each with at least the parts of its form, of which only answers may be empty.

    Raises:
        ValueError: another line; names file and line.
    """
    names = _FORMS[role].split("|")
    found = []
    for number, text in enumerate(read_text(file).split("\n"), start=1):
        parts = tuple(part.strip() for part in text.split("|"))
        if parts == ("",):
            continue
        if len(parts) < len(names) or not all(parts[: len(names) - names.count("answer")]):
            raise ValueError(f"{file}:{number}: {text.strip()[:80]!r}: expected {_FORMS[role]}: correct that line")
        found.append(_Line(file, number, parts))
    return found


def _pairs(data: Path, files: Mapping[str, list[Path]]) -> list[tuple[_Line, str]]:
    """Lines of `image|question|answer` with their category; all questions of the years without categories are of one."""
    sorted_by = [(line, _category_of(path)) for path in files.get("category", ()) for line in _lines(path, "category")]
    if "pairs" not in files:
        return sorted_by
    categories = {line.parts[:2]: category for line, category in sorted_by}
    other = "" if "all_qa_pairs" in _only(data, files, "pairs").name.lower() else "abnormality"
    return [(line, categories.get(line.parts[:2], other)) for line in _lines(_only(data, files, "pairs"), "pairs")]


def _category_of(path: Path) -> str:
    match = _CATEGORY.match(path.name.lower())
    return match[1] if match else ""


def _joined(asked: Path, answered: Path, found: Questions) -> list[tuple[_Line, str, str, tuple[str, ...]]]:
    """Questions with the answers of another file, by image; what has no counterpart is counted."""
    answers: dict[str, _Line] = {}
    for line in _lines(answered, "answers"):
        first = answers.setdefault(line.parts[0], line)
        if first is not line:
            raise ValueError(f"{answered}:{line.number}: {line.parts[0]} has answers in line {first.number} too: keep one")
    rows = []
    for line in _lines(asked, "questions"):
        answer = answers.get(line.parts[0])
        rows.append((line, "abnormality", line.parts[1], answer.parts[1:] if answer else ()))
    if alone := len(answers.keys() - {line.parts[0] for line, *_ in rows}):
        found.left_out["answer without a question"] += alone
    return rows


def _example(line: _Line, category: str, question: str, answers: tuple[str, ...]) -> Example:
    image = picture_name(line.file, line.number, line.parts[0])
    kind = kind_of_category(category, answers[0])
    return Example(
        id=image,
        patient=image,
        question_kind=kind,
        answer_type=answer_type_of(answers[0]),
        question=question,
        picture=image if Path(image).suffix.lower() in (".jpg", ".jpeg", ".png") else f"{image}.jpg",
        answers=tuple(accepted for answer in answers for accepted in _accepted(answer, category)),
    )


def _accepted(answer: str, category: str) -> tuple[str, ...]:
    """An abnormality may be named without what stands in brackets (README of the 2019 test set); of a modality it is a class."""
    if category.lower() != "abnormality":
        return (answer,)
    shorter = " ".join(re.sub(r"\([^()]*\)", " ", answer).split())
    return (answer, shorter) if shorter.strip("# ") and shorter != answer else (answer,)


def _folder(data: Path, split: str) -> Path:
    """The folder of pictures below the questions: with `image` in its name, that of the split before others."""
    roles = _files(data)[split]
    base = next(iter(roles.values()))[0].parent
    base = base.parent if base.name == "QAPairsByCategory" else base
    below = [
        path for depth in ("*", "*/*") for path in sorted(base.glob(depth)) if "image" in path.name.lower() and path.is_dir()
    ]
    holding = [path for path in below if any(path.glob("*.jpg"))]
    return min(holding, key=lambda path: _split_of(path.name.lower()) != split, default=base)


LAYOUT = Layout(
    name="vqa_med",
    about="VQA-Med 2019, 2020, 2021: questions about radiology images (github.com/abachaa)",
    expects="VQAMed2019_Test_Questions_w_Ref_Answers.txt, All_QA_Pairs_train.txt, *QA_pairs.txt, or *Questions.txt with "
    "*ReferenceAnswers.txt, and the folder of the images",
    recognises=lambda data: bool(_files(data)),
    splits=lambda data: tuple(_files(data)),
    read=_read,
    files=lambda data, split: [path for paths in _files(data)[split].values() for path in paths],
    folder=_folder,
)
