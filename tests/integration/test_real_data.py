"""The whole road on real images, short: shards, independent re-check, two ranks, evaluation, a prediction to look at."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from medclm.data.schema import COLUMNS
from medclm.data.shards import Corpus

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
RECHECK = SHARED / "checks" / "recheck_corpus.py"
pytestmark = pytest.mark.slow


def data(name):
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"needs the real data folder {name} beside the project")
    return folder


def python(*arguments, cwd=ROOT, code=0):
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "MEDCLM_ID_KEY": "0" * 64}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        [*map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False, env=environment, timeout=400
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def build_brats(folder, out, fold="1/4"):
    flags = [
        "--annotations",
        folder / "boxes_coco.json",
        "--image-root",
        folder / "images",
        "--name",
        "brats",
        "--modality",
        "MR",
    ]
    flags += [
        "--plane",
        "axial",
        "--patient-field",
        "patient",
        "--technique-field",
        "sequence",
        "--organ",
        "brain={brain_mask_file}",
    ]
    flags += ["--visible-on", "whole tumor=flair", "--visible-on", "enhancing tumor=t1c", "--licence", "CC BY-NC-SA 3.0"]
    return python(sys.executable, "launch/corpus.py", "build", "--source", "coco", *flags, "--split-fold", fold, "--out", out)


def build_bccd(folder, out):
    flags = [
        "--annotations",
        folder / "annotations_voc",
        "--image-root",
        folder / "images",
        "--name",
        "bccd",
        "--modality",
        "SM",
    ]
    flags += ["--plane", "none", "--licence", "MIT"]
    return python(sys.executable, "launch/corpus.py", "build", "--source", "voc", *flags, "--out", out)


def recheck(corpus):
    if not RECHECK.is_file():
        pytest.skip("needs the independent check beside the project")
    assert " 0 failed" in python(sys.executable, RECHECK, corpus)


def train_evaluate_predict(corpus, out, image, question, name):
    train = [
        "deepspeed",
        "--num_accelerators",
        "2",
        "--master_port",
        "29633",
        "launch/train.py",
        "--deepspeed",
        "ds_configs/zero3.json",
    ]
    keys = [f"--data.corpus={corpus}", f"--run.output_dir={out}", f"--run.name={name}", "--train.steps=8", "--data.min_side=0"]
    printed = python(*train, *keys, "--train.log_every=2", "--train.global_batch_size=8", "--train.micro_batch_size=4")
    assert "finished at step 8" in printed
    run = out / name
    judge = [
        "--checkpoint",
        run,
        "--suites",
        "vqa,grounding",
        "--data",
        corpus,
        "--limit",
        "6",
        "--max-new-tokens",
        "60",
        "--runs",
        out,
    ]
    python(sys.executable, "launch/evaluate.py", *judge, "--out", run / "eval")
    for suite in ("vqa", "grounding"):
        results = json.loads((run / "eval" / f"{suite}-test" / "results.json").read_text())
        assert results["n"] > 0
        assert all({"value", "ci95", "floor", "n"} == set(score) for score in results["scores"].values())
    picture = out / f"{name}.png"
    ask = ["--checkpoint", run, "--image", image, "--question", question, "--out", picture]
    done = subprocess.run(
        [sys.executable, "launch/predict.py", *map(str, ask)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr  # 3: eight steps do not teach it to answer
    if done.returncode == 0:
        assert Image.open(picture).width > 0


def records(corpus):
    return [row for chunk in Corpus(corpus).scan("records", list(COLUMNS["records"])) for row in chunk.to_pylist()]


def test_brats_end_to_end(tmp_path):
    folder = data("brats_mri_slices")
    corpus = tmp_path / "brats"
    build_brats(folder, corpus)
    recheck(corpus)
    rows = records(corpus)
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert {row["domain"] for row in rows} == {"whole tumor / MR / flair", "enhancing tumor / MR / t1c"}
    texts = " ".join(
        str(row[key]) for row in rows for key in row if key.startswith(("question", "rationale", "answer_"))
    ).lower()
    assert "brain" in texts
    assert not re.findall(r"\b(?:left|right)\b(?! of the image)", texts)  # the orientation is not known: no patient side
    image = folder / "images" / "brats_2013_pat0001_1_z056_flair.png"
    train_evaluate_predict(corpus, tmp_path / "runs", image, "What is the finding in this image?", "brats")


def test_bccd_end_to_end(tmp_path):
    folder = data("bccd_cells")
    corpus = tmp_path / "bccd"
    build_bccd(folder, corpus)
    recheck(corpus)
    assert [json.loads(line)["reason"] for line in (corpus / "rejects.jsonl").read_text().splitlines()].count(
        "box_zero_area"
    ) == 1
    assert {row["domain"] for row in records(corpus)} == {"red blood cell / SM", "white blood cell / SM", "platelet / SM"}
    image = folder / "images" / "BloodImage_00000.jpg"
    train_evaluate_predict(corpus, tmp_path / "runs", image, "Where is the white blood cell in this image?", "bccd")
