"""Validation in the loop: it changes nothing of the training, says the same at any number of ranks, and keeps the best checkpoint."""

import json

import pytest
import torch

from eval.decoding import Decoding
from eval.in_loop import Exam
from eval.model import open_checkpoint
from medclm.checkpoint import newest, verify
from medclm.config import load_recipe
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus
from medclm.engine import consolidated_state
from medclm.exports import exported
from tests.integration.test_training import flags, run, start
from tests.ranks import run_ranks
from train.main import main

STEPS = [
    "--train.steps=8",
    "--train.log_every=4",
    "--train.checkpoint_every=0",
    "--train.keep_checkpoints=1",
    "--train.lr=1e-3",
]
JUDGED = ["--validation.every=2", "--validation.samples=7"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)


@pytest.fixture(scope="module")
def judged(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged")
    run(2, flags(corpus, out, *STEPS, *JUDGED))
    return out / "demo"


def validations(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: {k: v for k, v in line.items() if "validation" in k} for line in lines if "validation/loss" in line}


def weights(folder, step):
    return consolidated_state(folder / "checkpoints" / f"step_{step:06d}" / "deepspeed", exclude_frozen=False)


def test_the_weights_are_those_of_a_run_without_validation(corpus, judged, tmp_path):
    run(2, flags(corpus, tmp_path, *STEPS))
    plain, other = weights(tmp_path / "demo", 8), weights(judged, 8)
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_one_rank_judges_as_two_do(corpus, judged, tmp_path):
    """7 records at two or three stages each are no multiple of 2 ranks x 3 samples: what fills up must not count."""
    run(1, flags(corpus, tmp_path, *STEPS, *JUDGED))
    alone, two = validations(tmp_path / "demo"), validations(judged)
    assert sorted(alone) == sorted(two) == [2, 4, 6, 8]
    assert set(two[2]) == {f"validation/loss{end}" for end in ("", "_easy", "_medium", "_hard")}
    for name, value in two[2].items():
        assert alone[2][name] == pytest.approx(value, rel=1e-5), name
    assert two[8]["validation/loss"] < two[2]["validation/loss"]


def test_the_best_checkpoint_is_kept_and_found(judged):
    found = {step: values["validation/loss_medium"] for step, values in validations(judged).items()}
    best = min(found, key=found.get)
    link = judged / "checkpoints" / "best"
    assert link.resolve().name == f"step_{best:06d}"
    assert verify(link) is None
    state = newest(judged / "checkpoints").run_state
    assert state["best"] == {"step": best, "score": "validation/loss_medium", "value": found[best]}
    assert exported(link).parent.resolve() == link.resolve()


def test_a_worse_checkpoint_does_not_push_out_the_best_one(corpus, tmp_path):
    """A learning rate that ruins the model after a good start: the best stays although one newer is all that is kept."""
    given = flags(corpus, tmp_path, "--train.steps=6", "--train.log_every=2", "--train.keep_checkpoints=1", *JUDGED)
    run(1, [*given, "--train.lr=3.0", "--train.min_lr=1.0", "--train.checkpoint_every=2", "--validation.best=validation/loss"])
    found = {step: values["validation/loss"] for step, values in validations(tmp_path / "demo").items()}
    best = min(found, key=found.get)
    assert best < 6, found
    kept = sorted(path.name for path in (tmp_path / "demo" / "checkpoints").glob("step_*"))
    assert kept == [f"step_{best:06d}", "step_000006"]


def examined(rank, arguments):
    from launch.train import make_exam

    return main(arguments, make_exam)


def test_questions_in_words_give_scores_and_change_nothing_either(corpus, judged, tmp_path):
    """The scores of the last step are those that an evaluation of its export gives for the same questions."""
    words = ["--validation.questions=6", "--validation.max_new_tokens=8", "--validation.best=validation/parsed_rate"]
    codes = run_ranks(2, examined, flags(corpus, tmp_path, *STEPS, *JUDGED, *words), timeout_s=400)
    assert codes == [0, 0], codes
    folder = tmp_path / "demo"
    plain, other = weights(judged, 8), weights(folder, 8)
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    found = validations(folder)
    assert set(found[8]) >= {"validation/answer_accuracy", "validation/parsed_rate", "validation/mean_iou", "validation/loss"}
    recipe, opened = load_recipe(config=folder / "recipe.yaml"), Corpus(corpus)
    exam = Exam(opened, split="val", questions=6, data=recipe.data, batch_size=2, max_new_tokens=8)
    model = open_checkpoint(folder, Decoding())
    for name, value in exam(model.network, model.processor).items():
        assert found[8][name] == pytest.approx(value, abs=1e-6), name


def test_a_split_or_score_that_is_not_there_is_named(corpus, tmp_path, capfd):
    assert not Corpus(corpus).record_files("test")
    codes = [
        flags(corpus, tmp_path / name, *STEPS, *JUDGED, flag)
        for name, flag in (("a", "--validation.split=test"), ("b", "--validation.best=accuracy"))
    ]
    assert [run_ranks(1, start, arguments, timeout_s=240) for arguments in codes] == [[2], [2]]
    said = capfd.readouterr().err
    assert "validation.split=test: the corpus has no record there" in said
    assert "validation.best=accuracy: no such score: choose one of validation/loss" in said
