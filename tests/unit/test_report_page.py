"""The report's page: every box that training draws, directions at the edges, texts escaped, equal bytes; and the command."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.report.page import write_report
from medclm.corpus.report.sheets import MOST_FIGURES, choose_sheets
from medclm.corpus.report.summary import summarise
from medclm.corpus.report.tables import warnings
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.shards import Corpus
from medclm.data.testing import record_row, write_small_corpus

ROOT = Path(__file__).resolve().parents[2]


def built(out: Path) -> Corpus:
    options = BuildOptions(ids=phantom_ids(0), images_per_part=8, progress=False)
    build(PhantomSource(count=40, size=64), TemplateWriter(), out, options)
    return Corpus(out)


def with_manifest(corpus: Corpus, **changes: object) -> Corpus:
    path = corpus.folder / "manifest.json"
    path.write_text(json.dumps({**corpus.manifest, **changes}))
    return Corpus(corpus.folder)


def small(tmp_path: Path, changes: dict[str, Any], count: int = 12) -> Corpus:
    records = [record_row(i, images=count, no_finding_every=0, **changes) for i in range(count)]
    return Corpus(write_small_corpus(tmp_path / "small", count, records=records))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(tmp_path_factory.mktemp("report") / "phantoms")


class Figures(HTMLParser):
    """Pictures of a page with what is laid over them, by the sheet they stand in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.tags: set[str] = set()
        self._title = self._stage = self._class = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.add(tag)
        self._title, self._class = tag, named.get("class") or ""
        if tag == "img":
            data = base64.b64decode((named["src"] or "").removeprefix("data:image/jpeg;base64,"))
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            self.found.append({"stage": self._stage, "plane": self._plane, "picture": picture, "attrs": named, "over": {}})

    def handle_data(self, data: str) -> None:
        if self._title == "h2" and self._class == "stage":
            self._stage = data.partition(":")[0].lower()
        elif self._title == "h3":
            self._plane = data.strip()
        elif self._title == "span" and self._class in ("left", "right", "top", "bottom"):
            self.found[-1]["over"][self._class] = data
        self._title = ""


def page_of(corpus: Corpus, tmp_path: Path) -> tuple[str, Figures]:
    write_report(corpus, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    return page, Figures(page)


def red_inside(picture: Image.Image) -> np.ndarray:
    """Columns with clearly red pixels."""
    rgb = np.asarray(picture, np.int32)
    return np.flatnonzero(((rgb[..., 0] - rgb[..., 1:].max(axis=2)) > 90).any(axis=0))


def test_every_box_that_the_rationale_names_is_drawn_in_easy_alone(tmp_path: Path) -> None:
    both = small(tmp_path / "both", {"rationale_easy": "<box:0> and <box:1> are bright."})
    one = small(tmp_path / "one", {})
    for corpus, expected in ((both, {"left", "right"}), (one, {"left"})):
        page, figures = page_of(corpus, tmp_path)
        assert {figure["stage"] for figure in figures.found} == {"easy", "medium", "hard"}
        easy = sum(figure["stage"] == "easy" for figure in figures.found)
        assert page.count("class='number'") == (2 * easy if len(expected) > 1 else 0)
        for figure in figures.found:
            columns = red_inside(figure["picture"]) / figure["picture"].width
            halves = ({"left"} if (columns < 0.5).any() else set()) | ({"right"} if (columns > 0.5).any() else set())
            assert halves == (expected if figure["stage"] == "easy" else set())


def test_patient_directions_stand_at_the_edges_where_they_are_known(phantoms: Corpus, tmp_path: Path) -> None:
    edges = {None: "", "L\\P": "RLAP", "R\\P": "LRAP", "L\\F": "RLHF", "R\\F": "LRHF"}
    expected: dict[str, set[str]] = {}
    for batch in phantoms.scan("images", ["plane", "patient_directions"]):
        for row in batch.to_pylist():
            expected.setdefault(row["plane"], set()).add(edges[row["patient_directions"]])
    assert {"", "RLAP"} <= set().union(*expected.values())
    _, figures = page_of(phantoms, tmp_path)
    for figure in figures.found:
        letters = "".join(figure["over"].get(side, "") for side in ("left", "right", "top", "bottom"))
        plane = "none" if figure["plane"] == "no anatomical plane" else figure["plane"]
        assert letters in expected[plane]
    assert {bool(figure["over"]) for figure in figures.found} == {True, False}


def test_there_is_a_sheet_for_every_stage_and_plane(phantoms: Corpus, tmp_path: Path) -> None:
    planes = [row["plane"] or "unknown" for batch in phantoms.scan("images", ["plane"]) for row in batch.to_pylist()]
    expected: Counter[tuple[str, str]] = Counter()
    for batch in phantoms.scan("records", ["question_easy", "question_medium", "question_hard", "image_row", "hard_image_row"]):
        for row in batch.to_pylist():
            for stage in ("easy", "medium", "hard"):
                if row[f"question_{stage}"] is not None:
                    expected[stage, planes[row["hard_image_row" if stage == "hard" else "image_row"]]] += 1
    sheets = choose_sheets(phantoms, 5)
    assert {(sheet.stage, sheet.plane): sheet.offered for sheet in sheets} == expected
    assert all(len(sheet.rows) == min(5, sheet.offered) == len(set(sheet.rows)) for sheet in sheets)
    assert sum(len(sheet.rows) for sheet in choose_sheets(phantoms, 1000)) <= MOST_FIGURES
    _, figures = page_of(phantoms, tmp_path)
    assert len({(figure["stage"], figure["plane"]) for figure in figures.found}) == len(expected)


def test_a_page_of_the_noisiest_pictures_stays_small(tmp_path: Path) -> None:
    corpus = Corpus(write_small_corpus(tmp_path / "noise", 40, sizes=((512, 512),), texture=200))
    page, figures = page_of(corpus, tmp_path)
    assert len(figures.found) >= 20
    assert len(page) / len(figures.found) * MOST_FIGURES < 5 << 20
    assert all(figure["attrs"]["loading"] == "lazy" for figure in figures.found)


def test_every_text_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script><b onclick=\"y\">"
    corpus = small(
        tmp_path, {"question_kind": evil, "domain": evil, "writer": evil, "answer_hard": evil, "question_medium": evil}
    )
    reject = {"index": evil, "reason": evil, "detail": evil}
    (corpus.folder / "rejects.jsonl").write_text(json.dumps(reject) + "\n")
    corpus = with_manifest(
        corpus, licence=evil, sources={evil: {"licences": [evil]}}, review={"state": "reviewed", "readers": [evil]}
    )
    page, figures = page_of(corpus, tmp_path)
    assert "<script" not in page
    assert 'onclick="' not in page
    assert page.count("&lt;script&gt;") > 8
    assert not figures.tags & {"script", "b onclick", "link", "iframe"}
    assert "http" not in page


def test_equal_corpora_give_equal_bytes(phantoms: Corpus, tmp_path: Path) -> None:
    again = built(tmp_path / "again")
    assert (again.folder / "report.html").read_bytes() == (phantoms.folder / "report.html").read_bytes()


def test_many_rows_and_warnings_are_folded(phantoms: Corpus, tmp_path: Path) -> None:
    page, _ = page_of(phantoms, tmp_path)
    assert len(warnings(summarise(phantoms))) > 5
    assert re.search(r"<details><summary>\d+ more warnings", page)
    assert re.search(r"<details><summary>\d+ more rows", page)


@pytest.fixture(scope="module")
def command() -> ModuleType:
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("launch_corpus_for_report", ROOT / "launch" / "corpus.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def test_a_reader_that_stops_early_is_no_fault(phantoms: Corpus) -> None:
    arguments = [sys.executable, str(ROOT / "launch" / "corpus.py"), "inspect", str(phantoms.folder), "--records", "500"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()  # what `head` does when it has enough
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, "")


def test_the_command_writes_the_page_for_the_given_model(
    command: ModuleType, phantoms: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, folder = tmp_path / "page.html", str(phantoms.folder)
    assert command.main(["inspect", folder, "--html", str(page), "--model-side", "64", "--patch", "8", "--min-side", "3"]) == 0
    said = capsys.readouterr().out
    assert f"page: {page}" in said
    for text in (said, page.read_text()):
        assert "square of 64 px, patches of 8 px" in text
        assert "data.min_side = 3 px" in text


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--html", "nowhere/page.html"], "its folder does not exist: give a file in an existing folder"),
        (["--html", "."], "is a folder"),
        (["--records", "-1"], "--records -1: give 0 or more"),
        (["--patch", "0"], "model patch 0: give at least 1 pixel"),
    ],
)
def test_a_wrong_flag_is_refused(
    command: ModuleType,
    phantoms: Corpus,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["inspect", str(phantoms.folder), *flags]) == 2
    assert fault in capsys.readouterr().err
