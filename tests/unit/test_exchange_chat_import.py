"""Conversations that others wrote come in: what they leave out stays unknown, what cannot be used is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.exchange.box_text import PADDED, QWEN_2_5, smart_resize
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.exchange.llama_factory import import_sharegpt
from medclm.corpus.exchange.llava import import_llava
from medclm.corpus.exchange.ms_swift import import_ms_swift
from medclm.corpus.finalise import EverythingRejected
from medclm.corpus.ids import Ids
from medclm.corpus.report.rejects import rejects_of
from medclm.data.shards import Corpus

CHECKS = Path(__file__).resolve().parents[2].parent / "shared" / "checks" / "recheck_corpus.py"
KEY = Ids(b"0123456789abcdef")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 40), 50 * number, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def of_others(number: int = 0, **changes: Any) -> dict[str, Any]:
    """An entry as others write it: no record, no stage, no class; boxes in the padded square of a 40 x 20 picture."""
    made = {
        "id": str(number),
        "image": f"pictures/{number}.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhere is it?"},
            {"from": "gpt", "value": "It lies at [0.10, 0.30, 0.50, 0.70]. Answer: on the left"},
        ],
    } | changes
    return {name: value for name, value in made.items() if value is not ...}


def taken(folder: Path, entries: Any, take: Callable[..., Any] = import_llava, **options: Any) -> Corpus:
    (folder / "theirs.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    take([folder / "theirs.json"], ImportOptions(folder / "corpus", KEY, progress=False), **options)
    return Corpus(folder / "corpus")


def test_what_others_leave_out_stays_unknown(folder: Path) -> None:
    asked = [
        {"from": "human", "value": "What is at [0.1, 0.3, 0.5, 0.7]?\n<image>"},
        {"from": "gpt", "value": "In [0.1, 0.3, 0.5, 0.7] all is dark.\nanswer: nothing"},
    ]
    corpus = taken(folder, [of_others(0), of_others(1, conversations=asked, split="test")])
    by_split = {row["split"]: row for row in (corpus.row("records", k) for k in range(2))}
    medium, easy = by_split["train"], by_split["test"]
    assert (medium["question_medium"], medium["rationale_medium"]) == ("Where is it?", "It lies at <box:0>.")
    assert (medium["answer_medium"], medium["question_easy"], medium["domain"]) == ("on the left", None, "unknown / unknown")
    assert (easy["question_easy"], easy["easy_image_row"]) == ("What is at <box:0>?", -1)  # the box will be drawn
    annotation = corpus.row("annotations", medium["annotation_rows"][0])
    assert np.allclose(annotation["box_xyxy_unit"], [0.1, 0.1, 0.5, 0.9])  # 40 x 20 is the middle half of its square
    assert (annotation["lesion_class"], annotation["organ"], annotation["box_role"]) == (None, None, "lesion")
    if CHECKS.exists():
        done = subprocess.run([sys.executable, str(CHECKS), str(folder / "corpus")], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def reply(text: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\nWhere is it?"}, {"from": "gpt", "value": text}]


@pytest.mark.parametrize(
    ("changes", "index", "reason"),
    [
        ({"image": ...}, "records[1].image", "image_missing"),
        ({"image": "pictures/gone.png"}, "records[1].image", "image_missing"),
        ({"image": "../secret.png"}, "records[1].image", "path_outside_root"),
        ({"image": ["pictures/1.png", "pictures/2.png"]}, "records[1].image", "several_images"),
        ({"conversations": "gone"}, "records[1].conversations", "turns_unreadable"),
        ({"conversations": []}, "records[1].conversations", "turns_unreadable"),
        ({"conversations": reply("Answer: x")[::-1]}, "records[1].conversations", "turns_unreadable"),
        ({"conversations": reply("A. Answer: x") * 2}, "records[1].conversations", "several_turns"),
        ({"conversations": reply("See <image>. Answer: x")}, "records[1].conversations", "image_tokens"),
        ({"conversations": reply("On the left.")}, "records[1].conversations", "answer_missing"),
        ({"conversations": reply("Answer: on the left")}, "records[1].conversations", "rationale_missing"),
        (
            {"conversations": [{"from": "human", "value": 3}, {"from": "gpt", "value": "?"}]},
            "records[1].value",
            "text_unreadable",
        ),
        ({"conversations": reply("At [10, 3, 20, 9]. Answer: x")}, "records[1].conversations", "box_not_unit"),
        ({"conversations": reply("At [0.1, 0.0, 0.5, 0.2]. Answer: x")}, "records[1].conversations", "box_outside"),
        ({"stage": "final"}, "records[1].stage", "stage_unknown"),
        ({"stage": "easy", "conversations": reply("Here. Answer: x")}, "records[1].conversations", "box_missing"),
        ({"stage": "hard"}, "records[1].image", "image_missing"),
        ({"box_text": "furlongs"}, "records[1].box_text", "box_text_unknown"),
        ({"modality": 7}, "records[1].modality", "text_unreadable"),
        ({"lesion_class": "mass"}, "records[1].conversations", "rationale_without_class"),
        ({"record": "same"}, "records[1].stage", "stage_repeated"),
    ],
)
def test_a_malformed_entry_is_refused_by_name(folder: Path, changes: dict[str, Any], index: str, reason: str) -> None:
    corpus = taken(folder, [of_others(0, record="same"), of_others(1, **changes), "gone"])
    rejects = rejects_of(corpus)
    assert (index, reason) in [(reject["index"], reject["reason"]) for reject in rejects]
    assert ("records[2]", "not_an_object") in [(reject["index"], reject["reason"]) for reject in rejects]
    assert corpus.count("records") == 1
    assert "secret" not in json.dumps(rejects)
    assert "gone" not in json.dumps(rejects)


def swift(objects: Any = ..., content: str = "At <bbox>. Answer: left") -> dict[str, Any]:
    made = {
        "messages": [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": "<image>Where is the <ref-object>?"},
            {"role": "assistant", "content": content},
        ],
        "images": ["pictures/0.png"],
        "objects": {"ref": ["cyst"], "bbox": [[4, 5, 20, 15]]} if objects is ... else objects,
    }
    return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize(
    "objects",
    [
        {"ref": ["cyst"], "bbox": [[4, 5, 20, 15]]},
        {"ref": ["cyst"], "bbox": [[4, 5, 20, 15]], "bbox_type": "real"},
        {"ref": ["cyst"], "bbox": [[0.1, 0.25, 0.5, 0.75]], "bbox_type": "norm1"},
        json.dumps({"ref": ["cyst"], "bbox": [[4, 5, 20, 15]]}),
    ],
)
def test_ms_swift_objects_are_placed_in_order(folder: Path, objects: Any) -> None:
    corpus = taken(folder, [swift(objects)], import_ms_swift)
    record = corpus.row("records", 0)
    assert (record["question_medium"], record["rationale_medium"]) == ("Where is the cyst?", "At <box:0>.")
    assert np.allclose(corpus.row("annotations", 0)["box_xyxy_unit"], [0.1, 0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("entry", "index", "reason"),
    [
        (swift({"ref": ["cyst"], "bbox": []}), "records[1].objects.bbox", "placeholders_differ"),
        (swift({"ref": ["cyst"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}), "records[1].objects.bbox", "placeholders_differ"),
        (swift({"ref": [], "bbox": [[1, 2, 3, 4]]}), "records[1].objects.ref", "placeholders_differ"),
        (swift(None), "records[1].objects.bbox", "placeholders_differ"),
        (swift([]), "records[1].objects", "objects_unreadable"),
        (swift("{"), "records[1].objects", "objects_unreadable"),
        (swift({"ref": "cyst", "bbox": [[1, 2, 3, 4]]}), "records[1].objects.ref", "objects_unreadable"),
        (swift({"ref": [1], "bbox": [[1, 2, 3, 4]]}), "records[1].objects.ref", "text_unreadable"),
        (swift({"ref": ["cyst"], "bbox": [[1, 2]]}), "records[1].objects.bbox", "box_unreadable"),
        (swift({"ref": ["cyst"], "bbox": [[1, 2, float("nan"), 4]]}), "records[1].objects.bbox", "box_not_finite"),
        (
            swift({"ref": ["cyst"], "bbox": [[1, 2, 3, 4]], "bbox_type": "norm"}),
            "records[1].objects.bbox_type",
            "bbox_type_unknown",
        ),
        (swift({"ref": ["cyst"], "bbox": [[10, 20, 300, 40]]}), "records[1].messages", "box_not_unit"),
    ],
)
def test_ms_swift_objects_that_do_not_fit_are_refused(folder: Path, entry: dict[str, Any], index: str, reason: str) -> None:
    rejects = rejects_of(taken(folder, [swift(), entry], import_ms_swift))
    assert [(reject["index"], reject["reason"]) for reject in rejects][:1] == [(index, reason)]


def test_a_line_that_is_no_json_is_refused_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "theirs.jsonl").write_text(json.dumps(swift()) + "\n{broken\n\n")
    import_ms_swift([folder / "theirs.jsonl"], ImportOptions(folder / "corpus", KEY, progress=False))
    corpus = Corpus(folder / "corpus")
    assert corpus.count("records") == 1
    assert [(reject["index"], reject["reason"]) for reject in rejects_of(corpus)] == [("records[1]", "line_unreadable")]


def test_sharegpt_comes_with_either_names_of_turns(folder: Path) -> None:
    turns = of_others()["conversations"]
    for names in (("from", "value"), ("role", "content")):
        roles = ("human", "gpt") if names[0] == "from" else ("user", "assistant")
        said = [{names[0]: role, names[1]: turn["value"]} for role, turn in zip(roles, turns, strict=True)]
        field = "messages" if names[0] == "role" else "conversations"
        corpus = taken(folder, [{field: said, "images": ["pictures/0.png"]}], import_sharegpt, rule=PADDED)
        assert corpus.row("records", 0)["answer_medium"] == "on the left"
        for path in (folder / "corpus").iterdir():
            path.unlink()


def test_a_file_of_another_format_is_an_error_that_names_what_it_has(folder: Path) -> None:
    with pytest.raises(
        ValueError, match="no object has conversations: this is not the llava format; found image_path2, question"
    ):
        taken(folder, [{"image_path2": "a.png", "question": "?"}])
    with pytest.raises(ValueError, match=r"theirs\.json: expected a list of objects, found dict"):
        taken(folder, "{}")
    with pytest.raises(EverythingRejected, match="rationale_missing"):
        taken(folder, [of_others(conversations=reply("Answer: x"))])
    assert not (folder / "corpus").exists()


def test_boxes_of_qwen_are_pixels_of_the_resized_picture(folder: Path) -> None:
    entry = {
        "messages": [
            {"role": "user", "content": "<image>Where?"},
            {"role": "assistant", "content": "At [14, 14, 42, 42]. Answer: here"},
        ],
        "images": ["pictures/0.png"],
    }
    corpus = taken(folder, [entry], import_sharegpt, rule=QWEN_2_5)  # 40 x 20 is seen as 84 x 56
    assert smart_resize((40, 20)) == (84, 56)
    assert np.allclose(corpus.row("annotations", 0)["box_xyxy_unit"], [14 / 84, 14 / 56, 42 / 84, 42 / 56])
