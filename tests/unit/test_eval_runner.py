"""Suites and runner on a small stored corpus: truth, floors, resuming, reports; and the tiny model end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.asking import Replies
from eval.decoding import Decoding
from eval.example import Example, Prediction, Reply, Square, Terms
from eval.pool import Pool, _offered, corpus_pool, drawn
from eval.respondent import read_reply
from eval.runner import Benchmark, Plan, evaluate_checkpoint, evaluate_predictions
from eval.suite import ANSWER, summarise
from eval.suites.grounding import GroundingSuite
from eval.suites.vqa import VqaSuite
from eval.summary import paired, print_layouts
from eval.trying.overlay import MODEL, TRUTH, overlay
from eval.trying.predict import predict
from medclm.config import BoxTextSection
from medclm.data.frame import ImageFrame
from medclm.data.shards import Corpus
from medclm.data.testing import box_unit, record_row, write_small_corpus
from medclm.types import Box
from tests.evaluations import phantom_pool

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


def test_questions_are_grouped_by_where_their_lesions_lie(tmp_path):
    asked = phantom_pool(tmp_path, count=150, size=64).asked
    corpus = Corpus(tmp_path)
    records = {
        row["record_id"]: row
        for batch in corpus.scan("records", ["record_id", "annotation_rows"], "test")
        for row in batch.to_pylist()
    }
    seen = set()
    for example in asked:
        rows = corpus.rows("annotations", records[example.id]["annotation_rows"], ["box_role", "facts"])
        facts = [json.loads(row["facts"]) for row in rows if row["box_role"] == "lesion"]
        for name, fact in (("organ", "organ"), ("side", "side"), ("part of the image", "image_position")):
            words = {one[fact] for one in facts if one.get(fact)}
            expected = "several" if len(words) > 1 else next(iter(words), None)
            assert example.groups.get(name) == expected
            seen.add((name, expected))
    assert {("side", "left"), ("side", "right"), ("side", None), ("part of the image", "several")} <= seen


def test_a_suite_that_has_nothing_here_is_told_before_the_model_is_opened(folder, tmp_path):
    with pytest.raises(ValueError, match=r"--suites choice: .* has nothing for it \(.*\): choose another suite"):
        evaluate_checkpoint(tmp_path / "no such model", folder, tmp_path / "out", Plan(suites=("vqa", "choice")), Decoding())


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


def test_settings_under_which_nothing_was_said_bind_nobody(tmp_path):
    Replies(tmp_path, {"instruction": "direct"})
    (tmp_path / "rank0.jsonl").touch()  # as a refused evaluation leaves it
    Replies(tmp_path, {"instruction": "reason"})
    (tmp_path / "rank0.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="other instruction"):
        Replies(tmp_path, {"instruction": "direct"})


def test_stored_predictions_replace_others_of_their_kind_and_no_replies_of_a_model(export, folder, tmp_path):
    name = Plan(suites=("vqa",), limit=2)
    run(export, folder, tmp_path / "model", limit=2)
    ids = [json.loads(line)["id"] for line in (tmp_path / "model" / "vqa-test" / "predictions.jsonl").read_text().splitlines()]
    for answer in ("a", "b"):
        (tmp_path / f"{answer}.jsonl").write_text("".join(json.dumps({"id": one, "answer": answer}) + "\n" for one in ids))
        evaluate_predictions(tmp_path / f"{answer}.jsonl", folder, tmp_path / "theirs", name)
    with pytest.raises(ValueError, match=r"holds replies under other .*--overwrite"):
        evaluate_predictions(tmp_path / "a.jsonl", folder, tmp_path / "model", name)
    every = [example.id for example in corpus_pool(Corpus(folder), "test").asked]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({"id": one, "answer": "a"}) + "\n" for one in every))
    assert evaluate_predictions(tmp_path / "all.jsonl", folder, tmp_path / "theirs", name)["vqa"]["n"] == 2


def test_a_folder_of_pictures_without_those_of_the_questions_is_refused(tmp_path):
    (tmp_path / "questions.json").write_text('[{"image": "a.png", "question": "What?", "answer": "cyst"}]')
    with pytest.raises(ValueError, match=r"--images .*gone: there is no such folder"):
        Benchmark(images=tmp_path / "gone").open(tmp_path / "questions.json", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--images .*empty: holds no picture of the questions, such as a\.png"):
        Benchmark(images=tmp_path / "empty").open(tmp_path / "questions.json", "test")


def test_what_could_not_be_written_is_told_before_a_model_is_opened():
    for flag, changes in (("--max-new-tokens 0", {"max_new_tokens": 0}), ("--batch-size 0", {"batch_size": 0})):
        with pytest.raises(ValueError, match=f"{flag}: give at least 1"):
            Decoding(**changes)


def test_an_output_that_cannot_be_is_told_in_one_line(tmp_path):
    taken = tmp_path / "taken"
    taken.touch()
    evaluate = command("launch/evaluate.py", "--predictions", "p.jsonl", "--data", ".", "--out", str(taken))
    assert (evaluate.returncode, evaluate.stderr) == (2, f"evaluate: --out {taken}: is a file: give a folder\n")
    compare = command("launch/compare.py", "--paired", "a", "b", "--out", str(tmp_path))
    assert (compare.returncode, compare.stderr) == (2, f"compare: --out {tmp_path}: is a folder: name an HTML file\n")


def test_a_disk_that_does_not_take_the_answer_is_no_crash(export, tmp_path):
    Image.new("L", (48, 40), 90).save(tmp_path / "scan.png")
    (tmp_path / "overlay.png").mkdir()
    asked = command(
        *("launch/predict.py", "--checkpoint", str(export), "--image", str(tmp_path / "scan.png")),
        *("--question", "What is it?", "--out", str(tmp_path / "overlay.png"), "--max-new-tokens", "4"),
    )
    assert asked.returncode == 1
    assert "Traceback" not in asked.stderr
    assert "predict: [Errno 21] Is a directory" in asked.stderr


def test_a_table_of_layouts_cuts_no_address_off(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_layouts()
    assert "…" not in capsys.readouterr().out


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
    with pytest.raises(ValueError, match=r"--metric mean_iou: no example of .*a has it; single examples have right"):
        paired(tmp_path / "a", tmp_path / "b", "mean_iou")
    (tmp_path / "b" / "predictions.jsonl").write_text(json.dumps({"id": "x", "patient": "x", "scores": {"right": 1.0}}) + "\n")
    with pytest.raises(ValueError, match="share no example"):
        paired(tmp_path / "a", tmp_path / "b", "right")


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
