"""The evidence runs' corpora, arms and tables; the runs themselves are trainings and stand in benchmarks/results/."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from benchmarks.curriculum.corpora import NOISE, SPOILED, NoisySource, TailSource, corpus_folder
from benchmarks.curriculum.evidence import compare, print_primaries, scores_of, study_table
from benchmarks.curriculum.rewriting import REWRITES, rewrite
from benchmarks.curriculum.runs import Job, read_results, take
from benchmarks.curriculum.studies import CONFIRM_SEEDS, MAIN_SEEDS, STUDIES, TUNING_SEEDS
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.splits import SplitRule
from medclm.corpus.writers.template import TemplateWriter
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


def test_faint_lesions_keep_their_share_of_contrast():
    source = PhantomSource(count=40, seed=3)
    faint = SPOILED["contrast20"](source, 3)
    assert len(faint) == len(source)
    kept = []
    for index in range(len(source)):
        clean, spoiled = source.read(index), faint.read(index)
        lesions = np.any([one.mask for one in clean.annotations], axis=0) if clean.annotations else False
        before, after = clean.pixels.astype(float), spoiled.pixels.astype(float)
        np.testing.assert_array_equal(
            before[~np.broadcast_to(lesions, before.shape[:2])], after[~np.broadcast_to(lesions, before.shape[:2])]
        )
        kept += [after[one.mask].std() / before[one.mask].std() for one in clean.annotations if before[one.mask].std() > 5]
    assert len(kept) > 10
    assert np.median(kept) == pytest.approx(0.2, abs=0.05)


def test_nobody_is_judged_on_patients_learned_from(clean, tmp_path):
    taught = tmp_path / "all-train"
    options = BuildOptions(ids=phantom_ids(101), split=SplitRule("patient", quotas=(1.0, 0.0, 0.0)), near_duplicates=False)
    build(PhantomSource(count=60, seed=101), TemplateWriter(kinds=("what",)), taught, options)
    with pytest.raises(ValueError, match=r"[1-9]\d* patients are learned from and judged on"):
        take(Job("all-train", "tune-60", 0, ()), corpus=taught, judged_on=clean)


def test_an_unknown_variant_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tune-60-nonsense.*noise"):
        corpus_folder("tune-60-nonsense", tmp_path)


TUNING = ("weights", "tune", "faint-tune")


def test_arms_are_distinct_and_tuning_is_kept_apart():
    for found in STUDIES.values():
        keys = [job.key for arm in found.arms for job in arm.jobs()]
        assert len(keys) == len(set(keys))
    for study, found in STUDIES.items():
        for arm in found.arms:
            assert arm.corpus.startswith("tune") == (study in TUNING)
            if study not in TUNING:
                assert set(arm.seeds) <= set(CONFIRM_SEEDS if study == "confirm" else MAIN_SEEDS)
                assert arm.corpus.startswith("confirm") == (study == "confirm")
    assert len({*TUNING_SEEDS, *MAIN_SEEDS, *CONFIRM_SEEDS}) == len(TUNING_SEEDS) + len(MAIN_SEEDS) + len(CONFIRM_SEEDS)
    assert len(MAIN_SEEDS) >= 8 <= len(CONFIRM_SEEDS)


def made_up(arm, *, level, patients=40, who="p"):
    """Finished lines of an arm whose patients score about `level`."""
    lines = {}
    for job in arm.jobs():
        values = np.random.default_rng(job.seed).normal(level, 0.01, patients).tolist()
        score = {"value": values, "n": [1] * patients, "who": who}
        scores = dict.fromkeys(("mean_iou", "answer_accuracy", "answer_and_box"), score)
        shares = {"easy": 0.5, "medium": 0.5, "hard": 0.0}
        lines[job.key] = {"key": job.key, "recipe": job.recipe, "patients": scores, "shares": shares}
    return lines


def test_the_table_compares_on_the_seeds_that_both_have():
    study = STUDIES["main"]
    first, second = study.arms
    lines = made_up(first, level=0.5) | made_up(second, level=0.4)
    missing = second.jobs()[0]
    del lines[missing.key]
    assert sorted(scores_of(second, lines, "mean_iou")) == sorted(set(MAIN_SEEDS) - {missing.seed})
    result = compare(first, second, lines, "mean_iou")
    assert len(result.by_seed) == len(MAIN_SEEDS) - 1
    assert result.difference == pytest.approx(0.1, abs=1e-9)
    table, differences = study_table("main", study, lines)
    assert table.row_count == 2
    assert [name for name, _ in differences] == ["main: medclm, 4 % Easy"]


@pytest.mark.parametrize(("left_out", "says"), [(0, "target +0.02 at p < 0.05: reached"), (1, "7 of 8 seeds")])
def test_there_is_a_verdict_only_when_every_planned_seed_is_there(left_out, says):
    first, second = STUDIES["main"].arms
    lines = made_up(first, level=0.5) | made_up(second, level=0.4)
    for job in second.jobs()[:left_out]:
        del lines[job.key]
    console = Console(width=200, record=True, file=io.StringIO())
    print_primaries(lines, console)
    text = console.export_text()
    assert says in text
    assert ("reached" in text) == (left_out == 0)


def test_other_patients_are_not_compared():
    first, second = STUDIES["main"].arms
    lines = made_up(first, level=0.5) | made_up(second, level=0.4, who="others")
    assert compare(first, second, lines, "mean_iou") is None


def test_a_line_of_another_recipe_does_not_count():
    [job, *_] = STUDIES["main"].arms[0].jobs()
    [line] = [line for key, line in made_up(STUDIES["main"].arms[0], level=0.5).items() if key == job.key]
    assert job.finished({job.key: line}) == line
    newer = {key: value for key, value in line["recipe"].items() if key != "train.hard_weight"}
    assert job.finished({job.key: {**line, "recipe": newer}}) is not None  # a knob that came after the run
    assert job.finished({job.key: {**line, "recipe": {**line["recipe"], "train.lr": "0.5"}}}) is None
    assert job.finished({}) is None


def test_a_line_cut_off_by_a_kill_costs_only_itself(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    results.write_text('{"key": "a"}\n{"key": "b", "pati\n{"key": "c"}\n')
    assert sorted(read_results(results)) == ["a", "c"]
    assert "1 broken lines" in capsys.readouterr().err
