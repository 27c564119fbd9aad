"""The published JSON comes in and goes out: round trip, lenient where it is unambiguous, refused by index and field elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.build import BuildOptions, build
from medclm.corpus.exchange.exporting import ExportOptions
from medclm.corpus.exchange.importing import ImportOptions
from medclm.corpus.exchange.published import import_published
from medclm.corpus.exchange.published_export import export_published
from medclm.corpus.finalise import BuildReport, EverythingRejected
from medclm.corpus.ids import Ids, phantom_ids
from medclm.corpus.report.rejects import rejects_of
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.draw import COLOURS
from medclm.data.shards import Corpus

CHECKS = Path(__file__).resolve().parents[2].parent / "shared" / "checks" / "recheck_corpus.py"
KEY = Ids(b"0123456789abcdef")
NUMBERS = re.compile(r"\[(\d\.\d+), (\d\.\d+), (\d\.\d+), (\d\.\d+)\]")
STAGE_TEXTS = ("question_easy", "rationale_easy", "answer_easy", "question_medium", "rationale_medium", "answer_medium")


def entry(number: int = 0, **changes: Any) -> dict[str, Any]:
    """An object as others publish it."""
    made = {
        "image_path": f"images/drawn{number}.png",
        "image_path2": f"images/plain{number}.png",
        "image_path3": f"images/hard{number}.png",
        "bbox": "[0.25, 0.125, 0.75, 0.5]",
        "question": "What does the red box show?",
        "cot": "The region [0.25, 0.125, 0.75, 0.5] in the left lung is bright, which fits a nodule.",
        "answer": "Nodule",
        "question2": "Is there a nodule in this image?",
        "cot2": "At [0.25, 0.12, 0.75, 0.50] in the left lung there is a nodule.",
        "answer2": "Yes",
        "question3": "Is there a nodule in this image?",
        "answer3": "Yes",
        "lesion_class": "Nodule",
        "organ": "lung",
        "modality": "X-ray",
    } | changes
    return {name: value for name, value in made.items() if value is not ...}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(4):
        for position, kind in enumerate(("drawn", "plain", "hard")):
            pixels = np.full((24, 32), 10 * number + position, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{kind}{number}.png")
    return tmp_path


def imported(folder: Path, entries: Any, text: str | None = None) -> tuple[BuildReport, Corpus]:
    (folder / "train.json").write_text(text if text is not None else json.dumps(entries))
    report = import_published([folder / "train.json"], ImportOptions(folder / "corpus", KEY, progress=False))
    return report, Corpus(folder / "corpus", verify=True)


def recheck(corpus: Path) -> None:
    if CHECKS.exists():
        done = subprocess.run([sys.executable, str(CHECKS), str(corpus)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_an_object_becomes_a_record(folder: Path) -> None:
    report, corpus = imported(folder, [entry()])
    assert (report.images, report.annotations, dict(report.rejects)) == (3, 1, {})
    record = corpus.row("records", 0)
    assert record["rationale_easy"] == "The region <box:0> in the left lung is bright, which fits a nodule."
    assert (
        record["rationale_medium"] == "At <box:0> in the left lung there is a nodule."
    )  # rounded coordinates are the same box
    assert (record["domain"], record["question_kind"], record["split"]) == ("nodule / DX", "presence", "train")
    assert (record["answer_type_easy"], record["answer_type_medium"], record["answer_type_hard"]) == (
        "open",
        "closed",
        "closed",
    )
    pixel = {
        name: corpus.picture(record[name]).getpixel((0, 0))[0] for name in ("easy_image_row", "image_row", "hard_image_row")
    }  # type: ignore[index]
    assert pixel == {"easy_image_row": 0, "image_row": 1, "hard_image_row": 2}
    annotation = corpus.row("annotations", record["annotation_rows"][0])
    assert annotation["box_xyxy_unit"] == [0.25, 0.125, 0.75, 0.5]
    assert (annotation["class_source"], annotation["lesion_class"], annotation["organ"]) == ("Nodule", "nodule", "lung")
    patients = [corpus.row("images", record[name], ["patient"])["patient"] for name in pixel]
    assert patients[0] == patients[1] != patients[2]  # the drawn picture shows the same patient
    recheck(corpus.folder)


def test_what_is_unambiguous_is_accepted(folder: Path) -> None:
    plain = entry(1, image_path=..., bbox=[0.25, 0.125, 0.75, 0.5], image_path3=..., question3=..., answer3=...)
    two = entry(2, cot2="[0.25, 0.125, 0.75, 0.5] and (0.1, 0.6, 0.3, 0.9) in the lung are each a nodule.", extra="ignored")
    mri = entry(3, modality="MRI", technique="flair", question_kind="count", organ="", cot="A nodule at [.25, .125, .75, .5].")
    mri["image_path2"] = str(folder / "images" / "plain3.png")  # absolute, but below the folder
    text = "// made by hand\n[" + ",\n".join(json.dumps(one) for one in (plain, two, mri)) + ",]  # the end"
    report, corpus = imported(folder, None, text)
    assert dict(report.rejects) == {}
    by_domain = {row["domain"]: row for row in (corpus.row("records", i) for i in range(3)) if row["answer_hard"]}
    assert by_domain["nodule / MR / flair"]["question_kind"] == "count"
    first = next(row for row in (corpus.row("records", i) for i in range(3)) if row["answer_hard"] is None)
    assert (first["easy_image_row"], first["hard_image_row"]) == (-1, -1)
    pair = by_domain["nodule / DX"]
    assert pair["rationale_medium"].startswith("<box:0> and <box:1> in the lung")
    boxes = [row["box_xyxy_unit"] for row in corpus.rows("annotations", pair["annotation_rows"], ["box_xyxy_unit"])]
    assert np.allclose(boxes, [[0.25, 0.125, 0.75, 0.5], [0.1, 0.6, 0.3, 0.9]])
    classes = [row["lesion_class"] for row in corpus.rows("annotations", pair["annotation_rows"], ["lesion_class"])]
    assert classes == ["nodule", None]  # what the second box shows is nowhere said
    recheck(corpus.folder)


def test_a_hard_image_may_be_another_objects_own(folder: Path) -> None:
    pairs = [entry(0, image_path3="images/plain1.png"), entry(1, image_path3="images/plain0.png")]
    report, corpus = imported(folder, pairs)
    assert report.images == 4
    rows = [corpus.row("records", i, ["image_row", "hard_image_row"]) for i in range(2)]
    assert {(row["image_row"], row["hard_image_row"]) for row in rows} == {
        (a, b) for b, a in ((r["image_row"], r["hard_image_row"]) for r in rows)
    }
    recheck(corpus.folder)


@pytest.mark.parametrize(
    ("changes", "index", "reason"),
    [
        ({"bbox": "[0.25, 0.125, 0.75]"}, "records[1].bbox", "box_unreadable"),
        ({"bbox": [25, 12, 75, 50]}, "records[1].bbox", "box_not_unit"),
        ({"bbox": [0.5, 0.5, 0.25, 0.75]}, "records[1].bbox", "box_zero_area"),
        ({"bbox": [float("nan"), 0.5, 0.75, 0.75]}, "records[1].bbox", "box_not_finite"),
        ({"bbox": ...}, "records[1].bbox", "box_missing"),
        ({"lesion_class": " "}, "records[1].lesion_class", "class_missing"),
        ({"lesion_class": 3}, "records[1].lesion_class", "text_unreadable"),
        ({"image_path2": "images/gone.png"}, "records[1].image_path2", "image_missing"),
        ({"image_path2": "../secret.png"}, "records[1].image_path2", "path_outside_root"),
        ({"image_path2": "/etc/secret.png"}, "records[1].image_path2", "path_outside_root"),
        ({"image_path2": ...}, "records[1].image_path2", "image_missing"),
        ({"image_path": "images/gone.png"}, "records[1].image_path", "image_missing"),
        ({"image_path3": ...}, "records[1].image_path3", "image_missing"),
        ({"answer": ...}, "records[1].answer", "text_missing"),
        ({"answer3": ""}, "records[1].answer3", "text_missing"),
        ({"cot": "A nodule in the lung."}, "records[1].cot", "rationale_without_box"),
        ({"cot": "A mass at [0.25, 0.125, 0.75, 0.5] in the lung."}, "records[1].cot", "rationale_without_class"),
        ({"cot2": "A nodule at [0.25, 0.125, 0.75, 0.5]."}, "records[1].cot2", "rationale_without_organ"),
        ({"cot2": "A nodule at [25, 12, 75, 50] in the lung."}, "records[1].cot2", "box_not_unit"),
        ({"question2": "Is [0.25, 0.125, 0.75, 0.5] a nodule?"}, "records[1].question2", "text_gives_box_away"),
        ({"answer3": "Yes, at [0.1, 0.1, 0.2, 0.2]"}, "records[1].answer3", "text_gives_box_away"),
        ({"image_path3": "images/plain1.png"}, "records[1].hard", "hard_same_patient"),
        (
            {"image_path3": "images/plain0.png", "lesion_class": "nodule", "modality": "CT"},
            "records[1].hard",
            "hard_other_domain",
        ),
        ({"image_path3": "images/plain0.png", "split": "test"}, "records[1].hard", "hard_other_split"),
    ],
)
def test_the_rest_is_refused_by_index_and_field(folder: Path, changes: dict[str, Any], index: str, reason: str) -> None:
    report, corpus = imported(folder, [entry(0), entry(1, **changes)])
    rejects = rejects_of(corpus)
    assert [(reject["index"], reject["reason"]) for reject in rejects][:1] == [(index, reason)]
    assert "secret" not in json.dumps(rejects)
    assert "gone" not in json.dumps(rejects)
    assert report.rejects[reason] >= 1
    recheck(corpus.folder)


def test_a_file_of_another_kind_is_refused(folder: Path) -> None:
    for content, message in (
        ("{}", "expected a list of objects"),
        ("[]", "found an empty list"),
        ("[1, 2]", "not the published format"),
        ('[{"image": "x"}]', "not the published format"),
        ("[{]", r"train\.json:1:\d+: not JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            imported(folder, None, content)
        assert not (folder / "corpus").exists()
    with pytest.raises(EverythingRejected, match=r"2 +box_unreadable \(first: records\[0\]\.bbox"):
        imported(folder, [entry(0, bbox="?"), entry(1, bbox="?")])
    assert not (folder / "corpus").exists()
    with pytest.raises(ValueError, match="--split dev"):
        import_published([folder / "train.json"], ImportOptions(folder / "corpus", KEY, split="dev"))


def test_round_trip(tmp_path: Path) -> None:
    build(PhantomSource(count=30, size=64), TemplateWriter(), tmp_path / "a", BuildOptions(ids=phantom_ids(0), progress=False))
    before = Corpus(tmp_path / "a")
    counts = export_published(before, ExportOptions(tmp_path / "out", progress=False))
    report = import_published([tmp_path / "out" / "published.json"], ImportOptions(tmp_path / "b", KEY, progress=False))
    after = Corpus(tmp_path / "b")
    assert dict(report.rejects) == {}
    assert {stage: report.stages[stage] for stage in ("easy", "medium", "hard")} == {
        s: counts[s] for s in ("easy", "medium", "hard")
    }
    assert report.records == {split: before.count("records", split) for split in ("train", "val", "test")}
    assert after.domains == before.domains
    entries = json.loads((tmp_path / "out" / "published.json").read_text())
    exported = [
        row for split in ("train", "val", "test") for first, n in before.record_files(split) for row in range(first, first + n)
    ]
    again = {_key(after, after.row("records", row)): after.row("records", row) for row in range(after.count("records"))}
    for row, written in zip(exported, entries, strict=True):
        old = before.row("records", row)
        colour = _drawn_colour(written, tmp_path / "out", before, old)
        new = again[_key(before, old, colour)]
        assert _texts(new) == _texts(old, colour)
        assert (new["domain"], new["split"], new["question_kind"]) == (old["domain"], old["split"], old["question_kind"])
        for rows in (("image_row", "image_row"), ("hard_image_row", "hard_image_row")):
            if old[rows[0]] >= 0:
                assert np.array_equal(np.asarray(before.picture(old[rows[0]])), np.asarray(after.picture(new[rows[1]])))
        boxes = [before.row("annotations", old["annotation_rows"][k]) for k in _order(old)]
        found = [after.row("annotations", k) for k in new["annotation_rows"]]
        assert np.allclose(*([one["box_xyxy_unit"] for one in some] for some in (boxes, found)), atol=6e-5)
        assert [one["lesion_class"] for one in boxes] == [one["lesion_class"] for one in found]
        assert [one["organ"] for one in boxes][:1] == [one["organ"] for one in found][:1]
    recheck(tmp_path / "b")


def _key(corpus: Corpus, record: dict[str, Any], colour: str = "") -> tuple[Any, ...]:
    return (
        corpus.image_bytes(record["image_row"]),
        *_texts(record, colour),
        record["question_hard"],
    )


def _order(record: dict[str, Any]) -> list[int]:
    """The boxes that a record's texts name, its target first, then as they appear: what a file without numbers can keep."""
    named = [int(k) for name in STAGE_TEXTS for k in re.findall(r"<box:(\d+)>", record[name] or "")]
    return list(dict.fromkeys([0, *named] if record["annotation_rows"] else named))


def _texts(record: dict[str, Any], colour: str = "") -> list[str | None]:
    """The stage texts with the drawn colour, boxes numbered as `_order` has them."""
    number = {str(old): new for new, old in enumerate(_order(record))}
    filled = [text and text.replace("{color}", colour) for text in (record[name] for name in STAGE_TEXTS)]
    return [text and re.sub(r"<box:(\d+)>", lambda found: f"<box:{number[found[1]]}>", text) for text in filled]


def _drawn_colour(written: dict[str, Any], folder: Path, corpus: Corpus, record: dict[str, Any]) -> str:
    """The colour that was really drawn; the exported question must name it."""
    if "image_path" not in written:
        return ""
    drawn = np.asarray(Image.open(folder / written["image_path"]).convert("RGB")).astype(int)
    plain = np.asarray(corpus.picture(record["image_row"])).astype(int)
    x0, y0, x1, y1 = np.asarray([float(n) for n in NUMBERS.match(written["bbox"]).groups()]) * (64, 64, 64, 64)  # type: ignore[union-attr]
    changed = np.argwhere((drawn != plain).any(axis=2))
    assert changed[:, 0].min() >= round(y0)
    assert changed[:, 0].max() < max(round(y1), round(y0) + 1)
    assert changed[:, 1].min() >= round(x0)
    assert changed[:, 1].max() < max(round(x1), round(x0) + 1)
    rgb = tuple(drawn[tuple(changed[0])].tolist())
    name = next(name for name, colour in COLOURS if colour == rgb)
    assert name in written["question"]
    assert "{color}" not in json.dumps(written)
    return name


def test_the_export_does_not_overwrite(tmp_path: Path) -> None:
    build(PhantomSource(count=6, size=64), TemplateWriter(), tmp_path / "a", BuildOptions(ids=phantom_ids(0), progress=False))
    corpus = Corpus(tmp_path / "a")
    with pytest.raises(ValueError, match="not an empty folder"):
        export_published(corpus, ExportOptions(tmp_path / "a"))
    export_published(corpus, ExportOptions(tmp_path / "x", splits=["train"], progress=False))
    assert len(json.loads((tmp_path / "x" / "published.json").read_text())) == corpus.count("records", "train")
    notice = (tmp_path / "x" / "images" / "NOTICE.txt").read_text()
    assert "Research use only, not a medical device." in notice
    assert "Source phantoms: " in notice


def test_several_files_are_one_import_and_name_their_rejects(folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps([entry(0)]))
    (folder / "b.json").write_text(json.dumps([entry(1), entry(2, bbox="?")]))
    files = [folder / "a.json", folder / "b.json"]
    report = import_published(files, ImportOptions(folder / "corpus", KEY, progress=False))
    assert report.records["train"] == 2
    assert [reject["index"] for reject in rejects_of(Corpus(folder / "corpus"))] == ["files[1].records[1].bbox"]
    (folder / "other").mkdir()
    (folder / "other" / "c.json").write_text(json.dumps([entry(3)]))
    with pytest.raises(ValueError, match="--image-root is needed: the files lie in 2 folders"):
        import_published([*files, folder / "other" / "c.json"], ImportOptions(folder / "corpus2", KEY))
