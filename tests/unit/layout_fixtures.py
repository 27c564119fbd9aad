"""Tiny benchmarks of visual questions in their published forms, with questions of our own, for the tests of eval/layouts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZE = (24, 16)


@dataclass(frozen=True)
class Fixture:
    """A valid benchmark."""

    layout: str
    data: Path
    """Folder or file to open."""
    asked: dict[str, int]
    """Split -> examples that can be asked."""
    files: tuple[Path, ...]
    """Annotation files: what a mutation breaks."""
    split: str = "test"


def picture(path: Path, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", SIZE, grey).save(path)
    return path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def as_json(path: Path, rows: Sequence[Any]) -> Path:
    return written(path, json.dumps(rows, indent=1, ensure_ascii=False))


def as_lines(path: Path, rows: Sequence[Any]) -> Path:
    return written(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def as_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return written(path, text.getvalue())


PLAIN = [
    {
        "id": "q1",
        "image": "a.png",
        "question": "Is there a nodule?",
        "answer": "yes",
        "patient": "p1",
        "split": "test",
        "question_kind": "presence",
        "boxes": [[0.25, 0.25, 0.5, 0.75]],
    },
    {"id": "q2", "image": "b.png", "question": "Which organ is shown?", "answer": ["liver", "the liver"], "split": "test"},
    {
        "id": "q3",
        "image": "b.png",
        "question": "What colour is the cyst?",
        "answer": "B",
        "options": ["black", "grey"],
        "split": "test",
    },
    {"id": "q4", "image": "a.png", "question": "Where is it?", "answer": None, "split": "test"},
    {"id": "q5", "image": "a.png", "question": "Is there a mass?", "answer": "no", "split": "train"},
]
"""Rows of the plain form; the fourth cannot be asked."""


def plain_json(root: Path) -> Fixture:
    _pictures(root, "a.png", "b.png")
    return Fixture("plain", root, {"test": 3, "train": 1}, (as_json(root / "mine.json", PLAIN),))


def plain_lines(root: Path) -> Fixture:
    _pictures(root, "a.png", "b.png")
    files = (as_lines(root / "test.jsonl", PLAIN[:4]), as_lines(root / "train.jsonl", PLAIN[4:]))
    return Fixture("plain", root, {"test": 3, "train": 1}, files)


def plain_csv(root: Path) -> Fixture:
    _pictures(root, "a.png", "b.png")
    rows = [
        {
            "image": "a.png",
            "question": "Is there a nodule?",
            "answer": "yes",
            "options": "",
            "boxes": "[[0.25, 0.25, 0.5, 0.75]]",
        },
        {"image": "b.png", "question": "Pick one, please.", "answer": "spleen", "options": "A) liver B) spleen", "boxes": ""},
        {"image": "b.png", "question": "Normal, or not?", "answer": "yes", "options": "", "boxes": "[]"},
    ]
    return Fixture("plain", root, {"test": 3}, (as_csv(root / "mine.csv", rows),))


def vqa_rad(root: Path) -> Fixture:
    _pictures(root / "VQA_RAD Image Folder", "synpic1.jpg", "synpic2.jpg")
    common = {"image_organ": "CHEST", "image_case_url": "https://medpix.nlm.nih.gov/case?id=1"}
    rows = [
        {"qid": 1, "phrase_type": "test_freeform", "image_name": "synpic1.jpg", "question": "Is there air?", "answer": "Yes"}
        | {"question_type": "PRES", "answer_type": "CLOSED"},
        {
            "qid": "2",
            "phrase_type": "test_para",
            "image_name": "synpic2.jpg",
            "question": "How many masses are seen?",
            "answer": 2,
        }
        | {"question_type": "COUNT", "answer_type": "OPEN"},
        {"qid": "3", "phrase_type": "freeform", "image_name": "synpic2.jpg", "question": "Where is the mass?", "answer": "left"}
        | {"question_type": "POS, PRES", "answer_type": "OPEN"},
    ]
    file = as_json(root / "VQA_RAD Dataset Public.json", [row | common for row in rows])
    return Fixture("vqa_rad", root, {"test": 2, "train": 1}, (file,))


def slake(root: Path) -> Fixture:
    for number in (1, 2):
        picture(root / "imgs" / f"xmlab{number}" / "source.jpg")
    rows = [
        _slake(10, 1, "Which organ is abnormal here?", "Liver", "Organ"),
        _slake(11, 1, "Is there a spleen here?", "Yes", "Organ", answer_type="CLOSED"),
        _slake(12, 1, "肝脏在哪里？", "左侧", "Position", q_lang="zh"),
        _slake(13, 2, "Which one is larger, heart or lung?", "Lung", "Size", answer_type="CLOSED"),
    ]
    files = (as_json(root / "test.json", rows), as_json(root / "train.json", [_slake(1, 2, "Which plane?", "Axial", "Plane")]))
    return Fixture("slake", root, {"test": 4, "train": 1}, files)


def _slake(qid: int, image: int, question: str, answer: str, content_type: str, **fields: str) -> dict[str, Any]:
    named = {"img_id": image, "img_name": f"xmlab{image}/source.jpg", "question": question, "answer": answer, "q_lang": "en"}
    placed = {"location": "Abdomen", "modality": "CT", "answer_type": "OPEN", "base_type": "vqa", "content_type": content_type}
    return named | placed | {"triple": ["vhead", "_", "_"], "qid": qid} | fields


def path_vqa(root: Path) -> Fixture:
    _pictures(root / "images" / "test", "test_0001.jpg", "test_0002.jpg")
    rows = [
        {"image": "test_0001", "question": "what is seen in the vessel?", "answer": "thrombus"},
        {"image": "test_0002", "question": "is a thrombus seen?", "answer": "no"},
        {"image": "test_0002", "question": "how many cells are seen?", "answer": ""},
    ]
    train = [{"image": "train_0001", "question": "where is the scar?", "answer": "in the apex"}]
    files = (
        as_json(root / "qas" / "test" / "test_qa.json", rows),
        as_json(root / "qas" / "train" / "train_qa.json", train),
    )
    return Fixture("path_vqa", root, {"test": 2, "train": 1}, files)


def path_vqa_parquet(root: Path, grey: int = 10) -> Fixture:
    rows = [("what is seen?", "a scar", grey), ("is a scar seen?", "yes", grey), ("where is it?", "in the wall", 20)]
    files = []
    for split, chosen in (("test", rows), ("validation", rows[:1]), ("train", rows[2:])):
        path = root / "data" / f"{split}-00000-of-00001-0a1b2c.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [{"bytes": picture(root / "made.png", shade).read_bytes(), "path": None} for _, _, shade in chosen]
        columns = {"image": images, "question": [one[0] for one in chosen], "answer": [one[1] for one in chosen]}
        pq.write_table(pa.table(columns), path, row_group_size=2)
        files.append(path)
    (root / "made.png").unlink()
    return Fixture("path_vqa", root, {"test": 3, "validation": 1, "train": 1}, tuple(files))


def pmc_vqa(root: Path) -> Fixture:
    _pictures(root / "images", "PMC11_F1.jpg", "PMC22_F2.jpg")
    named = ("Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D", "Answer_label")
    rows = [
        (
            "PMC11_F1.jpg",
            "Which stain was used?",
            "Congo red",
            " A:Silver ",
            " B:Congo red ",
            " C:Gram ",
            " D:None, at all",
            "B",
        ),
        ("PMC22_F2.jpg", "Which plane is shown?", "Axial", "A:Axial", "B:Coronal", "C:Sagittal", "D:Oblique", "A"),
        ("PMC22_F2.jpg", "Which one?", "Other", "A:Axial", "B:Coronal", "C:Sagittal", "D:", "A"),
    ]
    tables = [dict(zip(named, row, strict=True)) for row in rows]
    files = (as_csv(root / "test.csv", tables), as_csv(root / "train.csv", tables[:1]))
    return Fixture("pmc_vqa", root, {"test": 2, "train": 1}, files)


def pmc_vqa_2(root: Path) -> Fixture:
    _pictures(root / "figures", "PMC33_Fig1_1.jpg")
    row = {"index": 62, "Figure_path": "PMC33_Fig1_1.jpg", "Caption": "A picture, drawn.", "Question": " Which artery is it? "}
    row |= {
        "Choice A": " A: Right ",
        "Choice B": " B: Left ",
        "Choice C": " C: Middle ",
        "Choice D": " D: Upper ",
        "Answer": "B",
    }
    files = (
        as_csv(root / "test_2.csv", [row | {"split": "test"}]),
        as_csv(root / "train_2.csv", [row | {"split": "train"}]),
    )
    return Fixture("pmc_vqa", root, {"test_2": 1, "train": 1, "train_2": 1}, files, split="test_2")


def vqa_med_2019(root: Path) -> Fixture:
    tests, trains = root / "VQAMed2019Test", root / "ImageClef-2019-VQA-Med-Training"
    _pictures(tests / "VQAMed2019_Test_Images", "synpic1.jpg", "synpic2.jpg", "synpic3.jpg")
    _pictures(trains / "Train_images", "synpic9.jpg")
    lines = (
        "synpic1|modality|is this a ct scan?|no\nsynpic2|organ|what organ is shown?|breast#mamma\n"
        "synpic3|abnormality|what is abnormal?|(large) cyst\n"
    )
    files = (
        written(tests / "VQAMed2019_Test_Questions_w_Ref_Answers.txt", lines),
        written(trains / "All_QA_Pairs_train.txt", "synpic9|in what plane is it?|axial\nsynpic9|is it abnormal?|yes\n"),
        written(trains / "QAPairsByCategory" / "C2_Plane_train.txt", "synpic9|in what plane is it?|axial\n"),
        written(trains / "QAPairsByCategory" / "C4_Abnormality_train.txt", "synpic9|is it abnormal?|yes\n"),
    )
    written(trains / "train_ImageIDs.txt", "synpic9\n")
    return Fixture("vqa_med", root, {"test": 3, "train": 2}, files)


def vqa_med_2020(root: Path) -> Fixture:
    _pictures(root / "Train_images", "synpic7.jpg")
    _pictures(root / "Task1-2020-VQAnswering-Test-Images", "synpic1.jpg", "synpic2.jpg")
    questions = "synpic1|is it normal?\nsynpic2|what is wrong with it?\n"
    files = (
        written(root / "VQAMed2020-Task1-VQAnswering-Test-Questions.txt", questions),
        written(root / "VQAMed2020-Task1-VQAnswering-Test-ReferenceAnswers.txt", "synpic1|no\nsynpic2|a cyst\n"),
        written(root / "VQAnswering_2020_Train_QA_pairs.txt", "synpic7|what is wrong with it?|a scar\n"),
    )
    return Fixture("vqa_med", root, {"test": 2, "train": 1}, files)


def vqa_med_2021(root: Path) -> Fixture:
    folder = root / "Task1-VQA-2021-TestSet-w-GroundTruth"
    _pictures(folder / "images" / "VQA-500-Images", "synpic1.jpg", "synpic2.jpg")
    files = (
        written(folder / "Task1-VQA-2021-TestSet-Questions.txt", "synpic1|what is seen?\nsynpic2|what is wrong?\n"),
        written(folder / "Task1-VQA-2021-TestSet-ReferenceAnswers.txt", "synpic1|cyst|fluid filled space\nsynpic3|scar\n"),
        written(root / "val" / "VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt", "synpic5|what is seen?|cyst\n"),
    )
    return Fixture("vqa_med", root, {"test": 1, "val": 1}, files)


def llava_med_questions(root: Path) -> Fixture:
    _pictures(root / "images", "11_F1.jpg", "22_F2.jpg")
    rows = [
        {
            "question_id": 0,
            "image": "11_F1.jpg",
            "pair_id": "11_F1",
            "text": "What is stained?\n<image>",
            "gpt4_answer": "A cell.",
        }
        | {"fig_caption": "A cell.", "domain": {"mri": False, "histology": True}, "type": "conversation"},
        {
            "question_id": 1,
            "image": "22_F2.jpg",
            "pair_id": "22_F2",
            "text": "<image>\nDescribe the picture.",
            "gpt4_answer": "Dark.",
        }
        | {"fig_caption": "Dark.", "domain": {"mri": True, "histology": False}, "type": "detail_description"},
        {"question_id": 2, "image": "22_F2.jpg", "text": "What is it?", "type": "conversation", "domain": {}},
    ]
    return Fixture("llava_med", root, {"test": 2}, (as_lines(root / "llava_med_eval_qa50_qa.jsonl", rows),))


def llava_med_talks(root: Path) -> Fixture:
    _pictures(root / "images", "synpic1.jpg")
    rows = [
        _talk("7", "CLOSED", "<image>\nIs it large?", "Yes"),
        _talk("7", "OPEN", "What is it?\n<image>", "a cyst"),
    ]
    train = [_talk("8", "OPEN", "<image>\nWhere is it?", "left", "Is it large?", "No")]
    return Fixture(
        "llava_med", root, {"test": 2, "train": 2}, (as_json(root / "test.json", rows), as_json(root / "train.json", train))
    )


def _talk(key: str, answer_type: str, *values: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]
    return {"id": key, "image": "synpic1.jpg", "answer_type": answer_type, "conversations": turns}


def _pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / name)


FIXTURES: dict[str, Callable[[Path], Fixture]] = {
    maker.__name__: maker
    for maker in (
        *(plain_json, plain_lines, plain_csv, vqa_rad, slake, path_vqa, path_vqa_parquet, pmc_vqa, pmc_vqa_2),
        *(vqa_med_2019, vqa_med_2020, vqa_med_2021, llava_med_questions, llava_med_talks),
    )
}
"""Name -> how to write it into an empty folder."""
