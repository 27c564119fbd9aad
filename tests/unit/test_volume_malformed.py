"""200 damaged files: each ends in a named reject, a message to the user or a picture; never in another error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.luna import LunaSource
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.volume import VolumeSource
from medclm.corpus.volumes.slices import SliceSource
from medclm.draws import generator

KINDS = ("nii", "nii.gz", "mhd", "nrrd", "csv")
EACH = 40


def write_volume(path: Path, values: np.ndarray) -> Path:
    """The file whose bytes are damaged: its header where that stands alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.name.partition(".")[2]
    if kind.startswith("nii"):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
        return path
    sizes, type_name = " ".join(map(str, values.shape)), "SHORT" if values.dtype == np.int16 else "UCHAR"
    if kind == "mhd":
        lines = f"NDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 2\nDimSize = {sizes}\n"
        path.write_text(f"{lines}ElementType = MET_{type_name}\nElementDataFile = {path.stem}.raw\n")
        path.with_suffix(".raw").write_bytes(values.tobytes(order="F"))
        return path
    head = f"NRRD0004\ntype: {type_name.lower()}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,2)\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    path.write_bytes(head.encode() + values.tobytes(order="F"))
    return path


def damaged(raw: bytes, draw: np.random.Generator) -> bytes:
    """Cut short, or up to eight bytes changed, most of them where headers are."""
    if draw.random() < 0.3:
        return raw[: int(draw.integers(len(raw)))]
    changed = bytearray(raw)
    for _ in range(int(draw.integers(1, 9))):
        place = int(draw.integers(min(len(raw), 400) if draw.random() < 0.8 else len(raw)))
        changed[place] = int(draw.integers(256))
    return bytes(changed)


def contents(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.integers(-900, 100, (16, 14, 12)).astype(np.int16)
    labels = np.zeros((16, 14, 12), np.uint8)
    labels[3:9, 3:9, 1:11] = 1
    return values, labels


def outcomes(source: SliceSource) -> Counter[str]:
    found = Counter(f"reject {reject.reason}" for reject in source.rejects)
    assert all(reject.reason and reject.detail for reject in source.rejects)
    for index in range(len(source)):
        try:
            image = source.read(index)
        except RejectedImage as rejection:
            found[f"reject {rejection.reason}"] += 1
        else:
            assert image.pixels.dtype == np.uint8
            found["picture"] += 1
    return found


def judge(kind: str, folder: Path, draw: np.random.Generator) -> Counter[str]:
    values, labels = contents(0)
    options = SourceOptions(name="x", modality="CT", lesions=() if kind == "csv" else ("lung nodule",), slices=1)
    if kind == "csv":
        write_volume(folder / "scans" / "s.mhd", values)
        table = folder / "annotations.csv"
        rows = "".join(f"s,{x},6,8,{5 + x}\n" for x in range(4, 10))
        table.write_bytes(damaged(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n{rows}".encode(), draw))
        try:
            return outcomes(LunaSource(table, folder / "scans", options))
        except ValueError as error:
            return Counter({"told": 1} if str(folder) in str(error) else {"told without naming the file": 1})
    files = [write_volume(folder / part / f"a.{kind}", one) for part, one in (("images", values), ("labels", labels))]
    for part, one in (("images", values), ("labels", labels)):
        write_volume(folder / part / f"b.{kind}", one)
    chosen = files[int(draw.integers(2))]
    chosen.write_bytes(damaged(chosen.read_bytes(), draw))
    found = outcomes(VolumeSource(folder / "labels", folder / "images", options))
    assert found["picture"] >= 2, "the intact pair gives its two pictures"
    return found - Counter(picture=2)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_a_named_reject_or_a_picture(kind: str, tmp_path: Path) -> None:
    total: Counter[str] = Counter()
    for number in range(EACH):
        found = judge(kind, tmp_path / str(number), generator(5, f"damaged {kind} {number}"))
        assert found, "something is always said"
        assert "told without naming the file" not in found
        total += found
    assert sum(count for name, count in total.items() if name.startswith("reject") or name == "told") >= EACH // 4, total
