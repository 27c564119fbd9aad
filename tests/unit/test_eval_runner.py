"""Suites and runner on a small stored corpus: truth, floors, resuming, reports; and the tiny model end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.decoding import Decoding
from eval.example import Example, Prediction, Reply, Square, Terms
from eval.pool import Pool, _offered, corpus_pool, drawn
from eval.respondent import read_reply
from eval.runner import Plan, evaluate_checkpoint
from eval.suite import ANSWER, summarise
from eval.suites.grounding import GroundingSuite
from eval.suites.vqa import VqaSuite
from eval.summary import paired
from eval.trying.overlay import MODEL, TRUTH, overlay
from eval.trying.predict import predict
from medclm.config import BoxTextSection
from medclm.data.frame import ImageFrame
from medclm.data.shards import Corpus
from medclm.data.testing import box_unit, record_row, write_small_corpus
from medclm.types import Box

ROOT = Path(__file__).resolve().parents[2]
IMAGES, TERMS = 30, Terms("reason", Square(side=32, patch_size=8, fit="pad"))
KINDS = {
    0: {"question_kind": "what"},
    1: {
        "question_kind": "presence",
        "question_medium": "Is there a nodule?",
        "answer_medium": "Yes",
        "answer_type_medium": "closed",
    },
    2: {"question_kind": "where", "question_medium": "Where is it?", "answer_medium": "left upper"},
    3: {"question_kind": "what", "question_medium": "What is the largest lesion?", "rationale_medium": "It is at <box:0>."},
    4: {},  # no finding
    5: {"question_kind": "describe", "answer_medium": "One bright mass is seen.", "rationale_medium": "There are many."},
}


def records() -> list[dict]:
    splits = ["train"] * 18 + ["test"] * 12
    made = [record_row(i, images=IMAGES, split=splits[i], no_finding_every=0, **KINDS[i % 6]) for i in range(IMAGES)]
    for row in made:
        row["answer_type_medium"] = row["answer_type_medium"] or "open"
        if row["image_row"] % 6 == 3:
            row["annotation_rows"] = [2 * row["image_row"]]
        if row["image_row"] % 6 == 4:
            row |= {"annotation_rows": [], "rationale_medium": "Nothing is seen.", "answer_medium": "no finding"}
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("corpus"), IMAGES, records=records())


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return corpus_pool(Corpus(folder), "test")


def said(answer: str | None, boxes: tuple[Box, ...] = (), in_rationale: int = 0) -> dict[str, Prediction]:
    return {ANSWER: Prediction(answer=answer, boxes_unit=boxes, boxes_in_rationale=in_rationale)}


def perfect(example: Example) -> dict[str, Prediction]:
    return said(example.answers[0], example.boxes_unit, len(example.boxes_unit))


def test_truth_is_every_box_of_the_asked_class_or_the_named_one(pool):
    by_id = {example.id: example for example in pool.asked}
    assert len(by_id["r00018"].boxes_unit) == 2
    assert by_id["r00021"].boxes_unit[0] == pytest.approx(box_unit(21, 0))
    assert len(by_id["r00021"].boxes_unit) == 1  # "the largest"
    assert by_id["r00022"].boxes_unit == ()
    assert len(pool.asked) == 12


def test_imported_records_count_every_box_of_their_class(tmp_path):
    changes = {"writer": "published", "annotation_rows": [0], "split": "test"}
    write_small_corpus(tmp_path, 2, records=[record_row(0, images=2, **changes)])
    [example] = corpus_pool(Corpus(tmp_path), "test").asked
    assert len(example.boxes_unit) == 2


def test_perfect_predictions_score_one(pool):
    suite = VqaSuite(pool, TERMS)
    scores = summarise(suite, suite.judge(suite.examples, [perfect(one) for one in suite.examples]), seed=0)
    assert {name for name, score in scores.items() if score.value not in (1.0, None)} == {"unparsed"}
    assert scores["answer_accuracy"].n == 6
    assert scores["answer_accuracy_which_organ"].value is None
    suite = GroundingSuite(pool, TERMS)
    scores = summarise(suite, suite.judge(suite.examples, [perfect(one) for one in suite.examples]), seed=0)
    assert scores["mean_iou"].value == scores["answer_and_box"].value == scores["reason_format_rate"].value == 1.0
    assert scores["false_positive_rate"].value == scores["right_for_wrong_reason"].value == 0.0
    assert suite.left_out == {"more lesions than a text lists": 2}
    assert 0 < scores["mean_iou"].floor < 0.5
    assert scores["reason_format_rate"].floor is None


def test_floor_is_the_score_of_the_guess(pool):
    suite = VqaSuite(pool, TERMS)
    scores = summarise(suite, suite.judge(suite.examples, [suite.guess(one) for one in suite.examples]), seed=0)
    for name, score in scores.items():
        assert score.floor is None or score.value == score.floor, name
    assert scores["closed_accuracy"].floor == 1.0  # training only ever says yes
    assert scores["closed_above_floor"].value is None


def test_training_records_are_read_where_they_are_drawn(folder):
    records = list(_offered(Corpus(folder), "train", range(18)))
    assert [one["record_id"] for one in _offered(Corpus(folder), "train", [2, 3, 17])] == [
        records[at]["record_id"] for at in (2, 3, 17)
    ]
    assert drawn(5) == range(5)
    some = drawn(100, 10)
    assert some == sorted(set(some))
    assert (len(some), len({at % 10 for at in some}) > 3) == (10, True)  # a stride would have one remainder


def test_wrong_reasons_are_found(pool):
    suite = GroundingSuite(pool, TERMS)
    example = next(one for one in suite.examples if one.id == "r00018")
    [values] = suite.judge([example], [said("a mass", (Box(0.9, 0.9, 1, 1),), 1)])
    assert (values["answer_and_box"], values["right_for_wrong_reason"], values["reason_format_rate"]) == (0.0, 1.0, 1.0)
    [silent] = suite.judge([example], [said(None)])
    assert (silent["mean_iou"], silent["answer_and_box"], silent["reason_format_rate"]) == (0.0, 0.0, 0.0)
    empty = next(one for one in suite.examples if not one.boxes_unit)
    assert suite.judge([empty], [said("x", (Box(0, 0, 1, 1),), 1)]) == [{"false_positive_rate": 1.0, "boxes_on_empty": 1.0}]


def test_a_box_written_twice_is_one_box():
    frame, section = ImageFrame(64, 64, side=32, fit="pad"), BoxTextSection()
    box = frame.write(Box(0.1, 0.2, 0.5, 0.6), section)
    text = f"Reasoning: at {box}, so {box}.\n\nAnswer: mass"
    prediction = read_reply(Reply(text, box_scores=(-2.0, -1.0)), frame, section)
    assert (len(prediction.boxes_unit), prediction.boxes_in_rationale, prediction.answer) == (1, 2, "mass")
    assert prediction.box_scores == (-1.0,)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medclm.testing import tiny_export

    return tiny_export(tmp_path_factory.mktemp("export"))


def run(export: Path, folder: Path, out: Path, **changes):
    decoding = Decoding(max_new_tokens=changes.pop("max_new_tokens", 12), batch_size=1)
    return evaluate_checkpoint(export, folder, out, Plan(suites=("vqa", "grounding"), **changes), decoding)


def test_results_have_the_stable_form(export, folder, tmp_path):
    results = run(export, folder, tmp_path)
    for suite, number in (("vqa", 12), ("grounding", 10)):
        place = tmp_path / f"{suite}-test"
        stored = json.loads((place / "results.json").read_text())
        assert stored == results[suite]
        assert set(stored) == {
            "suite",
            "benchmark",
            "n",
            "headline",
            "scores",
            "breakdown",
            "left_out",
            "not_run",
            "checkpoint",
            "versions",
        }
        assert stored["n"] == number
        assert all(set(score) == {"value", "ci95", "floor", "n"} for score in stored["scores"].values())
        lines = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
        expected = ["id", "patient", "question_kind", "answer_type", "question", "domain", "groups", "truth", "text", "parsed"]
        expected += ["chosen", "picture", "scores", "outcome", "grade"]
        assert all(list(line) == expected for line in lines)
        assert len(lines) == number
        assert {path.name for path in (place / "pictures").iterdir()} == {line["picture"] for line in lines}
        assert "Research use only" in (place / "report.html").read_text()


def test_a_killed_evaluation_goes_on(export, folder, tmp_path, monkeypatch):
    whole = run(export, folder, tmp_path / "whole")
    run(export, folder, tmp_path / "killed")
    kept = tmp_path / "killed" / "replies-test" / "rank0.jsonl"  # as a kill leaves it: some lines, the last one torn
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:7]) + lines[7][:20])
    import medclm.generation

    asked, generate = [], medclm.generation.generate

    def counting(network, processor, requests, **settings):
        asked.extend(request.id for request in requests)
        return generate(network, processor, requests, **settings)

    monkeypatch.setattr(medclm.generation, "generate", counting)
    assert run(export, folder, tmp_path / "killed") == whole
    assert len(asked) == len(set(asked)) == 5
    for suite in whole:
        paths = [tmp_path / name / f"{suite}-test" / "predictions.jsonl" for name in ("whole", "killed")]
        assert paths[0].read_text() == paths[1].read_text()


def test_other_settings_are_not_mixed(export, folder, tmp_path):
    run(export, folder, tmp_path, limit=2)
    with pytest.raises(ValueError, match=r"other instruction, max_new_tokens: .*--overwrite"):
        run(export, folder, tmp_path, limit=2, max_new_tokens=3, instruction="direct")
    assert run(export, folder, tmp_path, limit=2, max_new_tokens=3, overwrite=True)["vqa"]["n"] == 2


def test_blank_pictures_are_kept_apart(export, folder, tmp_path):
    run(export, folder, tmp_path, limit=2, blank=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grounding-test-blank", "replies-test-blank", "vqa-test-blank"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"split": "val"}, "no records"), ({"limit": 0}, "--limit 0"), ({"instruction": "think"}, "'think'")],
)
def test_wrong_requests_leave_nothing(export, folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(export, folder, tmp_path / "out", **changes)
    with pytest.raises(ValueError, match="choose from vqa, grounding, report"):
        evaluate_checkpoint(export, folder, tmp_path / "out", Plan(suites=("vqua",)), Decoding())
    assert not (tmp_path / "out").exists()


def test_overlay_shows_both_boxes_large():
    page = overlay(
        Image.new("L", (64, 48)),
        truth_unit=[Box(0.1, 0.1, 0.4, 0.5)],
        predicted_unit=[Box(0.5, 0.5, 0.9, 0.9)],
        caption=["Why? " * 40],
    )
    pixels = np.asarray(page).reshape(-1, 3)
    for colour in (TRUTH, MODEL):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).sum() > 200
    assert page.width >= 336
    assert page.height > 336 + 60


def test_two_evaluations_are_compared_by_example(tmp_path):
    for name, value in (("a", 1.0), ("b", 0.0)):
        (tmp_path / name).mkdir()
        lines = [{"id": str(i), "patient": f"p{i}", "scores": {"right": value}} for i in range(8)]
        (tmp_path / name / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = paired(tmp_path / "a", tmp_path / "b", "right")
    assert (result.difference, result.p_value) == (1.0, 2 / 2**8)
    with pytest.raises(ValueError, match="share no example"):
        paired(tmp_path / "a", tmp_path / "b", "mean_iou")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_predict_prints_and_draws(export, tmp_path, capsys):
    Image.new("L", (80, 40), 90).save(tmp_path / "scan.png")
    code = predict(
        export, tmp_path / "scan.png", "What is it?", out=tmp_path / "seen.png", instruction="reason", max_new_tokens=4
    )
    printed = capsys.readouterr().out
    assert code == (3 if "Answer: (no answer)" in printed else 0)
    assert "Reasoning:" in printed
    assert "not a medical device" in printed
    assert Image.open(tmp_path / "seen.png").width >= 336


def test_a_wrong_file_is_told_at_once(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    words = ["launch/predict.py", "--checkpoint", str(tmp_path), "--question", "What is it?"]
    for image in (tmp_path / "notes.txt", tmp_path / "missing.png"):
        done = command(*words, "--image", str(image))
        assert done.returncode == 2
        assert done.stderr.startswith(f"predict: --image {image}: image_")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["evaluate", "predict", "compare"])
def test_help_is_fast_and_teaches(name):
    done = command(f"launch/{name}.py", "--help")
    assert done.returncode == 0
    assert f"python launch/{name}.py" in done.stdout
