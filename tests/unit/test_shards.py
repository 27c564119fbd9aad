"""The stored tables: what is written comes back, at random and in order, in flat memory; damage is named."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from medclm.data.manifest import licence_strictness, strictest_licence, write_json
from medclm.data.mapped import CorpusChanged, ShardLost
from medclm.data.schema import COLUMNS, KINDS, SCHEMA_VERSION
from medclm.data.shards import _OPEN_BATCHES, Corpus, ShardWriter, first_row
from medclm.data.testing import write_small_corpus


def blank(kind: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS[kind]), **values}


@functools.cache
def png(seed: int, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_corpus(folder: Path, *, images: int = 150, records: int = 2500, rows_per_file: int = 1024, side: int = 16) -> Path:
    """A corpus whose cells can be computed from their row number."""
    folder.mkdir(parents=True)
    entries = []
    with ShardWriter(folder, "images", rows_per_file=64) as writer:
        for i in range(images):
            stored = {"bytes": png(i % 7, side), "path": None}
            writer.write(
                blank("images", image_id=f"{i:032x}", image=stored, width=side, height=side, spacing_mm=[0.5, float(i)])
            )
    entries += writer.entries
    with ShardWriter(folder, "annotations") as writer:
        for i in range(images):
            writer.write(blank("annotations", annotation_id=f"a{i}", image_row=i, box_xyxy_unit=[0.0, 0.25, 0.5, 1.0]))
    entries += writer.entries
    with ShardWriter(folder, "studies") as writer:
        pass
    entries += writer.entries
    for split, share in (("train", 0.8), ("val", 0.2)):
        with ShardWriter(folder, "records", split, rows_per_file=rows_per_file) as writer:
            for i in range(int(records * share)):
                writer.write(blank("records", record_id=f"{split}-{i}", split=split, annotation_rows=[i, i + 1], domain="d"))
        entries += writer.entries
    entries.sort(key=lambda entry: entry["path"])
    write_json(
        folder / "manifest.json", {"schema_version": SCHEMA_VERSION, "files": entries, "domains": [{"name": "d", "counts": {}}]}
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("shards") / "corpus")


def test_rows_come_back_at_random_and_in_order(folder: Path) -> None:
    corpus = Corpus(folder, verify=True)
    assert corpus.domains == ["d"]
    assert {kind: corpus.count(kind) for kind in KINDS} == {"images": 150, "studies": 0, "annotations": 150, "records": 2500}
    assert corpus.count("records", "train") == 2000
    assert corpus.count("records", "test") == 0
    assert len(list(folder.glob("images-*.arrow"))) == 3
    for row in (0, 63, 64, 149):
        cell = corpus.row("images", row, ["image_id", "spacing_mm"])
        assert cell == {"image_id": f"{row:032x}", "spacing_mm": [0.5, float(row)]}
        assert corpus.picture(row).size == (16, 16)
    assert corpus.picture(3).mode == "RGB"
    # row order is the order of the sorted paths: train before val here
    assert corpus.record_files("train") == [(0, 1024), (1024, 976)]
    assert corpus.record_files("val") == [(2000, 500)]
    assert corpus.record_files("test") == []
    wanted = [2499, 0, 1023, 1024, 1999, 2000, 0]
    names = [row["record_id"] for row in corpus.rows("records", wanted, ["record_id"])]
    assert names == ["val-499", "train-0", "train-1023", "train-1024", "train-1999", "val-0", "train-0"]
    assert corpus.row("records", 1024)["annotation_rows"] == [1024, 1025]
    assert set(corpus.row("annotations", 0)) == set(COLUMNS["annotations"])


def test_any_order_of_rows_over_more_batches_than_stay_open(tmp_path: Path) -> None:
    corpus = Corpus(write_small_corpus(tmp_path / "corpus", 300, batch_rows=4, rows_per_file=100))
    stored = [row for batch in corpus.scan("annotations", ["annotation_id", "image_row"]) for row in batch.to_pylist()]
    assert len(stored) > 4 * _OPEN_BATCHES
    for row in np.random.default_rng(0).integers(0, len(stored), 2000).tolist():
        assert corpus.row("annotations", row, ["annotation_id", "image_row"]) == stored[row]
    assert len(corpus._batches["annotations"]) == _OPEN_BATCHES


def test_scan_visits_every_row_once_with_its_number(folder: Path) -> None:
    corpus = Corpus(folder)
    whole = [
        (first_row(b) + i, name)
        for b in corpus.scan("records", ["record_id"])
        for i, name in enumerate(b["record_id"].to_pylist())
    ]
    assert [row for row, _ in whole] == list(range(2500))
    assert whole[2000][1] == "val-0"
    batches = list(corpus.scan("records", ["split", "record_id"], "val"))
    assert [first_row(batch) for batch in batches] == [2000]
    assert batches[0].schema.names == ["split", "record_id"]
    assert list(corpus.scan("records", ["split"], "test")) == []


@pytest.mark.parametrize(("kind", "row"), [("images", 150), ("images", -1), ("studies", 0), ("pictures", 0)])
def test_a_row_that_does_not_exist_is_named(folder: Path, kind: str, row: int) -> None:
    with pytest.raises(ValueError, match=kind):
        Corpus(folder).row(kind, row)


def test_unknown_columns_and_splits_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="no column 'colour'"):
        Corpus(folder).row("images", 0, ["colour"])
    with pytest.raises(ValueError, match="only records have a split"):
        Corpus(folder).count("images", "train")
    with pytest.raises(ValueError, match="split 'dev'"):
        Corpus(folder).count("records", "dev")


def test_load_dataset_opens_every_kind(folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    corpus = Corpus(folder)
    for kind in KINDS:
        files = sorted(str(path) for path in folder.glob(f"{kind}-*.arrow"))
        streamed = load_dataset("arrow", data_files=files, streaming=True, split="train")
        assert streamed.column_names == list(COLUMNS[kind])
        if corpus.count(kind):  # datasets refuses to prepare a table without rows: it can only be streamed
            data = load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path))
            assert data.num_rows == corpus.count(kind)
            assert data[0].keys() == COLUMNS[kind].keys()
        if kind == "images":
            assert data[70]["image"].size == (16, 16)  # decoded: the feature is an Image


def corrupt(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_damage_is_named_with_its_cure(folder: Path, tmp_path: Path) -> None:
    copy = corrupt(folder, tmp_path / "copy")
    victim = copy / "images-00001.arrow"
    data = bytearray(victim.read_bytes())
    data[-400] ^= 1
    victim.write_bytes(data)
    Corpus(copy)  # sizes are right
    with pytest.raises(ValueError, match=r"images-00001\.arrow: sha256 .* manifest says .*build the corpus again"):
        Corpus(copy, verify=True)
    victim.write_bytes(data[:-8])
    with pytest.raises(ValueError, match=r"images-00001\.arrow: \d+ bytes, the manifest says"):
        Corpus(copy)
    victim.unlink()
    with pytest.raises(ValueError, match=r"images-00001\.arrow: No such file"):
        Corpus(copy)


def test_a_picture_that_does_not_decode_names_file_and_row(folder: Path, tmp_path: Path) -> None:
    copy = corrupt(folder, tmp_path / "copy")
    data = (copy / "images-00000.arrow").read_bytes()
    (copy / "images-00000.arrow").write_bytes(data.replace(b"IHDR", b"IHXR"))
    with pytest.raises(ValueError, match=r"images-00000\.arrow: images row 5 does not decode"):
        Corpus(copy).picture(5)


def test_every_missing_file_is_counted_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    copy = corrupt(folder, tmp_path / "copy")
    for name in ("images-00001.arrow", "records-train-00000.arrow"):
        (copy / name).unlink()
    with pytest.raises(ValueError, match=r"images-00001\.arrow: No such file.*\(and 1 more of 8 files\)"):
        Corpus(copy)


_OPEN = """
import os, sys
from pathlib import Path
from medclm.data.shards import Corpus
if os.geteuid() == 0:
    os.setuid(65534)  # root may read everything
try:
    Corpus(Path(sys.argv[1]))
except ValueError as error:
    print(error)
"""


def test_a_file_that_may_not_be_read_is_named_at_the_start(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's own folders are closed to other users
        os.chmod(open_to_all, 0o755)
        copy = corrupt(folder, Path(open_to_all) / "copy")
        (copy / "images-00001.arrow").chmod(0)
        done = subprocess.run([sys.executable, "-c", _OPEN, str(copy)], capture_output=True, text=True, check=True)
        assert "images-00001.arrow: Permission denied: the manifest lists it" in done.stdout


_READ_ON = """
import sys
from pathlib import Path
from medclm.data.shards import Corpus
corpus = Corpus(Path(sys.argv[1]))
corpus.picture(100), corpus.row("records", 700)
print("read", flush=True)
sys.stdin.readline()
try:
    corpus.picture(100) if sys.argv[2] == "images" else corpus.row("records", 700)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def change(path: Path, how: str) -> None:
    """What happens to shards in a long run."""
    data, at = path.read_bytes(), path.stat().st_mtime_ns
    match how:
        case "cut short":  # in place, the size alone: a map of it ends the process that reads there
            os.truncate(path, len(data) // 4)
        case "removed":
            path.unlink()
        case "replaced":  # the same bytes and times, as a backup restores them
            path.with_suffix(".new").write_bytes(data)
            os.utime(path.with_suffix(".new"), ns=(at, at))
            os.replace(path.with_suffix(".new"), path)
        case "written to":
            with path.open("r+b") as stream:
                stream.write(data)
            os.utime(path, ns=(at + 1, at + 1))


@pytest.mark.parametrize("kind", ["images", "records"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut short", r"ShardLost: {}: .* row \d+ cannot be read: the file was cut short from \d+ to \d+ bytes .*: restore it"),
        ("removed", r"ShardLost: {}: .* row \d+ cannot be read: No such file or directory.*: restore the file"),
        ("replaced", r"CorpusChanged: {}: .* the file was replaced by another one since .*: restore it and resume"),
        ("written to", r"CorpusChanged: {}: .* the file was written to since .*: restore it and resume"),
    ],
)
def test_a_file_that_changes_under_the_run_ends_it_with_a_message(
    folder: Path, tmp_path: Path, kind: str, how: str, said: str
) -> None:
    copy = corrupt(folder, tmp_path / "copy")
    victim = copy / ("images-00001.arrow" if kind == "images" else "records-train-00000.arrow")
    child = subprocess.Popen(
        [sys.executable, "-c", _READ_ON, str(copy), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "read\n"
    change(victim, how)
    told, _ = child.communicate("go on\n", timeout=60)
    assert child.returncode == 0, f"ended by signal {-child.returncode}"
    assert re.search(said.format(re.escape(str(victim))), told), told


def test_a_file_that_is_replaced_before_its_first_use_is_found(folder: Path, tmp_path: Path) -> None:
    copy = corrupt(folder, tmp_path / "copy")
    corpus = Corpus(copy)
    change(copy / "images-00001.arrow", "replaced")
    assert corpus.picture(0).size == (16, 16)  # another file
    with pytest.raises(CorpusChanged, match=r"images-00001\.arrow"):
        corpus.picture(100)


_DAMAGED = """
import sys
from pathlib import Path
from medclm.data.shards import Corpus
corpus = Corpus(Path(sys.argv[1]))
for row in (5, 1500):
    try:
        print(corpus.row("records", row, ["record_id"]))
    except ValueError as error:
        print(error)
"""


def test_damaged_offsets_are_an_error_and_not_a_crash(folder: Path, tmp_path: Path) -> None:
    """Of the right size and without `verify`: an offset that points far outside would end the process."""
    copy = corrupt(folder, tmp_path / "copy")
    victim = copy / "records-train-00000.arrow"
    data = victim.read_bytes()
    at = data.find(np.cumsum([7] * 8).astype("<i4").tobytes())  # ends of train-0 .. train-7, seven bytes each
    assert at > 0
    victim.write_bytes(data[:at] + np.full(8, 0x7FFFFFF0, "<i4").tobytes() + data[at + 32 :])
    done = subprocess.run([sys.executable, "-c", _DAMAGED, str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "records-train-00000.arrow: records row 5 cannot be read: rows 0 to 1023 of the file are damaged" in done.stdout
    assert "train-1500" in done.stdout


def test_a_picture_that_the_disk_does_not_deliver_is_an_error(folder: Path, tmp_path: Path) -> None:
    """Pictures are not read through the map: a file that ends within one, or a failing disk, must not end the process."""
    copy = corrupt(folder, tmp_path / "copy")
    corpus = Corpus(copy)
    file, batch, inside = corpus._find("images", 100)
    blobs = batch.column(batch.schema.get_field_index("image")).field("bytes")
    ends = pa.py_buffer(blobs.buffers()[1].to_pybytes())  # read in time; the pictures still lie in the map
    blobs = pa.Array.from_buffers(blobs.type, len(blobs), [None, ends, blobs.buffers()[2]])
    assert file.blob(blobs, inside, "images row 100") == png(100 % 7)
    os.truncate(copy / "images-00001.arrow", 100)
    with pytest.raises(ShardLost, match=r"images-00001\.arrow: images row 100 cannot be read: the file ends within it"):
        file.blob(blobs, inside, "images row 100")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version="2.0"), r"schema_version 2\.0 is newer than 1\.1: update medclm"),
        (lambda m: m.update(schema_version="new"), "schema_version new"),
        (lambda m: m.pop("domains"), "has no domains"),
        (lambda m: m["files"][0].pop("sha256"), r"files\[0\]: needs"),
        (lambda m: m["files"][0].update(kind="photos"), r"files\[0\]\.kind='photos'"),
        (lambda m: m["files"][0].update(path="../x.arrow"), r"files\[0\]\.path="),
        (lambda m: m["files"][0].update(path=".."), r"files\[0\]\.path="),
        (lambda m: m["files"][-2].update(split="dev"), r"split='dev'|has no"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"].sort(key=lambda entry: entry["kind"] == "records")
    change(manifest)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        Corpus(tmp_path)


def test_a_newer_minor_version_is_read(folder: Path, tmp_path: Path) -> None:
    copy = corrupt(folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": "1.7"}))
    assert Corpus(copy).count("images") == 150


def test_a_folder_without_a_manifest_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: missing"):
        Corpus(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        Corpus(tmp_path)


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "studies")

    def interrupted() -> None:
        with writer:
            for i in range(600):
                writer.write(blank("studies", study=str(i)))
            assert list(tmp_path.glob("*.arrow")) == []
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_threads_read_the_same_rows(folder: Path) -> None:
    corpus = Corpus(folder)
    faults: list[str] = []

    def work(seed: int) -> None:
        for row in np.random.default_rng(seed).integers(0, 2500, 300).tolist():
            expected = f"train-{row}" if row < 2000 else f"val-{row - 2000}"
            if corpus.row("records", row, ["record_id"])["record_id"] != expected:
                faults.append(expected)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


_MEASURE = """
import sys, numpy as np
from pathlib import Path
from medclm.data.shards import Corpus
assert not any(name in sys.modules for name in ("datasets", "torch", "pandas"))
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
corpus = Corpus(Path(sys.argv[1]))
corpus.picture(0)
for batch in corpus.scan("records", ["record_id"]): pass
draw = np.random.default_rng(0)
for _ in range(1500):
    corpus.picture(int(draw.integers(corpus.count("images"))))
    corpus.row("records", int(draw.integers(corpus.count("records"))))
for batch in corpus.scan("images", ["image_id", "image"]): pass
print(resident())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_memory_stays_flat_when_the_corpus_grows_tenfold(tmp_path: Path) -> None:
    peaks = []
    for name, factor in (("small", 1), ("large", 10)):
        made = make_corpus(tmp_path / name, images=150 * factor, records=2000 * factor, side=300)  # 90 KB each: 13 and 135 MB
        output = subprocess.run([sys.executable, "-c", _MEASURE, str(made)], capture_output=True, text=True, check=True)
        peaks.append(float(output.stdout))
    assert peaks[1] - peaks[0] < 45, peaks  # pages are given back after about 32 MB of them


def test_the_strictest_licence_wins() -> None:
    order = [
        "CC0",
        "MIT",
        "CC BY 4.0",
        "CC BY-SA 4.0",
        "CC BY-ND 4.0",
        "CC BY-NC 4.0",
        "CC BY-NC-SA 3.0",
        "CC BY-NC-ND 4.0",
        "DUA",
    ]
    ranks = [licence_strictness(name, shareable=True) for name in order]
    assert ranks == sorted(set(ranks))
    assert strictest_licence([("CC BY-NC-SA 3.0", True), ("MIT", True)]) == "CC BY-NC-SA 3.0"
    assert strictest_licence([("CC BY-NC-SA 3.0", True), ("MIT", False)]) == "MIT"
    assert licence_strictness("something else", shareable=True) == licence_strictness("DUA", shareable=True)


def test_many_rows_at_once_equal_the_rows_one_by_one(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus"))
    wanted = np.random.default_rng(0).integers(0, corpus.count("records"), 700)  # unordered, repeated, over several files
    columns = ["record_id", "domain", "annotation_rows"]
    taken = corpus.take("records", wanted, columns)
    slow = corpus.rows("records", wanted.tolist(), columns)
    for name, column in zip(columns, taken, strict=True):
        assert column.to_pylist() == [row[name] for row in slow]
    with pytest.raises(ValueError, match="out of range"):
        corpus.take("records", np.array([0, corpus.count("records")]), columns)
    with pytest.raises(ValueError, match="no column 'nonsense'"):
        corpus.take("records", wanted, ["nonsense"])
