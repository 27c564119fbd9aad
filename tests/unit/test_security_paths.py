"""Names that climb: whatever an annotation file says, nothing outside the dataset's folder is opened.

Every small dataset and benchmark of the tests gets its pictures' names replaced by ways out, and what Python opens meanwhile is
listened to. The files that the ways lead to exist and are readable, so that only a refusal keeps them shut.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eval.layouts.layout import open_pool
from eval.pages.cases import line_of, read_cases
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.contract import RejectedImage
from medclm.corpus.finalise import EverythingRejected
from medclm.corpus.ids import KEY_VARIABLE, phantom_ids
from medclm.corpus.pixels import read_picture
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.sources.registry import open_source
from medclm.corpus.volumes.files import open_volume
from medclm.corpus.writers.template import TemplateWriter
from tests import bombs
from tests.evaluations import case
from tests.source_files import coco, lesion, options, picture, reasons
from tests.unit import layout_fixtures, layout_fixtures_reports, test_sources_malformed
from tests.unit.test_exchange_command import FILES, run

_HEARD: list[list[str]] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _HEARD and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        name = arguments[0]
        _HEARD[-1].append(name.decode(errors="replace") if isinstance(name, bytes) else name)


@contextmanager
def opened() -> Iterator[list[str]]:
    """Real paths that are opened or listed meanwhile."""
    if not hasattr(sys, "_medclm_listens"):
        sys.addaudithook(_listen)  # it cannot be taken away again
        sys._medclm_listens = True  # type: ignore[attr-defined]
    heard: list[str] = []
    _HEARD.append(heard)
    try:
        yield heard
    finally:
        _HEARD.remove(heard)
        heard[:] = [str(Path(name).resolve()) for name in heard]


def secrets(tmp_path: Path) -> Path:
    """A folder for a dataset; pictures, texts and masks named `secret` lie in all folders above it."""
    home = tmp_path / "a" / "b" / "set"
    home.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        for name in ("secret", "secret.png", "secret.jpg", "secret.dcm", "secret.png.png"):
            picture(folder / name, format="PNG")
        for name in ("secret.txt", "secret.xml", "secret.json", "secret.csv"):
            (folder / name).write_text("a secret")
        picture(folder / "secrets" / "lung_left.png")
    return home


def ways_out(tmp_path: Path) -> list[str]:
    climbing = [f"{'../' * steps}secret{ending}" for steps in (1, 2, 3) for ending in ("", ".png")]
    absolute = [str(tmp_path / "secret.png"), f"/{tmp_path / 'secret'}", f"file://{tmp_path}/secret.png"]
    return [*climbing, "x/../../secret.png", "./../secret.png", "..\\\\secret.png", "~/secret.png", *absolute, "C:/secret.png"]


def planted(content: str, names: Sequence[str], way: str) -> str:
    """The text with every name of a picture replaced, with the folders before it."""
    found = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w/.-])(?:[\w.-]+/)*(?:{found})(?![\w-])", lambda _: way, content)


def picture_names(root: Path) -> list[str]:
    """Names under which files may know the pictures below a folder: their paths from any folder on, with ending and without."""
    found = set()
    for path in root.rglob("*"):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            parts = path.relative_to(root).parts
            for first in range(len(parts)):
                name = "/".join(parts[first:])
                found |= {name, name.rpartition(".")[0], name.replace("/", "_")}
    return sorted(name for name in found if len(name) > 1 or name in "ab")


def read_source(kind: str, made: test_sources_malformed.Made) -> list[str]:
    """Every record of a dataset; reasons of what was refused."""
    try:
        source = open_source(kind, made.annotations, made.image_root, options(**made.declared))
    except ValueError:
        return ["refused"]
    found = [reject.reason for reject in source.rejects]
    for index in range(len(source)):
        try:
            found += [reject.reason for reject in source.read(index).rejects]
        except RejectedImage as rejection:
            found.append(rejection.reason)
    return found


def read_benchmark(data: Path, split: str, layout: str) -> list[str]:
    """As `read_source`."""
    try:
        pool = open_pool(data, split, layout=layout)
    except ValueError:
        return ["refused"]
    for example in pool.asked:
        if pool.pictures is not None:
            try:
                pool.pictures.open(example.picture)
            except ValueError:
                return ["refused"]
    return ["refused"] if pool.left_out or pool.pictures is None else []


def _benchmarks() -> dict[str, Callable[[Path], tuple[Path, str, str, tuple[Path, ...]]]]:
    def question(make: Callable[[Path], layout_fixtures.Fixture]) -> Callable[[Path], Any]:
        def made(root: Path) -> Any:
            one = make(root)
            return one.data, one.split, one.layout, one.files

        return made

    def report(make: Callable[[Path], layout_fixtures_reports.Made]) -> Callable[[Path], Any]:
        def made(root: Path) -> Any:
            one = make(root)
            return one.data, one.split, one.layout, one.texts

        return made

    return {
        **{name: question(make) for name, make in layout_fixtures.FIXTURES.items()},
        **{name: report(make) for name, make in layout_fixtures_reports.MAKERS.items()},
    }


NAMELESS = {
    "yolo": "pictures are named as the label files; `path:` of its YAML is not read",
    "voc": "pictures are named as the XML files; `<filename>` only chooses among several",
}


def texts_of(files: Sequence[Path]) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in files if path.suffix != ".parquet"}


def check(tmp_path: Path, home: Path, files: Sequence[Path], read: Callable[[], list[str]], *, named: bool) -> None:
    """Plants every way out in the files, and reads."""
    valid, names = texts_of(files), picture_names(home)
    changed = 0
    for way in ways_out(tmp_path):
        for path, content in valid.items():
            written = planted(content, names if named else [*names, "x"], way)
            changed += written != content
            path.write_text(written, encoding="utf-8")
        with opened() as heard:
            refused = read()
        outside = [name for name in heard if "secret" in Path(name).name]
        assert not outside, f"{way} opened {outside}"
        assert refused or not named, f"{way} was neither opened nor refused"
        for path, content in valid.items():
            path.write_text(content, encoding="utf-8")
    assert changed, "nothing was planted"


@pytest.mark.parametrize("case", sorted(test_sources_malformed.MAKERS))
def test_a_source_opens_nothing_outside_its_folder(case: str, tmp_path: Path) -> None:
    kind, make = test_sources_malformed.MAKERS[case]
    home = secrets(tmp_path)
    made = make(home)
    check(tmp_path, home, made.texts, lambda: read_source(kind, made), named=kind not in NAMELESS)


@pytest.mark.parametrize("case", sorted(_benchmarks()))
def test_a_benchmark_opens_nothing_outside_its_folder(case: str, tmp_path: Path) -> None:
    home = secrets(tmp_path)
    data, split, layout, files = _benchmarks()[case](home)
    if not texts_of(files):
        return  # pictures are in the file itself, and have no names
    check(tmp_path, home, files, lambda: read_benchmark(data, split, layout), named=True)


@pytest.mark.parametrize("way", ["../secrets", "/etc", "x/../../secrets", "..\\secrets"])
def test_organ_masks_stay_below_their_root(way: str, tmp_path: Path) -> None:
    home = secrets(tmp_path)
    declared = options(organs=("*={organs}", "lung right={organs}/lung_left.png"))
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30, "organs": way}
    source = coco(home, [lesion()], [image], declared)
    with opened() as heard:
        found = source.read(0)
    assert set(reasons(found)) <= {"path_outside_root", "organ_mask_missing"}  # a backslash beside a slash is a letter
    assert reasons(found)[0] == "path_outside_root"
    assert not found.organs
    assert not [name for name in heard if "secrets" in name or name.startswith("/etc")]
    entry = {"image_path": "images/a.png", "anatomy_path": way, "annotations": []}
    (home / "published.json").write_text(json.dumps([entry]))
    published = open_source("detection_json", home / "published.json", home, options())
    assert reasons(published.read(0)) == ["path_outside_root"]


@pytest.mark.parametrize("way", ["../secret.png", "/etc/passwd", "..\\secret.png", "a/../../secret.png", "sub/b.raw"])
def test_a_published_entry_and_a_volume_header_stay_in_their_folder(way: str, tmp_path: Path) -> None:
    home = secrets(tmp_path)
    (home / "published.json").write_text(json.dumps([{"image_path": way, "annotations": []}]))
    assert read_source("detection_json", test_sources_malformed.Made(home / "published.json", home, ())) == [
        "image_missing" if way == "sub/b.raw" else "path_outside_root"
    ]
    header = bombs.metaimage(home / "a.mhd", 10, held=1 << 24).read_bytes().partition(b"ElementDataFile")[0]
    (home / "a.mhd").write_bytes(header + f"ElementDataFile = {way}\n".encode())
    nrrd = bombs.nrrd(home / "a.nhdr", 10, held=1 << 24).read_bytes().partition(b"\n\n")[0]
    (home / "a.nhdr").write_bytes(nrrd + f"\ndata file: {way}\n\n".encode())
    for name in ("a.mhd", "a.nhdr"):
        with pytest.raises(RejectedImage, match="volume_data_elsewhere"):
            open_volume(home / name)


@pytest.mark.parametrize("form", ["published", "llava", "sharegpt", "ms-swift"])
def test_an_import_opens_nothing_outside_its_folder(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "0123456789abcdef")
    home = secrets(tmp_path)
    built = BuildOptions(ids=phantom_ids(0), progress=False)
    build(PhantomSource(count=3, size=64), TemplateWriter(), home / "corpus", built)
    assert run("export", home / "corpus", "--format", form, "--out", home / "out", "--split", "train") == 0
    file = home / "out" / FILES[form]
    content = file.read_text(encoding="utf-8")
    for way in ("../../secret.png", "/etc/passwd", "..\\\\..\\\\secret.png"):
        written = re.sub(r'"images/[^"]+"', lambda _, way=way: f'"{way}"', content)  # type: ignore[misc]
        assert written != content
        file.write_text(written, encoding="utf-8")
        with opened() as heard, pytest.raises(EverythingRejected, match="path_outside_root"):
            run("import", file, "--format", form, "--out", home / "back")
        assert not [name for name in heard if "secret" in Path(name).name or name == "/etc/passwd"]


def test_a_page_of_an_evaluation_shows_no_picture_of_elsewhere(tmp_path: Path) -> None:
    home = secrets(tmp_path)
    line = line_of(case()) | {"picture": "../../secret.png"}
    (home / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"predictions\.jsonl:1: not a case .*picture"):
        read_cases(home)


def test_the_listening_hears(tmp_path: Path) -> None:
    secrets(tmp_path)
    with opened() as heard:
        read_picture(tmp_path / "a" / ".." / "secret.png")
    assert str((tmp_path / "secret.png").resolve()) in heard
