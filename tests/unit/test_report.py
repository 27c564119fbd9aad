"""The build report: numbers that add up, a naive count beside each, states of review, limits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medclm.corpus.build import BuildOptions, build
from medclm.corpus.contract import Reject, RejectedImage, SourceAnnotation, SourceImage
from medclm.corpus.ids import phantom_ids
from medclm.corpus.report.flow import by_source, entries_in_and_out, images_in_and_out
from medclm.corpus.report.lesions import ClassCounts, ModelSquare, count_lesions
from medclm.corpus.report.page import write_report
from medclm.corpus.report.rejects import LEVELS, count_rejects, level_of, rejects_of
from medclm.corpus.report.summary import Balance, summarise
from medclm.corpus.report.tables import review_state, tables, warnings
from medclm.corpus.report.text import MOST, text_report
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.shards import Corpus
from medclm.data.testing import record_row, write_small_corpus
from medclm.types import Box

ROOT = Path(__file__).resolve().parents[2]


class Films:
    """One lesion a picture; picture 3 cannot be read, picture 5 has no annotation, the only lesion of picture 7 is refused."""

    name = "films"
    rejects = (Reject("files[9]", "file_unknown", "no picture"),)

    def __init__(self, count: int = 16, lesion_class: str = "mass") -> None:
        self.count, self.lesion_class = count, lesion_class

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> SourceImage:
        if index == 3:
            raise RejectedImage("image_unreadable", "not a picture: replace it")
        pixels = np.full((48, 64), 40, np.uint8)
        pixels[10:26, 4 + index : 20 + index] = 200
        lesion = SourceAnnotation("annotations[0]", self.lesion_class, self.lesion_class, Box(4 + index, 10, 20 + index, 26))
        refused = Reject(f"images[{index}].annotations[0]", "box_zero_area", "0 x 4 pixels")
        return SourceImage(
            index=f"images[{index}]",
            key=f"{index}.png",
            pixels=pixels,
            source=self.name,
            licence="CC BY 4.0",
            shareable=True,
            annotations=() if index in (5, 7) else (lesion,),
            rejects=(refused,) if index == 7 else (),
            modality="CT",
            plane="axial",
            patient_directions="L\\P" if index % 2 else None,
        )


def built(source: Any, out: Path) -> Corpus:
    build(source, TemplateWriter(), out, BuildOptions(ids=phantom_ids(0), images_per_part=8, progress=False))
    return Corpus(out)


def with_manifest(corpus: Corpus, **changes: object) -> Corpus:
    path = corpus.folder / "manifest.json"
    path.write_text(json.dumps({**corpus.manifest, **changes}))
    return Corpus(corpus.folder)


def small(tmp_path: Path, changes: dict[str, Any] | None = None, count: int = 12) -> Corpus:
    records = [record_row(i, images=count, no_finding_every=0, **(changes or {})) for i in range(count)]
    return Corpus(write_small_corpus(tmp_path / "small", count, records=records))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(PhantomSource(count=40, size=64), tmp_path_factory.mktemp("report") / "phantoms")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(Films(), tmp_path_factory.mktemp("report") / "films")


# --- in and out


def test_what_was_read_is_what_was_kept_and_every_named_reason(films: Corpus) -> None:
    flow = dict(images_in_and_out(summarise(films)).lines)
    read = flow.pop("read")
    assert read == 16 == sum(flow.values())
    assert flow["kept"] == films.count("images") == 13
    assert flow["image_unreadable"] == flow["image_without_records"] == 1
    assert [count for name, count in flow.items() if name.startswith("no record of it was left")] == [1]
    assert by_source(summarise(films)) == [("films", 16, 13, "CC BY 4.0")]
    assert "16 read = 13 + 1 + 1 + 1" in text_report(films)


def test_every_reject_is_counted_once_with_a_first_example(films: Corpus) -> None:
    found = count_rejects(films, ["template"])
    expected = Counter(reject["reason"] for reject in rejects_of(films))
    assert Counter({reason: one.count for (_, reason), one in found.reasons.items()}) == expected == films.manifest["rejects"]
    assert found.reasons["annotation", "box_zero_area"].index == "images[7].annotations[0]"
    assert set(found.at("other")) == {"file_unknown"}


def test_merged_builds_are_known_by_source_and_others_are_called_unknown(tmp_path: Path) -> None:
    corpus = small(tmp_path)
    unknown = images_in_and_out(summarise(corpus))
    assert unknown.lines[0] == ("kept", 12)
    assert "not known" in unknown.notes[0]
    builds = [{"source": "a", "images": 9}, {"source": "b", "images": 2}, {"source": "a", "images": 1}]
    merged = summarise(with_manifest(corpus, builder={"builds": builds}))
    assert merged.read == {"a": 10, "b": 2}
    assert images_in_and_out(merged).lines[0] == ("read", 12)
    imported = summarise(with_manifest(corpus, builder={"source": "x", "entries": 15, "importer": "published"}))
    assert dict(entries_in_and_out(imported).lines)["read"] == 15
    assert sum(count for name, count in entries_in_and_out(imported).lines if name != "read") == 15


@pytest.mark.parametrize(
    ("index", "reason", "level"),
    [
        ("images[3]", "image_unreadable", "image"),
        ("files[3]", "image_duplicate", "image"),
        ("images[3]", "no_stage_offered", "record"),
        ("images[3]", "review_wrong_side", "record"),
        ("images[3].drafts[1].what.easy", "check_wrong_side", "record"),
        ("images[3].drafts[1].what", "writer_refused_template_kept", "other"),
        ("images[3].annotations[0]", "box_zero_area", "annotation"),
        ("annotations[12]", "image_entry_missing", "annotation"),
        ("records[4]", "line_unreadable", "entry"),
        ("files[1].records[4]", "no_stage_offered", "entry"),
        ("records[4].medium", "stage_empty", "record"),
        ("files[1].records[4].bbox", "box_unreadable", "other"),
        ("images[3].organs[lung]", "organ_mask_size", "other"),
    ],
)
def test_a_reject_says_what_went_out(index: str, reason: str, level: str) -> None:
    assert level_of(index, reason) == level
    assert level in LEVELS


def test_the_rate_of_unsupported_claims_is_by_writer(tmp_path: Path) -> None:
    corpus = with_manifest(
        small(tmp_path, {"writer": "template"}), builder={"source": "a", "images": 12, "writer": "model: 7b"}
    )
    details = ["template: chronic", "model: 7b: new", "model: 7b: mild", "chronic"]
    lines = [
        {"index": f"images[{i}].drafts[0].what.easy", "reason": "check_unsupported_claim", "detail": detail}
        for i, detail in enumerate(details)
    ]
    lines.append({"index": "images[0].drafts[1].what.easy", "reason": "check_no_box", "detail": "template: none"})
    (corpus.folder / "rejects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = next(table for table in tables(summarise(corpus)) if table.title == "writers")
    assert table.rows == [("model: 7b", "0", "2", "2", "100.0%"), ("template", "12", "2", "1", "7.1%")]
    assert "1 refused records do not name their writer" in table.notes[1]


@pytest.mark.parametrize(("line", "fault"), [("{", "not JSON"), ("[1]", "needs index"), ('{"index": "a"}', "needs index")])
def test_a_damaged_reject_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    corpus = small(tmp_path)
    good = json.dumps({"index": "images[0]", "reason": "a", "detail": "b"})
    (corpus.folder / "rejects.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=rf"rejects\.jsonl:2: {fault}"):
        summarise(corpus)


# --- organs and sizes


def naive(corpus: Corpus) -> list[dict[str, Any]]:
    rows = [
        row
        for batch in corpus.scan("annotations", ["lesion_class", "box_role", "facts", "image_row"])
        for row in batch.to_pylist()
    ]
    return [{**row, **json.loads(row["facts"])} for row in rows if row["box_role"] == "lesion"]


def test_relations_and_margins_agree_with_a_naive_count(phantoms: Corpus) -> None:
    found, rows = count_lesions(phantoms, ModelSquare()), naive(phantoms)
    assert found.controls == phantoms.count("annotations") - len(rows) > 0
    assert set(found.classes) == {row["lesion_class"] for row in rows}
    for name, counts in found.classes.items():
        mine = [row for row in rows if row["lesion_class"] == name]
        assert counts.relations == Counter(row["relation"] for row in mine)
        margins = [row["organ_margin"] for row in mine if "organ_margin" in row]
        assert counts.margins.total() == len(margins) > 0
        for share in (0.1, 0.5, 1.0):
            assert counts.margin(share) == pytest.approx(np.quantile(margins, share, method="inverted_cdf"))
        assert counts.without_row == sum(row["organ_candidates"] == "any" for row in mine)
    assert found.all.lesions == len(rows)
    assert ClassCounts().margin(0.5) is None


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_sizes_are_in_pixels_of_the_models_square(tmp_path: Path, fit: Any) -> None:
    corpus = small(tmp_path)
    square = ModelSquare(side=112, patch=14, min_side=30, fit=fit)
    expected: Counter[str] = Counter()
    under = 0
    for batch in corpus.scan("annotations", ["image_row", "box_xyxy_unit"]):
        for row in batch.to_pylist():
            image = corpus.row("images", row["image_row"], ["width", "height"])
            longest = max(image.values())
            width, height = (112 * n / longest if fit == "pad" else 112 for n in (image["width"], image["height"]))
            x0, y0, x1, y1 = row["box_xyxy_unit"]
            short = min((x1 - x0) * width, (y1 - y0) * height)
            patches = short / 14
            expected["lt1" if patches < 1 else "1to2" if patches < 2 else "2to4" if patches <= 4 else "gt4"] += 1
            under += short < 30
    every = count_lesions(corpus, square).all
    assert (every.sizes, every.under_min) == (expected, under)
    assert len(expected) > 1
    assert every.sub_patch_share == expected["lt1"] / expected.total()


def test_a_square_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="model patch 0: give at least 1 pixel"):
        ModelSquare(patch=0)
    with pytest.raises(ValueError, match="min_side nan"):
        ModelSquare(min_side=float("nan"))


# --- balance, text


def test_one_answer_for_nearly_all_is_warned_of(tmp_path: Path) -> None:
    corpus = small(tmp_path, {"question_kind": "presence", "answer_hard": "No"})
    summary = summarise(corpus)
    assert summary.majority_share == 1.0
    assert any("100% of" in warning and "'no'" in warning for warning in warnings(summary))
    assert not any(
        "Hard answers" in warning for warning in warnings(summarise(small(tmp_path / "b", {"question_kind": "what"})))
    )


def test_long_answers_differ_although_their_beginnings_agree() -> None:
    balance = Balance()
    for answer in ("x" * 200 + "a", "X" * 200 + "a", "x" * 200 + "b"):
        balance.add(answer)
    assert sorted(balance.answers.values()) == [1, 2]
    assert balance.majority == ("x" * 80 + "…", 2)


def test_the_text_shows_ten_rows_and_says_how_many_more(tmp_path: Path) -> None:
    records = [record_row(i, images=40, no_finding_every=0, domain=f"class {i:02d} / CT") for i in range(40)]
    lines = text_report(Corpus(write_small_corpus(tmp_path / "many", 40, records=records))).splitlines()
    start = lines.index("records by domain")
    assert sum(line.startswith("  class ") for line in lines[start : start + 2 + MOST]) == MOST
    assert lines[start + 2 + MOST] == "  and 30 more"


def test_the_review_state_stands_in_both_reports(tmp_path: Path) -> None:
    corpus = small(tmp_path)
    assert "unreviewed" in text_report(corpus)
    entry = {"state": "reviewed", "n": 200, "readers": ["A", "B"], "kappa": 0.81, "wrong": 1, "unanswerable": 0}
    corpus = with_manifest(corpus, review={**entry, "upper": 0.0277, "accepted": False})
    said = review_state(corpus.manifest)
    assert said == "reviewed, not accepted: 200 samples, 1 wrong, 0 unanswerable, upper bound 2.77%, kappa 0.810; readers A, B"
    assert said in text_report(corpus)
    write_report(corpus, tmp_path / "page.html")
    assert said in (tmp_path / "page.html").read_text()
