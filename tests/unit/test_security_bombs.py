"""Bombs from strangers: small files that would fill the memory are refused by name, and before they do.

All are read in one process of their own, whose peak is set back before each, so that one number belongs to one file.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import bombs

ROOT = Path(__file__).resolve().parents[2]
GIB, MIB = 1 << 30, 1 << 20
MOST_MIB = 512
"""What refusing a bomb may take; each would take thousands."""
LARGEST_FILE = 40 * MIB


def readers() -> dict[str, Callable[[Path], Any]]:
    """What opens files of strangers."""
    from eval.layouts import parquet
    from medclm.corpus.dicom.reading import read_frame, read_header
    from medclm.corpus.pixels import read_picture
    from medclm.corpus.sources.lenient_json import read_json
    from medclm.corpus.sources.tables import read_table, read_text
    from medclm.corpus.sources.voc import _parse
    from medclm.corpus.sources.xml_file import read_xml
    from medclm.corpus.sources.yolo_names import read_names_file
    from medclm.corpus.volumes.files import open_volume

    parquet.MAX_GROUP = 128 * MIB
    return {
        "picture": read_picture,
        "volume": lambda path: open_volume(path).read(),
        "dicom": read_header,
        "dicom frame": lambda path: read_frame(path, 0),
        "table": lambda path: read_table(path, ["image"]),
        "text": read_text,
        "json": read_json,
        "xml": lambda path: read_xml(path, "annotation"),
        "voc": _parse,
        "yaml": read_names_file,
        "parquet rows": lambda path: list(parquet.parquet_rows(path, ["question"])),
        "parquet picture": lambda path: parquet.ParquetPictures([path]).open(f"{path.name}/1"),
    }


BOMBS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "png of 3.6 gigapixels": ("picture", lambda at: bombs.png(at / "a.png", 60_000, 60_000), "image_too_large"),
    "png with a packed text": ("picture", lambda at: bombs.png(at / "b.png", 8, 8, text=bytes(256 * MIB)), "image_unreadable"),
    "webp canvas": ("picture", lambda at: bombs.webp(at / "a.webp"), "image_too_large"),
    "gif screen": ("picture", lambda at: bombs.gif(at / "a.gif"), "image_too_large"),
    "tiff strip": ("picture", lambda at: bombs.tiff(at / "a.tif"), "image_too_large"),
    "jpeg 2000 that lies": ("picture", lambda at: bombs.jp2(at / "a.jp2"), "image_truncated"),
    "nifti of eight billion voxels": (
        "volume",
        lambda at: bombs.nifti(at / "a.nii.gz", (2000, 2000, 2000), held=64 * MIB),
        "volume_too_large",
    ),
    "metaimage that goes on": ("volume", lambda at: bombs.metaimage(at / "a.mha", 10, held=GIB), "volume_unreadable"),
    "metaimage that is short": ("volume", lambda at: bombs.metaimage(at / "b.mha", 700, held=16 * MIB), "volume_truncated"),
    "nrrd of eight billion voxels": ("volume", lambda at: bombs.nrrd(at / "a.nrrd", 2000, held=16 * MIB), "volume_too_large"),
    "deflated dicom": ("dicom", lambda at: bombs.deflated_dicom(at / "a.dcm", GIB), "image_too_large"),
    "dicom element with holes": ("dicom", lambda at: bombs.sparse_dicom(at / "b.dcm", 3 * GIB), "image_too_large"),
    "dicom frame with holes": ("dicom frame", lambda at: bombs.sparse_frame(at / "c.dcm", 3 * GIB), "image_too_large"),
    "packed table": ("table", lambda at: bombs.packed_text(at / "a.csv.gz", GIB), "it unpacks to more than"),
    "text with holes": ("text", lambda at: bombs.sparse_text(at / "a.txt", 3 * GIB), "more than 1073741824 bytes"),
    "json with holes": ("json", lambda at: bombs.sparse_text(at / "a.json", 3 * GIB), "more than 1073741824 bytes"),
    "deep json": ("json", lambda at: bombs.deep_json(at / "b.json", 1_000_000), "too deep"),
    "deep xml": ("xml", lambda at: bombs.deep_xml(at / "a.xml", 6_000_000), "more than 5000000 tags"),
    "wide xml": ("xml", lambda at: bombs.wide_xml(at / "b.xml", 8_000_000), "more than 5000000 tags"),
    "xml of entities": ("xml", lambda at: bombs.entities_xml(at / "c.xml"), "DTDForbidden"),
    "xml with holes": ("xml", lambda at: bombs.sparse_text(at / "d.xml", 3 * GIB), "more than 536870912 bytes"),
    "deep voc": ("voc", lambda at: bombs.deep_xml(at / "e.xml", 6_000_000), "xml_too_large"),
    "yaml of references": ("yaml", lambda at: bombs.aliases_yaml(at / "a.yaml"), "expected a class number"),
    "deep yaml": ("yaml", lambda at: bombs.deep_json(at / "b.yaml", 100_000), "not YAML that can be read"),
    "yaml with holes": ("yaml", lambda at: bombs.sparse_text(at / "c.yaml", 3 * GIB), "more than 1048576 bytes"),
    "parquet of one long question": (
        "parquet rows",
        lambda at: bombs.repeated_parquet(at / "a.parquet"),
        "a text of more than",
    ),
    "parquet of one picture": ("parquet picture", lambda at: bombs.repeated_parquet(at / "b.parquet"), "a row group of more"),
    "parquet of zeros": ("parquet picture", lambda at: bombs.packed_parquet(at / "c.parquet"), "a row group of more"),
}
"""What it is -> reader, how it is made, words of the refusal."""


def peak_mib() -> int:
    """Most memory of this process since it was last set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def defuse(folder: Path) -> dict[str, Any]:
    """Makes and reads every bomb -> {name: [size of the file on the disk, MiB taken, what was raised]}."""
    found, opened = {}, readers()
    for name, (reader, make, _) in BOMBS.items():
        path = make(folder)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mib()
        try:
            raised = f"nothing: {type(opened[reader](path)).__name__}"
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
        found[name] = path.stat().st_blocks * 512, peak_mib() - before, raised
        path.unlink()
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bombs")
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc to measure memory")
    code = (
        "import json, pathlib, resource, sys; from tests.unit.test_security_bombs import defuse;"
        "resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30)); print(json.dumps(defuse(pathlib.Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_name_and_within_memory(name: str, outcomes: dict[str, Any]) -> None:
    size, mib, raised = outcomes[name]
    assert size < LARGEST_FILE
    assert raised.startswith(("RejectedImage", "ValueError")), raised
    assert BOMBS[name][2] in raised, raised
    assert mib < MOST_MIB, f"{mib} MiB for {raised}"
