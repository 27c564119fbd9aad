"""Tiny benchmarks of reports, labels and grounding in their published form; every word and box is invented."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.source_files import picture

OBSERVATIONS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
)
NO_LABELS = dict.fromkeys(OBSERVATIONS, "")


@dataclass(frozen=True)
class Made:
    """One benchmark."""

    data: Path
    split: str
    """The split that the tests ask."""
    texts: tuple[Path, ...]
    """Files that may be broken."""
    layout: str


def text(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def table(file: Path, *rows: dict[str, Any]) -> Path:
    """A CSV file with the columns of its first row."""
    lines = [",".join(rows[0]), *(",".join(str(cell) for cell in row.values()) for row in rows)]
    return text(file, "\n".join(lines) + "\n")


def tree(file: Path, value: Any) -> Path:
    return text(file, json.dumps(value, indent=1))


def lines(file: Path, *rows: dict[str, Any]) -> Path:
    return text(file, "".join(json.dumps(row) + "\n" for row in rows))


def make_mimic(root: Path) -> Made:
    def taken(dicom: str, study: int, subject: int, split: str) -> dict[str, Any]:
        return {"dicom_id": dicom, "study_id": study, "subject_id": subject, "split": split}

    split = table(
        root / "mimic-cxr-2.0.0-split.csv",
        taken("aa-side", 50000001, 10000001, "test"),
        taken("aa-front", 50000001, 10000001, "test"),
        taken("bb", 50000002, 10000001, "test"),
        taken("cc", 50000003, 10000002, "test"),
        taken("dd", 50000004, 11000003, "train"),
        taken("ee", 50000005, 11000004, "validate"),
    )
    views = {"aa-side": "LATERAL", "aa-front": "PA", "bb": "AP", "cc": "AP", "dd": "PA", "ee": ""}
    metadata = table(
        root / "mimic-cxr-2.0.0-metadata.csv", *({"dicom_id": name, "ViewPosition": view} for name, view in views.items())
    )
    labels = table(
        root / "mimic-cxr-2.0.0-chexpert.csv",
        {"subject_id": 10000001, "study_id": 50000001, **NO_LABELS, "Edema": "1.0", "Fracture": "-1.0", "Pneumonia": "0.0"},
    )
    table(root / "patients.csv", {"subject_id": 10000001, "gender": "F"})
    report = text(
        root / "files/p10/p10000001/s50000001.txt",
        " FINAL REPORT\n EXAMINATION:  CHEST\n\n FINDINGS: \n\n  Invented haze\n on the right.\n\n"
        " IMPRESSION:\n\n  Haze, ___ made up.\n",
    )
    text(root / "files/p10/p10000001/s50000002.txt", "FINAL REPORT\nIMPRESSION: Nothing invented.\n")
    text(root / "files/p11/p11000003/s50000004.txt", "FINDINGS: Clear, for training.\n")
    text(root / "files/p11/p11000004/s50000005.txt", "One invented paragraph without headings.\n")
    picture(root / "files/p10/p10000001/s50000001/aa-front.jpg")
    picture(root / "files/p10/p10000001/s50000002/bb.jpg")
    return Made(root, "test", (split, metadata, labels, report), "mimic_cxr")


def make_r2gen(root: Path) -> Made:
    def report(name: str, words: str, split: str) -> dict[str, Any]:
        return {"id": name, "report": words, "image_path": [f"{name}/0.png", f"{name}/1.png"], "split": split}

    splits = {
        "train": [report("CXR1_IM-0001", "Clear as invented .", "train")],
        "val": [report("CXR2_IM-0002", "Hazy as invented .", "val")],
        "test": [report("CXR3_IM-0003", "A made up  scar .", "test"), report("CXR4_IM-0004", "", "test")],
    }
    for name in ("CXR3_IM-0003", "CXR4_IM-0004"):
        picture(root / "images" / name / "0.png")
    return Made(root, "test", (tree(root / "annotation.json", splits),), "iu_xray")


def make_indiana(root: Path) -> Made:
    def report(uid: int, findings: str, impression: str) -> dict[str, Any]:
        return {"uid": uid, "MeSH": "x", "findings": findings, "impression": impression}

    reports = table(
        root / "indiana_reports.csv",
        report(1, '"A haze, invented."', "Haze."),
        report(2, "", "Nothing."),
        report(3, "Clear.", ""),
    )
    views = table(
        root / "indiana_projections.csv",
        {"uid": 1, "filename": "1_IM-0001-2.dcm.png", "projection": "Lateral"},
        {"uid": 1, "filename": "1_IM-0001-1.dcm.png", "projection": "Frontal"},
        {"uid": 2, "filename": "2_IM-0002-1.dcm.png", "projection": "Lateral"},
    )
    for name in ("1_IM-0001-1", "2_IM-0002-1"):
        picture(root / "images/images_normalized" / f"{name}.dcm.png")
    return Made(root, "all", (reports, views), "iu_xray")


def make_open_i(root: Path) -> Made:
    form = (
        '<eCitation>\n<uId id="CXR{0}"/>\n<AbstractText Label="FINDINGS">{1}</AbstractText>\n'
        '<AbstractText Label="IMPRESSION">Made up {0}.</AbstractText>\n'
        '<parentImage id="CXR{0}_1_IM-0001-3001"/>\n<parentImage id="CXR{0}_1_IM-0001-4001"/>\n</eCitation>\n'
    )
    files = [text(root / "ecgen-radiology" / f"{n}.xml", form.format(n, words)) for n, words in ((1, "Haze."), (2, ""))]
    picture(root / "NLMCXR_png" / "CXR1_1_IM-0001-3001.png")
    return Made(root, "all", tuple(files), "iu_xray")


def make_lines(root: Path) -> Made:
    first = {"uid": "s1", "images": ["s1_front", "s1_side"], "findings": "A  haze.", "impression": "Haze."}
    file = lines(
        root / "reports.jsonl",
        first | {"patient": "p1", "sex": "female", "age": 63, "view": "PA"},
        {"uid": 12345678, "images": [], "findings": "", "impression": "Nothing."},
        {"uid": "s3", "findings": None, "language": "es"},
    )
    picture(root / "s1_front.jpg")
    return Made(root, "all", (file,), "report_jsonl")


def make_chexpert(root: Path) -> Made:
    def row(path: str, **cells: Any) -> dict[str, Any]:
        first = {"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Female", "Age": 68, "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
        return first | NO_LABELS | {name.replace("_", " "): cell for name, cell in cells.items()}

    valid = table(
        root / "valid.csv",
        row("valid/patient00001/study1/view1_frontal.jpg", Edema="1.0", Fracture="0.0"),
        row("valid/patient00001/study1/view2_lateral.jpg", Edema="1.0")
        | {"Sex": "Male", "Age": 93, "Frontal/Lateral": "Lateral", "AP/PA": ""},
        row("valid/patient00002/study1/view1_frontal.jpg"),
    )
    table(root / "train.csv", row("train/patient00009/study1/view1_frontal.jpg", Edema="-1.0"))
    picture(root / "valid/patient00001/study1/view1_frontal.jpg")
    picture(root / "valid/patient00001/study1/view2_lateral.jpg")
    return Made(root, "val", (valid,), "chexpert")


def boxed(dicom: str, phrase: str, x: float, category: str = "Pneumonia", **others: Any) -> dict[str, Any]:
    """A row of MS-CXR's table; its box is 100 x 50 pixels at (x, 10) of 400 x 200."""
    path = f"files/p10/p10000001/s50000001/{dicom}.jpg"
    row = {"category_name": category, "label_text": phrase, "path": path, "x": x, "y": 10, "w": 100, "h": 50}
    return row | {"image_width": 400, "image_height": 200, "dicom_id": dicom} | others


def make_ms_cxr(root: Path) -> Made:
    file = table(
        root / "MS_CXR_Local_Alignment_v1.0.0.csv",
        boxed("aa", "made up haze.", 0),
        boxed("aa", "made up haze.", 200),
        boxed("aa", "made up haze.", 200, "Edema"),
        boxed("aa", "another", 380, w=10),
        boxed("aa", "outside", 500),
        boxed("bb", "made up haze.", 100),
    )
    for name in "ab":
        picture(root / f"files/p10/p10000001/s50000001/{name * 2}.jpg", 400, 200)
    return Made(root, "all", (file,), "ms_cxr")


def make_ms_cxr_json(root: Path) -> Made:
    form = {
        "info": {},
        "images": [{"id": 1, "file_name": "aa.jpg", "path": "files/p10/p10000001/s5/aa.jpg", "width": 400, "height": 200}],
        "categories": [{"id": 7, "name": "Pneumonia"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "label_text": "made up haze", "bbox": [0, 10, 100, 50]},
            {"id": 2, "image_id": 1, "category_id": 7, "label_text": "made up haze", "bbox": [200, 10, 100, 50]},
        ],
    }
    return Made(root, "all", (tree(root / "MS_CXR_Local_Alignment_v1.0.0.json", form),), "ms_cxr")


def make_padchest(root: Path) -> Made:
    def finding(words: str, abnormal: bool, boxes: Any, *labels: str) -> dict[str, Any]:
        return {"sentence_en": words, "sentence_es": f"{words}?", "abnormal": abnormal, "boxes": boxes, "labels": list(labels)}

    studies = [
        {
            "StudyID": "901",
            "ImageID": "901_a.png",
            "findings": [
                finding("Invented haze.", True, [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.7, 0.4]], "infiltrates"),
                finding("Invented scar.", True, [], "scar"),
                finding("No invention.", False, []),
                finding("", True, [[0.1, 0.2, 0.3, 0.4]]),
                finding("Flat.", True, [[0.1, 0.2, 0.1, 0.4]]),
            ],
        },
        {"StudyID": "902", "ImageID": "902_a.png", "findings": [finding("Trained haze.", True, [[0, 0, 1, 1]])]},
        {"StudyID": "903", "ImageID": "903_a.png", "findings": []},
    ]
    master = table(
        root / "master_table.csv",
        {"StudyID": 901, "PatientID": 77, "PatientSex_DICOM": "M", "PatientAge": 71, "split": "test"},
        {"StudyID": 901, "PatientID": 77, "PatientSex_DICOM": "M", "PatientAge": 71, "split": "test"},
        {"StudyID": 902, "PatientID": 78, "PatientSex_DICOM": "F", "PatientAge": 45, "split": "train"},
    )
    picture(root / "Padchest_GR_files/PadChest_GR/901_a.png")
    return Made(root, "test", (tree(root / "grounded_reports_20240819.json", studies), master), "padchest_gr")


def make_chestx_det(root: Path) -> Made:
    ring = [[100, 200], [300, 200], [300, 400]]
    entries = [
        {
            "file_name": "a.png",
            "syms": ["Mass", "Mass", "Effusion"],
            "boxes": [[100, 200, 300, 400]] * 3,
            "polygons": [ring] * 3,
        },
        {"file_name": "b.png", "syms": [], "boxes": [], "polygons": []},
        {"file_name": "c.png", "syms": ["Diffuse Nodule"], "boxes": [[0, 0, 0, 9]], "polygons": [[]]},
    ]
    for name in "abc":
        picture(root / "test_data" / f"{name}.png", 64, 64)
    return Made(root, "test", (tree(root / "ChestX_Det_test.json", entries),), "detection")


def make_rsna(root: Path) -> Made:
    def row(name: str, x: Any, target: int) -> dict[str, Any]:
        y, width, height = (152.0, 213.0, 379.0) if target else ("", "", "")
        return {"patientId": name, "x": x, "y": y, "width": width, "height": height, "Target": target}

    labels = table(root / "stage_2_train_labels.csv", row("aa", 256.0, 1), row("aa", 562.0, 1), row("bb", "", 0))
    classes = table(
        root / "stage_2_detailed_class_info.csv",
        *({"patientId": name, "class": word} for name, word in (("aa", "Lung Opacity"), ("bb", "Normal"))),
    )
    picture(root / "stage_2_train_images/aa.jpg", 64, 64)
    picture(root / "stage_2_train_images/bb.jpg", 64, 64)
    return Made(root, "train", (labels, classes), "detection")


def make_vindr(root: Path) -> Made:
    def row(name: str, word: str, *corners: Any, size: tuple[Any, Any] = (400, 200)) -> dict[str, Any]:
        x0, y0, x1, y1 = corners or ("", "", "", "")
        found = {"image_id": name, "class_name": word, "x_min": x0, "y_min": y0, "x_max": x1, "y_max": y1}
        return found | {"width": size[0], "height": size[1]}

    file = table(
        root / "annotations_test.csv",
        row("aa", "Nodule/Mass", 100, 50, 200, 100),
        row("aa", "Other lesion", 0, 0, 9, 9),
        row("bb", "No finding"),
        row("cc", "Nodule/Mass", 1, 1, 5, 5, size=("", "")),
    )
    for name in ("aa", "bb", "cc"):
        picture(root / f"test/{name}.png", 400, 200)
    return Made(root, "test", (file,), "detection")


MAKERS: dict[str, Callable[[Path], Made]] = {
    "mimic_cxr": make_mimic,
    "iu_xray (R2Gen)": make_r2gen,
    "iu_xray (Kaggle)": make_indiana,
    "iu_xray (XML)": make_open_i,
    "report_jsonl": make_lines,
    "chexpert": make_chexpert,
    "ms_cxr": make_ms_cxr,
    "ms_cxr (JSON)": make_ms_cxr_json,
    "padchest_gr": make_padchest,
    "detection (ChestX-Det)": make_chestx_det,
    "detection (RSNA)": make_rsna,
    "detection (VinDr-CXR)": make_vindr,
}
"""Case -> a valid folder."""
