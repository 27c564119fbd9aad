"""Leaks between corpora, folders and splits: every kind is found by number, and nothing else is."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from launch.corpus_commands import leaks as command
from medclm.corpus.leak_sides import open_side
from medclm.corpus.leaks import compare, wilson_upper
from medclm.corpus.pixels import encode_png
from medclm.data.manifest import write_json
from medclm.data.schema import COLUMNS, SCHEMA_VERSION
from medclm.data.shards import ShardWriter


def scene(seed):
    """Twelve soft blobs: unlike those of another seed, unchanged by a new compression."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(128, 60, (9, 9)).astype(np.float32))
    return np.clip(np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC)), 0, 255).astype(np.uint8)


def corpus(folder, rows, *, key="k"):
    """rows: (picture, patient, split) or (picture, patient, split, image columns); the image row is the position."""
    folder.mkdir()
    entries = []
    with ShardWriter(folder, "images") as writer:
        for number, (pixels, patient, _, *more) in enumerate(rows):
            row = dict.fromkeys(COLUMNS["images"]) | {"image_id": f"{folder.name}{number}", "patient": patient}
            writer.write(row | {"image": {"bytes": encode_png(pixels), "path": None}} | (more[0] if more else {}))
    entries += writer.entries
    for kind in ("studies", "annotations"):
        with ShardWriter(folder, kind) as writer:
            pass
        entries += writer.entries
    for split in sorted({split for _, _, splits, *_ in rows for split in splits.split("+") if split}):
        with ShardWriter(folder, "records", split) as writer:
            for number, (_, _, splits, *_) in enumerate(rows):
                if split in splits.split("+"):
                    row = dict.fromkeys(COLUMNS["records"]) | {"split": split, "image_row": number, "annotation_rows": []}
                    writer.write(row | {"easy_image_row": -1, "hard_image_row": -1})
        entries += writer.entries
    manifest = {"schema_version": SCHEMA_VERSION, "files": entries, "domains": [], "builder": {"id_key": key}}
    write_json(folder / "manifest.json", manifest)
    return folder


def pictures(folder, named):
    folder.mkdir()
    for name, pixels in named.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, quality=60)
    return folder


def report_of(a, b=None, **options):
    return compare(open_side(a), None if b is None else open_side(b), **options)


def pairs(found):
    return [(entry["a"], entry["b"]) for entry in found]


def test_a_corpus_and_a_folder_share_equal_and_altered_pictures(tmp_path):
    a = corpus(tmp_path / "a", [(scene(i), f"p{i}", "train") for i in range(6)])
    b = pictures(tmp_path / "b", {"x/9.png": scene(4), "x/1.png": scene(20), "a.jpg": scene(2), "z.png": scene(21)})
    (b / "notes.txt").write_text("no picture")
    (b / "broken.png").write_bytes(b"not a picture")
    side = open_side(b)
    assert (side.paths, side.other_files) == (["a.jpg", "broken.png", "x/1.png", "x/9.png", "z.png"], 1)
    report = compare(open_side(a), side)
    assert report.same_image == [{"a": 4, "b": 3, "by": "pixels"}]
    assert pairs(report.near_duplicate) == [(2, 0)]
    assert side.unread == {"image_unreadable": 1}
    assert report.patients.startswith("not compared: a folder")
    assert (report.false_positives.side, report.false_positives.called, report.false_positives.pairs) == ("A", 0, 15)


def test_two_corpora_share_patients_ids_and_origins_only_under_one_key(tmp_path):
    a = corpus(
        tmp_path / "a",
        [(scene(0), "p", "train"), (scene(1), "q", "train", {"origin": "o", "origin_patient": "w"}), (scene(2), "r", "test")],
    )
    rows = [
        (scene(10), "p", "test"),
        (scene(11), "p", "test"),
        (scene(12), "x", "test", {"origin": "o", "origin_patient": "w"}),
    ]
    rows.append((scene(13), "y", "test", {"image_id": "a2"}))
    report = report_of(a, corpus(tmp_path / "b", rows))
    assert report.same_image == [{"a": 2, "b": 3, "by": "image_id"}, {"a": 1, "b": 2, "by": "origin"}]
    assert report.same_patient == [
        {"a": 0, "a_pictures": 1, "b": 0, "b_pictures": 2, "by": "patient"},
        {"a": 1, "a_pictures": 1, "b": 2, "b_pictures": 1, "by": "origin_patient"},
    ]
    other_key = report_of(a, corpus(tmp_path / "c", rows, key="other"))
    assert not other_key.found
    assert "different keys" in other_key.patients


def test_the_splits_of_one_corpus_are_compared_with_each_other(tmp_path):
    folder = corpus(
        tmp_path / "a",
        [
            (scene(0), "p", "train"),
            (scene(0), "q", "test"),  # equal pixels
            (scene(1), "r", "train"),
            (255 - (255 - scene(1)) // 2, "s", "val"),  # less contrast
            (scene(2), "t", "train"),
            (scene(2), "u", "train"),  # equal, but of one split
            (scene(3), "v", "train"),
            (scene(4), "v", "test"),  # one patient in two splits
            (scene(5), "w", "train+val"),  # one picture in two splits
            (scene(6), "x", ""),  # used by no record
            (scene(6), "y", "test"),
        ],
    )
    report = report_of(folder)
    assert report.same_image == [{"a": 8, "b": 8, "by": "image_id"}, {"a": 0, "b": 1, "by": "pixels"}]
    assert pairs(report.near_duplicate) == [(2, 3)]
    assert report.same_patient == [{"a": 6, "a_pictures": 1, "b": 7, "b_pictures": 1, "by": "patient"}]


def test_only_the_named_splits_of_a_are_compared(tmp_path):
    a = corpus(tmp_path / "a", [(scene(0), "p", "test"), (scene(1), "q", "train")])
    b = pictures(tmp_path / "b", {"0.png": scene(0), "1.png": scene(1)})
    assert pairs(report_of(a, b, splits_a=("train",)).same_image) == [(1, 1)]
    assert pairs(report_of(a, b).same_image) == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="they are train, val, test"):
        report_of(a, b, splits_a=("holdout",))
    with pytest.raises(ValueError, match="only a corpus has splits"):
        report_of(b, a, splits_a=("train",))


def test_false_positives_count_pairs_that_are_no_equal_pixels(tmp_path):
    rows = [(scene(0), "p", "train"), (scene(0), "q", "train"), (255 - (255 - scene(0)) // 2, "r", "train")]
    rows += [(scene(7), "s", "train"), (scene(8), "s", "train")]
    rate = report_of(corpus(tmp_path / "a", rows)).false_positives
    assert (rate.called, rate.pairs, rate.examples) == (2, 10 - 1 - 1, [(0, 2), (1, 2)])
    assert rate.upper95 == wilson_upper(2, 8)


def test_wilson_upper_solves_its_own_equation():
    assert wilson_upper(0, 0) == 1
    assert wilson_upper(0, 10375) == pytest.approx(3.84146 / (10375 + 3.84146))
    upper = wilson_upper(18, 10375)  # the end of the interval lies 1.96 of its own standard errors above the share
    assert (upper - 18 / 10375) / np.sqrt(upper * (1 - upper) / 10375) == pytest.approx(1.959964)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    args = parser.parse_args(["leaks", *map(str, arguments)])
    return args.run(args)


def test_the_command_reports_by_number_and_never_by_path(tmp_path, capsys):
    a = corpus(tmp_path / "a", [(scene(0), "p", "train"), (scene(1), "q", "train")])
    b = pictures(tmp_path / "b", {"Doe_John.png": scene(1), "other.png": scene(9)})
    assert run(a, b, "--out", tmp_path / "r.json", "--path-key", tmp_path / "key.tsv", "--workers", 1) == 4
    stored, shown = (tmp_path / "r.json").read_text(), capsys.readouterr().out
    assert json.loads(stored)["counts"] == {"same_image": 1, "near_duplicate": 0, "same_patient": 0}
    assert "Doe" not in stored + shown
    assert str(tmp_path) not in stored + shown
    assert "0 of 1 pairs of different patients within A" in shown
    assert (tmp_path / "key.tsv").read_text().splitlines() == ["B\t0\tDoe_John.png", "B\t1\tother.png"]
    assert (tmp_path / "key.tsv").stat().st_mode & 0o777 == 0o600
    assert run(a, "--workers", 1) == 0


def test_what_cannot_be_compared_is_said(tmp_path):
    folder = pictures(tmp_path / "b", {"1.png": scene(0)})
    with pytest.raises(ValueError, match="one folder alone has no splits"):
        run(folder)
    with pytest.raises(ValueError, match="not a folder"):
        run(folder / "1.png", folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture file"):
        run(tmp_path / "empty", folder)
    unfinished = tmp_path / "unfinished"
    (unfinished / ".parts").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a finished corpus"):
        run(unfinished, folder)
