"""The proof of privacy: forty planted identifiers, none found in what building, training, evaluating and predicting leave behind.

Everything runs by command, as users run it; what the commands print is searched with the folders they write. That the search can
fail is shown on the export itself, which bears all forty, and on leaks made on purpose.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pydicom import dcmread

from medclm.corpus.audit import Finding, audit
from medclm.corpus.review.sample import choose
from medclm.corpus.review.server import ReviewServer
from medclm.corpus.review.session import ReviewSession
from medclm.data.shards import Corpus
from medclm.testing import TINY_FLAGS
from tests.planted import BURNED_IN, LESION, OTHER, OVERLAY_BIT, PLANTED, SIDE, TEXT_ROWS, Export, plant

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
TINY = [
    *TINY_FLAGS,
    *("--train.global_batch_size=12", "--train.micro_batch_size=3"),
    *("--data.min_side=0", "--train.steps=2"),
]
IDENTIFIERS = list(PLANTED.values())
AT_ONCE = 8
"""Identifiers looked for together where many are found: of each file only the first twenty findings are listed."""


@dataclass(frozen=True)
class Proof:
    """The export that everything was made of, and the folder with everything that was made."""

    export: Export
    out: Path


class Commands:
    """Runs the project's commands beside the folder `out` of all outputs, and keeps what they print in files."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        logs.mkdir(parents=True)

    def __call__(self, name: str, script: str, *arguments: object) -> None:
        command = [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        environment.pop("MEDCLM_ID_KEY", None)
        done = subprocess.run(
            command, cwd=self._logs.parents[1], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        (self._logs / f"{name}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        silent = script == "predict.py" and done.returncode == 3  # hardly trained, it may name no answer
        assert done.returncode == 0 or silent, f"{name}: {done.stdout}{done.stderr}"

    def together(self, calls: Iterable[tuple[Any, ...]]) -> None:
        with ThreadPoolExecutor(2) as pool:
            for ended in [pool.submit(self, *call) for call in calls]:
                ended.result()


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    root = tmp_path_factory.mktemp("proof")
    export, made = plant(root / "zealous-archive"), root / "out"
    run = Commands(made / "logs")
    out = Path("out")  # sources are named absolute and outputs relative, so that no path in an output is the user's own word
    run.together(builds(export.root, out, root / "keys" / "id.key"))
    corpus, trained = out / "all", out / "runs" / "demo"
    run("merge", "corpus.py", "merge", *(out / name for name in ("ct", "films", "nih", "masked")), "--out", corpus)
    zero3 = ROOT / "ds_configs" / "zero3.json"
    exporting = ("export", "corpus.py", "export", corpus, "--format", "llava", "--out", out / "llava")
    training = (
        *("train", "train.py", "--deepspeed", zero3, f"--data.corpus={corpus}", f"--run.output_dir={out / 'runs'}", *TINY),
    )
    inspecting = ("inspect", "corpus.py", "inspect", corpus, "--records", 30, "--verify", "--html", out / "inspect.html")
    run.together([training, exporting, inspecting])
    film = next((export.root / "films" / "images").glob("*-01.jpg"))
    asked = ("--checkpoint", trained, "--image", film, "--question", "What is the finding?", "--out", out / "overlay.png")
    judged = ("--checkpoint", trained, "--data", corpus, "--out", trained / "eval", "--runs", out / "runs")
    judging = ("evaluate", "evaluate.py", *judged, "--suites", "vqa,grounding", "--limit", 4, "--max-new-tokens", 16)
    run.together([judging, ("predict", "predict.py", *asked, "--max-new-tokens", 16)])
    save_pages(Corpus(made / "all"), made / "review")
    return Proof(export, made)


def builds(source: Path, out: Path, key: Path) -> Iterator[tuple[object, ...]]:
    """One corpus of each kind of carrier; all but one are parts that are merged afterwards."""
    films, nih, captures = source / "films", source / "nih", source / "captures"
    common = ("--id-key", key, "--workers", 1)
    key.parent.mkdir()
    key.write_text("5eed" * 16)
    key.chmod(0o600)
    boxes = ("--source", "coco", "--annotations")
    told = ("--patient-field", "patient", "--split-field", "set", "--reports", films / "reports.csv", "--reports-deidentified")
    seen = ("--modality", "DX", "--plane", "frontal", "--orientation", "L\\F", "--exhaustive", "nodule,mass")
    lesions = ("--lesions", "liver tumor", "--exhaustive", "liver tumor")
    parts = {
        "ct": ("--source", "dicom", "--image-root", source / "ct", *lesions),
        "films": (*boxes, films / "boxes.json", "--image-root", films / "images", *told, *seen),
        "nih": (
            *("--source", "nih", "--annotations", nih / "boxes.csv", "--image-root", nih / "images"),
            *("--image-labels", nih / "entries.csv"),
        ),
        "masked": (*boxes, captures / "boxes.json", "--image-root", captures / "images", "--burned-in", "mask"),
    }
    for name, arguments in parts.items():
        yield name, "corpus.py", "build", "--task", "0/1", *arguments, "--name", name, "--out", out / name, *common
    refused = (*boxes, captures / "boxes.json", "--image-root", captures / "images", "--name", "captures")
    yield "captures", "corpus.py", "build", *refused, "--out", out / "captures", *common


def save_pages(corpus: Corpus, folder: Path) -> None:
    """What a browser would get of the review: every sample's page and its pictures."""
    folder.mkdir()
    with ReviewServer(ReviewSession(corpus, choose(corpus, 12), "A", folder / "verdicts.jsonl"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        base = urllib.parse.urlsplit(server.url)
        pages = [f"sample/{number}" for number in range(1, 13)]
        pages += [f"picture/{number}/{kind}.png" for number in range(1, 13) for kind in ("plain", "drawn")]
        for page in ("", *pages):
            connection = http.client.HTTPConnection("127.0.0.1", base.port, timeout=20)
            connection.request("GET", f"{base.path}{page}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200 or (page == "" and answer.status in (302, 303)), (page, answer.status, body[:200])
            lines = "".join(f"{name}: {value}\n" for name, value in answer.getheaders() if name != "Date")
            suffix = "" if page.endswith(".png") else ".html"
            (folder / f"{page.replace('/', '-') or 'start'}{suffix}").write_bytes(body)
            own = lines.replace(base.path, "/")  # the address of a redirection holds the session's key
            (folder / f"{page.replace('/', '-') or 'start'}.headers").write_text(own)
            connection.close()
        server.shutdown()
        thread.join()


def found_in(folders: Sequence[Path], listed: Sequence[str]) -> set[str]:
    """Which of the listed identifiers an audit finds."""
    found: set[str] = set()
    for first in range(0, len(listed), AT_ONCE):
        some = listed[first : first + AT_ONCE]
        found |= {some[one.identifier - 1] for one in audit(folders, some) if one.identifier is not None}
    return found


def named(findings: Sequence[Finding]) -> list[Finding]:
    return [one for one in findings if one.identifier is not None]


def stored_pictures(corpus: Path, source: str) -> list[np.ndarray]:
    """Pixels of the stored images of one source, decoded from the Arrow files themselves."""
    pictures = []
    for shard in sorted(corpus.glob("images-*.arrow")):
        with pa.memory_map(str(shard)) as mapped, pa.ipc.open_stream(mapped) as stream:
            for row in stream.read_all().select(["image", "source"]).to_pylist():
                if row["source"] == source:
                    pictures.append(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")))
    return pictures


def shows_text(pixels: np.ndarray) -> bool:
    """Whether letters stand in the rows where the export has burned them in: nothing else there is this bright."""
    return bool((pixels[:TEXT_ROWS] >= 200).sum() > 50)


def test_forty_identifiers_lie_in_the_export_and_an_audit_of_it_finds_all_that_bytes_can_say(proof: Proof) -> None:
    assert len(PLANTED) == len(set(IDENTIFIERS)) == 40
    readable = set(IDENTIFIERS) - set(BURNED_IN.values())
    assert found_in([proof.export.root], IDENTIFIERS) == readable
    assert [shows_text(dcmread(path).pixel_array) for path in proof.export.films] == [True, True, True, True, False]


def test_none_of_the_forty_is_found_in_anything_that_was_made(proof: Proof) -> None:
    for made in (
        *("all/manifest.json", "all/report.html", "captures/rejects.jsonl", "runs/mlflow.db", "runs/demo/metrics.jsonl"),
        *("runs/demo/tracking.json", "runs/demo/export/config.json", "runs/demo/eval/vqa-test/predictions.jsonl"),
        *("runs/demo/eval/grounding-test/report.html", "overlay.png", "llava/train.json", "inspect.html"),
        *("review/sample-1.html", "review/picture-1-drawn.png", "logs/inspect.txt"),
        *(f"logs/{name}.txt" for name in ("ct", "films", "nih", "masked", "captures", "merge", "train", "evaluate", "predict")),
    ):
        assert (proof.out / made).stat().st_size > 0, made
    assert {source: len(stored_pictures(proof.out / "all", source)) for source in ("ct", "films", "nih", "masked")} == {
        "ct": 3,
        "films": 12,
        "nih": 1,
        "masked": 5,
    }
    findings = audit([proof.out], IDENTIFIERS)
    assert named(findings) == []
    # MLflow makes the folder of its artifacts absolute by itself; it is where the outputs lie, and nothing of the source
    assert {(one.kind, one.file) for one in findings} <= {("path", "runs/mlflow.db")}


def test_no_output_names_a_source_file_or_folder(proof: Proof) -> None:
    assert named(audit([proof.out], proof.export.sources)) == []
    rejects = [json.loads(line) for line in (proof.out / "all" / "rejects.jsonl").read_text().splitlines()]
    found = {(one["index"].partition("[")[0], one["reason"]) for one in rejects}
    assert {("images", "image_missing"), ("images", "image_unreadable")} <= found


def test_pixels_with_burned_in_text_are_rejected_or_blackened(proof: Proof) -> None:
    rejects = [json.loads(line) for line in (proof.out / "captures" / "rejects.jsonl").read_text().splitlines()]
    assert [(one["index"], one["reason"]) for one in rejects] == [(f"images[{number}]", "burned_in") for number in range(4)]
    (plain,) = stored_pictures(proof.out / "captures", "captures")
    assert not shows_text(plain)
    masked = stored_pictures(proof.out / "all", "masked")
    x, y, width, height = LESION
    black = [not pixels[:TEXT_ROWS].any() for pixels in masked]
    assert sorted(black) == [False, True, True, True, True]
    assert not any(map(shows_text, masked))
    assert all(pixels[y : y + height, x : x + width].mean() > 150 for pixels in masked)


def test_an_overlay_in_the_unused_bits_of_pixels_is_not_shown(proof: Proof) -> None:
    slices = [dcmread(path).PixelData for path in sorted((proof.export.root / "ct").rglob("*_[0-9].dcm"))]
    bits = [np.frombuffer(one, np.uint16).reshape(SIDE, SIDE) >> OVERLAY_BIT for one in slices]
    assert [bool(one[:TEXT_ROWS].sum() > 50) for one in bits] == [True] * 4
    assert not any(map(shows_text, stored_pictures(proof.out / "all", "ct")))


def test_a_report_keeps_what_it_says_of_the_picture_and_marks_what_was_withheld(proof: Proof) -> None:
    findings = {row["findings"] for row in studies(proof.out / "all")}
    assert findings == {
        "There is a nodule in the left lung. XXXX",
        "XXXX The heart is not enlarged.",
        "No effusion is seen. XXXX",
        "Nodule as described. XXXX",
    }


def studies(corpus: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shard in sorted(corpus.glob("studies-*.arrow")):
        with pa.memory_map(str(shard)) as mapped, pa.ipc.open_stream(mapped) as stream:
            rows += stream.read_all().to_pylist()
    return rows


def test_one_leak_into_an_output_is_found_where_it_is(proof: Proof, tmp_path: Path) -> None:
    leaking = tmp_path / "captures"
    shutil.copytree(proof.out / "captures", leaking)
    with (leaking / "rejects.jsonl").open("a") as stream:
        line = {"index": "images[9]", "reason": "image_missing", "detail": OTHER["EXIF Artist"]}
        stream.write(json.dumps(line) + "\n")
    (one,) = named(audit([leaking], IDENTIFIERS))
    assert (one.file, one.place, IDENTIFIERS[(one.identifier or 0) - 1]) == ("rejects.jsonl", "line 5", OTHER["EXIF Artist"])
    film = next((proof.export.root / "films" / "images").glob("*-01.jpg"))
    shutil.copy(film, leaking / "thumbnail.jpg")
    carried = {OTHER[name] for name in ("EXIF Artist", "EXIF UserComment", "EXIF GPS", "JPEG comment")}
    assert found_in([leaking], IDENTIFIERS) == carried
    with (leaking / "report.html").open("a") as stream:
        stream.write(f"<!-- {film} -->")
    assert {one.file for one in named(audit([leaking], [str(proof.export.root)]))} == {"report.html"}
    shown = Image.fromarray(dcmread(proof.export.films[0]).pixel_array)
    assert shows_text(np.asarray(shown))
