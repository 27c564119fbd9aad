"""The evidence runs' corpora, arms and tables; the runs themselves are trainings and stand in benchmarks/results/."""

import json
from collections import Counter

import numpy as np
import pytest

from benchmarks.curriculum.corpora import NOISE, NoisySource, TailSource, corpus_folder
from benchmarks.curriculum.evidence import compare, scores_of, study_table
from benchmarks.curriculum.rewriting import REWRITES, rewrite
from benchmarks.curriculum.studies import MAIN_SEEDS, STUDIES, TUNING_SEEDS
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.data.shards import Corpus

COLUMNS = ["rationale_easy", "rationale_medium", "answer_medium", "question_medium", "question_hard", "answer_hard"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return corpus_folder("tune-60", tmp_path_factory.mktemp("evidence"))


def records(folder, split="train", columns=(*COLUMNS, "record_id", "image_row", "hard_image_row", "claims", "split")):
    return [
        row for batch in Corpus(folder, verify=True).scan("records", list(columns), split=split) for row in batch.to_pylist()
    ]


@pytest.fixture(scope="module", params=sorted(REWRITES))
def rewritten(request, clean):
    out = clean.parent / request.param
    rewrite(clean, out, request.param)
    return request.param, records(clean), records(out)


def test_a_rewrite_changes_only_what_its_name_says(rewritten):
    name, before, after = rewritten
    assert [row["record_id"] for row in after] == [row["record_id"] for row in before]
    changed = Counter(column for old, new in zip(before, after, strict=True) for column in old if old[column] != new[column])
    rationales = {"rationale_easy", "rationale_medium"}
    assert set(changed) <= ({"question_hard", "answer_hard", "hard_image_row"} if name == "answer_only" else rationales)
    assert sum(changed.values()) > len(before) / 2


def test_shuffled_rationales_are_the_same_ones_elsewhere(clean):
    out = clean.parent / "shuffled-again"
    rewrite(clean, out, "shuffled")
    for column in ("rationale_easy", "rationale_medium"):
        assert Counter(row[column] for row in records(out)) == Counter(row[column] for row in records(clean))
    for split in ("val", "test"):
        assert records(out, split) == records(clean, split)


def test_without_the_organ_clause_no_rationale_places_its_lesion(clean):
    out = clean.parent / "no-organ-again"
    rewrite(clean, out, "no_organ")
    for old, new in zip(records(clean), records(out), strict=True):
        for claim in json.loads(old["claims"]):
            if claim["fact"] == "location":
                assert claim["text"] not in (new[f"rationale_{claim['stage']}"] or "")
        assert (old["rationale_easy"] or "").count("<box:") == (new["rationale_easy"] or "").count("<box:")


def test_answer_only_asks_the_own_picture(clean):
    out = clean.parent / "answer-only-again"
    rewrite(clean, out, "answer_only")
    for row in records(out):
        assert row["hard_image_row"] == row["image_row"]
        assert (row["question_hard"], row["answer_hard"]) == (row["question_medium"], row["answer_medium"])


def test_noise_hits_its_share_of_labels_and_keeps_pictures():
    source = PhantomSource(count=150, seed=3)
    noisy = NoisySource(source, seed=3)
    classes = boxes = total = 0
    for index in range(len(source)):
        clean, spoiled = source.read(index), noisy.read(index)
        np.testing.assert_array_equal(clean.pixels, spoiled.pixels)
        height, width = clean.pixels.shape[:2]
        for old, new in zip(clean.annotations, spoiled.annotations, strict=True):
            total += 1
            classes += old.lesion_class != new.lesion_class
            boxes += old.box_px != new.box_px
            assert 0 <= new.box_px.x0 < new.box_px.x1 <= width
            assert 0 <= new.box_px.y0 < new.box_px.y1 <= height
    assert abs(classes / total - NOISE) < 0.12
    assert abs(boxes / total - NOISE) < 0.12


def test_the_tail_makes_domains_unequal():
    source = PhantomSource(count=600, seed=3)
    tail = TailSource(source, seed=3)
    assert 0 < len(tail) < len(source) / 2

    def counts(of):
        images = [of.read(index) for index in range(len(of))]
        return Counter((image.annotations[0].lesion_class, image.modality) for image in images if image.annotations)

    spread = [max(found.values()) / np.median(list(found.values())) for found in (counts(source), counts(tail))]
    assert spread[1] > 1.5 * spread[0]


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tune-60-nonsense.*noise"):
        corpus_folder("tune-60-nonsense", tmp_path)


def test_arms_are_distinct_and_tuning_is_kept_apart():
    keys = [(study, job.key) for study, arms in STUDIES.items() for arm in arms for job in arm.jobs()]
    assert len(keys) == len(set(keys))
    for study, arms in STUDIES.items():
        for arm in arms:
            assert arm.corpus.startswith("tune") == (study == "tune")
            if study != "tune":
                assert set(arm.seeds) <= set(MAIN_SEEDS)
    assert not set(TUNING_SEEDS) & set(MAIN_SEEDS)
    assert len(MAIN_SEEDS) >= 8


def made_up(arm, *, level, patients=40):
    """Finished lines of an arm whose patients score about `level`."""
    lines = {}
    for job in arm.jobs():
        values = np.random.default_rng(job.seed).normal(level, 0.01, patients).tolist()
        scores = {score: {"value": values, "n": [1] * patients} for score in ("mean_iou", "answer_accuracy", "answer_and_box")}
        lines[job.key] = {"key": job.key, "patients": scores, "shares": {"easy": 0.5, "medium": 0.5, "hard": 0.0}}
    return lines


def test_the_table_compares_on_the_seeds_that_both_have():
    first, second = STUDIES["main"]
    lines = made_up(first, level=0.5) | made_up(second, level=0.4)
    missing = second.jobs()[0]
    del lines[missing.key]
    assert sorted(scores_of(second, lines, "mean_iou")) == sorted(set(MAIN_SEEDS) - {missing.seed})
    result = compare(first, second, lines, "mean_iou")
    assert len(result.by_seed) == len(MAIN_SEEDS) - 1
    assert result.difference == pytest.approx(0.1, abs=1e-9)
    table, differences = study_table("main", [first, second], lines, second)
    assert table.row_count == 2
    assert [name for name, _ in differences] == ["main: medclm"]
