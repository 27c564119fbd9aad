"""metrics.jsonl on disks that are full, read-only or forbidden, after kills, and under clocks that jump."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import time

import pytest

from medclm import tracking_lines
from medclm.tracking_lines import METRICS, MetricLines, read_lines, size_in_lines
from tests.small_disk import small_disk


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_reads_back_as_it_was(tmp_path):
    lines = MetricLines(tmp_path / METRICS)
    before = time.time()
    lines.append(7, {"loss": 0.5, "norm": math.inf, "nan": math.nan})
    [(end, line)] = read_lines(tmp_path / METRICS)
    assert end == (tmp_path / METRICS).stat().st_size == size_in_lines(tmp_path / METRICS)
    assert (line.step, line.values["loss"]) == (7, 0.5)
    assert math.isnan(line.values["norm"])
    assert math.isnan(line.values["nan"])
    assert before - 0.001 <= line.time_ms / 1000 <= time.time() + 0.001
    assert json.loads((tmp_path / METRICS).read_text())["norm"] is None


def test_lines_wait_while_the_disk_is_full_and_are_written_in_order(tmp_path, caplog):
    with small_disk(tmp_path / "small") as disk, caplog.at_level(logging.WARNING):
        path = disk.folder / METRICS
        lines = MetricLines(path)
        lines.append(0, {"loss": 1.0})
        disk.fill(leave=8192)
        for step in range(1, 200):
            lines.append(step, {f"value {index}": 0.123456 for index in range(10)})
        assert disk.free() == 0
        on_disk = path.read_bytes()
        assert not on_disk.endswith(b"\n")  # the disk took half a line: the case that has to be mended
        assert 0 < lines.waiting < 200
        assert len(caplog.records) == 1
        assert "No space left on device" in caplog.text
        assert [line.step for _, line in read_lines(path)] == list(range(200 - lines.waiting))
        disk.make_room()
        lines.append(200, {"loss": 2.0})
        assert lines.waiting == 0
        assert steps(path) == list(range(201))
        lines.close()
    assert "takes lines again" in caplog.records[1].message
    assert len(caplog.records) == 2


def test_what_a_full_disk_never_took_is_counted_at_the_end(tmp_path, caplog):
    with small_disk(tmp_path / "small") as disk, caplog.at_level(logging.WARNING):
        lines = MetricLines(disk.folder / METRICS)
        disk.fill()
        for step in range(3):
            lines.append(step, {"loss": 1.0})
        lines.close()
    assert caplog.records[-1].message.endswith("3 lines could not be written and are lost")


def test_a_read_only_disk(tmp_path):
    with small_disk(tmp_path / "small") as disk:
        disk.remount("ro")
        lines = MetricLines(disk.folder / METRICS)
        lines.append(1, {"loss": 1.0})
        assert lines.waiting == 1
        disk.remount("rw")
        lines.append(2, {"loss": 1.0})
        assert steps(disk.folder / METRICS) == [1, 2]
        lines.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_folder_of_somebody_else(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    tmp_path.chmod(0o711)
    os.seteuid(65534)
    try:
        lines = MetricLines(theirs / METRICS)
        lines.append(1, {"loss": 1.0})
        assert lines.waiting == 1
    finally:
        os.seteuid(0)
    lines.append(2, {"loss": 1.0})
    assert steps(theirs / METRICS) == [1, 2]
    lines.close()


def test_a_file_that_may_not_grow_needs_no_root_to_test(tmp_path):
    """EFBIG, in the middle of a line."""
    path = tmp_path / METRICS
    lines = MetricLines(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for step in range(10):
            lines.append(step, {"loss": 1.0})
        assert path.stat().st_size == 100
        assert lines.waiting > 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lines.append(10, {"loss": 1.0})
    assert steps(path) == list(range(11))
    lines.close()


def test_memory_is_bounded_and_what_it_did_not_hold_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_lines, "MOST_WAITING", 200)
    (tmp_path / METRICS).mkdir()  # nothing can be written there
    lines = MetricLines(tmp_path / METRICS)
    for step in range(10):
        lines.append(step, {"loss": 1.0})
    assert lines.waiting + lines.dropped == 10
    assert 0 < lines.waiting < 5
    (tmp_path / METRICS).rmdir()
    kept = lines.waiting
    lines.append(10, {"loss": 1.0})
    assert steps(tmp_path / METRICS) == [*range(kept), 10]


@pytest.mark.parametrize("torn", [b'{"step": 3, "ti', b'{"step": 3, "time": 1.0, "loss": 2.0}', b"\0" * 100_000])
def test_what_a_killed_process_left_of_a_line_confuses_nobody(tmp_path, torn):
    path = tmp_path / METRICS
    first = MetricLines(path)
    first.append(1, {"loss": 1.0})
    first.append(2, {"loss": 1.0})
    first.close()
    whole = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(torn)
    assert [line.step for _, line in read_lines(path)] == [1, 2]
    assert size_in_lines(path) == whole
    again = MetricLines(path)
    again.append(3, {"loss": 5.0})
    again.close()
    assert steps(path) == [1, 2, 3]


def test_damaged_lines_are_told_apart_from_good_ones(tmp_path):
    path = tmp_path / METRICS
    damaged = [
        "",
        "\0\0\0",
        "[1]",
        '{"step": 1}',
        '{"step": "x", "time": 1.0}',
        '{"step": 1, "time": 1.0, "loss": "low"}',
        "NaN",
    ]
    path.write_text("\n".join([*damaged, '{"step": 1, "time": 1.5, "loss": null}']) + "\n")
    found = [line for _, line in read_lines(path)]
    assert found[:-1] == [None] * len(damaged)
    assert (found[-1].step, found[-1].time_ms) == (1, 1500)
    assert [end for end, _ in read_lines(path)][-1] == path.stat().st_size
    assert list(read_lines(tmp_path / "none")) == []


def test_times_grow_whatever_the_wall_clock_does(tmp_path, monkeypatch):
    clock = iter([1000.0, 1000.0, 5000.0, 2000.0, 2000.5, 4000.0, 4000.0, 6000.0, 1.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    for attempt in range(3):  # the last two are resumed ones, whose clock may be another machine's
        lines = MetricLines(tmp_path / METRICS)
        for step in range(3):
            lines.append(10 * attempt + step, {"loss": 1.0})
        lines.close()
    times = [line.time_ms for _, line in read_lines(tmp_path / METRICS)]
    first, jumped = 1_000_000, 5_000_000
    assert times == [first, first + 1, *range(jumped, jumped + 5), 6_000_000, 6_000_001]
