"""Asking about files: a picture or a folder of them, what is printed and written, what is refused, exit codes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread

from eval.example import Reply, Square
from eval.respondent import Asked
from eval.trying.predict import NOTICE, Call, Reading, output_names, predict, predict_folder, predict_one
from medclm.config import BoxTextSection
from medclm.corpus.audit import audit
from medclm.testing import tiny_export
from medclm.types import Box
from tests.dicom_files import item, picture, saved

ROOT = Path(__file__).resolve().parents[2]
BOX = Box(0.25, 0.5, 0.75, 0.875)


@dataclass
class Brightness:
    """Answers with the mean grey of the picture, in the reverse order of the questions; black pictures get no answer."""

    square: Square = field(default_factory=lambda: Square(side=64, patch_size=8, fit="pad"))
    box_text: BoxTextSection = field(default_factory=lambda: BoxTextSection(digits=6))
    settings: dict[str, Any] = field(default_factory=lambda: {"weights": "0123456789abcdef"})

    def replies(self, asked: Sequence[Asked], pictures: Any, progress: Callable[[int], None]) -> Iterator[tuple[Asked, Reply]]:
        for one in reversed(asked):
            image = pictures.open(one.example.picture)
            grey = round(float(np.asarray(image).mean()))
            box = self.square.frame(image.size).write(BOX, self.box_text)
            text = f"Reasoning: See {box} and {box}.\n\nAnswer: grey {grey}" if grey else "It is dark."
            yield one, Reply(text, stopped=grey != 255, box_scores=(math.log(0.5), math.log(0.25)) if grey else ())


def grey(path: Path, value: int, size: tuple[int, int] = (80, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def call(**changes: Any) -> Call:
    settings = {"question": "What is it?", "instruction": "reason", "reading": Reading(), "dicom": (), "run": "r"}
    return Call(**{**settings, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    grey(root / "b.png", 20)
    grey(root / "a.jpg", 10, (40, 80))
    grey(root / "deep" / "b.png", 30)
    grey(root / ".hidden.png", 40)
    saved(root / "deep" / "film", picture("DX", np.full((30, 50), 50, np.uint8), PatientName="Doe^Jo", BurnedInAnnotation="NO"))
    (root / "notes.txt").write_text("no picture")
    (root / "torn.png").write_bytes((root / "b.png").read_bytes()[:60])
    return root


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_folder_is_asked_file_by_file_and_what_cannot_be_read_is_named_and_counted(folder, tmp_path, capsys, batch_size):
    out = tmp_path / "answers"
    assert predict_folder(Brightness, folder, call(), out, batch_size) == 3
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    names = ("a", "b", "deep/b", "deep/film")
    assert written == sorted(f"{name}.{suffix}" for name in names for suffix in ("json", "png"))
    assert {name: read(out / f"{name}.json")["answer"] for name in names} == {
        "a": "grey 10",
        "b": "grey 20",
        "deep/b": "grey 30",
        "deep/film": "grey 50",
    }
    printed, told = capsys.readouterr()
    assert "deep/film: grey 50 (boxes: 1)" in printed
    assert "6 files: 4 answered, 1 refused: image_truncated, 1 refused: image_unreadable" in printed
    assert NOTICE in printed
    assert "refused notes.txt: image_unreadable: " in told
    assert "refused torn.png: image_truncated: " in told
    assert "Doe" not in printed + told + "".join(path.read_text() for path in out.rglob("*.json"))


def test_a_record_says_file_question_answer_boxes_model_time_and_notice(folder, tmp_path):
    before = time.time() - 1
    predict_folder(Brightness, folder, call(), tmp_path / "answers", 8)
    told = read(tmp_path / "answers" / "deep" / "film.json")
    assert before <= told.pop("time") <= time.time() + 1
    assert told == {
        "file": "deep/film",
        "sop_instance_uid": "1.2.3.1",
        "frame": 1,
        "width": 50,
        "height": 30,
        "window": None,
        "question": "What is it?",
        "rationale": told["rationale"],
        "answer": "grey 50",
        "boxes": [
            {
                "px": pytest.approx([12.5, 15, 37.5, 26.25], abs=0.01),
                "unit": pytest.approx(list(BOX), abs=1e-5),
                "confidence": 0.5,  # written twice, it counts with the higher of its scores
            }
        ],
        "cut": False,
        "model_fingerprint": "0123456789abcdef",
        "notice": NOTICE,
    }
    assert told["rationale"].startswith("See [")
    assert "sop_instance_uid" not in read(tmp_path / "answers" / "a.json")


def test_boxes_on_a_region_are_told_in_the_whole_picture(tmp_path):
    region = item(RegionLocationMinX0=10, RegionLocationMinY0=5, RegionLocationMaxX1=49, RegionLocationMaxY1=34)
    made = picture("US", np.full((40, 60), 90, np.uint8), SequenceOfUltrasoundRegions=[region])
    assert predict_one(Brightness, saved(tmp_path / "a.dcm", made), call(), tmp_path / "o.png") == 0
    told = read(tmp_path / "o.json")
    assert (told["width"], told["height"]) == (60, 40)
    x0, y0, x1, y1 = BOX.scaled(40, 30)
    expected = [x0 + 10, y0 + 5, x1 + 10, y1 + 5]
    assert told["boxes"][0]["px"] == pytest.approx(expected, abs=0.01)
    assert told["boxes"][0]["unit"] == pytest.approx(
        [one / size for one, size in zip(expected, (60, 40) * 2, strict=True)], abs=1e-4
    )


def test_dicom_sources_get_reports_and_segmentations_where_there_is_a_box(tmp_path, capsys):
    pytest.importorskip("highdicom", reason="needs the package highdicom")
    root, out = tmp_path / "scans", tmp_path / "answers"
    told = {"StudyInstanceUID": "1.2.3.60", "SeriesInstanceUID": "1.2.3.50", "BurnedInAnnotation": "NO"}
    for number, value in enumerate((50, 60), start=1):
        made = picture("DX", np.full((30, 50), value, np.uint8), f"1.2.3.{number}", **told)
        saved(root / f"{number}.dcm", made)
    grey(root / "a.png", 9)
    both = call(dicom=("sr", "seg"))
    assert predict_folder(Brightness, root, both, out, 8) == 0
    assert "3 files: 3 answered, 1 no DICOM source, so no object; written to" in capsys.readouterr().out
    objects = {path.name: dcmread(path) for path in out.glob("*.dcm")}
    assert sorted(objects) == ["1.seg.dcm", "1.sr.dcm", "2.seg.dcm", "2.sr.dcm"]
    assert len({made.SeriesInstanceUID for made in objects.values()}) == 2
    assert [objects[f"{number}.sr.dcm"].InstanceNumber for number in (1, 2)] == [1, 2]

    saved(root / "3.dcm", picture("DX", np.zeros((30, 50), np.uint8), "1.2.3.3", **told))  # no answer, no box
    saved(root / "4.dcm", picture("DX", np.full((30, 50), 7, np.uint8), "1.2.3.4", BurnedInAnnotation="NO"))  # no study
    assert predict_folder(Brightness, root, both, out, 8) == 3
    assert "2 not written: reference_missing, 1 not written: seg_no_box" in capsys.readouterr().out
    assert {path.name for path in out.glob("*.dcm")} == {*objects, "3.sr.dcm"}
    assert predict_one(Brightness, root / "1.dcm", both, tmp_path / "o.png") == 0
    assert {"o.png", "o.json", "o.sr.dcm", "o.seg.dcm"} <= {path.name for path in tmp_path.iterdir()}


def test_all_answered_is_0_and_a_picture_without_an_answer_is_3(tmp_path, capsys):
    root = tmp_path / "scans"
    grey(root / "a.png", 255)
    assert predict_folder(Brightness, root, call(), None, 8) == 0
    assert "1 answered, 1 cut at the longest completion: raise --max-new-tokens" in capsys.readouterr().out
    grey(root / "b.png", 0)
    assert predict_folder(Brightness, root, call(), tmp_path / "out", 8) == 3
    assert "1 answered, 1 cut at the longest completion: raise --max-new-tokens, 1 no answer" in capsys.readouterr().out
    assert read(tmp_path / "out" / "b.json")["answer"] is None
    assert read(tmp_path / "out" / "b.json")["boxes"] == []
    assert predict_one(Brightness, root / "a.png", call(), None) == 0
    assert predict_one(Brightness, root / "b.png", call(), None) == 3


def test_one_picture_leaves_a_picture_and_a_record_that_does_not_name_its_source(tmp_path, capsys):
    source = grey(tmp_path / "zealous-01.png", 90)
    assert predict_one(Brightness, source, call(), tmp_path / "seen.v1.jpg") == 0
    assert "Box 1: x 20 to 60, y 20 to 35 (pixels of the 80 x 40 image; confidence 0.50)" in capsys.readouterr().out
    assert Image.open(tmp_path / "seen.v1.jpg").width >= 448
    assert "zealous" not in (tmp_path / "seen.v1.json").read_text()
    (tmp_path / "made").mkdir()
    (tmp_path / "seen.v1.json").rename(tmp_path / "made" / "seen.json")
    assert audit([tmp_path / "made"], ["zealous"]) == []  # nothing in it looks like a patient's date or number either
    assert predict_one(Brightness, source, call(), tmp_path / "seen.v1.jpg") == 0
    assert read(tmp_path / "seen.v1.json")["boxes"][0]["px"] == pytest.approx([20, 20, 60, 35], abs=0.01)
    assert predict_one(Brightness, source, call(), tmp_path / "seen.v1.jpg") == 0  # an earlier answer is replaced


def test_grey_of_16_bits_needs_a_window_and_the_record_keeps_it(tmp_path, capsys):
    Image.fromarray(np.full((20, 20), 1000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: image_16_bit: .* with --window CENTRE WIDTH$"):
        predict_one(Brightness, tmp_path / "deep.png", call(), None)
    wide = call(reading=Reading(window=(1000, 2000)))
    assert predict_one(Brightness, tmp_path / "deep.png", wide, tmp_path / "o.png") == 0
    assert read(tmp_path / "o.json")["answer"] == "grey 128"
    assert read(tmp_path / "o.json")["window"] == {"centre": 1000, "width": 2000, "from": "--window"}
    assert "Window: centre 1000, width 2000" in capsys.readouterr().out
    for window in ((40, 0), (40, -1), (math.nan, 400), (40, math.inf)):
        with pytest.raises(ValueError, match=r"--window .*a WIDTH above 0"):
            Reading(window=window)


def nobody() -> Any:
    raise AssertionError("a model was opened, though there is nothing to ask about")


def test_nothing_to_ask_about_is_told_before_a_model_is_opened(tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(ValueError, match="holds no file"):
        predict_folder(nobody, tmp_path / "scans", call(), None, 8)
    (tmp_path / "scans" / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="none of its 1 files is a picture"):
        predict_folder(nobody, tmp_path / "scans", call(), None, 8)
    with pytest.raises(ValueError, match="image_missing"):
        predict_one(nobody, tmp_path / "scans" / "gone.png", call(), None)
    with pytest.raises(ValueError, match=r"--dicom-sr: .* is no DICOM file"):
        predict_one(nobody, grey(tmp_path / "a.png", 9), call(dicom=("sr",)), tmp_path / "o.png")


def test_outputs_never_mix_with_inputs_or_replace_what_is_not_ours(tmp_path):
    source = grey(tmp_path / "scans" / "a.png", 9)
    scans = source.parent
    for out in (scans, scans / "out", tmp_path):
        with pytest.raises(ValueError, match="give a folder beside it"):
            predict_folder(nobody, scans, call(), out, 8)
    with pytest.raises(ValueError, match="give a folder for its answers"):
        predict_folder(nobody, scans, call(), grey(tmp_path / "o.png", 1), 8)
    with pytest.raises(ValueError, match="the image itself"):
        predict_one(nobody, source, call(), source)
    for out in (tmp_path / "o.gif", tmp_path / "gone" / "o.png"):
        with pytest.raises(ValueError, match=r"give a \.png or \.jpg"):
            predict_one(nobody, source, call(), out)
    (tmp_path / "boxes.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="no answer of an earlier prediction"):
        predict_one(nobody, source, call(), tmp_path / "boxes.png")
    grey(tmp_path / "more" / "boxes.png", 9)
    (tmp_path / "others").mkdir()
    (tmp_path / "boxes.json").rename(tmp_path / "others" / "boxes.json")
    with pytest.raises(ValueError, match="no answer of an earlier prediction"):
        predict_folder(nobody, tmp_path / "more", call(), tmp_path / "others", 8)
    assert (tmp_path / "others" / "boxes.json").read_text() == '{"images": []}'


NAMES = st.lists(
    st.sampled_from(["a", "A", "b", "a.png", "a.jpg", "A.png", "a.png.jpg", "a.sr", "x/a.png", "x/a", "IM.001", "IM.002"])
)


@given(NAMES)
def test_no_two_files_of_a_folder_share_an_output_even_where_capitals_do_not_count(names: list[str]) -> None:
    files = [Path(name) for name in {name.casefold(): name for name in names}.values()]
    found = output_names(files)
    assert set(found) == set(files)
    written = [
        f"{one.as_posix()}{suffix}".casefold() for one in found.values() for suffix in (".png", ".json", ".sr.dcm", ".seg.dcm")
    ]
    assert len(written) == len(set(written))
    for file, name in found.items():
        assert name in (file, file.with_suffix(""))


def test_a_trained_folder_answers_a_folder_of_pictures_and_the_command_says_what_is_wrong(tmp_path):
    export = tiny_export(tmp_path / "export")
    grey(tmp_path / "scans" / "a.png", 90)
    grey(tmp_path / "scans" / "b.png", 10)
    code = predict(
        export,
        tmp_path / "scans",
        "What is it?",
        out=tmp_path / "answers",
        instruction="reason",
        max_new_tokens=4,
        batch_size=2,
    )
    records = [read(tmp_path / "answers" / f"{name}.json") for name in "ab"]
    assert code == (0 if all(one["answer"] for one in records) else 3)
    assert len(records[0]["model_fingerprint"]) == 64
    words = [
        "launch/predict.py",
        "--checkpoint",
        str(tmp_path / "gone"),
        "--image",
        str(tmp_path / "scans"),
        "--question",
        "What?",
    ]
    for more, message in (
        ((), "predict: --checkpoint "),
        (("--window", "40", "0"), "predict: --window 40 0: "),
        (("--batch-size", "0"), "predict: --batch-size 0: "),
        (("--dicom-seg",), "predict: --dicom-seg needs --out: "),
    ):
        done = subprocess.run([sys.executable, *words, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(message)
