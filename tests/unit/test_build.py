"""Building: the same bytes however the work is cut, nothing lost by a kill, nothing half-made, no raw id, no leak."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import medclm.corpus.finalise as finalising
from medclm.corpus.build import BuildOptions, build, dry_run
from medclm.corpus.contract import RejectedImage, SourceAnnotation, SourceImage
from medclm.corpus.finalise import EverythingRejected
from medclm.corpus.ids import Ids, load_ids, phantom_ids
from medclm.corpus.report.rejects import rejects_of
from medclm.corpus.report.summary import summarise
from medclm.corpus.report.text import text_report
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.splits import SplitRule
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.shards import Corpus
from medclm.types import Box

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT.parent / "shared" / "checks" / "recheck_corpus.py"
KEY = Ids(b"0123456789abcdef")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


class Squares:
    """Pictures with one bright square each, two per patient; picture i is all its own."""

    name = "squares"
    rejects = ()

    def __init__(self, count: int, *, refused: tuple[int, ...] = (), lesion_class: str = "mass", **stated: object) -> None:
        self.count, self.refused, self.lesion_class, self.stated = count, refused, lesion_class, stated

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> SourceImage:
        if index in self.refused:
            raise RejectedImage("image_unreadable", "not a picture: replace it")
        pixels = np.full((48, 64), 40, np.uint8)
        left = 4 + index % 40
        pixels[10:26, left : left + 16] = 200
        lesion = SourceAnnotation("annotations[0]", self.lesion_class, self.lesion_class, Box(left, 10, left + 16, 26))
        fields = {"patient": f"SECRET-patient-{index // 2}", "study": "SECRET-study", "modality": "CT", "licence": "CC BY 4.0"}
        fields |= {"label_scope": (self.lesion_class,), "attributes": {"sex": "F", "name": "SECRET-name"}}
        fields |= {name: value(index) if callable(value) else value for name, value in self.stated.items()}
        return SourceImage(
            index=f"images[{index}]",
            key=fields.pop("key", f"SECRET-{index}.png"),
            pixels=pixels,
            source=self.name,
            shareable=True,
            annotations=(lesion,),
            **fields,
        )


def options(**changes: object) -> BuildOptions:
    return BuildOptions(**{"ids": KEY, "images_per_part": 4, "progress": False, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build") / "phantoms"
    build(PhantomSource(count=40, size=64), TemplateWriter(), out, options(ids=phantom_ids(0)))
    return out


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build") / "squares"
    build(Squares(20, refused=(3,)), TemplateWriter(), out, options())
    return out


@pytest.mark.parametrize(("workers", "images_per_part"), [(2, 7), (4, 3), (1, 64)])
def test_any_cut_of_the_work_gives_the_same_bytes(phantoms: Path, tmp_path: Path, workers: int, images_per_part: int) -> None:
    some = options(ids=phantom_ids(0), workers=workers, images_per_part=images_per_part)
    build(PhantomSource(count=40, size=64), TemplateWriter(), tmp_path / "out", some)
    assert digests(tmp_path / "out") == digests(phantoms)
    assert not (tmp_path / "out" / ".parts").exists()


@pytest.mark.skipif(not CHECKS.exists(), reason=f"needs {CHECKS}")
@pytest.mark.parametrize("name", ["phantoms", "squares"])
def test_an_independent_reader_finds_no_fault(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    done = subprocess.run([sys.executable, str(CHECKS), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().endswith(" 0 failed")


def test_splits_and_pairs_do_not_leak(phantoms: Path) -> None:
    corpus = Corpus(phantoms, verify=True)
    patients = [row["patient"] for batch in corpus.scan("images", ["patient"]) for row in batch.to_pylist()]
    split_of: dict[str, set[str]] = defaultdict(set)
    seen = 0
    for batch in corpus.scan("records", ["split", "image_row", "hard_image_row", "question_hard"]):
        for row in batch.to_pylist():
            split_of[patients[row["image_row"]]].add(row["split"])
            if row["hard_image_row"] >= 0:
                split_of[patients[row["hard_image_row"]]].add(row["split"])
                assert patients[row["hard_image_row"]] != patients[row["image_row"]]
                seen += 1
            assert (row["question_hard"] is None) == (row["hard_image_row"] < 0)
    assert seen > 20
    assert {len(splits) for splits in split_of.values()} == {1}
    assert set.union(*split_of.values()) == {"train", "val", "test"}


def test_images_lie_in_order_of_first_use(phantoms: Path) -> None:
    corpus = Corpus(phantoms)
    used: list[int] = []
    for split in ("train", "val", "test"):
        for batch in corpus.scan("records", ["image_row", "hard_image_row"], split):
            used += [row for pair in zip(*batch.to_pydict().values(), strict=True) for row in pair if row >= 0]
    assert list(dict.fromkeys(used)) == list(range(corpus.count("images")))
    rows = [row for batch in corpus.scan("annotations", ["image_row"]) for row in batch["image_row"].to_pylist()]
    assert rows == sorted(rows)


def test_no_raw_id_is_stored(squares: Path) -> None:
    for path in squares.rglob("*"):
        assert b"SECRET" not in path.read_bytes(), path.name
    image = Corpus(squares).row("images", 0)
    assert json.loads(image["attributes"]) == {"sex": "F"}
    assert len(image["patient"]) == 32
    assert image["study"] is not None


def test_a_refused_image_is_counted_and_the_rest_goes_on(squares: Path) -> None:
    corpus = Corpus(squares)
    assert rejects_of(corpus) == [{"index": "images[3]", "reason": "image_unreadable", "detail": "not a picture: replace it"}]
    assert corpus.manifest["rejects"] == {"image_unreadable": 1}
    assert corpus.count("images") == 19
    assert "image_unreadable" in text_report(corpus)


def test_the_manifest_says_what_the_corpus_is(squares: Path) -> None:
    manifest = Corpus(squares).manifest
    assert manifest["licence"] == "CC BY 4.0"
    assert manifest["sources"]["squares"]["label_scope"] == ["mass"]
    assert manifest["splits"]["rule"] == "official"
    assert sum(manifest["splits"]["counts"].values()) == Corpus(squares).count("records")
    assert [entry["name"] for entry in manifest["domains"]] == ["mass / CT"]
    assert sum(manifest["domains"][0]["counts"].values()) == Corpus(squares).count("records")
    assert {"medclm", "pyarrow", "python"} <= manifest["versions"].keys()
    assert manifest["builder"]["writer"] == "template"


_SLOW_BUILD = """
import sys, time
from pathlib import Path
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
build(PhantomSource(count=40, size=64), TemplateWriter(), Path(sys.argv[1]),
      BuildOptions(ids=phantom_ids(0), images_per_part=4, progress=False))
"""


def test_a_killed_build_goes_on_where_it_was(phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", _SLOW_BUILD, str(out)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(out.glob(".parts/part-*.arrow"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.glob(".parts/part-*.arrow")}
    assert 2 <= len(kept) < 10
    assert not (out / "manifest.json").exists()
    with pytest.raises(ValueError, match="rerun the same build"):
        Corpus(out)
    removed = []
    finish = finalising._publish

    def look(staging: Path, folder: Path) -> None:
        removed.append({path: path.stat().st_mtime_ns for path in kept})
        finish(staging, folder)

    finalising._publish = look
    try:
        build(PhantomSource(count=40, size=64), TemplateWriter(), out, options(ids=phantom_ids(0)))
    finally:
        finalising._publish = finish
    assert removed == [kept]  # finished parts were not built again
    assert digests(out) == digests(phantoms)


def test_a_kill_while_the_corpus_moves_out_leaves_no_corpus(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, moves = tmp_path / "out", []

    def failing(source: Path, target: Path) -> None:
        if Path(target).parent == out:
            moves.append(target)
            if len(moves) == 3:
                raise KeyboardInterrupt
        real(source, target)

    real = os.replace
    monkeypatch.setattr(finalising.os, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        build(Squares(20, refused=(3,)), TemplateWriter(), out, options())
    monkeypatch.undo()
    assert list(out.glob("*.arrow"))
    with pytest.raises(ValueError, match="not a finished corpus"):
        Corpus(out)
    (out / "records-train-00007.arrow").write_bytes(b"left by another rule")
    build(Squares(20, refused=(3,)), TemplateWriter(), out, options())
    assert digests(out) == digests(squares)


_DYING = """
import os, signal, sys
from pathlib import Path
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter

class Dying(PhantomSource):
    def read(self, index):
        if index == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)

if __name__ == "__main__":
    try:
        build(Dying(count=16, size=64), TemplateWriter(), Path(sys.argv[1]),
              BuildOptions(ids=phantom_ids(0), images_per_part=2, progress=False, workers=2))
    except RuntimeError as error:
        print(error)
"""


def test_a_worker_that_dies_ends_the_build_with_a_message(tmp_path: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(_DYING)
    run = [sys.executable, str(script), str(tmp_path / "out")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "a worker process died" in done.stdout, done.stderr
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out" / ".parts").glob("part-*.arrow"))


def test_the_folder_must_be_empty_or_of_the_same_build(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already holds a corpus"):
        build(Squares(20), TemplateWriter(), squares, options())
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"):
        build(Squares(20), TemplateWriter(), tmp_path / "used", options())
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["thesis.txt"]
    # a rule that cannot be met ends the build; the parts are kept and another rule goes on
    with pytest.raises(ValueError, match="--split given: 10 of 10 patients state no split"):
        build(Squares(20), TemplateWriter(), tmp_path / "out", options(split=SplitRule(rule="given")))
    with pytest.raises(ValueError, match="unfinished build with another seed"):
        build(Squares(20), TemplateWriter(), tmp_path / "out", options(seed=1))
    with pytest.raises(ValueError, match="unfinished build with another source"):
        build(Squares(20), TemplateWriter(), tmp_path / "out", options(identity="other paths"))
    build(Squares(20), TemplateWriter(), tmp_path / "out", options())
    assert Corpus(tmp_path / "out").count("records") > 0


def test_nothing_stays_behind_when_everything_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(EverythingRejected, match=r"6 +image_unreadable \(first: images\[0\]: not a picture: replace it\)"):
        build(Squares(6, refused=tuple(range(6))), TemplateWriter(), tmp_path / "out", options())
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="has no images"):
        build(Squares(0), TemplateWriter(), tmp_path / "out", options())


def test_a_program_error_names_the_image(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"source squares, images\[2\]: ZeroDivisionError"):
        build(Squares(5, modality=lambda index: 1 // (index - 2) and "CT"), TemplateWriter(), tmp_path / "out", options())


def test_images_with_one_id_enter_once(tmp_path: Path) -> None:
    report = build(
        Squares(8, key=lambda index: f"k{index % 5}"), TemplateWriter(), tmp_path / "out", options(images_per_part=3)
    )
    assert report.rejects == {"image_duplicate": 3}
    assert [reject["index"] for reject in rejects_of(Corpus(tmp_path / "out"))] == ["images[5]", "images[6]", "images[7]"]


def test_an_official_split_and_a_fold(tmp_path: Path) -> None:
    official = Squares(12, official_split=lambda index: ("train", "test", "val")[index // 2 % 3])
    assert build(official, TemplateWriter(), tmp_path / "a", options()).records.keys() == {"train", "val", "test"}
    report = build(Squares(8), TemplateWriter(), tmp_path / "b", options(split=SplitRule(fold=(2, 4))))
    assert Corpus(tmp_path / "b").manifest["splits"]["fold"] == "2/4"
    assert summarise(Corpus(tmp_path / "b")).patients == {"train": 2, "val": 1, "test": 1}
    assert min(report.records.values()) > 0


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    found = dry_run(Squares(200), TemplateWriter(), options())
    assert (found.images, found.of) == (20, 200)
    assert found.estimate == 10 * len(found.drafts)
    assert found.stages["easy"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_the_ids_is_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDCLM_ID_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    corpus, key = tmp_path / "corpus", tmp_path / "keys" / "id.key"
    made = load_ids(key, corpus)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert load_ids(key, corpus) == made
    assert load_ids(None, corpus) != made
    assert (tmp_path / "config" / "medclm" / "id.key").exists()
    with pytest.raises(ValueError, match="inside the corpus folder"):
        load_ids(corpus / "id.key", corpus)
    key.chmod(0o640)
    with pytest.raises(ValueError, match="mode 0640 lets others read the key: chmod 600"):
        load_ids(key, corpus)
    monkeypatch.setenv("MEDCLM_ID_KEY", "short")
    with pytest.raises(ValueError, match="MEDCLM_ID_KEY: the key has 5 bytes"):
        load_ids(None, corpus)
    monkeypatch.setenv("MEDCLM_ID_KEY", "long enough for a key")
    assert load_ids(None, corpus) == load_ids(None, tmp_path)


@pytest.fixture(scope="module")
def command() -> ModuleType:
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("launch_corpus", ROOT / "launch" / "corpus.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def test_the_command_line(command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    made = ["phantoms", "--count", "12", "--size", "64", "--workers", "1", "--out", out]
    assert command.main([*made, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not Path(out).exists()
    assert command.main(made) == 0
    assert "report.html" in capsys.readouterr().out
    assert command.main(["inspect", out, "--records", "2", "--verify"]) == 0
    assert "stages offered" in capsys.readouterr().out
    assert command.main(made) == 2
    assert "already holds a corpus" in capsys.readouterr().err
    assert command.main(["inspect", str(tmp_path)]) == 2
    assert command.main(["build", "--source", "coco", "--out", str(tmp_path / "no")]) == 2
    assert "--source coco needs --annotations" in capsys.readouterr().err
    assert command.main([*made[:-1], str(tmp_path / "no"), "--split-fold", "5/4"]) == 2
    assert "--split-fold 5/4" in capsys.readouterr().err


def test_the_command_line_says_when_everything_was_rejected(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCLM_ID_KEY", "0123456789abcdef")
    images = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in range(3)]
    coco = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "mass"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    flags = ["--source", "coco", "--annotations", str(tmp_path / "boxes.json"), "--image-root", str(tmp_path), "--workers", "1"]
    assert command.main(["build", *flags, "--out", str(tmp_path / "out")]) == 3
    assert "3  image_missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_patient_may_stand_in_the_name_alone(tmp_path: Path) -> None:
    def named(index: int) -> str:
        return f"pat{index // 4:02d}_{index}.png" if index != 3 else "other.png"

    made = build(
        Squares(20, patient=None, key=named), TemplateWriter(), tmp_path / "out", options(patient_pattern=r"(pat\d+)_")
    )
    corpus = Corpus(tmp_path / "out")
    assert len({corpus.row("images", row)["patient"] for row in range(corpus.count("images"))}) == 5
    assert made.rejects["patient_unknown"] == 1
    for pattern, message in (("pat", "give one group"), ("(a)(b)", "give one group"), ("(", "not a regular expression")):
        with pytest.raises(ValueError, match=message):
            options(patient_pattern=pattern)


def test_processes_that_need_a_key_at_once_get_the_same_one(tmp_path: Path) -> None:
    for attempt in range(5):
        key = tmp_path / f"key{attempt}"
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _, key=key: load_ids(key, tmp_path / "corpus"), range(8)))
        assert len({ids.fingerprint for ids in found}) == 1
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
