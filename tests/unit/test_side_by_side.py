"""Two evaluations on one page: which questions are paired, what the tests say, which cases are shown, what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.pages.case_pictures import save_pictures
from eval.pages.cases import choose, line_of
from eval.pages.side_by_side import (
    ALIKE,
    BOTH,
    FIRST,
    NEITHER,
    ONLY_FIRST,
    ONLY_SECOND,
    SECOND,
    UNJUDGED,
    VERDICTS,
    Evaluation,
    Pair,
    chosen,
    pair_up,
    paired_scores,
    write_side_by_side,
)
from medclm.metrics.intervals import paired_test
from tests.evaluations import case
from tests.unit.test_evaluation_page import EVIL, Page

SCORE = {"value": 0.5, "ci95": None, "floor": None, "n": 9}


def kept(folder: Path, cases, *, pictures: bool = False, suite: str = "vqa", **settings) -> Path:
    """An evaluation folder of these cases."""
    folder.mkdir()
    cases = choose(cases, seed=0)
    if pictures:
        cases = save_pictures(cases, folder, lambda case_id: Image.new("L", (30, 20), int(case_id.rpartition("-")[2]) % 250))
    results = {
        "suite": suite,
        "headline": ["right"],
        "checkpoint": f"runs/{folder.name}",
        "scores": {"right": SCORE, "f1": SCORE},
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line_of(one)) + "\n" for one in cases))
    return folder


def answered(rights, **changes):
    return [case(number, values={"right": float(right)}, **changes) for number, right in enumerate(rights)]


def compared(tmp_path: Path, first, second, **changes) -> Page:
    folders = kept(tmp_path / "a", first, **changes), kept(tmp_path / "b", second, **changes)
    write_side_by_side(tmp_path / "side.html", *folders)
    return Page(tmp_path / "side.html")


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ({"right": 1.0}, {"right": 1.0}, BOTH),
        ({"right": 1.0}, {"right": 0.0}, ONLY_FIRST),
        ({"right": 0.0}, {"right": 1.0}, ONLY_SECOND),
        ({"answer_and_box": 0.0, "right_for_wrong_reason": 1.0}, {"answer_and_box": 0.0}, NEITHER),
        ({"report_rouge_l": 0.4}, {"report_rouge_l": 0.3}, FIRST),
        ({"report_rouge_l": 0.2}, {"report_rouge_l": 0.3}, SECOND),
        ({"brier": 0.2}, {"brier": 0.3}, FIRST),
        ({"brier": 0.2}, {"brier": 0.2}, ALIKE),
        ({"other": 1.0}, {"other": 0.0}, UNJUDGED),
    ],
)
def test_verdicts(first, second, verdict):
    assert Pair(case(values=first), case(values=second)).verdict == verdict


def test_the_test_is_paired_by_question_and_over_patients():
    draw = np.random.default_rng(0)
    rights = draw.random((2, 40)) < [[0.8], [0.4]]
    first, second = (answered(row) for row in rights)
    second[5] = replace(second[5], scores={})  # a question that the score does not apply to
    found = paired_scores([Pair(*both) for both in zip(first, second, strict=True)], ["right", "missing"])
    kept_rows = [at for at in range(40) if at != 5]
    expected = paired_test(*rights[:, kept_rows].astype(float), [first[at].patient for at in kept_rows])
    assert set(found) == {"judged right", "right"}
    assert found["right"] == (rights[0, kept_rows].mean(), rights[1, kept_rows].mean(), 39, expected)
    assert found["judged right"][2] == 40
    assert expected.patients == 20


def test_scores_and_counts_stand_in_the_page(tmp_path):
    page = compared(tmp_path, answered([1, 1, 0, 0] * 10), answered([1, 0, 1, 0] * 9 + [0, 0, 0, 0]), prompt="p")
    assert {"0.500", "0.450", "+0.050", "40", "20"} <= set(page.texts)
    assert [text.strip() for text in page.texts if re.fullmatch(r" \d+ ", text)][:4] == ["11", "9", "11", "9"]
    assert "Not of single questions, so not paired: f1." in page.text
    assert "both were asked under the same settings" in page.text
    assert {"runs/a", "runs/b"} <= set(page.texts)
    assert Counter(one["data-group"] for one in page.all("article")) == {ONLY_FIRST: 11, ONLY_SECOND: 9, NEITHER: 11, BOTH: 9}


def test_few_patients_are_told_once(tmp_path):
    page = compared(tmp_path, answered([1, 0, 1]), answered([0, 0, 1]), prompt="p")
    assert page.text.count("No p-value below 6 patients: such a difference is descriptive only.") == 1


def test_verdicts_share_the_page_and_pictures_come_first():
    pairs = [Pair(*(replace(one, picture="x.jpg" if number % 2 else None) for one in two)) for number, two in enumerate(
        zip(answered([1] * 80 + [0] * 3), answered([1] * 70 + [0] * 13), strict=True))]  # fmt: skip
    shown = chosen(pairs, ["right"])
    assert Counter(pair.verdict for pair in shown) == {BOTH: 20, ONLY_FIRST: 10, NEITHER: 3}
    assert all(pair.first.picture for pair in shown if pair.verdict == BOTH)
    assert [list(VERDICTS).index(pair.verdict) for pair in shown] == sorted(
        list(VERDICTS).index(pair.verdict) for pair in shown
    )
    assert chosen(pairs[::-1], ["right"]) == shown


def test_a_picture_that_one_kept_serves_both(tmp_path):
    """Each has pictures that the other lacks: the worst of the one are not the worst of the other."""
    first, second = answered([1, 1, 0]), answered([0, 1, 0])
    first[0], second[1] = replace(first[0], picture="a.jpg"), replace(second[1], picture="b.jpg")
    evaluations = [Evaluation(tmp_path, {}, {}, {one.id: one for one in cases}) for cases in (first, second)]
    pairs, unpaired = pair_up(*evaluations)
    assert [(pair.first.picture, pair.second.picture) for pair in pairs] == [("a.jpg",) * 2, ("b.jpg",) * 2, (None, None)]
    assert unpaired == {}
    page = compared(
        tmp_path, answered([at % 2 for at in range(200)]), answered([at % 3 == 0 for at in range(200)]), pictures=True
    )
    names = [{path.name for path in (tmp_path / place / "pictures").iterdir()} for place in "ab"]
    assert names[0] - names[1]
    assert names[1] - names[0]
    shown = Counter(one["href"] for one in page.all("use"))
    assert set(shown.values()) == {2}
    assert {f"#{one['id']}" for one in page.all("image")} == set(shown)


def test_questions_that_are_not_the_same_are_counted_and_left_out(tmp_path):
    first = answered([1] * 10)
    second = answered([1] * 12)[2:]
    second[0] = replace(second[0], question="Another?")
    second[1] = replace(second[1], answers=("other",))
    page = compared(tmp_path, first, second)
    assert "Left out: 2 only in the first; 2 only in the second; 2 another question or truth under one id." in page.text
    assert "6 questions" in page.text


def test_other_settings_are_told(tmp_path):
    folders = (
        kept(tmp_path / "a", answered([1]), prompt="short", seed=0),
        kept(tmp_path / "b", answered([1]), prompt="long", seed=0),
    )
    write_side_by_side(tmp_path / "side.html", *folders)
    texts = Page(tmp_path / "side.html").texts
    assert {"prompt", "short", "long"} <= set(texts)
    assert "seed" not in texts


def test_what_cannot_be_compared_is_refused(tmp_path):
    here, other = kept(tmp_path / "a", answered([1])), kept(tmp_path / "b", answered([1], question="Else?"))
    graded, out = kept(tmp_path / "c", answered([1]), suite="grounding"), tmp_path / "side.html"
    with pytest.raises(ValueError, match="share no example: evaluate the same split"):
        write_side_by_side(out, here, other)
    with pytest.raises(ValueError, match=r"a is of suite vqa, .*c of grounding: give two of one suite"):
        write_side_by_side(out, here, graded)
    with pytest.raises(ValueError, match=r"nowhere: no results\.json: give the folder of a finished evaluation"):
        write_side_by_side(out, here, tmp_path / "nowhere")
    assert not out.exists()


def test_texts_stay_texts(tmp_path):
    evil = [
        case(number, question=EVIL, domain=EVIL, patient=EVIL, answers=(EVIL,), groups={EVIL: EVIL}, values={"right": 1.0})
        for number in range(3)
    ]
    evil = [replace(one, answer=EVIL, rationale=EVIL, text=EVIL) for one in evil]
    folders = kept(tmp_path / "a", evil, setting=EVIL), kept(tmp_path / "b", evil, setting="plain")
    write_side_by_side(tmp_path / "side.html", *folders)
    page = Page(tmp_path / "side.html")
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") or name in ("autofocus", "style") for _, given in page.tags for name in given)
    assert sum(EVIL in text for text in page.texts) > 15
    assert not re.search(r"https?:|url\(", page.source)
