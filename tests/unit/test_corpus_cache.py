"""The copy of a corpus on a node's own disk: made once whoever comes, verified, mended, and told of when it cannot be."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medclm.data.cache import VERIFIED, cached
from medclm.data.schema import SCHEMA_VERSION
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus

_CACHED = """
import os, sys
from pathlib import Path
from medclm.data.cache import cached
try:
    folder = cached(Path(sys.argv[1]), Path(sys.argv[2]), timeout_s=float(sys.argv[3]))
    print(folder, *sorted(path.stat().st_ino for path in folder.glob("*.arrow")))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
LARGE = 128 << 20


def begin(corpus: Path, cache: Path, timeout_s: float = 60.0) -> subprocess.Popen[str]:
    """A process of its own that wants the copy."""
    command = [sys.executable, "-c", _CACHED, str(corpus), str(cache), str(timeout_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> str:
    told, faults = process.communicate(timeout=120)
    assert process.returncode == 0, faults
    return told


def states(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.arrow")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("corpus") / "small")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, one of 128 MB; nothing but bytes, since a copy does not look into them."""
    folder = tmp_path_factory.mktemp("large")
    entries = []
    for name, size in (("annotations-00000.arrow", 1000), ("images-00000.arrow", LARGE)):
        data = os.urandom(1000) * (size // 1000) + bytes(size % 1000)
        (folder / name).write_bytes(data)
        entry = {"path": name, "kind": name.partition("-")[0], "rows": 1, "bytes": size}
        entries.append(entry | {"sha256": hashlib.sha256(data).hexdigest()})
    manifest = {"schema_version": SCHEMA_VERSION, "files": entries, "domains": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def begin_and_freeze(corpus: Path, cache: Path) -> subprocess.Popen[str]:
    """A process that was stopped in the middle of copying the large file."""
    for _ in range(10):
        process = begin(corpus, cache)
        while process.poll() is None:
            if list(cache.glob("*/.images-*.tmp")):
                process.send_signal(signal.SIGSTOP)
                break
        time.sleep(0.05)
        if process.poll() is None and list(cache.glob("*/.images-*.tmp")):
            return process
        process.send_signal(signal.SIGCONT)  # it had finished: again
        end(process)
        for path in cache.glob("*/*.arrow"):
            path.unlink()
    raise AssertionError("the copy was always too fast to be stopped")


def test_a_copy_is_read_like_the_corpus(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cached(corpus, tmp_path / "disk" / "cache", timeout_s=5)
    assert "data.cache: copying" in capsys.readouterr().out
    assert folder.parent == tmp_path / "disk" / "cache"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()
    copy, first = Corpus(folder, verify=True), Corpus(corpus)
    assert all(copy.row("records", row) == first.row("records", row) for row in range(first.count("records")))
    before = states(folder)
    assert cached(corpus, tmp_path / "disk" / "cache", timeout_s=5) == folder
    assert capsys.readouterr().out == ""
    assert states(folder) == before


def test_what_is_said_of_a_corpus_later_reaches_the_copy(tmp_path: Path) -> None:
    corpus = write_small_corpus(tmp_path / "corpus", 4)
    folder = cached(corpus, tmp_path / "cache", timeout_s=5)
    before = states(folder)
    manifest = json.loads((corpus / "manifest.json").read_text())
    (corpus / "manifest.json").write_text(json.dumps(manifest | {"review": {"state": "reviewed"}}))
    assert cached(corpus, tmp_path / "cache", timeout_s=5) == folder
    assert Corpus(folder).manifest["review"] == {"state": "reviewed"}
    assert states(folder) == before


def test_many_processes_make_one_copy(large: Path, tmp_path: Path) -> None:
    told = [end(process) for process in [begin(large, tmp_path) for _ in range(5)]]
    assert sum("data.cache: copying" in one for one in told) == 1
    last = {one.splitlines()[-1] for one in told}
    assert len(last) == 1, "every process was handed the same files"
    assert last.pop().startswith(str(tmp_path))


@pytest.mark.parametrize("damage", ["shorter", "other bytes", "gone", "other time"])
def test_a_damaged_copy_is_mended(corpus: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cached(corpus, tmp_path, timeout_s=5)
    before, victim = states(folder), folder / "images-00001.arrow"
    data = victim.read_bytes()
    if damage == "shorter":
        victim.write_bytes(data[:-1])
    elif damage == "other bytes":
        victim.write_bytes(data[:-400] + b"?" + data[-399:])
    elif damage == "gone":
        victim.unlink()
    else:
        os.utime(victim)
    capsys.readouterr()
    assert cached(corpus, tmp_path, timeout_s=5) == folder
    assert capsys.readouterr().out.startswith("data.cache: copying 1 of ") == (damage != "other time")
    assert victim.read_bytes() == data
    assert {name for name, state in states(folder).items() if state != before[name]} == {victim.name}
    assert cached(corpus, tmp_path, timeout_s=5) == folder
    assert capsys.readouterr().out == ""


def test_a_copy_without_its_note_is_hashed_once(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cached(corpus, tmp_path, timeout_s=5)
    before, note = states(folder), (folder / VERIFIED).read_text()
    data = (folder / "images-00000.arrow").read_bytes()
    for damaged in (None, "{", note):
        (folder / VERIFIED).unlink() if damaged is None else (folder / VERIFIED).write_text(damaged)
        capsys.readouterr()
        cached(corpus, tmp_path, timeout_s=5)
        assert (states(folder), (folder / VERIFIED).read_text(), capsys.readouterr().out) == (before, note, "")
    # with a note, a file that is as it was is not hashed again: that is what the note is for
    (folder / "images-00000.arrow").write_bytes(data[:-1] + b"?")
    os.utime(folder / "images-00000.arrow", ns=(0, before["images-00000.arrow"][1]))
    cached(corpus, tmp_path, timeout_s=5)
    assert capsys.readouterr().out == ""
    (folder / VERIFIED).unlink()
    cached(corpus, tmp_path, timeout_s=5)
    assert (folder / "images-00000.arrow").read_bytes() == data


def test_a_corpus_that_is_not_whole_is_told_before_anything_is_copied(tmp_path: Path) -> None:
    corpus = write_small_corpus(tmp_path / "corpus", 24)
    (corpus / "records-val-00000.arrow").unlink()
    with pytest.raises(ValueError, match=r"corpus/records-val-00000\.arrow: No such file"):
        cached(corpus, tmp_path / "cache", timeout_s=5)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_corpus_is_not_copied(tmp_path: Path) -> None:
    corpus = write_small_corpus(tmp_path / "corpus", 24)
    data = (corpus / "images-00001.arrow").read_bytes()
    (corpus / "images-00001.arrow").write_bytes(data[:-400] + b"?" + data[-399:])
    with pytest.raises(ValueError, match=r"corpus/images-00001\.arrow: sha256 .* manifest says .*build the corpus again"):
        cached(corpus, tmp_path / "cache", timeout_s=5)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} >= {"images-00000.arrow"}
    assert not (folder / "images-00001.arrow").exists()
    assert not (folder / "manifest.json").exists(), "it cannot be taken for a corpus"
    assert list(folder.glob(".*")) == []
    (corpus / "images-00001.arrow").write_bytes(data)
    Corpus(cached(corpus, tmp_path / "cache", timeout_s=5), verify=True)


def test_a_frozen_copier_is_named_and_a_killed_one_taken_over(large: Path, tmp_path: Path) -> None:
    first = begin_and_freeze(large, tmp_path)
    told = end(begin(large, tmp_path, timeout_s=1.0))
    assert told.startswith(f"RuntimeError: waited 1 s for the copy of {large} in {tmp_path}"), told
    assert f"is held by process {first.pid} on " in told
    assert ", which " in told
    waiting = begin(large, tmp_path)
    time.sleep(0.5)
    assert waiting.poll() is None
    first.kill()
    first.wait()
    told = end(waiting)
    assert "data.cache: copying" in told  # files that were whole already are not among them
    folder = Path(told.splitlines()[-1].split()[0])
    assert (folder / "images-00000.arrow").read_bytes() == (large / "images-00000.arrow").read_bytes()
    assert list(folder.glob(".*")) == []


def test_a_slow_copier_is_waited_for_as_long_as_it_goes_on(corpus: Path, tmp_path: Path) -> None:
    folder = cached(corpus, tmp_path, timeout_s=5)
    lock = tmp_path / f"{folder.name}.lock"
    with lock.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = begin(corpus, tmp_path, timeout_s=5.0)
        for step in range(14):
            time.sleep(0.5)
            lock.write_text(f"process 1 on elsewhere, which copies part {step}")
        assert waiting.poll() is None
    assert end(waiting).startswith(str(folder))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for the large file and a little more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = LARGE + (4 << 20)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_without_room_is_told_before_and_while_copying(large: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(8 << 20))
    told = end(begin(large, small_disk / "cache"))
    assert told.startswith(f"ValueError: data.cache={small_disk / 'cache'}: the corpus needs 0.134 GB there and 0.1"), told
    assert "GB are free: make room, or give data.cache another folder" in told
    ballast.unlink()
    copier = begin_and_freeze(large, small_disk / "cache")
    with contextlib.suppress(OSError):  # full
        ballast.write_bytes(bytes(LARGE + (4 << 20)))
    copier.send_signal(signal.SIGCONT)
    told = end(copier)
    assert "RuntimeError: data.cache: " in told, told
    assert "No space left on device: see to the disk, its room and rights (whole files are kept), or give data.cache" in told
    assert list(small_disk.glob("cache/*/.images*")) == []
    ballast.unlink()
    assert end(begin(large, small_disk / "cache")).splitlines()[-1].startswith(str(small_disk))


def test_a_cache_that_cannot_be_made_is_told(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match=r"data\.cache: .*/file: File exists: see to the disk"):
        cached(corpus, tmp_path / "file", timeout_s=5)
