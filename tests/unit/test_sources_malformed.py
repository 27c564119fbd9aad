"""More than a thousand broken datasets: each is read, refused by name, or an error that says which file and what to do.

A small valid dataset of every format that reads text is mutated by seeded draws: bytes, lines, cells, values, encodings. What
may never happen is another exception, a box outside its picture, or a word of the source in a reject.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.contract import Reject, RejectedImage, Source
from medclm.corpus.sources.registry import KINDS, open_source
from medclm.draws import generator
from tests.source_files import options, picture

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # numbers that overflow were not judged

EACH = 100
"""Broken datasets per format."""
SECRET = "JANE-DOE-19500101"
CURES = re.compile(
    r"give|save|correct|remove|rename|keep|close|quote|did you mean|there are|expected|fill it in|fill in|fetch|export|split it|add it|"
    r"leave it out|name the|too deep"
)
NASTY = (
    *(
        "",
        "NaN",
        "inf",
        "-1",
        "1e999",
        "9" * 40,
        "0",
        "0.5",
        "1e308",
        "-1e308",
        "null",
        "true",
        "²",
        "\u0000",
        "\ufeff",
        "x" * 3000,
    ),
    *(
        "../../secret",
        "/etc/hostname",
        "C:\\a.png",
        "a.png",
        "A.PNG",
        SECRET,
        f"../{SECRET}.png",
        "{}",
        "[]",
        '"',
        "'",
        "<",
        "&amp;",
    ),
    *(";", ",", "\t", "\r", "\n\n", "é", "脑", "\ud83e\udde0", "%s", "{stem}", "1,2", "1;2", "'; drop", "=1+1"),
)


@dataclass(frozen=True)
class Made:
    """A valid dataset."""

    annotations: Path
    image_root: Path
    texts: tuple[Path, ...]
    """Files to break."""
    declared: dict[str, Any] = field(default_factory=dict)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make_coco(root: Path) -> Made:
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "Nodule"}, {"id": 2, "name": "Mass"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 7, 8], "segmentation": [[5, 6, 12, 6, 12, 14]]},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 2,
                "bbox": [1, 2, 3, 4],
                "segmentation": {"size": [30, 40], "counts": [42, 3, 1155]},
            },
        ],
    }
    file = written(root / "boxes.json", json.dumps(tree, indent=1))
    return Made(file, images(root, "a.png", "b.png"), (file,))


def make_voc(root: Path) -> Made:
    box = "<bndbox><xmin>6</xmin><ymin>7</ymin><xmax>12</xmax><ymax>14</ymax></bndbox>"
    size = "<size><width>40</width><height>30</height></size>"
    text = (
        f"<annotation>\n<filename>{{}}.png</filename>\n{size}\n<object>\n<name>Mass</name>\n{box}\n</object>\n</annotation>\n"
    )
    files = tuple(written(root / "xml" / f"{name}.xml", text.format(name)) for name in "ab")
    return Made(root / "xml", images(root, "a.png", "b.png"), files[:1])


def make_yolo(root: Path) -> Made:
    first = written(root / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    written(root / "labels" / "val" / "b.txt", "1 0.5 0.5 0.2 0.2\n")
    names = written(root / "data.yaml", "path: x\nnames:\n  0: Nodule\n  1: Mass\n")
    return Made(root / "labels", images(root, "train/a.png", "val/b.png"), (first, names))


def make_cvat(root: Path) -> Made:
    shapes = (
        '<box label="Mass" occluded="0" xtl="5.0" ytl="6.0" xbr="12.0" ybr="14.0">\n<attribute name="t">1</attribute>\n</box>\n'
        '<polygon label="Mass" points="5.0,6.0;12.0,6.0;12.0,14.0"/>\n<tag label="Nodule"/>\n'
        '<mask label="Mass" rle="1, 4, 1" left="5" top="6" width="3" height="2"/>\n'
    )
    image = '<image id="{}" name="{}.png" width="40" height="30" subset="Train">\n{}</image>\n'
    body = image.format(0, "a", shapes) + image.format(1, "b", "")
    file = written(root / "annotations.xml", f"<annotations>\n<version>1.1</version>\n{body}</annotations>\n")
    return Made(file, images(root, "a.png", "b.png"), (file,), {"lesion_3d_field": "t"})


def make_nih(root: Path) -> Made:
    rows = "00000013_005.png,Infiltrate,100.5,200,50,60.25\n00000013_005.png,Mass,300,200,50,60\n"
    boxes = written(root / "boxes.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + rows)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,Extra,\n"
    rows = "00000013_005.png,Infiltration|Mass,5,13,058Y,M,PA,1,\n00000014_000.png,No Finding,0,14,91,F,AP,1,\n"
    entries = written(root / "entry.csv", header + rows)
    tests = written(root / "test.txt", "00000014_000.png\n")
    found = images(root, "x/00000013_005.png", "x/00000014_000.png", side=1024)
    return Made(boxes, found, (boxes, entries, tests), {"image_labels": entries, "split_list": tests})


def make_rsna(root: Path) -> Made:
    rows = "aa,264.0,152.0,213.0,379.0,1\naa,562.0,152.0,256.0,453.0,1\nbb,,,,,0\n"
    labels = written(root / "labels.csv", "patientId,x,y,width,height,Target\n" + rows)
    classes = written(root / "classes.csv", "patientId,class\naa,Lung Opacity\naa,Lung Opacity\nbb,Normal\n")
    return Made(labels, images(root, "aa.png", "bb.png", side=1024), (labels, classes), {"image_labels": classes})


def make_vindr(root: Path) -> Made:
    rows = "aa,R1,Mass,5,6,12,14\naa,R2,Mass,6,6,13,14\naa,R3,No finding,,,,\n" + "".join(
        f"bb,R{n},No finding,,,,\n" for n in "123"
    )
    boxes = written(root / "boxes.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n" + rows)
    rows = "".join(f"{name},R{n},0,0,{int(name == 'bb')}\n" for name in ("aa", "bb") for n in "123")
    labels = written(root / "labels.csv", "image_id,rad_id,Pneumonia,COPD,No finding\n" + rows)
    return Made(boxes, images(root, "aa.png", "bb.png"), (boxes, labels), {"image_labels": labels})


def make_deeplesion(root: Path) -> Made:
    header = "File_name,Study_index,Bounding_boxes,Coarse_lesion_type,Possibly_noisy,Spacing_mm_px_,Image_size,DICOM_windows,"
    row = '000001_02_03_{},2,"5.5, 6, 12, 14",{},0,"0.7, 0.8, 5","40, 30","-175, 275",F,62,2\n'
    rows = row.format("109.png", 5) + row.format("110.png", -1)
    file = written(root / "DL_info.csv", header + "Patient_gender,Patient_age,Train_Val_Test\n" + rows)
    folder = root / "images" / "000001_02_03"
    folder.mkdir(parents=True)
    for name in ("109.png", "110.png"):
        Image.fromarray(np.full((30, 40), 32768 + 40, np.uint16)).save(folder / name)
    return Made(file, root / "images", (file,))


def make_chestx_det(root: Path) -> Made:
    ring = [[100, 200], [300, 200], [300, 400]]
    records = [
        {"file_name": "a.png", "syms": ["Nodule", "Mass"], "boxes": [[100, 200, 300, 400]] * 2, "polygons": [ring, []]},
        {"file_name": "b.png", "syms": [], "boxes": [], "polygons": []},
    ]
    file = written(root / "ChestX_Det_train.json", json.dumps(records, indent=1))
    return Made(file, images(root, "a.png", "b.png", side=1024), (file,))


def make_tbx11k(root: Path) -> Made:
    tree = {
        "images": [{"id": 1, "file_name": "tb/a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "sick/b.png"}],
        "categories": [{"id": 1, "name": "ActiveTuberculosis"}, {"id": 3, "name": "PulmonaryTuberculosis"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 7, 8]}],
    }
    file = written(root / "TBX11K_train.json", json.dumps(tree, indent=1))
    return Made(file, images(root, "tb/a.png", "sick/b.png"), (file,))


def make_reports(root: Path) -> Made:
    for number, findings in (("50", "Clear lungs."), ("51", "A mass.")):
        written(root / "files" / f"s{number}.txt", f"FINAL REPORT\nFINDINGS: {findings}\nIMPRESSION: As above.\n")
    meta = written(root / "meta.csv", "dicom_id,subject_id,study_id,ViewPosition\naa,1,50,PA\nbb,2,51,AP\n")
    split = written(root / "split.csv", "dicom_id,study_id,subject_id,split\naa,50,1,train\nbb,51,2,test\n")
    found = images(root, "aa.png", "bb.png")
    texts = (root / "files" / "s50.txt", meta, split)
    return Made(root / "files", found, texts, {"image_labels": meta, "split_list": split})


def make_open_i(root: Path) -> Made:
    text = (
        '<eCitation>\n<uId id="CXR{0}"/>\n<AbstractText Label="FINDINGS">Clear.</AbstractText>\n'
        '<AbstractText Label="IMPRESSION">Normal.</AbstractText>\n<parentImage id="CXR{0}_1"/>\n</eCitation>\n'
    )
    files = [written(root / "xml" / f"{number}.xml", text.format(number)) for number in (1, 2)]
    return Made(root / "xml", images(root, "CXR1_1.png", "CXR2_1.png"), tuple(files[:1]))


def make_lines(root: Path) -> Made:
    line = '{{"uid": "CXR{0}", "images": ["CXR{0}_1"], "findings": "Clear.", "impression": "Normal."}}\n'
    file = written(root / "reports.jsonl", line.format(1) + line.format(2))
    return Made(file, images(root, "CXR1_1.png", "CXR2_1.png"), (file,))


def images(root: Path, *names: str, side: int | None = None) -> Path:
    for name in names:
        picture(root / "images" / name, side or 40, side or 30)
    return root / "images"


MAKERS: dict[str, tuple[str, Callable[[Path], Made]]] = {
    **{
        name: (name, globals()[f"make_{name}"])
        for name in ("coco", "voc", "yolo", "cvat", "nih", "rsna", "vindr", "deeplesion")
    },
    **{name: (name, globals()[f"make_{name}"]) for name in ("chestx_det", "tbx11k", "reports")},
    "reports (Open-i)": ("reports", make_open_i),
    "reports (lines)": ("reports", make_lines),
}
"""Name of a case -> kind of source, valid dataset."""


# mutations


def of_bytes(content: bytes, draw: np.random.Generator) -> bytes:
    """Flipped, cut, doubled or emptied bytes, or another encoding."""
    match int(draw.integers(7)):
        case 0:
            return b""
        case 1:
            return content[: int(draw.integers(len(content)))]
        case 2:
            return content.decode().encode("utf-16" if draw.integers(2) else "utf-16-le")
        case 3:
            at = int(draw.integers(len(content)))
            return content[:at] + "é".encode("latin-1") + content[at:]
        case 4:
            return content + content
        case _:
            flipped = bytearray(content)
            for at in draw.integers(len(content), size=int(draw.integers(1, 6))):
                flipped[int(at)] = int(draw.integers(256))
            return bytes(flipped)


def of_lines(content: bytes, draw: np.random.Generator) -> bytes:
    """A line twice, missing, elsewhere, or half."""
    lines = content.splitlines(keepends=True)
    at, to = (int(place) for place in draw.integers(len(lines), size=2))
    match int(draw.integers(4)):
        case 0:
            lines.insert(to, lines[at])
        case 1:
            del lines[at]
        case 2:
            lines.insert(to, lines.pop(at))
        case _:
            lines[at] = lines[at][: len(lines[at]) // 2] + b"\n"
    return b"".join(lines)


def of_tokens(content: bytes, draw: np.random.Generator) -> bytes:
    """Words and numbers replaced by what nobody expects there."""
    text = content.decode()
    for _ in range(int(draw.integers(1, 4))):
        tokens = list(re.finditer(r"[\w.+-]+", text))
        if not tokens:
            break
        token = tokens[int(draw.integers(len(tokens)))]
        text = text[: token.start()] + NASTY[int(draw.integers(len(NASTY)))] + text[token.end() :]
    return text.encode("utf-8", "surrogatepass")


def of_columns(content: bytes, draw: np.random.Generator) -> bytes:
    """A cell or a whole column cut out, by commas; of JSON a value of another type."""
    text = content.decode()
    try:
        tree = json.loads(text)
    except ValueError:
        column = int(draw.integers(max(1, text.splitlines()[0].count(",") + 1)))
        lines = [line.split(",") for line in text.splitlines()]
        wanted = lines if draw.integers(2) else [lines[int(draw.integers(len(lines)))]]
        for cells in wanted:
            del cells[column : column + 1]
        return "\n".join(",".join(cells) for cells in lines).encode()
    values: tuple[Any, ...] = (None, True, [], {}, "text", -1, 10**40, 0.5, float("nan"), [[]], {"a": 1}, SECRET)
    _replace(tree, draw, values[int(draw.integers(len(values)))])
    return json.dumps(tree).encode()


def _replace(tree: Any, draw: np.random.Generator, value: Any) -> None:
    """A value somewhere in a tree of JSON; deeper ones are likelier."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = keys[int(draw.integers(len(keys)))]
        if isinstance(tree[key], (dict, list)) and len(tree[key]) and draw.random() < 0.85:
            tree = tree[key]
            continue
        tree[key] = value
        return


MUTATIONS = (of_bytes, of_lines, of_tokens, of_tokens, of_columns)


# outcomes


def outcome_of(kind: str, made: Made, root: Path) -> str:
    """parsed, partly (with rejects), rejected, or error; anything else fails."""
    try:
        source = open_source(kind, made.annotations, made.image_root, options(**made.declared))
    except ValueError as error:
        message = str(error)
        assert str(root) in message, message
        assert CURES.search(message), message
        return "error"
    rejects, read = list(source.rejects), 0
    for index in range(len(source)):
        try:
            image = source.read(index)
        except RejectedImage as rejection:
            rejects.append(Reject(f"images[{index}]", rejection.reason, rejection.detail))
            continue
        read += 1
        rejects += image.rejects
        check_boxes(source, index)
    for reject in rejects:
        assert re.fullmatch("[a-z0-9_]+", reject.reason), reject
        assert reject.detail, reject
        assert SECRET not in repr(reject), reject
        assert str(root) not in repr(reject), reject
    return "rejected" if not read else "partly" if rejects else "parsed"


def check_boxes(source: Source, index: int) -> None:
    image = source.read(index)
    height, width = image.pixels.shape[:2]
    for one in image.annotations:
        x0, y0, x1, y1 = one.box_px
        assert 0 <= x0 < x1 <= width, one.box_px
        assert 0 <= y0 < y1 <= height, one.box_px
        assert one.mask is None or one.mask.shape == (height, width)
        assert one.lesion_class
    assert not {name for name in image.label_scope if image.image_labels.get(name) not in ("present", "absent")}


@pytest.mark.parametrize("case", sorted(MAKERS))
def test_broken_datasets_are_read_refused_or_named(case: str, tmp_path: Path) -> None:
    kind, make = MAKERS[case]
    made = make(tmp_path)
    assert outcome_of(kind, made, tmp_path) in ("parsed", "partly")
    valid = {path: path.read_bytes() for path in made.texts}
    outcomes: Counter[str] = Counter()
    for number in range(EACH):
        draw = generator(20, f"malformed {case} {number}")
        path = made.texts[number % len(made.texts)]
        mutate = MUTATIONS[int(draw.integers(len(MUTATIONS)))]
        path.write_bytes(mutate(valid[path], draw))
        try:
            outcomes[outcome_of(kind, made, tmp_path)] += 1
        except Exception as error:
            error.add_note(f"{case} {number}: {mutate.__name__} of {path.name}: {path.read_bytes()[:2000]!r}")
            raise
        path.write_bytes(valid[path])
    assert outcomes.total() == EACH
    assert outcomes["parsed"] < EACH * 0.8  # the mutations do break things


def test_every_kind_that_reads_text_is_broken_a_thousand_times_in_all() -> None:
    assert {kind for kind, _ in MAKERS.values()} <= set(KINDS)
    assert {"coco", "voc", "yolo", "cvat", "nih", "rsna", "vindr", "deeplesion", "chestx_det", "tbx11k", "reports"} <= {
        kind for kind, _ in MAKERS.values()
    }
    assert EACH * len(MAKERS) >= 1000
