"""VQA-RAD (Lau et al. 2018, doi 10.1038/sdata.2018.251): 315 radiology images, 3,515 questions by clinicians, one JSON list.

The split is the field `phrase_type`: `test_freeform` and `test_para` are the published test questions, everything else is training.
"""

from __future__ import annotations

from pathlib import Path

from eval.example import Example
from eval.layouts.fields import fields_of
from eval.layouts.layout import Layout, Questions, answer_type_of, rows_of, text_of

_EXPECTED = "a list of questions with image_name, question and answer"
_KINDS = {
    "PRES": "presence",
    "ABN": "what",
    "POS": "where",
    "SIZE": "size",
    "COUNT": "count",
    "ORGAN": "which_organ",
    "MODALITY": "modality",
    "PLANE": "plane",
}
"""Published question types with a scorer of their own here; the others keep their name."""


def _file(data: Path) -> Path | None:
    if data.is_file():
        return data
    found = [path for path in sorted(data.glob("*.json")) if "RAD" in path.name.upper()]
    return found[0] if len(found) == 1 else None


def _recognises(data: Path) -> bool:
    file = _file(data)
    return file is not None and {"image_name", "phrase_type"} <= fields_of(file)


def _splits(data: Path) -> tuple[str, ...]:
    return ("test", "train") if _file(data) else ()


def _read(data: Path, split: str) -> Questions:
    file = _file(data)
    if file is None:
        raise ValueError(f"{data}: expected one JSON file with RAD in its name, such as 'VQA_RAD Dataset Public.json'")
    found = Questions()
    for number, row in rows_of(file, _EXPECTED):
        if text_of(file, number, row, "phrase_type").lower().startswith("test") != (split == "test"):
            continue
        answer = text_of(file, number, row, "answer", required=False)
        if not answer:
            found.left_out["no answer"] += 1
            continue
        image = text_of(file, number, row, "image_name")
        kind = text_of(file, number, row, "question_type", required=False).split(",")[0].strip()
        organ = text_of(file, number, row, "image_organ", required=False)
        found.examples.append(
            Example(
                id=text_of(file, number, row, "qid", required=False) or f"row{number}",
                patient=text_of(file, number, row, "image_case_url", required=False) or image,
                question_kind=_KINDS.get(kind.upper(), kind.lower() or "other"),
                answer_type=answer_type_of(answer, text_of(file, number, row, "answer_type", required=False)),
                question=text_of(file, number, row, "question"),
                picture=image,
                answers=(answer,),
                groups={"organ": organ} if organ else {},
            )
        )
    return found


LAYOUT = Layout(
    name="vqa_rad",
    about="VQA-RAD: clinicians' questions about radiology images (osf.io/89kps)",
    expects="one JSON list with image_name, question, answer, phrase_type, and the folder 'VQA_RAD Image Folder'",
    recognises=_recognises,
    splits=_splits,
    read=_read,
    files=lambda data, split: [file] if (file := _file(data)) else [],
    images="VQA_RAD Image Folder",
)
