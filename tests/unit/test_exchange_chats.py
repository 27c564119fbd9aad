"""Conversations out and in: LLaVA, LLaMA-Factory and ms-swift keep questions, rationales, answers, pictures and boxes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.build import BuildOptions, build
from medclm.corpus.exchange.box_text import PADDED, THOUSANDTHS, smart_resize
from medclm.corpus.exchange.exporting import ExportOptions
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.exchange.llama_factory import export_sharegpt, import_sharegpt
from medclm.corpus.exchange.llava import export_llava, import_llava
from medclm.corpus.exchange.ms_swift import export_ms_swift, import_ms_swift
from medclm.corpus.ids import Ids, phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.draw import COLOURS, style_for
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus
from medclm.data.testing import record_row, write_small_corpus

CHECKS = Path(__file__).resolve().parents[2].parent / "shared" / "checks" / "recheck_corpus.py"
KEY = Ids(b"0123456789abcdef")
STAGES = {
    "easy": ("question", "rationale", "answer"),
    "medium": ("question", "rationale", "answer"),
    "hard": ("question", "answer"),
}
BOX = re.compile(r"<box:(\d+)>")


@dataclass(frozen=True)
class Peer:
    suffix: str
    export: Callable[..., Any]
    take: Callable[..., Any]
    bound: Callable[[tuple[int, int]], tuple[float, float]]
    """Size of the picture -> largest error of an edge, across and down, as a share of it: half of the last digit."""


PEERS = {
    "llava": Peer(
        ".json", export_llava, import_llava, lambda size: (0.0005 * max(size) / size[0], 0.0005 * max(size) / size[1])
    ),
    "llava, 2 digits": Peer(
        ".json",
        partial(export_llava, rule=PADDED.with_digits(2)),
        import_llava,
        lambda size: (0.005 * max(size) / size[0], 0.005 * max(size) / size[1]),
    ),
    "sharegpt": Peer(
        ".json",
        export_sharegpt,
        import_sharegpt,
        lambda size: (0.5 / smart_resize(size)[0], 0.5 / smart_resize(size)[1]),
    ),
    "sharegpt, thousandths": Peer(
        ".json", partial(export_sharegpt, rule=THOUSANDTHS), import_sharegpt, lambda _: (0.0005, 0.0005)
    ),
    "ms-swift": Peer(".jsonl", export_ms_swift, import_ms_swift, lambda _: (0.0, 0.0)),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pictures of several shapes, all three stages, two boxes a record; all of one split, so that partners are too."""
    says = {
        "rationale_easy": "The {color} box <box:0> holds a mass or nodule.",
        "rationale_medium": "Bright regions lie at <box:1> and <box:0>: each a mass or nodule.",
        "answer_medium": "At <box:0>",
    }
    records = [record_row(i, images=12, no_finding_every=0, **says) for i in range(12)]
    return Corpus(write_small_corpus(tmp_path_factory.mktemp("small") / "corpus", 12, records=records))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """All question kinds, splits, control boxes, MR techniques; several records a picture."""
    out = tmp_path_factory.mktemp("phantoms") / "corpus"
    build(PhantomSource(count=24, size=64), TemplateWriter(), out, BuildOptions(ids=phantom_ids(0), progress=False))
    return Corpus(out)


def entries_of(folder: Path, suffix: str) -> list[dict[str, Any]]:
    files = [folder / f"{split}{suffix}" for split in SPLITS if (folder / f"{split}{suffix}").exists()]
    found: list[dict[str, Any]] = []
    for file in files:
        found += (
            [json.loads(line) for line in file.read_text().splitlines()] if suffix == ".jsonl" else json.loads(file.read_text())
        )
    return found


def seen(corpus: Corpus, row: int, colour: str = "") -> tuple[dict[str, Any], list[tuple[float, ...]]]:
    """What of a record must survive, boxes numbered as the texts name them; and those boxes."""
    record = corpus.row("records", row)
    columns = {f"{part}_{stage}": record[f"{part}_{stage}"] for stage, parts in STAGES.items() for part in parts}
    named = dict.fromkeys(int(k) for text in columns.values() for k in BOX.findall(text or ""))
    number = {old: new for new, old in enumerate(named)}
    texts = {
        name: text and BOX.sub(lambda found: f"<box:{number[int(found[1])]}>", text.replace("{color}", colour))
        for name, text in columns.items()
    }
    pictures = {
        name: np.asarray(corpus.picture(record[name])).tobytes()
        for name in ("image_row", "hard_image_row")
        if record[name] >= 0
    }
    about = {name: record[name] for name in ("split", "question_kind")}
    boxes = [corpus.row("annotations", record["annotation_rows"][k]) for k in named]
    about |= {"boxes": [(box["lesion_class"], box["box_role"]) for box in boxes]}
    return texts | pictures | about, [tuple(box["box_xyxy_unit"]) for box in boxes]


def rows_of(corpus: Corpus) -> list[int]:
    return [row for split in SPLITS for first, n in corpus.record_files(split) for row in range(first, first + n)]


def recheck(corpus: Path) -> None:
    if CHECKS.exists():
        done = subprocess.run([sys.executable, str(CHECKS), str(corpus)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def size_of(corpus: Corpus, row: int) -> tuple[int, int]:
    image = corpus.row("images", corpus.row("records", row)["image_row"])
    return image["width"], image["height"]


ROUNDS = [("small", name) for name in PEERS] + [("phantoms", "llava")]


@pytest.mark.parametrize(("made", "name"), ROUNDS)
def test_round_trip(made: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    peer, corpus = PEERS[name], request.getfixturevalue(made)
    counts = peer.export(corpus, ExportOptions(tmp_path / "out", progress=False))
    files = [file for split in SPLITS if (file := tmp_path / "out" / f"{split}{peer.suffix}").exists()]
    report = peer.take(files, ImportOptions(tmp_path / "back", KEY, progress=False))
    after = Corpus(tmp_path / "back")
    assert dict(report.rejects) == {}
    assert report.stages == {stage: counts[stage] for stage in STAGES if counts[stage]}
    again: dict[str, tuple[int, list[tuple[float, ...]]]] = {}
    for row in range(after.count("records")):
        kept, boxes = seen(after, row)
        again[repr(kept)] = row, boxes
    assert len(again) == after.count("records") == corpus.count("records") == counts["records"]
    for row in rows_of(corpus):
        kept, boxes = seen(corpus, row, style_for(0, row).colour_name)
        found, boxes_again = again[repr(kept)]
        across, down = peer.bound(size_of(corpus, row))
        assert len(boxes) == len(boxes_again)
        for one, other in zip(boxes, boxes_again, strict=True):
            error = np.abs(np.subtract(one, other))
            assert (error <= np.array([across, down, across, down]) + 1e-7 * (across > 0)).all()
        old, new = corpus.row("records", row), after.row("records", found)
        assert (old["question_easy"] is None) == (new["easy_image_row"] < 0)
        if made == "phantoms":
            assert old["domain"] == new["domain"]
    if made == "phantoms":
        recheck(tmp_path / "back")


def test_a_box_is_drawn_for_easy_alone_in_the_colour_that_is_asked_about(small: Corpus, tmp_path: Path) -> None:
    export_llava(small, ExportOptions(tmp_path, progress=False))
    colours = dict(COLOURS)
    plain: dict[str, str] = {}
    for entry in entries_of(tmp_path, ".json"):
        before, shown = (np.asarray(Image.open(tmp_path / entry[name]).convert("RGB")) for name in ("plain", "image"))
        if entry["stage"] == "easy":
            changed = (before != shown).any(axis=2)
            assert changed.any()
            name = re.search(r"the (\w+) box", entry["conversations"][0]["value"])[1]  # type: ignore[index]
            assert (shown[changed] == colours[name]).all()
        if entry["stage"] == "medium":
            assert entry["image"] == plain.setdefault(entry["record"], entry["plain"])
        if entry["stage"] == "hard":
            assert entry["image"] != entry["plain"]


def test_llava_entries_are_what_training_writes(small: Corpus, tmp_path: Path) -> None:
    export_llava(small, ExportOptions(tmp_path, progress=False))
    entry = next(one for one in entries_of(tmp_path, ".json") if one["stage"] == "medium" and one["record"] == "r00000")
    human, gpt = entry["conversations"]
    assert entry["id"] == "r00000-medium"
    assert human == {"from": "human", "value": "<image>\nWhat is seen in the image?\nReason, give the box, then answer."}
    assert gpt["from"] == "gpt"
    assert re.fullmatch(
        r"Reasoning: Bright regions lie at \[(0\.\d{3}, ){3}0\.\d{3}\] and \[(0\.\d{3}, ){3}0\.\d{3}\]: each a mass or nodule\.\n\n"
        r"Answer: At \[(0\.\d{3}, ){3}0\.\d{3}\]",
        gpt["value"],
    )
    hard = next(one for one in entries_of(tmp_path, ".json") if one["stage"] == "hard")
    assert hard["conversations"][0]["value"].endswith("\nAnswer directly.")
    assert hard["conversations"][1]["value"] == "Answer: nodule"


def test_the_loaders_of_the_peers_read_the_files(phantoms: Corpus, tmp_path: Path) -> None:
    from datasets import load_dataset

    export_sharegpt(phantoms, ExportOptions(tmp_path / "lf", progress=False))
    export_ms_swift(phantoms, ExportOptions(tmp_path / "swift", progress=False))
    described = json.loads((tmp_path / "lf" / "dataset_info.json").read_text())
    assert set(described) == {f"medclm_{split}" for split in SPLITS}
    for name, about in described.items():
        rows = load_dataset(
            "json", data_files=str(tmp_path / "lf" / about["file_name"]), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert about["formatting"] == "sharegpt"
        assert len(rows) == sum(1 for one in entries_of(tmp_path / "lf", ".json") if f"medclm_{one['split']}" == name)
        for row in rows:
            messages = row[about["columns"]["messages"]]
            roles = [message[about["tags"]["role_tag"]] for message in messages]
            assert roles == [about["tags"]["user_tag"], about["tags"]["assistant_tag"]]
            tokens = sum(message[about["tags"]["content_tag"]].count("<image>") for message in messages)
            assert tokens == len(row[about["columns"]["images"]]) == 1
            assert (tmp_path / "lf" / row["images"][0]).exists()
    swift = load_dataset(
        "json", data_files=str(tmp_path / "swift" / "train.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(swift) == sum(one["split"] == "train" for one in entries_of(tmp_path / "swift", ".jsonl"))


def test_ms_swift_makes_of_its_boxes_what_we_write_as_thousandths(small: Corpus, tmp_path: Path) -> None:
    export_ms_swift(small, ExportOptions(tmp_path / "swift", progress=False))
    export_sharegpt(small, ExportOptions(tmp_path / "text", progress=False), rule=THOUSANDTHS)
    written = {one["id"]: one["messages"] for one in entries_of(tmp_path / "text", ".json")}
    boxes = 0
    for entry in entries_of(tmp_path / "swift", ".jsonl"):
        width, height = Image.open(tmp_path / "swift" / entry["images"][0]).size
        listed = iter(entry["objects"]["bbox"])

        def replaced(_: re.Match[str], width: int = width, height: int = height, listed: Any = listed) -> str:
            x0, y0, x1, y1 = next(listed)  # as ms-swift does for models that count to 1000
            numbers = [round(x0 / width * 1000), round(y0 / height * 1000), round(x1 / width * 1000), round(y1 / height * 1000)]
            return str(numbers)

        said = [re.sub("<bbox>", replaced, message["content"]) for message in entry["messages"]]
        assert said == [message["content"] for message in written[entry["id"]]]
        assert next(listed, None) is None
        assert (entry["objects"]["ref"], entry["objects"]["bbox_type"]) == ([], "real")
        boxes += len(entry["objects"]["bbox"])
    assert boxes > 12


def test_an_export_can_be_of_some_splits_and_asks_for_an_empty_folder(phantoms: Corpus, tmp_path: Path) -> None:
    counts = export_llava(phantoms, ExportOptions(tmp_path / "out", splits=["val"], progress=False))
    assert counts["records"] == phantoms.count("records", "val")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "val.json"]
    assert "not a medical device" in (tmp_path / "out" / "images" / "NOTICE.txt").read_text()
    with pytest.raises(ValueError, match="not an empty folder"):
        export_llava(phantoms, ExportOptions(tmp_path / "out", progress=False))
